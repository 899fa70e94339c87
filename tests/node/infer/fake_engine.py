"""An engine that steps when it is told to, and a book in memory: the answering side of the infer tests."""

from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import trio

from unhosted.node.core.asks import Ask
from unhosted.node.core.errors import Refused
from unhosted.node.core.inference import Delta, Embeddings, Usage
from unhosted.node.core.peering import Capabilities, ModelFacts, PairedPeer, PeerFacts, PeerId

MODEL = "ab" * 32
PROMPT_TOKENS = 7

FACTS = PeerFacts(
    name="desktop",
    version="1.2",
    accepting=True,
    why_not="",
    models=(
        ModelFacts(
            name="tiny:1b",
            aliases=("tiny",),
            blake3=MODEL,
            size_bytes=1000,
            architecture="llama",
            parameters=None,
            quantization="Q4_0",
            context_tokens=4096,
            generates=True,
            is_loaded=True,
            slots=4,
            slots_free=4,
            queued=0,
            prefill_tokens_per_s=1234.5,
            decode_tokens_per_s=56.7,
        ),
    ),
)


class _Stream:
    def __init__(self) -> None:
        self.deltas: deque[Delta | Refused] = deque()
        self.changed = trio.Event()

    def push(self, one: Delta | Refused) -> None:
        self.deltas.append(one)
        self.changed.set()

    def __aiter__(self) -> AsyncIterator[Delta]:
        return self

    async def __anext__(self) -> Delta:
        while not self.deltas:
            await self.changed.wait()
            self.changed = trio.Event()
        one = self.deltas.popleft()
        if isinstance(one, Refused):
            raise one
        if one.finish is not None:
            self.push_end()
        return one

    def push_end(self) -> None:
        self.deltas.append(Refused("engine_failed", "nobody asks for more after the end"))


class FakeEngine:
    """Implements `Answering`. `step` gives every running ask a delta, as one step of an engine does."""

    def __init__(self) -> None:
        self.asks: list[Ask] = []
        self.running: dict[str, _Stream] = {}
        self.refuse: Refused | None = None
        self.accepts = trio.Event()
        self.accepts.set()
        self.embedded: list[str | tuple[int, ...]] = []
        self._changed = trio.Event()

    @asynccontextmanager
    async def open_ask(self, ask: Ask) -> AsyncIterator[AsyncIterator[Delta]]:
        self.asks.append(ask)
        await self.accepts.wait()
        if self.refuse is not None:
            raise self.refuse
        stream = self.running[ask.ask_id] = _Stream()
        self._notify()
        try:
            yield stream
        finally:
            del self.running[ask.ask_id]
            self._notify()

    def step(self, delta: Delta) -> None:
        for stream in self.running.values():
            stream.push(delta)

    def finish(self, delta: Delta | None = None) -> None:
        usage = Usage(prompt_tokens=PROMPT_TOKENS, cached_tokens=3, completion_tokens=1)
        self.step(replace(delta or Delta(), finish="stop", usage=usage))

    def fail(self, refusal: Refused) -> None:
        for stream in self.running.values():
            stream.push(refusal)

    async def wait_running(self, count: int) -> None:
        while len(self.running) != count:
            await self._changed.wait()

    async def count_tokens(self, ask: Ask) -> int:
        if self.refuse is not None:
            raise self.refuse
        return len(str(ask.prompt))

    async def embed(self, model: str, inputs: Sequence[str | tuple[int, ...]]) -> Embeddings:
        self.embedded += inputs
        vectors = tuple((float(len(one)), 0.5, -0.25) for one in inputs)
        return Embeddings(vectors=vectors, prompt_tokens=2 * len(inputs))

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


@dataclass
class FakeBook:
    """The part of the peer book that serving needs."""

    capabilities: dict[PeerId, Capabilities] = field(default_factory=dict)
    used: dict[PeerId, int] = field(default_factory=dict)

    def get(self, peer: PeerId) -> PairedPeer | None:
        if peer not in self.capabilities:
            return None
        return PairedPeer(
            peer=peer,
            name="laptop",
            state="paired",
            paired_unix_s=0,
            capabilities=self.capabilities[peer],
        )

    def tokens(self, peer: PeerId, day: str) -> int:
        return self.used.get(peer, 0)

    def add_tokens(self, peer: PeerId, day: str, tokens: int) -> None:
        self.used[peer] = self.used.get(peer, 0) + tokens
