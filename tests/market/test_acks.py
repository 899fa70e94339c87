"""Stream acknowledgements: what they bind, what they prove, and roots of a list that grows."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unhosted.market.acks import (
    SignedAck,
    StreamAck,
    ack_digest,
    ack_due,
    contradiction,
    decode_ack,
    encode_ack,
)
from unhosted.market.cbor import decode, encode
from unhosted.market.channels import ChainId, Deployment
from unhosted.market.eip712 import bonds_separator
from unhosted.market.faults import RemoteFault
from unhosted.market.ids import Address, ChannelId, ModelHash, RequestId, Signature
from unhosted.market.money import Micros
from unhosted.market.receipts import (
    NO_RECEIPT,
    Receipt,
    Response,
    SignedReceipt,
    encode_response,
    receipt_digest,
    response_hash,
)
from unhosted.market.requests import RequestHash
from unhosted.market.roots import BLOCK_IDS, GrowingIds, ids_root, open_prefix, prefix_root
from unhosted.node.shell.keys.signer import KeySigner, recover

VECTOR: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "commitments_1.json").read_text("utf-8")
)
SALT = bytes.fromhex(VECTOR["salt"])
SEPARATOR = bonds_separator(
    Deployment(chain_id=ChainId(VECTOR["chain"]), contract=Address(bytes.fromhex(VECTOR["contract"])))
)
KEY = KeySigner(int(VECTOR["key"], 16).to_bytes(32, "big"))
ACK = StreamAck(
    request_hash=RequestHash(bytes.fromhex(VECTOR["request_hash"])),
    tokens_out=VECTOR["tokens_out"],
    output_root=bytes.fromhex(VECTOR["output_root"]),
    engine=bytes.fromhex(VECTOR["engine"]),
    check="exact",
)


def receipt(ids: range, **changes: Any) -> SignedReceipt:
    """A receipt over `ids` for the acknowledged request. changes: of its response."""
    words: dict[str, Any] = {"finish": "stop", "engine": ACK.engine, "check": "exact"}
    response = encode_response(
        Response(output_root=ids_root("output", ids, salt=SALT), previous=NO_RECEIPT, **(words | changes))
    )
    said = Receipt(
        request_id=RequestId(bytes(32)),
        channel_id=ChannelId(bytes(32)),
        model=ModelHash(bytes(32)),
        request_hash=ACK.request_hash,
        response_hash=response_hash(response),
        tokens_in=1,
        tokens_out=len(ids),
        amount_micros=Micros(1),
    )
    return SignedReceipt(receipt=said, response=response, signature=Signature(bytes(65)))


def test_the_vector_is_what_is_signed_and_sent() -> None:
    """Its digest was made by eth-account's own typed data."""
    assert ids_root("output", range(128), salt=SALT) == ACK.output_root
    digest = ack_digest(SEPARATOR, ACK)
    assert digest.hex() == VECTOR["digest"]
    assert KEY.sign(digest).hex() == VECTOR["signature"]
    signed = SignedAck(ack=ACK, signature=Signature(bytes.fromhex(VECTOR["signature"])))
    assert encode_ack(signed).hex() == VECTOR["ack"]
    assert decode_ack(bytes.fromhex(VECTOR["ack"])) == signed
    assert recover(digest, signed.signature) == KEY.address


def test_every_field_is_under_the_signature() -> None:
    others = (
        replace(ACK, request_hash=RequestHash(bytes(32))),
        replace(ACK, tokens_out=64),
        replace(ACK, output_root=bytes(32)),
        replace(ACK, engine=bytes(32)),
        replace(ACK, check="statistical"),
    )
    digests = {ack_digest(SEPARATOR, one) for one in (ACK, *others)}
    digests.add(
        ack_digest(bonds_separator(Deployment(chain_id=ChainId(1), contract=Address(bytes(20)))), ACK)
    )
    assert len(digests) == len(others) + 2


