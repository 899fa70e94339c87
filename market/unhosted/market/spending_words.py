"""The words of the spending rules: rows that a ledger keeps, events that happen to it, what a decision says.

All amounts are micro-USDC. A ledger keeps one `Book`, a `ChannelRow` per channel, a `RequestRow` per live
request, and per channel and month what was authorised in it; entries are history and are only ever added.
"""

from dataclasses import dataclass
from typing import Literal

from unhosted.market.ids import Address, ChannelId, RequestId
from unhosted.market.months import Month

LEDGER_MICROS_MAX = 1 << 60
"""Far above all USDC there is, and sums of it still fit the 64 bits of a database. A deposit above counts as
this much."""

CHANNELS_OPEN_MAX = 1024
"""A buyer has one per seller that it uses at the same time; each locks money and is read after a loss."""

REQUESTS_LIVE_MAX = 4096
"""Requests that hold a reservation: many times what one machine's clients have under way."""

NO_MONTH = Month(-1)
"""Before the chain's time was heard for the first time: nothing can be reserved."""

Purpose = Literal["request", "check"]

EntryKind = Literal[
    "request",  # a request is over, or its month is: amount is what it owes, counted what it authorised
    "check",
    "opened",
    "deposit",  # amount is the new deposit
    "closed",  # amount is what the seller claimed
    "raised",  # a voucher or a claim of ours that the ledger did not know
    "found",  # a channel of ours that the ledger did not know
    "lost",  # the ledger lost history: the whole deposit counts
    "cap",  # amount is the new cap
]

RefusalReason = Literal[
    "cap",  # spent + reserved + asked is above the cap
    "deposit",  # authorised + reserved + asked is above the channel's deposit
    "reservation",  # more than what is reserved for the requests on the channel
    "unknown_channel",
    "closed_channel",
    "unknown_request",
    "repeated_request",
    "too_many",  # channels or live requests
    "time_unknown",  # the chain's time was not heard yet
    "clocks_differ",  # before the first payment this machine's clock and the chain's must agree
    "reread",  # history was lost: channels must be read from the chain first
    "range",  # an amount outside what is possible
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Book:
    """One per ledger. `spent_micros` counts in `month`; `reserved_micros` is the sum over the channels."""

    cap_micros: int = 0
    month: Month = NO_MONTH
    spent_micros: int = 0
    reserved_micros: int = 0
    chain_unix_s: int = 0
    must_reread: bool = False
    channels_open: int = 0
    requests_live: int = 0

    @property
    def room_micros(self) -> int:
        return max(0, self.cap_micros - self.spent_micros - self.reserved_micros)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelRow:
    """authorised: the highest voucher that may have been signed. due: what finished requests owe, between
    what is proven (`min`) and what is possible (`max`); they differ after a crash or a broken stream.
    budgets: the most that live requests may come to owe. ceiling: the highest deposit or voucher ever seen.
    """

    channel_id: ChannelId
    payee: Address
    deposit_micros: int
    ceiling_micros: int
    authorised_micros: int = 0
    due_min_micros: int = 0
    due_max_micros: int = 0
    budgets_micros: int = 0
    is_closed: bool = False

    @property
    def reserved_micros(self) -> int:
        """What may still have to be authorised for what is due and for what lives. Authorised money that no
        finished request has used, the surplus, comes first."""
        if self.is_closed:
            return 0
        return max(0, self.due_max_micros + self.budgets_micros - self.authorised_micros)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRow:
    """counted: what it authorised in `month`. owner: the process that lives for it."""

    request_id: RequestId
    channel_id: ChannelId
    owner: str
    purpose: Purpose
    budget_micros: int
    month: Month
    counted_micros: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A line of history. counted: by how much it changed what is spent in `month` (below 0: money back)."""

    unix_s: int
    month: Month
    kind: EntryKind
    amount_micros: int
    counted_micros: int = 0
    channel_id: ChannelId | None = None
    request_id: RequestId | None = None
    counterparty: Address | None = None
    transaction: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CapChanged:
    cap_micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainTimeHeard:
    """The timestamp of the chain's newest block."""

    chain_unix_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MoneyReserved:
    """Asked before a seller is contacted. amount: the most that the request can cost."""

    request_id: RequestId
    channel_id: ChannelId
    amount_micros: int
    purpose: Purpose
    owner: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MoneyAuthorised:
    """Asked before a voucher is signed."""

    request_id: RequestId
    delta_micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFinished:
    """due: what the buyer knows that it owes. due_max: what the seller might be right to say."""

    request_id: RequestId
    due_micros: int
    due_max_micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLost:
    """It is over and nobody knows what it used: a dead process, a stream that broke."""

    request_id: RequestId


@dataclass(frozen=True, slots=True, kw_only=True)
class DueStated:
    """The seller says what finished requests owe in all, and it lies in the range that the buyer knows."""

    channel_id: ChannelId
    due_micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelOpened:
    """This ledger is about to open it: nothing can have been signed on it yet."""

    channel_id: ChannelId
    payee: Address
    deposit_micros: int
    transaction: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DepositSeen:
    """A channel as the chain has it, at a safe block."""

    channel_id: ChannelId
    deposit_micros: int
    claimed_micros: int
    transaction: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelFound:
    """A channel of this buyer on the chain, known or not; open, or closed at `closed_unix_s` (0: unknown)."""

    channel_id: ChannelId
    payee: Address
    deposit_micros: int
    claimed_micros: int
    is_closed: bool
    closed_unix_s: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelClosed:
    """At a safe block. What was authorised and not claimed is back in the buyer's account."""

    channel_id: ChannelId
    claimed_micros: int
    transaction: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VoucherShown:
    """A voucher that this buyer's own key signed; who tells has checked the signature."""

    channel_id: ChannelId
    amount_micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryLost:
    """The ledger is older than what was signed: once for each open channel that it knows."""

    channel_id: ChannelId


@dataclass(frozen=True, slots=True, kw_only=True)
class RereadNeeded:
    """Nothing is reserved or authorised until every channel was read from the chain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RereadDone:
    """All channels of the buyer that the chain knows have been told by `ChannelFound`."""


RequestEvent = MoneyReserved | MoneyAuthorised | RequestFinished | RequestLost
ChannelEvent = (
    ChannelOpened | DepositSeen | ChannelFound | ChannelClosed | VoucherShown | DueStated | HistoryLost
)
BookEvent = CapChanged | ChainTimeHeard | RereadNeeded | RereadDone
SpendingEvent = RequestEvent | ChannelEvent | BookEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why not, with every number that a message or a user could need; nothing was changed."""

    reason: RefusalReason
    asked_micros: int = 0
    cap_micros: int = 0
    spent_micros: int = 0
    reserved_micros: int = 0
    deposit_micros: int = 0
    authorised_micros: int = 0
    low_micros: int = 0
    high_micros: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What a decision may look at. `book` is rolled to the month of now (`rolled`) before. `channel` is the
    one that the event or its request names; `spent_by_month` is that channel's, newest month first."""

    book: Book
    channel: ChannelRow | None = None
    request: RequestRow | None = None
    spent_by_month: tuple[tuple[Month, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The rows after it. None leaves a row as it is; `spent` gives new values for months of the channel.

    With a refusal only `book` counts: the month may have rolled.
    """

    book: Book
    channel: ChannelRow | None = None
    request: RequestRow | None = None
    is_request_over: bool = False
    spent: tuple[tuple[Month, int], ...] = ()
    entries: tuple[Entry, ...] = ()
    refusal: Refusal | None = None
