"""Keeps ports of this machine mapped in the router: makes, renews, and removes the mappings at the end."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import trio

from unhosted.node.shell.reach import nat_pmp, upnp
from unhosted.node.shell.reach.announce import is_public
from unhosted.node.shell.reach.gateway import find_gateway
from unhosted.node.shell.reach.nat_pmp import Mapped, NoMapping

T = TypeVar("T")
log = logging.getLogger(__name__)

LIFETIME_S = 7200
"""The RFC's recommendation; it is renewed at half of it."""

AGAIN_S = 300.0
"""After a failure: routers restart, laptops change networks."""

LOOK_S = 60.0
"""How often to look whether the router is another one now, or lost its memory and address in a restart."""

REMOVING_S = 3.0
"""What the end of the program waits for the router; what is left there ends by its lifetime."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """What came of it. ports: outside by inside. how: nat-pmp, upnp, or empty.

    why_not: for people; empty when it works, or before the first try has ended.
    """

    address: str = ""
    ports: tuple[tuple[int, int], ...] = ()
    how: str = ""
    why_not: str = ""

    @property
    def works(self) -> bool:
        return bool(self.ports)

    def multiaddr(self, port: int) -> str | None:
        """Where `port` is reached from outside."""
        outside = dict(self.ports).get(port)
        return None if outside is None else f"/ip4/{self.address}/tcp/{outside}"


@dataclass(slots=True)
class _Router:
    """The router in use, whichever way it speaks."""

    gateway: str | None = None
    igd: upnp.Igd | None = None
    mapped: dict[int, Mapped] = field(default_factory=dict)


class PortMapping:
    """ports: TCP ports of this machine; 0, for a listener that is not there, is left out.

    on_change: called in the loop with each new `Reach`.
    """

    def __init__(
        self, ports: Sequence[int], *, on_change: Callable[[Reach], None] = lambda reach: None
    ) -> None:
        self._ports, self._on_change = tuple(port for port in ports if port), on_change
        self._router = _Router()
        self.reach = Reach()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until it is cancelled. started() comes at once: the router may take ten seconds to say no."""
        task_status.started()
        try:
            while True:
                gateway = await trio.to_thread.run_sync(find_gateway)
                self._tell(await self._map_all(gateway))
                if not self.reach.works:
                    await trio.sleep(AGAIN_S)
                    continue
                for _ in range(int(LIFETIME_S / 2 / LOOK_S)):
                    await trio.sleep(LOOK_S)
                    if await self._has_changed(gateway):
                        break
        finally:
            with trio.move_on_after(REMOVING_S, shield=True):
                await self._remove_all()

    async def _map_all(self, gateway: str | None) -> Reach:
        reasons = []
        if gateway is None:
            reasons.append("this machine has no router (no default route)")
        else:
            try:
                return await self._by_nat_pmp(gateway)
            except NoMapping as error:
                reasons.append(str(error))
        try:
            return await self._by_upnp()
        except NoMapping as error:
            reasons.append(str(error))
        return Reach(why_not="; ".join(reasons))

    async def _by_nat_pmp(self, gateway: str) -> Reach:
        address = _public(await nat_pmp.external_address(gateway))
        before, self._router = self._router.mapped, _Router(gateway=gateway)
        for port in self._ports:
            self._router.mapped[port] = await nat_pmp.map_port(
                gateway, port, port_outside=_wanted(before, port), lifetime_s=LIFETIME_S
            )
        return _reach(address, self._router.mapped, "nat-pmp")

    async def _by_upnp(self) -> Reach:
        before, self._router = self._router.mapped, _Router()
        igd = self._router.igd = await _in_thread(upnp.find_igd)
        address = _public(await _in_thread(upnp.external_address, igd))
        for port in self._ports:
            mine = frozenset(mapped.port_outside for mapped in self._router.mapped.values())
            call = partial(
                upnp.map_port,
                port_outside=_wanted(before, port),
                lifetime_s=LIFETIME_S,
                not_these=mine,
            )
            self._router.mapped[port] = await _in_thread(call, igd, port)
        return _reach(address, self._router.mapped, "upnp")

    async def _has_changed(self, gateway: str | None) -> bool:
        """Whether the mapping has to be made anew: another router, or another address of it."""
        if await trio.to_thread.run_sync(find_gateway) != gateway:
            return True
        try:
            if self._router.igd is not None:
                address = await _in_thread(upnp.external_address, self._router.igd)
            else:
                address = await nat_pmp.external_address(gateway or "")
        except NoMapping:
            return True
        return address != self.reach.address

    async def _remove_all(self) -> None:
        router, self._router = self._router, _Router()
        for port, mapping in router.mapped.items():
            if router.igd is not None:
                await _in_thread(upnp.remove_port, router.igd, mapping.port_outside)
            elif router.gateway is not None:
                try:
                    await nat_pmp.map_port(router.gateway, port, port_outside=0, lifetime_s=0)
                except NoMapping as error:
                    log.info("mapping left port=%d why=%s", port, error)

    def _tell(self, reach: Reach) -> None:
        if reach != self.reach:
            self.reach = reach
            log.info("reach how=%s address=%s why_not=%s", reach.how, reach.address, reach.why_not)
            self._on_change(reach)


async def _in_thread(call: Callable[..., T], *args: Any) -> T:
    """A blocking call to a router, left behind when we are told to stop: it has its own timeout."""
    return await trio.to_thread.run_sync(call, *args, abandon_on_cancel=True)


def _wanted(before: Mapping[int, Mapped], port: int) -> int:
    return before[port].port_outside if port in before else port


def _public(address: str) -> str:
    if not is_public(address) or ":" in address:  # an IPv6 address has no mapped ports
        raise NoMapping(
            f"the router's own address {address} is not on the internet: the provider shares one among "
            "customers, or there is a second router; a peer that both sides can reach relays nevertheless"
        )
    return address


def _reach(address: str, mapped: dict[int, Mapped], how: str) -> Reach:
    ports = tuple((port, mapping.port_outside) for port, mapping in mapped.items())
    return Reach(address=address, ports=ports, how=how)
