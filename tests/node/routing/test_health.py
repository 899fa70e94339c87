"""Who may be asked now, from what requests met."""

from hypothesis import given, settings
from hypothesis import strategies as st

from unhosted.node.core.health import (
    BACK_OFF_FIRST_NS,
    BACK_OFF_MAX_NS,
    SERVERS_MAX,
    SUSPECT_MAX_NS,
    Answered,
    Balked,
    Event,
    Forgotten,
    Health,
    Lost,
    TrialDropped,
    TrialStarted,
    standing,
    step,
)

S = 1_000_000_000


def fed(*events: tuple[int, Event], health: Health | None = None) -> Health:
    health = health or Health()
    for at_ns, happened in events:
        health = step(health, happened, at_ns)
    return health


def test_an_unknown_server_is_good() -> None:
    assert standing(Health(), "a", 0).kind == "good"


def test_a_lost_server_is_down_until_its_back_off_is_over() -> None:
    health = fed((10 * S, Lost("a", "fell silent", 9 * S)))
    assert standing(health, "a", 10 * S).kind == "down"
    assert "fell silent" in standing(health, "a", 10 * S).why
    assert standing(health, "a", 10 * S + BACK_OFF_FIRST_NS).kind == "trial"
    assert standing(health, "b", 10 * S).kind == "good"


def test_thirty_requests_that_lose_it_together_are_one_failure() -> None:
    losses = [(10 * S + number, Lost("a", "fell silent", 9 * S)) for number in range(30)]
    health = fed(*losses, (10 * S + 40, Lost("a", "closed", 10 * S + 40)))
    assert standing(health, "a", 10 * S + 40 + BACK_OFF_FIRST_NS).kind == "trial"


def test_one_trial_at_a_time_and_each_failed_one_waits_longer() -> None:
    health, now, waited = fed((0, Lost("a", "x", -1))), 0, []
    for _ in range(8):
        before = now
        while standing(health, "a", now).kind != "trial":
            now += S // 10
        waited.append(now - before)
        health = step(health, TrialStarted("a"), now)
        assert standing(health, "a", now).kind == "down"
        health = step(health, Lost("a", "x", now), now + 1)
        now += 1
    assert waited[0] < waited[1] < waited[2]
    assert max(waited) <= BACK_OFF_MAX_NS + S


def test_a_trial_that_said_nothing_makes_room_for_the_next() -> None:
    health = fed((0, Lost("a", "x", -1)), (2 * S, TrialStarted("a")), (3 * S, TrialDropped("a")))
    assert standing(health, "a", 3 * S).kind == "trial"


def test_an_answer_ends_it() -> None:
    health = fed((0, Lost("a", "x", -1)), (1, Answered("a")))
    assert standing(health, "a", 2).kind == "good"
    assert not health.servers


def test_one_that_balks_is_asked_behind_the_others_for_a_while() -> None:
    health = fed((0, Balked("a", "the engine died", 5 * S)))
    assert standing(health, "a", 4 * S).kind == "suspect"
    assert standing(health, "a", 5 * S).kind == "good"


def test_a_server_cannot_talk_itself_out_of_work_for_long() -> None:
    health = fed((0, Balked("a", "come back next year", 10**9 * S)))
    assert standing(health, "a", SUSPECT_MAX_NS).kind == "good"


def test_an_unpaired_server_is_forgotten() -> None:
    assert not fed((0, Lost("a", "x", -1)), (1, Forgotten("a"))).servers


def test_the_table_is_bounded() -> None:
    health = fed(*((at, Lost(f"peer-{at}", "x", at - 1)) for at in range(1, 3 * SERVERS_MAX)))
    assert len(health.servers) == SERVERS_MAX
    assert "peer-1" not in health.servers


SERVERS = st.sampled_from(["a", "b"])
EVENTS = st.one_of(
    st.builds(Answered, SERVERS),
    st.builds(Lost, SERVERS, st.just("x"), st.integers(0, 100 * S)),
    st.builds(Balked, SERVERS, st.just("x"), st.integers(0, 100 * S)),
    st.builds(TrialStarted, SERVERS),
    st.builds(TrialDropped, SERVERS),
    st.builds(Forgotten, SERVERS),
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 5 * S), EVENTS), max_size=40))
def test_no_server_is_out_for_ever(steps: list[tuple[int, Event]]) -> None:
    health, now = Health(), 0
    for pause_ns, happened in steps:
        now += pause_ns
        health = step(health, happened, now)
    for server in "ab":
        health = step(health, TrialDropped(server), now)
        assert standing(health, server, now + BACK_OFF_MAX_NS + SUSPECT_MAX_NS).kind in {"good", "trial"}
