"""Noise tables from measured tokens: what honesty explains, and how to bet against what it does not.

From answers that an honest engine gave and another one read, a table takes for each bin of the gap

    mean_max = 1.5 * (upper bound of the mean of X, wrong with probability 1e-4) + 2e-4

and for each kind of cheat a stake. Stakes have an indifference zone: noise half again as strong as measured
must still lose money in every bin, so that a driver or a prompt that is somewhat worse than all that was
calibrated convicts nobody. That costs the sight of cheats hardly above noise, which is meant. Last, the table
is judged on prompts that it was not made from.

numpy here, and floats: the result is rounded to integers, upwards where that favours the seller, and from
then on only those count.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import log

import numpy as np
from numpy.typing import NDArray

from unhosted.verify.increments import LEVELS_MAX, growth_nnat
from unhosted.verify.noise import BET_ROWS_MAX, GAP_EDGES_MLOGIT, PPB, NoiseTable, Rule
from unhosted.verify.observations import GAP_MLOGIT_MAX, MARGIN_MLOGIT_MAX, Observations, joined

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BINS = len(GAP_EDGES_MLOGIT)
FIT_TOKENS_MIN = 1_000
"""Below this the bounds are so wide that no cheat would show: measure more."""

HELD_OUT_TOKENS_MIN = 300
MEAN_FACTOR = 1.5
MEAN_FLOOR = 2e-4
BOUND_ERROR = 1e-4
INFLATION_PER_MILLE = 1_500
"""Of noise: how much worse than measured an honest engine may be without being accused."""

LOSS_NATS_MIN = 1e-3
"""Per token: what a row must lose on honest tokens under stronger noise. Less is a bet on noise itself."""

NEAR_TIE_BINS = 4
"""Gaps below 200 millilogits, where nearly all flips of rounding noise are: a tenth of all tokens."""

CLIP_MLOGIT_MIN, CLIP_MLOGIT_MAX = 250, 1_000
CLIP_QUANTILE = 0.999
STAKES = np.concatenate([np.geomspace(2e-4, 0.05, 60), np.linspace(0.055, 0.97, 184)])
"""The stakes that are tried: fine where bets are small."""

_BOUND_BETS = np.geomspace(0.98, 2e-3, 12)
_BOUND_SHARES = np.array([0.5] + [0.5 / 11] * 11)
"""The boldest bet has half of the wealth: where nothing was seen to differ, it alone sharpens the bound."""


class FitError(ValueError):
    """No table can be made of these observations; the message says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """How a kind of cheat looks, given the gap: the share of tokens that differ in each bin, and their mean
    margin in thousandths of a logit."""

    name: str
    differs: tuple[float, ...]
    margin_mlogit: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Sample:
    """bins: of each token. x: 0 to 1. differs: whether the claim is not what the checker draws."""

    bins: Ints
    x: Floats
    differs: NDArray[np.bool_]

    def of_bin(self, index: int) -> Floats:
        found: Floats = self.x[self.bins == index]
        return found


def fit(
    *,
    model: bytes,
    seller_class: str,
    checker_class: str,
    library: str,
    rule: Rule,
    honest: Sequence[Observations],
    held_out: Sequence[Observations],
    cheats: Mapping[str, Sequence[Observations]] | None = None,
    clip_mlogit: int | None = None,
) -> NoiseTable:
    """A table for one pair of engine classes.

    honest, held_out: answers of an honest seller, to disjoint prompts. cheats: answers of known cheats by
    name, to tune bets for them instead of for ALTERNATIVES. clip_mlogit: instead of the one that the honest
    margins suggest. Raises: FitError with too few tokens, or if honest tokens would gain.
    """
    tokens, judged = joined(honest), joined(held_out)
    if tokens.tokens < FIT_TOKENS_MIN:
        raise FitError(f"{tokens.tokens} honest tokens, {FIT_TOKENS_MIN} are needed: measure more")
    if judged.tokens < HELD_OUT_TOKENS_MIN:
        raise FitError(f"{judged.tokens} held-out tokens, {HELD_OUT_TOKENS_MIN} are needed: measure more")
    clip = clip_mlogit if clip_mlogit is not None else clip_of(tokens)
    sample = _sample(tokens, rule, clip)
    means = _means_max(sample, rule)
    alternatives = (
        ALTERNATIVES[rule] if not cheats else tuple(alternative_of(name, cheats[name]) for name in cheats)
    )
    table = NoiseTable(
        model=model,
        seller_class=seller_class,
        checker_class=checker_class,
        library=library,
        rule=rule,
        clip_mlogit=clip,
        mean_max_ppb=tuple(min(PPB - 1, int(np.ceil(mean * PPB))) for mean in means),
        bets_ppb=_bets(tokens, means, alternatives, rule, clip),
        tokens=tuple(int(count) for count in np.bincount(sample.bins, minlength=BINS)),
        held_out_growth_nnat=0,
        mismatch_max_ppb=min(PPB - 1, int(np.ceil(mean_bound(sample.differs.astype(float)) * 1.5 * PPB))),
    )
    return _judged(table, judged)


