"""What one token does to a bet: exact factors, and their logarithms as integers.

A bet in a bin with greatest honest mean `mean` stakes a share `s` of the wealth: the token multiplies it by

    (1 - s) + s * X / mean                                  0 <= s < 1, 0 <= X <= 1, 0 < mean < 1

which is 1 + lambda * (X - mean) with lambda = s / mean. It is positive, and no more than 1 on average
whenever the mean of X, given all that came before and the bin, is at most `mean`.

All is computed by `decimal` in one context and rounded down, so that every platform gets the same digits and
wealth is never overstated.
"""

import functools
from bisect import bisect_right
from collections.abc import Iterator
from decimal import ROUND_FLOOR, Context, Decimal, DivisionByZero, InvalidOperation, Overflow

from unhosted.verify.noise import GAP_EDGES_MLOGIT, PPB, NoiseTable
from unhosted.verify.observations import Observations

NANONATS = 1_000_000_000
NANONATS_PER_DECADE = 2_302_585_093
"""ln 10, rounded up: a logarithm to base ten that it divides is rounded down."""

EXACT = Context(
    prec=28,
    rounding=ROUND_FLOOR,
    Emin=-100_000_000,
    Emax=100_000_000,
    traps=[InvalidOperation, DivisionByZero, Overflow],
)
"""28 digits, always named: the caller's own decimal context changes nothing here."""

LEVELS_MAX = 1_000
"""Levels of X, which is rounded down to one: a table of factors is at most 9 bins times this."""

TABLES_CACHED = 32
"""Tables of factors kept: a node bets by a few tables at a time, each at most a few megabytes."""


def bin_of(gap_mlogit: int) -> int:
    """The index of the bin that holds this gap."""
    return bisect_right(GAP_EDGES_MLOGIT, gap_mlogit) - 1


def log_down(value: Decimal) -> int:
    """Nanonats: the natural logarithm of a positive number, rounded down."""
    exact = EXACT.next_minus(EXACT.ln(value))
    return int(EXACT.scaleb(exact, 9).to_integral_value(ROUND_FLOOR, EXACT))


def exp_down(nanonats: int) -> Decimal:
    """The number with this logarithm, rounded down at the 28th digit."""
    return EXACT.next_minus(EXACT.exp(EXACT.scaleb(Decimal(nanonats), -9)))


class Bets:
    """The factors of one table, computed as they are met. Get it from `bets_of`."""

    __slots__ = ("_clip_mlogit", "_factors", "_increments", "_is_exact", "_levels", "_table")

    def __init__(self, table: NoiseTable) -> None:
        self._table = table
        self._is_exact = table.rule == "exact"
        self._levels = 1 if self._is_exact else min(table.clip_mlogit, LEVELS_MAX)
        self._clip_mlogit = table.clip_mlogit
        self._factors: dict[tuple[int, int], tuple[Decimal, ...]] = {}
        self._increments: dict[tuple[int, int], tuple[int, ...]] = {}

    @property
    def levels(self) -> int:
        """X is a whole number of these parts of 1."""
        return self._levels

    def level(self, margin_mlogit: int, is_match: bool) -> int:
        """X of a token, in parts of `levels`."""
        if self._is_exact:
            return 0 if is_match else 1
        return min(margin_mlogit, self._clip_mlogit) * self._levels // self._clip_mlogit

    def factors(self, bin_index: int, level: int) -> tuple[Decimal, ...]:
        """What the token multiplies each row's wealth by."""
        key = (bin_index, level)
        found = self._factors.get(key)
        if found is None:
            mean = self._table.mean_max_ppb[bin_index] * self._levels
            found = tuple(
                EXACT.divide(
                    Decimal((PPB - bets[bin_index]) * mean + bets[bin_index] * level * PPB),
                    Decimal(mean * PPB),
                )
                for bets in self._table.bets_ppb
            )
            self._factors[key] = found
        return found

    def each(self, seen: Observations) -> Iterator[tuple[Decimal, ...]]:
        """The factors of every token, in order."""
        for gap, margin, is_match in zip(seen.gap_mlogit, seen.margin_mlogit, seen.is_match, strict=True):
            yield self.factors(bin_of(gap), self.level(margin, is_match))

    def increments(self, bin_index: int, level: int) -> tuple[int, ...]:
        """The logarithms of `factors`, in nanonats rounded down."""
        key = (bin_index, level)
        found = self._increments.get(key)
        if found is None:
            found = tuple(log_down(factor) for factor in self.factors(bin_index, level))
            self._increments[key] = found
        return found


@functools.lru_cache(maxsize=TABLES_CACHED)
def bets_of(table: NoiseTable) -> Bets:
    return Bets(table)


def growth_nnat(table: NoiseTable, seen: Observations) -> tuple[int, ...]:
    """Nanonats that each row's wealth grows by per token, rounded down; negative for honest tokens.

    Raises: ValueError without a token.
    """
    if not seen.tokens:
        raise ValueError("no tokens: growth per token is not defined")
    bets = bets_of(table)
    totals = [0] * len(table.bets_ppb)
    for gap, margin, is_match in zip(seen.gap_mlogit, seen.margin_mlogit, seen.is_match, strict=True):
        for row, gain in enumerate(bets.increments(bin_of(gap), bets.level(margin, is_match))):
            totals[row] += gain
    return tuple(total // seen.tokens for total in totals)
