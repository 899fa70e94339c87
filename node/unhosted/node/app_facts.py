"""What the command line shows about this machine and its models: plain values, gathered below `cli`."""

import math
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unhosted.node.config import Config
from unhosted.node.core.errors import Refused
from unhosted.node.shell.engine.fit import EngineSettings, automatic_budget_bytes, fit
from unhosted.node.shell.models.progress import PullProgress
from unhosted.node.shell.models.store import InstalledModel, ModelStore

__all__ = [
    "Foreign",
    "LibraryFacts",
    "Offer",
    "Outlook",
    "PullProgress",
    "engine_settings",
    "find_installed",
    "find_offer",
    "foreign_models",
    "library_facts",
    "memory_bytes",
    "offers",
    "outlook",
    "sandbox_level",
    "save_speed",
]

SANDBOX_TIMEOUT_S = 30.0
"""Entering a namespace takes a millisecond, starting Python on a busy machine seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LibraryFacts:
    """The engine's library, or why there is none (fault). features: instruction sets and backends."""

    path: str = ""
    kind: str = ""
    version: str = ""
    bindings_version: str = ""
    layout: str = ""
    supports_rpc: bool = False
    features: tuple[str, ...] = ()
    passed_over: tuple[str, ...] = ()
    fault: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """Whether a model runs here and how fast, roughly unless measured. context_tokens: per request."""

    context_tokens: int
    needed_bytes: int
    available_bytes: int
    total_bytes: int
    decode_tokens_per_s: float
    prefill_tokens_per_s: float
    is_measured: bool

    @property
    def fits_now(self) -> bool:
        return self.needed_bytes <= self.available_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A build of the catalogue. size_exact: whether size_bytes is the file's own, not about right."""

    name: str
    aliases: tuple[str, ...]
    title: str
    kind: str
    quantization: str
    parameters: int
    context_tokens: int
    licence: str
    size_bytes: int
    size_exact: bool
    ref: str
    is_here: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreign:
    """A model file that another program keeps on this machine."""

    origin: str
    name: str
    path: str
    size_bytes: int


def engine_settings(config: Config) -> EngineSettings:
    """The part of the configuration that models are loaded with."""
    return EngineSettings(
        slots=config.slots,
        context_tokens=config.context_tokens,
        batch_tokens=config.batch_tokens,
        ubatch_tokens=config.ubatch_tokens,
        threads=config.threads,
        kv_type=config.kv_type,
        is_exact=config.exact,
        queue_max=config.queue_max,
        idle_unload_s=config.idle_unload_s or math.inf,
        memory_budget_bytes=config.memory_budget_bytes,
    )


def library_facts() -> LibraryFacts:
    from unhosted.node.shell.engine.library import LibraryError, find_library

    try:
        found = find_library()
    except LibraryError as error:
        return LibraryFacts(fault=str(error))
    return LibraryFacts(
        path=str(found.path),
        kind=found.kind,
        version=found.version,
        bindings_version=found.bindings_version,
        layout=found.layout,
        supports_rpc=found.supports_rpc,
        features=found.features,
        passed_over=found.passed_over,
    )


def sandbox_level() -> str:
    """How a model's process is kept off the network here. Tried in a process of its own: it has no way back.

    Gives a `sandbox.Level`, or "unknown" where the trial itself failed.
    """
    code = "import sys; from unhosted.node.shell.engine import sandbox; sys.stdout.write(sandbox.enter())"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, timeout=SANDBOX_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.decode("ascii", "replace") if done.returncode == 0 else "unknown"


def outlook(config: Config, model: InstalledModel) -> Outlook:
    """Takes about 50 ms where no speed was measured: it times this machine's memory."""
    from unhosted.node.shell.models import memory

    settings = engine_settings(config)
    available = memory.available_bytes()
    budget = settings.memory_budget_bytes or automatic_budget_bytes(available, 0)
    fitting = fit(model.header, settings, budget)
    speed = memory.load_speed(config.paths.models_dir, model.entry.blake3) or memory.rough_speed(model.header)
    return Outlook(
        context_tokens=fitting.context_tokens,
        needed_bytes=fitting.needed_bytes,
        available_bytes=budget,
        total_bytes=memory.total_bytes(),
        decode_tokens_per_s=speed.decode_tokens_per_s,
        prefill_tokens_per_s=speed.prefill_tokens_per_s,
        is_measured=speed.measured,
    )


def save_speed(
    config: Config, blake3: str, *, decode_tokens_per_s: float, prefill_tokens_per_s: float
) -> None:
    """Keep what `bench` measured, for `show`."""
    from unhosted.node.shell.models import memory

    measured = memory.SpeedEstimate(
        decode_tokens_per_s=decode_tokens_per_s, prefill_tokens_per_s=prefill_tokens_per_s, measured=True
    )
    memory.save_speed(config.paths.models_dir, blake3, measured)


def memory_bytes() -> tuple[int, int]:
    """What a model may take now, and what the machine (or its cgroup) has."""
    from unhosted.node.shell.models import memory

    return memory.available_bytes(), memory.total_bytes()


def offers(store: ModelStore) -> tuple[Offer, ...]:
    """The catalogue, smallest model first."""
    here = {manifest.name for manifest in store.manifests()}
    return tuple(
        Offer(
            name=model.name if build is model.builds[0] else build.name,
            aliases=model.aliases if build is model.builds[0] else (),
            title=model.title,
            kind=model.kind,
            quantization=build.quantization,
            parameters=model.parameters,
            context_tokens=model.context_tokens,
            licence=model.licence,
            size_bytes=build.size_bytes,
            size_exact=build.size_exact,
            ref=str(build.ref),
            is_here=build.name in here,
        )
        for model in store.catalogue.models
        for build in model.builds
    )


def find_offer(store: ModelStore, name: str) -> Offer | None:
    """The build of the catalogue that `name` means, installed or not."""
    build = store.catalogue.find(name)
    return next((offer for offer in offers(store) if build and offer.ref == str(build.ref)), None)


def foreign_models(store: ModelStore) -> Sequence[Foreign]:
    """What other programs hold, without what is already in use here."""
    taken = {manifest.adopted_path for manifest in store.manifests()}
    return tuple(
        Foreign(origin=found.origin, name=found.name, path=str(found.path), size_bytes=found.size_bytes)
        for found in store.find_foreign(Path.home())
        if str(found.path) not in taken
    )


def find_installed(store: ModelStore, name: str) -> InstalledModel | None:
    """The installed model that `name` means, or None. Raises: Refused if its file is damaged."""
    try:
        return store.resolve(name)
    except Refused as refused:
        if refused.code == "model_not_found":
            return None
        raise
