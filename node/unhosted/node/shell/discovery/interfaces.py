"""The network interfaces of this machine that peers may be looked for on."""

import ipaddress
import sys
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import ifaddr

INTERFACES_MAX = 16
"""Each costs two sockets and a packet every few seconds; a host of containers has hundreds."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Interface | ipaddress.IPv6Interface
_UP, _MULTICAST = 0x1, 0x1000  # IFF_UP and IFF_MULTICAST of Linux's if.h


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """networks: its addresses with their prefixes, IPv4 first."""

    name: str
    index: int
    networks: tuple[Network, ...]

    def has(self, version: int) -> bool:
        return any(network.version == version for network in self.networks)

    def is_on_link(self, address: Address) -> bool:
        """Whether the address is one hop away here, as far as the prefixes tell."""
        if isinstance(address, ipaddress.IPv6Address) and address.is_link_local:
            return True
        return any(
            address in network.network for network in self.networks if network.version == address.version
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """interfaces: those to be served. unmatched: names that were wanted and are not there. own: every address
    of this machine, also those of interfaces that are not served.
    """

    interfaces: tuple[Interface, ...]
    unmatched: tuple[str, ...]
    own: frozenset[Address]


def scan_interfaces(wanted: Collection[str]) -> Scan:
    """Interfaces that are up and can multicast. wanted: names or addresses; empty for all but loopback.

    Blocks for about a millisecond.
    """
    found: list[Interface] = []
    own: set[Address] = set()
    unmatched = set(wanted)
    for adapter in ifaddr.get_adapters():
        networks = tuple(sorted(_networks(adapter.ips), key=lambda network: network.version))
        own |= {network.ip for network in networks}
        names = {adapter.name, *(str(network.ip) for network in networks)}
        if wanted and not names & set(wanted):
            continue
        unmatched -= names
        is_loopback = any(network.ip.is_loopback for network in networks)
        if not networks or adapter.index is None or (is_loopback and not wanted):
            continue
        if is_loopback or _can_multicast(adapter.name):
            found.append(Interface(name=adapter.name, index=adapter.index, networks=networks))
    found.sort(key=lambda interface: (not interface.has(4), interface.index))
    return Scan(
        interfaces=tuple(found[:INTERFACES_MAX]), unmatched=tuple(sorted(unmatched)), own=frozenset(own)
    )


def _networks(ips: "Iterable[ifaddr.IP]") -> Iterator[Network]:
    for ip in ips:
        text = ip.ip if isinstance(ip.ip, str) else ip.ip[0]
        yield ipaddress.ip_interface(f"{text.partition('%')[0]}/{ip.network_prefix}")


def _can_multicast(name: str) -> bool:
    if sys.platform != "linux":
        return True
    try:
        flags = int(Path(f"/sys/class/net/{name}/flags").read_text("ascii"), 16)
    except (OSError, ValueError):
        return True  # no /sys here: sending will tell
    return flags & (_UP | _MULTICAST) == _UP | _MULTICAST
