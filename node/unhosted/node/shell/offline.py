"""Offline, enforced in this process: no connection, no name lookup and no listener outside loopback.

Rules, once `install(offline=True)` has run; they hold until the process ends, for every thread:
- Sockets are AF_UNIX, or AF_INET and AF_INET6 that touch loopback addresses alone. Raw sockets and every
  other family are refused when they are created.
- connect, bind, sendto and sendmsg to another address are refused, and so is listening without a bind (the
  kernel would take every interface) and joining a multicast group (the kernel announces that on the wire).
- Name lookups are refused but for `localhost`, and that only where the hosts file answers it.
- Modules whose purpose is the network are not imported.

Two nets, because one has a hole: CPython raises its audit events *after* it has resolved the host name, so a
connect to a name would already have asked a DNS server. The methods of `socket.socket` and `_socket.socket`
are therefore checked before they run; the audit hook catches whoever got hold of the C type another way.

Not handled here: native code that calls the kernel itself (ctypes, an extension module) and other programs
that are started. The engine's child has an empty network namespace for that; `unhosted doctor --offline`
proves the whole with packet counters.
"""

import errno
import itertools
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

REFUSALS_KEPT = 100
"""The last ones tell who tried; the total is counted beside them."""

CALLER_FRAMES_MAX = 64
"""How far up a stack the caller is looked for; deeper ones are a framework's."""

MODULES_REFUSED = (
    "httpx",
    "libp2p",
    "miniupnpc",
    "requests",
    "unhosted.node.shell.discovery",
    "unhosted.node.shell.models.download",
    "unhosted.node.shell.models.pull",
    "unhosted.node.shell.models.sources",
    "unhosted.node.shell.peers",
    "unhosted.node.shell.reach",
    "unhosted.node.shell.transfer",
    "web3",
    "zeroconf",
)
"""Whoever needs one of these offline has taken a wrong turn; refusing the import shows where."""

# Plumbing between who wants a connection and the socket.
_NOT_A_CALLER = {__name__, "socket", "_socket", "asyncio", "trio", "importlib", "concurrent", "threading"}
_HOSTS_FILE = "/etc/hosts"


class OfflineRefused(PermissionError):
    """A network operation outside loopback. An OSError, so that libraries treat it as a failed connection."""


class OfflineImportRefused(ImportError):
    """An import of a module that exists for the network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An attempt that was refused. door: the operation; host: empty where there was none."""

    door: str
    host: str
    port: int | None
    caller: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusals:
    """count: since the start; last holds the newest REFUSALS_KEPT, oldest first."""

    count: int
    last: tuple[Refusal, ...]


class _State:
    """Of the process, like the audit hook itself: a hook cannot be removed, so neither can this."""

    def __init__(self) -> None:
        self.is_installed = False
        self.is_localhost_local = False
        self.numbers = itertools.count(1)
        self.count = 0
        self.last: deque[Refusal] = deque(maxlen=REFUSALS_KEPT)


_state = _State()


def install(offline: bool) -> None:
    """Enforce the rules above from now on, if `offline`. Once on, they cannot be lifted in this process."""
    if not offline or _state.is_installed:
        return
    _state.is_installed = True
    _state.is_localhost_local = _read_is_localhost_local()
    _guard_methods()
    sys.addaudithook(_audit)


def is_installed() -> bool:
    return _state.is_installed


def refusals() -> Refusals:
    return Refusals(count=_state.count, last=tuple(_state.last))


def loaded_refused_modules() -> tuple[str, ...]:
    """Modules of MODULES_REFUSED that were imported before `install`; empty when it came first."""
    return tuple(sorted(name for name in MODULES_REFUSED if name in sys.modules))


def _refuse(door: str, host: object = "", port: object = None) -> OfflineRefused:
    name = host.decode("ascii", "replace") if isinstance(host, bytes) else str(host or "")
    number = port if isinstance(port, int) else None
    _note(Refusal(door=door, host=name, port=number, caller=_caller()))
    where = f" {name}" + (f":{number}" if number is not None else "") if name else ""
    return OfflineRefused(errno.EPERM, f"offline: {door}{where} refused, only loopback is allowed")


def _note(refusal: Refusal) -> None:
    # next() is one step under the interpreter's lock: a counter that threads may share.
    _state.last.append(refusal)
    _state.count = max(_state.count, next(_state.numbers))


def _caller() -> str:
    frame = sys._getframe(1)
    for _ in range(CALLER_FRAMES_MAX):
        module = str(frame.f_globals.get("__name__", "?"))
        if module.split(".")[0] not in _NOT_A_CALLER and module != __name__:
            return module
        if frame.f_back is None:
            break
        frame = frame.f_back
    return "?"


def _audit(event: str, args: tuple[Any, ...]) -> None:
    # Called for every audited operation of the interpreter: the common case must cost one comparison.
    if event == "import":
        _check_import(str(args[0]))
    elif event.startswith("socket."):
        check = _CHECK_BY_EVENT.get(event)
        if check is not None:
            check(event.removeprefix("socket."), *args)


def _check_import(name: str) -> None:
    if name in MODULES_REFUSED:
        _note(Refusal(door="import", host=name, port=None, caller=_caller()))
        raise OfflineImportRefused(f"offline: {name} is not imported, it exists for the network", name=name)


