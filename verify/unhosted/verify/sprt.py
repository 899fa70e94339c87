"""Wald's test on mismatches: the plain baseline beside the e-process, for comparison and for the eye.

It looks at nothing but whether tokens differ, with one honest rate for all of them. It is weaker: a margin of
5 logits counts as much as one of 0.01, and prompts with many near ties look like guilt. No verdict rests on
it.
"""

from dataclasses import dataclass
from decimal import Decimal

from unhosted.verify.increments import EXACT, log_down
from unhosted.verify.noise import PPB, NoiseTable
from unhosted.verify.observations import Observations

ACCUSE_NNAT = 13_815_510_558
"""ln(1e6), rounded up: an honest seller gets there with a probability of at most one in a million."""

CLEAR_NNAT = -4_605_170_185
"""ln(1/100): a cheat at the alternative's rate gets there with a probability of at most one in a hundred."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Mismatches per token: honest at most, and of a cheat at least; nanonats that each outcome adds."""

    honest_ppb: int
    cheat_ppb: int
    differs_nnat: int
    agrees_nnat: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SprtState:
    """ratio_nnat: log likelihood ratio. peak_nnat, low_nnat: its extremes after any token."""

    tokens: int = 0
    ratio_nnat: int = 0
    peak_nnat: int = 0
    low_nnat: int = 0

    @property
    def is_accused(self) -> bool:
        return self.peak_nnat >= ACCUSE_NNAT


def rates(honest_ppb: int, cheat_ppb: int) -> Rates:
    """Raises: ValueError unless 0 < honest < cheat < 1."""
    if not 0 < honest_ppb < cheat_ppb < PPB:
        raise ValueError(f"rates {honest_ppb} and {cheat_ppb} ppb: 0 < honest < cheat < 1e9 is needed")
    return Rates(
        honest_ppb=honest_ppb,
        cheat_ppb=cheat_ppb,
        differs_nnat=_log_ratio(cheat_ppb, honest_ppb),
        agrees_nnat=_log_ratio(PPB - cheat_ppb, PPB - honest_ppb),
    )


def rates_of(table: NoiseTable) -> Rates:
    """Of the table's honest rate against twice as much and a hundredth more."""
    honest = table.mismatch_max_ppb
    return rates(honest, min(PPB - 1, 2 * honest + PPB // 100) if honest < PPB // 2 else PPB - 1)


def add_tokens(state: SprtState, used: Rates, seen: Observations) -> SprtState:
    """The state after more tokens."""
    ratio, peak, low = state.ratio_nnat, state.peak_nnat, state.low_nnat
    for is_match in seen.is_match:
        ratio += used.agrees_nnat if is_match else used.differs_nnat
        peak, low = max(peak, ratio), min(low, ratio)
    return SprtState(tokens=state.tokens + seen.tokens, ratio_nnat=ratio, peak_nnat=peak, low_nnat=low)


def _log_ratio(above: int, below: int) -> int:
    """Nanonats, rounded down: evidence is not overstated."""
    return log_down(EXACT.divide(Decimal(above), Decimal(below)))
