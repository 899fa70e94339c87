"""Machines that pair: the real `Pairings` on a real book, over the network in memory."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from tests.fake_network import Fabric, FakeNetwork
from unhosted.node.core.peering import PairedPeer, PeerId
from unhosted.node.core.service import PairingView
from unhosted.node.shell.trusted.book import PeerBook
from unhosted.node.shell.trusted.pairing import Pairings

ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
TICK_S = 0.01


def peer_id(name: str) -> PeerId:
    """A text like a peer id, the same for the same name."""
    number = int.from_bytes(name.encode().ljust(24, b"\x55"))
    return "12D3KooW" + "".join(ALPHABET[number // 58**place % 58] for place in reversed(range(44)))


class InternetFake(FakeNetwork):
    """A fake network with addresses like real ones: one for each name."""

    def __init__(self, fabric: Fabric, peer: PeerId, address: str, book: PeerBook | None) -> None:
        super().__init__(fabric, peer)
        self.own_address, self.book = address, book

    def addresses(self) -> tuple[str, ...]:
        return (self.own_address,)

    def admits(self, peer: PeerId, protocol: str) -> bool:
        known = () if self.book is None else self.book.peers()
        self.paired = {record.peer for record in known if record.state == "paired"}
        return super().admits(peer, protocol)


@dataclass(eq=False, kw_only=True)
class World:
    """Who is there, what they see of each other, what time it is for all of them."""

    directory: Path
    fabric: Fabric = field(default_factory=Fabric)
    machines: "dict[PeerId, Machine]" = field(default_factory=dict)
    passed_s: float = 0.0
    hidden: bool = False

    @asynccontextmanager
    async def machine(self, name: str, *, own_name: str | None = None) -> "AsyncIterator[Machine]":
        """A machine while it runs; the same name again is the same machine after a restart."""
        machine = Machine(self, name, own_name or name)
        async with trio.open_nursery() as nursery:
            await nursery.start(machine.network.run)
            await nursery.start(machine.pairings.run)
            self.machines[machine.peer] = machine
            try:
                yield machine
            finally:
                del self.machines[machine.peer]
                self.fabric.networks.pop(machine.peer)  # nobody calls a machine that is going down
                nursery.cancel_scope.cancel()
        machine.book.close()


class Machine:
    def __init__(self, world: World, name: str, own_name: str) -> None:
        self.world = world
        self.peer = peer_id(name)
        self.address = f"/ip4/192.168.7.{1 + sum(name.encode()) % 250}/tcp/8643"
        self.book = PeerBook(world.directory / f"{name}.db")
        self.network = InternetFake(world.fabric, self.peer, self.address, self.book)
        self.own_name = own_name
        self.sightings: list[tuple[PeerId, tuple[str, ...]]] | None = None
        self.changes = trio.Event()
        self.pairings = Pairings(
            self.network,
            self.book,
            own_name=own_name,
            seen=self.sees,
            on_change=self._note_change,
            clock_ns=lambda: 10**18 + int(world.passed_s * 1e9),
            clock_unix_s=lambda: 1_800_000_000 + world.passed_s,
            tick_s=TICK_S,
        )

    def sees(self) -> list[tuple[PeerId, tuple[str, ...]]]:
        if self.sightings is not None:
            return self.sightings
        others = [] if self.world.hidden else list(self.world.machines.values())
        return [(other.peer, (other.address,)) for other in others if other is not self]

    def record(self, other: "Machine") -> PairedPeer | None:
        return self.book.get(other.peer)

    def standing(self, other: "Machine") -> str:
        record = self.record(other)
        return "none" if record is None else record.state

    async def until(self, pairing_id: str, *states: str) -> PairingView:
        """The view, once it is in one of the states."""
        await self.wait(lambda: self.pairings.view(pairing_id).state in states)
        return self.pairings.view(pairing_id)

    async def wait(self, holds: Callable[[], bool]) -> None:
        """Until it holds; looked at after each change, and each tick for what is not a pairing's."""
        with trio.fail_after(5):
            while not holds():
                with trio.move_on_after(TICK_S):
                    await self.changes.wait()

    def _note_change(self) -> None:
        self.changes.set()
        self.changes = trio.Event()


async def come_to_confirm(offerer: Machine, joiner: Machine) -> tuple[str, str]:
    """Both screens show the other's name; the ids of the two pairings."""
    offer = await offerer.pairings.offer()
    assert offer.code is not None
    join = await joiner.pairings.join(offer.code)
    await offerer.until(offer.pairing_id, "confirm")
    await joiner.until(join.pairing_id, "confirm")
    return offer.pairing_id, join.pairing_id


async def pair(offerer: Machine, joiner: Machine) -> None:
    offer_id, join_id = await come_to_confirm(offerer, joiner)
    await offerer.pairings.confirm(offer_id, True)
    await joiner.pairings.confirm(join_id, True)
    await offerer.until(offer_id, "paired")
    await joiner.until(join_id, "paired")
