"""Keeps one model's process alive: starts it, speaks with it, and when it dies starts another one.

A crash costs a request a pause. What it had generated is known here, so the next child goes on from there:
the sampler is keyed by position, and the same tokens follow as if nothing had happened, within numeric
noise. The requests that were running are suspects: they go to the next child one at a time, each once the one
before has had a token, so that a second crash has one cause. That request fails, and no other.
"""

import logging
import signal
import socket
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from itertools import count
from operator import add
from typing import Any, Literal

import trio

from unhosted.node.core.engine_facts import EngineFacts
from unhosted.node.core.errors import Refused
from unhosted.node.core.inference import CheckedAnswer, CheckRequest, GenerateRequest
from unhosted.node.shell.engine.check_wire import pack_check, unpack_checked
from unhosted.node.shell.engine.child import LoadOrder
from unhosted.node.shell.engine.counters import COUNTERS
from unhosted.node.shell.engine.process import STDERR_LINES_KEPT, end, keep_last_words, start
from unhosted.node.shell.engine.stream import BLAME_KILLED, BLAME_OWN_FAULT, Call, Stream
from unhosted.node.shell.engine.wire import Decoder, Message, WireError, encode, pack_request, unpack_delta

log = logging.getLogger(__name__)

FAILED_STARTS_MAX = 3
"""Children in a row that died before they served anything; then the model is given up."""
SHORT_LIFE_S = 5.0
RESTART_PAUSE_S = 0.5
"""The successor of a child that died young starts a little later: a crash loop must not eat the machine."""
LAST_WORDS_S = 1.0
"""How long a dead child's error output is awaited; it is already in the pipe."""
CHILD_MODULE = "unhosted.node.shell.engine.child"
_RECEIVE_BYTES = 1 << 16
_KILL_STATUSES = frozenset({-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP})

State = Literal["loading", "ready", "restarting", "closed"]