def _check_new(door: str, sock: object, family: int, kind: int, protocol: int) -> None:
    import _socket

    # -1: the socket wraps a descriptor; its family is checked when it is used.
    if family not in (-1, _socket.AF_UNIX, _socket.AF_INET, _socket.AF_INET6):
        raise _refuse(f"socket of family {int(family)}")
    if family in (_socket.AF_INET, _socket.AF_INET6) and kind & 0xF == _socket.SOCK_RAW:
        raise _refuse("raw socket")


def _check_address(door: str, sock: Any, address: object) -> None:
    import _socket

    if sock.family == _socket.AF_UNIX or address is None:
        return
    if (
        sock.family not in (_socket.AF_INET, _socket.AF_INET6)
        or not isinstance(address, tuple)
        or not address
    ):
        raise _refuse(f"{door} in family {int(sock.family)}")
    host, port = address[0], address[1] if len(address) > 1 else None
    if not _is_local(host):
        raise _refuse(door, host, port)


def _check_lookup(door: str, host: object, port: object = None, *rest: object) -> None:
    # Without a host there is nothing to look up: the answer is loopback or the wildcard address.
    if host is not None and host != "" and not _is_local(host):
        raise _refuse(door, host, port)


def _check_reverse(door: str, sockaddr: object) -> None:
    host = sockaddr[0] if isinstance(sockaddr, tuple) and sockaddr else sockaddr
    if not _is_local(host):
        raise _refuse(door, host)


def _is_local(host: object) -> bool:
    text = host.decode("ascii", "replace") if isinstance(host, bytes | bytearray) else host
    if not isinstance(text, str):
        return False
    if text.rstrip(".").lower() == "localhost":
        return _state.is_localhost_local
    return _is_loopback(text)


def _is_loopback(text: str) -> bool:
    """Whether `text` is a loopback address, spelled so that no resolver is asked what it means."""
    import _socket

    address = text.partition("%")[0]
    try:
        packed = _socket.inet_pton(_socket.AF_INET6 if ":" in address else _socket.AF_INET, address)
    except (OSError, ValueError):
        return False
    mapped = bytes(10) + b"\xff\xff"
    if len(packed) == 16 and packed.startswith(mapped):
        packed = packed[12:]
    return packed[0] == 127 if len(packed) == 4 else packed == bytes(15) + b"\x01"


def _read_is_localhost_local() -> bool:
    """Whether the hosts file answers `localhost`: where it does not, the question would go to a server."""
    try:
        with open(_HOSTS_FILE, encoding="utf-8", errors="replace") as file:
            lines = file.read(1 << 20).splitlines()
    except OSError:
        return False
    entries = [line.partition("#")[0].split() for line in lines]
    named = [words[0] for words in entries if "localhost" in words[1:]]
    return bool(named) and all(_is_loopback(address) for address in named)


def _guard_methods() -> None:
    """Check addresses before CPython resolves them, in the Python class and in the C type's name."""
    import _socket
    import socket

    guarded: Any = type("socket", (_socket.socket,), {"__module__": "_socket", "__slots__": ()})
    for cls in (socket.socket, guarded):
        for name in ("connect", "connect_ex", "bind", "sendto", "sendmsg", "listen", "setsockopt"):
            setattr(cls, name, _checked(name, getattr(_socket.socket, name)))
    for alias in ("socket", "SocketType"):
        setattr(_socket, alias, guarded)


def _checked(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    def call(self: Any, *args: Any) -> Any:
        if name in ("connect", "connect_ex", "bind"):
            _check_address(name.removesuffix("_ex"), self, args[0] if args else None)
        elif name == "sendto":
            _check_address(name, self, args[-1] if len(args) > 1 else None)
        elif name == "sendmsg":
            _check_address(name, self, args[3] if len(args) > 3 else None)
        elif name == "listen":
            _check_listen(self)
        else:
            _check_option(self, *args[:2])
        return method(self, *args)

    call.__name__ = name
    return call


def _check_listen(sock: Any) -> None:
    import _socket

    if sock.family == _socket.AF_UNIX:
        return
    host, port = sock.getsockname()[:2]
    if not _is_local(host):
        raise _refuse("listen", host, port)


def _check_option(sock: Any, level: int = -1, option: int = -1) -> None:
    import _socket

    # IP_ADD_MEMBERSHIP, IP_ADD_SOURCE_MEMBERSHIP, MCAST_JOIN_GROUP, MCAST_JOIN_SOURCE_GROUP, and for IPv6
    # JOIN_GROUP and JOIN_ANYCAST: numbers of Linux, some of which the socket module does not name.
    joins = {_socket.IPPROTO_IP: {35, 39, 42, 46}, _socket.IPPROTO_IPV6: {20, 27, 42, 46}}
    if option in joins.get(level, ()):
        raise _refuse("multicast join")


_CHECK_BY_EVENT: dict[str, Callable[..., None]] = {
    "socket.__new__": _check_new,
    "socket.connect": _check_address,
    "socket.bind": _check_address,
    "socket.sendto": _check_address,
    "socket.sendmsg": _check_address,
    "socket.getaddrinfo": _check_lookup,
    "socket.gethostbyname": _check_lookup,
    "socket.gethostbyaddr": _check_lookup,
    "socket.getnameinfo": _check_reverse,
}
