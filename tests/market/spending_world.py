"""Small numbers in which everything collides: three channels, five requests, a cap that binds."""

from typing import Any

from hypothesis import strategies as st

from unhosted.market.ids import Address, ChannelId, RequestId
from unhosted.market.months import month_of
from unhosted.market.spending_words import (
    CapChanged,
    ChainTimeHeard,
    ChannelClosed,
    ChannelFound,
    ChannelOpened,
    DepositSeen,
    DueStated,
    HistoryLost,
    MoneyAuthorised,
    MoneyReserved,
    RequestFinished,
    RequestLost,
    RereadDone,
    RereadNeeded,
    SpendingEvent,
    VoucherShown,
)

NOVEMBER_30_UNIX_S = 1_795_996_800
"""2026-11-30 00:00:00 UTC."""
DAY_S = 86_400
NOVEMBER, DECEMBER = month_of(NOVEMBER_30_UNIX_S), month_of(NOVEMBER_30_UNIX_S + DAY_S)
NS = 1_000_000_000
OWNERS = ("aaaa", "bbbb")


def channel(number: int) -> ChannelId:
    return ChannelId(bytes([number]) * 32)


def request(number: int) -> RequestId:
    return RequestId(bytes([0x80 + number]) * 32)


def payee(number: int) -> Address:
    return Address(bytes([0x40 + number]) * 20)


_channels = st.builds(channel, st.integers(1, 3))
_requests = st.builds(request, st.integers(1, 5))
_payees = st.builds(payee, st.integers(1, 3))
_micros = st.integers(0, 120)
_days = st.sampled_from([-40, -1, 0, 1, 2, 33])
_unix_s = st.builds(lambda day, s: NOVEMBER_30_UNIX_S + day * DAY_S + s, _days, st.integers(0, DAY_S))
_seconds = st.one_of(_unix_s, st.just(0))

_reserved: st.SearchStrategy[Any] = st.builds(
    MoneyReserved,
    request_id=_requests,
    channel_id=_channels,
    amount_micros=_micros,
    purpose=st.sampled_from(["request", "check"]),
    owner=st.sampled_from(OWNERS),
)
_authorised = st.builds(MoneyAuthorised, request_id=_requests, delta_micros=st.integers(-1, 60))
_finished = st.builds(
    lambda request_id, due, more: RequestFinished(
        request_id=request_id, due_micros=due, due_max_micros=due + more
    ),
    _requests,
    st.integers(0, 60),
    st.sampled_from([0, 0, 5]),
)
_lost = st.builds(RequestLost, request_id=_requests)
_opened = st.builds(ChannelOpened, channel_id=_channels, payee=_payees, deposit_micros=st.just(200))
_rare: list[st.SearchStrategy[Any]] = [
    st.builds(DepositSeen, channel_id=_channels, deposit_micros=st.integers(0, 300), claimed_micros=_micros),
    st.builds(
        ChannelFound,
        channel_id=_channels,
        payee=_payees,
        deposit_micros=st.integers(0, 300),
        claimed_micros=_micros,
        is_closed=st.booleans(),
        closed_unix_s=_seconds,
    ),
    st.builds(ChannelClosed, channel_id=_channels, claimed_micros=_micros),
    st.builds(VoucherShown, channel_id=_channels, amount_micros=_micros),
    st.builds(DueStated, channel_id=_channels, due_micros=_micros),
    st.builds(HistoryLost, channel_id=_channels),
    st.just(RereadNeeded()),
    st.just(RereadDone()),
    st.builds(CapChanged, cap_micros=st.sampled_from([0, 50, 300])),
    st.builds(ChainTimeHeard, chain_unix_s=_seconds),
]
events: st.SearchStrategy[SpendingEvent] = st.one_of(
    _reserved, _reserved, _authorised, _authorised, _authorised, _finished, _lost, _opened, *_rare
)
moments_ns = st.builds(lambda unix_s: unix_s * NS, _unix_s)
histories = st.lists(st.tuples(events, moments_ns), min_size=1, max_size=60)

START: tuple[SpendingEvent, ...] = (
    ChainTimeHeard(chain_unix_s=NOVEMBER_30_UNIX_S),
    CapChanged(cap_micros=300),
    *(
        ChannelOpened(channel_id=channel(number), payee=payee(number), deposit_micros=200)
        for number in (1, 2)
    ),
)
"""A ledger with two channels in November, so that most of what is drawn is not refused at once."""
