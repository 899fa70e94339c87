"""One channel of a peer that asks: its requests run beside each other, and one writer sends what they give.

What becomes ready in one round of the scheduler, which is what one step of the engine gave, goes out in one
message. A peer that does not read is cut off: its requests are cancelled and the channel is reset.
"""

import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Protocol

import trio

from unhosted.node.core.asks import Answering, Ask
from unhosted.node.core.errors import LocalFault, Refused
from unhosted.node.core.inference import Delta
from unhosted.node.core.peering import Channel, ChannelBroken, PeerId
from unhosted.node.shell.trusted.wire import VERSION, decode_request
from unhosted.node.shell.trusted.wire_fields import WireError
from unhosted.node.shell.trusted.wire_messages import (
    AskRequest,
    CancelRequest,
    ComingRequest,
    CountRequest,
    EmbedRequest,
    Hello,
    WrongRequest,
    WrongVersion,
)
from unhosted.node.shell.trusted.wire_replies import (
    ALIVE,
    ENTRIES_MAX,
    encode_accepted,
    encode_counted,
    encode_deltas,
    encode_embedded,
    encode_refused,
)

log = logging.getLogger(__name__)

HEARTBEAT_S = 0.4
"""The protocol promises a message each 0.5 s while requests are under way; a tenth is for a busy loop."""

PACE_S = 0.025
"""Between two messages with nothing but middles of answers: forty a second are smooth to the eye, and each
costs both machines half a millisecond. What begins or ends an answer goes out at once."""

HELLO_TIMEOUT_S = 5.0
"""Who opens a channel says hello at once; a channel is not to be held open for nothing."""

SEND_TIMEOUT_S = 10.0
"""A message that nobody takes for this long: the reader is gone or stopped."""

WAITING_BYTES_MAX = 4 << 20
"""Output that waits for a slow reader: some hundred thousand tokens, far more than a step of all requests."""

MESSAGE_BYTES_AIM = 128 << 10
"""What waited is sent in messages of this size: on a slow line each must end before silence is feared."""

COMING_MAX = 256
"""Announced requests that have not come, per channel: as many as a peer may have under way."""

DELTA_BYTES = 64
"""What an entry takes besides its texts, on the wire and in the list, about."""


class Used:
    """What one request used: the prompt once the engine gave something, and every token delivered.

    prompt_tokens: an estimate, which counts until the engine says the true number.
    """

    def __init__(self, prompt_tokens: int) -> None:
        self._prompt_tokens = prompt_tokens
        self.tokens = 0

    def delivered(self, delta: Delta) -> None:
        if not self.tokens:
            self.tokens = self._prompt_tokens
        self.tokens += len(delta.token_ids)
        if delta.usage is not None:
            self.tokens += delta.usage.prompt_tokens - self._prompt_tokens

    def read(self, prompt_tokens: int) -> None:
        self.tokens += prompt_tokens


class Gate(Protocol):
    """Who may ask what."""

    def admit(self, peer: PeerId, ask: Ask) -> AbstractAsyncContextManager[tuple[Ask, Used]]:
        """The ask as it is answered here. Raises: Refused, on entering."""
        ...

    def admit_call(self, peer: PeerId, model: str) -> AbstractAsyncContextManager[Used]:
        """For counting and embedding. Raises: Refused, on entering."""
        ...


