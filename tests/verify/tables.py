"""Small noise tables and observations for tests, and a second e-process in exact fractions.

The second one keeps every start and every purse by itself, as the rules say it in prose, and rounds nothing.
It is slow and short; `eprocess` must agree with it.
"""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from unhosted.verify.noise import GAP_EDGES_MLOGIT, PPB, NoiseTable, Rule
from unhosted.verify.observations import Observations

BINS = len(GAP_EDGES_MLOGIT)
MEANS = (20, 50, 80, 70, 40, 10, 5, 3, 2)
"""Thousandths, as a real engine has them: rising, then falling with the gap."""

BETS = ((100, 100, 90, 80, 60, 30, 20, 10, 5), (500, 500, 500, 450, 400, 300, 200, 90, 40))
"""Thousandths of the wealth."""


def noise_table(
    *,
    rule: Rule = "statistical",
    clip_mlogit: int = 500,
    means: Sequence[int] = MEANS,
    bets: Sequence[Sequence[int]] = BETS,
    is_gross: bool = False,
) -> NoiseTable:
    """means, bets: thousandths."""
    return NoiseTable(
        model=bytes(range(32)),
        seller_class="seller",
        checker_class="checker",
        library="library 1",
        rule=rule,
        clip_mlogit=clip_mlogit,
        mean_max_ppb=tuple(mean * PPB // 1_000 for mean in means),
        bets_ppb=tuple(tuple(bet * PPB // 1_000 for bet in row) for row in bets),
        tokens=(1_000,) * BINS,
        held_out_growth_nnat=-1,
        is_gross=is_gross,
    )


def seen(tokens: Sequence[tuple[int, int]], matches: Sequence[bool] | None = None) -> Observations:
    """tokens: (gap, margin) in millilogits. A token matches if its margin is 0, unless told otherwise."""
    return Observations(
        gap_mlogit=tuple(gap for gap, _ in tokens),
        margin_mlogit=tuple(margin for _, margin in tokens),
        is_match=tuple(matches) if matches is not None else tuple(margin == 0 for _, margin in tokens),
        logprob_mnat=(0,) * len(tokens),
        rank=(0,) * len(tokens),
    )


def drawn(
    random: np.random.Generator, tokens: int, *, differs: Sequence[float], margin_mlogit: float = 300.0
) -> Observations:
    """Tokens of an engine that differs in each bin with these shares, by the gap and a little more."""
    share = np.array([0.01, 0.02, 0.03, 0.05, 0.1, 0.15, 0.22, 0.18, 0.24])
    bins = random.choice(BINS, tokens, p=share)
    edges = np.array([*GAP_EDGES_MLOGIT, 10_000])
    gaps = random.integers(edges[bins], edges[bins + 1])
    flips = random.random(tokens) < np.asarray(differs)[bins]
    margins = np.where(flips, gaps + random.exponential(margin_mlogit, tokens).astype(int) + 1, 0)
    return seen(list(zip(gaps.tolist(), margins.tolist(), strict=True)))


def noisy(random: np.random.Generator, tokens: int, *, scale_mlogit: float) -> Observations:
    """Tokens of an engine whose two best scores differ by the gap and normal noise of this scale."""
    gaps = np.minimum(random.lognormal(np.log(900), 1.5, tokens), 100_000).astype(int)
    flips = random.normal(0, scale_mlogit, tokens) > gaps
    return seen(list(zip(gaps.tolist(), np.where(flips, gaps, 0).tolist(), strict=True)), (~flips).tolist())


def slow_e(table: NoiseTable, answers: Sequence[Observations]) -> Fraction:
    """E after these answers, by the rules' own words."""
    rows = [table.bets_ppb[row % len(table.bets_ppb)] for row in range(4)]
    return sum((_row_e(table, row, answers) for row in rows), Fraction(0)) / 4


def _row_e(table: NoiseTable, bets: Sequence[int], answers: Sequence[Observations]) -> Fraction:
    always = Fraction(1)
    purses = []
    for answer in answers:
        factors = [_factor(table, bets, answer, index) for index in range(answer.tokens)]
        idle, at_stake = Fraction(1, 2), Fraction(1, 2)
        for index, factor in enumerate(factors):
            if index > 0 and index % 16 == 0:
                put, home = idle / 16, at_stake / 64
                idle, at_stake = idle - put + home, at_stake + put - home
            at_stake *= factor
            always *= factor
        purses.append(idle + at_stake)
    fraction = Fraction(0)
    for share in (Fraction(1, 64), Fraction(1, 8), Fraction(1, 2)):
        wealth = Fraction(1)
        for purse in purses:
            wealth *= 1 - share + share * purse
        fraction += wealth / 3
    late, waiting = Fraction(0), Fraction(1)
    for start in range(len(purses)):
        wealth = Fraction(1, (start + 1) * (start + 2))
        waiting -= wealth
        for purse in purses[start:]:
            wealth *= (1 + purse) / 2
        late += wealth
    return (always + fraction + late + waiting) / 3


def _factor(table: NoiseTable, bets: Sequence[int], answer: Observations, index: int) -> Fraction:
    at = max(one for one in range(BINS) if GAP_EDGES_MLOGIT[one] <= answer.gap_mlogit[index])
    if table.rule == "exact":
        x = Fraction(not answer.is_match[index])
    else:
        x = min(Fraction(answer.margin_mlogit[index], table.clip_mlogit), Fraction(1))
    stake, mean = Fraction(bets[at], PPB), Fraction(table.mean_max_ppb[at], PPB)
    return 1 + stake / mean * (x - mean)
