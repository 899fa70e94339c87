"""Addresses as text: what can be dialled, what is near, where this machine listens.

The text is libp2p's ("/ip4/192.168.1.5/tcp/8643"); of its many forms these are known: ip4, ip6 and dns with
tcp, and those followed by /p2p/RELAY/p2p-circuit.
"""

import ipaddress
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import ifaddr

from unhosted.node.core.peering import PeerId

Family = Literal["ip4", "ip6", "dns", "dns4", "dns6"]
FAMILIES: tuple[Family, ...] = ("ip4", "ip6", "dns", "dns4", "dns6")
ADDRESS_CHARACTERS_MAX = 512
"""A relay's address with a long DNS name and its peer id has about 340."""

InterfaceAllowed = Callable[[str, str], bool]
"""Whether to tell others an address: (interface's name, IP address)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A place to dial. host: an IP address (IPv6 with its %zone, if it has one) or a name.

    relay: the peer there that passes bytes on to the one that is meant; None for a direct address.
    """

    family: Family
    host: str
    port: int
    relay: PeerId | None = None


def any_interface(name: str, ip: str) -> bool:
    return True


def parse(address: str) -> Endpoint:
    """Raises: ValueError, which names what is wrong."""
    words = address.split("/")
    if len(address) > ADDRESS_CHARACTERS_MAX or len(words) < 5 or words[0]:
        raise ValueError(f"{address[:80]!r} is no address such as /ip4/192.168.1.5/tcp/8643")
    zone = ""
    if words[1] == "ip6zone" and len(words) >= 7:
        zone, words = f"%{words[2]}", ["", *words[3:]]
    family, host, transport, port, *rest = words[1:]
    if family not in FAMILIES or transport != "tcp":
        raise ValueError(f"{address!r}: only ip4, ip6 and dns with tcp are known")
    if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"{address!r}: the port must lie between 1 and 65535")
    if family in ("ip4", "ip6") and f"ip{ipaddress.ip_address(host).version}" != family:
        raise ValueError(f"{address!r}: {host} is no {family} address")
    relay: PeerId | None = None
    if len(rest) >= 3 and rest[0] == "p2p" and rest[2] == "p2p-circuit":
        relay, rest = rest[1], rest[3:]
    if len(rest) == 2 and rest[0] == "p2p":
        rest = []  # who is meant is told apart from where it is
    if rest:
        raise ValueError(f"{address!r}: nothing is known about /{'/'.join(rest)}")
    return Endpoint(family=family, host=host + zone, port=int(port), relay=relay)


def text_of(host: str, port: int) -> str:
    """The address of an IP address and a port."""
    bare, _, zone = host.partition("%")
    ip = _unmapped(bare)
    prefix = f"/ip6zone/{zone}" if zone and ip.version == 6 else ""
    return f"{prefix}/ip{ip.version}/{ip}/tcp/{port}"


def is_near(host: str) -> bool:
    """Whether an IP address belongs to this machine, the link or a private network."""
    ip = _unmapped(host.partition("%")[0])
    return ip.is_private or ip.is_link_local or ip.is_loopback


def group_of(host: str) -> str:
    """What counts as one address for limits: an IPv4 address, or the /64 that one customer has of IPv6."""
    ip = _unmapped(host.partition("%")[0])
    if ip.version == 4:
        return str(ip)
    return str(ipaddress.ip_network((int(ip) >> 64 << 64, 64)))


def listening(bound: Sequence[tuple[str, int]], allowed: InterfaceAllowed = any_interface) -> tuple[str, ...]:
    """Where others reach sockets bound to `bound`: the interfaces' own addresses for 0.0.0.0 and ::.

    Link-local IPv6 addresses are left out: they mean nothing without the name of the reader's interface.
    """
    found: dict[str, None] = {}
    for host, port in bound:
        if not ipaddress.ip_address(host.partition("%")[0]).is_unspecified:
            found[text_of(host, port)] = None
            continue
        version = ipaddress.ip_address(host).version
        for name, ip in interface_addresses():
            address = ipaddress.ip_address(ip)
            is_local = address.is_loopback or (version == 6 and address.is_link_local)
            if address.version == version and not is_local and allowed(name, ip):
                found[text_of(ip, port)] = None
    return tuple(found)


def interface_addresses() -> Iterator[tuple[str, str]]:
    """Each interface's name with each of its IP addresses."""
    for adapter in ifaddr.get_adapters():
        for entry in adapter.ips:
            yield adapter.name, entry.ip if isinstance(entry.ip, str) else entry.ip[0]


def socket_family(endpoint: Endpoint) -> socket.AddressFamily:
    if endpoint.family in ("ip4", "dns4"):
        return socket.AF_INET
    if endpoint.family in ("ip6", "dns6"):
        return socket.AF_INET6
    return socket.AF_UNSPEC


def _unmapped(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    ip = ipaddress.ip_address(host)
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    return ip
