"""Tables from readings: the held-out part can refuse them, and cheats are tried on each."""

import random

from unhosted.node.shell.calibrating.answers import Answer
from unhosted.node.shell.calibrating.fits import RefusedRow, fit_row, tried
from unhosted.node.shell.calibrating.prompts import Part
from unhosted.verify.observations import Observations
from unhosted.verify.params import SamplingParams

MODEL = bytes(32)
DRAW = random.Random(5)


def seen(tokens: int, flips: float) -> Observations:
    """Gaps of all sizes; a share of the tokens with a small gap differ, by some tenths of a logit."""
    gaps = tuple(int(DRAW.expovariate(1 / 900)) for _ in range(tokens))
    differs = [DRAW.random() < flips for _ in gaps]
    margins = tuple(
        gap + DRAW.randint(1, 300) if is_off else 0 for gap, is_off in zip(gaps, differs, strict=True)
    )
    return Observations(
        gap_mlogit=gaps,
        margin_mlogit=margins,
        is_match=tuple(not is_off for is_off in differs),
        logprob_mnat=(-1,) * tokens,
        rank=(0,) * tokens,
    )


def answer(number: int, part: Part) -> Answer:
    return Answer(
        number=number,
        setting="usual",
        kind="chat",
        part=part,
        prompt_name="p",
        prompt_ids=(1,),
        output_ids=(1,) * 200,
        sampling=SamplingParams(),
        finish="length",
    )


def rows(fit_flips: float, held_out_flips: float) -> list[tuple[Answer, Observations]]:
    return [
        *((answer(number, "fit"), seen(200, fit_flips)) for number in range(14)),
        *((answer(number, "held-out"), seen(200, held_out_flips)) for number in range(14, 20)),
    ]


def test_an_honest_pair_gives_a_table_that_catches_another_seed_and_not_the_honest() -> None:
    row = fit_row(model=MODEL, classes=("a", "b"), library="l", rule="statistical", answers=rows(0.01, 0.01))
    assert not isinstance(row, RefusedRow), row
    assert (row.tokens, row.settings, row.table.seller_class) == (4_000, ("usual",), "a")
    assert row.table.held_out_growth_nnat < 0 < row.mean_x_ppb
    cheats = {"other seed": [seen(200, 0.4) for _ in range(6)], "honest": [seen(200, 0.01) for _ in range(6)]}
    caught, blind = tried(row, cheats).controls
    assert (caught.name, caught.tokens) == ("other seed", 1_200) and 1 <= (caught.needed or 9_999) < 200
    assert blind.needed is None


def test_a_pair_whose_held_out_answers_gain_is_refused_with_the_reason() -> None:
    row = fit_row(model=MODEL, classes=("a", "b"), library="l", rule="statistical", answers=rows(0.002, 0.3))
    assert isinstance(row, RefusedRow)
    assert row.tokens == 4_000 and "held-out" in row.why


def test_too_few_tokens_are_refused() -> None:
    row = fit_row(model=MODEL, classes=("a", "b"), library="l", rule="exact", answers=rows(0, 0)[:3])
    assert isinstance(row, RefusedRow) and "measure more" in row.why
