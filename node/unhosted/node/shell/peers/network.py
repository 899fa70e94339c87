"""The network of peers over libp2p: who is connected, and channels to them."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio
from libp2p.stream_muxer.exceptions import MuxedStreamError

from unhosted.node.core.peering import (
    Access,
    ChannelBroken,
    ChannelHandler,
    Connection,
    PeerId,
    PeerUnreachable,
)
from unhosted.node.shell.peers import dialer, identify, listener
from unhosted.node.shell.peers.addresses import (
    Endpoint,
    InterfaceAllowed,
    any_interface,
    listening,
    parse,
)
from unhosted.node.shell.peers.channel import FramedChannel
from unhosted.node.shell.peers.entrance import Entrance
from unhosted.node.shell.peers.host import make_host
from unhosted.node.shell.peers.identity import Identity, public_key
from unhosted.node.shell.peers.limits import Limits
from unhosted.node.shell.peers.live import Live, Lives
from unhosted.node.shell.peers.negotiation import name_protocol
from unhosted.node.shell.peers.overrides.host import GuardedHost
from unhosted.node.shell.peers.overrides.stream import Stream
from unhosted.node.shell.peers.sockets import Tunnel, remote_of

log = logging.getLogger(__name__)

GOODBYE_S = 1.0
"""For the connections when the node stops."""

UPGRADE_DIRECT_S = 3.0
"""For another try to reach a peer directly that is connected through a relay."""

StreamHandler = Callable[[Stream, PeerId], Awaitable[None]]
CircuitDial = Callable[[PeerId, str], Awaitable[Tunnel]]
"""A tunnel to a peer through the relay that the address names. Raises: PeerUnreachable."""


def no_addresses(peer: PeerId) -> Sequence[str]:
    return ()


class LibP2PNetwork:
    """Implements `core.peering.Network`; `run` makes it live.

    listen: (IP address, port) each. is_paired: asked at each decision, its answers are never kept.
    agent: what any node that asks is told of this program, such as unhosted/1.0.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        listen: Sequence[tuple[str, int]],
        is_paired: Callable[[PeerId], bool],
        limits: Limits | None = None,
        interface_allowed: InterfaceAllowed = any_interface,
        agent: str = "unhosted",
    ) -> None:
        self.circuit_dial: CircuitDial | None = None
        self.circuit_addresses: Callable[[PeerId], Sequence[str]] = no_addresses
        self._identity = identity
        self._listen = tuple(listen)
        self._agent = agent
        self._is_paired = is_paired
        self._limits = limits or Limits()
        self._interface_allowed = interface_allowed
        self._host: GuardedHost | None = None
        self._bound: tuple[tuple[str, int], ...] = ()
        self._announced: tuple[str, ...] = ()
        self._access: dict[str, Access] = {}
        self._handlers: dict[str, Callable[[Any], Awaitable[None]]] = {}
        self._lives = Lives()
        self._entrance = Entrance(identity.peer, self._limits, self._lives, is_paired)
        self._dialling: dict[PeerId, trio.Lock] = {}
        self.serve_stream(identify.IDENTIFY, self._answer_identify, access="anyone")
        self.serve_stream(identify.PING, lambda stream, _: identify.answer_ping(stream), access="anyone")

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled; started once it listens.

        Raises: Refused if a port is taken, or the library's version is not the known one.
        """
        listeners = await listener.bind(self._listen)
        self._bound = tuple(_bound_to(one) for one in listeners)
        host = make_host(self._identity, self._limits, policy_of=self._entrance.policy, admits=self._admits)
        for protocol, handler in self._handlers.items():
            host.set_stream_handler(protocol, handler)
        async with host.run([]):
            self._host, self._entrance.swarm = host, host.get_network()
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(listener.Porch(self._limits, self._entrance.greet).serve, listeners)
                    nursery.start_soon(self._entrance.reap)
                    task_status.started()
            finally:
                self._host = self._entrance.swarm = None
                with trio.CancelScope(shield=True), trio.move_on_after(GOODBYE_S):
                    for live in self._lives.all():
                        live.session.abort("this node stops")
                    await host.close()

    # The contract

    @property
    def peer(self) -> PeerId:
        return self._identity.peer

    def addresses(self) -> tuple[str, ...]:
        return (*listening(self._bound, self._interface_allowed), *self._announced)

    def connections(self) -> tuple[Connection, ...]:
        """One for each peer: the one that channels are opened on."""
        return self._lives.best_of_each()

    async def changed(self, seen: int) -> tuple[int, tuple[Connection, ...]]:
        """The connections as soon as they are others than at version `seen`, with their version; -1: now."""
        version = await self._lives.wait_other_version(seen)
        return version, self.connections()

    def serve(
        self, protocol: str, handler: ChannelHandler, *, access: Access, message_bytes_max: int
    ) -> None:
        async def answer(stream: Stream, peer: PeerId) -> None:
            channel = FramedChannel(stream, peer, message_bytes_max)
            live = self._lives.of_session(stream.session)
            try:
                with live.in_use():
                    await handler(channel)
            except* ChannelBroken as broken:  # in a group too: handlers have nurseries
                log.debug("channel_broken protocol=%s reason=%s", protocol, broken.exceptions[0])
            finally:
                channel.close()

        self.serve_stream(protocol, answer, access=access)

    async def connect(self, peer: PeerId, addresses: Sequence[str], *, timeout_s: float) -> Connection:
        if peer == self.peer:
            raise PeerUnreachable(f"{peer} is this machine itself")
        try:
            public_key(peer)
        except ValueError as error:
            raise PeerUnreachable(str(error)) from error
        lock = self._dialling.setdefault(peer, trio.Lock())
        try:
            async with lock:
                return await self._connect(peer, addresses, timeout_s)
        finally:
            if not lock.locked() and not lock.statistics().tasks_waiting:
                self._dialling.pop(peer, None)

    @asynccontextmanager
    async def open_channel(
        self, peer: PeerId, protocol: str, *, message_bytes_max: int, timeout_s: float
    ) -> AsyncIterator[FramedChannel]:
        async with self.open_stream(peer, protocol, timeout_s=timeout_s) as stream:
            channel = FramedChannel(stream, peer, message_bytes_max)
            try:
                yield channel
            finally:
                channel.close()

    async def disconnect(self, peer: PeerId) -> None:
        """End every connection to the peer at once."""
        for live in self._lives.of_peer(peer):
            live.session.abort("it was closed here")
        await trio.lowlevel.checkpoint()

    # For what is not made of messages: relays

    def announce(self, addresses: Sequence[str]) -> None:
        """Further addresses of this machine, instead of those announced before: forwarded ports, relays."""
        for address in addresses:
            parse(address)
        self._announced = tuple(addresses)

    def serve_stream(self, protocol: str, handler: StreamHandler, *, access: Access) -> None:
        """Answer plain streams of a protocol. The stream is left when the handler is done."""

        async def answer(net_stream: Any) -> None:
            stream: Stream = net_stream.muxed_stream
            try:
                await handler(stream, str(stream.session.peer_id))
            except MuxedStreamError as error:
                log.debug("stream_broken protocol=%s reason=%s", protocol, error)

        self._access[protocol] = access
        self._handlers[protocol] = answer
        if self._host is not None:
            self._host.set_stream_handler(protocol, answer)

    @asynccontextmanager
    async def open_stream(self, peer: PeerId, protocol: str, *, timeout_s: float) -> AsyncIterator[Stream]:
        """A plain stream over the live connection; leaving it without `finish` resets it.

        Raises: PeerUnreachable.
        """
        live = self._lives.best(peer)
        if live is None:
            raise PeerUnreachable(f"there is no connection to {peer}")
        with trio.move_on_after(timeout_s) as scope:
            stream = await self._open(live, protocol)
        if scope.cancelled_caught:
            raise PeerUnreachable(f"{peer} did not answer for {protocol} in {timeout_s:g} s")
        try:
            with live.in_use():
                yield stream
        finally:
            stream.leave()

    async def adopt(
        self, tunnel: Tunnel, *, is_initiator: bool, peer: PeerId | None, via: PeerId
    ) -> Connection:
        """A connection over the bytes of a tunnel through the peer `via`, which reads none of them.

        peer: who must be at the other end; None for whoever calls. Raises: PeerUnreachable.
        """
        live = await self._entrance.through_tunnel(tunnel, via, peer, is_initiator=is_initiator)
        return self._lives.view(live)

    async def adopt_socket(
        self, stream: trio.SocketStream, *, is_initiator: bool, peer: PeerId
    ) -> Connection:
        """A connection over a socket that is connected already, to `peer`. Raises: PeerUnreachable."""
        remote = remote_of(stream)
        live = await self._entrance.through_socket(stream, remote, peer, is_initiator=is_initiator)
        return self._lives.view(live)

    # Outbound

    async def _connect(self, peer: PeerId, addresses: Sequence[str], timeout_s: float) -> Connection:
        live = self._lives.best(peer)
        if live is not None:
            addresses = [address for address in addresses if "/p2p-circuit" not in address]
            if not live.via or not addresses:
                return self._lives.view(live)
            timeout_s = min(timeout_s, UPGRADE_DIRECT_S)
        else:
            addresses = (*addresses, *self.circuit_addresses(peer))
        try:
            live = await dialer.race(peer, addresses, partial(self._attempt, peer), timeout_s=timeout_s)
        except PeerUnreachable:
            live = self._lives.best(peer)  # it may have reached us meanwhile
            if live is None:
                raise
        return self._lives.view(live)

    async def _attempt(self, peer: PeerId, address: str, endpoint: Endpoint) -> Live:
        if endpoint.relay is None:
            stream, remote = await dialer.open_socket(endpoint)
            return await self._entrance.through_socket(stream, remote, peer, is_initiator=True)
        if self.circuit_dial is None:
            raise PeerUnreachable("this node uses no relays")
        tunnel = await self.circuit_dial(peer, address)
        return await self._entrance.through_tunnel(tunnel, endpoint.relay, peer, is_initiator=True)

    async def _open(self, live: Live, protocol: str) -> Stream:
        try:
            stream = await live.session.open_stream()
        except MuxedStreamError as error:
            raise PeerUnreachable(f"{live.peer}: {error}") from error
        try:
            await name_protocol(stream, live.peer, protocol)
        except BaseException:
            stream.abort()
            raise
        return stream

    # Inbound

    def _admits(self, peer: PeerId, protocol: str) -> bool:
        access = self._access.get(protocol)
        return access == "anyone" or (access == "paired" and self._is_paired(peer))

    async def _answer_identify(self, stream: Stream, peer: PeerId) -> None:
        await identify.answer_identify(
            stream,
            agent=self._agent,
            public_key=self._host.get_public_key().serialize() if self._host is not None else b"",
            addresses=self.addresses(),
            protocols=[protocol for protocol in self._access if self._admits(peer, protocol)],
        )


def _bound_to(listening_socket: trio.SocketListener) -> tuple[str, int]:
    name = listening_socket.socket.getsockname()
    return str(name[0]), int(name[1])
