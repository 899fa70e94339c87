"""Which receipts are checked: bounds, money, and that the draw has the chance it says."""

import hashlib
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unhosted.verify.selection import (
    ENTROPY_BYTES,
    MICROS_MAX,
    PPM,
    PROBATION_REQUESTS,
    PROBATION_TOKENS,
    RATE_MIN_PPM,
    History,
    is_drawn,
    prefix_tokens,
    rate_ppm,
)
from unhosted.verify.verdicts import Stage

STAGES = tuple(Stage)
dues = st.integers(0, 1_000_000)


def settled(checked_ok: int, *, receipts: int = 0, due_micros: int = 0) -> History:
    """A history past its probation."""
    checked = max(PROBATION_REQUESTS, checked_ok)
    return History(
        checked=checked,
        checked_tokens=PROBATION_TOKENS,
        checked_ok=checked_ok,
        receipts=receipts,
        due_micros=due_micros,
    )


histories = st.builds(
    settled, st.integers(0, 100_000), receipts=st.integers(0, 100_000), due_micros=st.integers(0, 1 << 40)
)


def entropy(number: int) -> bytes:
    return hashlib.blake2b(number.to_bytes(8, "big"), digest_size=ENTROPY_BYTES).digest()


def test_all_are_drawn_until_ten_requests_or_five_thousand_tokens_were_checked() -> None:
    for checked in range(PROBATION_REQUESTS):
        assert rate_ppm(History(checked=checked, checked_ok=checked, receipts=500)) == PPM
    ten = History(checked=10, checked_ok=10, checked_tokens=400, receipts=10)
    assert rate_ppm(ten) == 316_227
    one_long = History(checked=1, checked_ok=1, checked_tokens=PROBATION_TOKENS, receipts=1)
    assert rate_ppm(one_long) == PPM, "one long honest answer buys no lower rate"
    unchecked = History(receipts=10_000)
    assert rate_ppm(unchecked) == PPM, "answers that could not be checked do not end probation"


@given(histories, st.sampled_from(STAGES), dues)
def test_a_rate_is_never_below_two_percent_nor_above_all(history: History, stage: Stage, due: int) -> None:
    assert RATE_MIN_PPM <= rate_ppm(history, stage, due_micros=due) <= PPM


@given(histories, dues)
def test_suspicion_never_lowers_a_rate_and_a_hold_checks_all(history: History, due: int) -> None:
    rates = [rate_ppm(history, stage, due_micros=due) for stage in STAGES]
    assert rates == sorted(rates)
    assert rates[1] == min(PPM, 5 * rates[0]) or rates[0] * 5 > PPM - 5 or rates[1] - 5 * rates[0] in range(5)
    assert rates[2:] == [PPM, PPM]


@given(histories, st.sampled_from(STAGES), dues, dues)
def test_a_dearer_request_is_drawn_at_least_as_often(
    history: History, stage: Stage, due: int, other: int
) -> None:
    low, high = sorted((due, other))
    assert rate_ppm(history, stage, due_micros=low) <= rate_ppm(history, stage, due_micros=high)


@given(st.lists(st.integers(1, 100_000), min_size=1, max_size=40), st.integers(100, 100_000))
def test_dear_requests_are_checked_at_least_as_often_for_each_unit_of_money(
    all_dues: list[int], checked_ok: int
) -> None:
    """Above the mean the chance grows in proportion to the due, until all are checked."""
    history = settled(checked_ok, receipts=len(all_dues), due_micros=sum(all_dues))
    base = rate_ppm(history)
    mean = Fraction(sum(all_dues), len(all_dues))
    for due in all_dues:
        rate = rate_ppm(history, due_micros=due)
        if rate < PPM and due > mean:
            assert abs(Fraction(rate, 1) / due - Fraction(base, 1) / mean) <= Fraction(1, due)
    expected_share = Fraction(
        sum(rate_ppm(history, due_micros=due) * due for due in all_dues), PPM * sum(all_dues)
    )
    assert expected_share >= Fraction(base, PPM), "the share of money checked is at least the rate"


