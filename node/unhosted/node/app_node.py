"""The node's service object: every entry point's requests take this one way, from words to an answer."""

import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict
from datetime import datetime

import trio

from unhosted.node.app_answers import Answer, ParserMaker, open_answer, sample_asks
from unhosted.node.app_asks import LocalAnswering
from unhosted.node.app_checks import CheckDesk
from unhosted.node.app_own_facts import OwnFacts
from unhosted.node.app_trusted import TrustedRing
from unhosted.node.app_wallet_page import DepositDesk
from unhosted.node.config import Config
from unhosted.node.core.asks import Ask, ChatPrompt
from unhosted.node.core.errors import Refused
from unhosted.node.core.inference import Constraint, Embeddings, LoadedModel
from unhosted.node.core.model_names import ResolvedModel, resolve_model
from unhosted.node.core.model_ref import split_radius
from unhosted.node.core.peering import ModelFacts, PeerStatus
from unhosted.node.core.service import (
    ANY_PROVIDER,
    AnswerStream,
    ChatRequest,
    CompletionRequest,
    ModelEntry,
    Options,
    PairingView,
    ProviderChoice,
    Radius,
)
from unhosted.node.core.tool_parser import ToolCallParser
from unhosted.node.core.tools import tool_constraint
from unhosted.node.shell import offline
from unhosted.node.shell.engine.manager import EngineManager
from unhosted.node.shell.metrics import Metrics
from unhosted.node.shell.models.store import ModelStore
from unhosted.node.shell.trusted.dispatch import SETTLE_S, Dispatcher
from unhosted.node.version import installed_version


