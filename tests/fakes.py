"""A node without engines, and a server around it: what HTTP tests drive instead of a model.

`FakeNode` answers like `Node` promises: accepted on entering, left on cancel, usage on the last delta. The
tests in tests/interop run against it and against the real node, which keeps it honest.
"""

import queue
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import trio

from tests.fake_peers import FakePeers
from unhosted.node.core.errors import Refused
from unhosted.node.core.inference import Embeddings, LoadedModel, TokenLogprob, Usage
from unhosted.node.core.service import (
    ANY_PROVIDER,
    AnswerDelta,
    AnswerStream,
    ChatRequest,
    CompletionRequest,
    ModelEntry,
    Node,
    Options,
    Provenance,
    ProviderChoice,
    Radius,
    ToolCallDelta,
)
from unhosted.node.http.server import BoundAddress, serve_http
from unhosted.node.http.settings import HttpSettings

MODEL = "fake:1b"
OVERLOADED = "fake:overloaded"
SMALL = "fake:small-context"
DYING = "fake:dies-after-two-tokens"
ENDLESS = "fake:endless"
BROKEN = "fake:raises"
SPEECHLESS = "fake:says-nothing-until-left"
ELSEWHERE = "fake:served-by-peers"
MODELS = (MODEL, OVERLOADED, SMALL, DYING, ENDLESS, BROKEN, SPEECHLESS, ELSEWHERE)

BEGUN = Provenance(
    ring="trusted",
    served_by="desktop",
    reason="desktop is expected to be done in 2.1 s",
    passed_over=("laptop: no answer for 2 h",),
)
RESUMED = replace(BEGUN, resumed_on=("attic",))
"""As known at the end: the first server failed, another one went on."""

WORDS = ("Hello", " from", " the", " fake", " node", ",", " naïve", " 🙂", ".")
PERSON = ("{", '"name"', ":", '"Ada"', ",", '"age"', ":", "36", "}")
ARGUMENTS = ('{"city"', ":", '"Oslo"}')
SECRET = "what nobody may read in a log"
PROMPT_TOKENS = 11
CACHED_TOKENS = 4

Finish = Literal["stop", "length", "tool_calls"]


class FakeWallet:
    """`deposits`: what waits. `signed`: signatures that were taken, by the id of the deposit."""

    def __init__(self) -> None:
        self.deposits: list[dict[str, object]] = []
        self.signed: dict[str, bytes] = {}

    async def waiting(self) -> Sequence[Mapping[str, object]]:
        return self.deposits

    async def sign(self, deposit_id: str, signature: bytes) -> Mapping[str, object]:
        for deposit in self.deposits:
            if deposit["id"] == deposit_id:
                self.signed[deposit_id] = signature
                return deposit | {"is_signed": True}
        raise Refused("invalid_request", f"no deposit {deposit_id} waits here")


class FakeChecks:
    """`lines`: receipts, newest first. `pairs`: what is known of sellers. `checked`: what was asked for."""

    def __init__(self) -> None:
        self.lines: list[dict[str, object]] = []
        self.pairs: list[dict[str, object]] = []
        self.checked: list[tuple[str | None, bool]] = []

    async def receipts(
        self, *, limit: int, before: int | None = None, seller: str | None = None
    ) -> Sequence[Mapping[str, object]]:
        lines = [one for one in self.lines if before is None or int(str(one["number"])) < before]
        return [one for one in lines if seller is None or one["seller"] == seller][:limit]

    async def receipt(self, wanted: str) -> Mapping[str, object]:
        for one in self.lines:
            if str(one["receipt"]).startswith(wanted):
                return one
        raise Refused("invalid_request", f"no receipt begins {wanted!r}", field="receipt")

    async def sellers(self, seller: str | None = None) -> Sequence[Mapping[str, object]]:
        return [one for one in self.pairs if seller is None or one["seller"] == seller]

    async def check(self, seller: str | None = None, *, wait: bool = False) -> Mapping[str, object]:
        self.checked.append((seller, wait))
        return {"asked": len(self.lines), "sellers": await self.sellers(seller)}

    async def ask_peer(self, peer: str, file: str, *, evidence: str) -> Mapping[str, object]:
        return {"reader": peer, "evidence": evidence}

    async def forgive(self, seller: str) -> Mapping[str, object]:
        self.pairs = [one for one in self.pairs if one["seller"] != seller]
        return {"seller": seller, "models": 1}


@dataclass(slots=True, kw_only=True)
class FakeStream:
    deltas: AsyncIterator[AnswerDelta]
    model: str
    provenance: Provenance
    at_end: Provenance | None = None

    def __aiter__(self) -> AsyncIterator[AnswerDelta]:
        return self

    async def __anext__(self) -> AnswerDelta:
        try:
            return await anext(self.deltas)
        except StopAsyncIteration:
            self.provenance = self.at_end or self.provenance
            raise


