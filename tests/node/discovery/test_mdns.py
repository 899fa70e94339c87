"""Nodes in network namespaces find each other, over real cables with real packets."""

import ipaddress
import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.netns.lab import Host, Lab
from tests.netns.talk import Talk
from unhosted.node.shell.discovery.announcement import (
    SERVICE,
    Announcement,
    Claim,
    decode_packet,
    encode_announcement,
    encode_query,
)
from unhosted.node.shell.discovery.mdns import SCAN_EVERY_S

pytestmark = pytest.mark.slow

GROUP, PORT = "224.0.0.251", 5353
FOUND_S, DROPPED_S = 3.0, 30.0
CLAIM_S = 20.0
"""Twice what lies between two announcements, and some."""

NOBODY = Announcement(label="unhosted-000000000000", peer="12D3KooW" + "Z" * 44, name="", version="", port=1)


class Node:
    """A running node, its id, and the last that it told."""

    def __init__(
        self, host: Host, folder: Path, *, interfaces: tuple[str, ...] = (), connects: bool = False
    ) -> None:
        folder.mkdir(exist_ok=True)
        settings = {
            "name": host.name,
            "folder": str(folder),
            "interfaces": interfaces,
            "connects": connects,
        }
        self.host = host
        self.talk: Talk = host.python("tests.node.discovery.node", json.dumps(settings))
        up = self.talk.hear()
        self.peer: str = up["up"]
        self.up_at: float = up["at"]
        self.last: dict[str, Any] = {"seen": {}, "connected": {}, "why_not": {}}

    def until(self, is_so: Callable[[dict[str, Any]], bool], *, timeout_s: float = 40.0) -> float:
        """When it first told so."""
        ends = time.monotonic() + timeout_s
        while not is_so(self.last):
            said = self.talk.hear(timeout_s=max(0.1, ends - time.monotonic()))
            if "seen" in said:
                self.last = said
        return float(self.last.get("at", 0.0))

    def until_sees(self, other: "Node | str") -> float:
        peer = other if isinstance(other, str) else other.peer
        return self.until(lambda said: peer in said["seen"])

    def until_lost(self, other: "Node") -> float:
        return self.until(lambda said: other.peer not in said["seen"])

    def addresses_of(self, other: "Node") -> set[str]:
        return set(self.last["seen"][other.peer][1:])

    def pair(self, other: "Node") -> None:
        self.talk.say({"pair": other.peer, "name": other.host.name})

    def problems(self) -> list[str]:
        self.talk.say({"problems": True})
        while True:
            said = self.talk.hear()
            if "problems" in said:
                return list(said["problems"])
            self.last = said


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


def mdns_socket(host: Host) -> socket.socket:
    """A socket of the host on the multicast group, held by the test."""
    sock = host.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    own = socket.inet_aton(host.address)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(GROUP) + own)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, own)
    sock.bind((GROUP, PORT))
    return sock


def next_claim(sock: socket.socket, is_meant: Callable[[Claim], bool]) -> Claim:
    ends = time.monotonic() + CLAIM_S
    while (left := ends - time.monotonic()) > 0:
        sock.settimeout(left)
        for claim in decode_packet(sock.recv(9001), NOBODY).claims:
            if is_meant(claim):
                return claim
    raise AssertionError("nobody says that")


def test_nodes_without_a_default_route_find_and_lose_each_other(lab: Lab, tmp_path: Path) -> None:
    a = Node(lab.host("a"), tmp_path / "a")
    b = Node(lab.host("b"), tmp_path / "b")
    c = Node(lab.host("c"), tmp_path / "c")
    assert a.until_sees(c) - c.up_at < FOUND_S and b.until_sees(c) - c.up_at < FOUND_S
    c.until_sees(a)
    assert c.until_sees(b) - c.up_at < FOUND_S
    assert a.last["seen"][c.peer][0] == "c" and a.addresses_of(c) == {f"/ip4/{c.host.address}/tcp/8643"}
    stopped_at = time.monotonic()
    assert b.talk.stop() == 0
    assert a.until_lost(b) - stopped_at < FOUND_S  # it says goodbye
    killed_at = time.monotonic()
    c.talk.kill()
    assert a.until_lost(c) - killed_at < DROPPED_S


