"""From readings to a row of a sheet: the table, what it rests on, and how soon it catches known cheats."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from unhosted.node.core.calibrations import NAMES_MAX, Control, Row
from unhosted.node.shell.calibrating.answers import Answer
from unhosted.node.shell.calibrating.prompts import Part
from unhosted.verify.noise import PPB, NoiseTable, Rule
from unhosted.verify.observations import Observations, joined

CONTROL_STARTS = 9
"""Beginnings that the median of tokens to a million is taken over."""

CONVICTION_LOG10_MILLI = 6_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedRow:
    """A pair without a usable table, and why."""

    rule: Rule
    seller_class: str
    settings: tuple[str, ...]
    tokens: int
    why: str


def fit_row(
    *,
    model: bytes,
    classes: tuple[str, str],
    library: str,
    rule: Rule,
    answers: Sequence[tuple[Answer, Observations]],
) -> Row | RefusedRow:
    """A row for one pair, of the seller's and the checker's class. Some seconds of computing at most."""
    from unhosted.verify.fitting import FitError, fit

    settings = tuple(dict.fromkeys(answer.setting for answer, _ in answers))[:NAMES_MAX]
    seen = joined([one for _, one in answers])
    try:
        table = fit(
            model=model,
            seller_class=classes[0],
            checker_class=classes[1],
            library=library,
            rule=rule,
            honest=_of_part(answers, "fit"),
            held_out=_of_part(answers, "held-out"),
        )
    except FitError as error:
        return RefusedRow(
            rule=rule, seller_class=classes[0], settings=settings, tokens=seen.tokens, why=str(error)
        )
    return Row(
        table=table,
        settings=settings,
        tokens=seen.tokens,
        mismatches=seen.mismatches,
        mean_x_ppb=_mean_x_ppb(table, seen),
    )


def tried(row: Row, cheats: Mapping[str, Sequence[Observations]]) -> Row:
    """The row with what its table makes of each cheat's answers."""
    controls = tuple(_control(name, row.table, answers) for name, answers in cheats.items() if answers)
    return replace(row, controls=controls)


def _control(name: str, table: NoiseTable, answers: Sequence[Observations]) -> Control:
    from unhosted.verify.eprocess import tokens_until

    step = max(1, len(answers) // CONTROL_STARTS)
    needed = [
        tokens_until(table, [*answers[start:], *answers[:start]], log10_milli=CONVICTION_LOG10_MILLI)
        for start in range(0, len(answers), step)
    ]
    never = sum(one.tokens for one in answers) + 1
    median = statistics.median_high(never if one is None else one for one in needed)
    tokens = never - 1
    return Control(name=name, tokens=tokens, needed=None if median == never else median)


def _of_part(answers: Sequence[tuple[Answer, Observations]], part: Part) -> list[Observations]:
    return [one for answer, one in answers if answer.part == part]


def _mean_x_ppb(table: NoiseTable, seen: Observations) -> int:
    if not seen.tokens:
        return 0
    if table.rule == "exact":
        return seen.mismatches * PPB // seen.tokens
    clip = table.clip_mlogit
    return sum(min(margin, clip) for margin in seen.margin_mlogit) * PPB // (clip * seen.tokens)
