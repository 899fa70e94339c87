"""The prompts of a calibration: four kinds, drawn by number, part of them never used to fit.

What a prompt is about decides its part, so that a prompt kept for judging shares no subject with those that
a table was fitted on. The same arguments give the same prompts on every machine.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from unhosted.node.core.service import Message
from unhosted.node.shell.calibrating import prompt_texts as texts

PromptKind = Literal["chat", "code", "multilingual", "long"]
Part = Literal["fit", "held-out"]

KINDS: tuple[PromptKind, ...] = get_args(PromptKind)
PARTS: tuple[Part, ...] = get_args(Part)

PROMPTS_REVISION = 2
"""Raise it with any change of the texts: answers kept from an interrupted calibration are then made anew."""

HELD_OUT_OF_TEN = (2, 5, 8)
"""Subjects whose number ends so are held out: 30 %."""

LONG_CHARS_MIN, LONG_CHARS_MAX = 7_000, 20_000
"""About 2,000 to 6,000 tokens of a usual tokenizer, the shorter ones more often."""

LONG_VARIANTS = 16
"""Documents of one place: they share no sentence but by chance."""

FOREIGN_FORMS = 3
"""Forms of a question in each language."""

_FOREIGN_THINGS = tuple((forms, thing) for _, forms, things in texts.FOREIGN for thing in things)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """name: the same words have the same name, and no others."""

    kind: PromptKind
    part: Part
    name: str
    messages: tuple[Message, ...]

    @property
    def chars(self) -> int:
        return sum(len(message.content) for message in self.messages)


def prompts(kind: PromptKind, part: Part, count: int, draw: int, *, chars_max: int = 0) -> tuple[Prompt, ...]:
    """`count` distinct prompts, the same for the same `draw`.

    chars_max: length of a long document at most, for a model with a short context; 0 for the usual length.
    Raises: ValueError if there are fewer; there are at least 42 of each kind and part.
    """
    keys = list(_keys(kind, part))
    if count > len(keys):
        raise ValueError(f"{count} prompts of kind {kind}, part {part}: there are {len(keys)}")
    chosen = random.Random(f"{kind} {part} {draw}").sample(keys, count)
    return tuple(_prompt(kind, part, key, chars_max or LONG_CHARS_MAX) for key in chosen)


def _keys(kind: PromptKind, part: Part) -> Iterator[tuple[int, int, int]]:
    """(subject, form, other form) of every prompt there is."""
    subjects: int
    forms: tuple[int, int]
    match kind:
        case "chat":
            subjects, forms = len(texts.SUBJECTS), (len(texts.QUESTIONS), len(texts.SYSTEMS))
        case "code":
            subjects, forms = len(texts.TASKS), (len(texts.CODE_FORMS), len(texts.LANGUAGES))
        case "multilingual":
            subjects, forms = len(_FOREIGN_THINGS), (FOREIGN_FORMS, 1)
        case "long":
            subjects, forms = len(texts.PLACES), (LONG_VARIANTS, 1)
    for subject in range(subjects):
        if (subject % 10 in HELD_OUT_OF_TEN) == (part == "held-out"):
            yield from ((subject, first, second) for first in range(forms[0]) for second in range(forms[1]))


def _prompt(kind: PromptKind, part: Part, key: tuple[int, int, int], chars_max: int) -> Prompt:
    subject, first, second = key
    name, system = f"{kind}.{subject}.{first}.{second}", ""
    match kind:
        case "chat":
            text = texts.QUESTIONS[first].format(texts.SUBJECTS[subject])
            system = texts.SYSTEMS[second]
        case "code":
            form, language = texts.CODE_FORMS[first], texts.LANGUAGES[second]
            text = form.format(language=language, task=texts.TASKS[subject])
        case "multilingual":
            language_forms, thing = _FOREIGN_THINGS[subject]
            text = language_forms[first].format(thing)
        case "long":
            text = _document(texts.PLACES[subject], first, chars_max)
            name = f"{name}.{chars_max}"
    messages: tuple[Message, ...] = (Message(role="user", content=text),)
    if system:
        messages = (Message(role="system", content=system), *messages)
    return Prompt(kind=kind, part=part, name=name, messages=messages)


def _document(place: str, variant: int, chars_max: int) -> str:
    draw = random.Random(f"{place} {variant}")
    length_drawn = draw.triangular(LONG_CHARS_MIN, LONG_CHARS_MAX, LONG_CHARS_MIN)
    wanted = min(int(length_drawn), chars_max)
    words = {"place": place, "goods": "", "person": "", "other": ""}
    sentences: list[str] = []
    length = 0
    while True:
        words["person"], words["other"] = draw.sample(texts.PEOPLE, 2)
        words["goods"] = draw.choice(texts.GOODS)
        numbers = {"day": draw.randint(2, 99), "count": draw.randint(20, 900), "less": draw.randint(2, 19)}
        sentence = draw.choice(texts.LONG_SENTENCES).format(**words, **numbers)
        length += len(sentence) + 1
        if length > wanted:
            break
        sentences.append(sentence)
    question = draw.choice(texts.LONG_QUESTIONS).format(goods=words["goods"])
    paragraphs = [" ".join(sentences[start : start + 6]) for start in range(0, len(sentences), 6)]
    return "\n\n".join([f"Notes from {place}.", *paragraphs, question])
