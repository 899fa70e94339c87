"""Which chunk of a model's file to fetch from whom: many sources, one file, nothing twice without a reason.

A file is cut into chunks of `CHUNK_BYTES`; its chunk list holds the BLAKE3 of each. Chunks are asked for in
order, from each source as many at once as its measured speed keeps on the way. A chunk that does not match
its hash ends that source for this transfer. A source that is lost or silent gives its chunks back. At the
end, a source with nothing to do may ask for a chunk that a much slower one holds: a chunk has two holders at
most, and the first to arrive counts.

Not here: whether the chunk list itself is true. The whole file's hash says that, when the file is complete.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal, assert_never

from unhosted.node.core.errors import LocalFault

CHUNK_BYTES = 1 << 20
"""Small: a bad or lost chunk costs little, and a chunk list is 0.003 % of its file."""

HASH_BYTES = 32

MODEL_BYTES_MAX = 1 << 40
"""1 TiB: no single model file comes near, and its chunk list (32 MiB) still fits in memory."""

SOURCES_MAX = 16
"""More sources than this fill no line faster; each costs a megabyte of memory."""

WINDOW_MIN, WINDOW_MAX = 2, 8
"""Chunks asked of one source at a time: two keep a slow one busy, eight fill 1 Gbit/s over 60 ms."""

WINDOW_NS = 60_000_000
"""What is asked for should last this long: more than a round trip on most lines."""

SILENCE_NS = 10_000_000_000
"""A source that sends nothing for so long is lost: longer than any pause of a loaded disk."""

LOSSES_MAX = 3
"""A source that was lost so often without giving a chunk in between is left alone."""

OVERTAKE_FACTOR = 2
"""A chunk is asked for a second time only if that is expected to halve the wait for it."""

SPEED_KEPT = 3
"""Parts of the old estimate in a new one, to one part of the latest chunk."""

SourceId = str


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceState:
    """in_flight: chunks it was asked for, in order. speed: bytes per second, 0 before the first chunk.

    heard_at_ns: when it last sent anything, or was asked after having had nothing to do. since_ns: when it
    began with the chunk that comes next, as far as can be told from here.
    """

    is_here: bool = True
    in_flight: tuple[int, ...] = ()
    speed_bytes_per_s: int = 0
    heard_at_ns: int = 0
    since_ns: int = 0
    losses: int = 0
    chunks_given: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """todo: spans [first, end) of chunks that nobody was asked for, ascending. overtaken: chunks that are
    here while a second holder still sends them. banned: sources that may not come back, and why.
    """

    size_bytes: int
    todo: tuple[tuple[int, int], ...]
    done: int
    sources: Mapping[SourceId, SourceState] = field(default_factory=lambda: MappingProxyType({}))
    overtaken: frozenset[int] = frozenset()
    banned: Mapping[SourceId, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def chunk_count(self) -> int:
        return chunk_count(self.size_bytes)

    @property
    def is_complete(self) -> bool:
        return self.done == self.chunk_count


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceJoined:
    source: SourceId


@dataclass(frozen=True, slots=True, kw_only=True)
class PieceArrived:
    """Some bytes of a chunk: the source is alive."""

    source: SourceId


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkArrived:
    """The chunk matched its hash and is in the file."""

    source: SourceId
    chunk: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkWrong:
    """What came does not match the chunk's hash, or is a chunk that was not asked for."""

    source: SourceId
    chunk: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceLost:
    source: SourceId


@dataclass(frozen=True, slots=True, kw_only=True)
class TimePassed:
    """Nothing happened for a while; to be given about each half second."""


Event = SourceJoined | PieceArrived | ChunkArrived | ChunkWrong | SourceLost | TimePassed


@dataclass(frozen=True, slots=True, kw_only=True)
class AskForChunk:
    source: SourceId
    chunk: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DropSource:
    """Close the channel to it. may_return: False for the rest of this transfer."""

    source: SourceId
    reason: Literal["wrong_chunk", "silent", "lost_too_often", "not_needed"]
    may_return: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """All chunks are in the file."""


Effect = AskForChunk | DropSource | Finish


