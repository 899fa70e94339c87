"""Which models are in memory: loaded on first use, within a budget, unloaded when idle or when room is short.

A model that could not fit even alone is refused before anything is loaded, with the bytes needed and
present. One that fits only without others takes the place of idle ones, longest idle first; busy ones are
never unloaded.
"""

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from unhosted.node.core.engine_facts import EngineFacts
from unhosted.node.core.errors import Refused
from unhosted.node.core.gguf_facts import GgufHeader
from unhosted.node.core.inference import (
    CheckedAnswer,
    CheckRequest,
    Delta,
    Embeddings,
    GenerateRequest,
    LoadedModel,
)
from unhosted.node.shell.engine.check_plan import cells_of, outputs_max, sequences_of
from unhosted.node.shell.engine.child import LoadOrder
from unhosted.node.shell.engine.environment import child_environment
from unhosted.node.shell.engine.fit import KV_BYTES, EngineSettings, automatic_budget_bytes, fit
from unhosted.node.shell.engine.host import EngineHost
from unhosted.node.shell.models.memory import available_bytes, estimate_bytes, total_bytes
from unhosted.node.shell.models.store import InstalledModel

log = logging.getLogger(__name__)

HOUSEKEEPING_PERIOD_S = 2.0
MEMORY_LOW_SHARE = 0.04
"""With less than this of all memory free, idle models go: the alternative is the kernel's choice."""

CHECKED_AT_ONCE_MAX = 64
"""Answers of one call; a call is given up as a whole when its memory is needed."""
CHECK_CELLS_MAX = 16_384
"""As of the longest automatic context. Only an answer that is longer alone gets more."""


@dataclass(slots=True, eq=False)
class _Entry:
    """bytes_checking: what the checks that run take besides bytes_estimated."""

    host: EngineHost
    bytes_estimated: int
    context_tokens: int
    header: GgufHeader
    bytes_checking: int = 0
    ready: trio.Event = field(default_factory=trio.Event)
    refusal: Refused | None = None


