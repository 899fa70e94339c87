"""What a peer may make us dial when it asks for a direct connection; whether it works: tests/netns."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.stream_muxer.exceptions import MuxedStreamEOF
from multiaddr import Multiaddr
from trio.testing import MockClock

from tests.fake_network import Fabric, FakeNetwork
from unhosted.market import cbor
from unhosted.node.core.peering import Connection
from unhosted.node.shell.peers.punch import NotPunched, Puncher, candidate, candidate_message

VECTOR = "a16761646472657373772f6970342f34352e302e302e332f7463702f3430313233"


def test_the_message_of_the_protocol() -> None:
    assert candidate_message("/ip4/45.0.0.3/tcp/40123").hex() == VECTOR
    endpoint = candidate(bytes.fromhex(VECTOR))
    assert (endpoint.host, endpoint.port) == ("45.0.0.3", 40123)


@pytest.mark.parametrize(
    "address",
    [
        "/ip4/127.0.0.1/tcp/8642",  # our own API
        "/ip4/192.168.1.1/tcp/8080",  # the router's page
        "/ip4/169.254.169.254/tcp/8080",  # a cloud's secrets
        "/ip6/::1/tcp/8642",
        "/ip6/::ffff:127.0.0.1/tcp/8642",
        "/ip6/fe80::1/tcp/8642",
        "/ip4/45.0.0.3/tcp/25",
    ],
)
def test_what_is_not_out_there_is_not_dialled(address: str) -> None:
    with pytest.raises(NotPunched, match="is not dialled"):
        candidate(candidate_message(address))


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\xff" * 300,
        cbor.encode([]),
        cbor.encode({}),
        cbor.encode({"address": 1}),
        candidate_message("/dns/localhost/tcp/8642"),
        candidate_message("/ip4/45.0.0.3/udp/40123"),
        candidate_message("/ip4/45.0.0.3/tcp/40123" + "x" * 300),
    ],
)
def test_what_is_no_address_is_refused(message: bytes) -> None:
    with pytest.raises(NotPunched, match="says no address"):
        candidate(message)


def test_a_side_that_ends_without_an_address_cannot() -> None:
    with pytest.raises(NotPunched, match="cannot"):
        candidate(None)


class LyingRelay(FakeNetwork):
    """A network with one peer behind a relay, which says that it sees us under a name."""

    def connections(self) -> tuple[Connection, ...]:
        through = Connection(
            peer="friend",
            path="relay via relay",
            remote_address="/p2p/relay/p2p-circuit",
            is_outbound=True,
            round_trip_s=None,
        )
        return (through,)

    @asynccontextmanager
    async def open_channel(self, *_: object, **__: object) -> AsyncIterator[Any]:
        yield None

    @asynccontextmanager
    async def open_stream(self, *_: object, **__: object) -> AsyncIterator[Any]:
        yield Said(Identify(observed_addr=Multiaddr("/dns4/evil.example/tcp/80").to_bytes()))


class Said:
    """A stream of the one answer."""

    def __init__(self, message: Identify) -> None:
        payload = message.SerializeToString()
        self._data = bytes([len(payload)]) + payload

    def finish(self) -> None: ...

    async def read(self, size_bytes: int) -> bytes:
        if not self._data:
            raise MuxedStreamEOF("it has said all")
        data, self._data = self._data[:size_bytes], b""
        return data


def test_a_relay_that_lies_about_our_address_costs_a_try_and_not_the_node() -> None:
    async def main() -> None:
        puncher = Puncher(LyingRelay(Fabric(), "own"))  # type: ignore[arg-type]
        with trio.move_on_after(100):
            await puncher.run()
        assert puncher.tries("friend") == 2  # the second one a minute later

    trio.run(main, clock=MockClock(autojump_threshold=0))
