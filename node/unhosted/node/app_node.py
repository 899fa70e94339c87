"""The node's service object: every entry point's requests take this one way, from words to an answer."""

import platform
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict, replace
from datetime import datetime

import trio

from unhosted.node.app_answers import Answer, ParserMaker, open_answer, sample_requests
from unhosted.node.config import Config
from unhosted.node.core.inference import Constraint, Embeddings, GenerateRequest, LoadedModel
from unhosted.node.core.model_ref import split_radius
from unhosted.node.core.service import (
    AnswerStream,
    ChatRequest,
    CompletionRequest,
    ModelEntry,
    Options,
    Provenance,
)
from unhosted.node.core.tool_parser import ToolCallParser
from unhosted.node.core.tools import tool_constraint
from unhosted.node.shell import offline
from unhosted.node.shell.chat_template import adds_special, render
from unhosted.node.shell.engine.manager import EngineManager
from unhosted.node.shell.metrics import Metrics
from unhosted.node.shell.models.store import InstalledModel, ModelStore
from unhosted.node.version import installed_version


class AppNode:
    """Implements `unhosted.node.core.service.Node` over this machine's engines."""

    def __init__(self, config: Config, *, store: ModelStore, engines: EngineManager) -> None:
        self.config = config
        self.name = platform.node() or "this machine"
        self.offline = config.offline
        self._store = store
        self._engines = engines
        self._metrics = Metrics(
            loaded=engines.loaded,
            counters=engines.counters,
            refused_connections=lambda: offline.refusals().count,
        )
        self._started_ns = time.monotonic_ns()

    # ---- generating

    def open_chat(self, request: ChatRequest) -> AbstractAsyncContextManager[AnswerStream]:
        return self._open_chat(request)

    @asynccontextmanager
    async def _open_chat(self, request: ChatRequest) -> AsyncIterator[Answer]:
        installed = await self._resolve(request.model)
        prompt, add_special = _render(request, installed)
        options = replace(request.options, constraint=_constraint(request))
        generate = _generate_request(prompt, add_special, options)
        make_parser: ParserMaker | None = None
        if request.tools and request.tool_choice != "none":

            def make_parser(choice: int) -> ToolCallParser:
                return ToolCallParser(f"{generate.request_id}/{choice}")

        async with self._open(installed, generate, options, make_parser) as answer:
            yield answer

    def open_completion(self, request: CompletionRequest) -> AbstractAsyncContextManager[AnswerStream]:
        return self._open_completion(request)

    @asynccontextmanager
    async def _open_completion(self, request: CompletionRequest) -> AsyncIterator[Answer]:
        installed = await self._resolve(request.model)
        generate = _generate_request(request.prompt, isinstance(request.prompt, str), request.options)
        async with self._open(installed, generate, request.options, None) as answer:
            yield answer

    def _open(
        self,
        installed: InstalledModel,
        generate: GenerateRequest,
        options: Options,
        make_parser: ParserMaker | None,
    ) -> AbstractAsyncContextManager[Answer]:
        return open_answer(
            self._engines,
            sample_requests(generate, options.n),
            model=installed.name,
            provenance=Provenance(ring="local", served_by=self.name, reason="this machine has the model"),
            make_parser=make_parser,
            metrics=self._metrics,
        )

    async def count_tokens(self, request: ChatRequest) -> int:
        installed = await self._resolve(request.model)
        prompt, add_special = _render(request, installed)
        return len(await self._engines.tokenize(installed.name, prompt, add_special=add_special))

    async def embed(self, model: str, inputs: Sequence[str | tuple[int, ...]]) -> Embeddings:
        installed = await self._resolve(model)
        return await self._engines.embed(installed.name, inputs)

    # ---- models

    def models(self) -> tuple[ModelEntry, ...]:
        return self._store.entries()

    def loaded(self) -> tuple[LoadedModel, ...]:
        return self._engines.loaded()

    async def load(self, model: str) -> LoadedModel:
        return await self._engines.load((await self._resolve(model)).name)

    async def unload(self, model: str) -> bool:
        return await self._engines.unload((await self._resolve(model)).name)

    async def _resolve(self, name: str) -> InstalledModel:
        bare, _ = split_radius(name)
        return await trio.to_thread.run_sync(self._store.resolve, bare)

    # ---- what the node says of itself

    def status(self) -> Mapping[str, object]:
        loaded = self.loaded()
        return {
            "name": self.name,
            "version": installed_version(),
            "uptime_s": (time.monotonic_ns() - self._started_ns) // 1_000_000_000,
            "offline": self.offline,
            "refused_connections": offline.refusals().count,
            "refused_last": [asdict(refusal) for refusal in offline.refusals().last],
            "rings": {"local": "on", "trusted": "not built yet", "public": "not built yet"},
            "models": [asdict(one) for one in loaded],
            "queue": {
                "waiting": sum(one.queued for one in loaded),
                "running": sum(one.slots_busy for one in loaded),
                "max": self.config.queue_max,
            },
        }

    def metrics(self) -> str:
        return self._metrics.render()

    async def ready(self) -> tuple[bool, str]:
        """Ready means: a model is here and the engine's library is usable."""
        from unhosted.node.shell.engine.library import LibraryError, find_library

        if not self.models():
            return False, f"no model is here; next: unhosted pull {self.config.default_model}"
        try:
            await trio.to_thread.run_sync(find_library)
        except LibraryError as error:
            return False, str(error)
        return True, "ready"


def _generate_request(prompt: str | tuple[int, ...], add_special: bool, options: Options) -> GenerateRequest:
    return GenerateRequest(
        request_id=secrets.token_hex(12),
        prompt=prompt,
        add_special=add_special,
        max_tokens=options.max_tokens,
        sampling=options.sampling,
        stop=options.stop,
        constraint=options.constraint,
        logprobs=options.logprobs,
        ignore_eos=options.ignore_eos,
        use_prefix_cache=options.use_prefix_cache,
        priority=options.priority,
        flow=options.flow,
    )


def _render(request: ChatRequest, installed: InstalledModel) -> tuple[str, bool]:
    """The prompt's text, and whether the tokenizer is to add the model's own beginning."""
    header = installed.header
    bos = header.bos.text if header.bos else ""
    prompt = render(
        header.chat_template,
        request.messages,
        () if request.tool_choice == "none" else request.tools,
        bos=bos,
        eos=header.eos.text if header.eos else "",
        extra=request.template_kwargs,
        now=datetime.now(),
    )
    return prompt, adds_special(prompt, bos)


def _constraint(request: ChatRequest) -> Constraint | None:
    return tool_constraint(
        request.tools,
        request.tool_choice,
        forced_tool=request.forced_tool,
        parallel=request.parallel_tool_calls,
        answer=request.options.constraint,
    )
