"""The relay's messages against bytes written by hand from the specification, and against garbage."""

from collections.abc import Awaitable, Callable

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from unhosted.node.core.peering import ChannelBroken
from unhosted.node.shell.peers.identity import new_identity
from unhosted.node.shell.peers.relay_messages import (
    HOP,
    STOP,
    RelayMessage,
    decode,
    encode,
    read_message,
)


def reader(data: bytes, piece_bytes: int = 1) -> Callable[[int], Awaitable[bytes]]:
    left = bytearray(data)

    async def receive(count: int) -> bytes:
        piece = bytes(left[: min(count, piece_bytes)])
        del left[: len(piece)]
        return piece

    return receive


def read(data: bytes, protocol: str = HOP) -> RelayMessage:
    return trio.run(read_message, reader(data), protocol)


@pytest.mark.parametrize(
    ("message", "protocol", "expected"),
    [
        (RelayMessage(kind="RESERVE"), HOP, "02 0800"),
        (RelayMessage(kind="STATUS", status="OK"), STOP, "04 0801 2064"),
        (RelayMessage(kind="STATUS", status="NO_RESERVATION"), HOP, "05 0802 28cc01"),
        (
            RelayMessage(kind="STATUS", status="OK", expires_unix_s=300, duration_s=120, data_bytes=131072),
            HOP,
            "11 0802 1a03 08ac02 2206 0878 10808008 2864",
        ),
    ],
)
def test_bytes_of_the_specification(message: RelayMessage, protocol: str, expected: str) -> None:
    assert encode(message, protocol) == bytes.fromhex(expected)
    assert read(bytes.fromhex(expected), protocol) == message


def test_a_peer_is_named_by_its_multihash() -> None:
    peer = new_identity().peer
    for protocol in (HOP, STOP):
        encoded = encode(RelayMessage(kind="CONNECT", peer=peer), protocol)
        assert bytes.fromhex("0024080112 20") in encoded
        assert read(encoded, protocol).peer == peer


def test_not_a_byte_of_what_follows_is_taken() -> None:
    async def main() -> bytes:
        receive = reader(encode(RelayMessage(kind="RESERVE"), HOP) + b"after", piece_bytes=64)
        await read_message(receive, HOP)
        return await receive(64)

    assert trio.run(main) == b"after"


@pytest.mark.parametrize("data", ["ffffff7f", "8020", "02 ffff", "00", "02 0809", "02 1200"])
def test_what_is_no_message_is_refused(data: str) -> None:
    with pytest.raises(ValueError, match="message"):
        read(bytes.fromhex(data) + bytes(5000))


@pytest.mark.parametrize("data", ["", "80", "04 0801"])
def test_an_end_in_the_middle_is_no_message(data: str) -> None:
    with pytest.raises(ChannelBroken):
        read(bytes.fromhex(data))


@given(st.binary(max_size=200), st.sampled_from([HOP, STOP]))
def test_any_bytes_are_a_message_or_a_value_error(payload: bytes, protocol: str) -> None:
    try:
        message = decode(payload, protocol)
    except ValueError:
        return
    assert message.kind in ("RESERVE", "CONNECT", "STATUS")
