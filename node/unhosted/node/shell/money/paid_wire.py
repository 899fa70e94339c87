"""What travels on a paid stream beside the words about money: who opens it, the work, tokens and receipts.

One CBOR map per message, like `market.messages_wire`, whose kinds share the stream: a kind that is not one of
these four is read there. Token ids are packed as 32-bit little-endian numbers: in a list they would meet the
reader's bound on CBOR values, and a list is twice as long.
"""

import array
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from unhosted.market.cbor import encode
from unhosted.market.channels import ChannelConfig, Deployment
from unhosted.market.fields import Fields, read_message
from unhosted.market.ids import SIGNATURE_BYTES, ChannelId, ModelHash, RequestId, Signature
from unhosted.market.messages import CONTACT_BYTES, SEQUENCE_MAX, MoneyMessage
from unhosted.market.messages_wire import (
    KIND_CHARS_MAX,
    VERSION,
    decode_money,
    encode_money,
    pack_channel,
    unpack_channel,
)
from unhosted.market.money import PRICE_MICROS_MAX, Price
from unhosted.market.receipts import RECEIPT_BYTES_MAX, SignedReceipt, decode_receipt, encode_receipt
from unhosted.market.requests import RequestHash
from unhosted.market.terms import OUTPUT_TOKENS_MAX, PROMPT_TOKENS_MAX, WINDOW_TOKENS_MAX, Terms

PROTOCOL = "/unhosted/paid/1"

ID_BYTES_ON_WIRE = 4
STREAM_MESSAGE_BYTES_MAX = PROMPT_TOKENS_MAX * ID_BYTES_ON_WIRE + 1_024
"""An ask with the longest prompt; everything else is a thousandth of it."""

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
    """Payer: the work. request_hash: of what both sides hold the request to be; it goes into the receipt.

    salt: 32 secret bytes that keep others from guessing the answer behind the receipt's root of it.
    """

    terms: Terms
    sequence: int
    model: ModelHash
    request_hash: RequestHash
    salt: bytes
    prompt_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.prompt_ids) != self.terms.tokens_in:
            raise ValueError(f"prompt of {len(self.prompt_ids)} tokens, {self.terms.tokens_in} are stated")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Payee: tokens of the answer from `position` on."""

    request_id: RequestId
    position: int
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptGiven:
    """Payee, after the end of a request that delivered something."""

    signed: SignedReceipt


StreamMessage = Hello | WorkAsked | Tokens | ReceiptGiven | MoneyMessage


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
    terms = ask.terms
    return {
        "rid": terms.request_id,
        "ch": terms.channel_id,
        "in": terms.price.in_micros_per_mtok,
        "out": terms.price.out_micros_per_mtok,
        "most": terms.tokens_out_max,
        "window": terms.window_tokens,
        "seq": ask.sequence,
        "model": ask.model,
        "asked": ask.request_hash,
        "salt": ask.salt,
        "prompt": pack_ids(ask.prompt_ids),
    }


def _unpack_ask(fields: Fields) -> WorkAsked:
    prompt_ids = unpack_ids(fields.data("prompt", bytes_max=PROMPT_TOKENS_MAX * ID_BYTES_ON_WIRE))
    return WorkAsked(
        terms=Terms(
            request_id=RequestId(fields.exactly("rid")),
            channel_id=ChannelId(fields.exactly("ch")),
            price=Price(
                in_micros_per_mtok=fields.uint("in", most=PRICE_MICROS_MAX),
                out_micros_per_mtok=fields.uint("out", most=PRICE_MICROS_MAX),
            ),
            tokens_in=len(prompt_ids),
            tokens_out_max=fields.uint("most", least=1, most=OUTPUT_TOKENS_MAX),
            window_tokens=fields.uint("window", least=1, most=WINDOW_TOKENS_MAX),
        ),
        sequence=fields.uint("seq", least=1, most=SEQUENCE_MAX),
        model=ModelHash(fields.exactly("model")),
        request_hash=RequestHash(fields.exactly("asked")),
        salt=fields.exactly("salt"),
        prompt_ids=prompt_ids,
    )


def _unpack_tokens(fields: Fields) -> Tokens:
    ids = unpack_ids(fields.data("ids", bytes_max=PIECE_TOKENS_MAX * ID_BYTES_ON_WIRE))
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
    "receipt": lambda fields: ReceiptGiven(
        signed=decode_receipt(fields.data("receipt", bytes_max=RECEIPT_BYTES_MAX))
    ),
}
