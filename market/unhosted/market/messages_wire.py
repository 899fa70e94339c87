"""The bytes of `messages`: one deterministic CBOR map each, `v` its version and `k` its kind.

Unknown fields are ignored, and so are unknown kinds, so that both may be added; unknown versions are refused.
"""

from collections.abc import Callable
from typing import Any, cast, get_args

from unhosted.market import messages
from unhosted.market.cbor import encode
from unhosted.market.channel_effects import RefuseReason, StopReason
from unhosted.market.channel_states import EndKind
from unhosted.market.channels import (
    DELAY_S_MAX,
    ChainId,
    ChannelConfig,
    Deployment,
    SignedVoucher,
    Voucher,
)
from unhosted.market.fields import Fields, read_message
from unhosted.market.ids import SIGNATURE_BYTES, ChannelId, Digest, RequestId, Signature
from unhosted.market.messages import (
    CONTACT_BYTES,
    SEQUENCE_MAX,
    Allocation,
    DepositAuthorisation,
    MoneyMessage,
)
from unhosted.market.money import TOKENS_MAX
from unhosted.market.months import UNIX_S_MAX

VERSION = 1
MESSAGE_BYTES_MAX = 1_024
"""The largest, a relay request with a deposit, has some 500."""

KIND_CHARS_MAX = 24
TEXT_CHARS_MAX = 240
CHAIN_ID_MAX = (1 << 53) - 1
_STOPS: tuple[str, ...] = get_args(StopReason)
_REFUSALS: tuple[str, ...] = get_args(RefuseReason)
_ENDS: tuple[str, ...] = get_args(EndKind)

Packed = dict[str, object]


def encode_money(message: MoneyMessage) -> bytes:
    kind, pack, _ = _FORMS[type(message)]
    return encode({"v": VERSION, "k": kind, **pack(message)})


def decode_money(data: bytes) -> MoneyMessage | None:
    """The message; None for a kind that this version does not know.

    Raises: RemoteFault.
    """

    def unpack(fields: Fields) -> MoneyMessage | None:
        unpack_kind = _UNPACK.get(fields.text("k", chars_max=KIND_CHARS_MAX))
        return None if unpack_kind is None else unpack_kind(fields)

    return read_message(data, bytes_max=MESSAGE_BYTES_MAX, version=VERSION, unpack=unpack)


def _pack_voucher(signed: SignedVoucher | None) -> Packed:
    if signed is None:
        return {}
    return {"amount": signed.voucher.amount_micros, "sig": signed.signature}


def _unpack_voucher(fields: Fields) -> SignedVoucher:
    return SignedVoucher(
        voucher=Voucher(channel_id=_channel(fields), amount_micros=fields.micros("amount")),
        signature=_signature(fields, "sig"),
    )


def _pack_state(state: messages.ChannelState) -> Packed:
    return {
        "contact": state.contact,
        "ch": state.channel_id,
        "due": state.due_micros,
        "seq": state.sequence,
        **({"credit": state.credit_micros} if state.credit_micros else {}),
        **_pack_voucher(state.voucher),
    }


def _unpack_state(fields: Fields) -> messages.ChannelState:
    return messages.ChannelState(
        contact=fields.exactly("contact", size_bytes=CONTACT_BYTES),
        channel_id=_channel(fields),
        voucher=_unpack_voucher(fields) if fields.has("amount") or fields.has("sig") else None,
        due_micros=fields.micros("due"),
        sequence=fields.uint("seq", most=SEQUENCE_MAX),
        credit_micros=fields.micros("credit") if fields.has("credit") else 0,
    )


def _pack_end(end: messages.RequestEnd) -> Packed:
    refusal: Packed = {} if end.refusal is None else {"why": end.refusal}
    return {"rid": end.request_id, "tokens": end.tokens_out, "end": end.end, **refusal}


def _unpack_end(fields: Fields) -> messages.RequestEnd:
    return messages.RequestEnd(
        request_id=_request(fields),
        tokens_out=fields.uint("tokens", most=TOKENS_MAX),
        end=cast(EndKind, fields.word("end", among=_ENDS)),
        refusal=_refusal(fields) if fields.has("why") else None,
    )


def _pack_allocation(allocation: Allocation) -> Packed:
    return {
        "total": allocation.total_micros,
        "before": allocation.valid_before_unix_s,
        "sig": allocation.signature,
    }


def _unpack_allocation(fields: Fields) -> Allocation:
    return Allocation(
        total_micros=fields.micros("total"),
        valid_before_unix_s=fields.uint("before", most=UNIX_S_MAX),
        signature=_signature(fields, "sig"),
    )


def _pack_deposit(deposit: DepositAuthorisation) -> Packed:
    return {
        "value": deposit.value_micros,
        "after": deposit.valid_after_unix_s,
        "before": deposit.valid_before_unix_s,
        "operator": deposit.operator,
        "limit": deposit.limit_micros,
        "salt": deposit.salt,
        "sig": deposit.signature,
    }


def _unpack_deposit(fields: Fields) -> DepositAuthorisation:
    return DepositAuthorisation(
        value_micros=fields.micros("value"),
        valid_after_unix_s=fields.uint("after", most=UNIX_S_MAX),
        valid_before_unix_s=fields.uint("before", most=UNIX_S_MAX),
        operator=fields.address("operator"),
        limit_micros=fields.micros("limit"),
        salt=fields.exactly("salt"),
        signature=_signature(fields, "sig"),
    )


def pack_channel(deployment: Deployment, config: ChannelConfig) -> Packed:
    """All that fixes a channel, and so its id."""
    return {
        "chain": deployment.chain_id,
        "contract": deployment.contract,
        "payer": config.payer,
        "signer": config.signer,
        "payee": config.payee,
        "delay": config.delay_s,
        "salt": config.salt,
    }


