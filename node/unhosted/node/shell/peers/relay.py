"""Circuit relay v2 between paired peers: for two machines that cannot reach each other, but both a third one.

A node reserves at its paired peers as soon as it has a direct connection to them, and renews; it passes bytes
on for its own paired peers. There is no search for public relays, and no stranger is served in either role.
Inside the circuit the two ends make the same connection as over TCP, Noise first: the relay learns who speaks
to whom, when and how much, and nothing else.

Not handled: a circuit over a circuit; telling addresses of relays to others (each peer is asked through the
peers that both have).
"""

import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from unhosted.node.core.peering import ChannelBroken, Connection, PeerId, PeerUnreachable
from unhosted.node.shell.peers.addresses import parse
from unhosted.node.shell.peers.network import LibP2PNetwork
from unhosted.node.shell.peers.overrides.stream import Stream, StreamTunnel
from unhosted.node.shell.peers.relay_messages import (
    HOP,
    STOP,
    RelayMessage,
    Status,
    encode,
    read_message,
)
from unhosted.node.shell.peers.relay_rules import (
    Circuit,
    Denial,
    RelayLimits,
    RelayState,
    close_circuit,
    forget,
    open_circuit,
    reserve,
)

log = logging.getLogger(__name__)

RELAYS_MAX = 8
"""Peers at which a node reserves: one that is up is enough, and each costs a message in half an hour."""

DEFAULT_LIMITS = RelayLimits()

COPY_BYTES = 65_536
"""Read at once by a relay: with the two ways of a circuit, 128 KiB of memory."""

RESERVE_AGAIN_S = 60.0
"""After a refusal: a relay that is full, or one that does not relay."""

STATUS_OF: dict[Denial, Status] = {
    "not_paired": "PERMISSION_DENIED",
    "no_reservation": "NO_RESERVATION",
    "full": "RESOURCE_LIMIT_EXCEEDED",
}
WORDS_OF: dict[Status, str] = {
    "PERMISSION_DENIED": "is not paired with the relay, or not with us",
    "NO_RESERVATION": "is not connected to the relay",
    "RESOURCE_LIMIT_EXCEEDED": "has as many circuits through the relay as it allows",
    "CONNECTION_FAILED": "does not answer the relay",
}


BROKEN = (ChannelBroken, ValueError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError)
"""How the other side of a handshake may fail us."""


class Circuited:
    """One end's tunnel into a circuit, which lives on until its connection closes it."""

    def __init__(self, tunnel: StreamTunnel) -> None:
        self._tunnel = tunnel
        self.closed = trio.Event()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return await self._tunnel.receive_some(max_bytes)

    async def send_all(self, data: bytes) -> None:
        await self._tunnel.send_all(data)

    async def aclose(self) -> None:
        self.closed.set()
        await self._tunnel.aclose()