def test_no_acknowledgement_is_a_receipt() -> None:
    """One key signs both; a signature of one kind says nothing of the other."""
    assert ack_digest(SEPARATOR, ACK) != receipt_digest(SEPARATOR, receipt(range(128)).receipt)


@pytest.mark.parametrize(
    ("acknowledged", "delivered", "due"),
    [(0, 0, 0), (0, 63, 0), (0, 64, 64), (64, 127, 0), (64, 128, 128), (0, 4_100, 4_096), (128, 64, 0)],
)
def test_whole_blocks_are_acknowledged_and_each_once(acknowledged: int, delivered: int, due: int) -> None:
    assert ack_due(acknowledged, delivered) == due


@pytest.mark.parametrize(
    "change",
    [
        {"asked": bytes(31)},
        {"tokens_out": 0},
        {"tokens_out": 1 << 21},
        {"output": None},
        {"engine": "x"},
        {"check": "maybe"},
        {"sig": bytes(64)},
    ],
    ids=str,
)
def test_what_breaks_a_rule_is_no_acknowledgement(change: dict[str, Any]) -> None:
    fields = decode(bytes.fromhex(VECTOR["ack"]), bytes_max=1_024)
    with pytest.raises(RemoteFault):
        decode_ack(encode(fields | change))


def test_a_receipt_that_goes_on_from_it_contradicts_nothing() -> None:
    assert contradiction(ACK, receipt(range(128))) is None
    assert contradiction(ACK, receipt(range(200))) is None
    other = receipt(range(10))
    body = replace(other.receipt, request_hash=RequestHash(bytes(32)))
    assert contradiction(ACK, replace(other, receipt=body)) is None


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (receipt(range(127), finish="cut"), "128 were acknowledged"),
        (receipt(range(1, 129)), "other tokens"),
        (receipt(range(200), engine=bytes(32)), "another engine"),
        (receipt(range(200), check="statistical"), "another class"),
    ],
)
def test_a_receipt_that_takes_something_back_is_proof(said: SignedReceipt, why: str) -> None:
    assert why in (contradiction(ACK, said) or "")


@given(st.lists(st.integers(1, 150), min_size=1, max_size=20), st.data())
@settings(max_examples=60)
def test_a_list_that_grows_has_the_root_of_each_of_its_prefixes(
    pieces: list[int], data: st.DataObject
) -> None:
    growing, ids = GrowingIds("output", salt=SALT), list[int]()
    for size in pieces:
        new = range(len(ids), len(ids) + size)
        ids += new
        growing.extend(new)
        count = data.draw(st.integers(0, len(ids)))
        assert growing.root(count) == ids_root("output", ids[:count], salt=SALT)
    assert growing.root(len(ids)) == ids_root("output", ids, salt=SALT)
    assert len(growing) == len(ids) == len(growing.ids)


def test_a_growing_list_has_the_bounds_of_any_other() -> None:
    growing = GrowingIds("output", salt=SALT)
    growing.extend(range(3))
    for count in (-1, 4):
        with pytest.raises(ValueError, match="was asked of 3"):
            growing.root(count)
    with pytest.raises(ValueError, match="outside 0"):
        growing.extend([1 << 31] * BLOCK_IDS)
    with pytest.raises(ValueError, match="salt of 3 bytes"):
        GrowingIds("output", salt=b"abc")


@given(st.integers(1, 6), st.integers(0, 200))
def test_the_acknowledged_prefix_opens_without_the_rest(blocks: int, more: int) -> None:
    """Under the whole answer's root, and under the acknowledgement's own: those ids, and no other."""
    acknowledged = blocks * BLOCK_IDS
    ids = list(range(acknowledged + more))
    opened = open_prefix("output", ids, salt=SALT, count=acknowledged)
    assert opened.ids == tuple(ids[:acknowledged])
    assert prefix_root(opened) == ids_root("output", ids, salt=SALT)
    alone = open_prefix("output", ids[:acknowledged], salt=SALT, count=acknowledged)
    assert prefix_root(alone) == ids_root("output", ids[:acknowledged], salt=SALT)
    assert alone.siblings == () and alone.salts == opened.salts
