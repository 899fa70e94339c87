"""How far a claimed token is from what a checker would draw itself: one row of its logits, one score.

The seller's logits differ from the checker's by a little. Two things follow. A candidate at the edge of a
filter may have survived there and not here, or the other way round: so the checker holds only those for
certain that survive by a slack, and excuses those that miss it by no more (strict and loose survivors). And
two candidates with nearly equal scores may change places: so a claim is not right or wrong but behind by so
many logits (`Score.margin_mlogit`), and how likely honesty is to be behind depends on how close the race was,
which is known without looking at the claim (`Score.gap_mlogit`).

Scores are z' + T * g. The temperature multiplies the noise and never divides the logits, so that numeric
noise weighs alike at every temperature. With a grammar, a claim may have been drawn freely, or again among
what is allowed because the free draw was not: it is as far behind as the likelier of the two says.

Not handled: which of several equally wrong reasons explains a margin. That is for people, and the plots.
"""

import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unhosted.verify.history import History
from unhosted.verify.observations import (
    GAP_MLOGIT_MAX,
    LOGPROB_MNAT_MIN,
    MARGIN_MLOGIT_MAX,
    RANK_MAX,
    Observations,
)
from unhosted.verify.params import SamplingParams
from unhosted.verify.sampler import (
    Ids,
    Scores,
    TokenMask,
    allowed_best,
    gumbel,
    logprobs,
    ranked,
    surviving,
    top_k,
    winner,
)

NOISE_LOGITS = 0.125
"""tau: how far the difference of two candidates' logits strays between two honest engines. Measured on a CPU,
SmolLM2 in Q4_1 and Q8_0, one row at a time against 512: median 0.10, 99 % below 0.45, most 0.9; quantized
matrices round what they multiply to 8 bits, so much comes of little."""

SLACK_LOGITS = 4 * NOISE_LOGITS
"""How far a filter's edge is moved, inwards for the strict survivors and outwards for the loose ones. Of
4,390 honest tokens 11 were outside the loose ones with 0.06, 1 with 0.25, none with 0.5; what cheats show
shrinks by 3 % (mean X of Q4_0 for Q4_1: 0.185, 0.183, 0.180)."""


@dataclass(frozen=True, slots=True)
class Score:
    """One token's entry of `Observations`, and what the checker itself draws here; see there."""

    gap_mlogit: int
    margin_mlogit: int
    is_match: bool
    logprob_mnat: int
    rank: int
    drawn_id: int


class _Race(NamedTuple):
    """One draw as the checker sees it, in logits. ids, scores: the survivors. best: of the strict ones; minus
    infinity if there are none. gap, margin: infinite where there is no second one, and where the claim could
    not have survived."""

    ids: Ids
    scores: Scores
    best: float
    gap: float
    margin: float
    drawn_id: int


class Scorer:
    """Scores the tokens of one answer. It has no state: the history comes in, as for the sampler."""

    __slots__ = ("_key", "params")

    def __init__(self, params: SamplingParams, key: bytes) -> None:
        """key: `sampler.request_key`."""
        self.params = params
        self._key = key

    def score(
        self,
        logits_row: NDArray[np.float32],
        claimed_id: int,
        position: int,
        history: History,
        mask: TokenMask | None = None,
    ) -> Score:
        """The score of a claim at output `position`, after the tokens that `history` and `mask` have seen.

        logits_row: shape (n_vocab,), only read. claimed_id: within it.
        Raises: SamplerError if the logits are not usable, DeadEnd if the grammar allows nothing.
        """
        count = 2 if self.params.temperature == 0.0 else top_k(self.params) + 1
        ids, z = ranked(logits_row, history, count)
        among = np.flatnonzero(ids == claimed_id)
        if among.size:
            rank = int(among[0])
            claimed_z = float(z[rank])
        else:
            claimed_z = _adjusted_of(claimed_id, logits_row, history)
            rank = _rank(claimed_id, claimed_z, logits_row, history)
        race = self._race(ids, z, claimed_id, claimed_z, position)
        if mask is not None:
            race = self._masked(race, logits_row, claimed_id, claimed_z, position, history, mask)
        logprob, _ = logprobs(logits_row, claimed_id, 0)
        return Score(
            gap_mlogit=_milli(race.gap, GAP_MLOGIT_MAX),
            margin_mlogit=_milli(race.margin, MARGIN_MLOGIT_MAX),
            is_match=race.drawn_id == claimed_id,
            logprob_mnat=-_milli(-logprob, -LOGPROB_MNAT_MIN),
            rank=min(rank, RANK_MAX),
            drawn_id=race.drawn_id,
        )

    def _race(self, ids: Ids, z: Scores, claimed_id: int, claimed_z: float, position: int) -> _Race:
        """ids, z: best first, one more than top_k if there are so many."""
        temperature = self.params.temperature
        if temperature == 0.0:
            best = float(z[0])
            gap = best - float(z[1]) if len(z) > 1 else math.inf
            return _Race(ids, z, best, gap, best - claimed_z, int(ids[0]))
        keep, mass = surviving(z, self.params)
        sure = strict_count(z, self.params, keep, mass)
        kept = ids[:keep]
        scores = z[:keep] + temperature * gumbel(self._key, position, kept)
        drawn_id = winner(kept, scores)
        own = np.flatnonzero(kept == claimed_id)
        is_loose = own.size > 0 or is_loose_survivor(claimed_z, z, self.params, mass)
        if sure == 0:  # nobody is sure to survive: any that may is as good a draw as another
            return _Race(kept, scores, -math.inf, 0.0, 0.0 if is_loose else math.inf, drawn_id)
        best, second = _best_two(scores[:sure])
        if own.size:
            margin = best - float(scores[own[0]])
        elif is_loose:
            noise = gumbel(self._key, position, np.array([claimed_id], np.int64))
            margin = best - (claimed_z + temperature * float(noise[0]))
        else:
            margin = math.inf
        return _Race(kept, scores, best, best - second, margin, drawn_id)

    def _masked(
        self,
        free: _Race,
        logits_row: NDArray[np.float32],
        claimed_id: int,
        claimed_z: float,
        position: int,
        history: History,
        mask: TokenMask,
    ) -> _Race:
        """The race with a grammar: the free draw where it is allowed, else the redraw."""
        is_allowed = mask.mask_ids(free.ids.astype(np.int32))
        is_claim_allowed = mask.allows(claimed_id)
        is_free = bool(is_allowed[np.flatnonzero(free.ids == free.drawn_id)[0]])
        refused = free.scores[~is_allowed]
        # How far the free draw is from being one that the grammar refuses, by which a redraw comes about.
        redraw_behind = max(0.0, free.best - float(refused.max())) if refused.size else math.inf
        free_margin = free.margin if is_claim_allowed else math.inf
        if is_free and free_margin <= redraw_behind:
            return free._replace(margin=free_margin)
        ids, z = allowed_best(logits_row, history, mask)
        claimed_among = claimed_z if is_claim_allowed else -math.inf
        again = self._race(ids, z, claimed_id, claimed_among, position)
        margin = min(free_margin, max(redraw_behind, again.margin))
        if is_free:
            return free._replace(margin=margin)
        return again._replace(gap=min(free.gap, again.gap), margin=margin)


