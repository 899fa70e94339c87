"""Quotes: what one request will cost at most, signed by the seller; accepted by the buyer's signature.

A quote binds both for a minute. The buyer counted the prompt's tokens itself, so `tokens_in` is its own
number coming back. `due_micros` is the channel's total due as the seller has it before this request: where
the two books differ, it shows here, before a token is computed.
"""

from dataclasses import dataclass
from typing import NewType

from unhosted.market.cbor import encode
from unhosted.market.faults import Reason, RemoteFault
from unhosted.market.fields import WIRE_MICROS_MAX, Fields, read_message
from unhosted.market.hashing import blake3_of
from unhosted.market.ids import ID_BYTES, ChannelId, ModelHash, PeerText, RequestId, parse_peer
from unhosted.market.money import Micros
from unhosted.market.months import UNIX_S_MAX
from unhosted.market.offers import Offer, OfferId, check_expiry, pack_price, unpack_peer, unpack_price
from unhosted.market.signed import to_sign
from unhosted.market.terms import (
    OUTPUT_TOKENS_MAX,
    PROMPT_TOKENS_MAX,
    WINDOW_TOKENS_MAX,
    Terms,
    check_range,
    check_size,
)

QuoteId = NewType("QuoteId", bytes)
"""BLAKE3 of a quote's body; the request names it, so signing the request accepts the quote."""

QUOTE_DOMAIN = b"unhosted/quote/v1"
ACCEPT_DOMAIN = b"unhosted/quote-accept/v1"
QUOTE_ID_DOMAIN = b"unhosted/quote-id/v1"
VERSION = 1
QUOTE_BODY_BYTES_MAX = 768
QUOTE_LIFE_S_MAX = 60
"""Slots and queues change: a seller cannot be held to a price for longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """seller, buyer: peer ids. offer: what it rests on. due_micros: the channel's total due before this."""

    seller: PeerText
    buyer: PeerText
    offer: OfferId
    model: ModelHash
    terms: Terms
    due_micros: Micros
    expiry_unix_s: int

    def __post_init__(self) -> None:
        parse_peer(self.seller)
        parse_peer(self.buyer)
        check_size("offer", self.offer, ID_BYTES)
        check_size("model", self.model, ID_BYTES)
        check_range("due_micros", self.due_micros, 0, WIRE_MICROS_MAX)
        check_range("expiry_unix_s", self.expiry_unix_s, 1, UNIX_S_MAX)


def encode_quote(quote: Quote) -> bytes:
    """The body to sign."""
    return encode(
        {
            "v": VERSION,
            "seller": quote.seller,
            "buyer": quote.buyer,
            "offer": quote.offer,
            "model": quote.model,
            **pack_terms(quote.terms),
            "cost": quote.terms.cost_micros_max,
            "due": quote.due_micros,
            "expiry": quote.expiry_unix_s,
        }
    )


def decode_quote(body: bytes) -> Quote:
    """Raises: RemoteFault; also where the stated maximal cost is not what the counts and the price give."""
    return read_message(body, bytes_max=QUOTE_BODY_BYTES_MAX, version=VERSION, unpack=_unpack)


def quote_bytes_to_sign(body: bytes) -> bytes:
    """For the seller."""
    return to_sign(QUOTE_DOMAIN, body)


def acceptance_bytes_to_sign(body: bytes) -> bytes:
    """For the buyer, where it accepts before it sends the request: other bytes than the seller's."""
    return to_sign(ACCEPT_DOMAIN, body)


def quote_id(body: bytes) -> QuoteId:
    return QuoteId(blake3_of(QUOTE_ID_DOMAIN, body))


def check_quote(
    quote: Quote,
    *,
    asked: Terms,
    offer: Offer,
    offer_id: OfferId,
    now_unix_s: int,
) -> RemoteFault | None:
    """The first thing that a quote has otherwise than the offer and what was asked.

    A seller may quote less than it offered, and fewer output tokens or a smaller window than asked.
    """
    terms = quote.terms
    if quote.seller != offer.seller or quote.offer != offer_id or quote.model != offer.model:
        return RemoteFault(Reason.WRONG_TERMS, "the quote is for another offer, model or seller")
    if terms.request_id != asked.request_id or terms.channel_id != asked.channel_id:
        return RemoteFault(Reason.WRONG_TERMS, "the quote is for another request or channel")
    if terms.tokens_in != asked.tokens_in:
        return RemoteFault(
            Reason.OVER_CLAIM, f"the quote counts {terms.tokens_in} prompt tokens, we {asked.tokens_in}"
        )
    for name, quoted, agreed in (
        ("input price", terms.price.in_micros_per_mtok, offer.price.in_micros_per_mtok),
        ("output price", terms.price.out_micros_per_mtok, offer.price.out_micros_per_mtok),
        ("output tokens", terms.tokens_out_max, asked.tokens_out_max),
        ("window", terms.window_tokens, asked.window_tokens),
    ):
        if quoted > agreed:
            return RemoteFault(Reason.WRONG_TERMS, f"{name} {quoted} is above {agreed}")
    return check_expiry("quote", quote.expiry_unix_s, life_s_max=QUOTE_LIFE_S_MAX, now_unix_s=now_unix_s)


def pack_terms(terms: Terms) -> dict[str, object]:
    return {
        "request": terms.request_id,
        "channel": terms.channel_id,
        **pack_price(terms.price),
        "tokens_in": terms.tokens_in,
        "tokens_out": terms.tokens_out_max,
        "window": terms.window_tokens,
    }


def unpack_terms(fields: Fields) -> Terms:
    return Terms(
        request_id=RequestId(fields.exactly("request")),
        channel_id=ChannelId(fields.exactly("channel")),
        price=unpack_price(fields),
        tokens_in=fields.uint("tokens_in", most=PROMPT_TOKENS_MAX),
        tokens_out_max=fields.uint("tokens_out", least=1, most=OUTPUT_TOKENS_MAX),
        window_tokens=fields.uint("window", least=1, most=WINDOW_TOKENS_MAX),
    )


def _unpack(fields: Fields) -> Quote:
    quote = Quote(
        seller=unpack_peer(fields, "seller"),
        buyer=unpack_peer(fields, "buyer"),
        offer=OfferId(fields.exactly("offer")),
        model=ModelHash(fields.exactly("model")),
        terms=unpack_terms(fields),
        due_micros=fields.micros("due"),
        expiry_unix_s=fields.uint("expiry", most=UNIX_S_MAX),
    )
    cost_micros = fields.micros("cost")
    if cost_micros != quote.terms.cost_micros_max:
        raise fields.wrong(
            "cost", f"{cost_micros}, the counts and the price give {quote.terms.cost_micros_max}"
        )
    return quote
