"""Addresses that the user or the router gives us, in the form in which peers are told them."""

import ipaddress
from collections.abc import Iterable


def announced(entries: Iterable[str]) -> tuple[str, ...]:
    """Multiaddr texts of host:port entries of `peers.announce`, in their order, each once.

    Raises: ValueError, which names the entry.
    """
    return tuple(dict.fromkeys(_multiaddr(entry) for entry in entries))


def is_public(address: str) -> bool:
    """Whether an IP address can be reached from the internet at all, NAT and firewalls aside."""
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False


def _multiaddr(entry: str) -> str:
    host, colon, port = entry.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65536:
        raise ValueError(f"{entry!r} is no host:port, such as pc.example.org:8643 or [2001:db8::5]:8643")
    try:
        kind = f"ip{ipaddress.ip_address(host).version}"
    except ValueError:
        kind = "dns"
    return f"/{kind}/{host}/tcp/{int(port)}"
