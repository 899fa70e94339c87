"""Who gets a place: strangers never at the cost of anybody else, friends always while there is one."""

from hypothesis import given
from hypothesis import strategies as some

from unhosted.node.shell.peers.admission import Held, Newcomer, admit, outstayed
from unhosted.node.shell.peers.limits import Limits

LIMITS = Limits(
    connections_max=10,
    strangers_max=6,
    strangers_per_address_max=3,
    connections_per_peer_max=2,
    stranger_evictable_s=1.0,
    stranger_idle_s=60.0,
)


def held(
    key: int, peer: str, *, address: str = "a", stranger: bool = True, idle_s: float | None = 5.0
) -> Held:
    return Held(
        key=key, peer=peer, address=address, is_stranger=stranger, opened_at_s=float(key), idle_s=idle_s
    )


def newcomer(peer: str = "new", *, address: str = "a", stranger: bool = True) -> Newcomer:
    return Newcomer(peer=peer, address=address, is_stranger=stranger)


def test_there_is_room() -> None:
    assert admit([], newcomer(), LIMITS) == admit([], newcomer(stranger=False), LIMITS)
    assert not admit([], newcomer(), LIMITS).refused


def test_the_longest_idle_stranger_of_a_crowded_address_goes() -> None:
    crowd = [held(1, "x", idle_s=2.0), held(2, "y", idle_s=9.0), held(3, "z", idle_s=None)]
    others = [held(4, "far", address="b", idle_s=500.0)]
    assert admit(crowd + others, newcomer(), LIMITS).evict == (2,)


def test_busy_strangers_stay_and_the_newcomer_is_refused() -> None:
    crowd = [held(key, f"s{key}", idle_s=None if key % 2 else 0.5) for key in range(3)]
    assert "strangers of a" in admit(crowd, newcomer(), LIMITS).refused


def test_a_friend_takes_the_place_of_a_stranger_even_a_busy_one() -> None:
    full = [held(key, f"s{key}", address=f"{key}", idle_s=None) for key in range(6)]
    full += [held(key, f"f{key}", stranger=False, idle_s=1e6) for key in range(6, 10)]
    assert admit(full, newcomer(stranger=False), LIMITS).evict == (0,)
    assert admit(full, newcomer(address="9"), LIMITS).refused


def test_friends_alone_fill_all_places() -> None:
    full = [held(key, f"f{key}", stranger=False) for key in range(10)]
    assert "10 peers" in admit(full, newcomer(stranger=False), LIMITS).refused


def test_a_peer_that_comes_again_and_again_replaces_its_oldest_connection() -> None:
    twice = [held(5, "friend", stranger=False, idle_s=None), held(7, "friend", stranger=False, idle_s=None)]
    assert admit(twice, newcomer("friend", stranger=False), LIMITS).evict == (5,)


def test_strangers_without_a_purpose_outstay() -> None:
    present = [held(1, "x", idle_s=61.0), held(2, "y", idle_s=None), held(3, "f", stranger=False, idle_s=1e6)]
    assert outstayed(present, LIMITS) == (1,)


@given(
    some.lists(
        some.tuples(
            some.sampled_from("pqrstuvw"),
            some.sampled_from("abc"),
            some.booleans(),
            some.none() | some.floats(0, 99),
        ),
        max_size=40,
    )
)
def test_in_any_order_of_arrivals_the_limits_hold_and_friends_stay(
    arrivals: list[tuple[str, str, bool, float | None]],
) -> None:
    present: dict[int, Held] = {}
    for key, (peer, address, stranger, idle_s) in enumerate(arrivals):
        peer = peer if stranger else peer.upper()
        decision = admit(tuple(present.values()), newcomer(peer, address=address, stranger=stranger), LIMITS)
        if decision.refused:
            assert not decision.evict
            assert stranger or not any(one.is_stranger for one in present.values())
            continue
        gone = [present.pop(evicted) for evicted in decision.evict]
        assert all(one.is_stranger or one.peer == peer for one in gone)
        present[key] = held(key, peer, address=address, stranger=stranger, idle_s=idle_s)
        strangers = [one for one in present.values() if one.is_stranger]
        assert len(present) <= LIMITS.connections_max and len(strangers) <= LIMITS.strangers_max
        assert sum(one.address == address for one in strangers) <= LIMITS.strangers_per_address_max
        assert sum(one.peer == peer for one in present.values()) <= LIMITS.connections_per_peer_max