class AppNode:
    """Implements `unhosted.node.core.service.Node` over this machine's engines and those of paired peers."""

    def __init__(
        self,
        config: Config,
        *,
        name: str,
        store: ModelStore,
        engines: EngineManager,
        own_facts: OwnFacts,
        trusted: TrustedRing,
    ) -> None:
        self.config = config
        self.name = name
        self.offline = config.offline
        self.wallet = DepositDesk(config)
        self.checks = CheckDesk(config, engines)
        self._store = store
        self._engines = engines
        self._own = own_facts
        self._trusted = trusted
        self._local = LocalAnswering(
            engines, store.resolve, observe=own_facts.observe, is_full=own_facts.is_full
        )
        self._dispatcher = Dispatcher(
            name=name,
            local=self._local,
            local_facts=own_facts.of,
            peers=trusted.candidates,
            link=trusted.link,
        )
        trusted.on_observed = self._dispatcher.observed
        self._metrics = Metrics(
            loaded=engines.loaded,
            counters=engines.counters,
            refused_connections=lambda: offline.refusals().count,
            checks=self.checks.counters,
        )
        self._started_ns = time.monotonic_ns()

    # ---- generating

    def open_chat(self, request: ChatRequest) -> AbstractAsyncContextManager[AnswerStream]:
        return self._open_chat(request)

    @asynccontextmanager
    async def _open_chat(self, request: ChatRequest) -> AsyncIterator[Answer]:
        radius = self._radius(request.options.radius)
        found = await self._resolve(request.model, radius)
        ask = _ask(found.blake3, _chat_prompt(request), request.options, _constraint(request))
        make_parser: ParserMaker | None = None
        if request.tools and request.tool_choice != "none":

            def make_parser(choice: int) -> ToolCallParser:
                return ToolCallParser(f"{ask.ask_id}/{choice}")

        async with self._open(found, ask, request.options, radius, make_parser) as answer:
            yield answer

    def open_completion(self, request: CompletionRequest) -> AbstractAsyncContextManager[AnswerStream]:
        return self._open_completion(request)

    @asynccontextmanager
    async def _open_completion(self, request: CompletionRequest) -> AsyncIterator[Answer]:
        radius = self._radius(request.options.radius)
        found = await self._resolve(request.model, radius)
        ask = _ask(found.blake3, request.prompt, request.options, request.options.constraint)
        async with self._open(found, ask, request.options, radius, None) as answer:
            yield answer

    def _open(
        self,
        found: ResolvedModel,
        ask: Ask,
        options: Options,
        radius: Radius,
        make_parser: ParserMaker | None,
    ) -> AbstractAsyncContextManager[Answer]:
        # Where nobody else could go on, the client is told at once that it is accepted; and samples are
        # opened one after the other, none of which is to wait for the first token of the one before.
        is_settled = options.n > 1 or radius == "local" or not self._trusted.candidates()
        openings = [
            self._dispatcher.open(
                one,
                model_name=found.name,
                radius=radius,
                provider=options.provider,
                settle_s=0.0 if is_settled else SETTLE_S,
            )
            for one in sample_asks(ask, options.n)
        ]
        return open_answer(openings, model=found.name, make_parser=make_parser, metrics=self._metrics)

    async def count_tokens(self, request: ChatRequest) -> int:
        options = request.options
        radius = self._radius(options.radius)
        found = await self._resolve(request.model, radius)
        ask = _ask(found.blake3, _chat_prompt(request), options, None)
        return await self._dispatcher.count_tokens(
            ask, model_name=found.name, radius=radius, provider=options.provider
        )

    async def embed(
        self,
        model: str,
        inputs: Sequence[str | tuple[int, ...]],
        *,
        radius: Radius | None = None,
        provider: ProviderChoice = ANY_PROVIDER,
    ) -> Embeddings:
        allowed = self._radius(radius)
        found = await self._resolve(model, allowed)
        return await self._dispatcher.embed(
            found.blake3, inputs, model_name=found.name, radius=allowed, provider=provider
        )

    def _radius(self, asked: Radius | None) -> Radius:
        return "local" if self.offline else asked or self.config.radius

    async def _resolve(self, name: str, radius: Radius) -> ResolvedModel:
        """What the name means here, else to the peers that are connected. Raises: Refused."""
        bare, _ = split_radius(name)
        try:
            installed = await trio.to_thread.run_sync(self._store.resolve, bare)
        except Refused as refused:
            candidates = self._trusted.candidates() if radius != "local" else ()
            known = [one for one in candidates if one.facts is not None]
            if refused.code != "model_not_found" or not known:
                raise
            # What only machines that are away have is not unknown: routing says why they cannot answer.
            for tried in ([one for one in known if one.reachable], known):
                try:
                    peers = [(one.name, one.facts.models) for one in tried if one.facts is not None]
                    return resolve_model(bare, local=(), peers=peers)
                except Refused as error:
                    unknown = error
            raise _not_anywhere(refused, unknown, [one.name for one in known]) from None
        await self._own.refresh()
        return ResolvedModel(name=installed.name, blake3=installed.entry.blake3, is_local=True)

    # ---- models

    def models(self) -> tuple[ModelEntry, ...]:
        return self._store.entries()

    def peer_models(self) -> tuple[tuple[ModelFacts, tuple[str, ...]], ...]:
        here = {model.blake3 for model in self._own.models()}
        facts: dict[str, ModelFacts] = {}
        owners: dict[str, list[str]] = {}
        for peer in self._trusted.candidates():
            for model in peer.facts.models if peer.facts is not None and peer.reachable else ():
                if model.blake3 not in here:
                    facts.setdefault(model.blake3, model)
                    owners.setdefault(model.blake3, []).append(peer.name)
        return tuple((facts[blake3], tuple(names)) for blake3, names in owners.items())

    async def pull(
        self, model: str, progress: Callable[[Mapping[str, object]], None], *, name: str | None = None
    ) -> ModelEntry:
        from unhosted.node.app import fetch_model

        installed = await fetch_model(
            self.config,
            self._store,
            model,
            lambda told: progress(asdict(told)),
            name=name,
            peers=self._trusted.models_of_peers(),
        )
        await self._own.refresh()
        return installed.entry

    def loaded(self) -> tuple[LoadedModel, ...]:
        return self._engines.loaded()

    async def load(self, model: str) -> LoadedModel:
        return await self._engines.load((await self._resolve(model, "local")).name)

    async def unload(self, model: str) -> bool:
        return await self._engines.unload((await self._resolve(model, "local")).name)

    # ---- other machines

    def peers(self) -> tuple[PeerStatus, ...]:
        return self._trusted.statuses()

    async def offer_pairing(self) -> PairingView:
        return await self._trusted.offer()

    async def join_pairing(self, code: str) -> PairingView:
        return await self._trusted.join(code)

    def pairing(self, pairing_id: str) -> PairingView:
        return self._trusted.pairing(pairing_id)

    async def confirm_pairing(self, pairing_id: str, *, accept: bool) -> PairingView:
        return await self._trusted.confirm(pairing_id, accept=accept)

    async def cancel_pairing(self, pairing_id: str) -> None:
        await self._trusted.cancel(pairing_id)

    async def unpair(self, peer: str) -> PeerStatus:
        gone = await self._trusted.unpair(peer)
        self._dispatcher.forget(gone.peer)
        return gone

    async def allow_peer(self, peer: str, changes: Mapping[str, object]) -> PeerStatus:
        return await self._trusted.allow(peer, changes)

    async def wait_change(self, after: int) -> int:
        return await self._trusted.changes.wait_above(after)

    async def set_draining(self, draining: bool) -> None:
        self._trusted.set_draining(draining)

    # ---- what the node says of itself

    def status(self) -> Mapping[str, object]:
        loaded, place = self.loaded(), self._trusted.describe()
        return {
            "name": self.name,
            "version": installed_version(),
            "uptime_s": (time.monotonic_ns() - self._started_ns) // 1_000_000_000,
            "offline": self.offline,
            "refused_connections": offline.refusals().count,
            "refused_last": [asdict(refusal) for refusal in offline.refusals().last],
            "rings": {"local": "on", "trusted": self._trusted.state, "public": "not built yet"},
            "peers": None if place is None else asdict(place),
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
        """Ready means: a model is here and the engine's library is usable, or a peer can answer."""
        from unhosted.node.shell.engine.library import LibraryError, find_library

        if any(peer.facts is not None and peer.facts.accepting for peer in self._trusted.candidates()):
            return True, "ready"
        if not self.models():
            return False, f"no model is here; next: unhosted pull {self.config.default_model}"
        try:
            await trio.to_thread.run_sync(find_library)
        except LibraryError as error:
            return False, str(error)
        return True, "ready"


def _ask(
    model: str,
    prompt: ChatPrompt | str | tuple[int, ...],
    options: Options,
    constraint: Constraint | None,
) -> Ask:
    return Ask(
        ask_id=secrets.token_hex(12),
        model=model,
        prompt=prompt,
        sampling=options.sampling,
        max_tokens=options.max_tokens,
        stop=options.stop,
        constraint=constraint,
        logprobs=options.logprobs,
        ignore_eos=options.ignore_eos,
        use_prefix_cache=options.use_prefix_cache,
        flow=options.flow,
    )


def _chat_prompt(request: ChatRequest) -> ChatPrompt:
    return ChatPrompt(
        messages=request.messages,
        tools=() if request.tool_choice == "none" else request.tools,
        template_kwargs=request.template_kwargs,
        date=datetime.now().isoformat(timespec="seconds"),
    )


def _constraint(request: ChatRequest) -> Constraint | None:
    return tool_constraint(
        request.tools,
        request.tool_choice,
        forced_tool=request.forced_tool,
        parallel=request.parallel_tool_calls,
        answer=request.options.constraint,
    )


def _not_anywhere(here: Refused, there: Refused, peers: Sequence[str]) -> Refused:
    return Refused(
        "model_not_found",
        f"{here.message.rstrip('.')}; nor have the paired machines it: {', '.join(peers)}.",
        field="model",
        details=there.details,
    )