class EngineHost:
    """One model's process. `run` is its life; the other methods may be used while it runs."""

    def __init__(
        self, model: str, order: LoadOrder, *, environment: Mapping[str, str], module: str = CHILD_MODULE
    ) -> None:
        self.model = model
        self.order = order
        self.state: State = "loading"
        self.pid = 0
        self.restarts = 0
        self.sandbox = self.library = ""
        self.threads = 0
        self.slots_busy = self.queued = 0
        self.idle_since = trio.current_time()
        self._environment = dict(environment)
        self._module = module
        self._streams: dict[str, Stream] = {}
        self._calls: dict[str, Call] = {}
        self._unsent: deque[Stream] = deque()
        self._suspect: Stream | None = None
        self._outgoing: deque[bytes] = deque()
        self._outgoing_changed = trio.Event()
        self._scope = trio.CancelScope()
        self._failure: Refused | None = None
        self._announced = False
        self._facts: EngineFacts | None = None
        self._counters: tuple[int, ...] = (0,) * len(COUNTERS)
        self._counters_before: tuple[int, ...] = self._counters
        self._call_ids = count(1)
        self._status: int | None = None
        self._last_words: deque[str] = deque(maxlen=STDERR_LINES_KEPT)

    @property
    def is_busy(self) -> bool:
        """Whether somebody waits for this model. A check is nobody: it may be given up for others."""
        return bool(self._streams) or any(not call.is_check for call in self._calls.values())

    @property
    def is_checking(self) -> bool:
        return any(call.is_check for call in self._calls.values())

    @property
    def facts(self) -> EngineFacts:
        """What decides how this engine rounds. Raises: Refused before the model is loaded."""
        if self._facts is None:
            raise Refused("engine_failed", f"{self.model} is not loaded yet; try again", retry_after_s=1)
        return self._facts

    @property
    def counters(self) -> dict[str, int]:
        """What this model's children did together, by the names of `counters.COUNTERS`."""
        return dict(zip(COUNTERS, map(add, self._counters_before, self._counters), strict=True))

    # ---- use

    @asynccontextmanager
    async def open_stream(self, request: GenerateRequest) -> AsyncIterator[Stream]:
        """See `Engines.open_stream`."""
        self._check_alive()
        # What cannot be sent is refused here, to whom it belongs, and not to the task that sends it later.
        encode(pack_request(request))
        stream = Stream(request)
        self._streams[request.request_id] = stream
        self._unsent.append(stream)
        try:
            self._submit_next()
            await stream.wait_accepted()
            yield stream
        finally:
            del self._streams[request.request_id]
            if not stream.finished:
                stream.finished = True
                self._send(["cancel", request.request_id])
            self._submit_next()
            self._note_idle()

    async def call(self, kind: str, *parts: Any) -> Any:
        """Ask the child for one value: tokenize, embed or check; asked again if the child dies once."""
        self._check_alive()
        call = Call([kind, f"call-{next(self._call_ids)}", *parts])
        encode(call.message)
        self._calls[call.message[1]] = call
        try:
            self._send(call.message)
            return await call.wait()
        finally:
            del self._calls[call.message[1]]
            if not call.finished:
                self._send(["cancel", call.message[1]])
            self._note_idle()

    async def check(self, requests: Sequence[CheckRequest], cells_max: int) -> tuple[CheckedAnswer, ...]:
        """See `Engines.check`. cells_max: of context, over all answers that are read at once."""
        answers = await self.call("check", cells_max, [pack_check(request) for request in requests])
        return tuple(unpack_checked(answer) for answer in answers)

    def give_up_checks(self, refusal: Refused) -> None:
        """End the checks that run, for somebody who needs what they take."""
        for call in self._calls.values():
            if call.is_check and not call.finished:
                call.refuse(refusal)
                self._send(["cancel", call.message[1]])

    def close(self) -> None:
        """End the child; what still runs on it fails."""
        self._scope.cancel()

    # ---- life

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start children until closed. Started when the first one has loaded the model.

        Ends without an error when a child dies while nobody needs it: the next request loads it anew.
        Raises: Refused (engine_failed) if no child could load the model.
        """
        try:
            with self._scope:
                await self._keep_children(task_status)
        finally:  # also when the node ends: nobody may wait for a child that is gone
            self.state = "closed"
            failure = self._failure or Refused(
                "engine_failed", f"{self.model} was unloaded while it answered; ask again", retry_after_s=1
            )
            for waiting in self._waiting():
                if not waiting.finished:
                    waiting.refuse(failure)
        if not self._announced:
            raise failure

    async def _keep_children(self, task_status: trio.TaskStatus[None]) -> None:
        failed_starts = 0
        while True:
            started_at = trio.current_time()
            served = await self._one_child(task_status)
            failed_starts = 0 if served else failed_starts + 1
            if self._failure is None and failed_starts >= FAILED_STARTS_MAX:
                self._failure = self._gave_up(failed_starts)
            if self._failure is not None or (served and not (self._streams or self._calls)):
                return
            self.restarts += 1
            self.state = "restarting"
            self._after_crash()
            if trio.current_time() - started_at < SHORT_LIFE_S:
                await trio.sleep(RESTART_PAUSE_S)

    async def _one_child(self, task_status: trio.TaskStatus[None]) -> bool:
        """One child from start to end; gives whether it ever served."""
        ours, theirs = socket.socketpair()
        connection = trio.socket.from_stdlib_socket(ours)
        self._outgoing.clear()
        self._last_words.clear()
        try:
            process = await start(self._module, theirs, self._environment)
        except BaseException as fault:
            connection.close()
            if not isinstance(fault, OSError):
                raise
            self._last_words.append(f"its process could not be started: {fault}")  # short of memory, often
            return False
        finally:
            theirs.close()
        try:
            async with trio.open_nursery() as nursery:
                last_words = trio.Event()
                nursery.start_soon(keep_last_words, process, self._last_words, last_words)
                nursery.start_soon(self._write, connection)
                self._send_now(["load", asdict(self.order)])
                served = await self._read(connection, task_status)
                with trio.move_on_after(LAST_WORDS_S):
                    await last_words.wait()
                nursery.cancel_scope.cancel()
        finally:
            connection.close()
            with trio.CancelScope(shield=True):
                await end(process)
        self._status = process.returncode
        self._counters_before = tuple(map(add, self._counters_before, self._counters))
        self._counters = (0,) * len(COUNTERS)
        if self._failure is None:
            said = " | ".join(self._last_words)[-500:]
            log.warning(
                "engine_died model=%s pid=%d status=%s said=%r",
                self.model,
                process.pid,
                process.returncode,
                said,
            )
        return served

    async def _read(self, connection: trio.socket.SocketType, task_status: trio.TaskStatus[None]) -> bool:
        decoder, served = Decoder(), False
        while True:
            try:
                data = await connection.recv(_RECEIVE_BYTES)
            except OSError:
                return served
            if not data:
                return served
            try:
                messages = decoder.feed(data)
            except WireError as error:
                log.error("engine_nonsense model=%s error=%s", self.model, error)
                return served  # a child gone mad is a dead child
            for message in messages:
                match message:
                    case ["step", deltas, failures, [busy, queued, *counters]]:
                        self.slots_busy, self.queued = busy, queued
                        self._counters = tuple(counters)
                        self._on_step(deltas, failures)
                    case ["admitted", _, admitted]:
                        for request_id in admitted:
                            if request_id in self._streams:
                                self._streams[request_id].exposed = True
                    case ["ready", _, facts]:
                        served = True
                        self._on_ready(facts)
                        if not self._announced:
                            self._announced = True
                            task_status.started()
                    case ["failed", _, reason]:
                        self._failure = Refused(
                            "engine_failed",
                            f"{self.model} could not be loaded: {reason}; see `unhosted doctor`",
                        )
                        return served
                    case _:
                        self._on_answer(message)

    def _on_ready(self, facts: dict[str, Any]) -> None:
        self.pid, self.sandbox, self.library = facts["pid"], facts["sandbox"], facts["library"]
        self.threads = facts["threads"]
        self._facts = EngineFacts(**facts["engine"])
        self.state = "ready"
        self._note_idle()
        running = [stream for stream in self._streams.values() if not stream.finished]
        self._unsent = deque(sorted(running, key=lambda stream: -stream.blame))
        self._suspect = None
        for call in self._calls.values():  # first: a suspect that kills the child then takes fewer with it
            self._send(call.message)
        self._submit_next()

    def _on_step(self, deltas: list[Any], failures: list[Message]) -> None:
        for parts in deltas:
            request_id, delta = unpack_delta(parts)
            stream = self._streams.get(request_id)
            if stream is not None:
                stream.push(delta)
        for message in failures:
            self._on_answer(message)
        if self._unsent:
            self._submit_next()

    def _on_answer(self, message: Message) -> None:
        kind, request_id, *parts = message
        target: Stream | Call | None = self._streams.get(request_id) or self._calls.get(request_id)
        if target is None:
            return  # cancelled while the answer was on its way
        if kind == "refused":
            code, text, field, retry_after_s, details = parts
            target.refuse(Refused(code, text, field=field, retry_after_s=retry_after_s, details=details))
            self._submit_next()
        elif isinstance(target, Stream):
            target.accept(parts[0])
        else:
            target.answer(parts[0])

    def _after_crash(self) -> None:
        self.slots_busy = self.queued = 0
        was_killed = self._status in _KILL_STATUSES
        for waiting in self._waiting():
            if not waiting.finished and not waiting.crashed(BLAME_KILLED if was_killed else BLAME_OWN_FAULT):
                waiting.refuse(
                    Refused(
                        "engine_failed",
                        f"the engine of {self.model} died again and again under this request, and under no "
                        f"other; it said: {self._last_word()}",
                    )
                )

    def _last_word(self) -> str:
        return self._last_words[-1] if self._last_words else f"nothing (status {self._status})"

    def _gave_up(self, starts: int) -> Refused:
        return Refused(
            "engine_failed",
            f"the engine of {self.model} died {starts} times before it served; it said: "
            f"{self._last_word()}; see `unhosted doctor`",
        )

    def _check_alive(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self.state == "closed":
            raise Refused("engine_failed", f"{self.model} is being unloaded; try again", retry_after_s=1)

    def _waiting(self) -> "list[Stream | Call]":
        return [*self._streams.values(), *self._calls.values()]

    def _note_idle(self) -> None:
        self.idle_since = trio.current_time()

    # ---- bytes

    def _submit_next(self) -> None:
        """Submit what waits; behind a suspect, only once that one has shown it does no harm."""
        while self.state == "ready" and self._unsent:
            if self._suspect and not (self._suspect.progressed or self._suspect.finished):
                return
            stream = self._unsent.popleft()
            if stream.finished:
                continue
            self._suspect = stream if stream.blame else None
            stream.exposed = True
            request = replace(stream.request, resume_ids=tuple(stream.delivered))
            self._send(["submit", request.request_id, pack_request(request)])

    def _send(self, message: Message) -> None:
        """Queued even while nobody listens would pile up: a child that comes up is told everything anew."""
        if self.state == "ready":
            self._send_now(message)

    def _send_now(self, message: Message) -> None:
        self._outgoing.append(encode(message))
        self._outgoing_changed.set()

    async def _write(self, connection: trio.socket.SocketType) -> None:
        # One task writes, so that a cancelled request never leaves half a message behind.
        while True:
            while self._outgoing:
                data = memoryview(self._outgoing.popleft())
                while data:
                    try:
                        sent = await connection.send(data)
                    except OSError:
                        return  # the child is gone; the reader sees it too
                    data = data[sent:]
            self._outgoing_changed = trio.Event()
            await self._outgoing_changed.wait()
