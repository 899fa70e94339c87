"""What all spending rules share: refusing, and putting changed rows together so that the sums stay right."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from unhosted.market.months import Month, month_of
from unhosted.market.spending_words import (
    LEDGER_MICROS_MAX,
    NO_MONTH,
    ChannelRow,
    Decision,
    Entry,
    Refusal,
    RefusalReason,
    RequestRow,
    View,
)

CLOCKS_APART_S_MAX = 2 * 86_400
"""Two clocks in different months that are further apart than this cannot both be nearly right. Two days,
because a local chain's newest block can be that old."""


def refuse(
    view: View, reason: RefusalReason, asked_micros: int = 0, *, low: int = 0, high: int = 0
) -> Decision:
    """Nothing changes but the month, which may have gone on meanwhile."""
    channel = view.channel
    return Decision(
        book=view.book,
        refusal=Refusal(
            reason=reason,
            asked_micros=asked_micros,
            cap_micros=view.book.cap_micros,
            spent_micros=view.book.spent_micros,
            reserved_micros=view.book.reserved_micros,
            deposit_micros=channel.deposit_micros if channel else 0,
            authorised_micros=channel.authorised_micros if channel else 0,
            low_micros=low,
            high_micros=high,
        ),
    )


def accept(
    view: View,
    channel: ChannelRow,
    *,
    counted: Mapping[Month, int] | None = None,
    entries: Sequence[Entry] = (),
    request: RequestRow | None = None,
    is_request_over: bool = False,
) -> Decision:
    """The rows with `channel` as it is now. counted: what is spent more, or less, in which month."""
    deltas = {month: delta for month, delta in (counted or {}).items() if delta}
    before = view.channel
    lives = (0 if request is None or view.request is not None else 1) - is_request_over
    was_open = before is not None and not before.is_closed
    book = replace(
        view.book,
        spent_micros=view.book.spent_micros + deltas.get(view.book.month, 0),
        reserved_micros=view.book.reserved_micros
        + channel.reserved_micros
        - (before.reserved_micros if before else 0),
        channels_open=view.book.channels_open + (not channel.is_closed) - was_open,
        requests_live=view.book.requests_live + lives,
    )
    spent = dict(view.spent_by_month)
    return Decision(
        book=book,
        channel=channel,
        request=request,
        is_request_over=is_request_over,
        spent=tuple((month, spent.get(month, 0) + delta) for month, delta in deltas.items()),
        entries=tuple(entries),
    )


def is_amount(*micros: int) -> bool:
    return all(0 <= value <= LEDGER_MICROS_MAX for value in micros)


def bounded(micros: int) -> int:
    """A chain fact as the ledger counts it: uint96 is wider than a database's integers."""
    return min(max(micros, 0), LEDGER_MICROS_MAX)


def agreed_month(now_unix_s: int, chain_unix_s: int) -> Month | None:
    """The month of both clocks; if a month ends between them, the later one: a budget that opens two days
    late cannot be spent twice. None if they are too far apart for that."""
    here, there = month_of(now_unix_s), month_of(chain_unix_s)
    if here != there and abs(now_unix_s - chain_unix_s) > CLOCKS_APART_S_MAX:
        return None
    return max(here, there)


def why_not_counted(view: View, now_unix_s: int) -> RefusalReason | None:
    """Why it is not known which month something would count in; None if it is."""
    book = view.book
    if book.month != NO_MONTH and not book.must_reread:
        return None
    if book.chain_unix_s == 0:
        return "time_unknown"
    return "clocks_differ" if agreed_month(now_unix_s, book.chain_unix_s) is None else None
