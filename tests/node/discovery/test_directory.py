"""Whom to dial, when and where, and why a peer is not there: the pure rules."""

from dataclasses import replace

import pytest

from tests.node.discovery.harness import HOME, MOVED, OWN, Clock, connection, dialled
from unhosted.node.core.addresses import KnownAddress
from unhosted.node.core.directory import step
from unhosted.node.core.directory_events import (
    AddressesTold,
    Dial,
    DialSucceeded,
    NetworksChanged,
    NoteAddress,
    PeerHeard,
    PeerLeft,
)
from unhosted.node.core.directory_state import (
    DIAL_ADDRESSES_MAX,
    DIALS_MAX,
    FRESH_PAUSE_NS,
    PAUSE_MAX_NS,
    PAUSE_SEEN_MAX_NS,
    POLITE_NS,
    SECOND_NS,
    SIGHT_NS,
    SIGHTS_PER_PEER_MAX,
    STRANGERS_MAX,
    STRANGERS_PER_HOST_MAX,
)


def test_a_paired_peer_that_is_heard_is_dialled_at_once() -> None:
    clock = Clock()
    clock.book("P")
    clock.tick()
    clock.fail("P")
    clock.tick(60)
    clock.fail("P")
    clock.now_ns += FRESH_PAUSE_NS
    clock.heard("P")
    assert clock.tick() == (Dial(peer="P", addresses=(HOME,)),)
    assert clock.tick(60) == ()  # one try at a time


def test_a_stranger_is_never_dialled() -> None:
    clock = Clock()
    clock.heard("S")
    assert clock.tick() == clock.tick(10) == ()
    assert "unhosted pair" in clock.why("S")


@pytest.mark.parametrize(("peer", "is_first"), [("P", True), ("A", False)])
def test_of_two_that_see_each_other_the_smaller_id_dials_first(peer: str, is_first: bool) -> None:
    clock = Clock()
    clock.book(peer)
    assert clock.tick() == (Dial(peer=peer, addresses=()),)  # perhaps a relay knows it
    clock.fail(peer)
    clock.heard(peer)
    for _ in range(2):  # first when it is seen, then when a connection broke
        assert (dialled(clock.tick()) == [peer]) is is_first
        clock.now_ns += POLITE_NS
        assert (dialled(clock.tick()) == [peer]) is not is_first
        clock.live[peer] = connection(peer)
        clock.tell(DialSucceeded(peer=peer))
        clock.tick()
        clock.live.clear()


def test_pauses_grow_to_an_end_and_are_shorter_while_the_peer_is_heard() -> None:
    for is_heard, longest_ns in ((True, PAUSE_SEEN_MAX_NS), (False, PAUSE_MAX_NS)):
        clock = Clock()
        clock.book("P", known=(HOME,))
        pauses = []
        for _ in range(12):
            if is_heard:
                clock.heard("P")
            assert dialled(clock.tick()) == ["P"]
            clock.fail("P")
            pauses.append(clock.record("P").next_try_at_ns - clock.now_ns)
            clock.now_ns = clock.record("P").next_try_at_ns
        assert pauses == sorted(pauses) and pauses[0] <= SECOND_NS and pauses[-1] == longest_ns


def test_a_peer_that_moved_is_found_by_its_id() -> None:
    clock = Clock()
    clock.book("P", known=(HOME,))
    clock.tick()
    clock.fail("P", "no way there")
    clock.now_ns += FRESH_PAUSE_NS
    clock.heard("P", MOVED, host="10.0.0.9")
    assert clock.tick() == (Dial(peer="P", addresses=(HOME, MOVED)),)
    clock.live["P"] = connection("P", MOVED)
    clock.tell(DialSucceeded(peer="P"))
    assert clock.tick() == (NoteAddress(peer="P", address=MOVED, source="observed"),)
    assert clock.record("P").known[0].address == MOVED
    assert clock.why("P") == ""


def test_a_new_address_does_not_wait_for_the_end_of_a_try_of_a_dead_one() -> None:
    clock = Clock()
    clock.book("P", known=(HOME,))
    clock.tick()
    clock.heard("P", MOVED)
    assert clock.tick() == ()
    assert clock.tick(FRESH_PAUSE_NS / SECOND_NS) == (Dial(peer="P", addresses=(HOME, MOVED)),)
    clock.heard("P", MOVED)
    assert clock.tick(5) == ()


def test_an_address_told_by_pairing_is_tried_at_once() -> None:
    clock = Clock()
    clock.book("P")
    clock.tick()
    clock.fail("P")
    clock.now_ns += FRESH_PAUSE_NS
    told = KnownAddress(address=MOVED, source="pairing", unix_s=5)
    clock.tell(AddressesTold(peer="P", addresses=(told,)))
    assert clock.tick() == (Dial(peer="P", addresses=(MOVED,)),)


