"""The rules of the spending cap, first by example, then against everything that hypothesis can think of."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings

from tests.market.spending_ledger import (
    NEXT_DAY_NS,
    NOW_NS,
    ONE,
    World,
    authorise,
    finish,
    heard,
    reserve,
)
from tests.market.spending_world import (
    DAY_S,
    DECEMBER,
    NOVEMBER,
    NOVEMBER_30_UNIX_S,
    NS,
    channel,
    histories,
    payee,
    request,
)
from unhosted.market.months import month_of
from unhosted.market.spending import decide, rolled
from unhosted.market.spending_state import SpendingState, step
from unhosted.market.spending_words import (
    CHANNELS_OPEN_MAX,
    NO_MONTH,
    REQUESTS_LIVE_MAX,
    CapChanged,
    ChannelClosed,
    ChannelFound,
    ChannelOpened,
    DepositSeen,
    DueStated,
    MoneyAuthorised,
    MoneyReserved,
    RequestLost,
    SpendingEvent,
    View,
)


def test_a_request_moves_money_from_reserved_to_spent() -> None:
    world = World(reserve(1, 100), authorise(1, 30))
    assert (world.book.spent_micros, world.book.reserved_micros, world.book.room_micros) == (30, 70, 200)
    world.all(authorise(1, 70), finish(1, 100))
    assert (world.book.spent_micros, world.book.reserved_micros, world.book.requests_live) == (100, 0, 0)


def test_the_cap_holds_over_all_channels_to_the_last_unit() -> None:
    world = World(reserve(1, 200, of=1), cap=300)
    assert world.reason(reserve(2, 101, of=2)) == "cap"
    world.all(reserve(2, 100, of=2))
    assert world.reason(reserve(3, 1, of=2)) == "cap"


def test_a_refusal_says_every_number() -> None:
    world = World(reserve(1, 150), authorise(1, 40), cap=200)
    refusal = world.step(reserve(2, 60, of=2)).refusal
    assert refusal is not None
    said = (refusal.asked_micros, refusal.cap_micros, refusal.spent_micros, refusal.reserved_micros)
    assert said == (60, 200, 40, 110)


def test_a_channel_is_never_authorised_above_its_deposit() -> None:
    world = World(reserve(1, 150))
    assert world.reason(reserve(2, 51)) == "deposit"
    world.all(DepositSeen(channel_id=ONE, deposit_micros=100, claimed_micros=0))  # a top-up that vanished
    world.all(authorise(1, 100))
    assert world.reason(authorise(1, 1)) == "deposit"


def test_nothing_is_authorised_beyond_what_was_reserved() -> None:
    world = World(reserve(1, 10))
    assert world.reason(authorise(1, 11)) == "reservation"
    assert world.reason(authorise(2, 1)) == "unknown_request"
    assert world.reason(authorise(1, -1)) == "range"


def test_what_was_authorised_and_not_used_serves_the_next_request_first() -> None:
    world = World(reserve(1, 100), authorise(1, 100), finish(1, 60))
    assert world.state.channels[ONE].due_max_micros == 60
    world.all(reserve(2, 50))
    assert world.book.reserved_micros == 10, "40 of the 50 were authorised before"
    assert world.reason(authorise(2, 11)) == "reservation"
    world.all(authorise(2, 10), finish(2, 50))
    assert world.state.channels[ONE].authorised_micros == world.state.channels[ONE].due_max_micros == 110


def test_a_surplus_is_used_even_when_the_cap_has_no_room() -> None:
    world = World(reserve(1, 100), authorise(1, 100), finish(1, 60), cap=100)
    world.all(reserve(2, 40))
    assert world.reason(reserve(3, 1)) == "cap"


def test_a_debt_stays_reserved_until_it_is_authorised() -> None:
    world = World(reserve(1, 100), authorise(1, 80), finish(1, 90))
    assert world.book.reserved_micros == 10
    world.all(reserve(2, 0), authorise(2, 10), finish(2, 0))
    assert world.book.reserved_micros == 0


def test_a_lost_request_leaves_no_surplus_until_the_seller_says_what_is_due() -> None:
    world = World(reserve(1, 100), authorise(1, 80), RequestLost(request_id=request(1)))
    row = world.state.channels[ONE]
    assert (row.due_min_micros, row.due_max_micros, world.book.reserved_micros) == (0, 80, 0)
    assert world.reason(DueStated(channel_id=ONE, due_micros=81)) == "range"
    world.all(DueStated(channel_id=ONE, due_micros=30), reserve(2, 50))
    assert world.book.reserved_micros == 0, "50 of the 80 were not used"
    assert world.reason(DueStated(channel_id=ONE, due_micros=29)) == "range"


def test_a_broken_stream_may_be_due_for_more_than_what_arrived() -> None:
    world = World(reserve(1, 100), authorise(1, 80), finish(1, 60, 80))
    assert world.reason(DueStated(channel_id=ONE, due_micros=59)) == "range"
    world.all(DueStated(channel_id=ONE, due_micros=70))


def test_a_request_owes_at_most_its_reservation() -> None:
    world = World(reserve(1, 100), authorise(1, 80))
    assert world.reason(finish(1, 101)) == "range"
    assert world.reason(finish(1, 70, 60)) == "range"
    assert world.reason(finish(2, 1)) == "unknown_request"


def test_a_cap_that_is_lowered_below_what_is_spent_stops_what_runs() -> None:
    world = World(reserve(1, 100), authorise(1, 40), CapChanged(cap_micros=30))
    assert world.reason(authorise(1, 1)) == "cap"
    assert world.reason(reserve(2, 1)) == "cap"
    world.all(CapChanged(cap_micros=45), authorise(1, 5))
    assert world.reason(authorise(1, 1)) == "cap"


def test_a_cap_of_nothing_pays_nothing_not_even_from_a_surplus() -> None:
    world = World(reserve(1, 100), authorise(1, 100), finish(1, 0), CapChanged(cap_micros=0))
    assert world.reason(reserve(2, 1)) == "cap"


def test_a_month_turns_when_both_clocks_have_reached_it() -> None:
    world = World(reserve(1, 200), authorise(1, 120), cap=200)
    world.now_ns = NEXT_DAY_NS
    world.all(authorise(1, 10))
    assert world.book.month == NOVEMBER, "the machine's clock alone opens no budget"
    world.now_ns = NOW_NS
    world.all(heard(NOVEMBER_30_UNIX_S + DAY_S), authorise(1, 10))
    assert world.book.month == NOVEMBER, "the chain's word alone opens none either"
    world.now_ns = NEXT_DAY_NS
    world.all(authorise(1, 10))
    assert (world.book.month, world.book.spent_micros) == (DECEMBER, 10)
    assert dict(world.state.spent[ONE]) == {NOVEMBER: 140, DECEMBER: 10}


def test_a_month_never_goes_back() -> None:
    world = World(reserve(1, 200), authorise(1, 10))
    world.now_ns = NEXT_DAY_NS
    world.all(heard(NOVEMBER_30_UNIX_S + DAY_S), authorise(1, 20))
    for now_ns in (NOW_NS, 0, -NS, 1 << 80):
        world.now_ns = now_ns
        world.all(authorise(1, 1))
        assert world.book.month == DECEMBER


def test_what_is_reserved_over_midnight_fits_the_new_month_or_stops() -> None:
    world = World(reserve(1, 200), authorise(1, 50), cap=200)
    world.now_ns = NEXT_DAY_NS
    world.all(heard(NOVEMBER_30_UNIX_S + DAY_S), CapChanged(cap_micros=100))
    assert (world.book.spent_micros, world.book.reserved_micros) == (0, 150)
    assert world.reason(reserve(2, 1, of=2)) == "cap"
    world.all(authorise(1, 100))
    assert world.reason(authorise(1, 1)) == "cap"


def test_the_part_of_each_month_is_a_line_of_its_own() -> None:
    world = World(reserve(1, 200), authorise(1, 50))
    world.now_ns = NEXT_DAY_NS
    world.all(heard(NOVEMBER_30_UNIX_S + DAY_S))
    lines = [*world.step(authorise(1, 30)).entries, *world.step(finish(1, 75)).entries]
    assert [(line.month, line.amount_micros, line.counted_micros) for line in lines] == [
        (NOVEMBER, 0, 50),
        (DECEMBER, 75, 30),
    ]


@pytest.mark.parametrize(
    ("chain_unix_s", "month"),
    [
        (NOVEMBER_30_UNIX_S, NOVEMBER),
        (NOVEMBER_30_UNIX_S + DAY_S, DECEMBER),  # apart by a day: the later month
        (NOVEMBER_30_UNIX_S - 29 * DAY_S, NOVEMBER),
        (NOVEMBER_30_UNIX_S - 40 * DAY_S, NO_MONTH),
        (NOVEMBER_30_UNIX_S + 40 * DAY_S, NO_MONTH),
    ],
)
def test_the_first_month_is_the_one_both_clocks_agree_on(chain_unix_s: int, month: int) -> None:
    state, _ = step(SpendingState(), heard(chain_unix_s), NOW_NS)
    assert state.book.month == month
    opened = ChannelOpened(channel_id=ONE, payee=payee(1), deposit_micros=9)
    _, decision = step(state, opened, NOW_NS)
    assert (decision.refusal is not None and decision.refusal.reason == "clocks_differ") == (
        month == NO_MONTH
    )


def test_nothing_is_opened_before_the_chains_time_is_known() -> None:
    opened = ChannelOpened(channel_id=ONE, payee=payee(1), deposit_micros=9)
    _, decision = step(SpendingState(), opened, NOW_NS)
    assert decision.refusal is not None and decision.refusal.reason == "time_unknown"


def test_tables_are_bounded() -> None:
    view = View(book=replace(World().book, requests_live=REQUESTS_LIVE_MAX))
    refusal = decide(view, reserve(1, 1), NOW_NS).refusal
    assert refusal is not None and refusal.reason == "too_many"
    view = View(book=replace(World().book, channels_open=CHANNELS_OPEN_MAX))
    opened = ChannelOpened(channel_id=ONE, payee=payee(1), deposit_micros=1)
    refusal = decide(view, opened, NOW_NS).refusal
    assert refusal is not None and refusal.reason == "too_many"


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(history=histories)
def test_the_cap_holds_whatever_happens(history: Sequence[tuple[SpendingEvent, int]]) -> None:
    world = World()
    signed = dict.fromkeys((1, 2, 3), 0)
    for event, now_ns in history:
        world.now_ns = now_ns
        before, decision = world.state, world.step(event)
        book = decision.book
        assert book.month >= before.book.month
        if book.month > before.book.month and not before.book.must_reread:
            assert book.month <= month_of(max(now_ns // NS, book.chain_unix_s))
        if decision.refusal is not None:
            assert replace(world.state, book=before.book) == before
            assert book == rolled(before.book, now_ns)
        elif isinstance(event, MoneyReserved):
            assert book.spent_micros + book.reserved_micros <= max(
                book.cap_micros, before.book.spent_micros + before.book.reserved_micros
            )
        elif isinstance(event, MoneyAuthorised):
            assert event.delta_micros == 0 or book.spent_micros <= book.cap_micros
            assert decision.channel is not None
            row = decision.channel
            assert event.delta_micros == 0 or row.authorised_micros <= row.deposit_micros
            signed[row.channel_id[0]] = row.authorised_micros
        elif book.reserved_micros > before.book.reserved_micros:
            assert isinstance(event, ChannelFound), "only a channel that is open again reserves again"
    for number, amount in signed.items():
        row_now = world.state.channels.get(channel(number))
        assert (
            row_now is None
            or row_now.is_closed
            or row_now.authorised_micros >= amount
            or any(isinstance(event, ChannelClosed | ChannelFound) for event, _ in history)
        )