class FakeNode(FakePeers):
    """The names in `MODELS` decide how it behaves; `asked` keeps what it was asked, newest last."""

    name = "fake"
    offline = True

    def __init__(self, *, tokens: int | None = None) -> None:
        super().__init__()
        self.wallet = FakeWallet()
        self.checks = FakeChecks()
        self.asked: list[ChatRequest | CompletionRequest] = []
        self.embedded: list[str | tuple[int, ...]] = []
        self.embedded_within: tuple[Radius | None, ProviderChoice] = (None, ANY_PROVIDER)
        self.is_ready = True
        self.open_now = 0
        self.left = trio.Event()
        """Set whenever a stream's context is left, by its end or by a cancel."""
        self.entered = trio.Event()
        self._loaded: set[str] = set()
        self._tokens = tokens

    @asynccontextmanager
    async def open_chat(self, request: ChatRequest) -> AsyncIterator[AnswerStream]:
        async with self._open(request) as stream:
            yield stream

    @asynccontextmanager
    async def open_completion(self, request: CompletionRequest) -> AsyncIterator[AnswerStream]:
        async with self._open(request) as stream:
            yield stream

    @asynccontextmanager
    async def _open(self, request: ChatRequest | CompletionRequest) -> AsyncIterator[AnswerStream]:
        self.asked.append(request)
        self._check(request.model)
        self.open_now += 1
        self.entered.set()
        try:
            async with aclosing(self._deltas(request)) as deltas:
                provenance = Provenance(ring="local", served_by="fake", reason="it is here")
                stream = FakeStream(deltas=deltas, model=request.model, provenance=provenance)
                if request.model == ELSEWHERE:
                    stream.provenance, stream.at_end = BEGUN, RESUMED
                yield stream
        finally:
            self.open_now -= 1
            self.left.set()

    def _check(self, model: str) -> None:
        if model not in MODELS:
            raise Refused("model_not_found", f"model {model!r} is not on this node", field="model")
        if model == OVERLOADED:
            raise Refused("overloaded", "64 requests are queued, at most 64", retry_after_s=7)
        if model == SMALL:
            numbers = {"prompt_tokens": 9000, "context_tokens": 4096}
            raise Refused(
                "context_length_exceeded", "the prompt has 9000 tokens, the context 4096", details=numbers
            )
        if model == BROKEN:
            raise RuntimeError(SECRET)

    async def _deltas(self, request: ChatRequest | CompletionRequest) -> AsyncGenerator[AnswerDelta, None]:
        if request.model == SPEECHLESS:
            await trio.sleep_forever()
        count = 0
        while request.model == ENDLESS:
            await trio.lowlevel.checkpoint()
            count += 1
            yield AnswerDelta(text=f" {count}", token_ids=(count,))
        options = request.options
        forced = isinstance(request, ChatRequest) and request.tool_choice == "required"
        for choice in range(options.n):
            deltas = self._call(request) if forced else self._say(options)
            for delta in deltas:
                await trio.lowlevel.checkpoint()
                if request.model == DYING and count == 2:
                    raise Refused("engine_failed", "the engine died twice under this request; ask again")
                count += 1
                yield AnswerDelta(
                    choice=choice,
                    text=delta.text,
                    tool_calls=delta.tool_calls,
                    token_ids=delta.token_ids,
                    logprobs=delta.logprobs,
                    finish=delta.finish,
                    stop_text=delta.stop_text,
                    usage=delta.usage,
                )

    def _say(self, options: Options) -> Iterator[AnswerDelta]:
        words: Sequence[str] = WORDS if options.constraint is None else PERSON
        if self._tokens is not None:
            words = [f" {index}" for index in range(self._tokens)]
        finish: Finish = "stop"
        if options.max_tokens is not None and options.max_tokens < len(words):
            words, finish = words[: options.max_tokens], "length"
        stop_text = None
        for stop in options.stop:
            if stop in "".join(words):
                words, finish, stop_text = ["".join(words).partition(stop)[0]], "stop", stop
        for token_id, word in enumerate(words):
            logprobs = () if options.logprobs is None else (_logprob(token_id, word, options.logprobs),)
            yield AnswerDelta(text=word, token_ids=(token_id,), logprobs=logprobs)
        yield AnswerDelta(finish=finish, stop_text=stop_text, usage=_usage(len(words)))

    def _call(self, request: ChatRequest | CompletionRequest) -> Iterator[AnswerDelta]:
        assert isinstance(request, ChatRequest)
        name = request.forced_tool or request.tools[0].name
        yield AnswerDelta(tool_calls=(ToolCallDelta(index=0, call_id="call_1", name=name),))
        for part in ARGUMENTS:
            yield AnswerDelta(tool_calls=(ToolCallDelta(index=0, arguments=part),))
        yield AnswerDelta(finish="tool_calls", usage=_usage(len(ARGUMENTS)))

    async def embed(
        self,
        model: str,
        inputs: Sequence[str | tuple[int, ...]],
        *,
        radius: Radius | None = None,
        provider: ProviderChoice = ANY_PROVIDER,
    ) -> Embeddings:
        self._check(model)
        self.embedded.extend(inputs)
        self.embedded_within = (radius, provider)
        vectors = tuple((float(len(one)), 0.5, -0.25) for one in inputs)
        return Embeddings(vectors=vectors, prompt_tokens=3 * len(inputs))

    async def count_tokens(self, request: ChatRequest) -> int:
        self.asked.append(request)
        return sum(len(message.content.split()) for message in request.messages)

    def models(self) -> tuple[ModelEntry, ...]:
        return tuple(_entry(name) for name in MODELS)

    def loaded(self) -> tuple[LoadedModel, ...]:
        return tuple(_loaded(name) for name in sorted(self._loaded))

    async def load(self, model: str) -> LoadedModel:
        self._check(model)
        self._loaded.add(model)
        return _loaded(model)

    async def unload(self, model: str) -> bool:
        was_loaded = model in self._loaded
        self._loaded.discard(model)
        return was_loaded

    def status(self) -> Mapping[str, object]:
        return {
            "name": self.name,
            "version": "0",
            "uptime_s": 1,
            "offline": True,
            "refused_connections": 0,
            "rings": {"local": "on", "trusted": "on", "public": "not built yet"},
            "peers": self.own_place,
            "models": [],
        }

    def metrics(self) -> str:
        return "# TYPE unhosted_fake gauge\nunhosted_fake 1\n"

    async def ready(self) -> tuple[bool, str]:
        return self.is_ready, "a model is here" if self.is_ready else "no model is stored"


