"""The prompts: many, of four kinds, the same everywhere; those held out share no subject with the rest."""

from itertools import islice

import pytest

from unhosted.node.shell.calibrating import prompt_texts
from unhosted.node.shell.calibrating.answers import FILTERS, TEMPERATURES, asks
from unhosted.node.shell.calibrating.prompts import (
    KINDS,
    LONG_CHARS_MIN,
    PARTS,
    Part,
    Prompt,
    PromptKind,
    prompts,
)


def of(kind: PromptKind, part: Part, count: int = 40) -> tuple[Prompt, ...]:
    return prompts(kind, part, count, 7)


def test_there_are_hundreds_of_distinct_prompts() -> None:
    everything = [prompt for kind in KINDS for part in PARTS for prompt in of(kind, part)]
    assert len(everything) == 320
    assert len({prompt.messages for prompt in everything}) == len({one.name for one in everything}) == 320


def test_a_draw_is_the_same_again_and_another_one_differs() -> None:
    assert of("chat", "fit") == of("chat", "fit")
    assert of("chat", "fit") != prompts("chat", "fit", 40, 8)


@pytest.mark.parametrize(
    ("kind", "subjects"),
    [
        ("chat", prompt_texts.SUBJECTS),
        ("code", prompt_texts.TASKS),
        ("multilingual", tuple(thing for _, _, things in prompt_texts.FOREIGN for thing in things)),
        ("long", prompt_texts.PLACES),
    ],
)
def test_no_subject_is_fitted_on_and_judged_by(kind: PromptKind, subjects: tuple[str, ...]) -> None:
    def named(part: Part) -> set[str]:
        words = "\n".join(prompt.messages[-1].content for prompt in of(kind, part))
        return {subject for subject in subjects if subject in words}

    fitted, held_out = named("fit"), named("held-out")
    # A short subject may be part of a longer one of its language.
    inside = {one for one in fitted & held_out if any(one != other and one in other for other in subjects)}
    assert fitted and held_out and fitted & held_out == inside


def test_long_contexts_are_long_unless_the_model_is_short() -> None:
    assert min(prompt.chars for prompt in of("long", "fit", 10)) > LONG_CHARS_MIN - 300
    assert max(prompt.chars for prompt in prompts("long", "fit", 10, 7, chars_max=900)) < 1_200


def test_more_prompts_than_there_are_is_said() -> None:
    with pytest.raises(ValueError, match="1000 prompts of kind multilingual, part fit: there are 102"):
        prompts("multilingual", "fit", 1000, 7)


def test_every_kind_meets_every_temperature_filter_and_part() -> None:
    first = list(islice(asks(1), 480))
    met = {
        (ask.prompt.kind, ask.sampling.temperature, ask.sampling.top_k, ask.prompt.part)
        for ask in first
        if not ask.is_long
    }
    assert len(met) == 3 * len(TEMPERATURES) * len(FILTERS) * len(PARTS)
    long = {(ask.sampling.temperature, ask.sampling.top_k) for ask in first if ask.is_long}
    assert len(long) == len(TEMPERATURES) * len(FILTERS)
    assert sum(ask.prompt.part == "held-out" for ask in first) == 0.3 * len(first)
    assert len({ask.sampling.seed for ask in first}) == len(first)
