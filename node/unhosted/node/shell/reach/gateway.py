"""The router of this machine's network, from the system's routing table."""

import ipaddress
import re
import socket
import subprocess
import sys
from pathlib import Path

ROUTES = Path("/proc/net/route")
ROUTE_TIMEOUT_S = 5.0
FLAG_GATEWAY = 0x2


def find_gateway() -> str | None:
    """Its IPv4 address, or None without a default route through one. Blocks for a moment."""
    if ROUTES.exists():
        return from_linux_routes(ROUTES.read_text())
    try:
        done = subprocess.run(
            ["route", "-n", "get", "default"], capture_output=True, text=True, timeout=ROUTE_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return from_bsd_route(done.stdout)


def from_linux_routes(table: str) -> str | None:
    """Of the default routes the one with the least metric."""
    found: list[tuple[int, str]] = []
    for line in table.splitlines()[1:]:
        words = line.split()
        if len(words) >= 8 and words[1] == words[7] == "00000000" and int(words[3], 16) & FLAG_GATEWAY:
            raw = int(words[2], 16).to_bytes(4, sys.byteorder)
            found.append((int(words[6]), socket.inet_ntoa(raw)))
    return min(found)[1] if found else None


def from_bsd_route(said: str) -> str | None:
    """From what `route -n get default` prints on macOS and the BSDs."""
    match = re.search(r"^\s*gateway:\s*(\S+)", said, re.MULTILINE)
    if match is None:
        return None
    try:
        return str(ipaddress.IPv4Address(match[1]))
    except ValueError:
        return None  # an IPv6 router or an interface: neither speaks NAT-PMP
