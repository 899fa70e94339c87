"""Bulk connections beside libp2p: plain TCP, encrypted with a key that was agreed over an encrypted channel.

Who wants one asks over a libp2p channel and gets a ticket: port, token, secret. It connects, sends the token
and an encrypted greeting; the listener answers with one. A token is good once and for `TICKET_S`. A stranger
who connects without a token that was given out, or cannot encrypt, is closed before anything is done for it:
at most `UNPROVEN_MAX` such connections, `PROOF_S` long, `GREETING` bytes read of each.
"""

import logging
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import trio

from unhosted.node.core.errors import Refused
from unhosted.node.core.peering import ChannelBroken, PeerId
from unhosted.node.shell.transfer.messages import SECRET_BYTES, TOKEN_BYTES, Ticket
from unhosted.node.shell.transfer.records import LATENCY_TOLERANT_TOS, RecordChannel, derive_keys

log = logging.getLogger(__name__)

TICKET_S = 15.0
"""From the ticket to the connection: several round trips of a bad line."""

TICKETS_MAX = 64
"""Tickets out at once: more than the transfers that are served at once."""

UNPROVEN_MAX = 32
UNPROVEN_PER_ADDRESS_MAX = 8
PROOF_S = 5.0
"""Connections that have not shown a token yet: in all, from one address, and how long each may stay so."""

CONNECT_S = 3.0
"""Then libp2p carries the bytes: a firewall that drops packets must not stall a pull."""

GREETING = b"unhosted"


@dataclass(eq=False, slots=True, kw_only=True)
class _Awaited:
    peer: PeerId
    secret: bytes
    expires_at_s: float
    arrived: trio.Event = field(default_factory=trio.Event)
    channel: RecordChannel | None = None


class Sideband:
    """The listener. port: 0 chooses a free one; a taken one is replaced by a free one.

    entropy: random bytes of a length; the secret's only source.
    """

    def __init__(
        self, port: int, *, host: str | None = None, entropy: Callable[[int], bytes] = os.urandom
    ) -> None:
        self._wanted_port = port
        self._host = host or None
        self._entropy = entropy
        self._awaited: dict[bytes, _Awaited] = {}
        self._unproven: dict[str, int] = {}
        self.port = 0
        """Where it listens; 0 while it does not."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen until cancelled. Raises: OSError if not even a free port can be had."""
        listeners = await self._listen()
        self.port = listeners[0].socket.getsockname()[1]
        try:
            await trio.serve_listeners(self._accept, listeners, task_status=_Started(task_status))
        finally:
            self.port = 0
            self._awaited.clear()

    async def _listen(self) -> list[trio.SocketListener]:
        if self._wanted_port:
            try:
                return await trio.open_tcp_listeners(self._wanted_port, host=self._host)
            except OSError as error:
                log.warning("sideband_port_taken port=%d error=%s", self._wanted_port, error.strerror)
        first, *others = await trio.open_tcp_listeners(0, host=self._host)
        for other in others:
            await other.aclose()
        # Each family drew a port of its own, but a ticket names one.
        port = first.socket.getsockname()[1]
        if others and first.socket.family == socket.AF_INET:
            with suppress(OSError):
                return [first, *await trio.open_tcp_listeners(port, host="::")]
        return [first]

    def offer(self, peer: PeerId) -> Ticket:
        """A ticket for one connection of `peer`. Raises: Refused (overloaded) above `TICKETS_MAX`."""
        now_s = trio.current_time()
        for token in [token for token, held in self._awaited.items() if held.expires_at_s <= now_s]:
            del self._awaited[token]
        if not self.port or len(self._awaited) >= TICKETS_MAX:
            raise Refused("overloaded", f"{len(self._awaited)} bulk connections are awaited, no more.")
        token, secret = self._entropy(TOKEN_BYTES), self._entropy(SECRET_BYTES)
        self._awaited[token] = _Awaited(peer=peer, secret=secret, expires_at_s=now_s + TICKET_S)
        return Ticket(port=self.port, token=token, secret=secret)

    @asynccontextmanager
    async def accepted(self, ticket: Ticket) -> AsyncIterator[RecordChannel | None]:
        """The connection for a ticket, None if none comes in time; it is closed on leaving."""
        held = self._awaited.get(ticket.token)
        try:
            if held is not None:
                with trio.move_on_at(held.expires_at_s + PROOF_S):
                    await held.arrived.wait()
            yield None if held is None else held.channel
        finally:
            self._awaited.pop(ticket.token, None)
            if held is not None and held.channel is not None:
                await held.channel.aclose()

    async def _accept(self, stream: trio.SocketStream) -> None:
        try:
            address = str(stream.socket.getpeername()[0])
        except OSError:
            return  # it hung up before it was looked at; raised from here, that would end the listener
        count = self._unproven.get(address, 0)
        if count >= UNPROVEN_PER_ADDRESS_MAX or sum(self._unproven.values()) >= UNPROVEN_MAX:
            return
        self._unproven[address] = count + 1
        channel = None
        try:
            with trio.move_on_after(PROOF_S), suppress(ChannelBroken, trio.BrokenResourceError, OSError):
                channel = await self._prove(stream)
        finally:
            self._unproven[address] -= 1
            if not self._unproven[address]:
                del self._unproven[address]
        if channel is not None:
            await channel.closed.wait()  # returning closes the stream

    async def _prove(self, stream: trio.SocketStream) -> RecordChannel | None:
        token = b""
        while len(token) < TOKEN_BYTES:
            if not self._awaited:
                return None  # nobody is expected
            received = await stream.receive_some(TOKEN_BYTES - len(token))
            if not received:
                return None
            token += received
        held = self._awaited.get(bytes(token))
        if held is None or held.arrived.is_set() or held.expires_at_s <= trio.current_time():
            log.warning("sideband_token_unknown")
            return None
        secret, held.secret = held.secret, b""
        if not secret:
            log.warning("sideband_token_used_twice peer=%s", held.peer[-8:])
            return None
        receive_key, send_key = derive_keys(secret, token)
        channel = RecordChannel(stream, peer=held.peer, send_key=send_key, receive_key=receive_key)
        if await channel.receive() != GREETING:
            return None
        _tune(stream)
        await channel.send(GREETING)
        if token not in self._awaited:
            return None  # the session that wanted it has ended meanwhile
        held.channel = channel
        held.arrived.set()
        return channel


