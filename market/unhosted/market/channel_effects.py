"""What a channel wants done, in the imperative.

The shell performs the effects of one step in their order and waits for each that writes (`Authorise`,
`StoreVoucher`, `SettleRequest`, …) before it goes on to the next: what follows a write may only be said once
the write is durable.
"""

from dataclasses import dataclass
from typing import Literal

from unhosted.market.channel_states import EndKind
from unhosted.market.faults import Reason
from unhosted.market.ids import ChannelId, RequestId, Signature

StopReason = Literal[
    "cancelled",  # the user or the program that asked wants no more
    "stalled",  # the other end owed something and did not give it in time
    "unpaid",  # no voucher came in time
    "channel_exhausted",  # the deposit has no room for the next window
    "cap_reached",  # the ledger refused: the month's cap has no room
    "ledger_failed",  # the ledger could not write
    "engine_failed",
    "draining",  # the machine is wanted for something else
    "over_claim",  # more tokens than agreed
    "channel_closed",  # on the chain, or its funding vanished
]

RefuseReason = Literal[
    "wrong_channel",
    "not_open",  # the channel is not open on the chain, as far as this end sees
    "no_contact",  # the two ends have not agreed on what was settled
    "disputed",  # the payer's account is too far below the payee's
    "winding_up",  # a close is signed or asked for
    "too_many_live",
    "stale",  # the sequence number was used, or the request is live already
    "window_too_large",
    "channel_exhausted",  # the deposit has no room for the request's maximum
    "under_reserved",  # less is reserved in the ledger than it may cost
    "still_live",  # requests are under way
    "amount_too_low",  # a close offered at less than is settled or was claimed
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Authorise:
    """Payer: commit in the ledger `delta_micros` more for the request, from its reservation; then feed
    `Authorised` or `AuthorisationRefused`. Exactly this much is signed: a larger chunk in advance would save
    writes but count as spent what may never be, and the ledger's group commit saves them anyway."""

    request_id: RequestId
    delta_micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SignVoucher:
    """Payer: sign exactly this amount, which is committed, and send it: always the same bytes for it."""

    amount_micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RaiseAuthorised:
    """Payer: the payee or the chain shows that we signed this much, which the ledger does not know: record it
    before anything else is spent."""

    amount_micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RefuseRequest:
    """Payer: tell the user. Payee: tell the payer, as an end that failed after 0 tokens."""

    request_id: RequestId
    reason: RefuseReason


@dataclass(frozen=True, slots=True, kw_only=True)
class SettleRequest:
    """Both: record how the request ended; the payer frees what is left of its reservation, the payee writes
    its one receipt.

    due_max_micros: payer: what the payee might be right to state for it at the next contact.
    """

    request_id: RequestId
    tokens_out: int
    due_micros: int
    due_max_micros: int
    end: EndKind


@dataclass(frozen=True, slots=True, kw_only=True)
class SettleTotal:
    """Both: record that this much is settled on the channel in all, as the ends have agreed."""

    settled_micros: int
    written_off_micros: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AskTopUp:
    """Payer: less than a quarter of the deposit is left, or `needed_micros` do not fit: allocate more."""

    deposit_micros: int
    needed_micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TellStop:
    """Payer: ask the payee to end the request."""

    request_id: RequestId
    reason: StopReason


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreVoucher:
    """Payee: write it to the disk, durably; then feed `VoucherStored`."""

    amount_micros: int
    signature: Signature


@dataclass(frozen=True, slots=True, kw_only=True)
class StartWork:
    """Payee: prompt and first window are paid: the engine may begin."""

    request_id: RequestId


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseTokens:
    """Payee: the answer's tokens before `position` may be sent."""

    request_id: RequestId
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AskVoucher:
    """Payee: tokens are held until a voucher over `needed_micros` comes; pause the engine, tell the payer."""

    request_id: RequestId
    needed_micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StopWork:
    """Payee: the engine may drop the request."""

    request_id: RequestId
    reason: StopReason


@dataclass(frozen=True, slots=True, kw_only=True)
class TellEnd:
    """Payee: the request ended after `tokens_out` tokens in all."""

    request_id: RequestId
    tokens_out: int
    end: EndKind


@dataclass(frozen=True, slots=True, kw_only=True)
class TellState:
    """Payee: show the payer its best voucher and what is settled."""

    contact: bytes
    voucher_micros: int
    due_micros: int
    sequence: int
    credit_micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TellAnswer:
    """Payer: say what is granted to be settled."""

    contact: bytes
    due_micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakContact:
    """Reset the stream `contact`, if it is still the present one: the two ends no longer count alike, and the
    next contact starts with agreeing."""

    contact: bytes
    reason: StopReason


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferClose:
    """Payer: send a voucher over exactly this amount (it may be below what is authorised) and ask the payee
    to sign the close."""

    amount_micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SignClose:
    """Payee: note durably that the channel winds up, then sign the close and send it; either end may submit
    it with the voucher's signature."""

    amount_micros: int
    voucher_signature: Signature


@dataclass(frozen=True, slots=True, kw_only=True)
class RefuseClose:
    """Payer: tell the user. Payee: tell the payer, who can ask the contract instead."""

    reason: RefuseReason
    needed_micros: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimNow:
    """Payee: the channel is closing with so much unclaimed."""

    voucher_micros: int
    close_at_unix_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordClosed:
    """Both: the channel is closed with so much claimed: the one thing that lowers what counts as spent."""

    channel_id: ChannelId
    claimed_micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFault:
    """Both: the other end broke a rule; it costs reputation, and the shell may end the stream."""

    reason: Reason
    message: str


Effect = (
    Authorise
    | SignVoucher
    | RaiseAuthorised
    | RefuseRequest
    | SettleRequest
    | SettleTotal
    | AskTopUp
    | TellStop
    | StoreVoucher
    | StartWork
    | ReleaseTokens
    | AskVoucher
    | StopWork
    | TellEnd
    | TellState
    | TellAnswer
    | BreakContact
    | OfferClose
    | SignClose
    | RefuseClose
    | ClaimNow
    | RecordClosed
    | ReportFault
)
