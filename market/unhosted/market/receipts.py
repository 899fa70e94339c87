"""Receipts: what a seller delivered, signed by the key that its bond stands for, exactly one per request.

The eight fields are those that `Bonds` has on chain; `responseHash` binds what the chain need not know. Two
different receipts of one key for one request id are proof of equivocation that the contract takes without
asking anybody, so a seller stores a receipt before it sends it and sends that one again after a crash.
A verdict is a verifier's vote on a receipt.
"""

from dataclasses import dataclass
from typing import Literal, NewType, cast, get_args

from unhosted.market.cbor import encode
from unhosted.market.eip712 import digest, keccak256, type_hash
from unhosted.market.faults import Reason, RemoteFault
from unhosted.market.fields import WIRE_MICROS_MAX, Fields, read_message
from unhosted.market.hashing import blake3_of
from unhosted.market.ids import ID_BYTES, SIGNATURE_BYTES, ChannelId, Digest, ModelHash, RequestId, Signature
from unhosted.market.money import Micros, cost_micros
from unhosted.market.offers import CHECK_CLASSES, CheckClass
from unhosted.market.requests import Request, RequestHash
from unhosted.market.terms import OUTPUT_TOKENS_MAX, PROMPT_TOKENS_MAX, check_range, check_size

ResponseHash = NewType("ResponseHash", bytes)
"""BLAKE3 of a response's body: `responseHash` in the receipt on chain."""

ReceiptHash = NewType("ReceiptHash", bytes)
"""BLAKE3 of an encoded signed receipt: what the channel's next receipt refers to."""

FinishReason = Literal["stop", "length", "tool_calls", "cancelled", "cut"]
"""`stop`: an end token or a stop text; `length`: the agreed maximum; `cancelled`: by the buyer; `cut`: the
stream broke or the money ended."""

RECEIPT_TYPE = (
    "Receipt(bytes32 requestId,bytes32 channelId,bytes32 modelId,bytes32 requestHash,bytes32 responseHash,"
    "uint32 inTokens,uint32 outTokens,uint96 amount)"
)
VERDICT_TYPE = "Verdict(bytes32 receipt,uint96 slash,bool onAppeal)"

