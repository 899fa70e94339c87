"""Stays connected to paired peers wherever they are, and knows who else is on this network.

`core.directory` decides whom to dial, where and when; this drives it with what mDNS hears, what the book
holds, what the network's connections are and how dials end.
"""

import logging
import random
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import trio

from unhosted.node.core.addresses import ADDRESS_CHARS_MAX, KnownAddress, Source, parse_address
from unhosted.node.core.directory import step
from unhosted.node.core.directory_events import (
    AddressesTold,
    BookRead,
    ClockTicked,
    Dial,
    DialFailed,
    DialSucceeded,
    Effect,
    Event,
    NetworksChanged,
    NoteAddress,
    PeerHeard,
    PeerLeft,
)
from unhosted.node.core.directory_state import (
    KNOWN_PER_PEER_MAX,
    SECOND_NS,
    Directory,
    Record,
    dial_addresses,
    is_relayed,
    why_not,
)
from unhosted.node.core.errors import Refused
from unhosted.node.core.peering import (
    Connection,
    Network,
    PeerFacts,
    PeerId,
    PeerStatus,
    PeerUnreachable,
)
from unhosted.node.shell.discovery.announcement import Announcement
from unhosted.node.shell.discovery.dns import Address
from unhosted.node.shell.discovery.mdns import Heard, Mdns
from unhosted.node.shell.trusted.book import PeerBook

log = logging.getLogger(__name__)

TICK_S = 0.5
"""How soon a lost connection, a due try or the end of a sight is noticed; a tick is cheap."""

DIAL_TIMEOUT_S = 10.0
"""A try in the background; requests that wait for a peer bring their own, shorter patience."""

GRACE_S = 0.25
"""Left to the network for saying itself how each address failed."""

LEAVE_AFTER_S = 3.0
"""Who was removed from the book may still be told so over the connection, then it is closed."""

ADDRESSES_SHOWN_MAX = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenPeer:
    """A peer that is heard on this network now, paired or not. All of it is its own word, unproved."""

    peer: PeerId
    name: str
    version: str
    addresses: tuple[str, ...]


@dataclass(eq=False, slots=True)
class _Door:
    """One dial of a peer at a time. rounds: those that ended; failure: how the latest one did.

    behind: the one in the background, which a newer one replaces.
    """

    lock: trio.Lock = field(default_factory=trio.Lock)
    rounds: int = 0
    failure: PeerUnreachable | None = None
    behind: trio.CancelScope | None = None


