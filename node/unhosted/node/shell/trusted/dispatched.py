"""One request under way: attempts as tasks, `core.failover` as the rules, deltas to whoever iterates.

Until the first delta, events of the attempts go through the rules. From then on the one attempt that streams
is read directly: a delta costs one call more than without a dispatcher. The stream is read from another task
than the one that opened it; the opening task waits inside the context and leaves it when all is over.
"""

import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace

import trio

from unhosted.node.core import failover
from unhosted.node.core.asks import Answering, Ask
from unhosted.node.core.errors import LocalFault, Refused
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
from unhosted.node.core.inference import Delta
from unhosted.node.core.peering import ChannelBroken, PeerUnreachable
from unhosted.node.core.routing import Choice, Plan
from unhosted.node.core.service import Provenance
from unhosted.node.shell.trusted.server_records import ServerRecords, now_ns

EVENTS_MAX = 4 * failover.ATTEMPTS_MAX
"""An attempt says at most three things before it streams, and what it says later is asked of it."""

PASSED_OVER_MAX = 32
LINE_CHARACTERS_MAX = 300
"""Lines in a provenance and their length: it goes into every answer, and peers wrote parts of it."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Attempt:
    """What the shell knows of an attempt. Times are 0 before they came."""

    choice: Choice
    scope: trio.CancelScope
    started_ns: int
    accepted: bool = False
    first_at_ns: int = 0
    tokens: int = 0
    """Delivered after the first delta."""
    first: Delta | None = None
    stream: AsyncIterator[Delta] | None = None
    left: trio.Event = field(default_factory=trio.Event)


class Dispatched:
    """The deltas of one ask, whoever answers it. Made by `Dispatcher.open`; ends when its context is left."""

    def __init__(
        self,
        ask: Ask,
        plan: Plan,
        *,
        model_name: str,
        records: ServerRecords,
        answering: Callable[[str], Answering],
        replan: Callable[[], tuple[Choice, ...]],
        on_read: Callable[[Choice], None],
        nursery: trio.Nursery,
    ) -> None:
        """replan: whom the router would ask now. on_read: told once a server has read the prompt."""
        self.ids: list[int] = []
        """Delivered so far; bounded by the model's context."""
        self._ask = ask
        self._plan = plan
        self._model_name = model_name
        self._records = records
        self._answering = answering
        self._replan = replan
        self._on_read = on_read
        self._nursery = nursery
        self._session = Session(choices=plan.ranked)
        self._attempts: dict[int, _Attempt] = {}
        self._told: Choice | None = None
        self._current: _Attempt | None = None
        self._held: Delta | None = None
        # Never full: see EVENTS_MAX. Only the dispatching side waits.
        self._send, self._events = trio.open_memory_channel[Event](EVENTS_MAX)

    @property
    def provenance(self) -> Provenance:
        """As known now; ring, served_by and reason do not change any more."""
        told = self._told or self._plan.ranked[0]
        answered = [choice.name for choice in self._session.answered]
        if self._session.answered and self._session.answered[0].server == told.server:
            del answered[0]
        return Provenance(
            ring=told.ring,
            served_by=told.name,
            reason=told.reason,
            passed_over=tuple(_line(text) for text in self._passed_over()[:PASSED_OVER_MAX]),
            resumed_on=tuple(answered),
        )

    async def begin(self, settle_s: float) -> None:
        """Wait for a server that accepts, then up to settle_s for the first delta.

        Raises: Refused.
        """
        self._feed(Begun())
        await self._advance(self._is_accepted)
        with trio.move_on_after(settle_s):
            await self._advance(lambda: False)
        await self._advance(self._is_accepted)  # again, if the one that accepted has failed since
        accepted = [attempt.choice for attempt in self._session.live if attempt.phase != "opening"]
        self._told = (*self._session.answered, *accepted)[0]

    def __aiter__(self) -> AsyncIterator[Delta]:
        return self

    async def __anext__(self) -> Delta:
        while True:
            attempt = self._current
            if attempt is None:
                if self._session.outcome == "answered":
                    raise StopAsyncIteration
                await self._advance(lambda: False)
                continue
            if (delta := self._held) is not None:
                self._held = None
            else:
                try:
                    delta = await attempt.stream.__anext__()  # type: ignore[union-attr]  # it streams
                except (Refused, PeerUnreachable, ChannelBroken, StopAsyncIteration) as error:
                    # A client that left closes the attempt before it is noticed here: nobody failed then.
                    await trio.lowlevel.checkpoint_if_cancelled()
                    self._lost_in_mid_stream(attempt, error)
                    continue
                attempt.tokens += len(delta.token_ids)
            self.ids += delta.token_ids
            return delta if delta.finish is None else self._finish(attempt, delta)

    def leave(self) -> None:
        """The client is gone or has all: measure what was under way. The nursery's end cancels it."""
        if self._current is not None:
            self._measure(self._current, None)

    # ---- the rules' side

    def _is_accepted(self) -> bool:
        return any(attempt.phase != "opening" for attempt in self._session.live)

    @property
    def _is_resumed(self) -> bool:
        return any(failure.delivered for failure in self._session.failures)

    async def _advance(self, is_enough: Callable[[], bool]) -> None:
        """Until an attempt streams, the session is over, or `is_enough`. Raises: Refused."""
        while self._current is None and self._session.outcome == "open" and not is_enough():
            deadline_ns = failover.next_deadline_ns(self._session)
            event: Event = TimePassed()
            with trio.move_on_at(float("inf") if deadline_ns is None else deadline_ns / 1e9):
                event = await self._events.receive()
            # The clock's float may round to just before the deadline, which would never come then.
            self._feed(event, at_ns=deadline_ns if isinstance(event, TimePassed) else None)
        if self._session.outcome == "gave up":
            raise failover.final_refusal(self._session, self._model_name)

    def _feed(self, event: Event, *, at_ns: int | None = None) -> None:
        now = now_ns()
        self._session, effects = failover.step(self._session, event, max(now, at_ns or now))
        for effect in effects:
            match effect:
                case Start(number=number, choice=choice, resume_from=resume_from):
                    if resume_from != len(self.ids):
                        raise LocalFault(f"resumes from {resume_from}, {len(self.ids)} are delivered")
                    self._start(number, choice)
                case Cancel(number=number):
                    self._attempts[number].scope.cancel()
                case Stream(number=number):
                    self._current = self._attempts[number]
                    self._held = self._current.first
                case Replan():
                    self._feed(Planned(self._replan()))
                case GiveUp():
                    _log.info(
                        "request_given_up ask=%s attempts=%d delivered_tokens=%d",
                        self._ask.ask_id[:8],
                        self._session.attempts,
                        self._session.delivered,
                    )

    def _start(self, number: int, choice: Choice) -> None:
        attempt = _Attempt(choice, trio.CancelScope(), now_ns())
        self._attempts[number] = attempt
        self._records.started(choice, self._ask.model)
        ask = replace(self._ask, resume_ids=(*self._ask.resume_ids, *self.ids)) if self.ids else self._ask
        self._nursery.start_soon(self._run, number, attempt, ask)
        if number:
            _log.info(
                "next_attempt ask=%s attempt=%d server=%s delivered_tokens=%d",
                self._ask.ask_id[:8],
                number,
                choice.server[-8:],
                len(self.ids),
            )

    def _lost_in_mid_stream(self, attempt: _Attempt, error: Exception) -> None:
        self._current = None
        self._measure(attempt, None)
        number = next(number for number, one in self._attempts.items() if one is attempt)
        refused = error if isinstance(error, Refused) else None
        reason = _reason(error)
        self._records.failed(attempt.choice, reason, refused, attempt.started_ns)
        attempt.scope.cancel()
        self._feed(Failed(number, reason, refused, attempt.tokens))

    def _finish(self, attempt: _Attempt, delta: Delta) -> Delta:
        self._current = None
        self._measure(attempt, delta)
        number = next(number for number, one in self._attempts.items() if one is attempt)
        self._feed(Finished(number, attempt.tokens))
        attempt.scope.cancel()
        if self._session.delivered != len(self.ids):
            raise LocalFault(f"{len(self.ids)} tokens were delivered, {self._session.delivered} by the rules")
        if delta.usage is None or not self._is_resumed:
            return delta
        delivered = len(self._ask.resume_ids) + len(self.ids)
        return replace(delta, usage=failover.resumed_usage(delta.usage, delivered=delivered))

    # ---- the attempts' side: each its own task, since two may run at once

    async def _run(self, number: int, attempt: _Attempt, ask: Ask) -> None:
        try:
            with attempt.scope:
                try:
                    await self._open(number, attempt, ask)
                except (Refused, PeerUnreachable, ChannelBroken, StopAsyncIteration) as error:
                    refused = error if isinstance(error, Refused) else None
                    reason = _reason(error)
                    self._records.failed(attempt.choice, reason, refused, attempt.started_ns)
                    self._send.send_nowait(Failed(number, reason, refused))
        finally:
            self._records.ended(attempt.choice, ask.model, was_accepted=attempt.accepted)
            attempt.left.set()

    async def _open(self, number: int, attempt: _Attempt, ask: Ask) -> None:
        async with self._answering(attempt.choice.server).open_ask(ask) as stream:
            attempt.accepted = True
            self._records.accepted(attempt.choice, ask.model)
            self._send.send_nowait(Accepted(number))
            first = await anext(stream)
            attempt.first_at_ns = now_ns()
            attempt.first, attempt.stream = first, stream
            self._on_read(attempt.choice)
            is_last = first.finish is not None
            self._send.send_nowait(FirstDelta(number, len(first.token_ids), is_last))
            await trio.sleep_forever()  # until it is cancelled: as loser, at its end, or with the request

    def _measure(self, attempt: _Attempt, last: Delta | None) -> None:
        self._records.measured(
            attempt.choice,
            self._ask.model,
            latency_ns=attempt.first_at_ns - attempt.started_ns,
            writing_ns=now_ns() - attempt.first_at_ns,
            tokens=attempt.tokens,
            # One that went on read the output, too: its usage does not say how much that was.
            usage=None if last is None or self._is_resumed else last.usage,
        )

    def _passed_over(self) -> tuple[str, ...]:
        asked = {attempt.choice.server for attempt in self._attempts.values()}
        lines = [str(failure) for failure in self._session.failures if not failure.delivered]
        told = {failure.choice.server for failure in self._session.failures}
        told |= {choice.server for choice in self._session.answered}
        told |= {attempt.choice.server for attempt in self._session.live}
        for server in asked - told:
            name = next(one.choice.name for one in self._attempts.values() if one.choice.server == server)
            lines.append(f"{name}: was overtaken by another one before its first token")
        lines += [str(one) for one in self._plan.passed_over if one.server not in asked]
        return tuple(lines)


def _line(text: str) -> str:
    """One line of printable characters, whatever a peer said."""
    line = " ".join("".join(one if one.isprintable() else " " for one in text).split())
    return line if len(line) <= LINE_CHARACTERS_MAX else f"{line[: LINE_CHARACTERS_MAX - 1]}…"


def _reason(error: Exception) -> str:
    if isinstance(error, Refused):
        return error.message
    if isinstance(error, StopAsyncIteration):
        return "ended its answer without saying why"
    return str(error) or type(error).__name__