class ServedChannel:
    """Made for one channel by `Serving`. hello and facts: the first two messages, encoded."""

    def __init__(
        self, channel: Channel, *, answering: Answering, gate: Gate, hello: bytes, facts: bytes
    ) -> None:
        self._channel = channel
        self._answering = answering
        self._gate = gate
        self._scopes: dict[int, trio.CancelScope] = {}  # bounded by the gate's requests per peer
        self._coming: set[int] = set()
        self._first: list[bytes] = [hello, facts]
        self._deltas: list[tuple[int, Delta]] = []
        self._last: list[bytes] = []
        self._waiting_bytes = 0
        self._facts: bytes | None = None
        self._beat_due = self._closing = False
        self._deltas_sent_at = 0.0
        self._sent_at = trio.current_time()
        self._wake, self._busy, self._idle = trio.Event(), trio.Event(), trio.Event()
        self._urgent = trio.Event()
        self._idle.set()
        self._wake_now()  # for the first two

    async def run(self) -> None:
        """Serve until the peer is done or gone. Returning without an end resets the channel."""
        peer = self._channel.peer
        try:
            async with trio.open_nursery() as nursery:
                if await self._greet():
                    nursery.start_soon(self._beat)
                    nursery.start_soon(self._write_and_end, nursery.cancel_scope)
                    await self._read(nursery)
        except* WireError as group:
            log.warning("peer_nonsense peer=%s error=%s", peer[-8:], group.exceptions[0])
        except* ChannelBroken as group:
            log.info("peer_channel_lost peer=%s why=%s", peer[-8:], group.exceptions[0])

    def push_facts(self, facts: bytes) -> None:
        """Send the facts after what is waiting; a later call replaces them."""
        self._facts = facts
        self._wake_now()

    async def _greet(self) -> bool:
        with trio.move_on_after(HELLO_TIMEOUT_S):
            data = await self._channel.receive()
            if data is None:
                return False
            match decode_request(data):
                case Hello():
                    return True
                case WrongVersion(version=version):
                    refusal = Refused(
                        "not_supported",
                        f"version {version} of the protocol is not spoken here, version {VERSION} is; "
                        "install the same release on both machines",
                    )
                    await self._send(encode_refused(0, refusal))
                    await self._channel.end()
                    return False
                case _:
                    raise WireError("the first message is no hello")
        raise WireError(f"no hello within {HELLO_TIMEOUT_S:g} s")

    async def _read(self, nursery: trio.Nursery) -> None:
        while (data := await self._channel.receive()) is not None:
            match decode_request(data):
                case AskRequest(request_id=request_id, ask=ask):
                    self._start(nursery, request_id, partial(self._answer, request_id, ask))
                case CountRequest(request_id=request_id, ask=ask):
                    self._start(nursery, request_id, partial(self._count, request_id, ask))
                case EmbedRequest() as request:
                    self._start(nursery, request.request_id, partial(self._embed, request))
                case CancelRequest(request_id=request_id):
                    self._coming.discard(request_id)
                    self._note_busy()
                    if request_id in self._scopes:
                        self._scopes[request_id].cancel()
                case ComingRequest(request_id=request_id):
                    if len(self._coming) >= COMING_MAX:
                        raise WireError(f"{COMING_MAX} requests were announced and did not come")
                    self._coming.add(request_id)
                    self._note_busy()
                case WrongRequest(request_id=request_id, field=field, rule=rule):
                    self._coming.discard(request_id)
                    self._note_busy()
                    refusal = Refused("invalid_request", f"{field}: {rule}", field=field)
                    self._put_last(encode_refused(request_id, refusal))
                case _:
                    pass  # a kind of a later version, or a second hello
        await self._idle.wait()
        self._closing = True
        self._wake_now()

    def _start(self, nursery: trio.Nursery, request_id: int, work: Callable[[], Awaitable[None]]) -> None:
        if request_id in self._scopes:
            raise WireError(f"request {request_id} is under way already")
        scope = self._scopes[request_id] = trio.CancelScope()
        self._coming.discard(request_id)
        self._note_busy()
        nursery.start_soon(self._run_request, request_id, scope, work)

    async def _run_request(
        self, request_id: int, scope: trio.CancelScope, work: Callable[[], Awaitable[None]]
    ) -> None:
        try:
            with scope:
                await work()
        except Refused as refusal:
            self._put_last(encode_refused(request_id, refusal))
        except (ChannelBroken, WireError, LocalFault):
            raise
        except Exception as error:  # a fault of ours, for which the peer's other requests do not suffer
            # Its words may quote a prompt: they are not logged.
            log.error("peer_request_failed peer=%s error=%s", self._channel.peer[-8:], type(error).__name__)
            fault = Refused("engine_failed", "the request failed by a fault of the program; see its log")
            self._put_last(encode_refused(request_id, fault))
        finally:
            del self._scopes[request_id]
            self._note_busy()

    def _note_busy(self) -> None:
        if self._scopes or self._coming:
            if not self._busy.is_set():
                self._sent_at = trio.current_time()  # nothing was due before
                self._busy.set()
        elif self._busy.is_set():
            self._busy = trio.Event()
        if not self._scopes:
            self._idle.set()
        elif self._idle.is_set():
            self._idle = trio.Event()

    async def _answer(self, request_id: int, ask: Ask) -> None:
        async with (
            self._gate.admit(self._channel.peer, ask) as (admitted, used),
            self._answering.open_ask(admitted) as deltas,
        ):
            self._first.append(encode_accepted(request_id))
            self._wake_now()
            is_middle = False
            async for delta in deltas:
                used.delivered(delta)
                is_last = delta.finish is not None
                self._put_delta(request_id, delta, may_wait=is_middle and not is_last)
                if is_last:
                    break
                is_middle = True

    async def _count(self, request_id: int, ask: Ask) -> None:
        async with self._gate.admit_call(self._channel.peer, ask.model):
            self._put_last(encode_counted(request_id, await self._answering.count_tokens(ask)))

    async def _embed(self, request: EmbedRequest) -> None:
        async with self._gate.admit_call(self._channel.peer, request.model) as used:
            embeddings = await self._answering.embed(request.model, request.inputs)
            used.read(embeddings.prompt_tokens)
            self._put_last(encode_embedded(request.request_id, embeddings))

    def _put_delta(self, request_id: int, delta: Delta, *, may_wait: bool) -> None:
        self._deltas.append((request_id, delta))
        self._waiting_bytes += _size_bytes(delta)
        if may_wait:
            self._wake.set()
        else:
            self._wake_now()
        self._check_waiting()

    def _put_last(self, message: bytes) -> None:
        self._last.append(message)
        self._waiting_bytes += len(message)
        self._wake_now()
        self._check_waiting()

    def _wake_now(self) -> None:
        self._wake.set()
        self._urgent.set()

    def _check_waiting(self) -> None:
        if self._waiting_bytes > WAITING_BYTES_MAX:
            raise ChannelBroken(f"{self._waiting_bytes} bytes wait for the peer, at most {WAITING_BYTES_MAX}")

    async def _write_and_end(self, scope: trio.CancelScope) -> None:
        while True:
            await self._wake.wait()
            if not self._urgent.is_set():
                with trio.move_on_at(self._deltas_sent_at + PACE_S):
                    await self._urgent.wait()
            self._wake, self._urgent = trio.Event(), trio.Event()
            # First what comes before a request's deltas, last what comes after them.
            first, deltas, last = self._first, self._deltas, self._last
            self._first, self._deltas, self._last, self._waiting_bytes = [], [], [], 0
            for message in first:
                await self._send(message)
            if deltas:
                self._deltas_sent_at = trio.current_time()
            while deltas:
                count = _fitting(deltas)
                await self._send(encode_deltas(deltas[:count]))
                del deltas[:count]
            for message in last:
                await self._send(message)
            if self._facts is not None:
                facts, self._facts = self._facts, None
                await self._send(facts)
            if self._beat_due:
                self._beat_due = False
                if trio.current_time() - self._sent_at >= HEARTBEAT_S / 2:  # else something else was sent
                    await self._send(ALIVE)
            if self._closing and not self._wake.is_set():
                await self._channel.end()
                scope.cancel()
                return

    async def _beat(self) -> None:
        while True:
            await self._busy.wait()
            due = self._sent_at + HEARTBEAT_S
            if trio.current_time() < due:
                await trio.sleep_until(due)
            else:
                self._beat_due = True
                self._wake_now()
                await trio.sleep(HEARTBEAT_S / 8)  # until it is sent

    async def _send(self, message: bytes) -> None:
        with trio.move_on_after(SEND_TIMEOUT_S):
            await self._channel.send(message)
            self._sent_at = trio.current_time()
            return
        raise ChannelBroken(f"the peer took nothing for {SEND_TIMEOUT_S:g} s")


def _size_bytes(delta: Delta) -> int:
    size = DELTA_BYTES + 4 * len(delta.text) + 8 * len(delta.token_ids)
    for one in delta.logprobs:
        size += DELTA_BYTES + len(one.text)
        for top in one.top:
            size += DELTA_BYTES + len(top.text)
    return size


def _fitting(deltas: list[tuple[int, Delta]]) -> int:
    """How many of the deltas, at least one, go into one message."""
    size = 0
    for index, (_, delta) in enumerate(deltas[:ENTRIES_MAX]):
        size += _size_bytes(delta)
        if size > MESSAGE_BYTES_AIM:
            return max(index, 1)
    return min(len(deltas), ENTRIES_MAX)
