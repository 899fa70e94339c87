"""Sockets that others connect to, and the minute of doubt before they have proved who they are.

A connection that sends nothing costs a file descriptor and no more: no handshake begins before its first
byte. How many may be in that state is bounded, of one address and in all, and when there are too many the
oldest one goes: whoever holds hundreds of silent connections hinders itself alone.
"""

import errno
import logging
import socket
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence

import trio

from unhosted.node.core.errors import Refused
from unhosted.node.shell.peers.addresses import group_of
from unhosted.node.shell.peers.limits import Limits
from unhosted.node.shell.peers.sockets import remote_of

log = logging.getLogger(__name__)

BACKLOG = 256
"""Connections that the kernel holds until we take them; each is taken within milliseconds."""

BUCKETS_MAX = 4096
"""Addresses whose rate of handshakes is remembered; the one unseen for longest is forgotten first."""

DEBT_S_MAX = 10.0
"""Longer than a handshake may take: who has to wait so long is dropped unserved. Without a bound a second's
flood would keep its whole address out for minutes, and with it everybody behind the same NAT."""

OUT_OF_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
DESCRIPTORS_PAUSE_S = 0.1
"""Accepting again at once would fail again, and take a core."""

Greet = Callable[[trio.SocketStream, tuple[str, int]], Awaitable[None]]
"""Does the handshake; from its return on the socket is not ours any more. It raises nothing but OSError."""


async def bind(listen: Sequence[tuple[str, int]]) -> list[trio.SocketListener]:
    """Listening sockets, one for each (IP address, port); port 0 takes a free one.

    Raises: Refused if a port is taken or an address is not this machine's. Nothing stays open then.
    """
    listeners: list[trio.SocketListener] = []
    try:
        for host, port in listen:
            listeners.append(await _bind(host, port))
    except BaseException:
        for listener in listeners:
            listener.socket.close()
        raise
    return listeners


async def _bind(host: str, port: int) -> trio.SocketListener:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # [::] takes IPv6 alone, so that 0.0.0.0 beside it does not collide with it.
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        await opened.bind((host, port))
        opened.listen(BACKLOG)
    except OSError as error:
        opened.close()
        raise _cannot_listen(host, port, error) from error
    except BaseException:
        opened.close()
        raise
    return trio.SocketListener(opened)


def _cannot_listen(host: str, port: int, error: OSError) -> Refused:
    reason = f"{error.strerror}"
    if error.errno == errno.EADDRINUSE:
        reason = "the port is taken: is this node running already? Otherwise set another port for peers"
    elif error.errno == errno.EADDRNOTAVAIL:
        reason = "this machine has no such address; 0.0.0.0 and :: stand for all that it has"
    return Refused("invalid_request", f"cannot listen for peers on {host} port {port}: {reason}")


class Rate:
    """So many a second of each address, in bursts of up to so many."""

    def __init__(self, per_s: float, burst: int) -> None:
        self._per_s, self._burst = per_s, burst
        self._free_at_s: OrderedDict[str, float] = OrderedDict()

    def delay_s(self, address: str, now_s: float) -> float:
        """Take one, and say how long to wait for it."""
        earliest_s = now_s - (self._burst - 1) / self._per_s
        at_s = min(max(self._free_at_s.pop(address, earliest_s), earliest_s), now_s + DEBT_S_MAX)
        self._free_at_s[address] = at_s + 1.0 / self._per_s
        if len(self._free_at_s) > BUCKETS_MAX:
            self._free_at_s.popitem(last=False)
        return max(0.0, at_s - now_s)


class Porch:
    """Where connections stand until their handshake is done."""

    def __init__(self, limits: Limits, greet: Greet) -> None:
        self._limits, self._greet = limits, greet
        self._rate = Rate(limits.handshakes_per_address_per_s, limits.handshakes_per_address_burst)
        self._standing: OrderedDict[trio.CancelScope, str] = OrderedDict()

    async def serve(self, listeners: Sequence[trio.SocketListener]) -> None:
        """Until cancelled; then no socket is left open that is not a connection."""
        async with trio.open_nursery() as nursery:
            for listener in listeners:
                nursery.start_soon(self._accept, listener, nursery)

    async def _accept(self, listener: trio.SocketListener, nursery: trio.Nursery) -> None:
        # trio.serve_listeners would close each socket when its handshake is done.
        async with listener:
            while True:
                try:
                    stream = await listener.accept()
                except OSError as error:
                    if error.errno not in OUT_OF_DESCRIPTORS:
                        raise
                    log.error("no_descriptors_left errno=%s", error.errno)
                    await trio.sleep(DESCRIPTORS_PAUSE_S)
                else:
                    nursery.start_soon(self._receive, stream)

    async def _receive(self, stream: trio.SocketStream) -> None:
        remote = remote_of(stream)
        if remote is None:
            stream.socket.close()
            return
        address = group_of(remote[0])
        is_greeted = False
        with trio.move_on_after(self._limits.handshake_s) as scope:
            self._make_room(address)
            self._standing[scope] = address
            try:
                # Nobody who is silent gets as far as to cost a handshake, or a turn of the rate.
                await trio.lowlevel.wait_readable(stream.socket)
                await trio.sleep(self._rate.delay_s(address, trio.current_time()))
                await self._greet(stream, remote)
                is_greeted = True
            except OSError as error:
                log.debug("inbound_failed address=%s error=%s", address, error)
            finally:
                self._standing.pop(scope, None)
                if not is_greeted:
                    stream.socket.close()

    def _make_room(self, address: str) -> None:
        near = [scope for scope, other in self._standing.items() if other == address]
        if len(near) >= self._limits.handshakes_per_address_max:
            self._drop(near[0])
        elif len(self._standing) >= self._limits.handshakes_max:
            # Of the address that has the most of them: one that has few is most likely no flood.
            addresses = list(self._standing.values())
            crowded = max(set(addresses), key=addresses.count)
            self._drop(next(scope for scope, other in self._standing.items() if other == crowded))

    def _drop(self, scope: trio.CancelScope) -> None:
        self._standing.pop(scope, None)
        scope.cancel()
