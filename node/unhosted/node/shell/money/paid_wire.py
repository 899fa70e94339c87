"""What travels on a paid stream beside the words about money: who opens it, the work, tokens, and what is
signed for them.

One CBOR map per message, like `market.messages_wire`, whose kinds share the stream: a kind that is not one of
these six is read there. Token ids are packed as 32-bit little-endian numbers: in a list they would meet the
reader's bound on CBOR values, and a list is twice as long.
"""

import array
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from unhosted.market.acks import ACK_BYTES_MAX, SignedAck, decode_ack, encode_ack
from unhosted.market.cbor import encode
from unhosted.market.channels import ChannelConfig, Deployment
from unhosted.market.fields import Fields, read_message
from unhosted.market.ids import PEER_SIGNATURE_BYTES, SIGNATURE_BYTES, RequestId, Signature
from unhosted.market.messages import CONTACT_BYTES, MoneyMessage
from unhosted.market.messages_wire import (
    KIND_CHARS_MAX,
    VERSION,
    decode_money,
    encode_money,
    pack_channel,
    unpack_channel,
)
from unhosted.market.receipts import RECEIPT_BYTES_MAX, SignedReceipt, decode_receipt, encode_receipt
from unhosted.market.requests import (
    REQUEST_BODY_BYTES_MAX,
    Request,
    RequestHash,
    decode_request,
    request_hash,
)
from unhosted.market.roots import TOKEN_ID_MAX
from unhosted.market.signed import Signed
from unhosted.market.terms import OUTPUT_TOKENS_MAX, PROMPT_TOKENS_MAX, Terms
from unhosted.node.core.engine_facts import FACTS_BYTES_MAX, EngineFacts, decode_facts, encode_facts

PROTOCOL = "/unhosted/paid/1"

ID_BYTES_ON_WIRE = 4
STREAM_MESSAGE_BYTES_MAX = PROMPT_TOKENS_MAX * ID_BYTES_ON_WIRE + REQUEST_BODY_BYTES_MAX + 1_024
"""An ask with the longest prompt and the longest request."""

PIECE_TOKENS_MAX = 4_096
"""Of one message: the largest window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """Payer, first: which channel, by all that fixes it, and 16 bytes that name this stream.

    signature: the channel's signer's, over both (`market.eip712.hello_digest`).
    """

    contact: bytes
    deployment: Deployment
    config: ChannelConfig
    signature: Signature


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkAsked:
    """Payer: the work. signed: the request's body with the buyer's signature; request: what the body says.

    salt: 32 secret bytes that keep others from guessing prompt and answer behind the roots of them.
    """

    signed: Signed
    request: Request
    salt: bytes
    prompt_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.prompt_ids) != self.terms.tokens_in:
            raise ValueError(f"prompt of {len(self.prompt_ids)} tokens, {self.terms.tokens_in} are stated")

    @property
    def terms(self) -> Terms:
        return self.request.terms

    @property
    def sequence(self) -> int:
        return self.request.channel_sequence

    @property
    def request_hash(self) -> RequestHash:
        return request_hash(self.signed.body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Payee: tokens of the answer from `position` on."""

    request_id: RequestId
    position: int
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStated:
    """Payee: what rounds its answers from here on, before anything that names it by its hash."""

    facts: EngineFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class AckGiven:
    """Payee, right after the tokens that completed a block of 64, once it is on its disk."""

    request_id: RequestId
    signed: SignedAck


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptGiven:
    """Payee: the one receipt of a request that delivered something; again at each contact until the payer
    has said that it is stored."""

    signed: SignedReceipt


StreamMessage = Hello | WorkAsked | Tokens | EngineStated | AckGiven | ReceiptGiven | MoneyMessage


def encode_stream(message: StreamMessage) -> bytes:
    match message:
        case Hello():
            place = pack_channel(message.deployment, message.config)
            return _encode("hello", {"contact": message.contact, "sig": message.signature, **place})
        case WorkAsked():
            return _encode("ask", _pack_ask(message))
        case Tokens():
            ids = pack_ids(message.ids)
            return _encode("tokens", {"rid": message.request_id, "at": message.position, "ids": ids})
        case EngineStated():
            return _encode("engine", {"facts": encode_facts(message.facts)})
        case AckGiven():
            return _encode("ack", {"rid": message.request_id, "ack": encode_ack(message.signed)})
        case ReceiptGiven():
            return _encode("receipt", {"receipt": encode_receipt(message.signed)})
        case _:
            return encode_money(message)


