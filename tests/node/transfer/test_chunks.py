"""The rules of a transfer over many sources, driven by random worlds."""

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unhosted.node.core import chunks
from unhosted.node.core.chunks import (
    CHUNK_BYTES,
    LOSSES_MAX,
    SILENCE_NS,
    SOURCES_MAX,
    WINDOW_MAX,
    AskForChunk,
    ChunkArrived,
    ChunkWrong,
    DropSource,
    Event,
    Finish,
    PieceArrived,
    SourceJoined,
    SourceLost,
    TimePassed,
    Transfer,
)
from unhosted.node.core.errors import LocalFault

MS = 1_000_000


@dataclass
class World:
    """Sources that take a time for each chunk, one chunk after another."""

    state: Transfer
    chunk_ms: dict[str, int]
    now_ns: int = 0
    queues: dict[str, list[int]] = field(default_factory=dict)
    ready_ns: dict[str, int] = field(default_factory=dict)
    asked: list[tuple[str, int]] = field(default_factory=list)
    given: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    is_finished: bool = False

    def apply(self, event: Event) -> None:
        self.state, effects = chunks.step(self.state, event, self.now_ns)
        for effect in effects:
            match effect:
                case AskForChunk(source=source, chunk=chunk):
                    queue = self.queues.setdefault(source, [])
                    if not queue:
                        self.ready_ns[source] = self.now_ns + self.chunk_ms[source] * MS
                    queue.append(chunk)
                    self.asked.append((source, chunk))
                case DropSource(source=source, reason=reason):
                    self.dropped[source] = reason
                    self.queues.pop(source, None)
                case Finish():
                    assert not self.is_finished
                    self.is_finished = True

    def join(self, *sources: str) -> None:
        for source in sources:
            self.apply(SourceJoined(source=source))

    def lose(self, source: str) -> None:
        self.queues.pop(source, None)
        self.apply(SourceLost(source=source))

    def next_arrival(self) -> bool:
        """Let time pass until the next chunk arrives."""
        busy = [source for source, queue in self.queues.items() if queue]
        if not busy:
            return False
        source = min(busy, key=lambda name: (self.ready_ns[name], name))
        self.now_ns = max(self.now_ns, self.ready_ns[source])
        chunk = self.queues[source].pop(0)
        self.ready_ns[source] = self.now_ns + self.chunk_ms[source] * MS
        self.given[source] = self.given.get(source, 0) + 1
        self.apply(ChunkArrived(source=source, chunk=chunk))
        return True

    def run(self) -> None:
        while not self.is_finished and self.next_arrival():
            pass


def world(count: int, **chunk_ms: int) -> World:
    made = World(state=chunks.begin(count * CHUNK_BYTES), chunk_ms=chunk_ms)
    made.join(*chunk_ms)
    return made


def test_sources_share_the_work_by_their_speed() -> None:
    made = world(300, fast=10, slow=30)
    made.run()
    assert made.is_finished
    assert made.given["fast"] / made.given["slow"] == pytest.approx(3, rel=0.2)
    assert len(made.asked) <= 302


def test_a_fast_source_has_more_on_the_way_than_a_slow_one() -> None:
    made = world(300, fast=8, slow=500)
    for _ in range(50):
        made.next_arrival()
    assert len(made.state.sources["fast"].in_flight) == WINDOW_MAX
    assert len(made.state.sources["slow"].in_flight) == 2


def test_at_the_end_a_fast_source_overtakes_a_slow_one_once() -> None:
    made = world(20, fast=10, slow=5_000)
    made.run()
    assert made.is_finished
    assert made.now_ns < 5_000 * MS
    # Both of the slow one's chunks are asked for again, and no other.
    assert len(made.asked) == 22


def test_equal_sources_do_not_overtake_each_other() -> None:
    made = world(40, one=10, two=10, three=10)
    made.run()
    assert made.is_finished
    assert len(made.asked) == 40


def test_a_wrong_chunk_ends_its_source_and_goes_to_another() -> None:
    made = world(6, good=10, bad=10)
    wrong = made.queues["bad"][0]
    made.apply(ChunkWrong(source="bad", chunk=wrong))
    assert made.dropped == {"bad": "wrong_chunk"}
    made.run()
    assert made.is_finished
    assert ("good", wrong) in made.asked
    made = world(6, good=10, bad=10)
    made.apply(ChunkWrong(source="bad", chunk=0))
    made.apply(SourceJoined(source="bad"))
    assert made.state.sources["bad"].is_here is False