RESPONSE_DOMAIN = b"unhosted/response/v1"
RECEIPT_HASH_DOMAIN = b"unhosted/receipt/v1"
VERSION = 1
RESPONSE_BODY_BYTES_MAX = 512
RECEIPT_BYTES_MAX = 1_024
FINISH_REASONS: tuple[str, ...] = get_args(FinishReason)
NO_RECEIPT = ReceiptHash(bytes(ID_BYTES))
"""What the first receipt of a channel has as the one before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """request_hash: of the buyer's signed request. amount_micros: the request's due, not the voucher's."""

    request_id: RequestId
    channel_id: ChannelId
    model: ModelHash
    request_hash: RequestHash
    response_hash: ResponseHash
    tokens_in: int
    tokens_out: int
    amount_micros: Micros

    def __post_init__(self) -> None:
        for name in ("request_id", "channel_id", "model", "request_hash", "response_hash"):
            check_size(name, getattr(self, name), ID_BYTES)
        check_range("tokens_in", self.tokens_in, 0, PROMPT_TOKENS_MAX)
        check_range("tokens_out", self.tokens_out, 0, OUTPUT_TOKENS_MAX)
        check_range("amount_micros", self.amount_micros, 0, WIRE_MICROS_MAX)


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """output_root: `roots.ids_root` of the ids that were sent. engine: BLAKE3 of the engine's description.

    previous: of the receipt before it on the channel, so that one that is kept back shows as a gap.
    """

    output_root: bytes
    finish: FinishReason
    engine: bytes
    check: CheckClass
    previous: ReceiptHash

    def __post_init__(self) -> None:
        for name in ("output_root", "engine", "previous"):
            check_size(name, getattr(self, name), ID_BYTES)
        if self.finish not in FINISH_REASONS:
            raise ValueError(f"finish {self.finish!r} is none of {', '.join(FINISH_REASONS)}")
        if self.check not in CHECK_CLASSES:
            raise ValueError(f"check {self.check!r} is none of {', '.join(CHECK_CLASSES)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedReceipt:
    """signature: secp256k1 by the bonded key over `receipt_digest`. response: canonical CBOR, as hashed."""

    receipt: Receipt
    response: bytes
    signature: Signature

    def __post_init__(self) -> None:
        check_size("signature", self.signature, SIGNATURE_BYTES)
        if response_hash(self.response) != self.receipt.response_hash:
            raise ValueError("response is not what the receipt's response hash is of")


def receipt_digest(separator: bytes, receipt: Receipt) -> Digest:
    """What the seller signs; `separator` from `eip712.bonds_separator`."""
    return digest(
        separator,
        keccak256(
            type_hash(RECEIPT_TYPE)
            + receipt.request_id
            + receipt.channel_id
            + receipt.model
            + receipt.request_hash
            + receipt.response_hash
            + receipt.tokens_in.to_bytes(32, "big")
            + receipt.tokens_out.to_bytes(32, "big")
            + receipt.amount_micros.to_bytes(32, "big")
        ),
    )


def verdict_digest(separator: bytes, receipt: Digest, *, slash_micros: int, is_on_appeal: bool) -> Digest:
    """What a verifier signs. receipt: the digest of the receipt that is judged, as `receiptHash` gives it."""
    return digest(
        separator,
        keccak256(
            type_hash(VERDICT_TYPE)
            + receipt
            + slash_micros.to_bytes(32, "big")
            + is_on_appeal.to_bytes(32, "big")
        ),
    )


def encode_response(response: Response) -> bytes:
    """The body that `response_hash` is of."""
    return encode(
        {
            "v": VERSION,
            "output": response.output_root,
            "finish": response.finish,
            "engine": response.engine,
            "check": response.check,
            "previous": response.previous,
        }
    )


def decode_response(body: bytes) -> Response:
    """Raises: RemoteFault."""
    return read_message(body, bytes_max=RESPONSE_BODY_BYTES_MAX, version=VERSION, unpack=_unpack_response)


def response_hash(body: bytes) -> ResponseHash:
    return ResponseHash(blake3_of(RESPONSE_DOMAIN, body))


def encode_receipt(signed: SignedReceipt) -> bytes:
    receipt = signed.receipt
    return encode(
        {
            "v": VERSION,
            "request": receipt.request_id,
            "channel": receipt.channel_id,
            "model": receipt.model,
            "asked": receipt.request_hash,
            "answered": receipt.response_hash,
            "tokens_in": receipt.tokens_in,
            "tokens_out": receipt.tokens_out,
            "amount": receipt.amount_micros,
            "response": signed.response,
            "sig": signed.signature,
        }
    )


def decode_receipt(data: bytes) -> SignedReceipt:
    """Raises: RemoteFault; who signed it is the shell's to recover."""
    return read_message(data, bytes_max=RECEIPT_BYTES_MAX, version=VERSION, unpack=_unpack_receipt)


def receipt_hash(signed: SignedReceipt) -> ReceiptHash:
    return ReceiptHash(blake3_of(RECEIPT_HASH_DOMAIN, encode_receipt(signed)))


def check_receipt(
    signed: SignedReceipt,
    *,
    request: Request,
    request_hash: RequestHash,
    output_root: bytes,
    tokens_out: int,
    previous: ReceiptHash,
) -> RemoteFault | None:
    """The buyer's check: the first thing that a receipt says otherwise than what arrived.

    output_root, tokens_out: of the ids that the buyer has. previous: of the receipt before on the channel.
    Raises: RemoteFault if the response is no message.
    """
    receipt, response, terms = signed.receipt, decode_response(signed.response), request.terms
    ids = (receipt.request_id, receipt.channel_id, receipt.model, receipt.request_hash)
    if ids != (terms.request_id, terms.channel_id, request.model, request_hash):
        return _wrong("another request, channel or model")
    if receipt.tokens_in != terms.tokens_in or receipt.tokens_out != tokens_out:
        return _wrong(
            f"{receipt.tokens_in} + {receipt.tokens_out} tokens, we count {terms.tokens_in} + {tokens_out}"
        )
    due_micros = cost_micros(terms.price, tokens_in=terms.tokens_in, tokens_out=tokens_out)
    if receipt.amount_micros != due_micros:
        return _wrong(f"{receipt.amount_micros} micro-USDC, {due_micros} are due")
    if response.output_root != output_root:
        return _wrong("the root of the output is not that of the ids that came")
    if response.previous != previous:
        return _wrong("it does not follow the channel's receipt before it")
    return None


def _wrong(message: str) -> RemoteFault:
    return RemoteFault(Reason.WRONG_RECEIPT, message)


def _unpack_response(fields: Fields) -> Response:
    return Response(
        output_root=fields.exactly("output"),
        finish=cast(FinishReason, fields.word("finish", among=FINISH_REASONS)),
        engine=fields.exactly("engine"),
        check=cast(CheckClass, fields.word("check", among=CHECK_CLASSES)),
        previous=ReceiptHash(fields.exactly("previous")),
    )


def _unpack_receipt(fields: Fields) -> SignedReceipt:
    return SignedReceipt(
        receipt=Receipt(
            request_id=RequestId(fields.exactly("request")),
            channel_id=ChannelId(fields.exactly("channel")),
            model=ModelHash(fields.exactly("model")),
            request_hash=RequestHash(fields.exactly("asked")),
            response_hash=ResponseHash(fields.exactly("answered")),
            tokens_in=fields.uint("tokens_in", most=PROMPT_TOKENS_MAX),
            tokens_out=fields.uint("tokens_out", most=OUTPUT_TOKENS_MAX),
            amount_micros=fields.micros("amount"),
        ),
        response=fields.data("response", bytes_max=RESPONSE_BODY_BYTES_MAX),
        signature=Signature(fields.exactly("sig", size_bytes=SIGNATURE_BYTES)),
    )
