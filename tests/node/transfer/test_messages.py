"""The messages of the model protocol: each crosses unchanged, and whatever a peer sends at most fails."""

import random
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unhosted.market.cbor import encode
from unhosted.node.core.chunks import CHUNK_BYTES, MODEL_BYTES_MAX
from unhosted.node.core.errors import Refused
from unhosted.node.shell.transfer.messages import (
    HASHES_PAGE_MAX,
    MESSAGE_BYTES_MAX,
    PIECE_BYTES,
    Chunk,
    GetChunk,
    GetHashes,
    GetSideband,
    Hashes,
    No,
    Offered,
    Open,
    Reply,
    Request,
    Ticket,
    WireError,
    decode_reply,
    decode_request,
    encode_message,
)

OFFER = Offered(size_bytes=5, blake3=b"b" * 32, sha256=b"s" * 32, root=b"r" * 32, name="smollm2:135m")
REQUESTS: list[Request] = [
    Open(blake3=b"b" * 32),
    Open(sha256=b"s" * 32),
    GetHashes(at=2000),
    GetSideband(),
    GetChunk(chunk=7),
]
REPLIES: list[Reply] = [
    OFFER,
    Hashes(at=0, hashes=b"h" * 32 * HASHES_PAGE_MAX),
    Ticket(port=8644, token=b"t" * 16, secret=b"s" * 32),
    Chunk(chunk=7, size_bytes=CHUNK_BYTES),
    No(code="not_allowed", message="no"),
]


def test_every_message_crosses_unchanged() -> None:
    assert {type(message) for message in REQUESTS} == set(get_args(Request))
    assert {type(message) for message in REPLIES} == set(get_args(Reply))
    for request in REQUESTS:
        assert decode_request(encode_message(request)) == request
    for reply in REPLIES:
        data = encode_message(reply)
        assert decode_reply(data) == reply
        assert len(data) <= MESSAGE_BYTES_MAX
    assert PIECE_BYTES <= MESSAGE_BYTES_MAX


def test_unknown_fields_are_ignored_and_unknown_versions_refused() -> None:
    assert decode_request(encode({"k": "get", "chunk": 1, "colour": "red"})) == GetChunk(chunk=1)
    with pytest.raises(Refused, match="version 2"):
        decode_request(encode({"k": "open", "v": 2, "blake3": b"b" * 32}))


@pytest.mark.parametrize(
    "record",
    [
        {"k": "model", "v": 1, "size": MODEL_BYTES_MAX + 1},
        {"k": "model", "v": 1, "size": True},
        {"k": "chunk", "chunk": 0, "size": CHUNK_BYTES + 1},
        {"k": "chunk", "chunk": -1, "size": 1},
        {"k": "hashes", "at": 0, "hashes": b"h" * 31},
        {"k": "hashes", "at": 0, "hashes": b""},
        {"k": "ticket", "port": 0, "token": b"t" * 16, "secret": b"s" * 32},
        {"k": "ticket", "port": 1, "token": b"t" * 15, "secret": b"s" * 32},
        {"k": "no", "code": 5, "message": "x"},
        {"k": "no", "code": "x", "message": "x" * 2001},
        {"k": "get"},
        {"k": ["get"]},
        {"chunk": 1},
        ["get"],
        5,
    ],
)
def test_what_breaks_a_limit_is_refused(record: object) -> None:
    data = encode(record)
    for decode in (decode_request, decode_reply):
        with pytest.raises(WireError):
            decode(data)


def test_a_refusal_with_a_code_of_a_later_version_is_still_one() -> None:
    reply = decode_reply(encode({"k": "no", "code": "too_hot", "message": "x"}))
    assert reply == No(code="not_allowed", message="x")


@given(data=st.binary(max_size=200))
def test_random_bytes_only_fail(data: bytes) -> None:
    _only_fails(data)


@given(seed=st.integers(0, 2**32))
def test_damaged_messages_only_fail(seed: int) -> None:
    draw = random.Random(seed)
    data = bytearray(encode_message(draw.choice([*REQUESTS, *REPLIES])))
    for _ in range(draw.randrange(1, 4)):
        data[draw.randrange(len(data))] = draw.randrange(256)
    _only_fails(bytes(data[: draw.randrange(len(data) + 1)]))


def _only_fails(data: bytes) -> None:
    for decode in (decode_request, decode_reply):
        try:
            decode(data)
        except (WireError, Refused):
            continue
