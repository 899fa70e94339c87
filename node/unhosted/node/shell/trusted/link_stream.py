"""What waits for a peer's answer: a stream of deltas, or one value."""

from collections import deque
from collections.abc import AsyncIterator
from typing import Generic, TypeVar

import trio

from unhosted.node.core.asks import Ask
from unhosted.node.core.errors import Refused
from unhosted.node.core.inference import Delta
from unhosted.node.core.peering import ChannelBroken
from unhosted.node.shell.trusted.wire import TOKENS_MAX
from unhosted.node.shell.trusted.wire_fields import WireError

T = TypeVar("T")

WAITING_CHARS_MAX = 8 << 20
"""Text that waits for a slow reader here: 262,144 tokens, the most a request may give, of 32 characters."""

DELTA_CHARS = 32
"""What a delta counts besides its text, so that empty ones are bounded, too; a logprob counts the same."""

FIRST_DELTA_S, STALL_S = 900.0, 60.0
"""A peer that sends heartbeats and never a token holds its request no longer than this: a long prompt on a
slow machine takes minutes to read, one token takes seconds."""

Failure = Refused | ChannelBroken


class LinkStream:
    """The deltas of one ask, in order. Iterating raises what ended it: Refused or ChannelBroken."""

    def __init__(self, ask: Ask) -> None:
        self._tokens_left = TOKENS_MAX if ask.max_tokens is None else min(ask.max_tokens, TOKENS_MAX)
        self._deltas: deque[Delta] = deque()
        self._waiting_chars = 0
        self._accepted = False
        self._begun = False
        self._failure: Failure | None = None
        self._changed = trio.Event()
        self.finished = False

    def accept(self) -> None:
        self._accepted = True
        self._changed.set()

    def push(self, delta: Delta) -> None:
        """Raises: WireError if the peer gives more than was asked for, or what nobody could hold."""
        if self.finished or not self._accepted:
            raise WireError("a delta outside of its request")
        self._tokens_left -= len(delta.token_ids)
        self._waiting_chars += _size_chars(delta)
        if self._tokens_left < 0 or self._waiting_chars > WAITING_CHARS_MAX:
            raise WireError("more output than was asked for, or than is held for a slow reader")
        self.finished = delta.finish is not None
        self._deltas.append(delta)
        self._changed.set()

    def fail(self, failure: Failure) -> None:
        if not self.finished:
            self._failure, self.finished = failure, True
            self._changed.set()

    async def wait_accepted(self) -> None:
        while not self._accepted:
            if self._failure is not None:
                raise self._failure
            await self._wait()

    def __aiter__(self) -> AsyncIterator[Delta]:
        return self

    async def __anext__(self) -> Delta:
        while not self._deltas:
            if self._failure is not None:
                raise self._failure
            if self.finished:
                raise StopAsyncIteration
            patience_s = STALL_S if self._begun else FIRST_DELTA_S
            with trio.move_on_after(patience_s) as scope:
                await self._wait()
            if scope.cancelled_caught:
                raise ChannelBroken(f"it gave no token for {patience_s:g} s")
        self._begun = True
        delta = self._deltas.popleft()
        self._waiting_chars -= _size_chars(delta)
        return delta

    async def _wait(self) -> None:
        await self._changed.wait()
        self._changed = trio.Event()


class LinkCall(Generic[T]):
    """One value that the peer is to give."""

    def __init__(self) -> None:
        self._value: T | None = None
        self._failure: Failure | None = None
        self._done = trio.Event()

    @property
    def finished(self) -> bool:
        return self._done.is_set()

    def answer(self, value: T) -> None:
        if not self._done.is_set():
            self._value = value
            self._done.set()

    def fail(self, failure: Failure) -> None:
        if not self._done.is_set():
            self._failure = failure
            self._done.set()

    async def wait(self) -> T:
        await self._done.wait()
        if self._failure is not None:
            raise self._failure
        assert self._value is not None
        return self._value


def _size_chars(delta: Delta) -> int:
    if not delta.logprobs:
        return DELTA_CHARS + len(delta.text)
    return DELTA_CHARS * (1 + sum(1 + len(one.top) for one in delta.logprobs)) + len(delta.text)
