"""mDNS on trio's own sockets: says on each network that this node is there, and hears others say it.

Why not zeroconf's engine: it keeps every record that anybody on the network sends, runs in a thread of its
own, cannot follow interfaces that come and go, and does not tell who sent a record. Here a packet is judged
by itself and dropped; all state that peers can grow is `core.directory`'s, which is bounded per sender.

A socket per interface and family is bound to the multicast address and that interface, so it needs no
default route, hears nothing of other interfaces, and takes no packet away from another mDNS program of this
machine. Answers go out by multicast alone: nobody can have this node send packets to a third party.
"""

import errno
import ipaddress
import logging
import random
import socket
import struct
import sys
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field, replace

import trio

from unhosted.node.core.addresses import format_address
from unhosted.node.core.peering import PeerId
from unhosted.node.shell.discovery.announcement import (
    LIFETIME_S,
    Announcement,
    Claim,
    decode_packet,
    encode_announcement,
    encode_query,
)
from unhosted.node.shell.discovery.dns import MESSAGE_BYTES_MAX, Address
from unhosted.node.shell.discovery.interfaces import Interface, Scan, scan_interfaces

log = logging.getLogger(__name__)

PORT = 5353
GROUPS = {4: "224.0.0.251", 6: "ff02::fb"}

SCAN_EVERY_S = 2.0
"""A laptop that changes its network is on the new one within this; a scan takes about a millisecond."""

SAID_AGAIN_S = 8.0
"""Three announcements fit into the lifetime of one."""

FIRST_SAID_S = (0.0, 1.0, 2.0)
"""A packet may be lost, and IPv6 takes a second or two before it lets a new address speak."""

ANSWER_PAUSE_S = 1.0
"""Between two answers on one network, whoever asks how often (RFC 6762, 6)."""

PACKETS_PER_WINDOW = 100
WINDOW_S = 0.25
"""Packets read from one socket; the kernel drops what is more. It bounds the CPU that a flood costs."""

RECEIVE_BUFFER_BYTES = 128 * 1024

