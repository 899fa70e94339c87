"""The library as it comes, under the same attacks: prints a JSON object, fault by name, true where it shows.

Run by test_stock_faults.py in a process of its own, since some of them end it.
"""

import json
import logging
import socket
import struct
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import trio
import trio.testing
from libp2p import generate_new_ed25519_identity, new_host
from libp2p.crypto.x25519 import create_new_key_pair as new_noise_key_pair
from libp2p.custom_types import TProtocol
from libp2p.io.exceptions import IncompleteReadError
from libp2p.io.utils import read_exactly
from libp2p.network.config import ConnectionConfig
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo, info_from_p2p_addr
from libp2p.security.insecure import transport as insecure
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as Noise
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.stream_muxer.yamux.yamux import Yamux
from multiaddr import Multiaddr

from tests.node.peers.rogues import free_policy
from unhosted.node.shell.peers.overrides.upgrader import Upgrader
from unhosted.node.shell.peers.sockets import Wire

ECHO, HOLD, RAISE = TProtocol("/echo/1"), TProtocol("/hold/1"), TProtocol("/raise/1")
SELECT = b"\x13/multistream/1.0.0\n"
LISTEN = Multiaddr("/ip4/127.0.0.1/tcp/0")


def stock(**options: Any) -> Any:
    keys = generate_new_ed25519_identity()
    noise = Noise(keys, noise_privkey=new_noise_key_pair().private_key)
    config = options.pop("config", ConnectionConfig(min_connections=0, low_watermark=0, high_watermark=0))
    return new_host(
        key_pair=keys,
        listen_addrs=[LISTEN],
        sec_opt=options.pop("sec_opt", {NOISE: noise}),
        muxer_opt=options.pop("muxer_opt", {YAMUX: Yamux}),
        connection_config=config,
        **options,
    )


async def echo(stream: Any) -> None:
    await stream.write(await stream.read(100))
    await stream.close()


async def hold(stream: Any) -> None:
    await trio.sleep_forever()


async def raises(stream: Any) -> None:
    raise RuntimeError("a defect in a handler")


async def echoes(host: Any, peer: Any) -> bool:
    with trio.move_on_after(3):
        try:
            stream = await host.new_stream(peer, [ECHO])
            await stream.write(b"there?")
            return bool(await stream.read(100) == b"there?")
        except Exception:
            return False
    return False


Between = Callable[[Any, Any], Awaitable[bool]]


async def connected(test: Between, victim: Any = None) -> bool:
    """What `test` gives for a victim and somebody connected to it."""
    victim, other = victim or stock(), stock()
    async with victim.run([LISTEN]), other.run([]):
        for protocol, handler in ((ECHO, echo), (HOLD, hold), (RAISE, raises)):
            victim.set_stream_handler(protocol, handler)
        await other.connect(info_from_p2p_addr(victim.get_addrs()[0]))
        found = await test(victim, other)
        with trio.move_on_after(2, shield=True):
            await other.close()
            await victim.close()
        return found


async def a_word_without_utf8_ends_the_node() -> bool:
    async def test(victim: Any, other: Any) -> bool:
        (connection,) = other.get_network().get_connections(victim.get_id())
        stream = await connection.muxed_conn.open_stream()
        await stream.write(SELECT + b"\x05\xff\xfe\xfd\xfc\n")
        await trio.sleep(1)
        return not await echoes(other, victim.get_id())

    return await connected(test)


async def a_raising_handler_ends_the_node() -> bool:
    async def test(victim: Any, other: Any) -> bool:
        await other.new_stream(victim.get_id(), [RAISE])
        await trio.sleep(1)
        return not await echoes(other, victim.get_id())

    return await connected(test)