class Relay:
    """Both roles of a node. is_relay: whether it passes bytes on for its paired peers."""

    def __init__(
        self,
        network: LibP2PNetwork,
        *,
        is_paired: Callable[[PeerId], bool],
        is_relay: bool = True,
        limits: RelayLimits = DEFAULT_LIMITS,
    ) -> None:
        self._network, self._is_paired, self._is_relay, self._limits = network, is_paired, is_relay, limits
        self._state = RelayState()
        self._reserved: dict[PeerId, float] = {}
        """Relays, and when to reserve there again, on trio's clock."""
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve, reserve and renew until it is cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            if self._is_relay:
                self._network.serve_stream(HOP, self._serve_hop, access="paired")
            self._network.serve_stream(STOP, self._serve_stop, access="paired")
            self._network.circuit_dial = self._dial
            self._network.circuit_addresses = self._addresses
            task_status.started()
            try:
                await self._keep_reservations()
            finally:
                self._network.circuit_dial = None
                self._network.circuit_addresses = no_addresses
                self._nursery = None

    def circuits(self) -> tuple[Circuit, ...]:
        """What this node passes on at present."""
        return self._state.circuits

    def reservations(self) -> tuple[tuple[PeerId, int], ...]:
        """Who may be reached through this node, and until when on the monotonic clock, in ns."""
        return self._state.reservations

    def relays(self) -> tuple[Connection, ...]:
        """Paired peers with a direct connection: we may be reached, and reach others, through them."""
        direct = [
            one
            for one in self._network.connections()
            if not one.path.startswith("relay") and self._is_paired(one.peer)
        ]
        direct.sort(key=lambda one: (one.path != "direct", one.round_trip_s or float("inf")))
        return tuple(direct[:RELAYS_MAX])

    def _addresses(self, peer: PeerId) -> tuple[str, ...]:
        """Of `peer` through each of the relays; whether it is connected there only they know."""
        relays = (one for one in self.relays() if one.peer != peer)
        return tuple(f"{one.remote_address}/p2p/{one.peer}/p2p-circuit" for one in relays)

    async def _keep_reservations(self) -> None:
        seen = -1
        while True:
            wait_s = min(self._reserved.values(), default=float("inf")) - trio.current_time()
            with trio.move_on_after(max(0.0, wait_s)):
                seen, _ = await self._network.changed(seen)
            self._drop_the_gone()
            relays = [one.peer for one in self.relays()]
            self._reserved = {peer: at for peer, at in self._reserved.items() if peer in relays}
            async with trio.open_nursery() as nursery:
                for relay in relays:
                    if self._reserved.get(relay, 0.0) <= trio.current_time():
                        nursery.start_soon(self._reserve_at, relay)

    def _drop_the_gone(self) -> None:
        connected = {one.peer for one in self._network.connections()}
        for peer, _ in self._state.reservations:
            if peer not in connected or not self._is_paired(peer):
                self._set(forget(self._state, peer))

    async def _reserve_at(self, relay: PeerId) -> None:
        again_s = RESERVE_AGAIN_S
        try:
            with trio.fail_after(self._limits.handshake_s):
                async with self._opened(relay, HOP) as tunnel:
                    await tunnel.send_all(encode(RelayMessage(kind="RESERVE"), HOP))
                    reply = await read_message(tunnel.receive_some, HOP)
                    await tunnel.send_eof()
            if reply.status == "OK":
                # By the relay's clock and ours, which may differ by years: never later than at our own half.
                left_s = min(reply.expires_unix_s - time.time(), self._limits.reservation_s)
                again_s = max(RESERVE_AGAIN_S, left_s / 2)
            log.debug("reserved relay=%s status=%s again_s=%.0f", relay[-8:], reply.status, again_s)
        except (PeerUnreachable, *BROKEN) as error:
            log.debug("not reserved relay=%s why=%s", relay[-8:], error)
        self._reserved[relay] = trio.current_time() + again_s

    @asynccontextmanager
    async def _opened(self, peer: PeerId, protocol: str) -> AsyncIterator[StreamTunnel]:
        """Raises: PeerUnreachable."""
        async with self._network.open_stream(peer, protocol, timeout_s=self._limits.handshake_s) as stream:
            yield StreamTunnel(stream)

    async def _dial(self, peer: PeerId, address: str) -> Circuited:
        """A circuit to `peer` through the relay of `address`. Raises: PeerUnreachable with its reason."""
        relay = parse(address).relay
        if self._nursery is None or relay is None:
            raise PeerUnreachable("this node uses no relays at present")
        outcome: Circuited | PeerUnreachable = await self._nursery.start(self._hold_circuit, peer, relay)
        if isinstance(outcome, PeerUnreachable):
            raise outcome
        return outcome

    async def _hold_circuit(
        self, peer: PeerId, relay: PeerId, *, task_status: trio.TaskStatus[Circuited | PeerUnreachable]
    ) -> None:
        """Keep the stream for as long as the connection in it; whoever dials may be cancelled before that."""
        try:
            async with self._opened(relay, HOP) as tunnel:
                await self._ask_for(peer, tunnel)
                circuited = Circuited(tunnel)
                task_status.started(circuited)
                await circuited.closed.wait()
        except PeerUnreachable as error:
            task_status.started(error)

    async def _ask_for(self, peer: PeerId, tunnel: StreamTunnel) -> None:
        try:
            with trio.fail_after(self._limits.handshake_s):
                await tunnel.send_all(encode(RelayMessage(kind="CONNECT", peer=peer), HOP))
                reply = await read_message(tunnel.receive_some, HOP)
        except BROKEN as error:
            raise PeerUnreachable(f"the relay failed: {error or 'no answer'}") from None
        if reply.status != "OK":
            why = WORDS_OF.get(reply.status or "UNEXPECTED_MESSAGE", f"cannot be reached: {reply.status}")
            raise PeerUnreachable(f"the peer {why}")

    async def _serve_stop(self, stream: Stream, relay: PeerId) -> None:
        """A relay says that a peer wants to reach us. Who it is, the connection inside has to prove."""
        tunnel = StreamTunnel(stream)
        source: PeerId | None = None
        status: Status = "UNEXPECTED_MESSAGE"
        try:
            with trio.fail_after(self._limits.handshake_s):
                message = await read_message(tunnel.receive_some, STOP)
                source = message.peer
                if message.kind == "CONNECT" and source is not None:
                    status = "OK" if self._is_paired(source) else "PERMISSION_DENIED"
                await tunnel.send_all(encode(RelayMessage(kind="STATUS", status=status), STOP))
        except BROKEN as error:
            log.info("circuit_broken relay=%s why=%s", relay[-8:], error)
            return
        if status != "OK":
            stream.finish()
            return
        circuited = Circuited(tunnel)
        try:
            await self._network.adopt(circuited, is_initiator=False, peer=source, via=relay)
        except PeerUnreachable as error:
            log.info("circuit_refused relay=%s why=%s", relay[-8:], error)
            return
        await circuited.closed.wait()

    async def _serve_hop(self, stream: Stream, peer: PeerId) -> None:
        tunnel = StreamTunnel(stream)
        try:
            with trio.fail_after(self._limits.handshake_s):
                message = await read_message(tunnel.receive_some, HOP)
            if message.kind == "RESERVE":
                await self._grant(tunnel, peer)
            elif message.kind == "CONNECT" and message.peer is not None:
                await self._connect(tunnel, peer, message.peer)
            else:
                await self._say(tunnel, "UNEXPECTED_MESSAGE")
        except ValueError as error:
            log.warning("bad_hop_message peer=%s why=%s", peer[-8:], error)
            await self._say(tunnel, "MALFORMED_MESSAGE")
        except BROKEN as error:
            log.debug("hop_broken peer=%s why=%s", peer[-8:], error)

    async def _grant(self, tunnel: StreamTunnel, peer: PeerId) -> None:
        state, denial = reserve(self._state, peer, self._limits, time.monotonic_ns())
        self._set(state)
        if denial:
            await self._say(tunnel, "RESERVATION_REFUSED")
        else:
            await self._say(tunnel, "OK", expires_unix_s=int(time.time()) + self._limits.reservation_s)

    async def _connect(self, tunnel: StreamTunnel, source: PeerId, target: PeerId) -> None:
        state, circuit = open_circuit(
            self._state,
            source=source,
            target=target,
            is_target_paired=self._is_paired(target),
            limits=self._limits,
            now_ns=time.monotonic_ns(),
        )
        self._set(state)
        if not isinstance(circuit, Circuit):
            log.info("circuit_denied source=%s target=%s why=%s", source[-8:], target[-8:], circuit)
            await self._say(tunnel, STATUS_OF[circuit])
            return
        try:
            status = await self._pass_on(tunnel, circuit)
        finally:
            self._set(close_circuit(self._state, circuit.key))
        if status != "OK":
            await self._say(tunnel, status)

    async def _pass_on(self, near: StreamTunnel, circuit: Circuit) -> Status:
        """OK once a circuit has stood and ended."""
        hello = RelayMessage(
            kind="CONNECT",
            peer=circuit.source,
            duration_s=self._limits.circuit_s,
            data_bytes=self._limits.circuit_bytes_max,
        )
        try:
            async with self._opened(circuit.target, STOP) as far:
                try:
                    with trio.fail_after(self._limits.handshake_s):
                        await far.send_all(encode(hello, STOP))
                        reply = await read_message(far.receive_some, STOP)
                except BROKEN:
                    return "CONNECTION_FAILED"
                if reply.status != "OK":
                    return "PERMISSION_DENIED" if reply.status == "PERMISSION_DENIED" else "CONNECTION_FAILED"
                await self._say(near, "OK", has_stream=True)
                log.info("circuit_opened source=%s target=%s", circuit.source[-8:], circuit.target[-8:])
                why = await splice(near, far, self._limits)
                log.info("circuit_ended source=%s why=%s", circuit.source[-8:], why)
                return "OK"
        except PeerUnreachable:
            return "NO_RESERVATION"

    async def _say(
        self, tunnel: StreamTunnel, status: Status, *, expires_unix_s: int = 0, has_stream: bool = False
    ) -> None:
        """The answer on hop. It is the last word, but for `has_stream`: then the circuit follows."""
        is_ok = status == "OK"
        message = RelayMessage(
            kind="STATUS",
            status=status,
            expires_unix_s=expires_unix_s,
            duration_s=self._limits.circuit_s if is_ok else 0,
            data_bytes=self._limits.circuit_bytes_max if is_ok else 0,
        )
        await tunnel.send_all(encode(message, HOP))
        if not has_stream:
            await tunnel.send_eof()

    def _set(self, state: RelayState) -> None:
        state.check(self._limits)
        self._state = state


async def splice(near: StreamTunnel, far: StreamTunnel, limits: RelayLimits) -> str:
    """Pass bytes on both ways until both ends are done, one breaks, or a limit is reached; which of these."""
    why = "duration"
    with trio.move_on_after(limits.circuit_s):
        async with trio.open_nursery() as nursery:

            async def copy(source: StreamTunnel, target: StreamTunnel) -> None:
                nonlocal why
                left_bytes = limits.circuit_bytes_max
                try:
                    while data := await source.receive_some(COPY_BYTES):
                        left_bytes -= len(data)
                        if left_bytes < 0:
                            why = "bytes"
                            nursery.cancel_scope.cancel()
                            return
                        await target.send_all(data)
                    await target.send_eof()
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    why = "broken"
                    nursery.cancel_scope.cancel()

            nursery.start_soon(copy, near, far)
            nursery.start_soon(copy, far, near)
        why = "ended" if why == "duration" else why
    return why


def no_addresses(peer: PeerId) -> tuple[str, ...]:
    return ()
