"""The finder over a fake network and a real book: who is connected, where from, and why not."""

import ipaddress
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.fake_network import Fabric, FakeNetwork
from unhosted.node.core import directory
from unhosted.node.core.errors import Refused
from unhosted.node.core.peering import Connection, PairedPeer, PeerFacts, PeerId, PeerUnreachable
from unhosted.node.shell.discovery import finder as finder_module
from unhosted.node.shell.discovery.finder import Finder
from unhosted.node.shell.discovery.mdns import Heard
from unhosted.node.shell.trusted.book import PeerBook

OWN, DESK, STRANGER = "A-own", "B-desk", "C-stranger"
HOME, MOVED = "/ip4/10.0.0.5/tcp/8643", "/ip4/10.0.0.9/tcp/8643"


class Machine(FakeNetwork):
    """A fake network that says where it is, and remembers who was dialled where."""

    def __init__(self, fabric: Fabric, peer: PeerId, *addresses: str) -> None:
        super().__init__(fabric, peer)
        self.where = addresses
        self.dials: list[tuple[str, ...]] = []

    def addresses(self) -> tuple[str, ...]:
        return self.where

    async def connect(self, peer: PeerId, addresses: Sequence[str], *, timeout_s: float) -> Connection:
        if peer not in self.live:
            self.dials.append(tuple(addresses))
        return await super().connect(peer, addresses, timeout_s=timeout_s)


def heard(peer: PeerId, *addresses: str, lifetime_s: int = 25, name: str = "desk") -> Heard:
    return Heard(
        peer=peer,
        host="10.0.0.5",
        network="eth0",
        name=name,
        version="2",
        addresses=addresses,
        lifetime_s=lifetime_s,
    )


def paired(peer: PeerId, state: str = "paired") -> PairedPeer:
    return PairedPeer(peer=peer, name="desk", state=state, paired_unix_s=1)  # type: ignore[arg-type]


@pytest.fixture
def book(tmp_path: Path) -> Iterator[PeerBook]:
    book = PeerBook(tmp_path / "peers.db")
    yield book
    book.close()


class World:
    """This machine and the desk, on one fabric."""

    def __init__(self, book: PeerBook) -> None:
        self.book = book
        self.fabric = Fabric()
        self.own = Machine(self.fabric, OWN, "/ip4/10.0.0.1/tcp/8643")
        self.desk = Machine(self.fabric, DESK, HOME)
        self.facts: dict[PeerId, PeerFacts] = {}
        self.finder = Finder(
            self.own,
            book,
            name="own",
            version="1",
            port=8643,
            mdns=False,
            facts=self.facts.get,
            tokens_today=lambda peer: 42,
        )

    def hear(self, message: Heard) -> None:
        self.finder._heard(message)

    async def until(self, is_so: Callable[[], bool]) -> None:
        with trio.fail_after(10):
            while not is_so():
                self.finder.look_now()
                await trio.sleep(0.005)

    @asynccontextmanager
    async def running(self, *, desk: bool = True) -> AsyncIterator[trio.Nursery]:
        async with trio.open_nursery() as nursery:
            await nursery.start(self.own.run)
            if desk:
                await nursery.start(self.desk.run)
            await nursery.start(self.finder.run)
            yield nursery
            nursery.cancel_scope.cancel()


def test_a_paired_peer_is_connected_when_it_is_heard_and_its_address_is_kept(book: PeerBook) -> None:
    book.put(paired(DESK))

    async def main() -> None:
        world = World(book)
        async with world.running():
            assert DESK not in world.own.live
            world.hear(heard(DESK, HOME))
            await world.until(lambda: DESK in world.own.live)
            (status,) = world.finder.statuses()
            assert (status.reachable, status.why_not, status.path) == (True, "", "lan")
            assert (status.tokens_today, status.state, status.name) == (42, "paired", "desk")
            assert (await world.finder.ensure(DESK, timeout_s=1)).peer == DESK

    trio.run(main)


