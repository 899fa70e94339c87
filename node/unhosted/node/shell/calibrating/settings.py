"""The engine settings that one machine can make, as honest sellers would run them and checkers would read.

Each is a way to get the same model's tokens with other rounding: more rows in a computation, another kernel,
another cache type, another build of the library. What no honest seller runs is here too, to show that a
table catches it.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from unhosted.node.core.engine_facts import Replay
from unhosted.node.shell.engine.child import LoadOrder
from unhosted.node.shell.engine.environment import child_environment
from unhosted.node.shell.engine.fit import EngineSettings
from unhosted.node.shell.engine.library import ENVIRONMENT_VARIABLES

USUAL = EngineSettings()
QUEUE_MAX = 64
"""Requests that wait in a calibration's engine: it is asked by one task that counts."""

SMALL_UBATCH_TOKENS = 32
"""Of a seller with little memory for buffers; below the 64 rows where some kernels change."""

CACHES = ("f16", "q8_0")
"""What honest sellers keep keys and values in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How an engine is run. threads: 0 for all. library: path of another libllama, empty for the usual one.

    warms_prefix: whether each prompt is asked before, so that all but its end comes from the prefix cache.
    """

    name: str
    slots: int = USUAL.slots
    threads: int = USUAL.threads
    batch_tokens: int = USUAL.batch_tokens
    ubatch_tokens: int = USUAL.ubatch_tokens
    kv_type: str = USUAL.kv_type
    flash_attention: bool = True
    is_split: bool = True
    warms_prefix: bool = False
    library: str = ""
    gpu_layers: int = USUAL.gpu_layers
    is_exact: bool = USUAL.is_exact

    def order(self, model: Path, *, context_tokens: int) -> LoadOrder:
        """context_tokens: of each slot."""
        return LoadOrder(
            path=str(model),
            slots=self.slots,
            context_tokens=context_tokens,
            batch_tokens=self.batch_tokens,
            ubatch_tokens=min(self.ubatch_tokens, self.batch_tokens),
            threads=self.threads,
            kv_type=self.kv_type,
            gpu_layers=self.gpu_layers,
            queue_max=QUEUE_MAX,
            flash_attention=self.flash_attention,
            is_split=self.is_split,
            is_exact=self.is_exact,
        )

    def environment(self) -> dict[str, str]:
        """Of the engine's process."""
        variables = child_environment()
        if self.library:
            for name in ENVIRONMENT_VARIABLES:
                variables.pop(name, None)
            variables[ENVIRONMENT_VARIABLES[0]] = self.library
        return variables


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckerSetting:
    """How answers are read again: an engine, and the shape of its reading."""

    name: str
    engine: Setting = field(default_factory=lambda: Setting(name="usual"))
    replay: Replay = field(default_factory=Replay)


def setting_of(settings: EngineSettings) -> Setting:
    """How a node with these settings runs its engines."""
    return Setting(
        name="usual",
        slots=settings.slots,
        threads=settings.threads,
        batch_tokens=settings.batch_tokens,
        ubatch_tokens=settings.ubatch_tokens,
        kv_type=settings.kv_type,
        gpu_layers=settings.gpu_layers,
        is_exact=settings.is_exact,
    )


def seller_settings(libraries: Sequence[Path] = (), *, usual: Setting | None = None) -> tuple[Setting, ...]:
    """What honest sellers like this machine run. libraries: other builds than the usual one.

    usual: this node's own settings, from which the others differ in one thing each.
    """
    base = replace(usual or Setting(name="usual"), name="usual")
    settings = [
        base,
        replace(base, name="one slot", slots=1),
        replace(base, name="eight slots", slots=8),
        replace(base, name="small ubatch", ubatch_tokens=SMALL_UBATCH_TOKENS),
        replace(base, name="warm prefix", warms_prefix=True),
        replace(base, name="not exact" if base.is_exact else "exact", is_exact=not base.is_exact),
        replace(base, name="unified cache", slots=8, is_split=False, is_exact=False),
        *(replace(base, name=f"cache {kind}", kv_type=kind) for kind in CACHES if kind != base.kv_type),
        replace(base, name="no flash attention", flash_attention=False, kv_type="f16", is_exact=False),
    ]
    for name, threads in (("one thread", 1), ("all threads", len(os.sched_getaffinity(0)))):
        settings.append(replace(base, name=name, threads=threads))
    for index, path in enumerate(libraries, 1):
        settings.append(replace(base, name=f"other library {index}", library=str(path)))
    # A node that runs with one thread anyway needs that measured once.
    return (base, *(one for one in settings if replace(one, name=base.name) != base))


def checker_settings(
    libraries: Sequence[Path] = (), *, usual: Setting | None = None
) -> tuple[CheckerSetting, ...]:
    """Every way this machine can read answers again; a calibration takes those that its node uses."""
    engine = replace(usual or Setting(name="usual"), name="usual")
    return (
        CheckerSetting(name="usual", engine=engine),
        CheckerSetting(name="small ubatch", engine=engine, replay=Replay(ubatch_tokens=SMALL_UBATCH_TOKENS)),
        CheckerSetting(name="no flash attention", engine=engine, replay=Replay(flash_attention=False)),
        *(
            CheckerSetting(name=f"other library {index}", engine=replace(engine, library=str(path)))
            for index, path in enumerate(libraries, 1)
        ),
    )


CHEAT_CACHE_NAME = "cache q4_0"


def poor_cache(usual: Setting) -> Setting:
    """A cache at a quarter of the size, sold as a whole one: the one cheat here that needs an engine."""
    return replace(usual, name=CHEAT_CACHE_NAME, kv_type="q4_0", flash_attention=True, is_exact=False)
