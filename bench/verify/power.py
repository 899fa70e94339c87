"""How soon cheats are convicted and honest sellers never, over many orders of the same answers.

A stream is what one seller delivers, all of it checked: the answers in an order drawn by number, beginning
inside one of them, until E reaches a million (`tokens_until`) or the answers end. Streams of one set of
answers are not independent; their spread says how much the order matters, not how much the model does.
"""

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from unhosted.verify.eprocess import EvidenceState, add_answer, peak_log10_e_milli, tokens_until
from unhosted.verify.increments import growth_nnat
from unhosted.verify.noise import NoiseTable
from unhosted.verify.observations import Observations, joined
from unhosted.verify.sprt import SprtState, add_tokens, rates_of

CONVICT_LOG10_MILLI = 6_000
STREAMS = 60
"""Orders of the answers; the median of 60 moves by little when there are more."""

HONEST_STREAMS = 12
REPEATS_MAX = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """tokens: delivered until conviction by each stream, None where it was not reached."""

    tokens: tuple[int | None, ...]
    baseline_tokens: tuple[int | None, ...]
    mismatch: float
    mean_x: float

    def quantile(self, share: float, *, of_baseline: bool = False) -> int | None:
        """The tokens by which this share of the streams was convicted; None if fewer ever were."""
        times = self.baseline_tokens if of_baseline else self.tokens
        reached = sorted(one for one in times if one is not None)
        index = -(-len(times) * share // 1) - 1
        return reached[int(index)] if index < len(reached) else None

    def share_within(self, tokens_max: int) -> float:
        return sum(one is not None and one <= tokens_max for one in self.tokens) / len(self.tokens)


def power(table: NoiseTable, answers: Sequence[Observations], *, starts_inside: bool) -> Power:
    """starts_inside: whether streams begin inside an answer; not where its end alone is the cheat."""
    found: list[int | None] = []
    baseline: list[int | None] = []
    for number in range(STREAMS):
        stream = _stream(answers, number, starts_inside=starts_inside)
        found.append(tokens_until(table, stream, log10_milli=CONVICT_LOG10_MILLI))
        baseline.append(_baseline(table, stream))
    tokens = joined(answers)
    return Power(
        tokens=tuple(found),
        baseline_tokens=tuple(baseline),
        mismatch=tokens.mismatches / tokens.tokens,
        mean_x=mean_x(table, tokens),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Calm:
    """How an honest seller fares. growth_nnat: of the row of bets that does best, per token.

    peak_log10_milli: the highest that E ever came in any stream. accused: streams that reached a million.
    """

    tokens: int
    mismatch: float
    mean_x: float
    growth_nnat: int
    peak_log10_milli: int
    streams: int
    accused: int


def calm(table: NoiseTable, answers: Sequence[Observations]) -> Calm:
    peaks = []
    for number in range(HONEST_STREAMS):
        state = EvidenceState()
        for seen in _stream(answers, number, starts_inside=False):
            state = add_answer(state, table, seen)
        peaks.append(peak_log10_e_milli(state))
    tokens = joined(answers)
    return Calm(
        tokens=tokens.tokens,
        mismatch=tokens.mismatches / tokens.tokens,
        mean_x=mean_x(table, tokens),
        growth_nnat=max(growth_nnat(table, tokens)),
        peak_log10_milli=max(peaks),
        streams=len(peaks),
        accused=sum(peak >= CONVICT_LOG10_MILLI for peak in peaks),
    )


def repeated(table: NoiseTable, answers: Sequence[Observations]) -> int | None:
    """Why a prompt counts once: tokens until an honest seller would be convicted if the one that is worst for
    it were bought again and again, and counted each time. None if that convicts nobody."""
    worst = max((one for one in answers if one.tokens), key=lambda one: max(growth_nnat(table, one)))
    return tokens_until(table, [worst] * REPEATS_MAX, log10_milli=CONVICT_LOG10_MILLI)


def mean_x(table: NoiseTable, tokens: Observations) -> float:
    """The mean of what the table's rule bets on."""
    if table.rule == "exact":
        return tokens.mismatches / tokens.tokens
    clip = table.clip_mlogit
    return statistics.fmean(min(margin, clip) for margin in tokens.margin_mlogit) / clip


def _stream(answers: Sequence[Observations], number: int, *, starts_inside: bool) -> list[Observations]:
    draw = random.Random(number)
    order = [seen for seen in answers if seen.tokens]
    draw.shuffle(order)
    if starts_inside:
        first = order[0]
        order[0] = first.part(draw.randrange(first.tokens), first.tokens)
    return order


def _baseline(table: NoiseTable, stream: Sequence[Observations]) -> int | None:
    """The plain test on mismatches: tokens until it accuses."""
    state, rates = SprtState(), rates_of(table)
    for seen in stream:
        for place in range(seen.tokens):
            state = add_tokens(state, rates, seen.part(place, place + 1))
            if state.is_accused:
                return state.tokens
    return None
