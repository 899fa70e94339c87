"""A whole spending ledger in memory: for simulations, and to hold the one on disk against."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from unhosted.market.ids import ChannelId, RequestId
from unhosted.market.months import Month
from unhosted.market.spending import decide, rolled
from unhosted.market.spending_words import (
    Book,
    ChannelRow,
    Decision,
    MoneyAuthorised,
    RequestFinished,
    RequestLost,
    RequestRow,
    SpendingEvent,
    View,
)

_BY_REQUEST = (MoneyAuthorised, RequestFinished, RequestLost)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendingState:
    """Entries are handed out with each decision and not kept. spent: by channel and month."""

    book: Book = field(default_factory=Book)
    channels: Mapping[ChannelId, ChannelRow] = field(default_factory=dict)
    requests: Mapping[RequestId, RequestRow] = field(default_factory=dict)
    spent: Mapping[ChannelId, Mapping[Month, int]] = field(default_factory=dict)


def step(state: SpendingState, event: SpendingEvent, now_ns: int) -> tuple[SpendingState, Decision]:
    """The ledger after `event`. now_ns: this machine's UTC time since 1970.

    Raises: RuntimeError if a sum is broken: a defect of the rules.
    """
    view = _view(state, event, now_ns)
    decision = decide(view, event, now_ns)
    after = _applied(state, view, decision)
    check_decision(view, decision)
    return after, decision


def check_decision(view: View, decision: Decision) -> None:
    """What must hold of the rows that a decision touched. Raises: RuntimeError with the broken sum."""
    channel, book = decision.channel, decision.book
    if book.reserved_micros < 0 or book.spent_micros < 0 or book.month < view.book.month:
        raise RuntimeError(f"the book is broken: {book} after {view.book}")
    if channel is None:
        return
    spent = sum((dict(view.spent_by_month) | dict(decision.spent)).values())
    if spent != channel.authorised_micros:
        raise RuntimeError(f"months of a channel sum to {spent}, authorised is {channel.authorised_micros}")
    if not 0 <= channel.due_min_micros <= channel.due_max_micros or channel.budgets_micros < 0:
        raise RuntimeError(f"dues or budgets are broken: {channel}")
    if channel.authorised_micros > channel.ceiling_micros:
        raise RuntimeError(f"more is authorised than was ever there: {channel}")


def check_state(state: SpendingState) -> None:
    """Every sum of the ledger, from its rows. Raises: RuntimeError."""
    book = state.book
    known = {request.channel_id for request in state.requests.values()} | set(state.spent)
    if not known <= set(state.channels):
        raise RuntimeError("money or a request belongs to no channel")
    budgets: dict[ChannelId, int] = {}
    for request in state.requests.values():
        budgets[request.channel_id] = budgets.get(request.channel_id, 0) + request.budget_micros
    for channel in state.channels.values():
        spent = sum(state.spent.get(channel.channel_id, {}).values())
        if spent != channel.authorised_micros:
            raise RuntimeError(f"months sum to {spent}: {channel}")
        if budgets.get(channel.channel_id, 0) != channel.budgets_micros:
            raise RuntimeError(f"live requests may owe {budgets.get(channel.channel_id, 0)}: {channel}")
    sums = (
        sum(months.get(book.month, 0) for months in state.spent.values()),
        sum(channel.reserved_micros for channel in state.channels.values()),
        sum(not channel.is_closed for channel in state.channels.values()),
        len(state.requests),
    )
    said = (book.spent_micros, book.reserved_micros, book.channels_open, book.requests_live)
    if sums != said:
        raise RuntimeError(f"the rows sum to {sums}, the book says {said}")


def _view(state: SpendingState, event: SpendingEvent, now_ns: int) -> View:
    request_id = getattr(event, "request_id", None)
    request = state.requests.get(request_id) if request_id is not None else None
    if isinstance(event, _BY_REQUEST):
        channel_id = request.channel_id if request else None
    else:
        channel_id = getattr(event, "channel_id", None)
    channel = state.channels.get(channel_id) if channel_id is not None else None
    months = state.spent.get(channel_id, {}) if channel_id is not None else {}
    return View(
        book=rolled(state.book, now_ns),
        channel=channel,
        request=request,
        spent_by_month=tuple(sorted(months.items(), reverse=True)),
    )


def _applied(state: SpendingState, view: View, decision: Decision) -> SpendingState:
    after = replace(state, book=decision.book)
    channel, request = decision.channel, decision.request
    if channel is not None and channel is not view.channel:
        after = replace(after, channels={**state.channels, channel.channel_id: channel})
    if channel is not None and decision.spent:
        months = {**state.spent.get(channel.channel_id, {}), **dict(decision.spent)}
        after = replace(after, spent={**state.spent, channel.channel_id: months})
    if request is not None:
        requests = {**state.requests, request.request_id: request}
        if decision.is_request_over:
            del requests[request.request_id]
        after = replace(after, requests=requests)
    return after
