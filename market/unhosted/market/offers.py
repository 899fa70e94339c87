"""Offers: what a seller says to everybody, signed by its peer identity, at most 1 KiB.

One offer is for one model on one chain. It lives at most ten minutes, since slots and speed change; a later
one of the same seller and model (a higher sequence) replaces it. Nothing in it is believed but the price and
the payee, which a quote repeats: speed and slots are claims, and a buyer ranks by what it measured.
"""

from dataclasses import dataclass
from typing import Literal, NewType, cast, get_args

from unhosted.market.cbor import encode
from unhosted.market.channels import DELAY_S_MAX, DELAY_S_MIN, ChainId, Deployment
from unhosted.market.faults import Reason, RemoteFault
from unhosted.market.fields import Fields, built, read_message
from unhosted.market.hashing import blake3_of
from unhosted.market.ids import (
    ADDRESS_BYTES,
    ID_BYTES,
    ZERO_ADDRESS,
    Address,
    ModelHash,
    PeerText,
    parse_peer,
)
from unhosted.market.money import PRICE_MICROS_MAX, Micros, Price
from unhosted.market.months import UNIX_S_MAX
from unhosted.market.signed import FRAME_BYTES, to_sign
from unhosted.market.terms import PROMPT_TOKENS_MAX, check_range, check_size

OfferId = NewType("OfferId", bytes)
"""BLAKE3 of a signed body: what a quote refers to."""

CheckClass = Literal["exact", "statistical", "none"]
"""Whether a re-run gives the same bits, the same tokens within noise, or nothing that can be compared."""

OFFER_DOMAIN = b"unhosted/offer/v1"
OFFER_ID_DOMAIN = b"unhosted/offer-id/v1"
VERSION = 1
OFFER_BYTES_MAX = 1_024
"""Signed and encoded: gossip carries one to every node."""

OFFER_BODY_BYTES_MAX = OFFER_BYTES_MAX - FRAME_BYTES
OFFER_LIFE_S_MAX = 600
CLOCK_SKEW_S_MAX = 120
"""Home machines' clocks are seldom further off than two minutes."""

QUANTIZATION_CHARS_MAX = 24
SLOTS_MAX = 1_024
SPEED_MTOK_S_MAX = 1_000_000_000
"""In thousandths of a token per second: a million tokens per second is no single machine."""

