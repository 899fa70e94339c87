"""The rules of one request over several servers, driven through random failures on a clock of its own."""

import heapq
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from tests.node.routing.servers import REFERENCE, TOKENS
from unhosted.node.core.errors import Code, LocalFault, Refused
from unhosted.node.core.failover import (
    ATTEMPTS_MAX,
    check_session,
    final_refusal,
    first_difference,
    next_deadline_ns,
    resumed_usage,
    step,
)
from unhosted.node.core.failover_words import (
    Accepted,
    Begun,
    Cancel,
    Event,
    Failed,
    Finished,
    FirstDelta,
    GiveUp,
    Planned,
    Replan,
    Session,
    Start,
    Stream,
    TimePassed,
)
from unhosted.node.core.inference import Usage
from unhosted.node.core.routing import LOCAL, Choice
from unhosted.node.core.service import Ring

MS = 1_000_000


def choice(server: str, **changes: object) -> Choice:
    ring: Ring = "local" if server == LOCAL else "trusted"
    one = Choice(
        server=server,
        name=server,
        ring=ring,
        reason="",
        first_token_ns=100 * MS,
        complete_ns=1000 * MS,
        late_after_ns=500 * MS,
        can_start_now=True,
        is_loaded=True,
        streams=1,
        on_trial=False,
        context_tokens=2048,
        cached_tokens=0,
    )
    return replace(one, **changes)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Script:
    """One attempt's fate. fails_after: tokens of its own; None: it answers to the end."""

    accepts_after_ms: int
    first_after_ms: int
    fails_after: int | None
    refused: bool
    bundle: int
    fails_to_accept: bool


