"""Stream acknowledgements: the seller's signature over what it has sent so far, at every 64 tokens.

A receipt comes at the end, and a stream may never get there. So that a cut stream is evidence too, the seller
signs the root of all ids up to the last whole block, with the key that signs its receipts: one signature for
64 tokens (60 microseconds against seconds of decoding), and whoever holds one can prove a prefix to a third
party without the rest. A hash chain would be cheaper still, and would prove nothing about the ids before the
first signed link was opened.

It binds the engine and the class of the check as a receipt does: else a buyer could state a stricter engine
for a stream that has no receipt.
"""

from dataclasses import dataclass
from typing import cast

from unhosted.market.cbor import encode
from unhosted.market.eip712 import digest, keccak256, type_hash
from unhosted.market.fields import Fields, read_message
from unhosted.market.ids import ID_BYTES, SIGNATURE_BYTES, Digest, Signature
from unhosted.market.offers import CHECK_CLASSES, CheckClass
from unhosted.market.receipts import SignedReceipt, decode_response
from unhosted.market.requests import RequestHash
from unhosted.market.roots import BLOCK_IDS
from unhosted.market.terms import OUTPUT_TOKENS_MAX, check_range, check_size

ACK_TYPE = "StreamAck(bytes32 requestHash,uint32 outTokens,bytes32 outputRoot,bytes32 engine,string check)"
"""In the domain of `Bonds`, whose key it is; no contract takes one."""

VERSION = 1
ACK_BYTES_MAX = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamAck:
    """output_root: `roots.ids_root` of the first `tokens_out` ids. engine, check: as in a response."""

    request_hash: RequestHash
    tokens_out: int
    output_root: bytes
    engine: bytes
    check: CheckClass

    def __post_init__(self) -> None:
        for name in ("request_hash", "output_root", "engine"):
            check_size(name, getattr(self, name), ID_BYTES)
        check_range("tokens_out", self.tokens_out, 1, OUTPUT_TOKENS_MAX)
        if self.check not in CHECK_CLASSES:
            raise ValueError(f"check {self.check!r} is none of {', '.join(CHECK_CLASSES)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedAck:
    """signature: secp256k1 by the key of the seller's receipts, over `ack_digest`."""

    ack: StreamAck
    signature: Signature

    def __post_init__(self) -> None:
        check_size("signature", self.signature, SIGNATURE_BYTES)


def ack_due(acknowledged: int, delivered: int) -> int:
    """Up to where the seller owes an acknowledgement: whole blocks; 0 where it owes none."""
    whole = delivered - delivered % BLOCK_IDS
    return whole if whole > acknowledged else 0


def ack_digest(separator: bytes, ack: StreamAck) -> Digest:
    """What the seller signs; `separator` from `eip712.bonds_separator`."""
    return digest(
        separator,
        keccak256(
            type_hash(ACK_TYPE)
            + ack.request_hash
            + ack.tokens_out.to_bytes(32, "big")
            + ack.output_root
            + ack.engine
            + keccak256(ack.check.encode())
        ),
    )


def encode_ack(signed: SignedAck) -> bytes:
    ack = signed.ack
    return encode(
        {
            "v": VERSION,
            "asked": ack.request_hash,
            "tokens_out": ack.tokens_out,
            "output": ack.output_root,
            "engine": ack.engine,
            "check": ack.check,
            "sig": signed.signature,
        }
    )


def decode_ack(data: bytes) -> SignedAck:
    """Raises: RemoteFault; who signed it is the shell's to recover."""
    return read_message(data, bytes_max=ACK_BYTES_MAX, version=VERSION, unpack=_unpack)


def contradiction(ack: StreamAck, signed: SignedReceipt) -> str | None:
    """What a seller said in a receipt otherwise than in an acknowledgement of the same request, if the two
    alone show it; both by one key, that is proof. A receipt over more tokens is compared by its ids.

    Raises: RemoteFault if the receipt's response is no message.
    """
    receipt, response = signed.receipt, decode_response(signed.response)
    if receipt.request_hash != ack.request_hash:
        return None
    if receipt.tokens_out < ack.tokens_out:
        return f"a receipt over {receipt.tokens_out} tokens, {ack.tokens_out} were acknowledged"
    if receipt.tokens_out == ack.tokens_out and response.output_root != ack.output_root:
        return f"a receipt over {receipt.tokens_out} other tokens than were acknowledged"
    if (response.engine, response.check) != (ack.engine, ack.check):
        return "a receipt for another engine, or another class of check, than was acknowledged"
    return None


def _unpack(fields: Fields) -> SignedAck:
    return SignedAck(
        ack=StreamAck(
            request_hash=RequestHash(fields.exactly("asked")),
            tokens_out=fields.uint("tokens_out", least=1, most=OUTPUT_TOKENS_MAX),
            output_root=fields.exactly("output"),
            engine=fields.exactly("engine"),
            check=cast(CheckClass, fields.word("check", among=CHECK_CLASSES)),
        ),
        signature=Signature(fields.exactly("sig", size_bytes=SIGNATURE_BYTES)),
    )