class EngineManager:
    """Implements `unhosted.node.core.inference.Engines`. `run` must be running while it is used."""

    def __init__(
        self,
        settings: EngineSettings,
        resolve: Callable[[str], InstalledModel],
        *,
        memory_available: Callable[[], int] = available_bytes,
    ) -> None:
        self._settings = settings
        self._resolve = resolve
        self._memory_available = memory_available
        self._entries: dict[str, _Entry] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the engines until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            while True:
                await trio.sleep(HOUSEKEEPING_PERIOD_S)
                self._unload_idle()

    # ---- Engines

    @asynccontextmanager
    async def open_stream(self, model: str, request: GenerateRequest) -> AsyncIterator[AsyncIterator[Delta]]:
        host = await self._host(model, generates=True)
        async with host.open_stream(request) as stream:
            yield stream

    async def embed(self, model: str, inputs: Sequence[str | tuple[int, ...]]) -> Embeddings:
        host = await self._host(model)
        vectors, prompt_tokens = await host.call(
            "embed", [one if isinstance(one, str) else list(one) for one in inputs]
        )
        return Embeddings(vectors=tuple(tuple(vector) for vector in vectors), prompt_tokens=prompt_tokens)

    async def tokenize(self, model: str, text: str, *, add_special: bool = False) -> tuple[int, ...]:
        host = await self._host(model)
        return tuple(await host.call("tokenize", text, add_special))

    async def check(self, model: str, requests: Sequence[CheckRequest]) -> tuple[CheckedAnswer, ...]:
        if len(requests) > CHECKED_AT_ONCE_MAX:
            raise Refused(
                "invalid_request", f"{len(requests)} answers to check; at most {CHECKED_AT_ONCE_MAX} at once"
            )
        if not requests:
            return ()
        host = await self._host(model, is_check=True)
        entry = self._entries[host.model]
        cells_max, needed = self._check_room(entry, requests)
        entry.bytes_checking += needed
        try:
            return await host.check(requests, cells_max)
        finally:
            entry.bytes_checking -= needed

    async def facts(self, model: str) -> EngineFacts:
        return (await self._host(model)).facts

    def loaded(self) -> tuple[LoadedModel, ...]:
        return tuple(self._describe(entry) for entry in self._entries.values())

    async def load(self, model: str) -> LoadedModel:
        host = await self._host(model)
        return self._describe(self._entries[host.model])

    async def unload(self, model: str) -> bool:
        installed = await trio.to_thread.run_sync(self._resolve, model)
        entry = self._entries.get(installed.name)
        if entry is None:
            return False
        self._drop(entry)
        return True

    def counters(self) -> dict[str, dict[str, int]]:
        """What each loaded model's processes did, by model; see `counters.COUNTERS`."""
        return {name: entry.host.counters for name, entry in self._entries.items()}

    # ---- loading

    async def _host(self, model: str, *, generates: bool = False, is_check: bool = False) -> EngineHost:
        installed = await trio.to_thread.run_sync(self._resolve, model)
        if (generates or is_check) and not installed.header.causal:
            raise Refused(
                "not_supported",
                f"{installed.name} is an encoder: it embeds texts (/v1/embeddings) and writes none; choose "
                "another model",
                field="model",
            )
        while True:
            entry = self._entries.get(installed.name)
            if entry is not None and entry.host.state == "closed":
                del self._entries[installed.name]
                entry = None
            if entry is None:
                entry = self._reserve(installed, is_check=is_check)
                assert self._nursery is not None, "EngineManager.run is not running"
                self._nursery.start_soon(self._run_host, entry)
            await entry.ready.wait()
            if entry.refusal is not None:
                raise entry.refusal
            if self._entries.get(installed.name) is entry:  # else it was unloaded at this very moment
                return entry.host

    async def _run_host(self, entry: _Entry) -> None:
        name = entry.host.model
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(entry.host.run)
                entry.ready.set()
        except* Refused as group:
            entry.refusal = _first_refusal(group)
            log.warning("model_not_loaded model=%s reason=%s", name, entry.refusal.message)
        finally:
            entry.ready.set()
            if self._entries.get(name) is entry:
                del self._entries[name]

    def _reserve(self, installed: InstalledModel, *, is_check: bool) -> _Entry:
        """Make room for the model and list it, or refuse. No await: nobody else decides meanwhile.

        is_check: nobody waits for it, so that no other model makes room.
        """
        settings = self._settings
        budget = self._budget_bytes()
        fitting = fit(installed.header, settings, budget)
        context_tokens, needed = fitting.context_tokens, fitting.needed_bytes
        if needed > budget:
            raise Refused(
                "model_too_large",
                f"{installed.name} needs {needed} bytes of memory with {settings.slots} slots of "
                f"{context_tokens} tokens; {budget} are present. Choose a smaller model or build, fewer "
                "slots or a shorter context (`unhosted config set slots 1`)",
                details={"bytes_needed": needed, "bytes_present": budget},
            )
        self._make_room(installed.name, needed, budget, is_check=is_check)
        order = LoadOrder(
            path=str(installed.path),
            slots=settings.slots,
            context_tokens=context_tokens,
            batch_tokens=settings.batch_tokens,
            ubatch_tokens=min(settings.ubatch_tokens, settings.batch_tokens),
            threads=settings.threads,
            kv_type=settings.kv_type,
            gpu_layers=settings.gpu_layers,
            queue_max=settings.queue_max,
            is_exact=settings.is_exact,
        )
        host = EngineHost(installed.name, order, environment=child_environment())
        entry = _Entry(
            host=host, bytes_estimated=needed, context_tokens=context_tokens, header=installed.header
        )
        self._entries[installed.name] = entry
        return entry

    def _budget_bytes(self) -> int:
        """All that models may take together, loaded ones included."""
        if self._settings.memory_budget_bytes:
            return self._settings.memory_budget_bytes
        loaded = sum(entry.bytes_estimated for entry in self._entries.values())
        # The kernel counts a mapped file's weights as available, loaded or not: the machine's size bounds
        # what would come of counting them twice.
        budget = automatic_budget_bytes(self._memory_available(), loaded)
        return min(budget, automatic_budget_bytes(total_bytes(), 0))

    def _check_room(self, entry: _Entry, requests: Sequence[CheckRequest]) -> tuple[int, int]:
        """Cells that a check may have, and the bytes it takes with them. It displaces nobody."""
        budget = self._budget_bytes()
        room = budget - sum(one.bytes_estimated + one.bytes_checking for one in self._entries.values())
        cells = cells_of(requests)
        for count in range(sequences_of(requests, max(cells, CHECK_CELLS_MAX)), 0, -1):
            needed = _check_bytes(entry.header, requests, count * cells, count)
            if needed <= room:
                return count * cells, needed
        raise Refused(
            "overloaded",
            f"checking an answer of {cells} tokens with {entry.host.model} needs {needed} bytes of memory "
            f"beside what models take; {max(0, room)} of {budget} are free. Check a shorter prefix, or when "
            "other models are unloaded",
            retry_after_s=60,
            details={"bytes_needed": needed, "bytes_present": max(0, room)},
        )

    def _make_room(self, model: str, needed: int, budget: int, *, is_check: bool) -> None:
        used = sum(entry.bytes_estimated + entry.bytes_checking for entry in self._entries.values())
        if not self._settings.memory_budget_bytes:
            # What is still loading has hardly begun to take its memory: it is in the automatic budget twice.
            used += sum(e.bytes_estimated for e in self._entries.values() if e.host.state == "loading")
        if used + needed > budget and not is_check:
            used -= self._give_up_checks(model)
        idle = [e for e in self._entries.values() if not e.host.is_busy and e.host.state == "ready"]
        idle.sort(key=lambda entry: entry.host.idle_since)
        while used + needed > budget and idle and not is_check:
            entry = idle.pop(0)
            log.info("model_unloaded model=%s reason=room_for:%s", entry.host.model, model)
            used -= entry.bytes_estimated
            self._drop(entry)
        if used + needed > budget:
            raise Refused(
                "overloaded",
                f"{model} needs {needed} bytes of memory; {max(0, budget - used)} of {budget} are free of "
                f"models that are loading or {'loaded' if is_check else 'answering'} now; try again when "
                "they are done",
                retry_after_s=5,
                details={"bytes_needed": needed, "bytes_present": max(0, budget - used)},
            )

    def _give_up_checks(self, model: str) -> int:
        """Gives the bytes that this frees."""
        freed = 0
        for entry in self._entries.values():
            if entry.bytes_checking:
                freed += entry.bytes_checking
                entry.host.give_up_checks(
                    Refused(
                        "overloaded", f"the check's memory went to {model}; check again", retry_after_s=60
                    )
                )
        return freed

    def _drop(self, entry: _Entry) -> None:
        entry.host.close()
        self._entries.pop(entry.host.model, None)

    def _unload_idle(self) -> None:
        now = trio.current_time()
        short = self._memory_available() < MEMORY_LOW_SHARE * total_bytes()
        for entry in list(self._entries.values()):
            host = entry.host
            if host.state != "ready" or host.is_busy:
                continue
            is_old = now - host.idle_since >= self._settings.idle_unload_s and not host.is_checking
            if short or is_old:
                log.info("model_unloaded model=%s reason=%s", host.model, "memory" if short else "idle")
                self._drop(entry)

    def _describe(self, entry: _Entry) -> LoadedModel:
        host = entry.host
        return LoadedModel(
            model=host.model,
            pid=host.pid,
            state="restarting" if host.state == "closed" else host.state,
            slots=host.order.slots,
            slots_busy=host.slots_busy,
            context_tokens=entry.context_tokens,
            queued=host.queued,
            bytes_estimated=entry.bytes_estimated,
            restarts=host.restarts,
            idle_s=0.0 if host.is_busy else trio.current_time() - host.idle_since,
            sandbox=host.sandbox,
            library=host.library,
        )


def _check_bytes(header: GgufHeader, requests: Sequence[CheckRequest], cells: int, sequences: int) -> int:
    """Memory of the largest context that a check of these makes, besides the model's weights."""
    rows = max(request.replay.ubatch_tokens for request in requests)
    kv_bytes = max(KV_BYTES.get(request.replay.kv_type, KV_BYTES["f16"]) for request in requests)
    estimate = estimate_bytes(
        header,
        context_tokens_total=cells,
        slots=sequences,
        batch_tokens=min(rows, outputs_max(header.vocab_size)),
        kv_bytes_per_element=kv_bytes,
    )
    return estimate.total_bytes - estimate.weights_bytes


def _first_refusal(group: BaseExceptionGroup[Refused]) -> Refused:
    for one in group.exceptions:
        return one if isinstance(one, Refused) else _first_refusal(one)
    raise AssertionError("an exception group is never empty")
