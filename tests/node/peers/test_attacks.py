"""Whatever a stranger sends, the node serves on: its paired peer gets its answer during it and after it."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing
from libp2p.io.exceptions import IOException

from tests.node.peers.harness import ECHO, ECHO_BYTES_MAX, WITHIN_S, echo, echoes, real_network
from tests.node.peers.rogues import (
    DATA,
    FIN,
    GO_AWAY,
    PING,
    RST,
    SYN,
    WINDOW_UPDATE,
    Rogue,
    bare_socket,
    count_closed,
    frame,
    is_closed_by_peer,
    rogue,
)
from unhosted.node.core.peering import Channel, PeerId, PeerUnreachable
from unhosted.node.shell.peers.limits import Limits
from unhosted.node.shell.peers.memory import MEBIBYTE
from unhosted.node.shell.peers.negotiation import MULTISTREAM, encode
from unhosted.node.shell.peers.network import LibP2PNetwork
from unhosted.node.shell.peers.overrides import session as session_module
from unhosted.node.shell.peers.overrides.session import Session

OPEN = "/test/open/1"
"""Answered to anyone, by a handler that never reads."""


@dataclass(slots=True, kw_only=True)
class Scene:
    """victim: under attack. friend: paired with it, and connected."""

    victim: LibP2PNetwork
    friend: LibP2PNetwork
    paired: set[PeerId] = field(default_factory=set)

    async def victim_serves(self) -> None:
        """On the connection that stands, and to a friend who comes anew."""
        assert await echoes(self.friend, self.victim.peer)
        await self.friend.disconnect(self.victim.peer)
        await self.friend.connect(self.victim.peer, self.victim.addresses(), timeout_s=5.0)
        assert await echoes(self.friend, self.victim.peer)


@asynccontextmanager
async def scene(limits: Limits | None = None) -> AsyncIterator[Scene]:
    paired: set[PeerId] = set()
    victim, friend = real_network(paired, limits), real_network(set())
    paired.add(friend.peer)

    async def deaf(channel: Channel) -> None:
        await trio.sleep_forever()

    with trio.fail_after(WITHIN_S):
        async with trio.open_nursery() as nursery:
            victim.serve(ECHO, echo, access="paired", message_bytes_max=ECHO_BYTES_MAX)
            victim.serve(OPEN, deaf, access="anyone", message_bytes_max=ECHO_BYTES_MAX)
            await nursery.start(victim.run)
            await nursery.start(friend.run)
            await friend.connect(victim.peer, victim.addresses(), timeout_s=5.0)
            yield Scene(victim=victim, friend=friend, paired=paired)
            nursery.cancel_scope.cancel()


def under_attack(attack: Callable[[Scene], Awaitable[None]], limits: Limits | None = None) -> None:
    async def main() -> None:
        async with scene(limits) as at:
            await attack(at)
            await at.victim_serves()

    trio.run(main)


def held_bytes(network: LibP2PNetwork) -> int:
    return network._entrance.memory.held_bytes


async def session_with(network: LibP2PNetwork, peer: PeerId) -> Session:
    """The node's own end of its connection with an attacker, as soon as it stands."""
    version = -1
    while True:
        version, _ = await network.changed(version)
        for live in network._lives.of_peer(peer):
            return live.session


def test_random_bytes_instead_of_a_handshake() -> None:
    async def attack(at: Scene) -> None:
        draw = random.Random(1)
        for _ in range(50):
            with bare_socket(at.victim) as opened:
                opened.sendall(draw.randbytes(2000))

    under_attack(attack)


@pytest.mark.parametrize(
    "words",
    [
        encode(MULTISTREAM) + b"\x05\xff\xfe\xfd\xfc\n",
        b"\xff" * 9 + b"\x01",
        b"\xff\xff\xff\x7f" + b"a" * 65_000,
        b"\x00",
        encode(MULTISTREAM) + encode("/plaintext/2.0.0") + encode("/tls/1.0.0") + encode("/secio/1.0.0"),
    ],
    ids=["no UTF-8", "endless length", "256 MiB announced", "empty word", "other kinds of security"],
)
def test_bad_words_before_the_handshake(words: bytes) -> None:
    async def attack(at: Scene) -> None:
        with bare_socket(at.victim) as opened:
            opened.sendall(words)
            opened.shutdown(1)
            assert await is_closed_by_peer(opened)

    under_attack(attack)


def test_a_handshake_of_megabytes_is_cut_short() -> None:
    async def attack(at: Scene) -> None:
        with bare_socket(at.victim) as opened, pytest.raises(OSError, match=r"Broken pipe|reset by peer"):
            opened.settimeout(5.0)
            while True:
                await trio.to_thread.run_sync(opened.sendall, b"\xff\xff\xff\x7f" + bytes(65_536))

    under_attack(attack)


