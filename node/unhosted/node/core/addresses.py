"""Addresses of peers as text: multiaddrs of TCP, read without any library so that pure code can judge them.

`/ip4/192.168.1.5/tcp/8643`, `/ip6/2001:db8::5/tcp/8643`, `/ip6zone/eth0/ip6/fe80::5/tcp/8643` (an address
of one link is worth nothing without the link's name), `/dns/example.org/tcp/8643`.
"""

import ipaddress
import re
from dataclasses import dataclass
from typing import Literal

Source = Literal["mdns", "pairing", "observed", "told", "book", "config"]
"""How an address became known. observed: a connection to it stood. told: another paired peer said so."""

ADDRESS_CHARS_MAX = 512
"""A relay's address with a long DNS name and its peer id has about 340."""

PORT_MAX = 65535
_HOST_LABELS = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*\.?")
_ZONE = re.compile(r"[A-Za-z0-9_.:@-]{1,15}")
"""Linux interface names have at most 15 bytes; what no tool would make is not taken either."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownAddress:
    """An address of a peer, how it became known and when it last proved to be right."""

    address: str
    source: Source
    unix_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """What an address means. zone: the interface of a link-local IPv6 address, else empty."""

    kind: Literal["ip4", "ip6", "dns"]
    host: str
    port: int
    zone: str = ""


def parse_address(text: str) -> Endpoint | None:
    """The endpoint, or None for anything that this program cannot dial over TCP."""
    if len(text) > ADDRESS_CHARS_MAX or not text.startswith("/"):
        return None
    parts = text[1:].split("/")
    zone = ""
    if parts[0] == "ip6zone" and len(parts) > 2 and _ZONE.fullmatch(parts[1]):
        zone, parts = parts[1], parts[2:]
        if parts[0] != "ip6":
            return None
    if len(parts) != 4 or parts[2] != "tcp" or not re.fullmatch(r"[1-9][0-9]{0,4}", parts[3]):
        return None
    kind, host, port = parts[0], parts[1], int(parts[3])
    if port > PORT_MAX:
        return None
    if kind in {"ip4", "ip6"}:
        try:
            ip = ipaddress.ip_address(host)
        except ValueError:
            return None
        if ip.version != int(kind[2]) or "%" in host:
            return None
        return Endpoint(kind="ip4" if kind == "ip4" else "ip6", host=str(ip), port=port, zone=zone)
    if kind in {"dns", "dns4", "dns6"} and len(host) <= 253 and _HOST_LABELS.fullmatch(host):
        return Endpoint(kind="dns", host=host, port=port)
    return None


def format_address(host: str, port: int, *, zone: str = "") -> str:
    """The address of an IP or a DNS name. Raises: ValueError for a port or host that cannot be one."""
    try:
        ip = ipaddress.ip_address(host)
        text = f"/ip{ip.version}/{ip}/tcp/{port}"
    except ValueError:
        text = f"/dns/{host}/tcp/{port}"
    if zone:
        text = f"/ip6zone/{zone}{text}"
    if parse_address(text) is None:
        raise ValueError(f"{host!r} with port {port} is no address to dial")
    return text


def is_dialable(text: str) -> bool:
    """Whether it is worth a try from this machine's networks: well formed, one host, not this host itself."""
    endpoint = parse_address(text)
    if endpoint is None:
        return False
    if endpoint.kind == "dns":
        return True
    ip = ipaddress.ip_address(endpoint.host)
    if ip.is_unspecified or ip.is_multicast or ip.is_reserved or ip.is_loopback:
        return False
    if isinstance(ip, ipaddress.IPv4Address):
        return not (ip in _THIS_NETWORK or ip == ipaddress.IPv4Address("255.255.255.255"))
    mapped = ip.ipv4_mapped is not None
    return not mapped and (not ip.is_link_local or bool(endpoint.zone))


_THIS_NETWORK = ipaddress.IPv4Network("0.0.0.0/8")


def show_endpoint(text: str) -> str:
    """The address as people write it: 192.168.1.5:8643 or [fe80::5%eth0]:8643; as it is if not understood."""
    endpoint = parse_address(text)
    if endpoint is None:
        return text
    host = f"{endpoint.host}%{endpoint.zone}" if endpoint.zone else endpoint.host
    return f"[{host}]:{endpoint.port}" if endpoint.kind == "ip6" else f"{host}:{endpoint.port}"
