"""A node inside this process, for commands that find none running.

It lives in a thread of its own, so that this one can wait for the keyboard, and so that Ctrl-C, which Python
gives to the main thread alone, stops an answer instead of the node.
"""

import contextlib
import queue
import threading
from collections.abc import Awaitable, Callable, Generator
from types import TracebackType
from typing import Self, TypeVar

import trio

from unhosted.node.cli.backend import Ended, Piece, Question, Started
from unhosted.node.config import Config
from unhosted.node.core.inference import Constraint
from unhosted.node.core.service import ChatRequest, Node, Options
from unhosted.verify.params import ParameterError, SamplingParams

T = TypeVar("T")

# An answer ends at the context's end, which bounds what waits here.
Items = queue.SimpleQueue[Piece | BaseException | None]


class LocalBackend:
    """A context: entering starts the node, leaving stops it and its engines.

    with_peers: reach paired machines too, if the settings allow it; their libraries take a second to load.
    """

    def __init__(self, config: Config, *, with_peers: bool = False) -> None:
        self._config = config
        self._with_peers = with_peers
        self._thread = threading.Thread(target=self._run, name="node")
        self._started: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._token: trio.lowlevel.TrioToken | None = None
        self._starting = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        self._node: Node | None = None

    @property
    def where(self) -> str:
        return "this process"

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            failure = self._started.get()
        except BaseException:
            self._stop()
            raise
        if failure is not None:
            self._thread.join()
            raise failure
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def ask(self, question: Question) -> Generator[Piece, None, None]:
        request = chat_request(question, self._config)
        nursery, token = self._nursery, self._token
        assert nursery is not None and token is not None
        items: Items = queue.SimpleQueue()
        scope = trio.CancelScope()
        token.run_sync_soon(nursery.start_soon, self._answer, request, items, scope)
        is_over = False
        try:
            while True:
                item = items.get()
                is_over = item is None or isinstance(item, BaseException)
                if isinstance(item, BaseException):
                    raise item
                if item is None:
                    return
                yield item
        finally:
            if not is_over:
                token.run_sync_soon(scope.cancel)
                while (item := items.get()) is not None and not isinstance(item, BaseException):
                    pass  # what came before the end of the cancelled request

    def call(self, work: Callable[[Node], Awaitable[T]]) -> T:
        """What `work` gives, run where the node lives; this thread waits. Raises: what it raises."""
        assert self._node is not None
        return trio.from_thread.run(work, self._node, trio_token=self._token)

    def _stop(self) -> None:
        if self._token is not None:
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._end)
        self._thread.join()

    def _end(self) -> None:
        # Answers are cut off; the node then closes in its own time, its engines in order.
        (self._starting if self._nursery is None else self._nursery.cancel_scope).cancel()

    def _run(self) -> None:
        try:
            trio.run(self._serve)
        except BaseException as failure:  # whatever it was, the main thread shows it
            self._started.put(failure)

    async def _serve(self) -> None:
        from unhosted.node import app

        self._token = trio.lowlevel.current_trio_token()
        with self._starting:
            opening = app.open_node(self._config, offline=self._config.offline, with_peers=self._with_peers)
            async with opening as node:
                self._node = node
                async with trio.open_nursery() as self._nursery:
                    self._started.put(None)
                    await trio.sleep_forever()

    async def _answer(self, request: ChatRequest, items: Items, scope: trio.CancelScope) -> None:
        assert self._node is not None
        end: BaseException | None = None
        try:
            with scope:
                async with self._node.open_chat(request) as stream:
                    items.put(Started(model=stream.model, provenance=stream.provenance))
                    async for delta in stream:
                        items.put(delta)
                    items.put(Ended(provenance=stream.provenance))
        except Exception as failure:  # raised again in the main thread, where the command waits
            end = failure
        finally:
            items.put(end)


def chat_request(question: Question, config: Config) -> ChatRequest:
    """Raises: Refused naming the field."""
    from unhosted.node.core.errors import Refused
    from unhosted.node.http.fields import seed_bytes  # one rule from seed to bytes for every entry point

    given = {} if question.temperature is None else {"temperature": question.temperature}
    try:
        sampling = SamplingParams(seed=seed_bytes(question.seed), **given)  # type: ignore[arg-type]
    except ParameterError as error:
        raise Refused("invalid_request", str(error), field=error.field) from None
    schema = question.schema
    return ChatRequest(
        model=question.model,
        messages=question.messages,
        options=Options(
            sampling=sampling,
            max_tokens=question.max_tokens,
            constraint=None if schema is None else Constraint(kind="json_schema", source=schema),
            radius=question.radius or config.radius,
        ),
    )
