"""The rules of the spending cap: what may be reserved, authorised and given back, as pure decisions.

1. Order: reserve, contact the seller, then per window authorise, *then* sign. What is authorised is spent:
   whether the voucher was signed or arrived is nobody's to know after a crash.
2. spent(month) + reserved <= cap whenever something is reserved; spent(month) <= cap whenever something is
   authorised. A cap that was lowered under what runs stops it at the new cap.
3. Vouchers are cumulative per channel, so is the account: reserved on a channel is what finished requests owe
   and live ones may come to owe, less what is authorised. Money that was authorised and not used (the
   surplus) thus serves the next request before anything new is authorised.
4. Only the chain lowers what is spent: a closed channel gives back what was authorised and not claimed, from
   the newest month backwards, since the oldest vouchers are the ones that were claimed.
5. The month is UTC and never goes back. It goes on when this machine's clock *and* the chain's newest block
   have both reached it, so neither a wrong clock nor a lying endpoint opens a fresh budget. Reservations go
   along: together they fit, because they fitted beside what was spent. Before the first payment, and when
   history was lost, the two clocks must agree instead, since there is no month yet to hold on to.
6. What is not known is counted in full: a channel found on the chain, or one whose history was lost, counts
   with its whole deposit, and nothing is reserved until all were read again.

Not handled here: who is alive (the ledger's owners), whether a signature is good (keys), and what a request
is worth (terms). Both the ledger on disk and the one in memory run this file.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from unhosted.market.months import UNIX_S_MAX, month_of
from unhosted.market.spending_channels import CHANNEL_RULES
from unhosted.market.spending_rows import accept, agreed_month, is_amount, refuse, why_not_counted
from unhosted.market.spending_words import (
    LEDGER_MICROS_MAX,
    NO_MONTH,
    REQUESTS_LIVE_MAX,
    Book,
    CapChanged,
    ChainTimeHeard,
    ChannelRow,
    Decision,
    Entry,
    MoneyAuthorised,
    MoneyReserved,
    RefusalReason,
    RequestFinished,
    RequestLost,
    RequestRow,
    RereadDone,
    RereadNeeded,
    SpendingEvent,
    View,
)

NS_PER_S = 1_000_000_000


def decide(view: View, event: SpendingEvent, now_ns: int) -> Decision:
    """What `event` does to the rows in `view`. now_ns: this machine's UTC time since 1970.

    `view.book` has been rolled to now before (`rolled`). A refusal is a value in the decision.
    """
    rule: Callable[[View, Any, int], Decision] = _RULES[type(event)]
    return rule(view, event, seconds_of(now_ns))


def rolled(book: Book, now_ns: int) -> Book:
    """The book in the month that both clocks have reached; never an earlier one."""
    if book.chain_unix_s == 0:
        return book
    now_unix_s = seconds_of(now_ns)
    if book.month == NO_MONTH or book.must_reread:
        reached = agreed_month(now_unix_s, book.chain_unix_s)
    else:
        reached = min(month_of(now_unix_s), month_of(book.chain_unix_s))
    if reached is None or reached <= book.month:
        return book
    return replace(book, month=reached, spent_micros=0)


def seconds_of(now_ns: int) -> int:
    """Whole seconds; a clock before 1970 or after all calendars counts as the nearest with a month."""
    return min(max(now_ns // NS_PER_S, 0), UNIX_S_MAX)


def _reserve(view: View, event: MoneyReserved, unix_s: int) -> Decision:
    asked = event.amount_micros
    if not is_amount(asked):
        return refuse(view, "range", asked, high=LEDGER_MICROS_MAX)
    if view.request is not None:
        return refuse(view, "repeated_request", asked)
    if view.book.requests_live >= REQUESTS_LIVE_MAX:
        return refuse(view, "too_many", asked, high=REQUESTS_LIVE_MAX)
    if (reason := _why_not_now(view, unix_s)) is not None:
        return refuse(view, reason, asked)
    assert view.channel is not None
    channel = replace(view.channel, budgets_micros=view.channel.budgets_micros + asked)
    if channel.authorised_micros + channel.reserved_micros > channel.deposit_micros:
        return refuse(view, "deposit", asked)
    more = channel.reserved_micros - view.channel.reserved_micros
    # A cap of nothing means that nobody pays, not even with what is left of what was paid.
    if view.book.cap_micros == 0 or more > view.book.room_micros:
        return refuse(view, "cap", asked)
    request = RequestRow(
        request_id=event.request_id,
        channel_id=event.channel_id,
        owner=event.owner,
        purpose=event.purpose,
        budget_micros=asked,
        month=view.book.month,
    )
    return accept(view, channel, request=request)


def _authorise(view: View, event: MoneyAuthorised, unix_s: int) -> Decision:
    delta, before, channel = event.delta_micros, view.request, view.channel
    if before is None or channel is None:
        return refuse(view, "unknown_request", delta)
    if not is_amount(delta):
        return refuse(view, "range", delta, high=LEDGER_MICROS_MAX)
    if (reason := _why_not_now(view, unix_s)) is not None:
        return refuse(view, reason, delta)
    if delta > channel.reserved_micros:
        return refuse(view, "reservation", delta, high=channel.reserved_micros)
    if channel.authorised_micros + delta > channel.deposit_micros:
        return refuse(view, "deposit", delta)
    if view.book.spent_micros + delta > view.book.cap_micros:
        return refuse(view, "cap", delta)
    entries = []
    if before.month != view.book.month:
        entries = [_request_entry(before, channel, 0, unix_s)] if before.counted_micros else []
        before = replace(before, month=view.book.month, counted_micros=0)
    return accept(
        view,
        replace(channel, authorised_micros=channel.authorised_micros + delta),
        counted={view.book.month: delta},
        request=replace(before, counted_micros=before.counted_micros + delta),
        entries=entries,
    )


def _finish(view: View, event: RequestFinished, unix_s: int) -> Decision:
    request, channel = view.request, view.channel
    if request is None or channel is None:
        return refuse(view, "unknown_request", event.due_micros)
    due, due_max = event.due_micros, event.due_max_micros
    if not 0 <= due <= due_max <= request.budget_micros:
        return refuse(view, "range", max(due, due_max), high=request.budget_micros)
    return _over(view, request, channel, due=due, due_max=due_max, unix_s=unix_s)


def _lose(view: View, event: RequestLost, unix_s: int) -> Decision:
    """It may owe its whole budget, but not more than was authorised: nobody serves for less."""
    request, channel = view.request, view.channel
    if request is None or channel is None:
        return refuse(view, "unknown_request")
    possible = channel.authorised_micros - channel.due_max_micros
    due_max = min(request.budget_micros, max(0, possible))
    return _over(view, request, channel, due=0, due_max=due_max, unix_s=unix_s)


def _over(
    view: View, request: RequestRow, channel: ChannelRow, *, due: int, due_max: int, unix_s: int
) -> Decision:
    is_closed = channel.is_closed  # then what was claimed is what was due
    after = replace(
        channel,
        budgets_micros=channel.budgets_micros - request.budget_micros,
        due_min_micros=channel.due_min_micros + (0 if is_closed else due),
        due_max_micros=channel.due_max_micros + (0 if is_closed else due_max),
    )
    entry = _request_entry(request, channel, due, unix_s)
    return accept(view, after, request=request, is_request_over=True, entries=[entry])


def _request_entry(request: RequestRow, channel: ChannelRow, due_micros: int, unix_s: int) -> Entry:
    return Entry(
        unix_s=unix_s,
        month=request.month,
        kind=request.purpose,
        amount_micros=due_micros,
        counted_micros=request.counted_micros,
        channel_id=channel.channel_id,
        request_id=request.request_id,
        counterparty=channel.payee,
    )


def _why_not_now(view: View, unix_s: int) -> RefusalReason | None:
    """Why nothing can be reserved or authorised on the channel, whatever the amount."""
    if view.book.must_reread:
        return "reread"
    if view.book.month == NO_MONTH:
        return why_not_counted(view, unix_s)
    if view.channel is None:
        return "unknown_channel"
    return "closed_channel" if view.channel.is_closed else None


def _change_cap(view: View, event: CapChanged, unix_s: int) -> Decision:
    if not is_amount(event.cap_micros):
        return refuse(view, "range", event.cap_micros, high=LEDGER_MICROS_MAX)
    if event.cap_micros == view.book.cap_micros:
        return Decision(book=view.book)
    entry = Entry(unix_s=unix_s, month=view.book.month, kind="cap", amount_micros=event.cap_micros)
    return Decision(book=replace(view.book, cap_micros=event.cap_micros), entries=(entry,))


def _hear_time(view: View, event: ChainTimeHeard, unix_s: int) -> Decision:
    heard = replace(view.book, chain_unix_s=min(max(event.chain_unix_s, 1), UNIX_S_MAX))
    return Decision(book=rolled(heard, unix_s * NS_PER_S))


def _need_reread(view: View, event: RereadNeeded, unix_s: int) -> Decision:
    # The time that it knew may be as old as the rest of it.
    return Decision(book=replace(view.book, must_reread=True, chain_unix_s=0))


def _end_reread(view: View, event: RereadDone, unix_s: int) -> Decision:
    if (reason := why_not_counted(view, unix_s)) is not None:
        return refuse(view, reason)
    return Decision(book=replace(view.book, must_reread=False))


_RULES: Mapping[type, Callable[[View, Any, int], Decision]] = {
    MoneyReserved: _reserve,
    MoneyAuthorised: _authorise,
    RequestFinished: _finish,
    RequestLost: _lose,
    CapChanged: _change_cap,
    ChainTimeHeard: _hear_time,
    RereadNeeded: _need_reread,
    RereadDone: _end_reread,
    **CHANNEL_RULES,
}
