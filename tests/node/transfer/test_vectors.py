"""The vectors of docs/protocol.md, checked with nothing of ours where that is possible."""

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import cbor2
import pytest
import trio
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from unhosted.node.shell.models.files import Hasher
from unhosted.node.shell.nurseries import plain_nursery
from unhosted.node.shell.transfer.messages import decode_reply, decode_request, encode_message
from unhosted.node.shell.transfer.records import derive_keys
from unhosted.node.shell.transfer.sideband import Sideband

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "vectors" / "model_1.json").read_text("utf-8")
)
REQUESTS = {"open", "gethashes", "sideband", "get"}


def _key(secret: bytes, token: bytes, direction: str) -> bytes:
    """HKDF-SHA256 (RFC 5869) by hand; one block is enough for 32 bytes."""
    extracted = hmac.digest(token, secret, "sha256")
    return hmac.digest(extracted, f"unhosted/sideband/1 {direction}".encode() + b"\x01", "sha256")


def _record(key: bytes, number: int, data: bytes, *, end: bool = False) -> bytes:
    header = (len(data) + 16 | (1 << 31 if end else 0)).to_bytes(4, "big")
    return header + AESGCM(key).encrypt(number.to_bytes(12, "big"), data, header)


def test_the_file_and_its_chunk_list() -> None:
    wanted = VECTORS["file"]
    data = bytes(number % 251 for number in range(wanted["size"]))
    assert hashlib.sha256(data).hexdigest() == wanted["sha256"]
    assert blake3(data).hexdigest() == wanted["blake3"]
    hasher = Hasher()
    for at in range(0, len(data), 70_001):  # however it comes, the list is the same
        hasher.update(data[at : at + 70_001])
    assert hasher.digests().chunk_list.hex() == wanted["chunk_list"]
    assert blake3(bytes.fromhex(wanted["chunk_list"])).hexdigest() == wanted["root"]


@pytest.mark.parametrize("kind", VECTORS["messages"])
def test_each_message(kind: str) -> None:
    data = bytes.fromhex(VECTORS["messages"][kind])
    message = decode_request(data) if kind in REQUESTS else decode_reply(data)
    assert encode_message(message) == data
    assert cbor2.loads(data)["k"] == kind


def test_the_sidebands_keys_and_records() -> None:
    wanted = VECTORS["sideband"]
    secret, token = bytes.fromhex(wanted["secret"]), bytes.fromhex(wanted["token"])
    connect_key, accept_key = _key(secret, token, "connect"), _key(secret, token, "accept")
    assert (connect_key.hex(), accept_key.hex()) == (wanted["connect_key"], wanted["accept_key"])
    assert derive_keys(secret, token) == (connect_key, accept_key)
    assert _record(connect_key, 0, b"unhosted").hex() == wanted["connect_record_0_unhosted"]
    assert _record(accept_key, 0, b"unhosted").hex() == wanted["accept_record_0_unhosted"]
    get = bytes.fromhex(VECTORS["messages"]["get"])
    assert _record(connect_key, 1, get).hex() == wanted["connect_record_1_get"]
    assert _record(connect_key, 2, b"", end=True).hex() == wanted["connect_record_2_end"]


def test_a_client_made_of_the_document_alone_is_understood() -> None:
    async def main() -> None:
        async with plain_nursery() as nursery:
            sideband = Sideband(0, host="127.0.0.1")
            await nursery.start(sideband.run)
            ticket = sideband.offer("stranger")
            key = _key(ticket.secret, ticket.token, "connect")
            stream = await trio.open_tcp_stream("127.0.0.1", ticket.port)
            await stream.send_all(ticket.token + _record(key, 0, b"unhosted") + _record(key, 1, b"hello"))
            await stream.send_all(_record(key, 2, b"", end=True))
            async with sideband.accepted(ticket) as channel:
                assert channel is not None
                assert await channel.receive() == b"hello"
                assert await channel.receive() is None
                answer = _record(_key(ticket.secret, ticket.token, "accept"), 0, b"unhosted")
                assert await stream.receive_some(len(answer)) == answer
            await stream.aclose()

    async def bounded() -> None:
        with trio.fail_after(10):
            await main()

    trio.run(bounded)
