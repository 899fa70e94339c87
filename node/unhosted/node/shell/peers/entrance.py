"""From bytes to a connection that stands: the handshake, who it is, and whether there is a place."""

import itertools
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import trio
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID

from unhosted.node.core.peering import PeerId, PeerUnreachable
from unhosted.node.shell.peers.addresses import group_of
from unhosted.node.shell.peers.admission import Newcomer, admit, outstayed
from unhosted.node.shell.peers.limits import Limits
from unhosted.node.shell.peers.live import Live, Lives
from unhosted.node.shell.peers.memory import Memory
from unhosted.node.shell.peers.overrides.session import Policy, Session
from unhosted.node.shell.peers.sockets import Tunnel, Wire

log = logging.getLogger(__name__)

REAP_EVERY_S = 5.0
"""Between two looks for strangers that have nothing to do here."""

CLOSE_S = 1.0
"""For the other side of a tunnel to take note of its end."""


class Entrance:
    """swarm: the library's, while the network runs. is_paired: asked at each decision, never remembered."""

    def __init__(
        self, peer: PeerId, limits: Limits, lives: Lives, is_paired: Callable[[PeerId], bool]
    ) -> None:
        self.swarm: Any = None
        self._peer, self._limits, self._lives, self._is_paired = peer, limits, lives, is_paired
        self._keys = itertools.count(1)
        self.memory = Memory(limits.memory_bytes_max)
        self._strangers_memory = Memory(limits.memory_of_strangers_bytes_max, parent=self.memory)

    async def through_socket(
        self,
        stream: trio.SocketStream,
        remote: tuple[str, int] | None,
        peer: PeerId | None,
        *,
        is_initiator: bool,
    ) -> Live:
        """peer: who must be at the other end; None for whoever calls. Raises: PeerUnreachable."""
        if remote is None:
            stream.socket.close()
            raise PeerUnreachable("it hung up")
        wire = Wire(stream, remote=remote, allowed_bytes=self._limits.handshake_bytes_max)
        return await self._enter(wire, peer, group_of(remote[0]), "", is_initiator=is_initiator)

    async def through_tunnel(
        self, tunnel: Tunnel, via: PeerId, peer: PeerId | None, *, is_initiator: bool
    ) -> Live:
        """via: whose tunnel it is, which reads none of it. peer: as above. Raises: PeerUnreachable."""
        wire = Wire(tunnel, remote=None, allowed_bytes=self._limits.handshake_bytes_max)
        return await self._enter(wire, peer, via, via, is_initiator=is_initiator)

    async def greet(self, stream: trio.SocketStream, remote: tuple[str, int]) -> None:
        """Somebody called."""
        try:
            await self.through_socket(stream, remote, None, is_initiator=False)
        except PeerUnreachable as error:
            log.debug("inbound_refused address=%s reason=%s", remote[0], error)

    def policy(self, peer_id: ID) -> Policy:
        """What the limits give this peer, as it stands when they are asked."""
        peer, limits = str(peer_id), self._limits

        def of(theirs: int, strangers: int) -> Callable[[], int]:
            return lambda: strangers if self._is_stranger(peer) else theirs

        return Policy(
            streams_max=of(limits.streams_per_peer_max, limits.streams_per_stranger_max),
            unread_bytes_max=of(limits.unread_bytes_per_peer_max, limits.unread_bytes_per_stranger_max),
            memory=lambda: self._strangers_memory if self._is_stranger(peer) else self.memory,
        )

    async def reap(self) -> None:
        """Let go of idle strangers, until cancelled."""
        while True:
            await trio.sleep(REAP_EVERY_S)
            for key in outstayed(self._lives.held(self._is_stranger), self._limits):
                self._lives.by_key(key).session.abort("it had nothing to do here")

    async def _enter(
        self, wire: Wire, expected: PeerId | None, address: str, via: PeerId, *, is_initiator: bool
    ) -> Live:
        session: Session | None = None
        try:
            with trio.fail_after(self._limits.handshake_s):
                session = await self._upgrade(wire, expected, is_initiator=is_initiator)
            live = self._admit(session, wire, address, via, is_initiator=is_initiator)
            await self.swarm.add_conn(session, direction="outbound" if is_initiator else "inbound")
            if session.is_closed:
                raise PeerUnreachable(session.reason)
        except BaseException as error:
            if session is not None:
                session.abort("it could not be set up")
            with trio.CancelScope(shield=True), trio.move_on_after(CLOSE_S):
                await wire.close()
            if isinstance(error, Exception) and not isinstance(error, PeerUnreachable):
                raise PeerUnreachable(_why_not(error, expected)) from error
            raise
        self._lives.ready(live)
        return live

    async def _upgrade(self, wire: Wire, expected: PeerId | None, *, is_initiator: bool) -> Session:
        if self.swarm is None:
            raise PeerUnreachable("this node's network is not running")
        upgrader = self.swarm.upgrader
        wanted = ID.from_string(expected) if expected is not None else None
        secured = await upgrader.upgrade_security(RawConnection(wire, is_initiator), is_initiator, wanted)
        found = str(secured.get_remote_peer())
        if expected is not None and found != expected:
            raise PeerUnreachable(f"somebody else answers there, and not {expected}")
        session: Session = await upgrader.upgrade_connection(secured, secured.get_remote_peer())
        wire.unlimit()
        return session

    def _admit(self, session: Session, wire: Wire, address: str, via: PeerId, *, is_initiator: bool) -> Live:
        peer = str(session.peer_id)
        if peer == self._peer:
            raise PeerUnreachable("that is this machine itself")
        is_stranger = not is_initiator and self._is_stranger(peer)
        newcomer = Newcomer(peer=peer, address=address, is_stranger=is_stranger)
        decision = admit(self._lives.held(self._is_stranger), newcomer, self._limits)
        if decision.refused:
            raise PeerUnreachable(decision.refused)
        for key in decision.evict:
            self._lives.by_key(key).session.abort("its place was needed")
        live = Live(
            key=next(self._keys),
            peer=peer,
            session=session,
            address=address,
            remote=wire.get_remote_address(),
            via=via,
            is_outbound=is_initiator,
        )
        self._lives.enter(live)
        session.on_end = partial(self._lives.leave, live)
        return live

    def _is_stranger(self, peer: PeerId) -> bool:
        return not self._is_paired(peer) and not any(one.is_outbound for one in self._lives.of_peer(peer))


def _why_not(error: Exception, expected: PeerId | None) -> str:
    """In words, for the line of `unhosted peers` that says why not."""
    if isinstance(error, trio.TooSlowError):
        return "no handshake came: is another program listening there?"
    link: BaseException | None = error
    while link is not None:
        if "mismatch" in f"{type(link).__name__} {link}".lower():
            return f"somebody else answers there, and not {expected}"
        link = link.__cause__ or link.__context__
    return f"the handshake failed ({type(error).__name__}): is another program listening there?"
