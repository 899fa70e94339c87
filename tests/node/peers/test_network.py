"""Beyond the contract: sockets, dialling, what is told to anybody who asks, and other libp2p nodes."""

import socket
from collections.abc import Awaitable, Callable

import pytest
import trio
from libp2p import generate_new_ed25519_identity, new_host
from libp2p.crypto.serialization import deserialize_public_key
from libp2p.crypto.x25519 import create_new_key_pair as new_noise_key_pair
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.network.config import ConnectionConfig
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.security.insecure.transport import PLAINTEXT_PROTOCOL_ID, InsecureTransport
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as Noise
from multiaddr import Multiaddr

from tests.node.peers.harness import (
    ECHO,
    ECHO_BYTES_MAX,
    WITHIN_S,
    Two,
    Watched,
    echo,
    echoes,
    real_network,
    two_networks,
)
from tests.node.peers.rogues import port_of
from unhosted.node.core.addresses import show_endpoint
from unhosted.node.core.errors import Refused
from unhosted.node.core.peering import Channel, PeerUnreachable
from unhosted.node.shell.peers.identify import IDENTIFY, PING
from unhosted.node.shell.peers.negotiation import MULTISTREAM, encode
from unhosted.node.shell.peers.network import LibP2PNetwork
from unhosted.node.shell.peers.overrides.stream import Stream, StreamTunnel


def run(test: Callable[[Two], Awaitable[None]]) -> None:
    async def main() -> None:
        async with two_networks("libp2p") as two:
            await test(two)

    trio.run(main)


def test_a_taken_port_is_refused_by_name() -> None:
    async def main() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            with pytest.raises(Refused, match=f"127.0.0.1 port {port}: the port is taken"):
                await real_network(set(), listen=[("127.0.0.1", port)]).run()
            with pytest.raises(Refused, match="no such address"):
                await real_network(set(), listen=[("192.0.2.1", 0)]).run()

    trio.run(main)


def test_two_nodes_do_not_share_a_port_and_the_next_start_gets_it_back() -> None:
    async def main() -> None:
        first = real_network(set())
        async with trio.open_nursery() as nursery:
            await nursery.start(first.run)
            place = [("127.0.0.1", port_of(first))]
            with pytest.raises(Refused, match="is this node running already"):
                await real_network(set(), listen=place).run()
            nursery.cancel_scope.cancel()
        async with trio.open_nursery() as nursery:
            await nursery.start(real_network(set(), listen=place).run)
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_both_families_are_listened_to() -> None:
    async def main() -> None:
        paired: set[str] = set()
        with trio.fail_after(WITHIN_S):
            both = real_network(paired, listen=[("127.0.0.1", 0), ("::1", 0)])
            other = real_network(set())
            paired.add(other.peer)
            both.serve(ECHO, echo, access="paired", message_bytes_max=ECHO_BYTES_MAX)
            async with trio.open_nursery() as nursery:
                await nursery.start(both.run)
                await nursery.start(other.run)
                for address in both.addresses():
                    made = await other.connect(both.peer, (address,), timeout_s=5.0)
                    assert made.remote_address == address
                    assert await echoes(other, both.peer)
                    await other.disconnect(both.peer)
                nursery.cancel_scope.cancel()

    trio.run(main)


def test_a_good_address_is_found_among_bad_ones() -> None:
    async def test(two: Two) -> None:
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            bad = ("/ip4/127.0.0.1/tcp/9", "nonsense", f"/ip4/127.0.0.1/tcp/{silent.getsockname()[1]}")
            with trio.fail_after(3.0):  # the silent one is not waited for once another has answered
                made = await two.near.connect(two.far.peer, (*bad, *two.far.addresses()), timeout_s=20.0)
            assert made.remote_address == two.far.addresses()[0]

    run(test)


@pytest.mark.slow
def test_every_address_that_failed_is_named_with_its_reason() -> None:
    async def test(two: Two) -> None:
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            mute = f"/ip4/127.0.0.1/tcp/{silent.getsockname()[1]}"
            with pytest.raises(PeerUnreachable) as caught:
                await two.near.connect(
                    two.far.peer, ("/ip4/127.0.0.1/tcp/9", "nonsense", mute), timeout_s=0.4
                )
        message = str(caught.value)
        assert "nothing listens there at 127.0.0.1:9" in message
        assert f"no answer in 0.4 s at {show_endpoint(mute)}" in message
        assert "'nonsense' is no address" in message

    run(test)


@pytest.mark.parametrize("name", ["a" * 300, "é..b", "\ud800"])
def test_a_name_that_dns_cannot_have_is_an_address_that_failed(name: str) -> None:
    async def test(two: Two) -> None:
        with pytest.raises(PeerUnreachable):
            await two.near.connect(two.far.peer, (f"/dns/{name}/tcp/8643",), timeout_s=2.0)

    run(test)