async def connect(host: str, ticket: Ticket, peer: PeerId) -> RecordChannel:
    """Use a ticket of `peer`, whose address is `host`. The caller closes what it gets.

    Raises: ChannelBroken if nothing answers there, or who answers does not know the secret.
    """
    send_key, receive_key = derive_keys(ticket.secret, ticket.token)
    try:
        with trio.fail_after(CONNECT_S):
            stream = await trio.open_tcp_stream(host, ticket.port)
            try:
                _tune(stream)
                await stream.send_all(ticket.token)
                channel = RecordChannel(stream, peer=peer, send_key=send_key, receive_key=receive_key)
                await channel.send(GREETING)
                if await channel.receive() != GREETING:
                    raise ChannelBroken("who answers on the bulk port does not know its secret")
            except BaseException:
                await trio.aclose_forcefully(stream)
                raise
    except (OSError, trio.TooSlowError, trio.BrokenResourceError) as error:
        raise ChannelBroken(
            f"no bulk connection to {host} port {ticket.port}: {type(error).__name__}"
        ) from error
    return channel


def host_of(address: str) -> str | None:
    """The host of a multiaddr text such as /ip4/192.0.2.1/tcp/8643; None for any other kind."""
    parts = address.split("/")
    if "p2p-circuit" in parts:
        return None
    zone = ""
    if parts[1:2] == ["ip6zone"] and len(parts) > 3:
        zone, parts = f"%{parts[2]}", ["", *parts[3:]]
    if len(parts) < 3 or parts[1] not in ("ip4", "ip6"):
        return None
    return parts[2] + zone


def _tune(stream: trio.SocketStream) -> None:
    with suppress(OSError):
        if stream.socket.family == socket.AF_INET6:
            stream.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, LATENCY_TOLERANT_TOS)
        else:
            stream.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, LATENCY_TOLERANT_TOS)


class _Started:
    """Hides the listeners that trio reports when it has started: our callers want none."""

    def __init__(self, status: trio.TaskStatus[None]) -> None:
        self._status = status

    def started(self, value: object = None) -> None:
        self._status.started()