@pytest.mark.parametrize(
    "words",
    [
        encode(MULTISTREAM) + b"\x05\xff\xfe\xfd\xfc\n",
        b"\xff" * 9 + b"\x01",
        b"\xff\xff\xff\x7f" + b"a" * 60_000,
        b"\x00\x00\x00",
        encode("/multistream/9.9.9"),
        encode(MULTISTREAM) + encode("ls") * 5000,
        encode(MULTISTREAM) + encode(ECHO),
    ],
    ids=["no UTF-8", "endless length", "256 MiB", "empty words", "other version", "5000 ls", "paired only"],
)
def test_bad_words_on_a_stream_cost_that_stream(words: bytes) -> None:
    async def attack(at: Scene) -> None:
        async with rogue(at.victim) as stranger:
            nursery: trio.Nursery
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stranger.session.start)
                stream = await stranger.session.open_stream()
                await stream.write(words)
                stream.finish()
                with pytest.raises(Exception, match=r"reset|sends no more"):
                    while True:
                        await stream.read(65_536)
                assert not stranger.session.is_closed, "the stream alone"
                nursery.cancel_scope.cancel()

    under_attack(attack)


BAD_FRAMES = {
    "unknown kind": ([frame(7, 9, 3, 100)], "kind 7"),
    "unknown version": ([frame(PING, SYN, 0, 1, version=1)], "version 1"),
    "a stream of our own numbers": ([frame(WINDOW_UPDATE, SYN, 2, 0)], "not its to open"),
    "stream 0": ([frame(WINDOW_UPDATE, SYN, 0, 0)], "not its to open"),
    "opened twice": ([frame(WINDOW_UPDATE, SYN, 1, 0)] * 2, "not its to open"),
    "a window beyond 4 GiB": ([frame(WINDOW_UPDATE, SYN, 1, 0xFFFFFFFF)], "beyond 4 GiB"),
    "more than the window": (
        [frame(WINDOW_UPDATE, SYN, 1, 0), frame(DATA, 0, 1, 256 * 1024 + 1)],
        "into a window that was smaller",
    ),
    "data after the end": (
        [frame(WINDOW_UPDATE, SYN, 1, 0), frame(WINDOW_UPDATE, FIN, 1, 0), frame(DATA, 0, 1, 1, b"x")],
        "after the end",
    ),
    "4 GiB on no stream": ([frame(DATA, 0, 999, 0xFFFFFFFF)], "wait to be read already"),
    "goodbye": ([frame(GO_AWAY, 0, 0, 4101)], "goodbye"),
}


@pytest.mark.parametrize(("frames", "reason"), BAD_FRAMES.values(), ids=BAD_FRAMES)
def test_bad_frames_end_their_own_connection(frames: list[bytes], reason: str) -> None:
    async def attack(at: Scene) -> None:
        async with rogue(at.victim) as stranger:
            session = await session_with(at.victim, stranger.peer)
            await stranger.write(*frames)
            await session.event_closed.wait()
            assert reason in session.reason

    under_attack(attack)


def test_frames_that_mean_nothing_are_passed_over() -> None:
    async def attack(at: Scene) -> None:
        async with rogue(at.victim) as stranger:
            await stranger.write(
                frame(DATA, 0, 999, 10, b"x" * 10),
                frame(WINDOW_UPDATE, RST, 997, 0),
                frame(WINDOW_UPDATE, 0, 995, 5),
                frame(PING, 2, 0, 77),
                frame(PING, SYN, 0, 0xABCD),
            )
            heard = b""
            while frame(PING, 2, 0, 0xABCD) not in heard:
                heard += await stranger.secured.read()

    under_attack(attack)


async def flood_unread(stranger: Rogue, streams: int) -> None:
    body = bytes(65_000)
    with suppress(IOException):  # it is cut off in the middle
        for index in range(streams):
            stream_id = 1 + 2 * index
            await stranger.open(stream_id, OPEN)
            for _ in range(3):
                await stranger.write(frame(DATA, 0, stream_id, len(body), body))


def test_what_a_stranger_sends_and_nobody_reads_stays_small() -> None:
    async def attack(at: Scene) -> None:
        async with rogue(at.victim) as stranger:
            session = await session_with(at.victim, stranger.peer)
            await flood_unread(stranger, 8)
            await session.event_closed.wait()
            assert "wait to be read already" in session.reason
        assert await echoes(at.friend, at.victim.peer)
        assert held_bytes(at.victim) == 0, "nothing stays on the account of a peer that is gone"

    under_attack(attack)