def chunk_count(size_bytes: int) -> int:
    return -(-size_bytes // CHUNK_BYTES)


def chunk_span(size_bytes: int, chunk: int) -> tuple[int, int]:
    """First byte and end of a chunk."""
    start = chunk * CHUNK_BYTES
    return start, min(start + CHUNK_BYTES, size_bytes)


def begin(size_bytes: int, done: Iterable[int] = ()) -> Transfer:
    """A transfer of which the chunks `done` are in the file already.

    Raises: LocalFault for a size of nothing or above `MODEL_BYTES_MAX`, which is to be refused before.
    """
    if not 0 < size_bytes <= MODEL_BYTES_MAX:
        raise LocalFault(f"a transfer of {size_bytes} bytes, must be 1 to {MODEL_BYTES_MAX}")
    count = chunk_count(size_bytes)
    todo: list[tuple[int, int]] = []
    at = 0
    here = sorted(set(done))
    for chunk in [*here, count]:
        if chunk > at:
            todo.append((at, chunk))
        at = chunk + 1
    return Transfer(size_bytes=size_bytes, todo=tuple(todo), done=len(here))


def step(state: Transfer, event: Event, now_ns: int) -> tuple[Transfer, tuple[Effect, ...]]:
    """The transfer after `event`, and what to do. Events of unknown or gone sources change nothing.

    Raises: LocalFault if a chunk was lost or counted twice.
    """
    if state.is_complete:
        return state, ()
    effects: list[Effect] = []
    match event:
        case PieceArrived(source=source):
            held = state.sources.get(source)
            if held is None:
                return state, ()
            return _put(state, source, replace(held, heard_at_ns=now_ns)), ()
        case SourceJoined(source=source):
            state = _join(state, source, effects)
        case ChunkArrived(source=source, chunk=chunk):
            state = _arrive(state, source, chunk, now_ns, effects)
        case ChunkWrong(source=source):
            state = _leave(state, source, effects, ban="wrong_chunk")
        case SourceLost(source=source):
            state = _lose(state, source, effects)
        case TimePassed():
            state = _drop_silent(state, now_ns, effects)
        case other:
            assert_never(other)
    if state.is_complete:
        effects.append(Finish())
    else:
        state = _ask(state, now_ns, effects)
    _check(state)
    return state, tuple(effects)


def _join(state: Transfer, source: SourceId, effects: list[Effect]) -> Transfer:
    if source in state.banned or (source not in state.sources and len(state.sources) >= SOURCES_MAX):
        reason: Literal["wrong_chunk", "not_needed"] = (
            "wrong_chunk" if source in state.banned else "not_needed"
        )
        effects.append(DropSource(source=source, reason=reason, may_return=False))
        return state
    before = state.sources.get(source, SourceState())
    if source in state.sources and before.is_here:
        raise LocalFault(f"source {source} joined twice")
    return _put(state, source, replace(before, is_here=True, in_flight=()))


def _arrive(state: Transfer, source: SourceId, chunk: int, now_ns: int, effects: list[Effect]) -> Transfer:
    held = state.sources.get(source)
    if held is None or not held.is_here:
        return state
    if chunk not in held.in_flight:
        return _leave(state, source, effects, ban="wrong_chunk")
    start, end = chunk_span(state.size_bytes, chunk)
    latest = (end - start) * 1_000_000_000 // max(1, now_ns - held.since_ns)
    before = held.speed_bytes_per_s
    speed = (SPEED_KEPT * before + latest) // (SPEED_KEPT + 1) if before else latest
    state = _put(
        state,
        source,
        replace(
            held,
            in_flight=tuple(other for other in held.in_flight if other != chunk),
            speed_bytes_per_s=speed,
            heard_at_ns=now_ns,
            since_ns=now_ns,
            losses=0,
            chunks_given=held.chunks_given + 1,
        ),
    )
    if chunk in state.overtaken:
        return replace(state, overtaken=state.overtaken - {chunk})
    overtaken = state.overtaken | {chunk} if _holders(state, chunk) else state.overtaken
    return replace(state, done=state.done + 1, overtaken=overtaken)


def _lose(state: Transfer, source: SourceId, effects: list[Effect]) -> Transfer:
    held = state.sources.get(source)
    if held is None or not held.is_here:
        return state
    state = _give_back(state, source)
    held = state.sources[source]
    state = _put(state, source, replace(held, losses=held.losses + 1))
    if held.losses + 1 >= LOSSES_MAX:
        effects.append(DropSource(source=source, reason="lost_too_often", may_return=False))
        return replace(state, banned=MappingProxyType({**state.banned, source: "lost_too_often"}))
    return state


def _leave(
    state: Transfer, source: SourceId, effects: list[Effect], *, ban: Literal["wrong_chunk", "silent"]
) -> Transfer:
    held = state.sources.get(source)
    if held is None or not held.is_here:
        return state
    state = _give_back(state, source)
    effects.append(DropSource(source=source, reason=ban, may_return=False))
    return replace(state, banned=MappingProxyType({**state.banned, source: ban}))


def _drop_silent(state: Transfer, now_ns: int, effects: list[Effect]) -> Transfer:
    for source, held in state.sources.items():
        if held.is_here and held.in_flight and now_ns - held.heard_at_ns >= SILENCE_NS:
            state = _leave(state, source, effects, ban="silent")
    return state


def _give_back(state: Transfer, source: SourceId) -> Transfer:
    """Free what a source was asked for, unless it is here already or another source holds it too."""
    held = state.sources[source]
    state = _put(state, source, replace(held, is_here=False, in_flight=()))
    free = [chunk for chunk in held.in_flight if chunk not in state.overtaken and not _holders(state, chunk)]
    todo = tuple(sorted([*state.todo, *((chunk, chunk + 1) for chunk in free)]))
    return replace(state, todo=todo, overtaken=state.overtaken - set(held.in_flight))


def _ask(state: Transfer, now_ns: int, effects: list[Effect]) -> Transfer:
    """Fill every source's window, a chunk to each in turn; then let idle ones overtake slow ones."""
    asked = True
    while state.todo and asked:
        asked = False
        for source, held in state.sources.items():
            if state.todo and held.is_here and len(held.in_flight) < window(held):
                (first, end), *rest = state.todo
                left = [(first + 1, end)] if first + 1 < end else []
                state = _ask_one(replace(state, todo=(*left, *rest)), source, first, now_ns, effects)
                asked = True
    if not state.todo:
        for source, held in state.sources.items():
            if held.is_here and not held.in_flight and held.speed_bytes_per_s:
                chunk = _overtakable(state, held)
                if chunk is not None:
                    state = _ask_one(state, source, chunk, now_ns, effects)
    return state


def _ask_one(state: Transfer, source: SourceId, chunk: int, now_ns: int, effects: list[Effect]) -> Transfer:
    held = state.sources[source]
    effects.append(AskForChunk(source=source, chunk=chunk))
    if not held.in_flight:
        held = replace(held, heard_at_ns=now_ns, since_ns=now_ns)
    return _put(state, source, replace(held, in_flight=(*held.in_flight, chunk)))


def window(held: SourceState) -> int:
    """How many chunks to have on the way from a source."""
    lasting = held.speed_bytes_per_s * WINDOW_NS // (CHUNK_BYTES * 1_000_000_000)
    return min(WINDOW_MAX, WINDOW_MIN + lasting)


def _overtakable(state: Transfer, idle: SourceState) -> int | None:
    """The chunk that would come last, if `idle` is expected to bring it in half the time."""
    worst: tuple[float, int] | None = None
    for held in state.sources.values():
        for place, chunk in enumerate(held.in_flight, start=1):
            if chunk not in state.overtaken and len(_holders(state, chunk)) == 1:
                speed = held.speed_bytes_per_s
                wait = place / speed if speed else float("inf")
                worst = max(worst, (wait, chunk)) if worst else (wait, chunk)
    if worst is None or worst[0] < OVERTAKE_FACTOR / idle.speed_bytes_per_s:
        return None
    return worst[1]


def _holders(state: Transfer, chunk: int) -> tuple[SourceId, ...]:
    return tuple(source for source, held in state.sources.items() if chunk in held.in_flight)


def _put(state: Transfer, source: SourceId, held: SourceState) -> Transfer:
    return replace(state, sources=MappingProxyType({**state.sources, source: held}))


def _check(state: Transfer) -> None:
    on_the_way: dict[int, int] = {}
    for held in state.sources.values():
        for chunk in held.in_flight:
            on_the_way[chunk] = on_the_way.get(chunk, 0) + 1
    waiting = sum(end - first for first, end in state.todo)
    missing = len(on_the_way.keys() - state.overtaken)
    if state.done + waiting + missing != state.chunk_count:
        raise LocalFault(
            f"{state.done} chunks are done, {missing} on the way, {waiting} wait: not {state.chunk_count}"
        )
    if any(count > 2 for count in on_the_way.values()) or not state.overtaken <= on_the_way.keys():
        raise LocalFault("a chunk has three holders, or one that is here has none left")
