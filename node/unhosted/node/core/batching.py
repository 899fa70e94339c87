"""The words between the scheduler and the engine's loop: limits, jobs, and what one step does."""

from array import array
from dataclasses import dataclass, field

from unhosted.node.core.errors import LocalFault

OUTPUT_PIECE_TOKENS = 16
"""llama.cpp rounds alike when it decodes a token and when it reads it among up to 63 (quantized weights on
CPUs, flash attention, up to 256 cells of an f16 cache; `engine_facts` says where else). So in small pieces an
output goes on as if it had never been interrupted; read as one batch, half of the answers turned a token
sooner or later. Three that go on at once stay below 63."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """cells_total: cells that may be reserved together; slots * context_tokens where every slot has its own.

    partial_removal: whether the model's memory can drop a tail of a sequence (a recurrent one cannot).
    """

    slots: int
    context_tokens: int
    batch_tokens: int
    queue_max: int
    cells_total: int
    partial_removal: bool = True
    prefill_tokens_max: int | None = None
    prefill_tokens_min: int = 64
    prefill_tokens_per_decode: int = 32

    def __post_init__(self) -> None:
        if self.slots < 1 or self.batch_tokens < self.slots:
            raise LocalFault(f"batch of {self.batch_tokens} tokens cannot feed {self.slots} slots")
        if self.cells_total < self.context_tokens or self.context_tokens < 2:
            raise LocalFault(f"{self.cells_total} cells cannot hold a context of {self.context_tokens}")


@dataclass(slots=True, kw_only=True, eq=False)
class Job:
    """One request on its way. `prompt` never changes; `output` grows, and outlives a preemption.

    output: may hold tokens of an earlier run when the job is submitted; they count against max_tokens.
    Token ids fit 32 bits: whoever makes a job has checked them against the vocabulary.
    """

    job_id: str
    prompt: tuple[int, ...]
    max_tokens: int
    priority: int = 0
    flow: str = ""
    use_prefix_cache: bool = True
    output: list[int] = field(default_factory=list)
    cached_tokens: int = 0
    preemptions: int = 0
    _prompt_ids: "array[int]" = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._prompt_ids = array("i", self.prompt)

    @property
    def reserved_tokens(self) -> int:
        return len(self.prompt) + self.max_tokens

    def piece_end(self, start: int) -> int:
        """Where a piece that is read from `start` on must end: prompt and output are not mixed."""
        prompt_tokens = len(self.prompt)
        return prompt_tokens if start < prompt_tokens else start + OUTPUT_PIECE_TOKENS

    def known_tokens(self) -> "array[int]":
        """Everything that must be in the slot's cells, or fed, before the next token can be drawn.

        An array, not a tuple: prefixes of thousands of tokens are compared for every slot.
        """
        return self._prompt_ids + array("i", self.output)


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyCells:
    """Give slot `to_slot` the first `tokens` cells of `from_slot`; what it held is gone."""

    from_slot: int
    to_slot: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepCells:
    """Slot `slot` keeps its first `tokens` cells and loses the rest."""

    slot: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """Tokens for one slot, at positions from `start` on; draws: the last one's logits give a token."""

    slot: int
    job_id: str
    start: int
    tokens: tuple[int, ...]
    draws: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One step: memory operations in order, then one batch. admitted: jobs that got a slot in this step."""

    operations: tuple[CopyCells | KeepCells, ...]
    feeds: tuple[Feed, ...]
    admitted: tuple[str, ...]

    @property
    def tokens(self) -> int:
        return sum(len(feed.tokens) for feed in self.feeds)


@dataclass(frozen=True, slots=True)
class Drawn:
    """The token drawn for a job; ended: end of generation or a stop string, nothing more is wanted."""

    job_id: str
    token_id: int
    ended: bool
