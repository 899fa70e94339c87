"""The connections that stand, and a version that changes with them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import trio

from unhosted.node.core.peering import Connection, PeerId
from unhosted.node.shell.peers.addresses import is_near, text_of
from unhosted.node.shell.peers.admission import Held
from unhosted.node.shell.peers.overrides.session import Session


@dataclass(eq=False, kw_only=True)
class Live:
    """remote: IP address and port; None behind a relay, which `via` names. channels: open ones, of ours."""

    key: int
    peer: PeerId
    session: Session
    address: str
    remote: tuple[str, int] | None
    via: PeerId
    is_outbound: bool
    is_ready: bool = False
    channels: int = 0
    opened_at_s: float = field(default_factory=trio.current_time)
    used_at_s: float = field(default_factory=trio.current_time)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Whoever has an open channel is not idle."""
        self.channels += 1
        try:
            yield
        finally:
            self.channels -= 1
            self.used_at_s = trio.current_time()


class Lives:
    """All of them. A connection is entered before it is ready, so that its place is taken."""

    def __init__(self) -> None:
        self._by_key: dict[int, Live] = {}
        self._by_peer: dict[PeerId, list[Live]] = {}
        self._version = 0
        self._changed = trio.lowlevel.ParkingLot()

    def enter(self, live: Live) -> None:
        self._by_key[live.key] = live
        self._by_peer.setdefault(live.peer, []).append(live)

    def ready(self, live: Live) -> None:
        live.is_ready = True
        self._note_change()

    def leave(self, live: Live) -> None:
        del self._by_key[live.key]
        of_peer = self._by_peer[live.peer]
        of_peer.remove(live)
        if not of_peer:
            del self._by_peer[live.peer]
        if live.is_ready:
            self._note_change()

    def all(self) -> tuple[Live, ...]:
        return tuple(self._by_key.values())

    def by_key(self, key: int) -> Live:
        return self._by_key[key]

    def of_peer(self, peer: PeerId) -> tuple[Live, ...]:
        return tuple(self._by_peer.get(peer, ()))

    def of_session(self, session: Session) -> Live:
        """The session was entered, and may have left since: then nobody sees what is noted on it."""
        for live in self.of_peer(str(session.peer_id)):
            if live.session is session:
                return live
        return Live(
            key=0,
            peer=str(session.peer_id),
            session=session,
            address="",
            remote=None,
            via="",
            is_outbound=False,
        )

    def best(self, peer: PeerId) -> Live | None:
        """The one to open channels on: a direct one before a relayed one, then the newest."""
        ready = [live for live in self._by_peer.get(peer, ()) if live.is_ready]
        return max(ready, key=lambda live: (not live.via, live.key), default=None)

    def best_of_each(self) -> tuple[Connection, ...]:
        best = (self.best(peer) for peer in self._by_peer)
        return tuple(self.view(live) for live in best if live is not None)

    def view(self, live: Live) -> Connection:
        if live.remote is None:
            path, remote = f"relay via {live.via}", f"/p2p/{live.via}/p2p-circuit"
        else:
            path, remote = "lan" if is_near(live.remote[0]) else "direct", text_of(*live.remote)
        return Connection(
            peer=live.peer,
            path=path,
            remote_address=remote,
            is_outbound=live.is_outbound,
            round_trip_s=live.session.round_trip_s,
        )

    def held(self, is_stranger: Callable[[PeerId], bool]) -> tuple[Held, ...]:
        """As `admission` wants to see them."""
        now_s = trio.current_time()
        return tuple(
            Held(
                key=live.key,
                peer=live.peer,
                address=live.address,
                is_stranger=is_stranger(live.peer),
                opened_at_s=live.opened_at_s,
                idle_s=None if live.channels else now_s - live.used_at_s,
            )
            for live in self._by_key.values()
        )

    async def wait_other_version(self, seen: int) -> int:
        await trio.lowlevel.checkpoint()
        while self._version == seen:
            await self._changed.park()
        return self._version

    def _note_change(self) -> None:
        self._version += 1
        self._changed.unpark_all()