def test_the_rate_falls_with_the_root_of_clean_checks() -> None:
    assert [rate_ppm(settled(ok)) for ok in (16, 100, 400, 2_500, 10**6)] == [
        250_000,
        100_000,
        50_000,
        20_000,
        20_000,
    ]


def test_the_buyers_wish_goes_before_all() -> None:
    assert rate_ppm(History(), wish="never") == 0
    assert rate_ppm(settled(10_000), wish="always") == PPM
    assert not any(is_drawn(0, entropy(one)) for one in range(50))
    assert all(is_drawn(PPM, entropy(one)) for one in range(50))
    assert is_drawn(PPM, b"\xff" * ENTROPY_BYTES)


@pytest.mark.parametrize("chance", [20_000, 100_000, 500_000])
def test_draws_come_as_often_as_they_say(chance: int) -> None:
    """Chi-square with one degree of freedom: 10.83 is passed once in a thousand."""
    count = 4_000
    drawn = sum(is_drawn(chance, entropy(one)) for one in range(count))
    expected = count * chance / PPM
    chi_square = (drawn - expected) ** 2 / expected + (drawn - expected) ** 2 / (count - expected)
    assert chi_square < 10.83


def test_short_entropy_and_impossible_histories_are_refused() -> None:
    with pytest.raises(ValueError, match="31 bytes"):
        is_drawn(1, bytes(31))
    with pytest.raises(ValueError, match="outside"):
        is_drawn(PPM + 1, bytes(32))
    with pytest.raises(ValueError, match="checked_ok 2"):
        History(checked=1, checked_ok=2)
    with pytest.raises(ValueError, match="due_micros"):
        History(due_micros=MICROS_MAX + 1)


@given(st.integers(1, 1 << 20), st.integers(1, 1 << 16), st.integers(0, 1 << 40))
def test_a_prefix_is_within_the_answer_and_whole_where_it_is_cheap(
    tokens: int, budget: int, seed: int
) -> None:
    depth = prefix_tokens(tokens, entropy(seed), budget_tokens=budget)
    assert 1 <= depth <= tokens
    if tokens <= budget:
        assert depth == tokens


@pytest.mark.parametrize(("tokens", "budget"), [(10_000, 1_000), (1_000, 999), (100_000, 64), (4_096, 256)])
def test_a_prefix_reaches_the_last_token_sometimes_and_costs_the_budget_on_average(
    tokens: int, budget: int
) -> None:
    """By going through all runs of coin throws: the chance of each depth is exact."""
    chance_by_depth: dict[int, Fraction] = {}
    for heads in range(60):  # exactly so many ones at the low end
        bits = (1 << heads) - 1
        depth = prefix_tokens(tokens, bits.to_bytes(ENTROPY_BYTES, "big"), budget_tokens=budget)
        chance_by_depth[depth] = chance_by_depth.get(depth, Fraction(0)) + Fraction(1, 2 ** (heads + 1))
    chance_by_depth[tokens] += 1 - sum(chance_by_depth.values())
    assert max(chance_by_depth) == tokens
    mean = sum(depth * chance for depth, chance in chance_by_depth.items())
    assert mean <= budget
    start = min(chance_by_depth)
    for token in range(1, tokens + 1, max(1, tokens // 97)):
        reached = sum(chance for depth, chance in chance_by_depth.items() if depth >= token)
        assert reached >= min(Fraction(1), Fraction(start, 2 * token))


def test_an_answer_of_nothing_has_an_empty_prefix() -> None:
    assert prefix_tokens(0, bytes(32), budget_tokens=5) == 0
    with pytest.raises(ValueError, match="budget of 0"):
        prefix_tokens(5, bytes(32), budget_tokens=0)
