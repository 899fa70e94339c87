"""Asks answered by this machine's own engines: for its owner, and for paired peers alike."""

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from itertools import count

import trio

from unhosted.node.core.asks import Ask, ChatPrompt
from unhosted.node.core.errors import Refused
from unhosted.node.core.inference import Delta, Embeddings, Engines, GenerateRequest, Priority
from unhosted.node.shell.chat_template import adds_special, render
from unhosted.node.shell.models.store import InstalledModel

SpeedObserver = Callable[["Observed"], None]


class Observed:
    """What one generation showed of the engine's speed. Monotonic times; first_ns: 0 without a token.

    reads_only_prompt: its first token came of reading the prompt, and not also of waiting for a slot or of
    reading output that was made elsewhere.
    """

    __slots__ = (
        "cached_tokens",
        "first_ns",
        "last_ns",
        "model",
        "prompt_tokens",
        "reads_only_prompt",
        "started_ns",
        "tokens",
    )

    def __init__(self, model: str, *, reads_only_prompt: bool) -> None:
        self.model = model
        self.reads_only_prompt = reads_only_prompt
        self.started_ns = time.monotonic_ns()
        self.first_ns = self.last_ns = 0
        self.tokens = self.prompt_tokens = self.cached_tokens = 0


class LocalAnswering:
    """Implements `core.asks.Answering` over the engines and the store of this machine."""

    def __init__(
        self,
        engines: Engines,
        resolve: Callable[[str], InstalledModel],
        *,
        priority: Priority = Priority.OWN,
        observe: SpeedObserver | None = None,
        is_full: Callable[[str], bool] = lambda model: False,
    ) -> None:
        """resolve: as `ModelStore.resolve`, blocking. observe: told of each generation once it has ended.

        is_full: whether a request for a model, by BLAKE3, would have to wait for a slot now.
        """
        self._engines = engines
        self._resolve = resolve
        self._priority = priority
        self._observe = observe
        self._is_full = is_full
        self._attempts = count(1)

    @asynccontextmanager
    async def open_ask(self, ask: Ask) -> AsyncIterator[AsyncIterator[Delta]]:
        """See `Answering.open_ask`."""
        installed = await self._installed(ask.model)
        is_plain = not ask.resume_ids and not self._is_full(ask.model)
        observed = Observed(installed.entry.blake3, reads_only_prompt=is_plain)
        async with self._engines.open_stream(installed.name, self._request(ask, installed)) as deltas:
            try:
                yield _Watched(deltas, observed)
            finally:
                if self._observe is not None:
                    self._observe(observed)

    async def count_tokens(self, ask: Ask) -> int:
        if isinstance(ask.prompt, tuple):
            return len(ask.prompt)
        installed = await self._installed(ask.model)
        text, add_special = render_prompt(ask.prompt, installed)
        return len(await self._engines.tokenize(installed.name, text, add_special=add_special))

    async def embed(self, model: str, inputs: Sequence[str | tuple[int, ...]]) -> Embeddings:
        installed = await self._installed(model)
        return await self._engines.embed(installed.name, inputs)

    async def _installed(self, model: str) -> InstalledModel:
        return await trio.to_thread.run_sync(self._resolve, f"b3:{model}")

    def _request(self, ask: Ask, installed: InstalledModel) -> GenerateRequest:
        prompt: str | tuple[int, ...]
        if isinstance(ask.prompt, tuple):
            prompt, add_special = ask.prompt, False
        else:
            prompt, add_special = render_prompt(ask.prompt, installed)
        return GenerateRequest(
            # The same ask may come back here after it failed elsewhere, before its first run is gone.
            request_id=f"{ask.ask_id}.{next(self._attempts)}",
            prompt=prompt,
            add_special=add_special,
            max_tokens=ask.max_tokens,
            sampling=ask.sampling,
            stop=ask.stop,
            constraint=ask.constraint,
            logprobs=ask.logprobs,
            ignore_eos=ask.ignore_eos,
            use_prefix_cache=ask.use_prefix_cache,
            priority=self._priority,
            flow=ask.flow,
            resume_ids=ask.resume_ids,
        )


def render_prompt(prompt: ChatPrompt | str, installed: InstalledModel) -> tuple[str, bool]:
    """The prompt's text, and whether the tokenizer is to add the model's own beginning.

    Raises: Refused (invalid_request) for a date that is none, or messages that the template refuses.
    """
    if isinstance(prompt, str):
        return prompt, True
    header = installed.header
    bos = header.bos.text if header.bos else ""
    text = render(
        header.chat_template,
        prompt.messages,
        prompt.tools,
        bos=bos,
        eos=header.eos.text if header.eos else "",
        extra=prompt.template_kwargs,
        now=_date(prompt.date),
    )
    return text, adds_special(text, bos)


def _date(text: str) -> datetime:
    if not text:
        return datetime.now()
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise Refused(
            "invalid_request", f"date {text!r} is not ISO 8601, such as 2026-11-22T18:00:00", field="date"
        ) from None


class _Watched:
    """The deltas as they are, with their times noted."""

    __slots__ = ("_deltas", "_observed")

    def __init__(self, deltas: AsyncIterator[Delta], observed: Observed) -> None:
        self._deltas = deltas
        self._observed = observed

    def __aiter__(self) -> AsyncIterator[Delta]:
        return self

    async def __anext__(self) -> Delta:
        delta = await anext(self._deltas)
        observed = self._observed
        if delta.token_ids:
            observed.last_ns = time.monotonic_ns()
            if not observed.tokens:
                observed.first_ns = observed.last_ns
            observed.tokens += len(delta.token_ids)
        if delta.usage is not None:
            observed.prompt_tokens = delta.usage.prompt_tokens
            observed.cached_tokens = delta.usage.cached_tokens
        return delta
