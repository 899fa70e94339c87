"""Any events in any order: the rules of the directory hold, and nobody is forgotten."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tests.node.discovery.harness import Clock, connection, paired
from unhosted.node.core.addresses import KnownAddress
from unhosted.node.core.directory_events import (
    BookRead,
    Dial,
    DialFailed,
    DialSucceeded,
    NetworksChanged,
    PeerHeard,
    PeerLeft,
)
from unhosted.node.core.directory_state import DIAL_ADDRESSES_MAX, DIALS_MAX, SECOND_NS

PEERS = [f"P{number}" for number in range(12)]
ADDRESSES = [f"/ip4/10.0.0.{number}/tcp/8643" for number in range(1, 30)] + [
    "nonsense",
    "/ip4/127.0.0.1/tcp/1",
]
peers = st.sampled_from(PEERS)
addresses = st.lists(st.sampled_from(ADDRESSES), max_size=12).map(tuple)


class DirectoryMachine(RuleBasedStateMachine):
    """Any events in any order: dials go to paired peers that are not connected, one at a time each."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock("P5")
        self.paired: set[str] = set()
        self.dialling: dict[str, set[str]] = {}

    @rule(peer=peers, host=st.sampled_from("abcdefgh"), found=addresses, lifetime=st.integers(-1, 100))
    def hear(self, peer: str, host: str, found: tuple[str, ...], lifetime: int) -> None:
        lifetime_ns = lifetime * SECOND_NS
        event = PeerHeard(
            peer=peer,
            host=host,
            network="eth0",
            name="",
            version="",
            addresses=found,
            lifetime_ns=lifetime_ns,
        )
        assert self.clock.tell(event) == ()

    @rule(peer=peers, host=st.sampled_from("abcdefgh"))
    def leave(self, peer: str, host: str) -> None:
        self.clock.tell(PeerLeft(peer=peer, host=host))

    @rule(chosen=st.sets(peers), found=addresses)
    def read_book(self, chosen: set[str], found: tuple[str, ...]) -> None:
        known = tuple(KnownAddress(address=text, source="book", unix_s=3) for text in found)
        self.clock.tell(BookRead(peers=tuple((paired(peer), known) for peer in sorted(chosen))))
        self.paired = chosen - {"P5"}
        self.dialling = {peer: tried for peer, tried in self.dialling.items() if peer in self.paired}

    @rule(peer=peers, outbound=st.booleans(), relayed=st.booleans(), address=st.sampled_from(ADDRESSES))
    def connect(self, peer: str, outbound: bool, relayed: bool, address: str) -> None:
        path = "relay via R" if relayed else "lan"
        self.clock.live[peer] = connection(peer, address, outbound=outbound, path=path)

    @rule(peer=peers)
    def disconnect(self, peer: str) -> None:
        self.clock.live.pop(peer, None)

    @rule(peer=peers, jitter=st.floats(0, 1), succeeds=st.booleans())
    def end_dial(self, peer: str, jitter: float, succeeds: bool) -> None:
        self.dialling.pop(peer, None)
        if succeeds:
            self.clock.tell(DialSucceeded(peer=peer))
        else:
            self.clock.tell(DialFailed(peer=peer, reason="x" * 5000, jitter=jitter))

    @rule()
    def change_networks(self) -> None:
        self.clock.tell(NetworksChanged(networks=frozenset({"eth0"})))

    @rule(seconds=st.sampled_from([0.0, 0.5, 3.0, 30.0, 90.0]))
    def tick(self, seconds: float) -> None:
        for effect in self.clock.tick(seconds):
            if isinstance(effect, Dial):
                live = self.clock.live.get(effect.peer)
                assert effect.peer in self.paired
                before = self.dialling.get(effect.peer)
                assert before is None or not set(effect.addresses) <= before
                assert live is None or live.path == "relay via R"
                assert len(effect.addresses) <= DIAL_ADDRESSES_MAX
                self.dialling[effect.peer] = set(effect.addresses)
        assert len(self.dialling) <= DIALS_MAX

    @invariant()
    def paired_peers_are_always_listed_with_a_reason(self) -> None:
        for peer in self.paired:
            record = self.clock.record(peer)
            assert (record.connection is None) == bool(self.clock.why(peer))

    def teardown(self) -> None:
        """After a long silence of everybody, every paired peer is tried within a pause."""
        self.clock.live.clear()
        self.clock.tick()
        for peer in PEERS:
            self.clock.fail(peer)
        tried: set[str] = set()
        for _ in range(140):
            for effect in self.clock.tick(0.5):
                if isinstance(effect, Dial):
                    tried.add(effect.peer)
                    self.clock.fail(effect.peer)
        assert tried == self.paired


@pytest.mark.slow
def test_any_order_of_events_keeps_the_rules() -> None:
    run_state_machine_as_test(
        DirectoryMachine,
        settings=settings(max_examples=60, stateful_step_count=30, deadline=None, derandomize=True),
    )