def decode_stream(data: bytes) -> StreamMessage | None:
    """The message; None for a kind that this version does not know.

    Raises: RemoteFault.
    """

    def unpack(fields: Fields) -> StreamMessage | None:
        of = _UNPACK.get(fields.text("k", chars_max=KIND_CHARS_MAX))
        return decode_money(data) if of is None else of(fields)

    return read_message(data, bytes_max=STREAM_MESSAGE_BYTES_MAX, version=VERSION, unpack=unpack)


def pack_ids(ids: Sequence[int]) -> bytes:
    """Each as 4 bytes, little-endian. Raises: OverflowError for an id outside 32 bits."""
    packed = array.array("I", ids)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def unpack_ids(data: bytes) -> tuple[int, ...]:
    """Raises: ValueError unless it is whole numbers of 4 bytes."""
    if len(data) % ID_BYTES_ON_WIRE:
        raise ValueError(f"ids of {len(data)} bytes: a multiple of {ID_BYTES_ON_WIRE} is needed")
    packed = array.array("I")
    packed.frombytes(data)
    if sys.byteorder == "big":
        packed.byteswap()
    return tuple(packed)


def _encode(kind: str, fields: dict[str, object]) -> bytes:
    return encode({"v": VERSION, "k": kind, **fields})


def _pack_ask(ask: WorkAsked) -> dict[str, object]:
    return {
        "body": ask.signed.body,
        "sig": ask.signed.signature,
        "salt": ask.salt,
        "prompt": pack_ids(ask.prompt_ids),
    }


def _unpack_ask(fields: Fields) -> WorkAsked:
    body = fields.data("body", bytes_max=REQUEST_BODY_BYTES_MAX)
    return WorkAsked(
        signed=Signed(body=body, signature=fields.exactly("sig", size_bytes=PEER_SIGNATURE_BYTES)),
        request=decode_request(body),
        salt=fields.exactly("salt"),
        prompt_ids=_ids(fields, "prompt", PROMPT_TOKENS_MAX),
    )


def _ids(fields: Fields, key: str, most: int) -> tuple[int, ...]:
    ids = unpack_ids(fields.data(key, bytes_max=most * ID_BYTES_ON_WIRE))
    if ids and max(ids) > TOKEN_ID_MAX:
        raise fields.wrong(key, f"token id {max(ids)} is above {TOKEN_ID_MAX}")
    return ids


def _unpack_tokens(fields: Fields) -> Tokens:
    ids = _ids(fields, "ids", PIECE_TOKENS_MAX)
    if not ids:
        raise fields.wrong("ids", "a piece without a token")
    position = fields.uint("at", most=OUTPUT_TOKENS_MAX)
    return Tokens(request_id=RequestId(fields.exactly("rid")), position=position, ids=ids)


def _unpack_hello(fields: Fields) -> Hello:
    deployment, config = unpack_channel(fields)
    contact = fields.exactly("contact", size_bytes=CONTACT_BYTES)
    signature = Signature(fields.exactly("sig", size_bytes=SIGNATURE_BYTES))
    return Hello(contact=contact, deployment=deployment, config=config, signature=signature)


_UNPACK: dict[str, Callable[[Fields], StreamMessage]] = {
    "hello": _unpack_hello,
    "ask": _unpack_ask,
    "tokens": _unpack_tokens,
    "engine": lambda fields: EngineStated(
        facts=decode_facts(fields.data("facts", bytes_max=FACTS_BYTES_MAX))
    ),
    "ack": lambda fields: AckGiven(
        request_id=RequestId(fields.exactly("rid")),
        signed=decode_ack(fields.data("ack", bytes_max=ACK_BYTES_MAX)),
    ),
    "receipt": lambda fields: ReceiptGiven(
        signed=decode_receipt(fields.data("receipt", bytes_max=RECEIPT_BYTES_MAX))
    ),
}
