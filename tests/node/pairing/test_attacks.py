"""What somebody without the code, in the middle or beside, can do: nothing that lasts."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
from spake2 import SPAKE2_B

from tests.node.pairing.machines import InternetFake, Machine, World, come_to_confirm, pair, peer_id
from unhosted.market import cbor
from unhosted.node.core import pairing_words as words
from unhosted.node.core.pairing_code import hint_of
from unhosted.node.core.pairing_common import HANDSHAKES_MAX, STARTS_PER_PEER_MAX
from unhosted.node.core.peering import Channel, ChannelBroken, PairedPeer, PeerId, PeerUnreachable
from unhosted.node.core.service import PairingView
from unhosted.node.shell.trusted import pairing_wire
from unhosted.node.shell.trusted.pairing import LINES_HARD_MAX
from unhosted.node.shell.trusted.pairing_line import MESSAGES_MAX, Line

EVE = "eve27019"
"""Chosen so that its id has the hint of the desktop's: 32768 tries, a second's work for anybody."""

PAKE = b"A" + bytes.fromhex("58" + "66" * 31)
"""A message of side A that is a point of the group: the base."""

Handler = Callable[[Channel], Awaitable[None]]


@asynccontextmanager
async def stranger(world: World, name: str, handler: Handler | None = None) -> AsyncIterator[InternetFake]:
    """A machine that speaks the protocol as it likes."""
    peer = peer_id(name)
    address = f"/ip4/192.168.8.{1 + sum(name.encode()) % 250}/tcp/8643"
    network = InternetFake(world.fabric, peer, address, None)
    if handler is not None:
        network.serve(pairing_wire.PROTOCOL, handler, access="anyone", message_bytes_max=4096)
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        yield network
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def talk(network: InternetFake, victim: Machine) -> AsyncIterator[Channel]:
    await network.connect(victim.peer, [victim.address], timeout_s=1)
    async with network.open_channel(
        victim.peer, pairing_wire.PROTOCOL, message_bytes_max=4096, timeout_s=1
    ) as channel:
        yield channel


async def say(channel: Channel, message: words.PairingMessage) -> words.PairingMessage | None:
    """The answer; None if the channel was ended."""
    await channel.send(pairing_wire.encode(message))
    data = await channel.receive()
    return None if data is None else pairing_wire.decode(data)


async def join_through(world: World, laptop: Machine, network: InternetFake, code: str) -> PairingView:
    """The laptop sees the stranger alone, as if it were the desktop."""
    laptop.sightings = [(network.peer, network.addresses())]
    join = await laptop.pairings.join(code)
    return await laptop.until(join.pairing_id, "failed", "confirm")


def test_a_relay_in_the_middle_with_its_own_keys_gets_nowhere(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(directory=tmp_path)
        async with world.machine("desktop") as desktop, world.machine("laptop") as laptop:
            passed: list[bytes] = []

            async def pass_on(channel: Channel) -> None:
                async with talk(eve, desktop) as onward, trio.open_nursery() as nursery:
                    nursery.start_soon(pump, channel, onward, passed)
                    nursery.start_soon(pump, onward, channel, passed)

            async with stranger(world, EVE, pass_on) as eve:
                assert hint_of(eve.peer) == hint_of(desktop.peer)
                offer = await desktop.pairings.offer()
                assert offer.code is not None
                failed = await join_through(world, laptop, eve, offer.code)
                kinds = [type(pairing_wire.decode(data)).__name__ for data in passed]
                assert kinds == ["Start", "Answer", "Proof", "Decline"], "it did pass everything on"
                assert failed.state == "failed" and "another machine stands between" in failed.reason
                shown = desktop.pairings.view(offer.pairing_id)
                assert (shown.state, shown.tries_left) == ("waiting", 2)
                assert eve.peer[-6:] in shown.reason and "another machine stands" in shown.reason
                assert not desktop.book.peers() and not laptop.book.peers()

    trio.run(main)


async def pump(source: Channel, target: Channel, passed: list[bytes]) -> None:
    with suppress(ChannelBroken):
        while (data := await source.receive()) is not None:
            passed.append(data)
            await target.send(data)
        await target.end()


@pytest.mark.parametrize("guess", [b"K7P4QX9TMC", b""])
def test_a_false_offerer_cannot_prove_the_code(tmp_path: Path, guess: bytes) -> None:
    async def main() -> None:
        world = World(directory=tmp_path)
        async with world.machine("desktop") as desktop, world.machine("laptop") as laptop:

            async def pretend(channel: Channel) -> None:
                ids = {"idA": channel.peer.encode(), "idB": peer_id(EVE).encode()}
                start = await receive(channel)
                assert isinstance(start, words.Start)
                exchange = SPAKE2_B(guess, **ids)
                await channel.send(pairing_wire.encode(words.Answer(pake=exchange.start())))
                assert isinstance(await receive(channel), words.Proof)
                lie = words.Introduction(mac=bytes(32), name="desktop", addresses=())
                answers.append(await say(channel, lie))

            answers: list[words.PairingMessage | None] = []
            async with stranger(world, EVE, pretend) as eve:
                offer = await desktop.pairings.offer()
                assert offer.code is not None
                failed = await join_through(world, laptop, eve, offer.code)
                assert failed.state == "failed" and "could not prove that it knows the code" in failed.reason
                assert answers == [words.Decline(why="wrong-code")]
                assert failed.other_name is None, "the lie's name is not shown"

    trio.run(main)


async def receive(channel: Channel) -> words.PairingMessage:
    data = await channel.receive()
    assert data is not None
    return pairing_wire.decode(data)


def test_a_replayed_pairing_proves_nothing(tmp_path: Path) -> None:
    """All that the joiner said in a pairing that worked, again: by itself and by another, to a newer code."""

    async def main() -> None:
        world = World(directory=tmp_path)
        async with world.machine("desktop") as desktop, world.machine("laptop") as laptop:
            heard: list[tuple[PeerId, words.PairingMessage]] = []
            on_message = desktop.pairings._on_message

            async def hear(line: Line, message: words.PairingMessage) -> None:
                heard.append((line.peer, message))
                await on_message(line, message)

            desktop.pairings._on_message = hear  # type: ignore[method-assign]
            await pair(desktop, laptop)
            said = [message for peer, message in heard if peer == laptop.peer][:4]
            assert list(map(type, said)) == [words.Start, words.Proof, words.Introduction, words.Accept]
            await desktop.pairings.unpair(laptop.peer)
            await laptop.wait(lambda: laptop.standing(desktop) == "none")
            offer = await desktop.pairings.offer()
            async with stranger(world, "mallory") as mallory:
                for network in (mallory, laptop.network):
                    async with talk(network, desktop) as channel:
                        assert isinstance(await say(channel, said[0]), words.Answer)
                        answer = await say(channel, said[1])
                        assert isinstance(answer, words.Decline) and answer.why == "wrong-code"
                assert desktop.pairings.view(offer.pairing_id).tries_left == 1
            assert not desktop.book.peers()

    trio.run(main)


@pytest.mark.slow
def test_places_held_by_silent_strangers_do_not_keep_a_friend_out(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(directory=tmp_path)
        async with world.machine("desktop") as desktop, world.machine("laptop") as laptop:
            await desktop.pairings.offer()
            async with trio.open_nursery() as nursery:

                async def hold(number: int, says: words.PairingMessage | None) -> None:
                    name = f"stranger{number}"
                    async with stranger(world, name) as network, talk(network, desktop) as channel:
                        with suppress(ChannelBroken):  # the oldest make place for the newest
                            if says is not None:
                                await say(channel, says)
                        held.append(name)
                        await trio.sleep_forever()

                held: list[str] = []
                for number in range(LINES_HARD_MAX):
                    nursery.start_soon(hold, number, None)
                for number in range(HANDSHAKES_MAX):
                    nursery.start_soon(hold, LINES_HARD_MAX + number, words.Start(pake=PAKE))
                await desktop.wait(lambda: len(held) == LINES_HARD_MAX + HANDSHAKES_MAX)
                await pair(desktop, laptop)
                nursery.cancel_scope.cancel()

    trio.run(main)


def test_one_stranger_starts_a_few_times_a_minute_at_most(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(directory=tmp_path)
        async with world.machine("desktop") as desktop, stranger(world, "mallory") as mallory:
            offer = await desktop.pairings.offer()
            answers = []
            for _ in range(STARTS_PER_PEER_MAX + 1):
                async with talk(mallory, desktop) as channel:
                    answers.append(await say(channel, words.Start(pake=PAKE)))
                await desktop.wait(lambda: not desktop.pairings._lines)
            assert [type(answer) for answer in answers[:-1]] == [words.Answer] * STARTS_PER_PEER_MAX
            assert answers[-1] == words.Decline(why="busy")
            assert desktop.pairings.view(offer.pairing_id).tries_left == 3, "to start is no guess"

    trio.run(main)


def test_words_out_of_turn_change_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(directory=tmp_path)
        unasked: list[words.PairingMessage] = [
            words.Answer(pake=PAKE),
            words.Proof(mac=bytes(32)),
            words.Introduction(mac=bytes(32), name="desktop", addresses=()),
            words.Accept(),
            words.Commit(),
            words.Resolved(standing="paired"),
            words.Resolve(standing="paired"),
            words.Resolve(standing="pending"),
            words.Unpaired(),
        ]
        async with world.machine("desktop") as desktop, stranger(world, "mallory") as mallory:
            offer = await desktop.pairings.offer()
            for message in unasked:
                async with talk(mallory, desktop) as channel:
                    answer = await say(channel, message)
                    if isinstance(message, words.Resolve):
                        assert answer == words.Resolved(standing="none")
                    else:
                        assert answer in (words.Decline(why="failed"), None)
                for begun in (words.Start(pake=PAKE), words.Start(pake=PAKE)):
                    async with talk(mallory, desktop) as channel:
                        await say(channel, begun)
                        with suppress(ChannelBroken):
                            await say(channel, message)
                    await desktop.wait(lambda: not desktop.pairings._lines)
            assert not desktop.book.peers()
            assert desktop.pairings.view(offer.pairing_id).state == "waiting"

    trio.run(main)


def test_a_false_commit_before_the_users_yes_pairs_nobody(tmp_path: Path) -> None:
    """The offerer knows the code, but its user's word is not the joiner's user's."""

    async def main() -> None:
        world = World(directory=tmp_path)
        async with world.machine("desktop") as desktop, world.machine("laptop") as laptop:
            _, join_id = await come_to_confirm(desktop, laptop)
            line = next(line for line in desktop.pairings._lines.values() if line.peer == laptop.peer)
            line.send(words.Commit())
            failed = await laptop.until(join_id, "failed")
            assert "broke the pairing protocol" in failed.reason
            assert laptop.standing(desktop) == "none"

    trio.run(main)


