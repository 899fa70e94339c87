"""Offers, quotes, requests and receipts: what crosses, what is signed, and what is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.market.message_cases import OFFERS, QUOTES, RECEIPTS, REQUESTS, RESPONSES
from unhosted.market import offers, quotes, receipts, requests, signed
from unhosted.market.cbor import decode, encode
from unhosted.market.eip712 import bonds_separator
from unhosted.market.faults import Reason, RemoteFault
from unhosted.market.ids import ModelHash, RequestId
from unhosted.market.money import Micros, Price
from unhosted.market.offers import Offer, check_offer, decode_offer, encode_offer, offer_id
from unhosted.market.quotes import Quote, check_quote, decode_quote, encode_quote, quote_id
from unhosted.market.receipts import (
    NO_RECEIPT,
    Receipt,
    Response,
    SignedReceipt,
    check_receipt,
    decode_receipt,
    decode_response,
    encode_receipt,
    encode_response,
    response_hash,
)
from unhosted.market.requests import Request, check_request, decode_request, encode_request, request_hash
from unhosted.market.signed import Signed, decode_signed, encode_signed
from unhosted.node.shell.keys.signer import recover
from unhosted.node.shell.peers.identity import verify

VECTORS = Path(__file__).resolve().parent.parent / "vectors" / "market_1.json"

KINDS: list[tuple[str, st.SearchStrategy[Any], Callable[[Any], bytes], Callable[[bytes], Any]]] = [
    ("offer", OFFERS, encode_offer, decode_offer),
    ("quote", QUOTES, encode_quote, decode_quote),
    ("request", REQUESTS, encode_request, decode_request),
    ("response", RESPONSES, encode_response, decode_response),
    ("receipt", RECEIPTS, encode_receipt, decode_receipt),
]
BY_KIND = pytest.mark.parametrize(
    ("strategy", "pack", "unpack"), [kind[1:] for kind in KINDS], ids=[kind[0] for kind in KINDS]
)


@BY_KIND
def test_what_was_packed_comes_out_the_same(
    strategy: st.SearchStrategy[Any], pack: Callable[[Any], bytes], unpack: Callable[[bytes], Any]
) -> None:
    @settings(max_examples=30)
    @given(strategy)
    def check(value: Any) -> None:
        assert unpack(pack(value)) == value

    check()


@BY_KIND
def test_mutated_bytes_are_a_message_or_a_remote_fault(
    strategy: st.SearchStrategy[Any], pack: Callable[[Any], bytes], unpack: Callable[[bytes], Any]
) -> None:
    @settings(max_examples=60)
    @given(strategy, st.data())
    def check(value: Any, data: st.DataObject) -> None:
        bytes_ = bytearray(pack(value))
        for _ in range(data.draw(st.integers(1, 4))):
            bytes_[data.draw(st.integers(0, len(bytes_) - 1))] = data.draw(st.integers(0, 255))
        cut = data.draw(st.integers(0, len(bytes_)))
        for mutated in (bytes(bytes_), bytes(bytes_[:cut])):
            try:
                unpack(mutated)
            except RemoteFault as fault:
                assert fault.reason in (Reason.MALFORMED, Reason.WRONG_VERSION)

    check()


@BY_KIND
def test_each_field_is_needed_and_checked_for_its_type(
    strategy: st.SearchStrategy[Any], pack: Callable[[Any], bytes], unpack: Callable[[bytes], Any]
) -> None:
    @settings(max_examples=2)
    @given(strategy)
    def check(value: Any) -> None:
        fields = decode(pack(value), bytes_max=1 << 16)
        for key in fields:
            others: tuple[object, ...] = (None, [], "\n", -1, b"", 1 << 63, "x" * 4_000, {})
            for other in others:
                with pytest.raises(RemoteFault):
                    unpack(encode(fields | {key: other}))

    check()


@BY_KIND
def test_an_unknown_field_is_ignored_and_an_unknown_version_refused(
    strategy: st.SearchStrategy[Any], pack: Callable[[Any], bytes], unpack: Callable[[bytes], Any]
) -> None:
    @settings(max_examples=2)
    @given(strategy)
    def check(value: Any) -> None:
        fields = decode(pack(value), bytes_max=1 << 16)
        assert unpack(encode(fields | {"zz": 1})) == value
        with pytest.raises(RemoteFault, match="version 2: this program speaks version 1") as caught:
            unpack(encode(fields | {"v": 2}))
        assert caught.value.reason == Reason.WRONG_VERSION

    check()


@given(OFFERS)
@settings(max_examples=30)
def test_a_signed_offer_is_at_most_a_kibibyte(offer: Offer) -> None:
    packed = encode_signed(Signed(body=encode_offer(offer), signature=bytes(64)))
    assert len(packed) <= offers.OFFER_BYTES_MAX
    assert decode_signed(packed, body_bytes_max=offers.OFFER_BODY_BYTES_MAX).body == encode_offer(offer)


@given(st.binary(max_size=600))
def test_an_envelope_adds_less_than_its_bound(body: bytes) -> None:
    assert len(encode_signed(Signed(body=body, signature=bytes(64)))) <= len(body) + signed.FRAME_BYTES


def test_an_envelope_with_another_length_of_signature_is_refused() -> None:
    with pytest.raises(RemoteFault, match="sig: 63 bytes, must be 64"):
        decode_signed(encode({"v": 1, "body": b"", "sig": bytes(63)}), body_bytes_max=10)


def test_no_bytes_are_signed_for_two_purposes() -> None:
    made = {
        offers.offer_bytes_to_sign(b"\xa0"),
        quotes.quote_bytes_to_sign(b"\xa0"),
        quotes.acceptance_bytes_to_sign(b"\xa0"),
        requests.request_bytes_to_sign(b"\xa0"),
    }
    assert len(made) == 4
    hashes = {offer_id(b"\xa0"), quote_id(b"\xa0"), request_hash(b"\xa0"), response_hash(b"\xa0")}
    assert len(hashes) == 4
    assert offers.offer_bytes_to_sign(b"\xa0") == b"unhosted/offer/v1\xa0"


VECTOR: dict[str, str] = json.loads(VECTORS.read_text("utf-8"))
OFFER = decode_offer(bytes.fromhex(VECTOR["offer"]))
QUOTE = decode_quote(bytes.fromhex(VECTOR["quote"]))
REQUEST = decode_request(bytes.fromhex(VECTOR["request"]))
RECEIPT = decode_receipt(bytes.fromhex(VECTOR["receipt"]))


def test_the_vectors_are_what_we_pack_and_hash() -> None:
    assert encode_offer(OFFER).hex() == VECTOR["offer"]
    assert encode_quote(QUOTE).hex() == VECTOR["quote"]
    assert encode_request(REQUEST).hex() == VECTOR["request"]
    assert encode_receipt(RECEIPT).hex() == VECTOR["receipt"]
    assert offer_id(encode_offer(OFFER)).hex() == VECTOR["offer_id"]
    assert quote_id(encode_quote(QUOTE)).hex() == VECTOR["quote_id"]
    assert request_hash(encode_request(REQUEST)).hex() == VECTOR["request_hash"]
    assert receipts.receipt_hash(RECEIPT).hex() == VECTOR["receipt_hash"]


def test_the_vectors_are_signed_by_those_whom_they_name() -> None:
    for kind, name, purpose, peer in (
        ("offer", "offer_signature", offers.offer_bytes_to_sign, OFFER.seller),
        ("quote", "quote_signature", quotes.quote_bytes_to_sign, QUOTE.seller),
        ("quote", "quote_acceptance", quotes.acceptance_bytes_to_sign, QUOTE.buyer),
        ("request", "request_signature", requests.request_bytes_to_sign, REQUEST.buyer),
    ):
        assert verify(peer, purpose(bytes.fromhex(VECTOR[kind])), bytes.fromhex(VECTOR[name]))
    digest = receipts.receipt_digest(bonds_separator(OFFER.channels), RECEIPT.receipt)
    assert digest.hex() == VECTOR["receipt_digest"]
    assert recover(digest, RECEIPT.signature) == OFFER.payee


@pytest.mark.parametrize(
    ("now_unix_s", "is_right"),
    [
        (OFFER.expiry_unix_s - 1, True),
        (OFFER.expiry_unix_s, False),
        (OFFER.expiry_unix_s - 720, True),
        (OFFER.expiry_unix_s - 721, False),
    ],
)
def test_an_offer_lives_at_most_ten_minutes_and_a_clocks_error(now_unix_s: int, is_right: bool) -> None:
    fault = check_offer(OFFER, now_unix_s=now_unix_s)
    assert (fault is None) == is_right
    assert fault is None or fault.reason == Reason.EXPIRED


def _quote_fault(quote: Quote, now_unix_s: int | None = None) -> RemoteFault | None:
    return check_quote(
        quote,
        asked=QUOTE.terms,
        offer=OFFER,
        offer_id=offer_id(encode_offer(OFFER)),
        now_unix_s=quote.expiry_unix_s - 30 if now_unix_s is None else now_unix_s,
    )


def test_a_quote_that_is_as_offered_or_cheaper_is_taken() -> None:
    assert _quote_fault(QUOTE) is None
    cheaper = Price(in_micros_per_mtok=0, out_micros_per_mtok=1)
    for terms in (
        replace(QUOTE.terms, price=cheaper),
        replace(QUOTE.terms, tokens_out_max=1),
        replace(QUOTE.terms, window_tokens=1),
    ):
        assert _quote_fault(replace(QUOTE, terms=terms)) is None


@pytest.mark.parametrize(
    ("change", "terms", "reason"),
    [
        ({"seller": QUOTE.buyer}, {}, Reason.WRONG_TERMS),
        ({"model": ModelHash(bytes(32))}, {}, Reason.WRONG_TERMS),
        ({"offer": bytes(32)}, {}, Reason.WRONG_TERMS),
        ({}, {"request_id": bytes(32)}, Reason.WRONG_TERMS),
        ({}, {"channel_id": bytes(32)}, Reason.WRONG_TERMS),
        ({}, {"tokens_in": QUOTE.terms.tokens_in + 1}, Reason.OVER_CLAIM),
        ({}, {"tokens_in": QUOTE.terms.tokens_in - 1}, Reason.OVER_CLAIM),
        ({}, {"tokens_out_max": QUOTE.terms.tokens_out_max + 1}, Reason.WRONG_TERMS),
        ({}, {"window_tokens": QUOTE.terms.window_tokens + 1}, Reason.WRONG_TERMS),
        ({}, {"price": replace(OFFER.price, in_micros_per_mtok=50_001)}, Reason.WRONG_TERMS),
        ({}, {"price": replace(OFFER.price, out_micros_per_mtok=200_001)}, Reason.WRONG_TERMS),
    ],
    ids=str,
)
def test_a_quote_for_something_else_or_dearer_is_a_fault(
    change: dict[str, Any], terms: dict[str, Any], reason: Reason
) -> None:
    fault = _quote_fault(replace(QUOTE, terms=replace(QUOTE.terms, **terms), **change))
    assert fault is not None and fault.reason == reason


def test_a_quote_that_is_over_is_a_fault() -> None:
    fault = _quote_fault(QUOTE, QUOTE.expiry_unix_s)
    assert fault is not None and fault.reason == Reason.EXPIRED


def test_a_quote_whose_cost_is_not_that_of_its_counts_is_malformed() -> None:
    fields = decode(encode_quote(QUOTE), bytes_max=1 << 16)
    with pytest.raises(RemoteFault, match=r"cost: \d+, the counts and the price give"):
        decode_quote(encode(fields | {"cost": fields["cost"] - 1}))


def _request_fault(request: Request, sequence_last: int = 0) -> RemoteFault | None:
    quote_hash = quote_id(encode_quote(QUOTE))
    return check_request(request, quote=QUOTE, quote_id=quote_hash, sequence_last=sequence_last)


def test_a_request_for_what_was_quoted_is_taken() -> None:
    assert _request_fault(REQUEST) is None
    assert _request_fault(REQUEST, REQUEST.channel_sequence - 1) is None


@pytest.mark.parametrize(
    "change",
    [
        {"quote": bytes(32)},
        {"model": bytes(32)},
        {"buyer": QUOTE.seller},
        {"seller": QUOTE.buyer},
        {"terms": replace(QUOTE.terms, tokens_in=0)},
    ],
    ids=str,
)
def test_a_request_for_something_else_is_a_fault(change: dict[str, Any]) -> None:
    fault = _request_fault(replace(REQUEST, **change))
    assert fault is not None and fault.reason == Reason.WRONG_TERMS


def test_a_request_with_a_used_sequence_number_is_a_fault() -> None:
    fault = _request_fault(REQUEST, REQUEST.channel_sequence)
    assert fault is not None and fault.reason == Reason.WRONG_ORDER


@pytest.mark.parametrize("sampling", [b"", b"\x80", b"\xa1", encode({"a": [[[[1]]]]}), b"\xbf\xff"])
def test_sampling_that_is_no_canonical_map_is_refused(sampling: bytes) -> None:
    with pytest.raises(ValueError, match="sampling"):
        replace(REQUEST, sampling=sampling)


def _receipt_fault(
    receipt: dict[str, Any], response: dict[str, Any] | None = None, tokens_out: int | None = None
) -> RemoteFault | None:
    body = encode_response(replace(decode_response(RECEIPT.response), **(response or {})))
    changed = replace(RECEIPT.receipt, response_hash=response_hash(body), **receipt)
    return check_receipt(
        SignedReceipt(receipt=changed, response=body, signature=RECEIPT.signature),
        request=REQUEST,
        request_hash=request_hash(encode_request(REQUEST)),
        output_root=decode_response(RECEIPT.response).output_root,
        tokens_out=RECEIPT.receipt.tokens_out if tokens_out is None else tokens_out,
        previous=NO_RECEIPT,
    )


def test_a_receipt_of_what_arrived_is_taken() -> None:
    assert _receipt_fault({}) is None


@pytest.mark.parametrize(
    ("receipt", "response", "tokens_out"),
    [
        ({"request_id": RequestId(bytes(32))}, {}, None),
        ({"channel_id": bytes(32)}, {}, None),
        ({"model": bytes(32)}, {}, None),
        ({"request_hash": bytes(32)}, {}, None),
        ({"tokens_in": RECEIPT.receipt.tokens_in + 1}, {}, None),
        ({"tokens_out": RECEIPT.receipt.tokens_out + 1}, {}, None),
        ({"amount_micros": Micros(RECEIPT.receipt.amount_micros + 1)}, {}, None),
        ({"amount_micros": Micros(RECEIPT.receipt.amount_micros - 1)}, {}, None),
        ({}, {"output_root": bytes(32)}, None),
        ({}, {"previous": b"\1" * 32}, None),
        ({}, {}, 0),
    ],
    ids=str,
)
def test_a_receipt_of_something_else_is_a_fault(
    receipt: dict[str, Any], response: dict[str, Any], tokens_out: int | None
) -> None:
    fault = _receipt_fault(receipt, response, tokens_out)
    assert fault is not None and fault.reason == Reason.WRONG_RECEIPT


def test_a_receipt_with_another_response_than_it_hashes_is_malformed() -> None:
    fields = decode(encode_receipt(RECEIPT), bytes_max=1 << 16)
    with pytest.raises(RemoteFault, match="response is not what"):
        decode_receipt(encode(fields | {"response": encode_response(_another_response())}))


def _another_response() -> Response:
    return replace(decode_response(RECEIPT.response), finish="cut")


@pytest.mark.parametrize("name", ["request_id", "channel_id", "model", "request_hash", "response_hash"])
def test_a_receipts_words_have_32_bytes(name: str) -> None:
    values: dict[str, Any] = {
        field: getattr(RECEIPT.receipt, field) for field in Receipt.__dataclass_fields__
    }
    with pytest.raises(ValueError, match=f"{name} of 31 bytes"):
        Receipt(**(values | {name: bytes(31)}))