def unpack_channel(fields: Fields) -> tuple[Deployment, ChannelConfig]:
    deployment = Deployment(
        chain_id=ChainId(fields.uint("chain", least=1, most=CHAIN_ID_MAX)),
        contract=fields.address("contract"),
    )
    config = ChannelConfig(
        payer=fields.address("payer"),
        signer=fields.address("signer"),
        payee=fields.address("payee"),
        delay_s=fields.uint("delay", most=DELAY_S_MAX),
        salt=fields.exactly("salt"),
    )
    return deployment, config


def _pack_relay(relay: messages.RelayRequest) -> Packed:
    deposit: Packed = {} if relay.deposit is None else {"deposit": _pack_deposit(relay.deposit)}
    return {
        **pack_channel(relay.deployment, relay.config),
        "allocate": _pack_allocation(relay.allocation),
        **deposit,
    }


def _unpack_relay(fields: Fields) -> messages.RelayRequest:
    deployment, config = unpack_channel(fields)
    return messages.RelayRequest(
        deployment=deployment,
        config=config,
        allocation=_unpack_allocation(fields.map("allocate")),
        deposit=_unpack_deposit(fields.map("deposit")) if fields.has("deposit") else None,
    )


def _pack_relay_answer(answer: messages.RelayAnswer) -> Packed:
    sent: Packed = {} if answer.transaction is None else {"tx": answer.transaction}
    return {"ch": answer.channel_id, "message": answer.message[:TEXT_CHARS_MAX], **sent}


def _unpack_relay_answer(fields: Fields) -> messages.RelayAnswer:
    return messages.RelayAnswer(
        channel_id=_channel(fields),
        transaction=fields.exactly("tx") if fields.has("tx") else None,
        message=fields.text("message", chars_max=TEXT_CHARS_MAX),
    )


def _channel(fields: Fields) -> ChannelId:
    return ChannelId(fields.exactly("ch"))


def _request(fields: Fields) -> RequestId:
    return RequestId(fields.exactly("rid"))


def _signature(fields: Fields, key: str) -> Signature:
    return Signature(fields.exactly(key, size_bytes=SIGNATURE_BYTES))


def _refusal(fields: Fields) -> RefuseReason:
    return cast(RefuseReason, fields.word("why", among=_REFUSALS))


_FORMS: dict[type, tuple[str, Callable[[Any], Packed], Callable[[Fields], MoneyMessage]]] = {
    messages.VoucherMessage: (
        "voucher",
        lambda message: {"ch": message.signed.voucher.channel_id, **_pack_voucher(message.signed)},
        lambda fields: messages.VoucherMessage(signed=_unpack_voucher(fields)),
    ),
    messages.VoucherNeeded: (
        "need",
        lambda message: {"rid": message.request_id, "needed": message.needed_micros},
        lambda fields: messages.VoucherNeeded(
            request_id=_request(fields), needed_micros=fields.micros("needed")
        ),
    ),
    messages.ChannelState: ("state", _pack_state, _unpack_state),
    messages.StateAnswer: (
        "answer",
        lambda message: {
            "contact": message.contact,
            "ch": message.channel_id,
            "due": message.due_micros,
        },
        lambda fields: messages.StateAnswer(
            contact=fields.exactly("contact", size_bytes=CONTACT_BYTES),
            channel_id=_channel(fields),
            due_micros=fields.micros("due"),
        ),
    ),
    messages.StopRequest: (
        "stop",
        lambda message: {"rid": message.request_id, "why": message.reason},
        lambda fields: messages.StopRequest(
            request_id=_request(fields), reason=cast(StopReason, fields.word("why", among=_STOPS))
        ),
    ),
    messages.RequestEnd: ("end", _pack_end, _unpack_end),
    messages.RelayRequest: ("relay", _pack_relay, _unpack_relay),
    messages.TopUpOffer: (
        "topup",
        lambda message: {"ch": message.channel_id, "allocate": _pack_allocation(message.allocation)},
        lambda fields: messages.TopUpOffer(
            channel_id=_channel(fields), allocation=_unpack_allocation(fields.map("allocate"))
        ),
    ),
    messages.RelayAnswer: ("relayed", _pack_relay_answer, _unpack_relay_answer),
    messages.CloseOffer: (
        "close",
        lambda message: {"ch": message.signed.voucher.channel_id, **_pack_voucher(message.signed)},
        lambda fields: messages.CloseOffer(signed=_unpack_voucher(fields)),
    ),
    messages.CloseSigned: (
        "closed",
        lambda message: {
            "ch": message.channel_id,
            "amount": message.amount_micros,
            "sig": message.signature,
        },
        lambda fields: messages.CloseSigned(
            channel_id=_channel(fields),
            amount_micros=fields.micros("amount"),
            signature=_signature(fields, "sig"),
        ),
    ),
    messages.CloseRefused: (
        "unclosed",
        lambda message: {
            "ch": message.channel_id,
            "why": message.reason,
            "needed": message.needed_micros,
        },
        lambda fields: messages.CloseRefused(
            channel_id=_channel(fields), reason=_refusal(fields), needed_micros=fields.micros("needed")
        ),
    ),
    messages.ReceiptAck: (
        "receipted",
        lambda message: {"rid": message.request_id, "receipt": message.receipt},
        lambda fields: messages.ReceiptAck(
            request_id=_request(fields), receipt=Digest(fields.exactly("receipt"))
        ),
    ),
}
_UNPACK = {kind: unpack for kind, _, unpack in _FORMS.values()}