RENAME_PAUSE_S = 5.0
"""Somebody who takes our DNS name on purpose makes us take another one this often at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """A host said that a peer is there (lifetime_s > 0) or stops (0). addresses: on that host's network.

    network: the name of our interface there.
    """

    peer: PeerId
    host: str
    network: str
    name: str
    version: str
    addresses: tuple[str, ...]
    lifetime_s: int


@dataclass(eq=False, slots=True, kw_only=True)
class _Link:
    """One interface in one family. said_at_s: when we spoke last there."""

    interface: Interface
    version: int
    socket: trio.socket.SocketType
    scope: trio.CancelScope
    asked: trio.Event = field(default_factory=trio.Event)
    said_at_s: float = float("-inf")

    @property
    def group(self) -> tuple[str, int] | tuple[str, int, int, int]:
        if self.version == 4:
            return (GROUPS[4], PORT)
        return (GROUPS[6], PORT, 0, self.interface.index)


class Mdns:
    """on_heard and on_networks are called in trio's thread. interfaces: names or addresses, empty for all.

    may_announce: whether this node can be reached at that address of its own.
    """

    def __init__(
        self,
        announcement: Announcement,
        *,
        interfaces: Collection[str] = (),
        on_heard: Callable[[Heard], None],
        on_networks: Callable[[frozenset[str]], None],
        may_announce: Callable[[Address], bool] = lambda address: True,
    ) -> None:
        self._announcement = replace(announcement, label=_new_label())
        self._wanted = tuple(interfaces)
        self._on_heard = on_heard
        self._on_networks = on_networks
        self._may_announce = may_announce
        self._links: dict[tuple[str, int, int], _Link] = {}
        self._scanned = Scan(interfaces=(), unmatched=(), own=frozenset())
        self._problems: dict[str, str] = {}
        self._twin = ""
        self._renamed_at_s = float("-inf")

    def problems(self) -> tuple[str, ...]:
        """What keeps this node from finding others, or others from finding it, in words for people."""
        return tuple(self._problems.values()) + ((self._twin,) if self._twin else ())

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled; then it says goodbye. started() once the present interfaces are served."""
        async with trio.open_nursery() as nursery:
            await self._scan(nursery)
            task_status.started()
            while True:
                await trio.sleep(SCAN_EVERY_S)
                await self._scan(nursery)

    async def _scan(self, nursery: trio.Nursery) -> None:
        """Serve the interfaces that are there now."""
        try:
            scan = await trio.to_thread.run_sync(scan_interfaces, self._wanted)
        except OSError as error:  # no descriptors left, for example: the next look may do better
            self._problems["interfaces"] = f"the network interfaces cannot be read: {error.strerror}"
            return
        self._problems.pop("interfaces", None)
        if scan.unmatched:
            self._problems["interfaces"] = f"no interface has the name or address {', '.join(scan.unmatched)}"
        elif not scan.interfaces:
            self._problems["interfaces"] = "no network interface is up"
        wanted = {
            (interface.name, interface.index, version): interface
            for interface in scan.interfaces
            for version in (4, 6)
            if interface.has(version)
        }
        for key, link in tuple(self._links.items()):
            if link.interface != wanted.get(key):  # gone, or with other addresses: perhaps another network
                self._links.pop(key).scope.cancel()
        shown = {"interfaces", *(_show(name, version) for name, _, version in wanted)}
        self._problems = {where: why for where, why in self._problems.items() if where in shown}
        for key, interface in wanted.items():
            if key not in self._links:
                await self._open(nursery, interface, key[2])
        is_changed = scan != self._scanned
        self._scanned = scan
        if is_changed:
            self._on_networks(frozenset(interface.name for interface in scan.interfaces))

    async def _open(self, nursery: trio.Nursery, interface: Interface, version: int) -> None:
        shown = _show(interface.name, version)
        try:
            opened = await _open_socket(interface, version)
        except OSError as error:
            why = "another program holds the port for itself" if error.errno == errno.EADDRINUSE else error
            self._problems[shown] = f"mDNS cannot listen on {shown}: {why}"
            return
        self._problems.pop(shown, None)
        link = _Link(interface=interface, version=version, socket=opened, scope=trio.CancelScope())
        self._links[interface.name, interface.index, version] = link
        nursery.start_soon(self._serve, link)

    async def _serve(self, link: _Link) -> None:
        """One link until its interface goes or we are cancelled; the last word is a goodbye."""
        try:
            with link.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._speak, link)
                    await self._listen(link)
        finally:
            self._say_goodbye(link)
            key = (link.interface.name, link.interface.index, link.version)
            if self._links.get(key) is link:
                del self._links[key]

    async def _speak(self, link: _Link) -> None:
        start_s = trio.current_time()
        for after_s in FIRST_SAID_S:
            await trio.sleep_until(start_s + after_s)
            await self._send(link, encode_query())
            await self._announce(link)
        while True:
            pause_s = SAID_AGAIN_S * random.uniform(0.9, 1.0)
            with trio.move_on_at(link.said_at_s + pause_s) as waiting:
                await link.asked.wait()
            if not waiting.cancelled_caught:
                # A moment at random, so that the answers of a whole network do not collide.
                wait_s = max(
                    random.uniform(0.02, 0.12), link.said_at_s + ANSWER_PAUSE_S - trio.current_time()
                )
                await trio.sleep(wait_s)
            await self._announce(link)

    async def _announce(self, link: _Link) -> None:
        link.asked = trio.Event()
        link.said_at_s = trio.current_time()
        await self._send(link, self._encoded(link, LIFETIME_S))

    def _encoded(self, link: _Link, lifetime_s: int) -> bytes:
        own = [network.ip for network in link.interface.networks if self._may_announce(network.ip)]
        return encode_announcement(self._announcement, own, lifetime_s=lifetime_s)

    async def _send(self, link: _Link, packet: bytes) -> None:
        shown = _show(link.interface.name, link.version)
        try:
            await link.socket.sendto(packet, link.group)
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:  # an IPv6 address that is not ready yet; the next one goes
                self._problems[shown] = f"mDNS cannot send on {shown}: {error.strerror}; is it a firewall?"
        else:
            self._problems.pop(shown, None)

    def _say_goodbye(self, link: _Link) -> None:
        """Best effort and without waiting, since we may be being cancelled. Closes the socket."""
        with socket.socket(link.socket.family, link.socket.type, fileno=link.socket.detach()) as plain:
            plain.setblocking(False)
            try:
                plain.sendto(self._encoded(link, 0), link.group)
            except OSError:
                return  # that network is gone already

    async def _listen(self, link: _Link) -> None:
        window_ends_s, read = 0.0, 0
        while True:
            try:
                data, sender = await link.socket.recvfrom(MESSAGE_BYTES_MAX + 1)
            except OSError:
                await trio.sleep(WINDOW_S)  # the interface is going down; the scan will see it
                continue
            now_s = trio.current_time()
            if now_s >= window_ends_s:
                window_ends_s, read = now_s + WINDOW_S, 0
            read += 1
            if read >= PACKETS_PER_WINDOW:
                await trio.sleep_until(window_ends_s)
            try:
                source = ipaddress.ip_address(sender[0].partition("%")[0])
            except ValueError:
                continue
            packet = decode_packet(data, self._announcement)
            if packet.asks:
                link.asked.set()
            for claim in packet.claims:
                self._judge(link.interface, source, claim)

    def _judge(self, interface: Interface, source: Address, claim: Claim) -> None:
        if claim.peer == self._announcement.peer:
            if source not in self._scanned.own:
                self._twin = (
                    f"another machine, {source}, says that it is this one: was its identity file copied?"
                    " One of the two must remove identity.key and pair again"
                )
            return
        if not (source.is_private or interface.is_on_link(source)):
            return  # nobody on this network has that address
        if claim.instance == self._announcement.instance:
            self._rename()
        # Only what is on this network: a packet must not have us call machines elsewhere.
        hosts = [source, *(address for address in claim.addresses if interface.is_on_link(address))]
        addresses = []
        for host in dict.fromkeys(hosts):
            zone = interface.name if host.version == 6 and host.is_link_local else ""
            with suppress(ValueError):  # an interface with a name that no address can have
                addresses.append(format_address(str(host), claim.port, zone=zone))
        self._on_heard(
            Heard(
                peer=claim.peer,
                host=f"{source}%{interface.name}",
                network=interface.name,
                name=claim.name,
                version=claim.version,
                addresses=tuple(addresses),
                lifetime_s=claim.lifetime_s,
            )
        )

    def _rename(self) -> None:
        """Somebody has our DNS name; ours is arbitrary, so we take another one."""
        now_s = time.monotonic()
        if now_s - self._renamed_at_s >= RENAME_PAUSE_S:
            self._renamed_at_s = now_s
            self._announcement = replace(self._announcement, label=_new_label())
            for link in self._links.values():
                link.asked.set()


def _new_label() -> str:
    return f"unhosted-{random.getrandbits(48):012x}"


def _show(name: str, version: int) -> str:
    return f"{name} (IPv{version})"


async def _open_socket(interface: Interface, version: int) -> trio.socket.SocketType:
    """A socket that speaks and hears mDNS on one interface alone. Raises: OSError."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    opened = trio.socket.socket(family, socket.SOCK_DGRAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        group = socket.inet_pton(family, GROUPS[version])
        if version == 4:
            member = struct.pack("@4s4si", group, bytes(4), interface.index)  # struct ip_mreqn
            opened.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
            opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, member)
            opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
            opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
            if sys.platform == "linux":
                # IP_MULTICAST_ALL off: only what arrives on the interface that was joined.
                opened.setsockopt(socket.IPPROTO_IP, 49, 0)
            await opened.bind((GROUPS[4], PORT))
        else:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            joined = struct.pack("@16sI", group, interface.index)
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, joined)
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, interface.index)
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 1)
            await opened.bind((GROUPS[6], PORT, 0, interface.index))
    except BaseException:
        opened.close()
        raise
    return opened
