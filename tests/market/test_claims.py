"""When a seller claims: never at a loss, never too late, and most urgent first."""

from hypothesis import given, settings
from hypothesis import strategies as st

from unhosted.market.claims import (
    OLD_S,
    PAYOUT_MICROS,
    ROWS_MAX,
    URGENT_S,
    Claimable,
    ClaimFees,
    ClaimPlan,
    decide,
)
from unhosted.market.ids import ChannelId

NOW_S = 2_000_000_000
FEES = ClaimFees(base_micros=800, row_micros=500, payout_micros=700)


def _row(number: int, unclaimed: int, *, age_s: int = 60, closes_in_s: int | None = None) -> Claimable:
    return Claimable(
        channel_id=ChannelId(number.to_bytes(32, "big")),
        unclaimed_micros=unclaimed,
        since_unix_s=NOW_S - age_s,
        close_at_unix_s=0 if closes_in_s is None else NOW_S + closes_in_s,
    )


def _decide(*rows: Claimable, credit: int = 0, fees: ClaimFees = FEES) -> ClaimPlan:
    return decide(rows, credit_micros=credit, fees=fees, now_unix_s=NOW_S)


def _numbers(plan: ClaimPlan) -> list[int]:
    return [int.from_bytes(row, "big") for row in plan.rows]


def test_money_waits_until_the_fee_is_one_part_in_a_hundred() -> None:
    assert _numbers(_decide(_row(1, 129_999))) == []
    assert _numbers(_decide(_row(1, 130_000))) == [1]


def test_old_money_is_claimed_at_a_tenth() -> None:
    assert _numbers(_decide(_row(1, 13_000, age_s=OLD_S - 1))) == []
    assert _numbers(_decide(_row(1, 13_000, age_s=OLD_S))) == [1]
    assert _numbers(_decide(_row(1, 12_999, age_s=OLD_S))) == []


def test_a_closing_channel_is_claimed_while_anything_is_gained() -> None:
    assert _numbers(_decide(_row(1, 1_301, closes_in_s=9))) == [1]
    assert _decide(_row(1, 1_300, closes_in_s=9)).rows == ()


def test_closing_channels_share_a_transaction_that_none_could_pay_alone() -> None:
    rows = [_row(number, 900, closes_in_s=number) for number in range(1, 4)]
    assert _numbers(_decide(*rows)) == [1, 2, 3]
    assert _numbers(_decide(*rows[:2])) == []


def test_what_closes_soon_and_is_not_worth_the_fee_is_told() -> None:
    plan = _decide(_row(1, 400, closes_in_s=URGENT_S), _row(2, 400, closes_in_s=URGENT_S + 1))
    assert [int.from_bytes(row, "big") for row in plan.given_up] == [1]


def test_rows_ride_along_at_the_price_of_a_row() -> None:
    assert _numbers(_decide(_row(1, 50_000), _row(2, 130_000), _row(3, 49_999))) == [2, 1]


def test_what_closes_first_comes_first_then_what_is_worth_most() -> None:
    rows = (
        _row(1, 200_000),
        _row(2, 900_000),
        _row(3, 2_000, closes_in_s=7_200),
        _row(4, 2_000, closes_in_s=60),
    )
    assert _numbers(_decide(*rows)) == [4, 3, 2, 1]


def test_a_claim_has_at_most_a_hundred_rows_and_says_what_is_left() -> None:
    plan = _decide(*(_row(number, 200_000 + number) for number in range(130)))
    assert len(plan.rows) == ROWS_MAX
    assert plan.left_over == 30
    assert int.from_bytes(plan.rows[0], "big") == 129


def test_payout_waits_for_a_dollar() -> None:
    assert not _decide(credit=PAYOUT_MICROS - 1).pays_out
    assert _decide(credit=PAYOUT_MICROS).pays_out
    assert _decide(_row(1, 200_000), credit=800_000).pays_out
    dear = ClaimFees(base_micros=1, row_micros=1, payout_micros=PAYOUT_MICROS)
    assert not _decide(credit=PAYOUT_MICROS, fees=dear).pays_out


def test_nothing_unclaimed_is_nothing_to_do() -> None:
    assert _decide(_row(1, 0, closes_in_s=1)) == ClaimPlan(rows=(), pays_out=False, left_over=0, given_up=())


ROWS = st.lists(
    st.builds(
        Claimable,
        channel_id=st.integers(0, 1 << 32).map(lambda number: ChannelId(number.to_bytes(32, "big"))),
        unclaimed_micros=st.integers(0, 2_000_000),
        since_unix_s=st.integers(NOW_S - 3 * OLD_S, NOW_S),
        close_at_unix_s=st.just(0) | st.integers(NOW_S, NOW_S + 3 * OLD_S),
    ),
    max_size=30,
    unique_by=lambda row: row.channel_id,
)


@given(rows=ROWS, base=st.integers(0, 50_000), per_row=st.integers(0, 50_000))
@settings(max_examples=50, deadline=None)
def test_no_claim_costs_more_than_it_brings(rows: list[Claimable], base: int, per_row: int) -> None:
    fees = ClaimFees(base_micros=base, row_micros=per_row, payout_micros=0)
    plan = decide(rows, credit_micros=0, fees=fees, now_unix_s=NOW_S)
    value = {row.channel_id: row.unclaimed_micros for row in rows}
    assert all(value[row] > per_row for row in plan.rows)
    if plan.rows:
        assert sum(value[row] for row in plan.rows) > base + per_row * len(plan.rows)
    assert plan == decide(reversed(rows), credit_micros=0, fees=fees, now_unix_s=NOW_S)
