"""What the chain and the sellers say of channels, and what it does to what is spent."""

from tests.market.spending_ledger import NEXT_DAY_NS, ONE, TWO, World, authorise, finish, heard, reserve
from tests.market.spending_world import (
    DAY_S,
    DECEMBER,
    NOVEMBER,
    NOVEMBER_30_UNIX_S,
    NS,
    channel,
    payee,
)
from unhosted.market.spending_words import (
    ChannelClosed,
    ChannelFound,
    DepositSeen,
    DueStated,
    HistoryLost,
    RereadDone,
    RereadNeeded,
    VoucherShown,
)


def test_only_a_closed_channel_gives_money_back_newest_month_first() -> None:
    world = World(reserve(1, 200), authorise(1, 100))
    world.now_ns = NEXT_DAY_NS
    world.all(heard(NOVEMBER_30_UNIX_S + DAY_S), authorise(1, 50), finish(1, 150))
    world.all(ChannelClosed(channel_id=ONE, claimed_micros=80))
    assert dict(world.state.spent[ONE]) == {NOVEMBER: 80, DECEMBER: 0}
    assert (world.book.spent_micros, world.book.channels_open) == (0, 1)
    assert world.reason(reserve(2, 1)) == "closed_channel"
    again = world.step(ChannelClosed(channel_id=ONE, claimed_micros=80))
    assert again.entries == ()


def test_a_channel_that_closes_under_a_live_request_frees_what_it_had_reserved() -> None:
    world = World(reserve(1, 200), authorise(1, 100), ChannelClosed(channel_id=ONE, claimed_micros=60))
    assert (world.book.spent_micros, world.book.reserved_micros) == (60, 0)
    assert world.reason(authorise(1, 1)) == "closed_channel"
    world.all(finish(1, 90))
    assert world.book.requests_live == 0


def test_a_higher_voucher_of_ours_counts_even_above_the_cap() -> None:
    world = World(VoucherShown(channel_id=ONE, amount_micros=150), cap=100)
    assert world.book.spent_micros == 150
    assert world.reason(reserve(1, 1, of=2)) == "cap"
    world.all(VoucherShown(channel_id=ONE, amount_micros=10))
    assert world.state.channels[ONE].authorised_micros == 150, "never lowered"


def test_what_a_shown_voucher_was_for_may_be_due_and_is_no_surplus() -> None:
    world = World(reserve(1, 50), VoucherShown(channel_id=ONE, amount_micros=30))
    row = world.state.channels[ONE]
    assert (row.due_min_micros, row.due_max_micros, world.book.reserved_micros) == (0, 30, 50)
    world.all(DueStated(channel_id=ONE, due_micros=10))
    assert world.book.reserved_micros == 30, "20 of the 30 were not used"


def test_a_claim_above_what_was_authorised_counts() -> None:
    world = World(DepositSeen(channel_id=ONE, deposit_micros=200, claimed_micros=70))
    assert (world.book.spent_micros, world.state.channels[ONE].authorised_micros) == (70, 70)


def found(number: int, claimed: int, *, is_closed: bool = False, closed_unix_s: int = 0) -> ChannelFound:
    return ChannelFound(
        channel_id=channel(number),
        payee=payee(number),
        deposit_micros=250,
        claimed_micros=claimed,
        is_closed=is_closed,
        closed_unix_s=closed_unix_s,
    )


def test_an_unknown_channel_on_the_chain_counts_with_its_whole_deposit() -> None:
    world = World(found(3, 10))
    assert world.book.spent_micros == 250
    assert world.reason(reserve(1, 1, of=3)) == "deposit"


def test_an_unknown_closed_channel_counts_what_was_claimed_in_the_month_of_its_close() -> None:
    world = World(
        found(3, 40, is_closed=True, closed_unix_s=NOVEMBER_30_UNIX_S - 40 * DAY_S),
        found(4, 30, is_closed=True),
        found(5, 7, is_closed=True, closed_unix_s=NOVEMBER_30_UNIX_S + 40 * DAY_S),
    )
    assert world.book.spent_micros == 37, "a close that is said to lie ahead counts now"


def test_a_known_channel_on_the_chain_changes_nothing_that_is_known() -> None:
    world = World(reserve(1, 100), authorise(1, 30), found(1, 20))
    row = world.state.channels[ONE]
    assert (row.authorised_micros, row.deposit_micros, world.book.spent_micros) == (30, 250, 30)


def test_a_ledger_that_lost_history_pays_nothing_until_all_was_read() -> None:
    world = World(reserve(1, 100), authorise(1, 30), RereadNeeded())
    assert world.reason(authorise(1, 1)) == "reread"
    assert world.reason(found(1, 0)) == "time_unknown", "the time it knew may be old as well"
    assert world.reason(RereadDone()) == "time_unknown"
    world.now_ns = NEXT_DAY_NS
    world.all(heard(NOVEMBER_30_UNIX_S + DAY_S), found(1, 0), HistoryLost(channel_id=TWO), RereadDone())
    assert (world.book.month, world.book.spent_micros) == (DECEMBER, 220 + 200), "in this month"
    assert world.state.channels[ONE].authorised_micros == 250


def test_a_lost_ledger_and_a_wrong_clock_pay_nothing() -> None:
    world = World(RereadNeeded())
    world.now_ns = (NOVEMBER_30_UNIX_S - 40 * DAY_S) * NS
    world.all(heard(NOVEMBER_30_UNIX_S))
    assert world.reason(RereadDone()) == "clocks_differ"
