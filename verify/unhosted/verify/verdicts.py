"""From evidence to what is done about it: four stages, each with its answer. No numpy, integers only.

E of 100 makes the checker look more often: an honest seller gets there once in a hundred lives, so it costs
nobody anything. E of 10,000 holds pay and routes elsewhere: a buyer may do that for any reason. E of a
million makes evidence, which others run again: nothing is published, and no bond touched, on the word of one
machine.

A stage is raised at once and lowered late: when E has fallen a decade below what raised it. A conviction
stays, for the running maximum is what the bound is on, and evidence once made is not unmade by later honesty.
A person may start again with a fresh state.
"""

from dataclasses import dataclass
from enum import IntEnum


class Stage(IntEnum):
    """How far a seller and model have come under suspicion."""

    CLEAR = 0
    WATCH = 1
    HOLD = 2
    CONVICT = 3


RAISED_AT_MILLI = {Stage.WATCH: 2_000, Stage.HOLD: 4_000, Stage.CONVICT: 6_000}
"""log10 E in thousandths at which a stage begins."""

LOWERED_BELOW_MILLI = {Stage.WATCH: 1_000, Stage.HOLD: 3_000}
"""log10 E in thousandths below which it ends: a decade, so that one token does not switch it to and fro."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """What the buyer's node does at a stage.

    check_factor: the share of receipts that is checked is multiplied by it. checks_all: instead, every one.
    holds_pay: pay not yet authorised waits. is_avoided: the router takes another seller where there is one.
    makes_evidence: a file is written for the user, and a second engine's confirmation asked for.
    """

    check_factor: int
    checks_all: bool
    holds_pay: bool
    is_avoided: bool
    makes_evidence: bool


RESPONSES = {
    Stage.CLEAR: Response(
        check_factor=1, checks_all=False, holds_pay=False, is_avoided=False, makes_evidence=False
    ),
    Stage.WATCH: Response(
        check_factor=5, checks_all=False, holds_pay=False, is_avoided=False, makes_evidence=False
    ),
    Stage.HOLD: Response(
        check_factor=5, checks_all=True, holds_pay=True, is_avoided=True, makes_evidence=False
    ),
    Stage.CONVICT: Response(
        check_factor=5, checks_all=True, holds_pay=True, is_avoided=True, makes_evidence=True
    ),
}


def next_stage(
    before: Stage, *, log10_e_milli: int, peak_log10_e_milli: int, is_proven: bool = False
) -> Stage:
    """The stage after an answer was added.

    log10_e_milli, peak_log10_e_milli: as `eprocess` gives them. is_proven: the answer has a fault of
    `hard_checks` that is proof by itself. Raises: ValueError if the peak is below what is now.
    """
    if peak_log10_e_milli < log10_e_milli:
        raise ValueError(f"peak {peak_log10_e_milli} is below {log10_e_milli}")
    if is_proven or before is Stage.CONVICT or peak_log10_e_milli >= RAISED_AT_MILLI[Stage.CONVICT]:
        return Stage.CONVICT
    reached = Stage.CLEAR
    for stage in (Stage.WATCH, Stage.HOLD):
        edge = LOWERED_BELOW_MILLI[stage] if before >= stage else RAISED_AT_MILLI[stage]
        if log10_e_milli >= edge:
            reached = stage
    return reached


def response_of(stage: Stage) -> Response:
    return RESPONSES[stage]


def explain(
    stage: Stage,
    *,
    tokens: int,
    mismatches: int,
    log10_e_milli: int,
    is_gross: bool = False,
    faults: tuple[str, ...] = (),
) -> str:
    """One or two sentences for the user. faults: sentences of `hard_checks` that are proof by themselves."""
    if faults:
        return f"{faults[0]} That needs no statistics: an honest seller cannot do it by accident."
    if not tokens:
        return "Nothing was checked yet."
    seen = f"{mismatches:,} of {tokens:,} checked tokens differ from what this machine draws"
    odds = f"{10 ** (log10_e_milli // 1_000):,}" if 0 <= log10_e_milli < 18_000 else "10^18 or more"
    limit = (
        " This pair of engines was never measured, so only gross differences count; "
        "`unhosted calibrate` makes it finer."
        if is_gross
        else ""
    )
    if stage is Stage.CLEAR:
        return f"{seen}, no more than rounding explains.{limit}"
    if log10_e_milli < LOWERED_BELOW_MILLI[Stage.WATCH]:
        return f"{seen}. Earlier answers were convincing evidence against the seller; it stays.{limit}"
    chance = f"{seen}; an honest seller gets this far with a chance of at most 1 in {odds}."
    done = {
        Stage.WATCH: "More of its answers are checked.",
        Stage.HOLD: "Its pay is held, every answer is checked, and other sellers are preferred.",
        Stage.CONVICT: "It is not used any more, and evidence that others can run again was made.",
    }[stage]
    return f"{chance} {done}{limit}"