def test_a_chunk_nobody_asked_for_ends_its_source() -> None:
    made = world(100, one=10, two=10)
    theirs = made.queues["two"][0]
    made.apply(ChunkArrived(source="one", chunk=theirs))
    assert made.dropped == {"one": "wrong_chunk"}
    assert made.state.done == 0


def test_a_silent_source_is_dropped_and_one_that_trickles_is_not() -> None:
    made = world(10, silent=1, trickling=1)
    made.now_ns = SILENCE_NS - 1
    made.apply(PieceArrived(source="trickling"))
    made.apply(TimePassed())
    assert made.dropped == {}
    made.now_ns = SILENCE_NS
    made.apply(TimePassed())
    assert made.dropped == {"silent": "silent"}
    made.run()
    assert made.is_finished


def test_a_source_without_work_is_never_silent() -> None:
    made = world(2, busy=10)
    made.chunk_ms["idle"] = 10
    made.join("idle")
    made.now_ns = 1
    assert made.state.sources["idle"].in_flight == ()
    made.apply(PieceArrived(source="busy"))
    made.now_ns = SILENCE_NS
    made.apply(TimePassed())
    assert made.dropped == {}


def test_a_lost_source_may_come_back_but_not_for_ever() -> None:
    made = world(100, flaky=10)
    for _ in range(LOSSES_MAX - 1):
        made.lose("flaky")
        made.join("flaky")
    made.next_arrival()  # a chunk in between: it counts from the start again
    for _ in range(LOSSES_MAX):
        assert made.dropped == {}
        made.lose("flaky")
        if "flaky" not in made.dropped:
            made.join("flaky")
    assert made.dropped == {"flaky": "lost_too_often"}


def test_resumes_with_what_is_missing_and_nothing_else() -> None:
    done = {0, 1, 2, 7, 9}
    made = World(state=chunks.begin(10 * CHUNK_BYTES - 5, done), chunk_ms={"one": 10})
    made.join("one")
    made.run()
    assert made.is_finished
    assert {chunk for _, chunk in made.asked} == set(range(10)) - done


def test_more_sources_than_the_limit_are_turned_away() -> None:
    made = world(1000, **{f"s{number}": 10 for number in range(SOURCES_MAX)})
    made.chunk_ms["late"] = 10
    made.join("late")
    assert made.dropped == {"late": "not_needed"}


@pytest.mark.parametrize("size_bytes", [0, -1, chunks.MODEL_BYTES_MAX + 1])
def test_a_size_that_was_not_checked_is_our_own_fault(size_bytes: int) -> None:
    with pytest.raises(LocalFault):
        chunks.begin(size_bytes)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 60))
def test_whatever_the_sources_do_one_honest_one_is_enough(seed: int, count: int) -> None:
    draw = random.Random(seed)
    flaky = [f"flaky{number}" for number in range(draw.randrange(5))]
    speeds = {name: draw.choice([1, 10, 100, 1000]) for name in [*flaky, "honest"]}
    done = set(draw.sample(range(count), draw.randrange(count)))
    made = World(state=chunks.begin(count * CHUNK_BYTES - draw.randrange(CHUNK_BYTES), done), chunk_ms=speeds)
    made.join(*speeds)
    for _ in range(20 * count + 200):
        if made.is_finished:
            break
        source = draw.choice(flaky) if flaky else "honest"
        held = made.state.sources.get(source)
        match draw.randrange(6):
            case 0 if held and held.is_here and source != "honest":
                made.lose(source)
            case 1 if held and not held.is_here and source not in made.dropped:
                made.join(source)
            case 2 if source != "honest" and held and held.is_here and draw.random() < 0.2:
                made.apply(ChunkWrong(source=source, chunk=0))
            case 3:
                made.apply(TimePassed())
            case _:
                made.next_arrival()
        on_the_way = [chunk for held in made.state.sources.values() for chunk in held.in_flight]
        assert max(map(on_the_way.count, on_the_way), default=0) <= 2
    made.run()
    assert made.is_finished
    assert made.state.done == count
