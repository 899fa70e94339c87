"""Accepted requests on their way to the client: tool calls, n samples in one stream, and the record."""

import hashlib
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Protocol

import trio

from unhosted.node.core.asks import Ask
from unhosted.node.core.errors import Refused
from unhosted.node.core.inference import Delta, Usage
from unhosted.node.core.service import AnswerDelta, Provenance, ToolCallDelta
from unhosted.node.core.tool_parser import ToolCallParser
from unhosted.node.shell.metrics import Metrics
from unhosted.node.shell.nurseries import plain_nursery

SAMPLES_MAX = 16
"""Samples of one request run beside each other and leave no slot for others; OpenAI allows 128."""

ParserMaker = Callable[[int], ToolCallParser]
"""Of a choice's index."""


def sample_asks(ask: Ask, samples: int) -> tuple[Ask, ...]:
    """The n samples of a request: the first has its seed, each other one a seed derived from it."""
    if not 1 <= samples <= SAMPLES_MAX:
        raise Refused("invalid_request", f"n is {samples}, must be 1 to {SAMPLES_MAX}", field="n")
    if samples == 1:
        return (ask,)
    asks = []
    for index in range(samples):
        seed = ask.sampling.seed
        if index:
            message = b"unhosted/sample/v1" + index.to_bytes(4, "little")
            seed = hashlib.blake2b(message, key=seed, digest_size=32).digest()
        asks.append(replace(ask, ask_id=f"{ask.ask_id}.{index}", sampling=replace(ask.sampling, seed=seed)))
    return tuple(asks)


class Served(Protocol):
    """One sample's deltas, and who they come from as far as known now."""

    @property
    def provenance(self) -> Provenance: ...

    def __aiter__(self) -> AsyncIterator[Delta]: ...

    async def __anext__(self) -> Delta: ...


class Answer:
    """Implements `AnswerStream` over the samples' streams, and records the request when it ends."""

    def __init__(
        self,
        *,
        model: str,
        served: Sequence[Served],
        source: AsyncIterator[tuple[int, Delta]],
        make_parser: ParserMaker | None,
        metrics: Metrics,
    ) -> None:
        self.model = model
        self._served = served
        self._source = source
        self._samples = len(served)
        self._parsers = [make_parser(i) for i in range(len(served))] if make_parser else []
        self._metrics = metrics
        self._started_at = trio.current_time()
        self._first_token_at: float | None = None
        self._usages: dict[int, Usage] = {}
        self._tokens = 0
        self.outcome = "cancelled"

    @property
    def provenance(self) -> Provenance:
        """Of the first sample; with everybody who went on with any of them."""
        first = self._served[0].provenance
        if self._samples == 1:
            return first
        resumed_on = dict.fromkeys(name for one in self._served for name in one.provenance.resumed_on)
        return replace(first, resumed_on=tuple(resumed_on))

    def __aiter__(self) -> AsyncIterator[AnswerDelta]:
        return self

    async def __anext__(self) -> AnswerDelta:
        try:
            choice, delta = await anext(self._source)
        except Refused as refusal:  # noted here: whoever iterates may tell the client and raise nothing
            self.outcome = refusal.code
            raise
        return self._answer_delta(choice, delta)

    def record(self) -> None:
        """Count the request; called once, when its context is left."""
        now = trio.current_time()
        first = self._first_token_at
        self._metrics.finished(
            model=self.model,
            ring=self.provenance.ring,
            outcome=self.outcome,
            prompt_tokens=max((usage.prompt_tokens for usage in self._usages.values()), default=0),
            completion_tokens=self._tokens,
            first_token_s=None if first is None else first - self._started_at,
            duration_s=now - self._started_at,
        )

    def _answer_delta(self, choice: int, delta: Delta) -> AnswerDelta:
        if self._first_token_at is None:
            self._first_token_at = trio.current_time()
        self._tokens += len(delta.token_ids)
        text = delta.text
        calls: tuple[ToolCallDelta, ...] = ()
        finish: str | None = delta.finish
        if self._parsers:
            parser = self._parsers[choice]
            text, calls = parser.push(delta.text)
            if finish is not None:
                more_text, more_calls = parser.finish()
                text, calls = text + more_text, (*calls, *more_calls)
                if finish == "stop" and parser.calls_made:
                    finish = "tool_calls"
        if delta.usage is not None:
            self._usages[choice] = delta.usage
            if len(self._usages) == self._samples:
                self.outcome = finish or "stop"
        return AnswerDelta(
            choice=choice,
            text=text,
            tool_calls=calls,
            token_ids=delta.token_ids,
            logprobs=delta.logprobs,
            finish=finish,  # type: ignore[arg-type]
            stop_text=delta.stop_text,
            usage=delta.usage,
        )


@asynccontextmanager
async def open_answer(
    openings: Sequence[AbstractAsyncContextManager[Served]],
    *,
    model: str,
    make_parser: ParserMaker | None,
    metrics: Metrics,
) -> AsyncIterator[Answer]:
    """Start all samples of a request; leaving cancels what still runs."""
    async with AsyncExitStack() as stack:
        try:
            served = [await stack.enter_async_context(opening) for opening in openings]
        except Refused as refusal:
            metrics.refused(model=model, ring="none", code=refusal.code)
            raise
        source: AsyncIterator[tuple[int, Delta]] = _Single(served[0])
        if len(served) > 1:
            nursery = await stack.enter_async_context(plain_nursery())
            source = _Merged(nursery, served)
        answer = Answer(model=model, served=served, source=source, make_parser=make_parser, metrics=metrics)
        try:
            yield answer
        finally:
            answer.record()


class _Single:
    def __init__(self, stream: Served) -> None:
        self._stream = stream

    def __aiter__(self) -> AsyncIterator[tuple[int, Delta]]:
        return self

    async def __anext__(self) -> tuple[int, Delta]:
        return 0, await anext(self._stream)


class _Merged:
    """The deltas of several streams as they come. A refusal of one is the refusal of all."""

    def __init__(self, nursery: trio.Nursery, streams: Sequence[Served]) -> None:
        # No bound of its own: a stream gives at most one delta per token it may generate.
        send, self._receive = trio.open_memory_channel[tuple[int, Delta] | Refused](math.inf)
        with send:
            for choice, stream in enumerate(streams):
                nursery.start_soon(self._forward, choice, stream, send.clone())

    @staticmethod
    async def _forward(
        choice: int,
        stream: Served,
        send: "trio.MemorySendChannel[tuple[int, Delta] | Refused]",
    ) -> None:
        with send:
            try:
                async for delta in stream:
                    send.send_nowait((choice, delta))
            except Refused as refusal:
                send.send_nowait(refusal)

    def __aiter__(self) -> AsyncIterator[tuple[int, Delta]]:
        return self

    async def __anext__(self) -> tuple[int, Delta]:
        item = await anext(self._receive)
        if isinstance(item, Refused):
            raise item
        return item