@asynccontextmanager
async def served(node: Node, settings: HttpSettings | None = None) -> AsyncIterator[BoundAddress]:
    """The node on a free loopback port, in the test's own trio loop."""
    shutdown = trio.Event()
    settings = settings or HttpSettings(port=0)
    async with trio.open_nursery() as nursery:

        async def serve(task_status: trio.TaskStatus[BoundAddress]) -> None:
            await serve_http(node, settings, shutdown=shutdown, task_status=task_status)

        try:
            yield await nursery.start(serve)
        finally:
            shutdown.set()


@contextmanager
def served_in_thread(node: Node, settings: HttpSettings | None = None) -> Iterator[BoundAddress]:
    """The same in a thread of its own, for clients that block or bring another loop."""
    started: queue.Queue[BoundAddress | BaseException] = queue.Queue()
    finish = threading.Event()

    async def main() -> None:
        async with served(node, settings) as address:
            started.put(address)
            await trio.to_thread.run_sync(finish.wait, abandon_on_cancel=True)

    def run() -> None:
        try:
            trio.run(main)
        except BaseException as error:
            started.put(error)
            raise

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    address = started.get(timeout=30)
    if isinstance(address, BaseException):
        raise address
    try:
        yield address
    finally:
        finish.set()
        thread.join(timeout=30)


def _logprob(token_id: int, word: str, alternatives: int) -> TokenLogprob:
    top = tuple(
        TokenLogprob(token_id + other, word.encode() if other == 0 else b"\xf0\x9f", -0.5 - other)
        for other in range(alternatives)
    )
    return TokenLogprob(token_id, word.encode(), -0.5, top)


def _usage(completion_tokens: int) -> Usage:
    return Usage(
        prompt_tokens=PROMPT_TOKENS, cached_tokens=CACHED_TOKENS, completion_tokens=completion_tokens
    )


def _entry(name: str) -> ModelEntry:
    return ModelEntry(
        name=name,
        aliases=(f"{name}-alias",),
        size_bytes=98_362_432,
        blake3="00" * 32,
        architecture="llama",
        parameters=None,
        quantization="Q4_1",
        context_tokens=4096,
        licence=None,
        source="a test",
        created_unix_s=1_700_000_000,
    )


def _loaded(name: str) -> LoadedModel:
    return LoadedModel(
        model=name,
        pid=1,
        state="ready",
        slots=4,
        slots_busy=0,
        context_tokens=4096,
        queued=0,
        bytes_estimated=1,
        restarts=0,
        idle_s=0.0,
        sandbox="none",
        library="fake",
    )
