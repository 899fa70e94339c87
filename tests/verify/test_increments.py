"""What one token does to a bet: bins, levels, factors and their logarithms."""

from decimal import Decimal
from fractions import Fraction
from math import exp, log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.verify.tables import BETS, MEANS, drawn, noise_table, seen
from unhosted.verify.increments import LEVELS_MAX, bets_of, bin_of, exp_down, growth_nnat, log_down
from unhosted.verify.noise import GAP_EDGES_MLOGIT, PPB


def test_a_gap_on_an_edge_belongs_to_the_bin_above_it() -> None:
    for index, edge in enumerate(GAP_EDGES_MLOGIT):
        assert bin_of(edge) == index
        assert bin_of(edge + 1) == index
    for index, edge in enumerate(GAP_EDGES_MLOGIT[1:]):
        assert bin_of(edge - 1) == index
    assert bin_of(100_000) == len(GAP_EDGES_MLOGIT) - 1


def test_x_is_the_margin_cut_at_the_clip() -> None:
    bets = bets_of(noise_table(clip_mlogit=400))
    assert [bets.level(margin, False) for margin in (0, 1, 399, 400, 401, 100_000)] == [
        0,
        1,
        399,
        400,
        400,
        400,
    ]
    assert bets.levels == 400


def test_x_of_a_wide_clip_is_rounded_down_to_a_thousandth() -> None:
    bets = bets_of(noise_table(clip_mlogit=3_000))
    assert bets.levels == LEVELS_MAX
    assert [bets.level(margin, False) for margin in (0, 2, 3, 5, 2_999, 3_000)] == [0, 0, 1, 1, 999, 1_000]


def test_x_of_the_exact_rule_is_the_mismatch() -> None:
    bets = bets_of(noise_table(rule="exact"))
    assert (bets.level(5_000, True), bets.level(0, False), bets.levels) == (0, 1, 1)


@given(st.integers(0, 8), st.integers(0, 500))
def test_a_factor_is_one_plus_the_bet_on_x_less_its_mean_rounded_down(bin_index: int, level: int) -> None:
    factors = bets_of(noise_table()).factors(bin_index, level)
    for factor, row in zip(factors, BETS, strict=True):
        stake, mean = Fraction(row[bin_index], 1_000), Fraction(MEANS[bin_index], 1_000)
        exact = 1 + stake / mean * (Fraction(level, 500) - mean)
        assert 0 <= exact - Fraction(factor) < exact * Fraction(1, 10**27)


@given(st.integers(0, 8), st.integers(1, 500))
def test_a_factor_has_a_mean_of_at_most_one_whenever_x_has_at_most_its_mean(
    bin_index: int, level: int
) -> None:
    bets = bets_of(noise_table())
    mean, high = Fraction(MEANS[bin_index], 1_000), Fraction(level, 500)
    chance = min(Fraction(1), mean / high)
    for low, up in zip(bets.factors(bin_index, 0), bets.factors(bin_index, level), strict=True):
        assert (1 - chance) * Fraction(low) + chance * Fraction(up) <= 1


@given(st.integers(-(10**14), 10**14))
def test_logarithms_are_rounded_down_and_lose_a_nanonat_at_most(nanonats: int) -> None:
    assert nanonats - 1 <= log_down(exp_down(nanonats)) <= nanonats


def test_logarithms_are_those_of_the_factors() -> None:
    bets = bets_of(noise_table())
    for increment, factor in zip(bets.increments(4, 77), bets.factors(4, 77), strict=True):
        assert 0 <= log(factor) * 1e9 - increment < 1.001
    assert log_down(Decimal(1)) == -1, "a bound that is certainly below"
    assert float(exp_down(10**9)) == pytest.approx(exp(1), rel=1e-15)


def test_growth_is_the_mean_logarithm_of_each_row() -> None:
    table = noise_table()
    tokens = [(10, 0), (300, 450), (5_000, 0), (1_000, 600)]
    bets = bets_of(table)
    expected = [
        sum(bets.increments(bin_of(gap), bets.level(margin, margin == 0))[row] for gap, margin in tokens) // 4
        for row in range(2)
    ]
    assert list(growth_nnat(table, seen(tokens))) == expected
    with pytest.raises(ValueError, match="no tokens"):
        growth_nnat(table, seen([]))


def test_growth_tells_honest_tokens_from_cheap_ones() -> None:
    import numpy as np

    random = np.random.default_rng(1)
    table = noise_table()
    assert max(growth_nnat(table, drawn(random, 1_000, differs=[0.001] * 9))) < 0
    assert min(growth_nnat(table, drawn(random, 1_000, differs=[0.4] * 9))) > 0
    assert PPB == 10**9