async def cancelled_writes_end_the_connection() -> bool:
    async def test(victim: Any, other: Any) -> bool:
        for turn in range(60):
            is_whole = False
            with suppress(Exception), trio.move_on_after(1):
                stream = await other.new_stream(victim.get_id(), [HOLD])
                with trio.move_on_after(0.002 + 0.0007 * turn):
                    await stream.write(bytes(8 << 20))
                await stream.reset()
                is_whole = True
            if not is_whole:
                return True
        return False

    return await connected(test)


async def places_of_inbound_connections_are_never_given_back() -> bool:
    victim = stock(
        config=ConnectionConfig(min_connections=0, low_watermark=0, max_connections=3, high_watermark=3)
    )
    async with victim.run([LISTEN]):
        for _ in range(3):
            other = stock()
            async with other.run([]):
                await other.connect(info_from_p2p_addr(victim.get_addrs()[0]))
                await other.close()
        while victim.get_network().get_connections():
            await trio.sleep(0.05)
        other = stock()
        async with other.run([]):
            try:
                with trio.fail_after(3):
                    await other.connect(info_from_p2p_addr(victim.get_addrs()[0]))
                return False
            except Exception:
                return True


async def silent_connections_keep_everybody_out() -> bool:
    victim = stock(
        config=ConnectionConfig(min_connections=0, low_watermark=0, max_connections=3, high_watermark=3)
    )
    async with victim.run([LISTEN]):
        port = int(victim.get_addrs()[0].value_for_protocol("tcp"))
        held = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(3)]
        other = stock()
        async with other.run([]):
            try:
                with trio.fail_after(2):
                    await other.connect(info_from_p2p_addr(victim.get_addrs()[0]))
                return False
            except Exception:
                return True
            finally:
                for stream in held:
                    await stream.aclose()


async def plaintext_is_taken_under_any_name() -> bool:
    victim, friend, keys = new_host(), generate_new_ed25519_identity(), generate_new_ed25519_identity()
    attacker = new_host(
        key_pair=keys, sec_opt={insecure.PLAINTEXT_PROTOCOL_ID: insecure.InsecureTransport(keys)}
    )
    honest = insecure.make_exchange_message
    insecure.make_exchange_message = lambda key: honest(
        friend.public_key if key == attacker.get_public_key() else key
    )
    async with victim.run([LISTEN]), attacker.run([]):
        await attacker.connect(info_from_p2p_addr(victim.get_addrs()[0]))
        await trio.sleep(0.3)
        return ID.from_pubkey(friend.public_key) in victim.get_network().connections


async def a_taken_port_raises_nothing() -> bool:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        host = stock()
        async with host.run([Multiaddr(f"/ip4/127.0.0.1/tcp/{taken.getsockname()[1]}")]):
            return not host.get_addrs()


async def two_nodes_share_a_port() -> bool:
    one, other = stock(), stock()
    async with one.run([LISTEN]):
        place = Multiaddr(f"/ip4/127.0.0.1/tcp/{one.get_addrs()[0].value_for_protocol('tcp')}")
        async with other.run([place]):
            return len(other.get_addrs()) == 1


async def more_than_the_window_is_taken_in() -> bool:
    async def test(victim: Any, other: Any) -> bool:
        stream = await other.new_stream(victim.get_id(), [HOLD])
        muxed = stream.muxed_stream
        body = bytes(60_000)
        for _ in range(400):
            await muxed.conn._write_frame(struct.pack("!BBHII", 0, 0, 0, muxed.stream_id, len(body)) + body)
        await trio.sleep(0.5)
        (connection,) = victim.get_network().get_connections(other.get_id())
        held = sum(len(buffer) for buffer in connection.muxed_conn.stream_buffers.values())
        return held > 20_000_000

    return await connected(test)


async def a_writer_gives_up_on_a_slow_reader() -> bool:
    async def test(victim: Any, other: Any) -> bool:
        stream = await other.new_stream(victim.get_id(), [HOLD])
        started_s = trio.current_time()
        try:
            with trio.fail_after(100):
                await stream.write(bytes(16 << 20))
        except trio.TooSlowError:
            return False
        except Exception:
            return trio.current_time() - started_s < 10
        return False

    return await connected(test)


