"""Any offer, quote, request and receipt: strategies that tests of the messages draw from."""

from typing import get_args

from hypothesis import strategies as st

from unhosted.market.cbor import encode
from unhosted.market.channels import ChainId, Deployment
from unhosted.market.ids import Address, ChannelId, ModelHash, PeerText, RequestId, Signature
from unhosted.market.money import PRICE_MICROS_MAX, Micros, Price
from unhosted.market.months import UNIX_S_MAX
from unhosted.market.offers import CHAIN_ID_MAX, SEQUENCE_MAX, SPEED_MTOK_S_MAX, CheckClass, Offer, OfferId
from unhosted.market.quotes import Quote, QuoteId
from unhosted.market.receipts import (
    FinishReason,
    Receipt,
    ReceiptHash,
    Response,
    SignedReceipt,
    encode_response,
    response_hash,
)
from unhosted.market.requests import Request, RequestHash
from unhosted.market.terms import OUTPUT_TOKENS_MAX, PROMPT_TOKENS_MAX, WINDOW_TOKENS_MAX, Terms

WORDS = st.binary(min_size=32, max_size=32)
ADDRESSES = st.binary(min_size=20, max_size=20).filter(any).map(Address)
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
PEERS = st.text(_BASE58, min_size=44, max_size=44).map(lambda text: PeerText("12D3KooW" + text))
PRICES = st.builds(
    Price,
    in_micros_per_mtok=st.integers(0, PRICE_MICROS_MAX),
    out_micros_per_mtok=st.integers(0, PRICE_MICROS_MAX),
)
TERMS = st.builds(
    Terms,
    request_id=WORDS.map(RequestId),
    channel_id=WORDS.map(ChannelId),
    price=PRICES,
    tokens_in=st.integers(0, PROMPT_TOKENS_MAX),
    tokens_out_max=st.integers(1, OUTPUT_TOKENS_MAX),
    window_tokens=st.integers(1, WINDOW_TOKENS_MAX),
)
TIMES = st.integers(1, UNIX_S_MAX)
CHECKS: st.SearchStrategy[CheckClass] = st.sampled_from(get_args(CheckClass))
FINISHES: st.SearchStrategy[FinishReason] = st.sampled_from(get_args(FinishReason))
OFFERS = st.builds(
    Offer,
    seller=PEERS,
    model=WORDS.map(ModelHash),
    quantization=st.text(st.characters(codec="utf-8", categories=["L", "N", "P"]), max_size=24),
    context_tokens=st.integers(1, PROMPT_TOKENS_MAX),
    price=PRICES,
    speed_in_mtok_s=st.integers(0, SPEED_MTOK_S_MAX),
    speed_out_mtok_s=st.integers(0, SPEED_MTOK_S_MAX),
    slots_free=st.integers(0, 1_024),
    payee=ADDRESSES,
    channels=st.builds(Deployment, chain_id=st.integers(1, CHAIN_ID_MAX).map(ChainId), contract=ADDRESSES),
    allocation_micros_min=st.integers(0, 1_000_000_000).map(Micros),
    delay_s_min=st.integers(3_600, 30 * 86_400),
    check=CHECKS,
    expiry_unix_s=TIMES,
    sequence=st.integers(0, SEQUENCE_MAX),
)
QUOTES = st.builds(
    Quote,
    seller=PEERS,
    buyer=PEERS,
    offer=WORDS.map(OfferId),
    model=WORDS.map(ModelHash),
    terms=TERMS,
    due_micros=st.integers(0, (1 << 63) - 1).map(Micros),
    expiry_unix_s=TIMES,
)
SAMPLINGS = st.dictionaries(
    st.text("abc_", max_size=8), st.integers(0, 9) | st.floats(0, 5) | st.text("xyz", max_size=9), max_size=6
).map(encode)
REQUESTS = st.builds(
    Request,
    buyer=PEERS,
    seller=PEERS,
    quote=WORDS.map(QuoteId),
    model=WORDS.map(ModelHash),
    terms=TERMS,
    prompt_root=WORDS,
    sampling=SAMPLINGS,
    seed=WORDS,
    channel_sequence=st.integers(1, SEQUENCE_MAX),
    sent_unix_s=TIMES,
)
RESPONSES = st.builds(
    Response,
    output_root=WORDS,
    finish=FINISHES,
    engine=WORDS,
    check=CHECKS,
    previous=WORDS.map(ReceiptHash),
)


@st.composite
def _signed_receipts(draw: st.DrawFn) -> SignedReceipt:
    body = encode_response(draw(RESPONSES))
    receipt = Receipt(
        request_id=RequestId(draw(WORDS)),
        channel_id=ChannelId(draw(WORDS)),
        model=ModelHash(draw(WORDS)),
        request_hash=RequestHash(draw(WORDS)),
        response_hash=response_hash(body),
        tokens_in=draw(st.integers(0, PROMPT_TOKENS_MAX)),
        tokens_out=draw(st.integers(0, OUTPUT_TOKENS_MAX)),
        amount_micros=Micros(draw(st.integers(0, (1 << 63) - 1))),
    )
    signature = Signature(draw(st.binary(min_size=65, max_size=65)))
    return SignedReceipt(receipt=receipt, response=body, signature=signature)


RECEIPTS = _signed_receipts()
