"""Addresses, amounts, prices, months and channels: the small words that everything else is made of."""

from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pytest
from eth_utils.address import to_checksum_address
from hypothesis import given
from hypothesis import strategies as st

from unhosted.market.channels import ChannelConfig, Voucher
from unhosted.market.ids import Address, ChannelId, address_text, parse_address, parse_peer
from unhosted.market.money import (
    AMOUNT_MICROS_MAX,
    PRICE_MICROS_MAX,
    TOKENS_MAX,
    Micros,
    Price,
    cost_micros,
    format_usd,
    parse_usd,
)
from unhosted.market.months import UNIX_S_MAX, month_of, month_text

ADDRESSES = st.binary(min_size=20, max_size=20).map(Address)
PRICES = st.builds(
    Price,
    in_micros_per_mtok=st.integers(0, PRICE_MICROS_MAX),
    out_micros_per_mtok=st.integers(0, PRICE_MICROS_MAX),
)
TOKENS = st.integers(0, TOKENS_MAX)


@given(ADDRESSES)
def test_an_address_is_shown_as_wallets_show_it_and_read_back(address: Address) -> None:
    text = address_text(address)
    assert text == to_checksum_address(address)
    assert parse_address(text) == parse_address(text.lower()) == address


@pytest.mark.parametrize(
    "text",
    [
        "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAe",  # a digit is missing
        "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAee0",
        "5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
        "0x5AAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",  # a capital that should be small
        "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAeg",
        "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed\n",
    ],
)
def test_a_mistyped_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"address|checksum"):
        parse_address(text)


@pytest.mark.parametrize(
    "text", ["", "12D3KooW", "12D3KooW" + "0" * 44, "Qm" + "a" * 50, "12D3KooWw" + "a" * 44]
)
def test_what_is_no_peer_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a peer id"):
        parse_peer(text)


@given(PRICES, TOKENS, TOKENS)
def test_a_cost_is_the_exact_one_rounded_up_by_less_than_one_unit(
    price: Price, tokens_in: int, tokens_out: int
) -> None:
    exact = Fraction(tokens_in * price.in_micros_per_mtok + tokens_out * price.out_micros_per_mtok, 1_000_000)
    assert 0 <= cost_micros(price, tokens_in=tokens_in, tokens_out=tokens_out) - exact < 1


@given(PRICES, st.integers(0, 4096), st.lists(st.integers(1, 500), max_size=30))
def test_paying_window_by_window_costs_no_more_than_paying_at_the_end(
    price: Price, tokens_in: int, windows: list[int]
) -> None:
    paid_micros, tokens_out = 0, 0
    for window in windows:
        tokens_out += window
        due_micros = cost_micros(price, tokens_in=tokens_in, tokens_out=tokens_out)
        assert due_micros >= paid_micros
        paid_micros = due_micros
    assert paid_micros in (0, cost_micros(price, tokens_in=tokens_in, tokens_out=tokens_out))


@pytest.mark.parametrize("tokens", [-1, TOKENS_MAX + 1])
def test_counts_outside_their_range_have_no_cost(tokens: int) -> None:
    price = Price(in_micros_per_mtok=1, out_micros_per_mtok=1)
    with pytest.raises(ValueError, match=f"tokens_in {tokens} is outside"):
        cost_micros(price, tokens_in=tokens, tokens_out=0)
    with pytest.raises(ValueError, match=f"tokens_out {tokens} is outside"):
        cost_micros(price, tokens_in=0, tokens_out=tokens)


@pytest.mark.parametrize("price", [-1, PRICE_MICROS_MAX + 1])
def test_a_price_outside_its_range_is_none(price: int) -> None:
    with pytest.raises(ValueError, match="in_micros_per_mtok"):
        Price(in_micros_per_mtok=price, out_micros_per_mtok=0)
    with pytest.raises(ValueError, match="out_micros_per_mtok"):
        Price(in_micros_per_mtok=0, out_micros_per_mtok=price)


@given(st.integers(0, 10**20))
def test_an_amount_is_written_exactly_and_read_back(micros: int) -> None:
    text = format_usd(micros)
    assert parse_usd(text) == parse_usd(f"${text}") == micros
    assert Fraction(text) * 1_000_000 == micros
    assert format_usd(-micros) == (f"-{text}" if micros else text)


def test_amounts_have_two_decimals_or_as_many_as_they_need() -> None:
    assert [format_usd(micros) for micros in (0, 1, 250_000, 1_250_000, 1_234_567)] == [
        "0.00",
        "0.000001",
        "0.25",
        "1.25",
        "1.234567",
    ]


@pytest.mark.parametrize(
    "text", ["", "-1", "1.", ".5", "1,5", "0.0000001", "1e3", "nan", "\u0661", "1 2", "9" * 16]
)
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not an amount in USD"):
        parse_usd(text)


@given(st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31, 23, 59, 59)))
def test_a_month_is_the_calendars(moment: datetime) -> None:
    unix_s = (moment.replace(microsecond=0, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(
        seconds=1
    )
    assert month_of(unix_s) == moment.year * 12 + moment.month - 1
    assert month_text(month_of(unix_s)) == f"{moment.year:04d}-{moment.month:02d}"


def test_a_month_begins_at_its_first_second_in_utc() -> None:
    for year in (*range(1971, 2110), 2399, 2400, 4000):
        for number in range(1, 13):
            start_unix_s = int(datetime(year, number, 1, tzinfo=UTC).timestamp())
            assert month_of(start_unix_s) == year * 12 + number - 1
            assert month_of(start_unix_s - 1) == year * 12 + number - 2


@pytest.mark.parametrize("unix_s", [-1, UNIX_S_MAX + 1])
def test_a_time_outside_the_contracts_has_no_month(unix_s: int) -> None:
    with pytest.raises(ValueError, match=f"time {unix_s} s is outside"):
        month_of(unix_s)


def _config(**changes: object) -> ChannelConfig:
    given: dict[str, object] = {
        "payer": Address(b"\1" * 20),
        "signer": Address(b"\2" * 20),
        "payee": Address(b"\3" * 20),
        "delay_s": 86_400,
        "salt": bytes(32),
    }
    return ChannelConfig(**(given | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"payer": Address(bytes(20))},
        {"signer": Address(b"\1" * 19)},
        {"payee": Address(b"\1" * 21)},
        {"delay_s": 3_599},
        {"delay_s": 30 * 86_400 + 1},
        {"salt": bytes(31)},
    ],
    ids=str,
)
def test_a_channel_that_the_contract_would_refuse_is_none(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(change)).split("_")[0]):
        _config(**change)


@pytest.mark.parametrize("amount_micros", [-1, AMOUNT_MICROS_MAX + 1])
def test_a_voucher_outside_the_contracts_range_is_none(amount_micros: int) -> None:
    with pytest.raises(ValueError, match="is outside 0 to"):
        Voucher(channel_id=ChannelId(bytes(32)), amount_micros=Micros(amount_micros))