def clip_of(honest: Observations) -> int:
    """Millilogits: the honest 99.9th percentile of margins, within CLIP_MLOGIT_MIN and _MAX."""
    edge = float(np.quantile(np.asarray(honest.margin_mlogit, np.float64), CLIP_QUANTILE))
    return int(min(CLIP_MLOGIT_MAX, max(CLIP_MLOGIT_MIN, -(-edge // 50) * 50)))


def mean_bound(x: Floats, error: float = BOUND_ERROR) -> float:
    """The least mean that these values in [0, 1] rule out with this probability of error; 1.0 without values.

    Bets against each mean m: the wealth is the weighted average over stakes of
    prod(1 - stake * (x - m) / (1 - m)), and m is ruled out where it reaches 1/error. The values need not be
    independent, only not to exceed m on average given those before. Source: Waudby-Smith and Ramdas,
    "Estimating means of bounded random variables by betting" (2020), one-sided and with a fixed grid.
    """
    if not len(x):
        return 1.0
    values, counts = np.unique(x, return_counts=True)
    low, high = float(x.mean()), 1.0
    for _ in range(40):
        middle = (low + high) / 2
        share = _BOUND_BETS[:, None] * (values[None, :] - middle) / (1 - middle)
        wealth = (np.log1p(-share) * counts[None, :]).sum(axis=1)
        peak = float(wealth.max())
        total = peak + log(float((_BOUND_SHARES * np.exp(wealth - peak)).sum()))
        if total >= log(1 / error):
            high = middle
        else:
            low = middle
    return high


def alternative_of(name: str, answers: Sequence[Observations]) -> Alternative:
    """What a known cheat looks like; bins that it hardly reached take the nearest bin's.

    Raises: FitError without a token.
    """
    tokens = joined(answers)
    if not tokens.tokens:
        raise FitError(f"no token of the cheat {name!r}: leave it out")
    bins = _bins(tokens)
    differs = ~np.asarray(tokens.is_match, np.bool_)
    margin = np.minimum(np.asarray(tokens.margin_mlogit, np.float64), 10.0 * CLIP_MLOGIT_MAX)
    enough = [index for index in range(BINS) if np.count_nonzero(bins == index) >= ALTERNATIVE_TOKENS_MIN]
    if not enough:
        enough = [int(np.bincount(bins, minlength=BINS).argmax())]
    share: list[float] = []
    means: list[int] = []
    for index in range(BINS):
        nearest = min(enough, key=lambda other: (abs(other - index), other))
        inside = bins == nearest
        share.append(float(differs[inside].mean()))
        flipped = margin[inside & differs]
        means.append(int(flipped.mean()) if len(flipped) else GAP_EDGES_MLOGIT[nearest])
    return Alternative(name=name, differs=tuple(share), margin_mlogit=tuple(means))


def inflated(honest: Observations) -> Observations:
    """These tokens as they would be, given each one's gap, if noise were half again as strong.

    Noise that is k times as strong does at a gap of k*d what measured noise does at d, with margins k times
    as wide. So gaps and margins are stretched; how often each gap occurs is another matter, and no longer
    what it was.
    """
    times = INFLATION_PER_MILLE
    return Observations(
        gap_mlogit=tuple(min(GAP_MLOGIT_MAX, gap * times // 1_000) for gap in honest.gap_mlogit),
        margin_mlogit=tuple(min(MARGIN_MLOGIT_MAX, one * times // 1_000) for one in honest.margin_mlogit),
        is_match=honest.is_match,
        logprob_mnat=honest.logprob_mnat,
        rank=honest.rank,
    )


def inflated_growth(table: NoiseTable, honest: Observations) -> tuple[float, ...]:
    """Nats per token of each row if noise were half again as strong as in these tokens.

    Each bin's growth under the stronger noise, weighed by how many of these tokens are in the bin.
    """
    noisy = _sample(inflated(honest), table.rule, table.clip_mlogit)
    shares = np.bincount(_bins(honest), minlength=BINS) / honest.tokens
    growths = [0.0] * len(table.bets_ppb)
    for index, mean_ppb in enumerate(table.mean_max_ppb):
        stakes = np.array([row[index] / PPB for row in table.bets_ppb])
        for row, growth in enumerate(_growth(noisy.of_bin(index), mean_ppb / PPB, stakes)):
            growths[row] += float(growth) * shares[index]
    return tuple(growths)


def _sample(tokens: Observations, rule: Rule, clip_mlogit: int) -> _Sample:
    differs = ~np.asarray(tokens.is_match, np.bool_)
    if rule == "exact":
        x = differs.astype(np.float64)
    else:
        levels = min(clip_mlogit, LEVELS_MAX)
        margin = np.minimum(np.asarray(tokens.margin_mlogit, np.int64), clip_mlogit)
        x = (margin * levels // clip_mlogit) / levels
    return _Sample(_bins(tokens), x, differs)


def _bins(tokens: Observations) -> Ints:
    gaps = np.asarray(tokens.gap_mlogit, np.int64)
    return np.searchsorted(np.asarray(GAP_EDGES_MLOGIT), gaps, side="right") - 1


def _means_max(sample: _Sample, rule: Rule) -> list[float]:
    """For each bin the greatest honest mean: the sharpest bound over the pools that it may be judged by."""
    pools = _exact_pools() if rule == "exact" else _statistical_pools(sample)
    means: list[float] = []
    for starts, end in pools:
        error = BOUND_ERROR / len(starts)
        inside = sample.bins < end
        bound = min(mean_bound(sample.x[inside & (sample.bins >= start)], error) for start in starts)
        means.append(min(MEAN_FACTOR * bound + MEAN_FLOOR, 0.999))
    return means


def _statistical_pools(sample: _Sample) -> list[tuple[range, int]]:
    """For each bin the bins that a pool may start at, and where all its pools end.

    A flip leaves a margin of at least the gap, so X first rises with the gap; beyond the reach of noise it
    falls, since noise must exceed the gap. From the peak on, a bin's mean is therefore at most that of it and
    some bins before it together: where a bin has few tokens, such a pool gives the sharper bound.
    """
    counts = np.bincount(sample.bins, minlength=BINS)
    sums = np.bincount(sample.bins, weights=sample.x, minlength=BINS)
    peak = int(np.argmax(sums / np.maximum(counts, 1)))
    return [(range(min(peak, index), index + 1), index + 1) for index in range(BINS)]


def _exact_pools() -> list[tuple[range, int]]:
    """As `_statistical_pools`, where honest tokens never differ.

    Should an honest engine differ after all, it is because it computed something in another way, and then it
    differs at near ties: these are judged together, and a bin above them is at most as bad as any pool below.
    """
    return [
        (range(1) if index < NEAR_TIE_BINS else range(index + 1), max(index + 1, NEAR_TIE_BINS))
        for index in range(BINS)
    ]


def _bets(
    honest: Observations,
    means: Sequence[float],
    alternatives: Sequence[Alternative],
    rule: Rule,
    clip_mlogit: int,
) -> tuple[tuple[int, ...], ...]:
    """One row of stakes per alternative, the most different ones if there are too many.

    No stake is taken that honest tokens under stronger noise would gain by in its bin, and no row that they
    would hardly lose by.
    """
    noisy = _sample(inflated(honest), rule, clip_mlogit)
    shares = np.bincount(_bins(honest), minlength=BINS) / honest.tokens
    growths = [_growth(noisy.of_bin(index), means[index], STAKES) for index in range(BINS)]
    rows: list[tuple[int, ...]] = []
    for one in _spread(alternatives):
        stakes, total = [0] * BINS, 0.0
        for index in range(BINS):
            x = 1.0 if rule == "exact" else min(one.margin_mlogit[index], clip_mlogit) / clip_mlogit
            gain = one.differs[index] * np.log1p(STAKES * (x / means[index] - 1))
            growth = gain + (1 - one.differs[index]) * np.log1p(-STAKES)
            growth = np.where(growths[index] <= 0, growth, -np.inf)
            best = int(growth.argmax())
            if growth[best] > 0:
                stakes[index] = int(STAKES[best] * PPB)
                total += float(growths[index][best]) * float(shares[index])
        if total < -LOSS_NATS_MIN:
            rows.append(tuple(stakes))
    if not rows:
        raise FitError(
            "no bet gains on a cheat and loses on noise: the two engines differ too much to check by, or too "
            "few tokens were measured"
        )
    return tuple(rows)


def _growth(x: Floats, mean_max: float, stakes: Floats) -> Floats:
    """Mean growth per token of one bin, for each stake."""
    if not len(x):
        return np.log1p(-stakes)
    values, counts = np.unique(x, return_counts=True)
    gains = np.log1p(stakes[:, None] * (values[None, :] / mean_max - 1))
    result: Floats = (gains * counts[None, :]).sum(axis=1) / len(x)
    return result


def _spread(alternatives: Sequence[Alternative]) -> list[Alternative]:
    """At most BET_ROWS_MAX of them, from the weakest to the strongest, evenly."""
    ordered = sorted(alternatives, key=lambda one: sum(one.differs))
    if len(ordered) <= BET_ROWS_MAX:
        return ordered
    picks = np.linspace(0, len(ordered) - 1, BET_ROWS_MAX).round().astype(int)
    return [ordered[index] for index in picks]


def _judged(table: NoiseTable, judged: Observations) -> NoiseTable:
    growth = max(growth_nnat(table, judged))
    if growth >= 0:
        raise FitError(
            f"held-out honest tokens would gain {growth} nanonats each: noise differs between prompts by "
            "more than the table allows, so it cannot be used; measure more prompts"
        )
    noisy = max(inflated_growth(table, judged))
    if noisy >= 0:
        raise FitError(
            f"honest noise of {INFLATION_PER_MILLE / 1_000} times the strength would gain {noisy:.2g} nats "
            "per held-out token: there is no margin of safety; measure more prompts"
        )
    return replace(table, held_out_growth_nnat=growth)


ALTERNATIVE_TOKENS_MIN = 20
"""Of a known cheat in a bin, for its share there to mean something."""

_FAINT = Alternative(
    name="faint: one full stop more in the prompt, better bits of the same weights",
    differs=(0.5, 0.45, 0.35, 0.16, 0.06, 0.01, 0.002, 0.001, 0.0005),
    margin_mlogit=(10, 35, 80, 150, 250, 500, 1_000, 2_000, 4_000),
)
_WEAK = Alternative(
    name="weak: another temperature, a 4-bit cache, another system prompt",
    differs=(0.55, 0.5, 0.45, 0.4, 0.3, 0.15, 0.06, 0.03, 0.01),
    margin_mlogit=(40, 70, 110, 180, 330, 620, 1_200, 2_400, 5_000),
)
_MEDIUM = Alternative(
    name="medium: one step of quantization",
    differs=(0.65, 0.62, 0.6, 0.58, 0.52, 0.4, 0.2, 0.08, 0.02),
    margin_mlogit=(150, 180, 220, 300, 450, 750, 1_400, 2_600, 6_000),
)
_STRONG = Alternative(
    name="strong: another model, another seed, pruned layers",
    differs=(0.7, 0.68, 0.66, 0.64, 0.6, 0.55, 0.43, 0.25, 0.06),
    margin_mlogit=(500, 500, 550, 600, 700, 1_000, 1_700, 3_000, 8_000),
)
ALTERNATIVES: dict[Rule, tuple[Alternative, ...]] = {
    "exact": (_FAINT, _WEAK, _MEDIUM, _STRONG),
    "statistical": (_WEAK, _MEDIUM, _STRONG),
}
"""Kinds of cheat by what they do to a token, given the gap. Rounded from measured ones, see
docs/verification.md: stakes tuned for the very cheat that is met win less than a tenth over these."""
