"""What the node knows of one request while a child works on it, so that it outlives the child."""

from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import trio

from unhosted.node.core.errors import Refused
from unhosted.node.core.inference import Delta, GenerateRequest
from unhosted.node.shell.engine.wire import Message

BLAME_OWN_FAULT = 3
BLAME_KILLED = 1
BLAME_MAX = 6
"""A child that aborts twice under one suspect, with no token in between, would do so a third time. A child
that was killed died of something else, unless it is the kernel that kills each one for its memory."""


class Stream:
    """The deltas of one request; also what is known of it if the child dies. Made by `EngineHost`.

    exposed: the child may be dying of this request: it reads it (a prompt or a grammar can kill the library,
    too) or runs it. One that waits in the child's queue is not.
    """

    def __init__(self, request: GenerateRequest) -> None:
        self.request = request
        self.prompt_tokens: int | None = None
        self.delivered: list[int] = list(request.resume_ids)
        self.exposed = False
        self.progressed = False
        self.blame = 0
        self.finished = False
        self._deltas: deque[Delta] = deque()  # bounded by max_tokens: a step gives one, and it ends
        self._refusal: Refused | None = None
        self._changed = trio.Event()

    def accept(self, prompt_tokens: int) -> None:
        self.prompt_tokens = prompt_tokens
        self.exposed = False
        self._notify()

    def refuse(self, refusal: Refused) -> None:
        self._refusal, self.finished = refusal, True
        self._notify()

    def push(self, delta: Delta) -> None:
        self.delivered += delta.token_ids
        self.progressed = True
        self.finished = delta.finish is not None
        self._deltas.append(delta)
        self._notify()

    def crashed(self, blame: int) -> bool:
        """The child died; gives whether this request may go on with the next one."""
        if self.exposed:
            self.blame = blame if self.progressed else self.blame + blame
        self.exposed = self.progressed = False
        return self.blame < BLAME_MAX

    async def wait_accepted(self) -> None:
        while self.prompt_tokens is None and self._refusal is None:
            await self._changed.wait()
        if self._refusal is not None:
            raise self._refusal

    def __aiter__(self) -> AsyncIterator[Delta]:
        return self

    async def __anext__(self) -> Delta:
        while not self._deltas:
            if self._refusal is not None:
                raise self._refusal
            if self.finished:
                raise StopAsyncIteration
            await self._changed.wait()
        return self._deltas.popleft()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


class Call:
    """A question to the child and its answer."""

    def __init__(self, message: Message) -> None:
        self.message = message
        self.finished = False
        self._blame = 0
        self._value: Any = None
        self._refusal: Refused | None = None
        self._done = trio.Event()

    @property
    def is_check(self) -> bool:
        return bool(self.message[0] == "check")

    def answer(self, value: Any) -> None:
        self._value, self.finished = value, True
        self._done.set()

    def refuse(self, refusal: Refused) -> None:
        self._refusal, self.finished = refusal, True
        self._done.set()

    def crashed(self, blame: int) -> bool:
        """See `Stream.crashed`; a call has no progress."""
        self._blame += blame
        return self._blame < BLAME_MAX

    async def wait(self) -> Any:
        await self._done.wait()
        if self._refusal is not None:
            raise self._refusal
        return self._value
