"""Reaching a peer: all its addresses, a moment apart; the first that proves to be the peer wins."""

import errno
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import trio

from unhosted.node.core.addresses import show_endpoint
from unhosted.node.core.peering import PeerId, PeerUnreachable
from unhosted.node.shell.peers.addresses import Endpoint, parse, socket_family

STAGGER_S = 0.15
"""Between two dials: a good address in a LAN has answered by then, and no other is tried."""

ATTEMPT_S = 8.0
"""For one address: TCP's three first tries to reach it, and a handshake."""

ADDRESSES_MAX = 24
"""Of one peer that are dialled: a machine has a few for each interface. The first ones are the best."""


RELAY_AFTER_S = 1.0
"""A relay costs somebody else's bandwidth and our round trip: direct addresses go first by so much."""

T = TypeVar("T")
Attempt = Callable[[str, Endpoint], Awaitable[T]]
"""Connects to (address, the same parsed). Raises: OSError, PeerUnreachable."""


async def race(peer: PeerId, addresses: Sequence[str], attempt: Attempt[T], *, timeout_s: float) -> T:
    """What `attempt` gives for the first address that works; the others are cancelled.

    Raises: PeerUnreachable, which tells how each address failed.
    """
    failures: dict[str, str] = {}
    endpoints: list[tuple[str, Endpoint]] = []
    for address in list(dict.fromkeys(addresses))[:ADDRESSES_MAX]:
        try:
            endpoints.append((address, parse(address)))
        except ValueError as error:
            failures[address] = str(error)
    endpoints.sort(key=lambda pair: pair[1].relay is not None)
    relay_waits = bool(endpoints) and endpoints[0][1].relay is None
    won: list[T] = []
    with trio.move_on_after(timeout_s):
        async with trio.open_nursery() as nursery:
            for address, endpoint in endpoints:
                given_up = trio.Event()
                if endpoint.relay is not None and relay_waits:
                    await trio.sleep(RELAY_AFTER_S)
                    relay_waits = False
                nursery.start_soon(
                    _try, address, endpoint, attempt, won, failures, given_up, nursery.cancel_scope
                )
                with trio.move_on_after(STAGGER_S):
                    await given_up.wait()
    if won:
        return won[0]
    for address, _ in endpoints:
        failures.setdefault(address, f"no answer in {timeout_s:g} s")
    raise PeerUnreachable(_in_short(failures) or f"no address of {peer} is known")


def _in_short(failures: Mapping[str, str]) -> str:
    """How each address failed, as people write addresses; those that failed alike stand together."""
    alike: dict[str, list[str]] = {}
    for address, reason in failures.items():
        alike.setdefault(reason, []).append(show_endpoint(address))
    return "; ".join(f"{reason} at {', '.join(places)}" for reason, places in alike.items())


async def _try(
    address: str,
    endpoint: Endpoint,
    attempt: Attempt[T],
    won: list[T],
    failures: dict[str, str],
    given_up: trio.Event,
    others: trio.CancelScope,
) -> None:
    try:
        with trio.fail_after(ATTEMPT_S):
            won.append(await attempt(address, endpoint))
        others.cancel()
    except trio.TooSlowError:
        failures[address] = f"no answer in {ATTEMPT_S:g} s"
    except (OSError, PeerUnreachable, UnicodeError) as error:  # UnicodeError: no name that DNS could have
        failures[address] = _in_words(error)
    finally:
        given_up.set()


async def open_socket(endpoint: Endpoint) -> tuple[trio.SocketStream, tuple[str, int]]:
    """Connected, with the address it is connected to. Raises: OSError."""
    failure: OSError | None = None
    for family, kind, number, _, target in await _resolve(endpoint):
        opened = trio.socket.socket(family, kind, number)
        try:
            await opened.connect(target)
            return trio.SocketStream(opened), (_with_zone(target), endpoint.port)
        except OSError as error:
            opened.close()
            failure = error
        except BaseException:
            opened.close()
            raise
    raise failure or OSError(errno.EHOSTUNREACH, f"{endpoint.host} has no address")


def _with_zone(target: Sequence[Any]) -> str:
    """The IP address of a socket address; a link-local one is worth nothing without its interface."""
    host = str(target[0])
    is_link_local = len(target) == 4 and target[3] and "%" not in host
    return f"{host}%{socket.if_indextoname(target[3])}" if is_link_local else host


async def _resolve(endpoint: Endpoint) -> list[Any]:
    return list(
        await trio.socket.getaddrinfo(
            endpoint.host, endpoint.port, family=socket_family(endpoint), type=socket.SOCK_STREAM
        )
    )


def _in_words(error: Exception) -> str:
    if not isinstance(error, OSError):
        return str(error)
    words = {
        errno.ECONNREFUSED: "nothing listens there",
        errno.EHOSTUNREACH: "no way there",
        errno.ENETUNREACH: "no way there",
        errno.ECONNRESET: "it hung up",
    }
    return words.get(error.errno or 0) or error.strerror or type(error).__name__
