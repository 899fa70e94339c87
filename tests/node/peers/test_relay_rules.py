"""The relay's rules: whoever is not paired, not there or one too many gets nothing, in any order."""

from hypothesis import given
from hypothesis import strategies as st

from unhosted.node.shell.peers.relay_rules import (
    Circuit,
    RelayLimits,
    RelayState,
    close_circuit,
    forget,
    open_circuit,
    reserve,
)

LIMITS = RelayLimits(reservations_max=3, circuits_max=3, circuits_per_peer_max=2, reservation_s=10)
SECOND_NS = 1_000_000_000


def opened(state: RelayState, source: str, target: str, *, paired: bool = True, now_ns: int = 0) -> object:
    return open_circuit(
        state, source=source, target=target, is_target_paired=paired, limits=LIMITS, now_ns=now_ns
    )[1]


def reserved(*peers: str, now_ns: int = 0) -> RelayState:
    state = RelayState()
    for peer in peers:
        state, denial = reserve(state, peer, LIMITS, now_ns)
        assert denial is None
    return state


def test_a_circuit_needs_a_reservation_that_has_not_run_out() -> None:
    state = reserved("b")
    assert isinstance(opened(state, "a", "b", now_ns=9 * SECOND_NS), Circuit)
    assert opened(state, "a", "b", now_ns=10 * SECOND_NS) == "no_reservation"
    assert opened(state, "a", "c") == "no_reservation"
    assert opened(forget(state, "b"), "a", "b") == "no_reservation"


def test_a_circuit_needs_a_paired_target_that_is_somebody_else() -> None:
    assert opened(reserved("b"), "a", "b", paired=False) == "not_paired"
    assert opened(reserved("a"), "a", "a") == "not_paired"


def test_reservations_are_renewed_and_have_a_bound() -> None:
    state = reserved("a", "b", "c")
    assert reserve(state, "d", LIMITS, 0)[1] == "full"
    assert reserve(state, "a", LIMITS, 5 * SECOND_NS)[1] is None
    assert reserve(state, "d", LIMITS, 11 * SECOND_NS)[1] is None  # the others have run out


def test_circuits_are_counted_at_both_ends_and_in_all() -> None:
    state = reserved("b", "c", "d")
    for source, target in (("a", "b"), ("a", "c")):
        state, circuit = open_circuit(
            state, source=source, target=target, is_target_paired=True, limits=LIMITS, now_ns=0
        )
        assert isinstance(circuit, Circuit)
    assert opened(state, "a", "d") == "full"
    assert isinstance(opened(close_circuit(state, 0), "a", "d"), Circuit)


PEERS = st.sampled_from("abcde")
EVENTS = st.one_of(
    st.tuples(st.just("reserve"), PEERS),
    st.tuples(st.just("forget"), PEERS),
    st.tuples(st.just("open"), PEERS, PEERS, st.booleans()),
    st.tuples(st.just("close"), st.integers(0, 10)),
)


@given(st.lists(st.tuples(EVENTS, st.integers(0, 3 * SECOND_NS)), max_size=60))
def test_no_order_of_events_breaks_a_bound(events: list[tuple[tuple[object, ...], int]]) -> None:
    state, now_ns, keys = RelayState(), 0, set[int]()
    for event, passed_ns in events:
        now_ns += passed_ns
        match event:
            case ("reserve", str(peer)):
                state, _ = reserve(state, peer, LIMITS, now_ns)
            case ("forget", str(peer)):
                state = forget(state, peer)
            case ("open", str(source), str(target), bool(paired)):
                state, got = open_circuit(
                    state, source=source, target=target, is_target_paired=paired, limits=LIMITS, now_ns=now_ns
                )
                if isinstance(got, Circuit):
                    assert paired and source != target and got.key not in keys
                    keys.add(got.key)
            case ("close", int(key)):
                state = close_circuit(state, key)
        state.check(LIMITS)
        for peer in "abcde":
            at = sum(peer in (one.source, one.target) for one in state.circuits)
            assert at <= LIMITS.circuits_per_peer_max