def test_new_hints_again_and_again_do_not_make_it_dial_more_often_than_the_pause() -> None:
    clock = Clock()
    clock.book("P", known=(HOME,))
    tries = 0
    for number in range(200):
        clock.heard("P", f"/ip4/10.0.1.{number}/tcp/1")
        if dialled(clock.tick(0.1)):
            tries += 1
            clock.fail("P")
    assert tries <= 20 * SECOND_NS // FRESH_PAUSE_NS + 1


def test_a_silent_peer_is_gone_within_thirty_seconds() -> None:
    clock = Clock()
    clock.heard("S")
    clock.tick(SIGHT_NS / SECOND_NS - 0.1)
    assert "S" in clock.state.records
    clock.tick(0.2)
    assert "S" not in clock.state.records and SIGHT_NS < 29 * SECOND_NS


def test_nobody_is_believed_for_longer_than_we_would_be() -> None:
    clock = Clock()
    clock.tell(
        PeerHeard(
            peer="S", host="h", network="eth0", name="s", version="", addresses=(HOME,), lifetime_ns=10**18
        )
    )
    clock.tick(SIGHT_NS / SECOND_NS)
    assert "S" not in clock.state.records


def test_a_goodbye_takes_back_what_that_host_said_and_no_more() -> None:
    clock = Clock()
    clock.heard("S", HOME, host="one")
    clock.heard("S", MOVED, host="two")
    clock.tell(PeerLeft(peer="S", host="one"))
    assert [sight.host for sight in clock.record("S").sights] == ["two"]
    clock.tell(PeerLeft(peer="S", host="two"))
    assert clock.state.records == {}


def test_what_was_heard_on_a_network_that_is_gone_is_forgotten() -> None:
    clock = Clock()
    clock.book("P")
    clock.heard("P", network="wlan0")
    clock.heard("S", network="wlan0")
    clock.heard("S", MOVED, host="10.0.0.9", network="eth0")
    clock.tell(NetworksChanged(networks=frozenset({"eth0"})))
    assert clock.record("P").sights == () and [sight.network for sight in clock.record("S").sights] == [
        "eth0"
    ]


def test_a_link_local_address_is_kept_with_its_link() -> None:
    address = "/ip6zone/eth0/ip6/fe80::5/tcp/8643"
    clock = Clock()
    clock.book("P")
    clock.heard("P", address)
    clock.live["P"] = connection("P", "/ip6/fe80::5/tcp/8643")
    assert clock.tick() == (NoteAddress(peer="P", address=address, source="observed"),)


def test_a_lost_connection_is_dialled_again_where_it_stood() -> None:
    clock = Clock()
    clock.book("P", known=(HOME,))
    clock.tick()
    clock.live["P"] = connection("P")
    clock.tell(DialSucceeded(peer="P"))
    clock.tick()
    assert clock.tick(3600) == ()
    clock.live.clear()
    assert clock.tick(1) == (
        NoteAddress(peer="P", address=HOME, source="observed"),
        Dial(peer="P", addresses=(HOME,)),
    )


def test_who_calls_from_a_new_address_may_be_called_there_at_its_old_port() -> None:
    clock = Clock()
    clock.book("P", known=(HOME,))
    clock.live["P"] = connection("P", "/ip4/10.0.0.9/tcp/51234", outbound=False)
    clock.tick()
    assert MOVED in [entry.address for entry in clock.record("P").known]
    assert not any(entry.address.endswith("51234") for entry in clock.record("P").known)


def test_a_way_around_a_relay_is_looked_for_now_and_then() -> None:
    clock = Clock()
    clock.book("P", known=(HOME,))
    clock.live["P"] = connection("P", "/ip4/1.1.1.1/tcp/1/p2p/R/p2p-circuit", path="relay via R")
    assert dialled(clock.tick()) == ["P"]
    clock.fail("P")
    assert clock.why("P") == ""
    assert dialled(clock.tick(PAUSE_MAX_NS / SECOND_NS - 1)) == []
    assert dialled(clock.tick(1)) == ["P"]
    clock.live["P"] = connection("P")
    clock.tell(DialSucceeded(peer="P"))
    assert dialled(clock.tick(1000)) == []


def test_another_network_of_ours_is_a_reason_to_try_again_at_once() -> None:
    clock = Clock()
    clock.book("P", known=(HOME,))
    for _ in range(8):
        clock.now_ns = max(clock.now_ns, clock.record("P").next_try_at_ns)
        clock.tick()
        clock.fail("P")
    assert dialled(clock.tick(1)) == []
    clock.tell(NetworksChanged(networks=frozenset({"eth0"})))
    assert dialled(clock.tick()) == ["P"]


def test_no_more_tries_run_at_once_than_allowed_and_each_gets_its_turn() -> None:
    clock = Clock(own="A")
    peers = [f"P{number:02d}" for number in range(3 * DIALS_MAX)]
    clock.book(*peers, known=(HOME,))
    tried: list[str] = []
    for _ in range(3):
        now = dialled(clock.tick())
        assert len(now) == DIALS_MAX
        tried += now
        for peer in now:
            clock.fail(peer)
    assert sorted(tried) == peers