def test_paired_nodes_connect_over_ipv6_alone_and_again_after_a_kill(tmp_path: Path) -> None:
    with Lab(ipv4=False, ipv6=True) as lab:
        a, b = (
            Node(lab.host("a"), tmp_path / "a", connects=True),
            Node(lab.host("b"), tmp_path / "b", connects=True),
        )
        a.until_sees(b)
        found = a.addresses_of(b)
        assert f"/ip6/{b.host.address6}/tcp/8643" in found
        assert any(address.startswith("/ip6zone/eth0/ip6/fe80::") for address in found)
        a.pair(b)
        b.pair(a)
        a.until(lambda said: b.peer in said["connected"])
        b.until(lambda said: a.peer in said["connected"])
        b.talk.kill()
        a.until(lambda said: b.peer not in said["connected"])
        assert "b" in a.last["why_not"] and a.last["why_not"]["b"]
        b = Node(b.host, tmp_path / "b", connects=True)
        a.until(lambda said: b.peer in said["connected"])


def test_a_link_local_address_alone_is_enough(tmp_path: Path) -> None:
    with Lab(ipv4=False, ipv6=True) as lab:
        hosts = [lab.host("a"), lab.host("b")]
        for host in hosts:
            host.ip(f"address del {host.address6}/64 dev eth0")
        a, b = Node(hosts[0], tmp_path / "a", connects=True), Node(hosts[1], tmp_path / "b", connects=True)
        a.pair(b)
        b.pair(a)
        a.until(lambda said: b.peer in said["connected"])
        assert "/ip6/fe80::" in a.last["connected"][b.peer]


def test_a_paired_node_whose_address_changes_is_found_again(lab: Lab, tmp_path: Path) -> None:
    a, b = (
        Node(lab.host("a"), tmp_path / "a", connects=True),
        Node(lab.host("b"), tmp_path / "b", connects=True),
    )
    a.pair(b)
    b.pair(a)
    a.until(lambda said: b.peer in said["connected"])
    before = b.host.address
    with mdns_socket(a.host) as sock:
        lab.move(b.host, "lan", 77)
        moved_at = time.monotonic()
        now = ipaddress.ip_address(b.host.address)
        assert b.host.address != before
        next_claim(sock, lambda claim: claim.peer == b.peer and claim.addresses == (now,))
        # It speaks up at once, not when it is next due.
        assert time.monotonic() - moved_at < SCAN_EVERY_S + FOUND_S
    a.until(lambda said: f"/ip4/{now}/tcp/8643" in said["seen"].get(b.peer, ()))
    a.until(lambda said: b.host.address in said["connected"].get(b.peer, ""))


def test_only_the_chosen_interface_speaks_and_hears_and_tells_its_own_address(
    lab: Lab, tmp_path: Path
) -> None:
    both, left, right = lab.host("both"), lab.host("left"), lab.host("right", segment="other")
    lab.cable("both", "eth1", "x-both", "other")
    prefix, _ = lab.prefixes["other"]
    both.ip(f"address add {prefix}.99/24 dev eth1")
    both.ip("link set eth1 up")
    nodes = [Node(left, tmp_path / "left"), Node(right, tmp_path / "right")]
    chosen = Node(both, tmp_path / "both", interfaces=("eth1",))
    nodes[1].until_sees(chosen)
    assert nodes[1].addresses_of(chosen) == {f"/ip4/{prefix}.99/tcp/8643"}
    chosen.until_sees(nodes[1])
    chosen.talk.kill()
    named = Node(both, tmp_path / "both", interfaces=(both.address, "wlan9"))
    nodes[0].until_sees(named)
    named.until_sees(nodes[0])
    assert nodes[0].addresses_of(named) == {f"/ip4/{both.address}/tcp/8643"}
    assert nodes[1].peer not in named.last["seen"] and nodes[0].peer not in chosen.last["seen"]
    assert any("wlan9" in problem for problem in named.problems())
    named.talk.kill()
    with mdns_socket(left) as sock:  # without a choice it speaks on both, of each network's own address
        everywhere = Node(both, tmp_path / "both")
        claim = next_claim(sock, lambda claim: claim.peer == everywhere.peer)
        assert list(map(str, claim.addresses)) == [both.address]
        nodes[1].until_sees(everywhere)


def test_an_interface_that_goes_and_comes_back_is_used_again(lab: Lab, tmp_path: Path) -> None:
    a, b = Node(lab.host("a"), tmp_path / "a"), Node(lab.host("b"), tmp_path / "b")
    a.until_sees(b)
    a.host.ip("link del eth0")
    a.until(lambda said: said["seen"] == {})
    assert "no network interface is up" in a.problems()
    lab.cable("a", "wlan0", "p-a", "lan")
    a.host.ip("link set wlan0 up")
    a.host.ip(f"address add {a.host.address}/24 dev wlan0")
    a.until_sees(b)
    assert a.problems() == []


