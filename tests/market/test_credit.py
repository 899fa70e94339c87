"""The credit window: the table of what each side can lose, and the numbers that it is made of."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unhosted.market.credit import (
    UNSAFE_DEPOSIT_MICROS_MAX,
    WINDOW_TOKENS_MAX,
    WINDOW_TOKENS_MIN,
    loss_max,
    tokens_within,
    usable_deposit_micros,
    window_tokens,
    write_off_max_micros,
)
from unhosted.market.money import PRICE_MICROS_MAX, Price, cost_micros

PRICES = st.builds(
    Price,
    in_micros_per_mtok=st.integers(0, PRICE_MICROS_MAX),
    out_micros_per_mtok=st.integers(0, PRICE_MICROS_MAX),
)


def _out(micros: int) -> Price:
    return Price(in_micros_per_mtok=100_000, out_micros_per_mtok=micros)


@pytest.mark.parametrize(
    ("out_micros", "window"),
    [(0, 1024), (50_000, 1000), (500_000, 100), (3_000_000, 16), (10_000_000, 16), (500, 2000), (1, 4096)],
)
def test_a_window_is_worth_a_twentieth_of_a_thousandth_dollar(out_micros: int, window: int) -> None:
    """Within 16 and 1,024 tokens, and at least one micro-USDC unless tokens are all but free."""
    assert window_tokens(_out(out_micros)) == window


@pytest.mark.parametrize(
    ("out_micros", "window", "loss"),
    [
        (50_000, 16, 1),
        (50_000, 64, 4),
        (50_000, 256, 13),
        (50_000, 1024, 52),
        (500_000, 16, 8),
        (500_000, 64, 32),
        (500_000, 256, 128),
        (500_000, 1024, 512),
        (3_000_000, 16, 48),
        (3_000_000, 64, 192),
        (3_000_000, 1024, 3072),
        (10_000_000, 16, 160),
        (10_000_000, 256, 2560),
        (10_000_000, 1024, 10_240),
    ],
)
def test_losses_are_those_of_the_table(out_micros: int, window: int, loss: int) -> None:
    losses = loss_max(_out(out_micros), tokens_in=0, window=window)
    assert losses.seller_micros == losses.buyer_micros == losses.buyer_first_micros == loss


def test_a_buyers_first_loss_has_the_prompt_in_it() -> None:
    losses = loss_max(_out(3_000_000), tokens_in=4_000, window=16)
    assert (losses.buyer_first_micros, losses.buyer_micros) == (448, 48)


@settings(max_examples=60, deadline=None)
@given(price=PRICES, tokens_in=st.integers(0, 1 << 20), micros=st.integers(0, 1 << 50))
def test_tokens_within_is_the_inverse_of_the_cost(price: Price, tokens_in: int, micros: int) -> None:
    tokens = tokens_within(price, tokens_in=tokens_in, micros=micros)
    if tokens < 0:
        assert cost_micros(price, tokens_in=tokens_in, tokens_out=0) > micros
        return
    assert cost_micros(price, tokens_in=tokens_in, tokens_out=tokens) <= micros
    if tokens < 1 << 40:
        assert cost_micros(price, tokens_in=tokens_in, tokens_out=tokens + 1) > micros


@settings(max_examples=60, deadline=None)
@given(price=PRICES)
def test_windows_stay_in_their_bounds(price: Price) -> None:
    window = window_tokens(price)
    assert WINDOW_TOKENS_MIN <= window <= 4 * WINDOW_TOKENS_MAX
    if window > WINDOW_TOKENS_MIN:
        assert loss_max(price, tokens_in=0, window=window).seller_micros <= 50


def test_little_of_an_unsafe_deposit_counts() -> None:
    assert usable_deposit_micros(safe_micros=0, latest_micros=9) == 9
    assert usable_deposit_micros(safe_micros=0, latest_micros=1_000_000) == UNSAFE_DEPOSIT_MICROS_MAX
    assert usable_deposit_micros(safe_micros=300_000, latest_micros=1_000_000) == 300_000


def test_forgiving_grows_with_what_was_paid() -> None:
    assert write_off_max_micros(0) == 1_000
    assert write_off_max_micros(1_000_000) == 11_000