def test_one_host_cannot_fill_the_table() -> None:
    clock = Clock()
    for number in range(1000):
        clock.heard(f"S{number}", host="liar")
    assert len(clock.state.records) == STRANGERS_PER_HOST_MAX
    clock.heard("honest", host="other")
    assert "honest" in clock.state.records


def test_a_host_over_its_share_pushes_nobody_out_of_a_full_table() -> None:
    clock = Clock()
    for number in range(STRANGERS_MAX):
        clock.heard(f"S{number}", host=f"host {number // STRANGERS_PER_HOST_MAX}")
    before = set(clock.state.records)
    clock.heard("one more", host="host 0")
    assert set(clock.state.records) == before


def test_a_full_table_takes_the_newcomer_and_drops_from_the_host_with_most() -> None:
    clock = Clock()
    for number in range(10):
        clock.heard(f"liar {number}", host="liar")
    for number in range(STRANGERS_MAX - 10):
        clock.heard(f"S{number}", host=f"host {number}")
    clock.heard("newcomer", host="newcomer")
    assert "newcomer" in clock.state.records and "liar 0" not in clock.state.records
    assert len(clock.state.records) == STRANGERS_MAX


def test_a_flood_does_not_touch_paired_peers_and_their_proven_addresses() -> None:
    clock = Clock()
    clock.book("P", known=(HOME,))
    for number in range(500):
        clock.heard("P", f"/ip4/10.1.{number // 250}.{number % 250}/tcp/1", host=f"host {number}")
        clock.heard(f"S{number}", host=f"host {number}")
    (dial,) = clock.tick()
    assert isinstance(dial, Dial) and HOME in dial.addresses and len(dial.addresses) <= DIAL_ADDRESSES_MAX


def test_half_of_a_try_is_for_addresses_that_were_right_before() -> None:
    clock = Clock()
    known = tuple(f"/ip4/10.9.0.{number}/tcp/1" for number in range(1, 12))
    clock.book("P", known=known)
    for host in range(SIGHTS_PER_PEER_MAX + 2):
        clock.heard("P", *(f"/ip4/10.1.{host}.{number}/tcp/1" for number in range(20)), host=str(host))
    (dial,) = clock.tick()
    assert isinstance(dial, Dial)
    assert len(set(dial.addresses) & set(known)) == DIAL_ADDRESSES_MAX // 2


@pytest.mark.parametrize(
    "address",
    [
        *["/ip4/127.0.0.1/tcp/1", "/ip4/0.0.0.0/tcp/1", "/ip4/224.0.0.1/tcp/1", "/ip4/255.255.255.255/tcp/1"],
        *["/ip6/::1/tcp/1", "/ip6/fe80::1/tcp/1", "/ip6/ff02::1/tcp/1", "/ip6/::ffff:10.0.0.1/tcp/1"],
        *["/ip4/10.0.0.1/tcp/0", "/ip4/10.0.0.1/tcp/65536", "/ip4/10.0.0.1/udp/1", "/ip4/10.0.0.1/tcp/1/ws"],
        *["/ip4/10.0.0.256/tcp/1", "/ip6zone/a b/ip6/fe80::1/tcp/1", "", "/", "10.0.0.1:1", "/ip4//tcp/1"],
    ],
)
def test_what_cannot_be_another_machine_is_not_taken_for_one(address: str) -> None:
    clock = Clock()
    clock.heard("S", address)
    assert clock.state.records == {}


def test_this_machine_is_no_peer_of_itself() -> None:
    clock = Clock()
    clock.heard(OWN)
    clock.book(OWN)
    assert clock.state.records == {}


def test_an_unpaired_peer_that_is_heard_stays_as_a_stranger_and_is_not_dialled() -> None:
    clock = Clock()
    clock.book("P", known=(HOME,))
    clock.heard("P")
    clock.book()
    assert clock.tick(5) == () and clock.record("P").known == ()


def test_why_not_names_the_cause_and_the_next_step() -> None:
    clock = Clock()
    clock.book("P")
    assert "no address of it is known" in clock.why("P") and "unhosted serve" in clock.why("P")
    clock.heard("P")
    clock.tick()
    assert clock.why("P") == "connecting to 10.0.0.5:8643"
    clock.fail("P", "10.0.0.5:8643: no answer in 8 s")
    said = clock.why("P")
    assert "seen on this network at 10.0.0.5:8643, but 10.0.0.5:8643: no answer" in said
    assert "firewall" in said and "next try in 1 s" in said
    clock.tell(PeerLeft(peer="P", host="10.0.0.5"))
    clock.tell(AddressesTold(peer="P", addresses=(KnownAddress(address=HOME, source="told", unix_s=1),)))
    assert "not seen on this network; " in clock.why("P") and "is name of P on" in clock.why("P")


def test_a_broken_table_stops_the_program() -> None:
    clock = Clock()
    clock.heard("S")
    broken = replace(clock.state, records={"S": replace(clock.record("S"), sights=())})
    with pytest.raises(Exception, match="neither paired nor seen"):
        step(broken, DialSucceeded(peer="another"), 0)
