"""The laboratory itself: what the other tests in namespaces rely on."""

import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.lab import PUBLIC, Host, Lab, environment
from tests.netns.node import Node

pytestmark = pytest.mark.slow

ECHO = """
import json, socket, sys, threading
family = socket.AF_INET6 if sys.argv[1] == "6" else socket.AF_INET
server = socket.create_server(("::" if sys.argv[1] == "6" else "0.0.0.0", 7000), family=family)
print(json.dumps({"up": True}), flush=True)
def answer(peer, words):
    with peer:
        peer.sendall(peer.recv(65536)[::-1] + words)
while True:
    peer, address = server.accept()
    words = f" {address[0]} {address[1]}".encode()
    threading.Thread(target=answer, args=(peer, words)).start()
"""


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


def echo_on(host: Host, *, six: bool = False) -> None:
    host.python(ECHO, "6" if six else "4").hear()


def heard(host: Host, address: str) -> str:
    """As `ask`, until it is answered: after a change the neighbours have to find each other again."""
    for _ in range(20):
        if answer := ask(host, address):
            return answer
    return ""


def ask(host: Host, address: str, *, timeout_s: float = 0.5, local_port: int = 0) -> str:
    """What the echo says: the word backwards, and the address and port it saw. Empty if nothing came back."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with host.socket(family, timeout_s=timeout_s) as sock:
        try:
            sock.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", local_port))
            sock.connect((address, 7000))
            sock.sendall(b"abc")
            return sock.recv(100).decode()
        except OSError:
            return ""


def test_hosts_hear_each_other_and_nothing_else(lab: Lab) -> None:
    a, b = lab.host("a"), lab.host("b", default_route=True)
    echo_on(b)
    assert ask(a, b.address).startswith(f"cba {a.address}")
    assert a.ip("route show default") == "" and b.ip("route show default") != ""
    assert a.ip("-6 address show dev eth0") == ""


def test_hosts_with_ipv6_alone() -> None:
    with Lab(ipv4=False, ipv6=True) as lab:
        a, b = lab.host("a"), lab.host("b")
        echo_on(b, six=True)
        assert ask(a, b.address6).startswith(f"cba {a.address6}")
        assert b.ip("-4 address show dev eth0") == ""


def test_a_pulled_cable_and_a_plugged_one(lab: Lab) -> None:
    a, b = lab.host("a"), lab.host("b")
    echo_on(b)
    lab.link_down(b)
    assert "NO-CARRIER" in b.ip("link show eth0") and ask(a, b.address) == ""
    lab.link_up(b)
    assert heard(a, b.address)


def test_a_partition_and_its_end(lab: Lab) -> None:
    a, b, c = (lab.host(name) for name in "abc")
    echo_on(b)
    echo_on(c)
    lab.partition([a, b], [c])
    assert ask(a, b.address) and not ask(a, c.address)
    lab.heal()
    assert heard(a, c.address)


def test_a_bad_cable_delays_and_loses(lab: Lab) -> None:
    a, b = lab.host("a"), lab.host("b")
    echo_on(b)
    lab.netem(a, delay_ms=100)
    begun = time.monotonic()
    assert ask(a, b.address, timeout_s=5)
    assert time.monotonic() - begun >= 0.2  # two round trips: the connection, and the word
    assert sum(datagrams(a, b, 200)) == 200
    lab.netem(a, loss_percent=30)
    got = sum(datagrams(a, b, 500))
    assert 250 < got < 450
    lab.link_down(a)
    assert not ask(a, b.address)
    lab.link_up(a)
    lab.netem(a)
    assert sum(datagrams(a, b, 100)) == 100


def datagrams(a: Host, b: Host, count: int) -> list[bool]:
    """Which of `count` datagrams from a to b arrive."""
    with b.socket(kind=socket.SOCK_DGRAM, timeout_s=0.5) as to, a.socket(kind=socket.SOCK_DGRAM) as sender:
        to.bind(("0.0.0.0", 0))
        came = [False] * count
        for at in range(count):
            sender.sendto(at.to_bytes(4, "big"), (b.address, to.getsockname()[1]))
        while not came[-1] or count > 1:
            try:
                came[int.from_bytes(to.recv(16), "big")] = True
            except TimeoutError:
                break
        return came


def test_a_slow_cable(lab: Lab) -> None:
    a, b = lab.host("a"), lab.host("b")
    lab.netem(a, rate_mbit=8)
    size = 600_000
    with b.socket() as server, a.socket() as client:
        server.bind(("0.0.0.0", 7000))
        server.listen()
        client.connect((b.address, 7000))
        peer = server.accept()[0]
        begun, left = time.monotonic(), size
        client.setblocking(False)
        sent = 0
        while left:
            ready, room, _ = select.select([peer], [client] if sent < size else [], [], 5)
            if room:
                sent += client.send(bytes(min(16384, size - sent)))
            if ready:
                left -= len(peer.recv(65536))
        took = time.monotonic() - begun
        peer.close()
    assert took >= (size - 200_000) * 8 / 8e6


@pytest.mark.parametrize("kind", ["port_preserving", "random"])
def test_a_nat_lets_out_and_not_in(lab: Lab, kind: str) -> None:
    inside, outside = lab.host("in"), lab.host("out", segment=PUBLIC)
    router = lab.nat("n", behind=[inside], kind=kind)
    echo_on(inside)
    echo_on(outside)
    _, seen_address, seen_port = ask(inside, outside.address, local_port=4100).split()
    assert seen_address == router.address
    assert (seen_port == "4100") == (kind == "port_preserving")
    assert ask(outside, router.address) == ""
    router.forward(7000, inside)
    assert heard(outside, router.address).startswith(f"cba {outside.address}")


def test_a_capture_finds_what_went_by_and_only_that(lab: Lab) -> None:
    a, b = lab.host("a"), lab.host("b")
    echo_on(b)
    with b.capture() as seen:
        assert ask(a, b.address)
    assert seen.count(b"cba " + a.address.encode()) == 1
    assert seen.count(b"never sent") == 0
    assert seen.size_bytes > 0


def test_nothing_is_left_when_the_tests_are_killed() -> None:
    code = (
        "import time\nfrom tests.netns.lab import Lab\nlab = Lab().__enter__()\na = lab.host('a')\n"
        "print(a.popen(['sleep', '600']).pid, lab._holder.pid, flush=True)\ntime.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], env=environment(), stdout=subprocess.PIPE, text=True
    ) as tests:
        assert tests.stdout is not None
        handles = [os.pidfd_open(int(pid)) for pid in tests.stdout.readline().split()]
        tests.kill()
    for handle in handles:
        assert select.select([handle], [], [], 20)[0], "still there"
        os.close(handle)


def test_a_node_starts_is_killed_and_starts_again(lab: Lab, tmp_path: Path) -> None:
    node = Node(lab.host("a"), tmp_path / "home").start()
    assert node.get("/health")
    node.kill()
    node.start()
    assert node.get("/api/status")["version"]
    assert node.stop() == 0


def test_an_ordinary_user_has_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)  # so that it asks for a user namespace
    with Lab() as lab:
        inside, outside = lab.host("in"), lab.host("out", segment=PUBLIC)
        router = lab.nat("n", behind=[inside])
        echo_on(outside)
        lab.netem(inside, delay_ms=10, rate_mbit=100)
        lab.partition([inside], [outside])
        lab.heal()
        assert ask(inside, outside.address).split()[1] == router.address
        with outside.capture() as seen:
            assert ask(inside, outside.address)
        assert seen.count(b"cba " + router.address.encode()) == 1
