"""Ports of a real router (miniupnpd) by NAT-PMP and by UPnP, and ports that the user forwards by hand."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.lab import PUBLIC, Host, Lab, Nat
from tests.netns.router import forwarded, give_ports
from tests.netns.talk import Talk

pytestmark = pytest.mark.slow

MAPPING = """
import json, sys, trio
from unhosted.node.shell.reach.mapping import PortMapping

def tell(reach):
    print(json.dumps([reach.how, reach.multiaddr(8643), reach.multiaddr(8644), reach.why_not]), flush=True)

async def main():
    async with trio.open_nursery() as nursery:
        await nursery.start(PortMapping([8643, 8644], on_change=tell).run)
        await trio.to_thread.run_sync(sys.stdin.readline)
        nursery.cancel_scope.cancel()

trio.run(main)
print("[]", flush=True)
"""


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


def behind(lab: Lab, *hosts: Host) -> Nat:
    return lab.nat("router", behind=hosts)


def reaches(outside: Host, address: str, port: int) -> bool:
    with outside.socket(timeout_s=1) as sock:
        return sock.connect_ex((address, port)) == 0


def listen(host: Host, port: int) -> socket.socket:
    server = host.socket()
    server.bind(("0.0.0.0", port))
    server.listen()
    return server


def end(mapping: Talk) -> None:
    assert mapping.ask("end") == []


@pytest.mark.parametrize("how", ["nat-pmp", "upnp"])
def test_the_router_sends_the_ports_here_until_we_stop(lab: Lab, tmp_path: Path, how: str) -> None:
    inside, outside = lab.host("in"), lab.host("out", segment=PUBLIC)
    router = behind(lab, inside)
    give_ports(router, tmp_path, nat_pmp=how == "nat-pmp", upnp=how == "upnp")
    with listen(inside, 8643):
        assert not reaches(outside, router.address, 8643)
        mapping = inside.python(MAPPING)
        ports = [f"/ip4/{router.address}/tcp/{port}" for port in (8643, 8644)]
        assert mapping.hear() == [how, *ports, ""]
        assert reaches(outside, router.address, 8643)
        end(mapping)
        assert "dnat" not in forwarded(router)
        assert not reaches(outside, router.address, 8643)


@pytest.mark.parametrize("how", ["nat-pmp", "upnp"])
def test_a_second_machine_gets_other_ports(lab: Lab, tmp_path: Path, how: str) -> None:
    one, two = lab.host("one"), lab.host("two")
    router = behind(lab, one, two)
    give_ports(router, tmp_path, nat_pmp=how == "nat-pmp", upnp=how == "upnp")
    first = one.python(MAPPING)
    told = first.hear()
    second = two.python(MAPPING)
    others = second.hear()
    assert others[0] == how and len({*told[1:3], *others[1:3]}) == 4
    end(second)
    assert forwarded(router).count("dnat") == 2
    end(first)


def test_a_router_without_either_is_named_as_the_reason(lab: Lab) -> None:
    inside = lab.host("in")
    behind(lab, inside)
    how, peers, models, why = inside.python(MAPPING).hear()
    assert (how, peers, models) == ("", None, None)
    assert "does not answer NAT-PMP" in why or "refuses NAT-PMP" in why
    assert "UPnP: no router answers" in why


def test_no_router_at_all(lab: Lab) -> None:
    assert "no default route" in lab.host("alone").python(MAPPING).hear()[3]