SCRIPTS = st.builds(
    Script,
    accepts_after_ms=st.sampled_from([0, 1, 50, 1000, 1799, 1800, 1801, 5000, 200_000]),
    first_after_ms=st.sampled_from([0, 1, 100, 499, 500, 501, 3000]),
    fails_after=st.one_of(st.none(), st.integers(0, TOKENS)),
    refused=st.booleans(),
    bundle=st.integers(1, 5),
    fails_to_accept=st.booleans(),
)
CHOICES = st.lists(
    st.builds(
        choice,
        st.sampled_from([LOCAL, "a", "b", "c", "d"]),
        can_start_now=st.booleans(),
        is_loaded=st.booleans(),
        late_after_ns=st.sampled_from([300 * MS, 500 * MS, 3000 * MS]),
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda one: one.server,
).map(tuple)


@dataclass
class World:
    """Performs the effects: attempts say what their scripts say, at their time."""

    choices: tuple[Choice, ...]
    scripts: list[Script]
    state: Session = field(init=False)
    ids: list[int] = field(default_factory=list)
    agenda: list[tuple[int, int, Event]] = field(default_factory=list)
    now_ns: int = 0
    sequence: int = 0
    running: set[int] = field(default_factory=set)
    firsts: dict[int, int] = field(default_factory=dict)
    resumed_from: dict[int, int] = field(default_factory=dict)
    at_once_max: int = 0
    started: int = 0

    def run(self) -> None:
        self.state = Session(choices=self.choices)
        self.feed(Begun())
        for _ in range(500):
            if self.state.outcome != "open":
                return
            deadline_ns = next_deadline_ns(self.state)
            if deadline_ns is not None and (not self.agenda or deadline_ns < self.agenda[0][0]):
                self.now_ns = max(self.now_ns, deadline_ns)
                self.feed(TimePassed())
            else:
                self.now_ns, _, happened = heapq.heappop(self.agenda)
                self.note_end(happened)
                self.feed(happened)
        raise AssertionError("it does not end")

    def note_end(self, happened: Event) -> None:
        if isinstance(happened, Failed | Finished):
            self.running.discard(happened.number)

    def later(self, after_ms: int, happened: Event) -> None:
        self.sequence += 1
        heapq.heappush(self.agenda, (self.now_ns + after_ms * MS, self.sequence, happened))

    def feed(self, happened: Event) -> None:
        self.state, effects = step(self.state, happened, self.now_ns)
        for effect in effects:
            match effect:
                case Start(number=number, resume_from=resume_from):
                    assert resume_from == len(self.ids)
                    self.start(number)
                case Cancel(number=number):
                    self.running.discard(number)
                case Stream(number=number):
                    self.stream(number)
                case Replan():
                    self.feed(Planned(self.choices))
                case GiveUp():
                    pass
        self.at_once_max = max(self.at_once_max, len(self.running))

    def start(self, number: int) -> None:
        self.started += 1
        self.running.add(number)
        self.resumed_from[number] = len(self.ids)
        script = self.scripts[number]
        if script.fails_to_accept:
            self.later(script.accepts_after_ms, self.failure(number, script, 0))
            return
        self.later(script.accepts_after_ms, Accepted(number))
        at_ms = script.accepts_after_ms + script.first_after_ms
        if script.fails_after == 0:
            self.later(at_ms, self.failure(number, script, 0))
            return
        left = TOKENS - len(self.ids)
        limit = left if script.fails_after is None else min(script.fails_after, left)
        first = min(script.bundle, limit)
        self.firsts[number] = first
        self.later(at_ms, FirstDelta(number, first, script.fails_after is None and first == left))

    def stream(self, number: int) -> None:
        """What the shell does: it delivers, and says at the end how much that was."""
        script, begin = self.scripts[number], len(self.ids)
        assert begin == self.resumed_from[number]
        left = TOKENS - begin
        limit = left if script.fails_after is None else min(script.fails_after, left)
        self.ids += REFERENCE[begin : begin + limit]
        tokens = limit - self.firsts[number]
        if script.fails_after is not None:
            self.later(1, self.failure(number, script, tokens))
        elif self.state.outcome == "answered":
            self.running.discard(number)
        else:
            self.later(1, Finished(number, tokens))

    @staticmethod
    def failure(number: int, script: Script, tokens: int) -> Failed:
        refused = Refused("overloaded", "full") if script.refused else None
        return Failed(number, "failed", refused, tokens)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(CHOICES, st.lists(SCRIPTS, min_size=ATTEMPTS_MAX, max_size=ATTEMPTS_MAX))
def test_nothing_is_lost_and_nothing_comes_twice_whatever_fails(
    choices: tuple[Choice, ...], scripts: list[Script]
) -> None:
    world = World(choices, scripts)
    world.run()
    assert tuple(world.ids) == REFERENCE[: len(world.ids)]
    assert world.state.delivered == len(world.ids)
    assert world.started <= ATTEMPTS_MAX
    assert world.at_once_max <= 2
    assert not world.running  # nobody works on for a request that is over
    assert world.state.outcome == "gave up" or tuple(world.ids) == REFERENCE
    if world.state.outcome == "gave up":
        assert final_refusal(world.state, "model").message
    event(f"{world.state.outcome} after {len(world.state.failures)} failures, hedged: {world.state.hedged}")


@settings(max_examples=100, deadline=None, derandomize=True)
@given(CHOICES, st.integers(1, TOKENS - 1))
def test_whoever_can_answer_is_found(choices: tuple[Choice, ...], dies_after: int) -> None:
    dying = Script(0, 0, dies_after, False, 1, False)
    well = Script(0, 0, None, False, 1, False)
    world = World(choices, [dying] * (len(choices) - 1) + [well] * ATTEMPTS_MAX)
    world.run()
    assert world.state.outcome == "answered"
    assert tuple(world.ids) == REFERENCE


def test_attempts_are_bounded_however_many_servers_come_and_go() -> None:
    lost = Script(0, 0, 0, False, 1, False)
    world = World(tuple(choice(name) for name in "abcde"), [lost] * ATTEMPTS_MAX)
    world.run()
    assert world.state.outcome == "gave up"
    assert world.started == ATTEMPTS_MAX


def begun(*choices: Choice) -> Session:
    return step(Session(choices=choices), Begun(), 0)[0]


def fed(state: Session, *events: tuple[int, Event]) -> tuple[Session, list[object]]:
    effects: list[object] = []
    for at_ms, happened in events:
        state, more = step(state, happened, at_ms * MS)
        effects += more
    return state, effects


def test_only_a_late_attempt_is_hedged_and_only_once() -> None:
    state, effects = fed(begun(choice("a"), choice("b"), choice("c")), (10, Accepted(0)), (499, TimePassed()))
    assert effects == []
    state, effects = fed(state, (500, TimePassed()))
    assert [effect.choice.server for effect in effects if isinstance(effect, Start)] == ["b"]
    state, effects = fed(state, (510, Accepted(1)), (60_000, TimePassed()))
    assert effects == []
    state, effects = fed(state, (60_001, FirstDelta(1, 1, False)))
    assert effects == [Cancel(0), Stream(1)]
    assert fed(state, (60_002, FirstDelta(0, 1, False)))[1] == []  # the loser's word comes too late


@pytest.mark.parametrize(
    "other",
    [choice("b", can_start_now=False), choice("b", ring="public"), choice("b", on_trial=True)],
    ids=["queues", "costs money", "on trial"],
)
def test_no_hedge_displaces_others_or_costs_money(other: Choice) -> None:
    assert fed(begun(choice("a"), other), (10, Accepted(0)), (10_000, TimePassed()))[1] == []


def test_an_answer_that_goes_on_elsewhere_is_not_hedged() -> None:
    state = begun(choice("a"), choice("b"), choice("c"))
    _, effects = fed(
        state,
        (1, Accepted(0)),
        (2, FirstDelta(0, 1, False)),
        (3, Failed(0, "lost")),
        (3, Planned((choice("b"), choice("c")))),
        (4, Accepted(1)),
        (10_000, TimePassed()),
    )
    assert [effect.choice.server for effect in effects if isinstance(effect, Start)] == ["b"]


def test_this_machines_engine_is_not_hurried() -> None:
    assert next_deadline_ns(begun(choice(LOCAL), choice("b"))) is None


def test_a_refusal_after_tokens_came_is_not_the_requests_fault() -> None:
    wrong = Refused("invalid_request", "resume_ids is not known here", field="resume_ids")
    state = begun(choice("a"), choice("b"), choice("c"))
    state, _ = fed(
        state,
        (1, Accepted(0)),
        (2, FirstDelta(0, 3, False)),
        (3, Failed(0, "lost", None, 4)),
        (3, Planned((choice("b"), choice("c")))),
    )
    assert state.delivered == 7
    state, effects = fed(state, (4, Failed(1, wrong.message, wrong)), (4, Planned((choice("c"),))))
    assert effects == [Replan(), Start(2, choice("c"), 7)]


def test_a_refused_server_is_not_asked_twice_but_a_lost_one_is() -> None:
    full = Refused("overloaded", "full")
    assert (
        fed(begun(choice("a")), (1, Failed(0, "full", full)), (1, Planned((choice("a"),))))[1][-1] == GiveUp()
    )
    _, effects = fed(
        begun(choice("a")), (1, Accepted(0)), (2, Failed(0, "lost")), (2, Planned(())), (502, TimePassed())
    )
    assert effects == [Replan(), Start(1, choice("a"), 0)]


def test_a_server_that_was_never_there_is_not_waited_for() -> None:
    assert fed(begun(choice("a")), (1, Failed(0, "nothing answers")), (1, Planned(())))[1][-1] == GiveUp()


def test_a_lost_server_that_then_says_no_is_not_asked_a_third_time() -> None:
    gone = Refused("not_paired", "the pairing was ended")
    state, effects = fed(
        begun(choice("a")),
        (1, Accepted(0)),
        (2, FirstDelta(0, 3, False)),
        (3, Failed(0, "lost")),
        (3, Planned(())),
        (503, TimePassed()),
        (504, Failed(1, gone.message, gone)),
        (504, Planned(())),
    )
    assert effects[-1] == GiveUp()
    assert "the pairing was ended" in final_refusal(state, "model").message


@pytest.mark.parametrize(
    ("server", "code", "message"),
    [
        ("desktop", "not_allowed", "desktop: no"),
        ("desktop", "invalid_request", "no"),
        (LOCAL, "overloaded", "no"),
    ],
)
def test_what_another_machine_refuses_is_told_with_its_name(server: str, code: Code, message: str) -> None:
    refused = Refused(code, "no", field="model", retry_after_s=3, details={"rule": "may_ask"})
    state, _ = fed(begun(choice(server)), (1, Failed(0, "no", refused)), (1, Planned(())))
    told = final_refusal(state, "model")
    assert (told.code, told.message, told.field, told.retry_after_s) == (code, message, "model", 3)
    assert told.details == refused.details


def test_a_broken_rule_stops_the_program() -> None:
    state = begun(choice("a"))
    with pytest.raises(LocalFault):
        check_session(replace(state, delivered=3))
    with pytest.raises(LocalFault):
        check_session(replace(state, live=state.live * 3))
    with pytest.raises(LocalFault):
        check_session(replace(state, live=state.live * 2))
    with pytest.raises(LocalFault):
        check_session(replace(state, attempts=ATTEMPTS_MAX + 1))
    with pytest.raises(LocalFault):
        check_session(replace(state, outcome="answered"))


def test_usage_of_a_resumed_answer_counts_all_of_it_once() -> None:
    last = Usage(prompt_tokens=100, cached_tokens=107, completion_tokens=24)
    assert resumed_usage(last, delivered=24) == Usage(
        prompt_tokens=100, cached_tokens=100, completion_tokens=24
    )


@pytest.mark.parametrize(
    ("left", "right", "position"),
    [((), (), None), ((1, 2), (1, 2), None), ((1, 2), (1, 3), 1), ((1, 2), (1,), 1), ((), (5,), 0)],
)
def test_where_two_runs_part(left: tuple[int, ...], right: tuple[int, ...], position: int | None) -> None:
    assert first_difference(left, right) == position