@pytest.mark.parametrize(
    "pake",
    [
        b"B" * 33,
        b"A" * 33,  # a point that is on no curve
        b"A" + bytes(32),
        b"A" + b"\xff" * 32,
        b"A\x01" + bytes(31),
    ],
)
def test_what_is_no_point_of_the_group_ends_the_talk_and_costs_no_try(tmp_path: Path, pake: bytes) -> None:
    async def main() -> None:
        world = World(directory=tmp_path)
        async with world.machine("desktop") as desktop, stranger(world, "mallory") as mallory:
            offer = await desktop.pairings.offer()
            async with talk(mallory, desktop) as channel:
                assert await say(channel, words.Start(pake=pake)) == words.Decline(why="failed")
            assert desktop.pairings.view(offer.pairing_id).tries_left == 3

    trio.run(main)


def test_garbage_and_other_versions_do_not_stop_the_node(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(directory=tmp_path)
        chance = random.Random(5)
        async with world.machine("desktop") as desktop, world.machine("laptop") as laptop:
            async with stranger(world, "mallory") as mallory:
                async with talk(mallory, desktop) as channel:
                    await channel.send(cbor.encode({"k": "start", "v": 2}))
                    assert await receive(channel) == words.Decline(why="version")
                for _ in range(100):
                    async with talk(mallory, desktop) as channel:
                        with suppress(ChannelBroken):
                            await channel.send(chance.randbytes(1 + chance.randrange(80)))
                            await channel.receive()
                async with talk(mallory, desktop) as channel:
                    with suppress(ChannelBroken):
                        for _ in range(2 * MESSAGES_MAX):
                            await channel.send(pairing_wire.encode(words.Resolve(standing="none")))
            await pair(desktop, laptop)

    trio.run(main)


def test_nobody_can_end_a_pairing_between_two_others(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(directory=tmp_path)
        async with world.machine("desktop") as desktop, world.machine("laptop") as laptop:
            await pair(desktop, laptop)
            async with stranger(world, "mallory") as mallory, talk(mallory, desktop) as channel:
                await say(channel, words.Unpaired())
            assert desktop.standing(laptop) == laptop.standing(desktop) == "paired"

    trio.run(main)


def test_a_pending_peer_has_no_rights(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(directory=tmp_path)
        async with world.machine("desktop") as desktop, stranger(world, "mallory") as mallory:
            pending = PairedPeer(
                peer=mallory.peer, name="mallory", state="pending", paired_unix_s=1_800_000_000
            )
            desktop.book.put(pending)

            async def work(channel: Channel) -> None:
                await channel.end()

            desktop.network.serve("/job/1", work, access="paired", message_bytes_max=10)
            await mallory.connect(desktop.peer, [desktop.address], timeout_s=1)
            with pytest.raises(PeerUnreachable, match="refuses"):
                async with mallory.open_channel(desktop.peer, "/job/1", message_bytes_max=10, timeout_s=1):
                    pass

    trio.run(main)
