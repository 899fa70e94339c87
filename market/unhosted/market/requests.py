"""Requests: what a buyer asks for and signs, without the words: the prompt is under a salted root.

The body goes to the seller beside the prompt's ids and the salt, which are private to the two. It is what a
receipt refers to and what evidence opens later: whoever holds it can check what was asked, and nobody can say
afterwards that the seed or the sampler was another.
"""

from dataclasses import dataclass
from typing import NewType

from unhosted.market.cbor import CborError, decode, encode
from unhosted.market.faults import Reason, RemoteFault
from unhosted.market.fields import Fields, read_message
from unhosted.market.hashing import blake3_of
from unhosted.market.ids import ID_BYTES, ChannelId, ModelHash, PeerText, parse_peer
from unhosted.market.money import Price
from unhosted.market.months import UNIX_S_MAX
from unhosted.market.offers import SEQUENCE_MAX, unpack_peer
from unhosted.market.quotes import Quote, QuoteId, pack_terms, unpack_terms
from unhosted.market.signed import to_sign
from unhosted.market.terms import Terms, check_range, check_size

RequestHash = NewType("RequestHash", bytes)
"""BLAKE3 of a request's body: `requestHash` in the receipt on chain."""

REQUEST_DOMAIN = b"unhosted/request/v1"
REQUEST_HASH_DOMAIN = b"unhosted/request-hash/v1"
VERSION = 1
SEED_BYTES = 32
SAMPLING_BYTES_MAX = 131_072
"""A grammar or a schema of 64 KiB, 32 stop texts of 256 characters, 1,024 logit biases of 15 bytes and a
dozen numbers."""

SAMPLING_DEPTH_MAX = 4
SAMPLING_ITEMS_MAX = 4_096
REQUEST_BODY_BYTES_MAX = SAMPLING_BYTES_MAX + 1_024
NO_QUOTE = QuoteId(bytes(ID_BYTES))
"""What a request names that takes the price which the seller stands for, without a quote of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """quote: what the signature accepts. prompt_root: `roots.ids_root` of the prompt's ids.

    sampling: canonical CBOR of one map with all that decides which token follows, without the seed: the
    sampler's name and numbers, stop texts, a grammar; the sampler's own rules read it. seed: 32
    bytes, the buyer's. channel_sequence: counts the requests of a channel from 1, so that a gap shows.
    """

    buyer: PeerText
    seller: PeerText
    quote: QuoteId
    model: ModelHash
    terms: Terms
    prompt_root: bytes
    sampling: bytes
    seed: bytes
    channel_sequence: int
    sent_unix_s: int

    def __post_init__(self) -> None:
        parse_peer(self.buyer)
        parse_peer(self.seller)
        for name in ("quote", "model", "prompt_root"):
            check_size(name, getattr(self, name), ID_BYTES)
        check_size("seed", self.seed, SEED_BYTES)
        check_range("channel_sequence", self.channel_sequence, 1, SEQUENCE_MAX)
        check_range("sent_unix_s", self.sent_unix_s, 1, UNIX_S_MAX)
        try:
            words = decode(
                self.sampling,
                bytes_max=SAMPLING_BYTES_MAX,
                depth_max=SAMPLING_DEPTH_MAX,
                items_max=SAMPLING_ITEMS_MAX,
            )
        except CborError as error:
            raise ValueError(f"sampling: {error}") from None
        if type(words) is not dict:
            raise ValueError(f"sampling: a {type(words).__name__}, must be a map")


def encode_request(request: Request) -> bytes:
    """The body to sign."""
    return encode(
        {
            "v": VERSION,
            "buyer": request.buyer,
            "seller": request.seller,
            "quote": request.quote,
            "model": request.model,
            **pack_terms(request.terms),
            "prompt": request.prompt_root,
            "sampling": request.sampling,
            "seed": request.seed,
            "seq": request.channel_sequence,
            "sent": request.sent_unix_s,
        }
    )


def decode_request(body: bytes) -> Request:
    """Raises: RemoteFault."""
    return read_message(body, bytes_max=REQUEST_BODY_BYTES_MAX, version=VERSION, unpack=_unpack)


def request_bytes_to_sign(body: bytes) -> bytes:
    return to_sign(REQUEST_DOMAIN, body)


def request_hash(body: bytes) -> RequestHash:
    return RequestHash(blake3_of(REQUEST_HASH_DOMAIN, body))


def check_request(
    request: Request, *, quote: Quote, quote_id: QuoteId, sequence_last: int
) -> RemoteFault | None:
    """The seller's check of what the buyer signed; the prompt's root is checked when the ids are there.

    sequence_last: of the channel's request before this, 0 for none.
    """
    if request.quote != quote_id or request.terms != quote.terms or request.model != quote.model:
        return RemoteFault(Reason.WRONG_TERMS, "the request is not for what was quoted")
    if request.buyer != quote.buyer or request.seller != quote.seller:
        return RemoteFault(Reason.WRONG_TERMS, "the request is of another buyer, or for another seller")
    if request.channel_sequence <= sequence_last:
        return RemoteFault(
            Reason.WRONG_ORDER,
            f"request {request.channel_sequence} of the channel comes after {sequence_last}",
        )
    return None


def check_standing(
    request: Request, *, buyer: str, seller: str, channel_id: ChannelId, model: ModelHash, price: Price
) -> RemoteFault | None:
    """The seller's check where no quote was given: the terms that it stands for. buyer: who is on the stream.

    The channel's own rules check counts and the sequence, and the prompt's root is checked before the work.
    """
    terms = request.terms
    if request.quote != NO_QUOTE:
        return RemoteFault(Reason.WRONG_TERMS, "the request accepts a quote that was not given here")
    if request.buyer != buyer or request.seller != seller:
        return RemoteFault(Reason.WRONG_TERMS, "the request is of another buyer, or for another seller")
    if terms.price != price or request.model != model:
        message = "a request at another price, or for another model, than is sold here"
        return RemoteFault(Reason.WRONG_TERMS, message)
    if terms.channel_id != channel_id:
        return RemoteFault(Reason.WRONG_CHANNEL, "the request is for another channel than the stream")
    return None


def _unpack(fields: Fields) -> Request:
    return Request(
        buyer=unpack_peer(fields, "buyer"),
        seller=unpack_peer(fields, "seller"),
        quote=QuoteId(fields.exactly("quote")),
        model=ModelHash(fields.exactly("model")),
        terms=unpack_terms(fields),
        prompt_root=fields.exactly("prompt"),
        sampling=fields.data("sampling", bytes_max=SAMPLING_BYTES_MAX),
        seed=fields.exactly("seed", size_bytes=SEED_BYTES),
        channel_sequence=fields.uint("seq", most=SEQUENCE_MAX),
        sent_unix_s=fields.uint("sent", most=UNIX_S_MAX),
    )
