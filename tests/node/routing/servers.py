"""Servers that behave as they are told, and the facts and candidates that go with them."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace

import trio

from unhosted.node.core.asks import Ask
from unhosted.node.core.errors import Refused
from unhosted.node.core.inference import Delta, Embeddings, Usage
from unhosted.node.core.peering import ChannelBroken, ModelFacts, PeerFacts, PeerUnreachable
from unhosted.node.core.routing import LOCAL, Candidate

MODEL = "ab" * 32
NAME = "smollm2:135m"
TOKENS = 24
PROMPT_TOKENS = 100
REFERENCE = tuple(1000 + 7 * position for position in range(TOKENS))
"""What every honest server says, whoever it is and wherever it begins."""


def model_facts(**changes: object) -> ModelFacts:
    facts = ModelFacts(
        name=NAME,
        aliases=("smollm2",),
        blake3=MODEL,
        size_bytes=100_000_000,
        architecture="llama",
        parameters=135_000_000,
        quantization="Q4_1",
        context_tokens=2048,
        generates=True,
        is_loaded=True,
        slots=16,
        slots_free=16,
        queued=0,
        prefill_tokens_per_s=1000.0,
        decode_tokens_per_s=100.0,
    )
    return replace(facts, **changes)  # type: ignore[arg-type]


def peer_facts(name: str, *models: ModelFacts, accepting: bool = True, why_not: str = "") -> PeerFacts:
    return PeerFacts(name=name, version="1", accepting=accepting, why_not=why_not, models=models)


def candidate(server: str, **changes: object) -> Candidate:
    """A healthy one with the model; a peer unless it is `LOCAL`."""
    one = Candidate(
        server=server,
        name="laptop" if server == LOCAL else server,
        ring="local" if server == LOCAL else "trusted",
        facts=model_facts(),
    )
    return replace(one, **changes)  # type: ignore[arg-type]


def ask(**changes: object) -> Ask:
    return replace(Ask(ask_id="ask-1", model=MODEL, prompt="Hello"), **changes)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class Script:
    """What a server does with one ask. dies_after: tokens that it gives before it is gone.

    silent_after: tokens before it says nothing any more, with its connection alive.
    """

    accepts_after_s: float = 0.0
    first_after_s: float = 0.0
    step_s: float = 0.0
    refuses: Refused | None = None
    refuses_after: int | None = None
    is_gone: bool = False
    dies_after: int | None = None
    silent_after: int | None = None
    bundle: int = 1


HONEST = Script()


@dataclass
class FakeServer:
    """Implements `Answering`. Follows `scripts` one by one, then answers honestly."""

    name: str
    scripts: list[Script] = field(default_factory=list)
    always: Script = HONEST
    asked: list[Ask] = field(default_factory=list)
    open_now: int = 0
    open_max: int = 0
    cancelled: int = 0
    called: int = 0

    @asynccontextmanager
    async def open_ask(self, ask: Ask) -> AsyncIterator[AsyncIterator[Delta]]:
        self.asked.append(ask)
        script = self.scripts.pop(0) if self.scripts else self.always
        await trio.sleep(script.accepts_after_s)
        if script.is_gone:
            raise PeerUnreachable(f"{self.name}: nothing answers at 192.168.1.9:8643")
        if script.refuses is not None and script.refuses_after is None:
            raise script.refuses
        self.open_now += 1
        self.open_max = max(self.open_max, self.open_now)
        progress = _Progress()
        try:
            async with aclosing(self._deltas(ask, script, progress)) as deltas:
                yield deltas
        finally:
            self.open_now -= 1
            self.cancelled += not progress.ended

    async def _deltas(self, ask: Ask, script: Script, progress: "_Progress") -> AsyncGenerator[Delta, None]:
        await trio.sleep(script.first_after_s)
        begin, limit = len(ask.resume_ids), min(ask.max_tokens or TOKENS, TOKENS)
        assert ask.resume_ids == REFERENCE[:begin]
        given = 0
        while begin + given < limit:
            await trio.lowlevel.checkpoint()
            if script.dies_after is not None and given >= script.dies_after:
                progress.ended = True
                raise ChannelBroken(f"the connection to {self.name} was lost")
            if script.refuses is not None and given >= (script.refuses_after or 0):
                progress.ended = True
                raise script.refuses
            if script.silent_after is not None and given >= script.silent_after:
                await trio.sleep_forever()
            if given and script.step_s:
                await trio.sleep(script.step_s)
            ids = REFERENCE[begin + given : min(begin + given + script.bundle, limit)]
            given += len(ids)
            is_last = begin + given == limit
            progress.ended = is_last
            usage = Usage(prompt_tokens=PROMPT_TOKENS, cached_tokens=begin + 40, completion_tokens=limit)
            yield Delta(
                token_ids=ids,
                text="".join(f" {token}" for token in ids),
                finish="length" if is_last else None,
                usage=usage if is_last else None,
            )

    async def count_tokens(self, ask: Ask) -> int:
        await self._call()
        return PROMPT_TOKENS

    async def embed(self, model: str, inputs: Sequence[str | tuple[int, ...]]) -> Embeddings:
        await self._call()
        return Embeddings(vectors=tuple((1.0,) for _ in inputs), prompt_tokens=PROMPT_TOKENS)

    async def _call(self) -> None:
        self.called += 1
        script = self.scripts.pop(0) if self.scripts else self.always
        await trio.lowlevel.checkpoint()
        if script.is_gone:
            raise PeerUnreachable(f"{self.name}: nothing answers")
        if script.refuses is not None:
            raise script.refuses


@dataclass
class _Progress:
    ended: bool = False
