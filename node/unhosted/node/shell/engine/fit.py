"""How much context a model gets on this machine, and what that takes. `show` tells what loading would do."""

from dataclasses import dataclass

from unhosted.node.core.gguf_facts import GgufHeader
from unhosted.node.shell.models.memory import estimate_bytes

CONTEXT_TOKENS_AUTO_MAX = 16384
"""What agents need for their first turn; more is a setting, for it is reserved whether used or not."""
CONTEXT_TOKENS_MODEST = 4096
KV_SHARE_AUTO = 0.25
"""An automatic context above the modest one may take this part of the memory: other models want some too."""
CONTEXT_TOKENS_MIN = 512
MEMORY_SHARE_AUTO = 0.8
"""Of the memory that is free when a model loads; the rest is for the page cache and other programs."""
KV_BYTES = {"f16": 2.0, "bf16/f16": 2.0, "f16/bf16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}
"""Bytes per KV element; q8_0 stores 32 values in 34 bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """How models are loaded. 0 means automatic for threads, context_tokens and memory_budget_bytes.

    is_exact: only kernels that round alike for one row and many, where the processor has such.
    """

    slots: int = 4
    context_tokens: int = 0
    batch_tokens: int = 512
    ubatch_tokens: int = 512
    threads: int = 0
    kv_type: str = "f16"
    gpu_layers: int = -1
    queue_max: int = 256
    idle_unload_s: float = 600.0
    memory_budget_bytes: int = 0
    is_exact: bool = False


@dataclass(frozen=True, slots=True)
class Fit:
    """context_tokens: of each slot. needed_bytes: what loading adds to the machine's use, by estimate."""

    context_tokens: int
    needed_bytes: int


def fit(header: GgufHeader, settings: EngineSettings, budget_bytes: int) -> Fit:
    """The context that `settings` mean for this model; an automatic one shrinks until it fits the budget.

    What does not fit even so is given all the same: the caller refuses it with its number.
    """
    context = min(settings.context_tokens or CONTEXT_TOKENS_AUTO_MAX, header.context_tokens)
    while True:
        needed = estimate_bytes(
            header,
            context_tokens_total=context * settings.slots,
            slots=settings.slots,
            batch_tokens=min(settings.ubatch_tokens, settings.batch_tokens),
            kv_bytes_per_element=KV_BYTES[settings.kv_type],
        )
        has_room = needed.total_bytes <= budget_bytes
        if has_room and (context <= CONTEXT_TOKENS_MODEST or needed.kv_bytes <= budget_bytes * KV_SHARE_AUTO):
            break
        if settings.context_tokens or context // 2 < CONTEXT_TOKENS_MIN:
            break
        context //= 2
    return Fit(context, needed.total_bytes)


def automatic_budget_bytes(available_bytes: int, loaded_bytes: int) -> int:
    """What models may take together, those included that are loaded now."""
    return int(available_bytes * MEMORY_SHARE_AUTO) + loaded_bytes