def strict_count(z: Scores, params: SamplingParams, keep: int, mass: Scores) -> int:
    """How many candidates survive whatever noise below the slack does; the first so many, perhaps none.

    z: adjusted logits, best first, one more than top_k if there are so many. keep, mass: `surviving` of them.
    """
    floor = -math.inf
    if (cut := top_k(params)) < len(z):
        floor = float(z[cut]) + SLACK_LOGITS
    if params.min_p > 0.0:
        floor = max(floor, float(z[0]) + math.log(params.min_p) + SLACK_LOGITS)
    mass_max = _moved(params.top_p, -SLACK_LOGITS) * float(mass[-1]) if params.top_p < 1.0 else math.inf

    def is_sure(at: int) -> bool:
        own = float(z[at])
        if own < floor or mass_max == math.inf:
            return own >= floor
        # All that may come before it are taken to: those down to a slack below, without itself.
        others = int(np.searchsorted(-z[: len(mass)], SLACK_LOGITS - own, side="right")) - 1
        return others == 0 or float(mass[others]) - math.exp(own - float(z[0])) < mass_max

    if is_sure(keep - 1):  # as nearly always
        return keep
    return bisect_left(range(keep - 1), True, key=lambda at: not is_sure(at))


def is_loose_survivor(claimed_z: float, z: Scores, params: SamplingParams, mass: Scores) -> bool:
    """Whether a candidate with this adjusted logit may have survived. The rest as for `strict_count`."""
    cut = top_k(params)
    if claimed_z == -math.inf or (cut <= len(z) and claimed_z < z[cut - 1] - SLACK_LOGITS):
        return False
    if params.min_p > 0.0 and claimed_z - z[0] < math.log(params.min_p) - SLACK_LOGITS:
        return False
    if params.top_p >= 1.0:
        return True
    before = int(np.searchsorted(-z[: len(mass)], -(claimed_z + SLACK_LOGITS), side="left"))
    return before == 0 or bool(mass[before - 1] < _moved(params.top_p, SLACK_LOGITS) * mass[-1])


def as_observations(scores: list[Score]) -> Observations:
    return Observations(
        gap_mlogit=tuple(one.gap_mlogit for one in scores),
        margin_mlogit=tuple(one.margin_mlogit for one in scores),
        is_match=tuple(one.is_match for one in scores),
        logprob_mnat=tuple(one.logprob_mnat for one in scores),
        rank=tuple(one.rank for one in scores),
    )


def _best_two(scores: Scores) -> tuple[float, float]:
    """Minus infinity for the second of one."""
    best = int(scores.argmax())
    others = scores.copy()
    others[best] = -math.inf
    return float(scores[best]), float(others.max())


def _moved(share: float, by_logits: float) -> float:
    """A share of the mass whose odds are moved: noise of e in each logit moves odds by at most 2 e."""
    odds = share * math.exp(by_logits)
    return odds / (1.0 - share + odds)


def _adjusted_of(token_id: int, logits_row: NDArray[np.float32], history: History) -> float:
    if not history.is_empty:
        ids, z = history.adjusted(logits_row)
        own = np.flatnonzero(ids == token_id)
        if own.size:
            return float(z[own[0]])
    return float(logits_row[token_id])


def _rank(token_id: int, token_z: float, logits_row: NDArray[np.float32], history: History) -> int:
    """How many ids come before it by adjusted logit; among equals the lower id does."""
    before = int(np.count_nonzero(logits_row > token_z))
    before += int(np.count_nonzero(logits_row[:token_id] == token_z))
    if not history.is_empty:
        ids, adjusted_z = history.adjusted(logits_row)
        for z, sign in ((logits_row[ids].astype(np.float64), -1), (adjusted_z, 1)):
            before += sign * int(np.count_nonzero((z > token_z) | ((z == token_z) & (ids < token_id))))
    return before


def _milli(logits: float, most: int) -> int:
    return most if logits * 1e3 >= most else max(0, round(logits * 1e3))
