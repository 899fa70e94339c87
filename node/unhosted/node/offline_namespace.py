"""A network namespace that counts: an interface that takes whatever is not for loopback, a name server that
takes every lookup, and the sockets of a process and its children as the kernel lists them.

Everything here acts on the namespace this process is in. IPv6 is off on the counted interface, because the
kernel itself speaks up there (neighbour discovery); attempts to send IPv6 are counted as having no route.
"""

import contextlib
import os
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from unhosted.node.core.errors import Refused

INTERFACE = "counted0"
FAR_END = "far0"
GATEWAY = "198.51.100.1"
ADDRESS = "198.51.100.2/24"
NAME_SERVER = "192.0.2.53"
ELSEWHERE = ("203.0.113.9", 9)
"""All from the ranges for documentation (RFC 5737): if anything did leave, nobody would get it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What left between two looks. packets: transmitted by the counted interface. lookups: that reached the
    name server. no_route: IPv6 packets that the kernel dropped for want of a route.
    """

    packets: int
    lookups: int
    no_route: int

    @property
    def is_nothing(self) -> bool:
        return self.packets == self.lookups == self.no_route == 0


def lay_network() -> None:
    """Loopback, a counted interface with the default route, and a name server that is this namespace."""
    _ip("link", "set", "lo", "up")
    _ip("address", "add", f"{NAME_SERVER}/32", "dev", "lo")
    try:
        _ip("link", "add", INTERFACE, "type", "dummy")
    except Refused:  # a kernel without the dummy driver; a cable with two ends in here counts as well
        _ip("link", "add", INTERFACE, "type", "veth", "peer", "name", FAR_END)
    for name in (INTERFACE, FAR_END):
        switch = Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6")
        if switch.exists():
            switch.write_text("1")
    _ip("address", "add", ADDRESS, "dev", INTERFACE)
    for name in (INTERFACE, FAR_END):
        if Path(f"/sys/class/net/{name}").exists() or Path(f"/proc/sys/net/ipv4/conf/{name}").exists():
            _ip("link", "set", name, "up")
    _ip("route", "add", "default", "via", GATEWAY, "dev", INTERFACE)
    with tempfile.NamedTemporaryFile("w", prefix="resolv-", delete=False) as file:
        file.write(f"nameserver {NAME_SERVER}\noptions timeout:1 attempts:1\n")
    try:
        _run(["mount", "--bind", file.name, os.path.realpath("/etc/resolv.conf")])
    finally:
        os.unlink(file.name)


@contextlib.contextmanager
def count_lookups() -> Iterator[list[int]]:
    """A name server that answers nothing and counts what it is asked; the list holds the one count."""
    count = [0]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as trap, socket.socket() as tcp:
        for sock in (trap, tcp):
            sock.bind((NAME_SERVER, 53))
        tcp.listen()
        stopping, stop = os.pipe()

        def serve() -> None:
            while True:
                ready, _, _ = select.select([trap.fileno(), tcp.fileno(), stopping], [], [])
                if stopping in ready:
                    return
                if trap.fileno() in ready:
                    trap.recv(4096)
                if tcp.fileno() in ready:
                    tcp.accept()[0].close()
                count[0] += 1

        thread = threading.Thread(target=serve, name="lookups")
        thread.start()
        try:
            yield count
        finally:
            os.close(stop)
            thread.join()
            os.close(stopping)


def look(lookups: list[int]) -> Sent:
    """The counters now, since the namespace began."""
    lines = Path("/proc/net/dev").read_text().splitlines()[2:]
    packets = {line.partition(":")[0].strip(): int(line.partition(":")[2].split()[9]) for line in lines}
    counted = sum(count for name, count in packets.items() if name != "lo")
    six = Path("/proc/net/snmp6")
    text = six.read_text() if six.exists() else ""
    no_route = sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Ip6OutNoRoutes"))
    return Sent(packets=counted, lookups=lookups[0], no_route=no_route)


def default_route() -> str:
    return _ip("route", "show", "default").strip()


def since(before: Sent, after: Sent) -> Sent:
    return Sent(
        packets=after.packets - before.packets,
        lookups=after.lookups - before.lookups,
        no_route=after.no_route - before.no_route,
    )