def test_many_strangers_together_do_not_take_the_memory_of_friends() -> None:
    limits = Limits(memory_bytes_max=4 * MEBIBYTE, memory_of_strangers_bytes_max=MEBIBYTE)

    async def attack(at: Scene) -> None:
        async with rogue(at.victim) as one, rogue(at.victim) as other:
            await flood_unread(one, 4)
            session = await session_with(at.victim, other.peer)
            await flood_unread(other, 4)
            await session.event_closed.wait()
            assert "memory" in session.reason
            assert held_bytes(at.victim) <= MEBIBYTE + ECHO_BYTES_MAX
            assert await echoes(at.friend, at.victim.peer, bytes(2 * MEBIBYTE))

    under_attack(attack, limits)


def test_thousands_of_silent_streams_are_refused() -> None:
    async def attack(at: Scene) -> None:
        async with rogue(at.victim) as stranger:
            openings = [frame(WINDOW_UPDATE, SYN, 1001 + 2 * index, 0) for index in range(5000)]
            await stranger.write(b"".join(openings))
            assert await echoes(at.friend, at.victim.peer)
            heard = b""
            while heard.count(frame(WINDOW_UPDATE, RST, 1001 + 2 * 4999, 0)) == 0:
                heard += await stranger.secured.read()
            (held,) = [one for one in at.victim._lives.all() if one.peer == stranger.peer]
            assert len(held.session._streams) <= Limits().streams_per_stranger_max

    under_attack(attack)


@pytest.mark.slow
def test_a_peer_that_asks_and_does_not_read_is_cut_off() -> None:
    async def attack(at: Scene) -> None:
        async with rogue(at.victim) as stranger:
            pings = b"".join(frame(PING, SYN, 0, value) for value in range(5000))
            with pytest.raises(Exception, match="gone"):
                while True:
                    await stranger.write(pings)

    under_attack(attack)


@pytest.mark.slow
def test_half_open_connections_block_nobody() -> None:
    async def attack(at: Scene) -> None:
        with ExitStack() as stack:
            held = []
            for index in range(500):
                held.append(stack.enter_context(bare_socket(at.victim, f"127.0.0.{1 + index % 100}")))
                await trio.lowlevel.checkpoint()
            await at.victim_serves()
            assert count_closed(held) >= 500 - Limits().handshakes_max
            near = []
            for _ in range(100):
                near.append(stack.enter_context(bare_socket(at.victim)))
                await trio.lowlevel.checkpoint()
            await at.victim_serves()
            assert count_closed(near) >= 100 - Limits().handshakes_per_address_max

    under_attack(attack)


def test_a_message_in_single_bytes_is_a_message() -> None:
    async def attack(at: Scene) -> None:
        async with rogue(at.victim, dribbles=True) as stranger:
            await stranger.open(1, OPEN)
            body = bytes(500)
            await stranger.write(frame(DATA, 0, 1, len(body), body), frame(PING, SYN, 0, 5))
            heard = b""
            while frame(PING, 2, 0, 5) not in heard:
                heard += await stranger.secured.read()

    under_attack(attack)


def test_a_silent_peer_is_found_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "TICK_S", 0.01)

    async def attack(at: Scene) -> None:
        async with rogue(at.victim) as silent:
            heard = await silent.read_until_closed()
            assert heard.count(frame(PING, SYN, 0, 1)) == 1, "it was asked first"
        assert {one.peer for one in at.victim.connections()} == {at.friend.peer}, "who answers stays"

    under_attack(attack)


@pytest.mark.slow
def test_cancelled_reads_and_writes_leave_the_connection_whole() -> None:
    async def count(channel: Channel) -> None:
        number = 0
        while True:
            number += 1
            await channel.send(number.to_bytes(4, "big") * (1 + number % 50 * 40))

    async def attack(at: Scene) -> None:
        at.victim.serve("/test/count/1", count, access="paired", message_bytes_max=65_536)
        at.victim.serve(
            "/test/deaf/1", lambda channel: trio.sleep_forever(), access="paired", message_bytes_max=MEBIBYTE
        )
        for turn in range(60):
            async with at.friend.open_channel(
                at.victim.peer, "/test/deaf/1", message_bytes_max=MEBIBYTE, timeout_s=5.0
            ) as channel:
                with trio.move_on_after(0.0001 * (turn % 20)):
                    await channel.send(bytes(MEBIBYTE))
        async with at.friend.open_channel(
            at.victim.peer, "/test/count/1", message_bytes_max=65_536, timeout_s=5.0
        ) as channel:
            numbers: list[int] = []
            cancelled = 0
            while len(numbers) < 1500:
                with trio.move_on_after(0.00005 * (cancelled % 9)) as scope:
                    while True:
                        message = await channel.receive()
                        assert message is not None
                        numbers.append(int.from_bytes(message[:4], "big"))
                        assert {message[i : i + 4] for i in range(0, len(message), 4)} == {message[:4]}
                cancelled += scope.cancelled_caught
        assert cancelled > 20
        assert numbers == list(range(1, len(numbers) + 1)), "none lost, none twice"

    under_attack(attack)