async def a_dead_peer_is_never_noticed() -> bool:
    victim = stock()
    async with victim.run([LISTEN]):
        port = int(victim.get_addrs()[0].value_for_protocol("tcp"))
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        keys = generate_new_ed25519_identity()
        noise = Noise(keys, noise_privkey=new_noise_key_pair().private_key)
        upgrader = Upgrader(noise, lambda peer_id: free_policy())
        raw = RawConnection(Wire(stream, remote=None, allowed_bytes=1 << 20), True)
        secured = await upgrader.upgrade_security(raw, True, victim.get_id())
        await upgrader.upgrade_connection(secured, victim.get_id())  # and from here on: silence
        await trio.sleep(75)
        found = len(victim.get_network().get_connections()) == 1
        await stream.aclose()
        return found


async def a_message_in_many_pieces_is_given_up() -> bool:
    class OneByte:
        async def read(self, n: int) -> bytes:
            return b"x"

    try:
        await read_exactly(OneByte(), 200)
    except IncompleteReadError:
        return True
    return False


async def another_muxer_is_passed_over() -> bool:
    class Ours(Yamux):  # type: ignore[misc]
        pass

    async def test(victim: Any, other: Any) -> bool:
        (connection,) = victim.get_network().get_connections(other.get_id())
        return type(connection.muxed_conn) is Yamux

    return await connected(test, stock(muxer_opt={YAMUX: Ours}))


async def it_dials_unasked() -> bool:
    one = stock()
    other = stock(config=ConnectionConfig(min_connections=0, low_watermark=0))
    async with one.run([LISTEN]):
        info = PeerInfo(one.get_id(), one.get_network().listeners and [_plain(one.get_addrs()[0])])
        other.get_peerstore().add_addrs(info.peer_id, info.addrs, 3600)
        async with other.run([]):
            with trio.move_on_after(4):
                while not other.get_network().get_connections():
                    await trio.sleep(0.05)
            return bool(other.get_network().get_connections())


def _plain(address: Multiaddr) -> Multiaddr:
    return Multiaddr(str(address).partition("/p2p/")[0])


FAULTS: dict[Callable[[], Awaitable[bool]], int] = {
    a_word_without_utf8_ends_the_node: 1,
    a_raising_handler_ends_the_node: 1,
    cancelled_writes_end_the_connection: 1,
    places_of_inbound_connections_are_never_given_back: 1,
    silent_connections_keep_everybody_out: 1,
    plaintext_is_taken_under_any_name: 1,
    a_taken_port_raises_nothing: 1,
    two_nodes_share_a_port: 1,
    more_than_the_window_is_taken_in: 1,
    a_writer_gives_up_on_a_slow_reader: 10,
    a_dead_peer_is_never_noticed: 50,
    a_message_in_many_pieces_is_given_up: 1,
    another_muxer_is_passed_over: 1,
    it_dials_unasked: 1,
}
"""Each with how much faster its clock runs."""


def shows(fault: Callable[[], Awaitable[bool]], rate: int) -> bool | str:
    async def bounded() -> bool:
        with trio.fail_after(15 * rate):
            return await fault()

    try:
        return trio.run(bounded, clock=trio.testing.MockClock(rate=rate))
    except trio.TooSlowError:
        return "took too long"
    except BaseException as error:
        # The node ended: that is what some of these show.
        return True if fault.__name__.endswith("ends_the_node") else repr(error)


def main() -> None:
    logging.getLogger("libp2p").addHandler(logging.NullHandler())
    logging.disable(logging.CRITICAL)
    wanted = sys.argv[1:]
    found = {
        fault.__name__: shows(fault, rate)
        for fault, rate in FAULTS.items()
        if not wanted or fault.__name__ in wanted
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
