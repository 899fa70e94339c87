"""UPnP Internet Gateway Device: the other way to ask a router for a port, older and in more of them.

Its parser (miniupnpc, C) reads what any machine of the network sends; that is why port mapping is off until
the user asks for it. All calls block.
"""

import contextlib
from dataclasses import dataclass
from typing import Any

from unhosted.node.shell.reach.nat_pmp import Mapped, NoMapping

DISCOVER_MS = 2000
"""Routers answer within the second that the request allows them."""

DESCRIPTION = "unhosted"
PORTS_TRIED = 8
"""The next ones after that are tried when another machine has the port already."""


@dataclass(slots=True)
class Igd:
    """A router that was found, and this machine's address as it sees it."""

    device: Any
    address_inside: str


def find_igd() -> Igd:
    """Raises: NoMapping."""
    import miniupnpc

    device = miniupnpc.UPnP()
    device.discoverdelay = DISCOVER_MS
    try:
        found = device.discover()
        device.selectigd()
    except Exception as error:  # the binding raises plain Exception
        raise NoMapping(f"UPnP: no router answers ({error})") from None
    if not found:
        raise NoMapping("UPnP: no router answers")
    return Igd(device=device, address_inside=device.lanaddr)


def external_address(igd: Igd) -> str:
    """Raises: NoMapping."""
    try:
        return str(igd.device.externalipaddress())
    except Exception as error:
        raise NoMapping(f"UPnP: the router does not tell its address ({error})") from None


def map_port(
    igd: Igd, port: int, *, port_outside: int, lifetime_s: int, not_these: frozenset[int] = frozenset()
) -> Mapped:
    """Make or renew. not_these: ports that are mapped here already; a router would overwrite them.

    Some routers know mappings without end alone, removed at stop. Raises: NoMapping.
    """
    why = ""
    for candidate in range(port_outside, min(port_outside + PORTS_TRIED, 65536)):
        if candidate in not_these:
            continue
        for lease_s in (lifetime_s, 0):
            try:
                if igd.device.addportmapping(
                    candidate, "TCP", igd.address_inside, port, DESCRIPTION, "", lease_s
                ):
                    return Mapped(port_inside=port, port_outside=candidate, lifetime_s=lifetime_s)
            except Exception as error:
                why = str(error)
            if "OnlyPermanentLeasesSupported" not in why:
                break
    raise NoMapping(f"UPnP: the router gives no port from {port_outside} on ({why})")


def remove_port(igd: Igd, port_outside: int) -> None:
    with contextlib.suppress(Exception):  # gone already, or the router is: it ends by its lease
        igd.device.deleteportmapping(port_outside, "TCP")
