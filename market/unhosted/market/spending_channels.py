"""What the chain and the sellers say about channels, and what it does to the account of spending.

Facts are never refused for being unwelcome: a voucher of ours that turns up, or a channel that the ledger
does not know, counts as spent even where that passes the cap. Then nothing more is reserved.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from unhosted.market.months import Month, month_of
from unhosted.market.spending_rows import accept, bounded, is_amount, refuse, why_not_counted
from unhosted.market.spending_words import (
    CHANNELS_OPEN_MAX,
    ChannelClosed,
    ChannelFound,
    ChannelOpened,
    ChannelRow,
    Decision,
    DepositSeen,
    DueStated,
    Entry,
    EntryKind,
    HistoryLost,
    View,
    VoucherShown,
)


def _open(view: View, event: ChannelOpened, unix_s: int) -> Decision:
    if (reason := why_not_counted(view, unix_s)) is not None:
        return refuse(view, reason)
    deposit = bounded(event.deposit_micros)
    if view.channel is not None:
        if view.channel.is_closed:
            return refuse(view, "closed_channel")
        seen = DepositSeen(
            channel_id=event.channel_id,
            deposit_micros=event.deposit_micros,
            claimed_micros=0,
            transaction=event.transaction,
        )
        return _see_deposit(view, seen, unix_s)
    if view.book.channels_open >= CHANNELS_OPEN_MAX:
        return refuse(view, "too_many", high=CHANNELS_OPEN_MAX)
    channel = ChannelRow(
        channel_id=event.channel_id, payee=event.payee, deposit_micros=deposit, ceiling_micros=deposit
    )
    entry = _entry(view, channel, "opened", deposit, unix_s, transaction=event.transaction)
    return accept(view, channel, entries=[entry])


def _see_deposit(view: View, event: DepositSeen, unix_s: int) -> Decision:
    before = view.channel
    if before is None:
        return refuse(view, "unknown_channel")
    if before.is_closed:
        return accept(view, before)
    deposit = bounded(event.deposit_micros)
    channel = replace(before, deposit_micros=deposit, ceiling_micros=max(before.ceiling_micros, deposit))
    entries = []
    if deposit != before.deposit_micros:
        entries.append(_entry(view, channel, "deposit", deposit, unix_s, transaction=event.transaction))
    return _raised(view, channel, bounded(event.claimed_micros), unix_s, entries)


def _find(view: View, event: ChannelFound, unix_s: int) -> Decision:
    before = view.channel
    deposit, claimed = bounded(event.deposit_micros), bounded(event.claimed_micros)
    if before is not None and event.is_closed:
        closed = ChannelClosed(channel_id=event.channel_id, claimed_micros=event.claimed_micros)
        return _close(view, closed, unix_s)
    if (reason := why_not_counted(view, unix_s)) is not None:
        return refuse(view, reason)
    if before is not None and not before.is_closed:
        if view.book.must_reread:
            ceiling = max(before.ceiling_micros, deposit)
            channel = replace(before, deposit_micros=deposit, ceiling_micros=ceiling)
            return _raised(view, channel, max(deposit, claimed), unix_s, [], kind="lost")
        seen = DepositSeen(
            channel_id=event.channel_id,
            deposit_micros=event.deposit_micros,
            claimed_micros=event.claimed_micros,
        )
        return _see_deposit(view, seen, unix_s)
    month = view.book.month
    if event.is_closed and event.closed_unix_s > 0:
        month = min(month, month_of(event.closed_unix_s))
    # A closed channel that stands open again: whoever said that it was closed was wrong, or is now.
    authorised = claimed if event.is_closed else max(deposit, claimed)
    delta = authorised - (before.authorised_micros if before else 0)
    channel = ChannelRow(
        channel_id=event.channel_id,
        payee=event.payee,
        deposit_micros=deposit,
        ceiling_micros=max(deposit, claimed, before.ceiling_micros if before else 0),
        authorised_micros=authorised,
        due_min_micros=min(claimed, authorised),
        due_max_micros=authorised,
        budgets_micros=before.budgets_micros if before else 0,
        is_closed=event.is_closed,
    )
    entry = _entry(view, channel, "found", authorised, unix_s, counted=delta, month=month)
    return accept(view, channel, counted={month: delta}, entries=[entry])


def _close(view: View, event: ChannelClosed, unix_s: int) -> Decision:
    before = view.channel
    if before is None:
        return refuse(view, "unknown_channel")
    claimed = bounded(event.claimed_micros)
    over = before.authorised_micros - claimed
    if over < 0 and (reason := why_not_counted(view, unix_s)) is not None:
        return refuse(view, reason)
    counted: dict[Month, int] = {view.book.month: -over} if over < 0 else _given_back(view, over)
    channel = replace(
        before,
        authorised_micros=claimed,
        ceiling_micros=max(before.ceiling_micros, claimed),
        due_min_micros=claimed,
        due_max_micros=claimed,
        is_closed=True,
    )
    if channel == before:
        return accept(view, channel)
    months = list(counted) or [view.book.month]
    entries = [
        _entry(
            view,
            channel,
            "closed",
            claimed if month == months[0] else 0,
            unix_s,
            counted=counted.get(month, 0),
            month=month,
            transaction=event.transaction,
        )
        for month in months
    ]
    return accept(view, channel, counted=counted, entries=entries)


def _given_back(view: View, over: int) -> dict[Month, int]:
    """By how much each month falls when `over` was not claimed: the newest vouchers were not."""
    counted: dict[Month, int] = {}
    for month, spent in sorted(view.spent_by_month, reverse=True):
        part = min(over, spent)
        if part > 0:
            counted[month] = -part
            over -= part
    return counted


def _show_voucher(view: View, event: VoucherShown, unix_s: int) -> Decision:
    if view.channel is None:
        return refuse(view, "unknown_channel")
    if view.channel.is_closed:
        return accept(view, view.channel)  # worth nothing any more
    return _raised(view, view.channel, bounded(event.amount_micros), unix_s, [])


def _lose_history(view: View, event: HistoryLost, unix_s: int) -> Decision:
    if view.channel is None:
        return refuse(view, "unknown_channel")
    if view.channel.is_closed:
        return accept(view, view.channel)
    return _raised(view, view.channel, view.channel.deposit_micros, unix_s, [], kind="lost")


def _raised(
    view: View,
    channel: ChannelRow,
    amount: int,
    unix_s: int,
    entries: list[Entry],
    *,
    kind: EntryKind = "raised",
) -> Decision:
    """The channel with at least `amount` authorised. What it was for is not known, so it may be due."""
    delta = amount - channel.authorised_micros
    if delta <= 0:
        return accept(view, channel, entries=entries)
    if (reason := why_not_counted(view, unix_s)) is not None:
        return refuse(view, reason)
    channel = replace(
        channel,
        authorised_micros=amount,
        ceiling_micros=max(channel.ceiling_micros, amount),
        due_max_micros=channel.due_max_micros + delta,
    )
    entries = [*entries, _entry(view, channel, kind, amount, unix_s, counted=delta)]
    return accept(view, channel, counted={view.book.month: delta}, entries=entries)


def _state_due(view: View, event: DueStated, unix_s: int) -> Decision:
    channel = view.channel
    if channel is None:
        return refuse(view, "unknown_channel")
    low, high = channel.due_min_micros, channel.due_max_micros
    if not is_amount(event.due_micros) or not low <= event.due_micros <= high:
        return refuse(view, "range", event.due_micros, low=low, high=high)
    return accept(view, replace(channel, due_min_micros=event.due_micros, due_max_micros=event.due_micros))


def _entry(
    view: View,
    channel: ChannelRow,
    kind: EntryKind,
    amount: int,
    unix_s: int,
    *,
    counted: int = 0,
    month: Month | None = None,
    transaction: bytes | None = None,
) -> Entry:
    return Entry(
        unix_s=unix_s,
        month=view.book.month if month is None else month,
        kind=kind,
        amount_micros=amount,
        counted_micros=counted,
        channel_id=channel.channel_id,
        counterparty=channel.payee,
        transaction=transaction,
    )


CHANNEL_RULES: Mapping[type, Callable[[View, Any, int], Decision]] = {
    ChannelOpened: _open,
    DepositSeen: _see_deposit,
    ChannelFound: _find,
    ChannelClosed: _close,
    VoucherShown: _show_voucher,
    DueStated: _state_due,
    HistoryLost: _lose_history,
}
