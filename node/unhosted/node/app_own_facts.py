"""What this machine has and how fast it is: what its own router uses, and what peers are told."""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import trio

from unhosted.node.app_asks import Observed
from unhosted.node.config import Config
from unhosted.node.core.errors import Refused
from unhosted.node.core.inference import LoadedModel
from unhosted.node.core.peering import MODELS_MAX, ModelFacts
from unhosted.node.core.routing import LOCAL
from unhosted.node.core.service import ModelEntry
from unhosted.node.core.speed import SpeedBook, tokens_per_s
from unhosted.node.shell.models.store import ModelStore

log = logging.getLogger(__name__)

LISTING_PERIOD_S = 2.0
"""How long a model that another process pulled may be unknown here; a look costs one stat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Listed:
    entry: ModelEntry
    generates: bool


class OwnFacts:
    """`refresh` reads the store, `keep_fresh` calls it again and again; the rest answers from memory."""

    def __init__(
        self, config: Config, store: ModelStore, loaded: Callable[[], tuple[LoadedModel, ...]]
    ) -> None:
        self._config = config
        self._store = store
        self._loaded = loaded
        self._speeds = SpeedBook()
        self._listed: tuple[_Listed, ...] = ()
        self._stamp: tuple[int, int] | None = None

    async def keep_fresh(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled; started at once, since reading a large store takes a while."""
        task_status.started()
        while True:
            await self.refresh()
            await trio.sleep(LISTING_PERIOD_S)

    async def refresh(self) -> None:
        """Read the store again if a name in it came or went."""
        stamp = self._store_stamp()
        if stamp != self._stamp or stamp is None:
            self._listed = await trio.to_thread.run_sync(self._read_store)
            self._stamp = stamp

    def observe(self, observed: Observed) -> None:
        """A generation has ended here."""
        if not observed.first_ns:
            return
        now_ns = time.monotonic_ns()
        streams = sum(one.slots_busy for one in self._loaded())
        if observed.reads_only_prompt and observed.prompt_tokens:  # a cancelled one told no count
            self._speeds.observe_first_token(
                LOCAL,
                observed.model,
                new_prompt_tokens=observed.prompt_tokens - observed.cached_tokens,
                latency_ns=observed.first_ns - observed.started_ns,
                now_ns=now_ns,
            )
        self._speeds.observe_decode(
            LOCAL,
            observed.model,
            tokens=observed.tokens - 1,
            duration_ns=observed.last_ns - observed.first_ns,
            now_ns=now_ns,
            streams=streams,
        )

    def of(self, blake3: str) -> ModelFacts | None:
        """Of one model; None if it is not here."""
        for listed in self._listed:
            if listed.entry.blake3 == blake3:
                loaded = next((one for one in self._loaded() if one.model == listed.entry.name), None)
                return self._facts(listed, loaded, time.monotonic_ns())
        return None

    def is_full(self, blake3: str) -> bool:
        """Whether a request would have to wait for a slot now."""
        facts = self.of(blake3)
        return facts is not None and facts.slots_free == 0

    def models(self) -> tuple[ModelFacts, ...]:
        """Of now: slots and queues change with every request."""
        loaded = {one.model: one for one in self._loaded()}
        now_ns = time.monotonic_ns()
        return tuple(
            self._facts(listed, loaded.get(listed.entry.name), now_ns) for listed in self._listed[:MODELS_MAX]
        )

    def _facts(self, listed: _Listed, loaded: LoadedModel | None, now_ns: int) -> ModelFacts:
        entry = listed.entry
        slots = self._config.slots if loaded is None else loaded.slots
        busy = 0 if loaded is None else loaded.slots_busy
        speed = self._speeds.speed(LOCAL, entry.blake3, now_ns, streams=max(busy, 1))
        return ModelFacts(
            name=entry.name,
            aliases=entry.aliases,
            blake3=entry.blake3,
            size_bytes=entry.size_bytes,
            architecture=entry.architecture,
            parameters=entry.parameters,
            quantization=entry.quantization,
            context_tokens=entry.context_tokens if loaded is None else loaded.context_tokens,
            generates=listed.generates,
            is_loaded=loaded is not None,
            slots=slots,
            slots_free=max(slots - busy, 0),
            queued=0 if loaded is None else loaded.queued,
            prefill_tokens_per_s=tokens_per_s(speed.prefill_ns_per_ktoken),
            decode_tokens_per_s=tokens_per_s(speed.decode_ns_per_ktoken),
        )

    def _store_stamp(self) -> tuple[int, int] | None:
        try:
            stat = os.stat(self._store.root / "names")
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_ino

    def _read_store(self) -> tuple[_Listed, ...]:
        listed = []
        for entry in self._store.entries():
            try:
                header = self._store.resolve(entry.name).header
            except Refused as refusal:  # its file is gone or changed: nobody can be served from it
                log.warning("model_not_offered name=%s reason=%s", entry.name, refusal.code)
                continue
            listed.append(_Listed(entry=entry, generates=header.causal))
        return tuple(listed)