def test_both_dialling_at_once_end_connected() -> None:
    async def test(two: Two) -> None:
        async def dial(one: Watched, other: Watched) -> None:
            await one.connect(other.peer, other.addresses(), timeout_s=5.0)

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(dial, two.near, two.far)
                nursery.start_soon(dial, two.far, two.near)
        assert await echoes(two.near, two.far.peer)
        assert await echoes(two.far, two.near.peer)
        assert len(two.near.connections()) == len(two.far.connections()) == 1

    run(test)


def test_a_round_trip_is_measured_on_both_sides() -> None:
    async def test(two: Two) -> None:
        await two.connect()
        while not all(one.round_trip_s for net in (two.near, two.far) for one in net.connections()):
            assert await echoes(two.near, two.far.peer)
        assert all(0 < (one.round_trip_s or 0) < 1 for one in two.near.connections())

    run(test)


def test_the_bytes_on_a_stream_are_those_of_the_specification() -> None:
    opening = "132f6d756c746973747265616d2f312e302e300a 122f756e686f737465642f696e6665722f310a"
    messages = bytes.fromhex("00000005 68656c6c6f 00000001 61 00000000")

    async def test(two: Two) -> None:
        assert encode(MULTISTREAM) + encode("/unhosted/infer/1") == bytes.fromhex(opening)
        assert isinstance(two.near, LibP2PNetwork)
        await two.connect()
        async with two.near.open_stream(two.far.peer, ECHO, timeout_s=5.0) as stream:
            await stream.write(messages)
            await stream.wait_buffered(len(messages))
            assert stream.take(len(messages)) == messages, "the echo frames as we did by hand"

    run(test)


def test_channels_that_are_over_leave_nothing_behind() -> None:
    async def leaves(channel: Channel) -> None:
        await channel.receive()

    async def test(two: Two) -> None:
        two.far.serve("/test/leave/1", leaves, access="paired", message_bytes_max=10)
        await two.connect()
        for _ in range(100):
            assert await echoes(two.near, two.far.peer)
            async with two.near.open_channel(
                two.far.peer, "/test/leave/1", message_bytes_max=10, timeout_s=5.0
            ) as channel:
                await channel.send(b"go")
        for network in (two.near, two.far):
            assert isinstance(network, LibP2PNetwork)
            (live,) = network._lives.all()
            while live.session._streams or live.channels:
                await trio.lowlevel.checkpoint()
            assert network._entrance.memory.held_bytes == 0

    run(test)


@pytest.mark.slow
def test_a_cancelled_dial_leaves_nothing_behind() -> None:
    async def test(two: Two) -> None:
        near, far = two.near, two.far
        assert isinstance(near, LibP2PNetwork) and isinstance(far, LibP2PNetwork)
        for turn in range(30):
            with trio.move_on_after(0.0004 * turn):
                await near.connect(far.peer, far.addresses(), timeout_s=5.0)
            await near.disconnect(far.peer)
            assert near.connections() == () and near._lives.all() == ()
        await two.connect()
        assert await echoes(near, far.peer)
        while len(far._lives.all()) > 1:
            await trio.lowlevel.checkpoint()

    run(test)


def test_a_node_that_stops_is_gone_for_the_others_at_once() -> None:
    async def main() -> None:
        with trio.fail_after(WITHIN_S):
            stays, stops = real_network(set()), real_network(set())
            async with trio.open_nursery() as outer:
                await outer.start(stays.run)
                async with trio.open_nursery() as inner:
                    await inner.start(stops.run)
                    await stays.connect(stops.peer, stops.addresses(), timeout_s=5.0)
                    version, _ = await stays.changed(-1)
                    inner.cancel_scope.cancel()
                assert (await stays.changed(version))[1] == ()
                outer.cancel_scope.cancel()

    trio.run(main)


async def identify(network: LibP2PNetwork, peer: str) -> Identify:
    async with network.open_stream(peer, IDENTIFY, timeout_s=5.0) as stream:
        told = b""
        with pytest.raises(Exception, match="sends no more"):
            while True:
                told += await stream.read()
    size, start = told[0], 1
    if size >= 0x80:
        size, start = (size & 0x7F) | told[1] << 7, 2
    assert len(told) == start + size
    message = Identify()
    message.ParseFromString(told[start:])
    return message


