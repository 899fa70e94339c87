"""Two machines behind two routers reach each other through a third one, which reads nothing of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.lab import PUBLIC, Lab
from tests.netns.peer import Peer, Triangle, send_plain

pytestmark = pytest.mark.slow

PROMPT = "what only the two of us may read"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


@pytest.fixture(scope="module")
def triangle(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Triangle:
    return Triangle(lab, tmp_path_factory.mktemp("keys"))


@pytest.fixture
def there(triangle: Triangle) -> Triangle:
    triangle.gather()
    return triangle


@pytest.fixture(scope="module")
def stranger(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Peer:
    return Peer(lab.host("stranger", segment=PUBLIC), tmp_path_factory.mktemp("stranger"))


def test_peers_behind_two_routers_meet_through_a_third(there: Triangle) -> None:
    assert there.meet()["path"] == f"relay via {there.relay.peer}"
    assert there.laptop("echo", there.desktop.peer, PROMPT) == {"came": len(PROMPT)}
    assert there.relay("circuits") == [[there.laptop.peer, there.desktop.peer]]
    # It works the other way too, over the same circuit.
    assert there.desktop("connections")[there.laptop.peer] == f"relay via {there.relay.peer}"
    assert there.desktop("echo", there.laptop.peer, PROMPT) == {"came": len(PROMPT)}


def test_addresses_that_lead_nowhere_do_not_keep_the_relay_from_being_tried(there: Triangle) -> None:
    there.laptop("pair", there.desktop.peer)
    there.desktop("pair", there.laptop.peer)
    nowhere = [*there.desktop.addresses, f"/ip4/{there.work.address}/tcp/8643"]
    assert there.laptop("connect", there.desktop.peer, nowhere)["path"].startswith("relay via")


def test_a_circuit_ends_with_either_end(there: Triangle) -> None:
    there.meet()
    there.laptop.talk.kill()
    there.desktop("gone", there.laptop.peer)
    there.relay("gone", there.laptop.peer)
    assert there.relay("circuits") == []
    there.laptop.start()


def test_the_relay_reads_nothing(there: Triangle) -> None:
    there.relay("record")
    with there.relay.host.capture() as wire:
        there.meet()
        there.laptop("echo", there.desktop.peer, PROMPT, 50)
        passed = there.relay("passed", PROMPT)
        assert passed["found"] == 0 and passed["bytes"] > 100 * len(PROMPT)
        # The control: the same words without encryption, once through a circuit and once past the relay's
        # interface, so that both searches have something to find.
        there.laptop("plant", there.relay.peer, there.desktop.peer, PROMPT)
        send_plain(there.laptop.host, there.relay.host, PROMPT.encode())
    assert there.relay("passed", PROMPT)["found"] == 1
    assert wire.count(PROMPT.encode()) == 1


def test_strangers_cannot_use_a_relay(there: Triangle, stranger: Peer) -> None:
    stranger("pair", there.relay.peer)
    stranger("pair", there.desktop.peer)
    there.desktop("pair", stranger.peer)
    stranger("connect", there.relay.peer, [f"/ip4/{there.relay.host.address}/tcp/8643"])
    # It cannot even open the protocol; and it is not reached through the relay either.
    assert "error" in stranger.talk.ask(["hop", there.relay.peer, "020800"])
    assert "p2p-circuit" in stranger.fails("connect", there.desktop.peer, [])
    assert "not paired with" in there.desktop.fails("connect", stranger.peer, [])
    assert there.relay("circuits") == []


def test_a_peer_that_is_not_ours_is_not_let_through(there: Triangle) -> None:
    there.laptop("pair", there.desktop.peer)  # the desktop knows nothing of it
    assert "not paired with" in there.laptop.fails("connect", there.desktop.peer, [])
    assert there.laptop.peer not in there.desktop("connections")


def test_unpairing_ends_a_circuit_at_once(there: Triangle) -> None:
    there.meet()
    there.relay("unpair", there.desktop.peer)
    there.laptop("gone", there.desktop.peer)
    assert there.relay("circuits") == []
    assert "not paired with" in there.laptop.fails("connect", there.desktop.peer, [])


def test_garbage_on_hop_is_answered_and_the_relay_goes_on(there: Triangle) -> None:
    malformed, unexpected = "0502080228" + "9003", "2891" + "03"
    for payload in ("03ffffff", "00", "ffffff7f", "020809"):
        assert there.laptop("hop", there.relay.peer, payload)["came"].endswith(malformed[-6:]), payload
    assert there.laptop("hop", there.relay.peer, "020801")["came"].endswith(unexpected)
    assert there.meet()["path"].startswith("relay via")


def test_limits_of_bytes_and_of_circuits(tmp_path: Path) -> None:
    with Lab() as lab:
        there = Triangle(lab, tmp_path, circuit_bytes_max=200_000, circuits_max=1)
        there.meet()
        assert there.laptop("echo", there.desktop.peer, "x" * 50_000, 2) == {"came": 100_000}
        third = Peer(lab.host("third", segment=PUBLIC), tmp_path)
        third.join(there.relay)
        third("pair", there.desktop.peer)
        there.desktop("pair", third.peer)
        assert "as many circuits" in third.fails("connect", there.desktop.peer, [])
        # Two more of 50,000 bytes and the overhead are past the limit; a new circuit has a new one.
        assert there.laptop.fails("echo", there.desktop.peer, "x" * 50_000, 4)
        there.laptop("gone", there.desktop.peer)
        there.meet()
        assert there.laptop("echo", there.desktop.peer, PROMPT) == {"came": len(PROMPT)}