def test_a_slow_reader_loses_nothing_and_holds_up_nobody() -> None:
    go_on = trio.Event()

    async def pours(channel: Channel) -> None:
        for number in range(64):
            await channel.send(bytes([number]) * 65_536)
        await channel.end()

    async def attack(at: Scene) -> None:
        at.victim.serve("/test/pour/1", pours, access="paired", message_bytes_max=65_536)
        async with at.friend.open_channel(
            at.victim.peer, "/test/pour/1", message_bytes_max=65_536, timeout_s=5.0
        ) as channel:
            first = await channel.receive()
            for _ in range(20):
                assert await echoes(at.friend, at.victim.peer)
            go_on.set()
            rest = [await channel.receive() for _ in range(64)]
            assert first == bytes(65_536) and rest[-1] is None
            assert [message[0] for message in rest if message] == list(range(1, 64))

    under_attack(attack)


def test_strangers_do_not_keep_a_friend_out() -> None:
    limits = Limits(connections_max=12, strangers_max=8, strangers_per_address_max=8)

    async def attack(at: Scene) -> None:
        async with trio.open_nursery() as nursery:
            held: list[Rogue] = []

            async def hold(task_status: trio.TaskStatus[None]) -> None:
                async with rogue(at.victim) as stranger:
                    await stranger.open(1, OPEN)  # busy, not idle: nobody can be evicted for another stranger
                    held.append(stranger)
                    task_status.started()
                    await trio.sleep_forever()

            for _ in range(8):
                await nursery.start(hold)
            async with rogue(at.victim) as ninth:
                await ninth.read_until_closed()
            await at.victim_serves()
            strangers = [one for one in at.victim._lives.all() if one.peer != at.friend.peer]
            assert len(strangers) == 8
            nursery.cancel_scope.cancel()

    under_attack(attack, limits)


@pytest.mark.slow
def test_hundreds_of_held_connections_keep_no_friend_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "TICK_S", 60.0)  # they answer no pings, and are not to die of that

    async def attack(at: Scene) -> None:
        async with trio.open_nursery() as nursery:

            async def hold(task_status: trio.TaskStatus[None]) -> None:
                async with rogue(at.victim) as stranger:
                    with suppress(IOException):  # the last ones are refused
                        await stranger.open(1, OPEN)
                    task_status.started()
                    await trio.sleep_forever()

            for _ in range(250):
                await nursery.start(hold)
            await at.victim_serves()
            strangers = [one for one in at.victim._lives.all() if one.peer != at.friend.peer]
            assert len(strangers) == Limits().strangers_max
            nursery.cancel_scope.cancel()

    under_attack(attack, Limits(handshakes_per_address_burst=1000, strangers_per_address_max=1000))


def test_an_idle_stranger_makes_room_for_another() -> None:
    limits = Limits(strangers_max=2, stranger_evictable_s=0.0)

    async def attack(at: Scene) -> None:
        async with rogue(at.victim) as oldest, rogue(at.victim) as old, rogue(at.victim) as newest:
            await oldest.read_until_closed()
            await trio.testing.wait_all_tasks_blocked()
            strangers = {one.peer for one in at.victim.connections()} - {at.friend.peer}
            assert strangers == {old.peer, newest.peer}

    under_attack(attack, limits)


def test_somebody_else_at_a_friends_address_is_not_taken_for_the_friend() -> None:
    async def attack(at: Scene) -> None:
        impostor = real_network(set())
        async with trio.open_nursery() as nursery:
            await nursery.start(impostor.run)
            await at.friend.disconnect(at.victim.peer)
            with pytest.raises(PeerUnreachable, match="somebody else answers there"):
                await at.friend.connect(at.victim.peer, impostor.addresses(), timeout_s=5.0)
            found = await at.friend.connect(
                at.victim.peer, (*impostor.addresses(), *at.victim.addresses()), timeout_s=5.0
            )
            assert found.remote_address == at.victim.addresses()[0]
            nursery.cancel_scope.cancel()

    under_attack(attack)