class Finder:
    """name, version, port: what mDNS says of this node. mdns: False looks at no network.

    interfaces: names or addresses for mDNS, empty for all. facts, tokens_today: what others know of a peer.
    """

    def __init__(
        self,
        network: Network,
        book: PeerBook,
        *,
        name: str,
        version: str,
        port: int,
        mdns: bool = True,
        interfaces: Collection[str] = (),
        facts: Callable[[PeerId], PeerFacts | None] = lambda peer: None,
        tokens_today: Callable[[PeerId], int] = lambda peer: 0,
    ) -> None:
        self._network = network
        self._book = book
        self._facts = facts
        self._tokens_today = tokens_today
        self._state = Directory(own=network.peer)
        self._doors: dict[PeerId, _Door] = {}
        self._wake = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._book_changed = True
        self._leaving_at_s: dict[PeerId, float] = {}
        self._mdns: Mdns | None = None
        if mdns:
            self._mdns = Mdns(
                Announcement(label="", peer=network.peer, name=name, version=version, port=port),
                interfaces=interfaces,
                on_heard=self._heard,
                on_networks=lambda names: self._apply(NetworksChanged(networks=names)),
                may_announce=self._may_announce,
            )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled. started() once the book is read and mDNS speaks."""
        token = trio.lowlevel.current_trio_token()

        def note_change() -> None:
            self._book_changed = True
            try:
                token.run_sync_soon(self.look_now)
            except trio.RunFinishedError:
                return  # the program ends while another thread writes the book

        take_back = self._book.on_change(note_change)
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._tick()
                if self._mdns is not None:
                    await nursery.start(self._mdns.run)
                task_status.started()
                while True:
                    with trio.move_on_after(TICK_S):
                        await self._wake.wait()
                    self._wake = trio.Event()
                    self._tick()
        finally:
            self._nursery = None
            take_back()

    def look_now(self) -> None:
        """Look at the connections and the book at once, not at the next tick."""
        self._wake.set()

    def seen(self) -> tuple[SeenPeer, ...]:
        """Who is heard on this network now."""
        return tuple(
            SeenPeer(
                peer=record.peer,
                name=record.sights[0].name,
                version=record.sights[0].version,
                addresses=tuple(
                    dict.fromkeys(address for sight in record.sights for address in sight.addresses)
                ),
            )
            for record in self._state.records.values()
            if record.sights
        )

    def tell(self, peer: PeerId, addresses: Sequence[str], source: Source) -> None:
        """Addresses of a peer in the book, from somebody that is trusted to know; they are tried at once."""
        now_unix_s = int(time.time())
        entries = tuple(
            KnownAddress(address=address, source=source, unix_s=now_unix_s)
            for address in addresses[:KNOWN_PER_PEER_MAX]
            if 0 < len(address) <= ADDRESS_CHARS_MAX
        )
        self._read_book()
        self._apply(AddressesTold(peer=peer, addresses=entries))
        for entry in entries:
            self._note_address(peer, entry.address, source)
        self.look_now()

    async def ensure(self, peer: PeerId, *, timeout_s: float) -> Connection:
        """The connection to a peer, made now by every address that is known if none stands.

        Raises: PeerUnreachable with the addresses and how each failed.
        """
        if live := self._live(peer):
            await trio.lowlevel.checkpoint()
            return live
        self._read_book()
        record = self._state.records.get(peer)
        addresses = () if record is None else dial_addresses(record)
        if record is None:
            await trio.lowlevel.checkpoint()
            raise PeerUnreachable(f"{peer}: {self._why_not(peer)}")
        with trio.move_on_after(timeout_s + GRACE_S):
            return await self._dial(peer, addresses, timeout_s=timeout_s)
        raise PeerUnreachable(
            f"{peer}: no answer within {timeout_s:g} s at {', '.join(addresses) or 'any relay'}"
        )

    def why_not(self, peer: PeerId) -> str:
        """Why there is no connection and what to do about it; empty if one stands."""
        self._tick()
        return self._why_not(peer)

    def _why_not(self, peer: PeerId) -> str:
        record = self._state.records.get(peer)
        if record is None:
            return "neither paired nor seen on this network: run `unhosted pair` on one of the two machines"
        if record.paired is not None and record.paired.state == "pending":
            return (
                "the pairing was not finished: that is settled when both machines meet; if"
                f" {record.paired.name} does not list this one, pair again"
            )
        return why_not(record, _now_ns())

    def statuses(self) -> tuple[PeerStatus, ...]:
        """Paired peers in the order of their pairing, then those that were only seen, by name."""
        self._tick()
        records = self._state.records
        paired = [records[peer.peer] for peer in self._book.peers() if peer.peer in records]
        seen = sorted(
            (record for record in records.values() if record.paired is None and record.sights),
            key=lambda record: (record.sights[0].name, record.peer),
        )
        return tuple(self._status(record) for record in (*paired, *seen))

    def problems(self) -> tuple[str, ...]:
        """What keeps mDNS from working, in words for people."""
        return () if self._mdns is None else self._mdns.problems()

    def _status(self, record: Record) -> PeerStatus:
        live = self._live(record.peer)
        paired = record.paired
        addresses = dial_addresses(record)
        if live is not None:
            addresses = tuple(dict.fromkeys([live.remote_address, *addresses]))
        name = record.sights[0].name if paired is None else paired.name
        return PeerStatus(
            peer=record.peer,
            name=name,
            state="seen" if paired is None else paired.state,
            reachable=live is not None,
            why_not="" if live is not None else self._why_not(record.peer),
            path="" if live is None else live.path,
            addresses=addresses[:ADDRESSES_SHOWN_MAX],
            round_trip_s=None if live is None else live.round_trip_s,
            last_seen_unix_s=self._last_seen_unix_s(record, live),
            capabilities=None if paired is None else paired.capabilities,
            tokens_today=0 if paired is None else self._tokens_today(record.peer),
            facts=self._facts(record.peer),
        )

    def _last_seen_unix_s(self, record: Record, live: Connection | None) -> int | None:
        now_unix_s = int(time.time())
        if live is not None:
            return now_unix_s
        moments = [entry.unix_s for entry in record.known if entry.source == "observed"]
        heard_ns = [sight.heard_at_ns for sight in record.sights]
        if record.contact_at_ns is not None:
            heard_ns.append(record.contact_at_ns)
        moments += [now_unix_s - (_now_ns() - at_ns) // SECOND_NS for at_ns in heard_ns]
        return max(moments, default=None)

    def _live(self, peer: PeerId) -> Connection | None:
        return next((live for live in self._network.connections() if live.peer == peer), None)

    def _may_announce(self, address: Address) -> bool:
        """Whether connections are taken there, as the network says; link-local goes with its family."""
        endpoints = [parse_address(text) for text in self._network.addresses()]
        known = {endpoint.host for endpoint in endpoints if endpoint is not None and endpoint.kind != "dns"}
        if not known:
            return True
        is_family_used = any((":" in host) == (address.version == 6) for host in known)
        return str(address) in known or (address.is_link_local and is_family_used)

    def _heard(self, heard: Heard) -> None:
        if heard.lifetime_s == 0:
            self._apply(PeerLeft(peer=heard.peer, host=heard.host))
            return
        is_known = heard.peer in self._state.records
        self._apply(
            PeerHeard(
                peer=heard.peer,
                host=heard.host,
                network=heard.network,
                name=heard.name or heard.peer[-6:],
                version=heard.version,
                addresses=heard.addresses,
                lifetime_ns=heard.lifetime_s * SECOND_NS,
            )
        )
        record = self._state.records.get(heard.peer)
        if not is_known or (record is not None and record.paired is not None and record.connection is None):
            self.look_now()

    def _tick(self) -> None:
        """Look at the book and the connections; outside of `run` nobody is dialled."""
        self._book.refresh()
        self._read_book()
        self._apply(ClockTicked(connections=tuple(self._network.connections()), unix_s=int(time.time())))
        for peer, at_s in tuple(self._leaving_at_s.items()):
            if at_s <= trio.current_time() and self._nursery is not None:
                del self._leaving_at_s[peer]
                self._nursery.start_soon(self._network.disconnect, peer)

    def _read_book(self) -> None:
        if self._book_changed:
            self._book_changed = False
            before = {record.peer for record in self._state.records.values() if record.paired is not None}
            peers = self._book.peers()
            self._apply(BookRead(peers=tuple((peer, self._book.addresses(peer.peer)) for peer in peers)))
            now = {peer.peer for peer in peers}
            self._leaving_at_s = {peer: at_s for peer, at_s in self._leaving_at_s.items() if peer not in now}
            for peer in before - now:
                self._leaving_at_s[peer] = trio.current_time() + LEAVE_AFTER_S
            self._doors = {peer: door for peer, door in self._doors.items() if peer in self._state.records}

    def _apply(self, event: Event) -> None:
        self._state, effects = step(self._state, event, _now_ns())
        for effect in effects:
            self._perform(effect)

    def _perform(self, effect: Effect) -> None:
        match effect:
            case NoteAddress(peer=peer, address=address, source=source):
                self._note_address(peer, address, source)
            case Dial(peer=peer, addresses=addresses):
                if self._nursery is not None:
                    self._nursery.start_soon(self._dial_behind, peer, addresses)

    def _note_address(self, peer: PeerId, address: str, source: Source) -> None:
        """A full disk forgets an address; who is connected stays connected."""
        try:
            self._book.note_address(peer, address, source=source, unix_s=int(time.time()))
        except Refused as refused:
            log.warning("address_not_noted peer=%s why=%s", peer[-8:], refused)

    async def _dial_behind(self, peer: PeerId, addresses: tuple[str, ...]) -> None:
        door = self._doors.setdefault(peer, _Door())
        if door.behind is not None:
            door.behind.cancel()
        with trio.CancelScope() as door.behind:
            try:
                await self._dial(peer, addresses, timeout_s=DIAL_TIMEOUT_S)
            except PeerUnreachable as error:
                log.debug("peer_unreachable peer=%s why=%s", peer[-8:], error)

    async def _dial(self, peer: PeerId, addresses: tuple[str, ...], *, timeout_s: float) -> Connection:
        """One dial of a peer at a time: who waited through another's failure shares it."""
        door = self._doors.setdefault(peer, _Door())
        rounds = door.rounds
        async with door.lock:
            live = self._live(peer)
            if live is not None and not is_relayed(live):
                self._apply(DialSucceeded(peer=peer))
                return live
            if door.rounds != rounds and door.failure is not None:
                raise PeerUnreachable(str(door.failure))
            try:
                connection = await self._network.connect(peer, addresses, timeout_s=timeout_s)
            except PeerUnreachable as error:
                door.rounds, door.failure = door.rounds + 1, error
                self._apply(DialFailed(peer=peer, reason=str(error), jitter=random.random()))
                raise
            door.rounds, door.failure = door.rounds + 1, None
            self._apply(DialSucceeded(peer=peer))
            self.look_now()
            return connection


def _now_ns() -> int:
    return time.monotonic_ns()
