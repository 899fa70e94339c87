"""Whoever takes much is held up himself: strangers, their memory and their places, and slow readers."""

from contextlib import ExitStack, suppress

import pytest
import trio
import trio.testing
from libp2p.io.exceptions import IOException

from tests.node.peers.harness import ECHO_BYTES_MAX, echoes
from tests.node.peers.rogues import (
    DATA,
    PING,
    RST,
    SYN,
    WINDOW_UPDATE,
    Rogue,
    bare_socket,
    count_closed,
    frame,
    rogue,
)
from tests.node.peers.scene import OPEN, Scene, held_bytes, session_with, under_attack
from unhosted.node.core.peering import Channel
from unhosted.node.shell.peers.limits import Limits
from unhosted.node.shell.peers.memory import MEBIBYTE
from unhosted.node.shell.peers.overrides import session as session_module


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


def test_a_slow_reader_loses_nothing_and_holds_up_nobody() -> None:
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