SEQUENCE_MAX = (1 << 53) - 1
ALLOCATION_MICROS_MAX = 1_000_000_000
"""A seller that wants more than USD 1,000 in advance is not one for strangers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """seller: who signs. model: BLAKE3 of the GGUF. quantization: as people call it (`Q4_K_M`), for display.

    speed_in_mtok_s, speed_out_mtok_s: thousandths of a token per second, as the seller measured them with one
    request; 0 is not measured. channels: the contract that the payee takes money in. allocation_micros_min,
    delay_s_min: what a channel to this seller must have at least. sequence: grows with every offer of a
    seller and model.
    """

    seller: PeerText
    model: ModelHash
    quantization: str
    context_tokens: int
    price: Price
    speed_in_mtok_s: int
    speed_out_mtok_s: int
    slots_free: int
    payee: Address
    channels: Deployment
    allocation_micros_min: Micros
    delay_s_min: int
    check: CheckClass
    expiry_unix_s: int
    sequence: int

    def __post_init__(self) -> None:
        parse_peer(self.seller)
        check_size("model", self.model, ID_BYTES)
        if len(self.quantization) > QUANTIZATION_CHARS_MAX or not self.quantization.isprintable():
            raise ValueError(f"quantization must be at most {QUANTIZATION_CHARS_MAX} printable characters")
        check_range("context_tokens", self.context_tokens, 1, PROMPT_TOKENS_MAX)
        check_range("speed_in_mtok_s", self.speed_in_mtok_s, 0, SPEED_MTOK_S_MAX)
        check_range("speed_out_mtok_s", self.speed_out_mtok_s, 0, SPEED_MTOK_S_MAX)
        check_range("slots_free", self.slots_free, 0, SLOTS_MAX)
        for name, address in (("payee", self.payee), ("channels", self.channels.contract)):
            check_size(name, address, ADDRESS_BYTES)
            if address == ZERO_ADDRESS:
                raise ValueError(f"{name} is the zero address")
        check_range("chain_id", self.channels.chain_id, 1, CHAIN_ID_MAX)
        check_range("allocation_micros_min", self.allocation_micros_min, 0, ALLOCATION_MICROS_MAX)
        check_range("delay_s_min", self.delay_s_min, DELAY_S_MIN, DELAY_S_MAX)
        if self.check not in CHECK_CLASSES:
            raise ValueError(f"check {self.check!r} is none of {', '.join(CHECK_CLASSES)}")
        check_range("expiry_unix_s", self.expiry_unix_s, 1, UNIX_S_MAX)
        check_range("sequence", self.sequence, 0, SEQUENCE_MAX)


CHECK_CLASSES: tuple[str, ...] = get_args(CheckClass)
CHAIN_ID_MAX = (1 << 53) - 1
"""What JavaScript wallets hold exactly; the largest ids in use have 11 digits."""


def encode_offer(offer: Offer) -> bytes:
    """The body to sign. Raises: ValueError above OFFER_BODY_BYTES_MAX."""
    body = encode(
        {
            "v": VERSION,
            "seller": offer.seller,
            "model": offer.model,
            "quant": offer.quantization,
            "context": offer.context_tokens,
            **pack_price(offer.price),
            "speed_in": offer.speed_in_mtok_s,
            "speed_out": offer.speed_out_mtok_s,
            "slots": offer.slots_free,
            "payee": offer.payee,
            "chain": offer.channels.chain_id,
            "contract": offer.channels.contract,
            "least": offer.allocation_micros_min,
            "delay": offer.delay_s_min,
            "check": offer.check,
            "expiry": offer.expiry_unix_s,
            "seq": offer.sequence,
        }
    )
    if len(body) > OFFER_BODY_BYTES_MAX:
        raise ValueError(f"offer of {len(body)} bytes, at most {OFFER_BODY_BYTES_MAX}")
    return body


def decode_offer(body: bytes) -> Offer:
    """Raises: RemoteFault."""
    return read_message(body, bytes_max=OFFER_BODY_BYTES_MAX, version=VERSION, unpack=_unpack)


def offer_bytes_to_sign(body: bytes) -> bytes:
    """`unhosted/offer/v1`, then the body."""
    return to_sign(OFFER_DOMAIN, body)


def offer_id(body: bytes) -> OfferId:
    return OfferId(blake3_of(OFFER_ID_DOMAIN, body))


def check_expiry(name: str, expiry_unix_s: int, *, life_s_max: int, now_unix_s: int) -> RemoteFault | None:
    """A fault for what is over, and for what claims to live longer than its kind may."""
    if now_unix_s >= expiry_unix_s:
        return RemoteFault(Reason.EXPIRED, f"{name} ended at {expiry_unix_s}, now is {now_unix_s}")
    latest_unix_s = now_unix_s + life_s_max + CLOCK_SKEW_S_MAX
    if expiry_unix_s > latest_unix_s:
        return RemoteFault(
            Reason.EXPIRED, f"{name} ends at {expiry_unix_s}, {latest_unix_s} is the latest: a clock is wrong"
        )
    return None


def check_offer(offer: Offer, *, now_unix_s: int) -> RemoteFault | None:
    """What is wrong with an offer that arrives now; who signed it is checked before."""
    return check_expiry("offer", offer.expiry_unix_s, life_s_max=OFFER_LIFE_S_MAX, now_unix_s=now_unix_s)


def pack_price(price: Price) -> dict[str, int]:
    return {"in": price.in_micros_per_mtok, "out": price.out_micros_per_mtok}


def unpack_price(fields: Fields) -> Price:
    return Price(
        in_micros_per_mtok=fields.uint("in", most=PRICE_MICROS_MAX),
        out_micros_per_mtok=fields.uint("out", most=PRICE_MICROS_MAX),
    )


def unpack_peer(fields: Fields, key: str) -> PeerText:
    return built(lambda: parse_peer(fields.text(key, chars_max=64)))


def _unpack(fields: Fields) -> Offer:
    return Offer(
        seller=unpack_peer(fields, "seller"),
        model=ModelHash(fields.exactly("model")),
        quantization=fields.text("quant", chars_max=QUANTIZATION_CHARS_MAX),
        context_tokens=fields.uint("context", most=PROMPT_TOKENS_MAX),
        price=unpack_price(fields),
        speed_in_mtok_s=fields.uint("speed_in", most=SPEED_MTOK_S_MAX),
        speed_out_mtok_s=fields.uint("speed_out", most=SPEED_MTOK_S_MAX),
        slots_free=fields.uint("slots", most=SLOTS_MAX),
        payee=fields.address("payee"),
        channels=Deployment(
            chain_id=ChainId(fields.uint("chain", most=CHAIN_ID_MAX)), contract=fields.address("contract")
        ),
        allocation_micros_min=Micros(fields.uint("least", most=ALLOCATION_MICROS_MAX)),
        delay_s_min=fields.uint("delay", most=DELAY_S_MAX),
        check=cast(CheckClass, fields.word("check", among=CHECK_CLASSES)),
        expiry_unix_s=fields.uint("expiry", most=UNIX_S_MAX),
        sequence=fields.uint("seq", most=SEQUENCE_MAX),
    )
