"""Runs one end of a payment channel: the machine of `unhosted.market`, fed by one task.

Everything that happens to the channel goes through one queue, so the machine needs no lock and its effects
are performed in their order. Writing effects (a ledger's commit, a book's) are started here and answered by
an event of their own: many requests share one sync of the disk meanwhile.
"""

import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from unhosted.market.channel_effects import Effect
from unhosted.market.channel_events import Event, TimePassed
from unhosted.market.channel_machine import step
from unhosted.market.channel_states import Channel, next_deadline_ns

QUEUE_EVENTS = 256
"""Events that wait for the machine: four of each live request. Who feeds more waits, and reads no more."""

Perform = Callable[[Effect], Awaitable[None]]
Fed = Callable[[Channel, Event], None]


class Clock(Protocol):
    def __call__(self) -> int:
        """Monotonic nanoseconds."""
        ...


class ChannelEnd:
    """`run` it in a nursery; `feed` it from anywhere in the same trio run."""

    def __init__(
        self,
        channel: Channel,
        *,
        perform: Perform,
        fed: Fed = lambda channel, event: None,
        clock: Clock = time.monotonic_ns,
    ) -> None:
        """perform: carries out one effect. fed: told of each event once its effects were performed."""
        self.channel = channel
        self._perform = perform
        self._fed = fed
        self._clock = clock
        self._sending, self._events = trio.open_memory_channel[Event](QUEUE_EVENTS)
        self._answers: deque[Event] = deque()
        self._undone: deque[Effect] = deque()
        self._moved = trio.Event()

    async def feed(self, event: Event) -> None:
        """Put an event in the queue; waits while it is full."""
        await self._sending.send(event)

    def answer(self, event: Event) -> None:
        """What came of an effect, from inside `perform`: taken before anything else that waits. One effect
        gives at most one, so it is bounded by the effects of a step."""
        self._answers.append(event)

    async def wait_until(self, holds: Callable[[Channel], bool]) -> None:
        """Until the channel is as asked. For as long as `run` runs, and no longer."""
        while not holds(self.channel):
            await self._moved.wait()

    async def finish(self, event: Event) -> None:
        """Take a last event, after `run` ended.

        Before it comes what the end of `run` cut short: the effects of a step belong together, and a peer
        that chooses the moment of its leaving must not choose which of them happen. The one that was under
        way is performed again, so effects can be repeated. What comes of them is not taken any more: with
        nobody at the other end it could only count as sent what is not.
        """
        await self._perform_undone()
        self._answers.clear()
        await self._take(event)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled. Whatever an effect raises goes through: this end is then as after a crash, and
        what was durable is what counts."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_time)
            task_status.started()
            async for event in self._events:
                await self._take(event)

    async def _take(self, event: Event) -> None:
        self._answers.append(event)
        while self._answers:
            event = self._answers.popleft()
            self.channel, effects = step(self.channel, event, self._clock())
            self._undone.extend(effects)
            await self._perform_undone()
            self._fed(self.channel, event)
        moved, self._moved = self._moved, trio.Event()
        moved.set()

    async def _perform_undone(self) -> None:
        while self._undone:
            effect = self._undone.popleft()
            try:
                await self._perform(effect)
            except trio.Cancelled:
                self._undone.appendleft(effect)
                raise
            except BaseException:  # as after a crash
                self._undone.clear()
                raise

    async def _keep_time(self) -> None:
        while True:
            moved, deadline_ns = self._moved, next_deadline_ns(self.channel)
            wait_s = float("inf") if deadline_ns is None else max(deadline_ns - self._clock(), 0) / 1e9
            with trio.move_on_after(wait_s):
                await moved.wait()
                continue
            await self.feed(TimePassed())
            await moved.wait()
