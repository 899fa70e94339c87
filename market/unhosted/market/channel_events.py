"""What can happen to a channel, in the past tense.

It comes from the chain, the peer, the ledger or the book, the engine, the user. Signatures come with the
address that recovering them gave; nothing here checks one.
"""

from dataclasses import dataclass

from unhosted.market.channel_effects import StopReason
from unhosted.market.channel_states import EndKind, OnChain
from unhosted.market.ids import Address, ChannelId, RequestId, Signature
from unhosted.market.terms import Terms


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelOpened:
    """Chain. Deposits: what counts of them, see `credit.usable_deposit_micros`."""

    deposit_micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelToppedUp:
    """Chain: the deposit is larger now, or more of it counts."""

    deposit_micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelClaimed:
    """Chain: so much in all was claimed by the payee."""

    claimed_micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseRequested:
    """Chain: from `close_at_unix_s` on anybody may finish the close."""

    close_at_unix_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelClosed:
    """Chain: for ever."""

    claimed_micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FactWithdrawn:
    """Chain: a reorganisation took back what was seen; this is what is there now."""

    chain: OnChain


@dataclass(frozen=True, slots=True, kw_only=True)
class ContactMade:
    """A stream to the other end is open. contact: 16 bytes that the payer drew for it."""

    contact: bytes


@dataclass(frozen=True, slots=True)
class ContactLost:
    """The stream is gone, with whatever was in flight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateReceived:
    """Payer: the payee's account of the channel. signer: of the voucher it shows; None if it shows none.

    credit_micros: what it lets stand unpaid beside a window, from now on.
    """

    contact: bytes
    voucher_micros: int
    voucher_signer: Address | None
    due_micros: int
    sequence: int
    credit_micros: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldChanged:
    """Payer: leave so much unpaid, within the payee's credit. request_id: a request that the ledger knows,
    to authorise under what is no longer held; None where nothing shall be authorised now."""

    hold_micros: int
    request_id: RequestId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerReceived:
    """Payee: what the payer grants to be settled."""

    contact: bytes
    due_micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestOpened:
    """Payer: we want it, and `reserved_micros` are reserved in the ledger. Payee: the payer asks for it.

    sequence: above that of the request opened before it on this channel.
    """

    terms: Terms
    sequence: int
    reserved_micros: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TokensReceived:
    """Payer: tokens `position` to `position + count` of the answer."""

    request_id: RequestId
    position: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TokensMade:
    """Payee: the engine made `count` more tokens; `is_last`: and is done."""

    request_id: RequestId
    count: int
    is_last: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Authorised:
    """Payer: the ledger committed an `Authorise`; `total_micros` is the channel's authorised amount now."""

    request_id: RequestId
    total_micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorisationRefused:
    """Payer: the ledger did not commit it, and never will."""

    request_id: RequestId
    delta_micros: int
    reason: StopReason


@dataclass(frozen=True, slots=True, kw_only=True)
class VoucherReceived:
    """Payee. signer: who signed it, as recovered; None if the signature has no meaning."""

    channel_id: ChannelId
    amount_micros: int
    signer: Address | None
    signature: Signature


@dataclass(frozen=True, slots=True, kw_only=True)
class VoucherStored:
    """Payee: a voucher over so much is on the disk."""

    amount_micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VoucherAsked:
    """Payer: the payee is paused and says so; perhaps our last voucher was lost."""

    request_id: RequestId


@dataclass(frozen=True, slots=True, kw_only=True)
class StopWanted:
    """This end wants the request to end: the user left, the engine failed, the machine is drained."""

    request_id: RequestId
    reason: StopReason


@dataclass(frozen=True, slots=True, kw_only=True)
class StopReceived:
    """Payee: the payer wants it to end."""

    request_id: RequestId


@dataclass(frozen=True, slots=True, kw_only=True)
class EndReceived:
    """Payer: the payee ended the request after `tokens_out` tokens in all; a refusal is a failure after 0."""

    request_id: RequestId
    tokens_out: int
    end: EndKind


@dataclass(frozen=True, slots=True)
class CloseWanted:
    """Payer: the channel is no longer wanted; close it in agreement if possible."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseOffered:
    """Payee: the payer asks for a signature to close at once. The voucher is over just this amount."""

    amount_micros: int
    signer: Address | None
    signature: Signature


@dataclass(frozen=True, slots=True)
class TimePassed:
    """A deadline (`next_deadline_ns`) may have come."""


ChainEvent = ChannelOpened | ChannelToppedUp | ChannelClaimed | CloseRequested | ChannelClosed | FactWithdrawn
Event = (
    ChainEvent
    | ContactMade
    | ContactLost
    | StateReceived
    | HoldChanged
    | AnswerReceived
    | RequestOpened
    | TokensReceived
    | TokensMade
    | Authorised
    | AuthorisationRefused
    | VoucherReceived
    | VoucherStored
    | VoucherAsked
    | StopWanted
    | StopReceived
    | EndReceived
    | CloseWanted
    | CloseOffered
    | TimePassed
)