def test_liars_and_noise_do_not_hide_an_honest_node(lab: Lab, tmp_path: Path) -> None:
    a, liar, b = Node(lab.host("a"), tmp_path / "a"), lab.host("liar"), lab.host("b")
    alphabet = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz123456789"
    with mdns_socket(liar) as sock:
        for number in range(3000):
            tail = "".join(alphabet[(number // 58**place) % 58] for place in range(4))
            fake = Announcement(
                label=f"x{number}", peer="12D3KooW" + tail * 11, name="fake", version="", port=1
            )
            addresses = [ipaddress.ip_address(f"10.77.0.{number % 250}"), ipaddress.ip_address("8.8.8.8")]
            sock.sendto(encode_announcement(fake, addresses), (GROUP, PORT))
            sock.sendto(
                encode_announcement(fake, addresses)[: 40 + number % 300] + b"\xc0\x0c", (GROUP, PORT)
            )
            sock.sendto(encode_query(), (GROUP, PORT))
        b_node = Node(b, tmp_path / "b")
        a.until_sees(b_node)
    fakes = {peer: said for peer, said in a.last["seen"].items() if peer != b_node.peer}
    assert 0 < len(fakes) <= 16
    assert not any("8.8.8.8" in address for said in fakes.values() for address in said)


def test_who_takes_our_dns_name_makes_us_take_another(lab: Lab, tmp_path: Path) -> None:
    a, liar = Node(lab.host("a"), tmp_path / "a"), lab.host("liar")
    with mdns_socket(liar) as sock:
        sock.sendto(encode_query(), (GROUP, PORT))
        first = next_claim(sock, lambda claim: claim.peer == a.peer)
        label = first.instance.removesuffix("." + SERVICE)
        thief = Announcement(label=label, peer=NOBODY.peer, name="thief", version="", port=1)
        sock.sendto(encode_announcement(thief, [ipaddress.ip_address(liar.address)]), (GROUP, PORT))
        next_claim(sock, lambda claim: claim.peer == a.peer and claim.instance != first.instance)


def test_a_copied_identity_is_told_to_the_user(lab: Lab, tmp_path: Path) -> None:
    a = Node(lab.host("a"), tmp_path / "a")
    liar = lab.host("liar")
    with mdns_socket(liar) as sock:
        twin = Announcement(label="twin", peer=a.peer, name="twin", version="", port=1)
        sock.sendto(encode_announcement(twin, [ipaddress.ip_address(liar.address)]), (GROUP, PORT))
        sock.sendto(encode_query(), (GROUP, PORT))
        next_claim(sock, lambda claim: claim.peer == a.peer)  # it read the first packet before this one
    assert any("identity.key" in problem and liar.address in problem for problem in a.problems())
    assert a.last["seen"] == {}


ZEROCONF = """
import json, sys, threading
from zeroconf import ServiceBrowser, ServiceInfo, ServiceListener, Zeroconf
import socket
own, peer, service = sys.argv[1:]
class Listener(ServiceListener):
    def add_service(self, zc, kind, name):
        info = zc.get_service_info(kind, name, 3000)
        if info and info.properties.get(b"id") != peer.encode():
            text = {key.decode(): value.decode() for key, value in info.properties.items()}
            found = {"found": text, "addresses": info.parsed_addresses(), "port": info.port}
            print(json.dumps(found), flush=True)
    update_service = add_service
    def remove_service(self, zc, kind, name):
        print(json.dumps({"gone": name}), flush=True)
zc = Zeroconf(interfaces=[own])
info = ServiceInfo(service, "Other." + service, port=9, addresses=[socket.inet_aton(own)],
                   server="other.local.", properties={"id": peer, "name": "other", "v": "9"})
zc.register_service(info)
ServiceBrowser(zc, service, Listener())
sys.stdin.readline()
zc.close()
"""


def test_another_implementation_finds_us_and_is_found(lab: Lab, tmp_path: Path) -> None:
    a, other = Node(lab.host("a"), tmp_path / "a"), lab.host("other")
    talk = other.python(ZEROCONF, other.address, NOBODY.peer, SERVICE)
    found = talk.hear()
    assert found["found"] == {"id": a.peer, "v": "1", "name": "a"}
    assert (found["addresses"], found["port"]) == ([a.host.address], 8643)
    a.until_sees(NOBODY.peer)
    assert a.last["seen"][NOBODY.peer] == ["other", f"/ip4/{other.address}/tcp/9"]
    a.talk.stop()
    assert talk.hear()["gone"].endswith(SERVICE)
