"""The app on its sockets: Hypercorn's trio connections under a loop of our own.

Our own loop and not Hypercorn's, because connections are bounded here, a client that takes nothing loses its
connection, one broken connection does not end the others, and the sockets are not inherited by children.
"""

import errno
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from starlette.types import ASGIApp, Receive, Scope, Send

from unhosted.node.core.errors import LocalFault, Refused
from unhosted.node.core.service import Node
from unhosted.node.http.api import create_app
from unhosted.node.http.settings import HEADERS_BYTES_MAX, SEND_TIMEOUT_S, HttpSettings

log = logging.getLogger(__name__)

BACKLOG = 128
"""Connections the kernel holds while the loop is busy; more than that is a flood, not a burst."""


_ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundAddress:
    """Where the server listens. host is a literal address, without brackets."""

    host: str
    port: int

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


async def serve_http(
    node: Node,
    settings: HttpSettings,
    *,
    shutdown: trio.Event,
    task_status: trio.TaskStatus[BoundAddress] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until `shutdown`, then give requests under way `graceful_s` to end, and return.

    Reports the bound address through `task_status` once connections are accepted.
    Raises: Refused if the settings or the address do not allow it; LocalFault from any request.
    """
    if not settings.is_loopback and not settings.token:
        raise Refused(
            "unauthorized",
            f"host {settings.host} is reachable from other machines and needs a token; "
            "set one or bind 127.0.0.1",
            field="host",
        )
    sockets = await _listen(settings)
    first = sockets[0].getsockname()
    server = _Server(create_app(node, settings, closing=shutdown), settings)
    async with trio.open_nursery() as connections:
        async with trio.open_nursery() as accepting:
            listeners = [trio.SocketListener(one) for one in sockets]
            serve = partial(trio.serve_listeners, server.connection, listeners, handler_nursery=connections)
            accepting.start_soon(serve)
            accepting.start_soon(server.wait_fault)
            task_status.started(BoundAddress(host=first[0], port=first[1]))
            await shutdown.wait()
            accepting.cancel_scope.cancel()
        await server.close()
        connections.cancel_scope.cancel()


class _Server:
    """The connections that are open, and the fault that ends them all."""

    def __init__(self, app: ASGIApp, settings: HttpSettings) -> None:
        self._settings = settings
        self._config = _config(settings)
        self._context = WorkerContext(None)
        self._app = ASGIWrapper(_watched(app, self._fail))  # type: ignore[arg-type]  # ASGI types of two kinds
        self._open: set[_Connection] = set()
        self._is_empty = trio.Event()
        self._fault: LocalFault | None = None
        self._has_fault = trio.Event()

    async def connection(self, stream: trio.SocketStream) -> None:
        if len(self._open) >= self._settings.connections_max:
            await trio.aclose_forcefully(stream)
            return
        one = _Connection(self._app, self._config, self._context, ConnectionState({}), cast(Any, stream))
        self._open.add(one)
        try:
            await one.run()
        except Exception as error:
            # One connection's fault must not end the rest. Never its data: that holds prompts.
            log.error("connection_failed error=%s", type(error).__name__)
        finally:
            self._open.discard(one)
            if not self._open:
                self._is_empty.set()

    async def wait_fault(self) -> None:
        await self._has_fault.wait()
        if self._fault is not None:
            raise self._fault

    async def close(self) -> None:
        """Idle connections at once, the others when their request ends or `graceful_s` is over."""
        await self._context.terminated.set()
        if self._open:
            self._is_empty = trio.Event()
            with trio.move_on_after(self._settings.graceful_s):
                await self._is_empty.wait()
        # A send is shielded from cancellation (half a chunk would garble the next one), not from this.
        for one in list(self._open):
            await trio.aclose_forcefully(one.stream)

    def _fail(self, fault: LocalFault) -> None:
        self._fault = self._fault or fault
        self._has_fault.set()


async def _stay(request: object) -> None:
    """In place of Hypercorn's look for HTTP/2, which speaks it without TLS as well."""


class _Connection(TCPServer):
    """Hypercorn's connection, with a limit to the time that one send may take, and HTTP/1.1 alone.

    In HTTP/2 a client could keep a slot by never widening its window: no send would be under way.
    """

    async def _read_data(self) -> None:
        cast(Any, self.protocol.protocol)._check_protocol = _stay
        await super()._read_data()

    async def protocol_send(self, event: Event) -> None:
        if not isinstance(event, RawData):
            await super().protocol_send(event)
            return
        is_sent = False
        try:
            # Nearly always free, and not waiting for it saves a turn of the scheduler per token.
            self.send_lock.acquire_nowait()
        except trio.WouldBlock:
            await self.send_lock.acquire()
        try:
            with trio.CancelScope(deadline=trio.current_time() + SEND_TIMEOUT_S, shield=True):
                await self.stream.send_all(event.data)
                is_sent = True
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            # The client is gone; below, the protocol is told.
            pass
        finally:
            self.send_lock.release()
        if not is_sent:
            await trio.aclose_forcefully(self.stream)
            await self.protocol.handle(Closed())


def _watched(app: ASGIApp, fail: Callable[[LocalFault], None]) -> ASGIApp:
    """The app, reporting a LocalFault: Hypercorn would log it and go on, and going on is not allowed."""

    async def watched(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except* LocalFault as faults:
            fail(_first(faults))

    return watched


def _first(faults: BaseExceptionGroup[LocalFault]) -> LocalFault:
    first = faults.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


def _config(settings: HttpSettings) -> Config:
    config = Config()
    config.accesslog = None
    config.errorlog = log
    config.include_server_header = False
    config.keep_alive_timeout = settings.keep_alive_s
    config.h11_max_incomplete_size = HEADERS_BYTES_MAX
    return config


async def _listen(settings: HttpSettings) -> list[trio.socket.SocketType]:
    """Sockets on every address that the host stands for; with port 0 all get the port of the first.

    Raises: Refused when the host is unknown or the port is taken.
    """
    sockets: list[trio.socket.SocketType] = []
    port = settings.port
    try:
        found = await trio.socket.getaddrinfo(
            settings.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
        for family, address in addresses:
            try:
                sockets.append(await _bound(family, (address[0], port, *address[2:])))
            except OSError as error:
                # `localhost` stands for ::1 also where IPv6 is off: one address of several may be absent.
                is_only = (family, address) == addresses[-1] and not sockets
                if error.errno not in _ABSENT or is_only:
                    raise
            else:
                port = port or sockets[0].getsockname()[1]
    except OSError as error:
        for one in sockets:
            one.close()
        raise Refused(
            "invalid_request",
            f"cannot listen on {settings.host} port {port}: {error.strerror or error}; choose another --port",
            field="port",
        ) from None
    return sockets


async def _bound(family: socket.AddressFamily, address: tuple[Any, ...]) -> trio.socket.SocketType:
    one = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Accepted sockets inherit it: one token is one small packet, which must not wait for the next.
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        await one.bind(address)
        one.listen(BACKLOG)
    except OSError:
        one.close()
        raise
    return one
