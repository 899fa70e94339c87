"""The doctor's look at the trusted ring: can others reach this machine, find it, and know it for sure."""

import http.client
import ipaddress
import socket
import stat
import struct
from collections.abc import Iterator

from unhosted.node.cli.pair import tail, why_no_peers
from unhosted.node.cli.remote import FIND_TIMEOUT_S, Server, fetch, find_server
from unhosted.node.config import Config
from unhosted.node.core.addresses import show_endpoint
from unhosted.node.core.errors import Refused
from unhosted.node.finding import Finding

MDNS_GROUP = "224.0.0.251"
INTERFACES_MAX = 64
"""A container host has dozens of virtual interfaces; the report names a few, the check tries these."""

ADDRESSES_SHOWN = 4


def port(settings: Config) -> Finding:
    """Whether other machines could connect: asked of the running node, else tried."""
    if not settings.has_peers:
        text = f"off, this machine works alone: {why_no_peers(settings)}"
        return Finding(check="peers", status="ok", text=text)
    server = find_server(settings)
    if server is not None:
        return _running(server)
    taken = [
        number for number in (settings.peers_port, settings.peers_bulk_port) if not _is_free(settings, number)
    ]
    if taken:
        return Finding(
            check="peers",
            status="warn",
            text=f"port {taken[0]} is taken by another program; without it no machine of yours connects here",
            next="unhosted config set peers.port 0, which takes a free one",
        )
    addresses = list(_own_addresses(settings))
    if not addresses:
        text = "no network: this machine has no address but its own loopback"
        return Finding(check="peers", status="warn", text=text, next="connect it, or see peers.interfaces")
    more = f" and {len(addresses) - ADDRESSES_SHOWN} more" if len(addresses) > ADDRESSES_SHOWN else ""
    text = f"port {settings.peers_port} is free; reachable at {', '.join(addresses[:ADDRESSES_SHOWN])}{more}"
    return Finding(check="peers", status="ok", text=text, next="unhosted serve, then unhosted pair")


def identity(settings: Config) -> Finding:
    """Whoever reads the key's file can be this machine."""
    path = settings.paths.identity_file
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        return Finding(check="identity", status="ok", text="none yet; made when the node first meets others")
    except OSError as error:
        return Finding(check="identity", status="fail", text=f"{path}: {error.strerror}")
    if mode & 0o077:
        text = f"{path} has mode {mode:04o}: others on this machine could read the key and pass for it"
        return Finding(check="identity", status="fail", text=text, next=f"chmod 600 {path}")
    return Finding(check="identity", status="ok", text=f"{path}, for its owner alone")


def discovery(settings: Config) -> Finding:
    """Whether multicast, which finds machines on the local network, can be joined on some interface."""
    if not settings.has_peers or not settings.peers_mdns:
        text = "off; machines are found by the addresses in a pairing code"
        return Finding(check="discovery", status="ok", text=text)
    chosen = settings.peers_interfaces
    existing = [name for _, name in socket.if_nameindex()]
    missing = [name for name in chosen if name not in existing]
    if missing:
        text = (
            f"peers.interfaces names {', '.join(missing)}, and there is none; here are {', '.join(existing)}"
        )
        return Finding(
            check="discovery", status="warn", text=text, next="unhosted config set peers.interfaces"
        )
    names = [name for name in chosen or existing if name != "lo"][:INTERFACES_MAX]
    joined = [name for name in names if _joins(name)]
    if not joined:
        tried = ", ".join(names) or "no interface"
        return Finding(
            check="discovery",
            status="warn",
            text=f"multicast DNS cannot be joined ({tried}); others do not find this machine by themselves",
            next="pair with the longer code, which has addresses in it; UDP port 5353 must be open for mDNS",
        )
    return Finding(check="discovery", status="ok", text=f"multicast DNS on {', '.join(joined)}")


def _running(server: Server) -> Finding:
    try:
        status = fetch(server, "/api/status", timeout_s=FIND_TIMEOUT_S)
        told = status.get("peers") or {}
        ring = str(status["rings"].get("trusted"))
    except (OSError, ValueError, KeyError, AttributeError, http.client.HTTPException, Refused) as error:
        text = f"the node at {server.url} does not say: {error or type(error).__name__}"
        return Finding(check="peers", status="warn", text=text)
    if ring != "on":
        step = "look at the node's log"
        return Finding(check="peers", status="warn", text=f"the running node: {ring}", next=step)
    addresses = ", ".join(map(show_endpoint, told.get("addresses", ())[:ADDRESSES_SHOWN])) or "no address"
    text = f"{told.get('name', 'the running node')} ({tail(str(told.get('peer', '')))}) at {addresses}"
    if not told.get("accepting", True):
        text += f"; takes no work of others now: {told.get('why_not')}"
    problems = [str(one) for one in told.get("problems", ())]
    if problems:
        return Finding(
            check="peers", status="warn", text=f"{text}; {'; '.join(problems)}", next="unhosted peers"
        )
    return Finding(check="peers", status="ok", text=text, next="unhosted peers")


def _is_free(settings: Config, number: int) -> bool:
    """0 always is: it stands for any."""
    host = settings.peers_host or "0.0.0.0"
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, number))
        except OSError:
            return False
    return True


def _own_addresses(settings: Config) -> Iterator[str]:
    """Addresses of the chosen interfaces that another machine could dial."""
    import psutil

    for name, entries in sorted(psutil.net_if_addrs().items()):
        if settings.peers_interfaces and name not in settings.peers_interfaces:
            continue
        for entry in entries:
            if entry.family not in (socket.AF_INET, socket.AF_INET6):
                continue
            address = ipaddress.ip_address(entry.address.partition("%")[0])
            if not address.is_loopback and not address.is_link_local:
                yield str(address)


def _joins(name: str) -> bool:
    """Whether the group can be joined and has a way out on this interface; nothing is sent."""
    try:
        index = socket.if_nametoindex(name)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            member = struct.pack("=4s4si", socket.inet_aton(MDNS_GROUP), b"\0" * 4, index)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, member)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
            sock.connect((MDNS_GROUP, 5353))
    except OSError:
        return False
    return True
