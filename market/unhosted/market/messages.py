"""What the two ends of a channel say to each other about money, inside the paid stream of a request.

Each is a frozen value; the wire forms are in `messages_wire`. `contact` names the stream: 16 bytes that the
payer drew for it, so that an account from an older stream cannot be taken for the present one. Signatures are
checked by the shell, over what the receiver itself knows of the channel and not over anything said here.
"""

from dataclasses import dataclass

from unhosted.market.channel_effects import RefuseReason, StopReason
from unhosted.market.channel_states import EndKind
from unhosted.market.channels import ChannelConfig, Deployment, SignedVoucher
from unhosted.market.ids import SIGNATURE_BYTES, Address, ChannelId, Digest, RequestId, Signature
from unhosted.market.money import TOKENS_MAX, Micros
from unhosted.market.months import UNIX_S_MAX

CONTACT_BYTES = 16
"""Enough that no two streams of two peers have the same name by chance."""

HASH_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class VoucherMessage:
    """Payer: so much is yours."""

    signed: SignedVoucher


@dataclass(frozen=True, slots=True, kw_only=True)
class VoucherNeeded:
    """Payee: the request is paused until a voucher over at least `needed_micros` comes."""

    request_id: RequestId
    needed_micros: Micros


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelState:
    """Payee, first thing on a stream: its best voucher, what is settled, the newest request's sequence.

    credit_micros: what it lets the payer leave unpaid beside a window, until answers were checked.
    """

    contact: bytes
    channel_id: ChannelId
    voucher: SignedVoucher | None
    due_micros: Micros
    sequence: int
    credit_micros: int = 0

    def __post_init__(self) -> None:
        _check_size("contact", self.contact, CONTACT_BYTES)
        if self.voucher is not None and self.voucher.voucher.channel_id != self.channel_id:
            raise ValueError("voucher: it is for another channel")
        _check_range("sequence", self.sequence, SEQUENCE_MAX)


@dataclass(frozen=True, slots=True, kw_only=True)
class StateAnswer:
    """Payer: what it grants to be settled; requests may be opened from here on."""

    contact: bytes
    channel_id: ChannelId
    due_micros: Micros

    def __post_init__(self) -> None:
        _check_size("contact", self.contact, CONTACT_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRequest:
    """Payer: end it; what was sent until then is paid."""

    request_id: RequestId
    reason: StopReason


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestEnd:
    """Payee: it ended after `tokens_out` tokens in all. refusal: why it was not begun."""

    request_id: RequestId
    tokens_out: int
    end: EndKind
    refusal: RefuseReason | None = None

    def __post_init__(self) -> None:
        _check_range("tokens_out", self.tokens_out, TOKENS_MAX)
        if self.refusal is not None and (self.tokens_out or self.end != "failed"):
            raise ValueError(f"refusal: a refused request has no {self.tokens_out} tokens and has failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """The words of an Allocate that the payer or its operator signed."""

    total_micros: Micros
    valid_before_unix_s: int
    signature: Signature

    def __post_init__(self) -> None:
        _check_range("valid_before", self.valid_before_unix_s, UNIX_S_MAX)
        _check_size("signature", self.signature, SIGNATURE_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class DepositAuthorisation:
    """The words of an EIP-3009 deposit that the owner signed; its nonce binds operator, limit and salt."""

    value_micros: Micros
    valid_after_unix_s: int
    valid_before_unix_s: int
    operator: Address
    limit_micros: Micros
    salt: bytes
    signature: Signature

    def __post_init__(self) -> None:
        _check_range("valid_after", self.valid_after_unix_s, UNIX_S_MAX)
        _check_range("valid_before", self.valid_before_unix_s, UNIX_S_MAX)
        _check_size("salt", self.salt, HASH_BYTES)
        _check_size("signature", self.signature, SIGNATURE_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayRequest:
    """Payer without gas money: send this for me. deposit: None where the account holds enough."""

    deployment: Deployment
    config: ChannelConfig
    allocation: Allocation
    deposit: DepositAuthorisation | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TopUpOffer:
    """Payer: raise the channel's deposit to the allocation's total."""

    channel_id: ChannelId
    allocation: Allocation


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayAnswer:
    """Payee: the transaction that it sent, or why it sends none (None and a text for people)."""

    channel_id: ChannelId
    transaction: bytes | None
    message: str = ""

    def __post_init__(self) -> None:
        if self.transaction is not None:
            _check_size("transaction", self.transaction, HASH_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseOffer:
    """Payer: close at just this amount, which may be below the best voucher."""

    signed: SignedVoucher


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseSigned:
    """Payee: its signature of the close; with the offer's voucher anybody may submit it."""

    channel_id: ChannelId
    amount_micros: Micros
    signature: Signature

    def __post_init__(self) -> None:
        _check_size("signature", self.signature, SIGNATURE_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseRefused:
    """Payee: not so, or not now. needed_micros: the least that it signs."""

    channel_id: ChannelId
    reason: RefuseReason
    needed_micros: Micros


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptAck:
    """Payer: the receipt with this digest is stored here."""

    request_id: RequestId
    receipt: Digest

    def __post_init__(self) -> None:
        _check_size("receipt", self.receipt, HASH_BYTES)


SEQUENCE_MAX = (1 << 53) - 1
"""Integers that JavaScript holds exactly."""

MoneyMessage = (
    VoucherMessage
    | VoucherNeeded
    | ChannelState
    | StateAnswer
    | StopRequest
    | RequestEnd
    | RelayRequest
    | TopUpOffer
    | RelayAnswer
    | CloseOffer
    | CloseSigned
    | CloseRefused
    | ReceiptAck
)


def _check_size(name: str, value: bytes, size_bytes: int) -> None:
    if len(value) != size_bytes:
        raise ValueError(f"{name} of {len(value)} bytes: {size_bytes} are needed")


def _check_range(name: str, value: int, most: int) -> None:
    if not 0 <= value <= most:
        raise ValueError(f"{name} {value} is outside 0 to {most}")
