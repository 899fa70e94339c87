"""What routers, or whoever answers in their place, may say."""

import pytest
import trio

from unhosted.node.shell.reach import mapping, upnp
from unhosted.node.shell.reach.mapping import PortMapping, Reach
from unhosted.node.shell.reach.nat_pmp import Mapped


def test_a_router_that_tells_an_ipv6_address_maps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Told to peers as an IPv4 address it would be none, and that would end the node."""
    monkeypatch.setattr(mapping, "find_gateway", lambda: None)
    monkeypatch.setattr(upnp, "find_igd", lambda: upnp.Igd(device=None, address_inside="192.168.1.2"))
    monkeypatch.setattr(upnp, "external_address", lambda igd: "2606:4700::1111")
    monkeypatch.setattr(
        upnp, "map_port", lambda igd, port, **_: Mapped(port_inside=port, port_outside=port, lifetime_s=60)
    )
    monkeypatch.setattr(upnp, "remove_port", lambda igd, port: None)
    told: list[Reach] = []

    async def main() -> None:
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:

                def tell(reach: Reach) -> None:
                    told.append(reach)
                    nursery.cancel_scope.cancel()

                nursery.start_soon(PortMapping([8643], on_change=tell).run)

    trio.run(main)
    assert not told[0].works and told[0].multiaddr(8643) is None
    assert "2606:4700::1111" in told[0].why_not