def test_whoever_asks_learns_the_version_and_what_is_open_to_it() -> None:
    async def test(two: Two) -> None:
        near, far = two.near, two.far
        assert isinstance(near, LibP2PNetwork) and isinstance(far, LibP2PNetwork)
        await two.connect()
        far.announce(["/ip4/203.0.113.9/tcp/8643"])
        message = await identify(near, far.peer)
        assert message.agent_version == "unhosted/0.test"
        assert str(ID.from_pubkey(deserialize_public_key(message.public_key))) == far.peer
        assert [str(Multiaddr(packed)) for packed in message.listen_addrs] == list(far.addresses())
        assert far.addresses()[-1] == "/ip4/203.0.113.9/tcp/8643"
        assert str(Multiaddr(message.observed_addr)).startswith("/ip4/127.0.0.1/tcp/")
        assert set(message.protocols) == {IDENTIFY, PING, ECHO}
        two.far_paired.clear()
        assert set((await identify(near, far.peer)).protocols) == {IDENTIFY, PING}

    run(test)


def test_a_connection_inside_a_tunnel_is_as_good_and_its_carrier_reads_nothing() -> None:
    secret = b"a prompt that nobody else may read"

    async def main() -> None:
        with trio.fail_after(WITHIN_S):
            paired: set[str] = set()
            caller, carrier, called = (real_network(paired) for _ in range(3))
            paired |= {caller.peer, carrier.peer, called.peer}
            carried: list[bytes] = []

            async def carry(stream: Stream, peer: str) -> None:
                onward_stream = carrier.open_stream(called.peer, "/test/stop/1", timeout_s=5.0)
                async with onward_stream as onward, trio.open_nursery() as nursery:
                    nursery.start_soon(pump, stream, onward)
                    nursery.start_soon(pump, onward, stream)

            async def pump(source: Stream, sink: Stream) -> None:
                while True:
                    carried.append(await source.read())
                    await sink.write(carried[-1])

            async def stop(stream: Stream, peer: str) -> None:
                await called.adopt(StreamTunnel(stream), is_initiator=False, peer=None, via=peer)
                await stream.session.event_closed.wait()

            carrier.serve_stream("/test/hop/1", carry, access="paired")
            called.serve_stream("/test/stop/1", stop, access="paired")
            called.serve(ECHO, echo, access="paired", message_bytes_max=ECHO_BYTES_MAX)
            async with trio.open_nursery() as nursery:
                for network in (caller, carrier, called):
                    await nursery.start(network.run)
                await caller.connect(carrier.peer, carrier.addresses(), timeout_s=5.0)
                await carrier.connect(called.peer, called.addresses(), timeout_s=5.0)
                async with caller.open_stream(carrier.peer, "/test/hop/1", timeout_s=5.0) as stream:
                    tunnel = StreamTunnel(stream)
                    made = await caller.adopt(tunnel, is_initiator=True, peer=called.peer, via=carrier.peer)
                    assert made.path == f"relay via {carrier.peer}"
                    assert await echoes(caller, called.peer, secret)
                    assert carried and not any(secret in part for part in carried)
                    nursery.cancel_scope.cancel()

    trio.run(main)


@pytest.mark.slow
def test_a_plaintext_dialler_is_refused_whatever_name_it_claims() -> None:
    async def test(two: Two) -> None:
        keys = generate_new_ed25519_identity()
        attacker = new_host(key_pair=keys, sec_opt={PLAINTEXT_PROTOCOL_ID: InsecureTransport(keys)})
        async with attacker.run([]):
            address = Multiaddr(two.far.addresses()[0])
            with pytest.raises(Exception, match="fail"):
                await attacker.get_network().dial_addr(address, ID.from_string(two.far.peer))
        assert two.far.connections() == ()
        await two.connect()
        assert await echoes(two.near, two.far.peer)

    run(test)


@pytest.mark.slow
def test_the_library_as_it_comes_talks_to_this_node_both_ways() -> None:
    async def test(two: Two) -> None:
        keys = generate_new_ed25519_identity()
        stock = new_host(
            key_pair=keys,
            sec_opt={NOISE: Noise(keys, noise_privkey=new_noise_key_pair().private_key)},
            connection_config=ConnectionConfig(min_connections=0, low_watermark=0, high_watermark=0),
        )
        async with stock.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]):
            far = two.far
            assert isinstance(far, LibP2PNetwork)
            await stock.connect(PeerInfo(ID.from_string(far.peer), [Multiaddr(far.addresses()[0])]))
            stream = await stock.new_stream(ID.from_string(far.peer), [PING])
            for value in range(3):
                await stream.write(bytes([value]) * 32)
                assert await stream.read(32) == bytes([value]) * 32
            await stream.close()
            near, theirs = two.near, str(stock.get_id())
            assert isinstance(near, LibP2PNetwork)
            place = str(stock.get_addrs()[0]).partition("/p2p/")[0]
            await near.connect(theirs, (place,), timeout_s=5.0)
            async with near.open_stream(theirs, PING, timeout_s=5.0) as ours:
                await ours.write(b"p" * 32)
                await ours.wait_buffered(32)
                assert ours.take(32) == b"p" * 32
            assert (await identify(near, theirs)).agent_version.startswith("py-libp2p/")
            with trio.move_on_after(2):
                await stock.close()

    run(test)
