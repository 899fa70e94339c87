"""From an accepted request to its bytes: streamed or whole, cancelled as soon as the client is gone.

Nothing here runs per token except one `Reply.delta` and one `send`: no task, no pydantic, no framework.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Protocol, TypeVar

import trio

from unhosted.node.core.errors import Refused
from unhosted.node.core.service import AnswerDelta, AnswerStream, Provenance
from unhosted.node.http.exchange import Exchange, Header, joint_provenance, provenance_headers, send_json

T = TypeVar("T")
Opening = AbstractAsyncContextManager[AnswerStream]

_STREAM_HEADERS: tuple[Header, ...] = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    # nginx holds a stream back until its buffer is full unless told otherwise.
    (b"x-accel-buffering", b"no"),
)


class Reply(Protocol):
    """One dialect's words for one answer. `source` counts the prompts of a request that has several."""

    silence: bytes
    """What a silent stream sends to stay open: a comment, or the dialect's own ping."""

    def begin(self, model: str, provenance: Provenance) -> bytes:
        """The bytes before the first token."""
        ...

    def delta(self, source: int, delta: AnswerDelta) -> bytes:
        """The bytes of one step; empty if there is nothing to say yet."""
        ...

    def end(self, provenance: Provenance) -> bytes:
        """The bytes after the last delta, with what is only known now."""
        ...

    def fault(self, refused: Refused) -> bytes:
        """The bytes of an error after the stream began, when a status can no longer be sent."""
        ...

    def whole(self, model: str, provenance: Provenance) -> dict[str, object]:
        """The body of an answer that was not streamed, from the deltas given so far."""
        ...


async def answer(exchange: Exchange, openings: Sequence[Opening], reply: Reply, *, streaming: bool) -> None:
    """Open every prompt of the request, then send the answer.

    Returns early, with all streams left, if the client goes away.
    Raises: Refused, if nothing has been sent yet.
    """
    run = _Run(exchange, reply, streaming=streaming)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run.watch, nursery.cancel_scope)
        try:
            await run.answer(openings)
        except Refused as refused:
            run.refused = refused
        nursery.cancel_scope.cancel()
    if run.refused is not None:
        raise run.refused


async def unless_gone(exchange: Exchange, work: Callable[[], Awaitable[T]]) -> T | None:
    """What `work` gives; None, and the work cancelled, when the client leaves before.

    Raises: Refused, from the work.
    """
    result: T | None = None
    refused: Refused | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_cancel_when_gone, exchange, nursery.cancel_scope)
        try:
            result = await work()
        except Refused as error:
            refused = error
        nursery.cancel_scope.cancel()
    if refused is not None:
        raise refused
    return result


async def _cancel_when_gone(exchange: Exchange, scope: trio.CancelScope) -> None:
    while (await exchange.receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


class _Run:
    """The state of one answer under way, shared by the task that writes it and the one that watches."""

    def __init__(self, exchange: Exchange, reply: Reply, *, streaming: bool) -> None:
        self.refused: Refused | None = None
        self._exchange = exchange
        self._reply = reply
        self._streaming = streaming
        self._is_open = False
        self._is_ending = False
        self._writes = 0

    async def answer(self, openings: Sequence[Opening]) -> None:
        failed: Refused | None = None
        async with AsyncExitStack() as stack:
            streams = [await stack.enter_async_context(opening) for opening in openings]
            # Caught within the contexts, so that each of them ends as a cancelled one does.
            try:
                await (self._stream(streams) if self._streaming else self._whole(streams))
            except Refused as refused:
                failed = refused
        if failed is not None:
            raise failed

    async def watch(self, scope: trio.CancelScope) -> None:
        """Cancel on disconnect; meanwhile keep a silent stream open."""
        while True:
            writes = self._writes
            with trio.move_on_after(self._exchange.settings.quiet_s):
                while (await self._exchange.receive())["type"] != "http.disconnect":
                    pass
                # The server reports the end of a whole response as a disconnect too, from within the very
                # send that ends it: cancelled there, it would leave the connection half closed.
                if not self._is_ending:
                    scope.cancel()
                return
            if self._is_open and not self._is_ending and writes == self._writes:
                await self._write(self._reply.silence)

    async def _stream(self, streams: Sequence[AnswerStream]) -> None:
        first = streams[0]
        provenance = joint_provenance([stream.provenance for stream in streams])
        headers = [*_STREAM_HEADERS, *provenance_headers(provenance)]
        await self._exchange.send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._write(self._reply.begin(first.model, provenance))
        self._is_open = True
        try:
            await self._pump_all(streams, is_written=True)
        except Refused as refused:
            last = self._reply.fault(refused)
        else:
            last = self._reply.end(joint_provenance([stream.provenance for stream in streams]))
        self._is_ending = True
        await self._exchange.send({"type": "http.response.body", "body": last, "more_body": False})

    async def _whole(self, streams: Sequence[AnswerStream]) -> None:
        await self._pump_all(streams, is_written=False)
        provenance = joint_provenance([stream.provenance for stream in streams])
        body = self._reply.whole(streams[0].model, provenance)
        self._is_ending = True
        await send_json(self._exchange.send, body, headers=provenance_headers(provenance))

    async def _pump_all(self, streams: Sequence[AnswerStream], *, is_written: bool) -> None:
        if len(streams) == 1:
            await self._pump(0, streams[0], is_written=is_written)
            return
        failures: list[Refused] = []

        async def pump(source: int, stream: AnswerStream) -> None:
            try:
                await self._pump(source, stream, is_written=is_written)
            except Refused as refused:
                failures.append(refused)
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for source, stream in enumerate(streams):
                nursery.start_soon(pump, source, stream)
        if failures:
            raise failures[0]

    async def _pump(self, source: int, stream: AnswerStream, *, is_written: bool) -> None:
        reply, send = self._reply, self._exchange.send
        async for delta in stream:
            if delta.finish == "cancelled":
                raise Refused("engine_failed", "the answer was cancelled before its end; ask again")
            data = reply.delta(source, delta)
            if is_written and data:
                self._writes += 1
                await send({"type": "http.response.body", "body": data, "more_body": True})

    async def _write(self, data: bytes) -> None:
        self._writes += 1
        await self._exchange.send({"type": "http.response.body", "body": data, "more_body": True})