def test_a_full_disk_costs_an_address_and_not_the_node(
    book: PeerBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    book.put(paired(DESK))

    refused: list[object] = []

    def full(*_: object, **__: object) -> None:
        refused.append(DESK)
        raise Refused("disk_full", "the disk is full")

    monkeypatch.setattr(book, "note_address", full)

    async def main() -> None:
        world = World(book)
        async with world.running():
            world.own.live[DESK] = Connection(
                peer=DESK, path="lan", remote_address=MOVED, is_outbound=True, round_trip_s=0.1
            )
            await world.until(lambda: bool(refused))
            (status,) = world.finder.statuses()
            assert status.reachable and status.addresses[0] == MOVED

    trio.run(main)


def test_a_known_address_is_dialled_at_start_without_anybody_being_heard(book: PeerBook) -> None:
    book.put(paired(DESK))
    book.note_address(DESK, HOME, source="observed", unix_s=1)

    async def main() -> None:
        world = World(book)
        async with world.running():
            await world.until(lambda: DESK in world.own.live)

    trio.run(main)


def test_a_stranger_is_seen_and_not_dialled(book: PeerBook) -> None:
    async def main() -> None:
        world = World(book)
        async with world.running():
            world.hear(heard(STRANGER, MOVED, name="lamp"))
            (seen,) = world.finder.seen()
            assert (seen.peer, seen.name, seen.version, seen.addresses) == (STRANGER, "lamp", "2", (MOVED,))
            (status,) = world.finder.statuses()
            assert status.state == "seen" and not status.reachable and "unhosted pair" in status.why_not
            assert status.capabilities is None and status.last_seen_unix_s is not None
            world.hear(heard(STRANGER, MOVED, lifetime_s=0))
            assert world.finder.statuses() == () and world.own.dials == []
            with pytest.raises(PeerUnreachable, match="unhosted pair"):
                await world.finder.ensure(STRANGER, timeout_s=1)

    trio.run(main)


def test_a_peer_that_moved_is_found_again(book: PeerBook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory, "FRESH_PAUSE_NS", 0)
    monkeypatch.setattr(directory, "POLITE_NS", 0)
    book.put(paired(DESK))
    book.note_address(DESK, HOME, source="observed", unix_s=1)

    async def main() -> None:
        world = World(book)
        world.desk.where = (MOVED,)
        async with world.running():
            await world.until(lambda: bool(world.own.dials))
            world.hear(heard(DESK, MOVED))
            await world.until(lambda: DESK in world.own.live)
            assert MOVED in world.own.dials[-1]

    trio.run(main)


def test_an_address_that_pairing_tells_is_tried_at_once_and_kept(book: PeerBook) -> None:
    async def main() -> None:
        world = World(book)
        async with world.running():
            book.put(paired(DESK))
            world.finder.tell(DESK, [HOME], "pairing")
            await world.until(lambda: DESK in world.own.live)

    trio.run(main)
    assert [known.address for known in book.addresses(DESK)] == [HOME]


def test_a_peer_that_cannot_be_reached_says_where_it_was_tried(book: PeerBook) -> None:
    book.put(paired(DESK))
    book.note_address(DESK, HOME, source="observed", unix_s=1)

    async def main() -> None:
        world = World(book)
        async with world.running(desk=False):
            with pytest.raises(PeerUnreachable, match=HOME):
                await world.finder.ensure(DESK, timeout_s=1)
            (status,) = world.finder.statuses()
            assert not status.reachable and "10.0.0.5" in status.why_not
            assert "unhosted serve" in status.why_not and status.last_seen_unix_s == 1

    trio.run(main)


def test_many_who_wait_for_one_silent_peer_cost_one_dial(book: PeerBook) -> None:
    book.put(paired(DESK))
    book.note_address(DESK, HOME, source="observed", unix_s=1)

    async def main() -> None:
        world = World(book)
        failures: list[str] = []

        async def want() -> None:
            try:
                await world.finder.ensure(DESK, timeout_s=0.1)
            except PeerUnreachable as error:
                failures.append(str(error))

        async with trio.open_nursery() as nursery:
            await nursery.start(world.own.run)
            await nursery.start(world.desk.run)
            world.fabric.cut(OWN, DESK)
            async with trio.open_nursery() as waiting:
                for _ in range(20):
                    waiting.start_soon(want)
            nursery.cancel_scope.cancel()
        assert len(failures) == 20 and all(HOME in failure for failure in failures)
        assert len(world.own.dials) == 1

    trio.run(main)


def test_a_lost_connection_comes_back(book: PeerBook) -> None:
    book.put(paired(DESK))
    book.note_address(DESK, HOME, source="observed", unix_s=1)

    async def main() -> None:
        world = World(book)
        async with world.running():
            await world.until(lambda: DESK in world.own.live)
            world.fabric.reset(OWN, DESK)
            await world.until(lambda: DESK in world.own.live)
            assert len(world.own.dials) == 2

    trio.run(main)


def test_who_is_removed_from_the_book_is_cut_off(book: PeerBook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finder_module, "LEAVE_AFTER_S", 0.0)
    book.put(paired(DESK))
    book.note_address(DESK, HOME, source="observed", unix_s=1)

    async def main() -> None:
        world = World(book)
        async with world.running():
            await world.until(lambda: DESK in world.own.live)
            await trio.to_thread.run_sync(book.remove, DESK)  # as another thread does it
            await world.until(lambda: DESK not in world.own.live)
            assert world.finder.statuses() == ()

    trio.run(main)


def test_an_unfinished_pairing_says_so(book: PeerBook) -> None:
    book.put(paired(DESK, "pending"))

    async def main() -> None:
        world = World(book)
        async with world.running(desk=False):
            (status,) = world.finder.statuses()
            assert status.state == "pending" and "not finished" in status.why_not

    trio.run(main)


def test_two_that_hear_each_other_end_with_one_connection_each(tmp_path: Path) -> None:
    books = [PeerBook(tmp_path / "a.db"), PeerBook(tmp_path / "b.db")]
    books[0].put(paired(DESK))
    books[1].put(paired(OWN))

    async def main() -> None:
        world = World(books[0])
        other = Finder(world.desk, books[1], name="desk", version="1", port=8643, mdns=False)
        async with world.running() as nursery:
            await nursery.start(other.run)
            world.hear(heard(DESK, HOME))
            other._heard(heard(OWN, "/ip4/10.0.0.1/tcp/8643"))
            await world.until(lambda: DESK in world.own.live)
            assert [dial for dial in world.own.dials + world.desk.dials if dial] == [(HOME,)]

    trio.run(main)
    for book in books:
        book.close()


def test_it_announces_only_addresses_where_the_network_listens(book: PeerBook) -> None:
    world = World(book)
    world.own.where = ("/ip4/10.0.0.1/tcp/8643", "/ip6/fd00::1/tcp/8643")
    may = world.finder._may_announce
    assert may(ipaddress.ip_address("10.0.0.1")) and may(ipaddress.ip_address("fe80::9"))
    assert not may(ipaddress.ip_address("172.17.0.1")) and not may(ipaddress.ip_address("fd00::2"))
    world.own.where = ("/ip4/10.0.0.1/tcp/8643",)
    assert not may(ipaddress.ip_address("fe80::9"))


def test_addresses_are_noted_from_connections_that_went_out(book: PeerBook) -> None:
    book.put(paired(DESK))

    async def main() -> None:
        world = World(book)
        async with world.running():
            world.own.live[DESK] = Connection(
                peer=DESK, path="lan", remote_address=MOVED, is_outbound=True, round_trip_s=0.1
            )
            await world.until(lambda: bool(book.addresses(DESK)))
            assert [known.address for known in book.addresses(DESK)] == [MOVED]
            (status,) = world.finder.statuses()
            assert status.round_trip_s == 0.1 and status.addresses[0] == MOVED

    trio.run(main)