def send_for_control() -> None:
    """One packet and one lookup, as a program that is not offline would."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"unhosted control", ELSEWHERE)
    with contextlib.suppress(OSError):
        socket.getaddrinfo("control.example", 443)


def wait_moved(lookups: list[int], before: Sent, timeout_s: float = 5.0) -> Sent:
    """The counters once both have moved: the name server counts in a thread of its own."""
    deadline_ns = time.monotonic_ns() + int(timeout_s * 1e9)
    while True:
        now = look(lookups)
        moved = now.packets > before.packets and now.lookups > before.lookups
        if moved or time.monotonic_ns() > deadline_ns:
            return now
        time.sleep(0.01)


def family(pid: int) -> list[int]:
    """A process and all that came from it, its threads' children included."""
    found, waiting = [], [pid]
    while waiting:
        found.append(waiting.pop())
        for path in Path(f"/proc/{found[-1]}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                waiting += [int(child) for child in path.read_text().split()]
    return found


def sockets(pids: list[int]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Internet and packet sockets that reach beyond loopback, and the addresses that are listened on."""
    beyond, listening = [], []
    for pid in pids:
        owned = set(_owned_inodes(pid))
        for table in ("tcp", "tcp6", "udp", "udp6", "raw", "raw6", "packet"):
            for line in _table(pid, table):
                words = line.split()
                inode = words[8] if table == "packet" else words[9]
                if inode not in owned:
                    continue
                if table == "packet":
                    beyond.append(f"pid {pid} packet socket {inode}")
                    continue
                local, remote = _address(words[1]), _address(words[2])
                if not _is_loopback(local) or not (_is_loopback(remote) or _is_unset(remote)):
                    beyond.append(f"pid {pid} {table} {local} to {remote}")
                elif words[3] == "0A":
                    listening.append(f"{table} {local}")
    return tuple(beyond), tuple(listening)


def _table(pid: int, name: str) -> list[str]:
    path = Path(f"/proc/{pid}/net/{name}")
    return path.read_text().splitlines()[1:] if path.exists() else []


def _owned_inodes(pid: int) -> Iterator[str]:
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except (FileNotFoundError, ProcessLookupError):
        return  # ended since it was listed, and its sockets with it
    for name in names:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # closed since
            target = os.readlink(f"/proc/{pid}/fd/{name}")
            if target.startswith("socket:["):
                yield target[8:-1]


def _address(text: str) -> str:
    """`0100007F:21C2`, as the kernel prints an address in words of its byte order, as 127.0.0.1:8642."""
    words, _, port = text.partition(":")
    raw = b"".join(int(words[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(words), 8))
    family = socket.AF_INET if len(raw) == 4 else socket.AF_INET6
    return f"{socket.inet_ntop(family, raw)}:{int(port, 16)}"


def _is_loopback(address: str) -> bool:
    return address.startswith(("127.", "::1:", "::ffff:127."))


def _is_unset(address: str) -> bool:
    return address in ("0.0.0.0:0", ":::0")


def describe(pid: int) -> str:
    """A process and where it is, for people."""

    def namespace(of: str) -> str:
        return os.readlink(f"/proc/{of}/ns/net")

    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
        where = namespace(str(pid))
    except (FileNotFoundError, ProcessLookupError):
        return f"pid {pid}: ended meanwhile"
    role = next((word for word in words if word.startswith("unhosted.")), words[0])
    kind = "the counted namespace" if where == namespace("self") else "an empty one of its own"
    return f"pid {pid} {role}: network namespace {where}, {kind}"


def interfaces() -> str:
    """Every interface and what it has sent, for people."""
    return "; ".join(
        " ".join((line.partition(":")[0].strip(), "sent", line.partition(":")[2].split()[9], "packets"))
        for line in Path("/proc/net/dev").read_text().splitlines()[2:]
    )


def _ip(*args: str) -> str:
    return _run(["ip", *args])


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise Refused("not_supported", f"`{' '.join(command)}` failed: {done.stderr.strip()}")
    return done.stdout
