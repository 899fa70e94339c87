"""What every slot of the engine's memory holds, and which one serves a request best.

It mirrors the runner's memory: whatever changes here is an operation for the next plan, in the same order.
Who runs, and when, is the scheduler's business.
"""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

from unhosted.node.core.batching import CopyCells, Feed, Job, KeepCells, Limits
from unhosted.node.core.errors import LocalFault
from unhosted.node.core.prefix import common_prefix_tokens
from unhosted.node.core.queueing import QueueKey

SHARE_TOKENS_MIN = 32
"""A shorter common prefix is not worth a copy of a slot's cells, nor losing a slot's other content."""


@dataclass(slots=True, eq=False)
class Slot:
    """cells: the tokens held. target: while the job is read, all that must be held before its first draw.
    pending: the token drawn last, not yet fed. used_at: steps, higher is later; 0 when nothing is held."""

    index: int
    cells: "array[int]" = field(default_factory=lambda: array("i"))
    job: Job | None = None
    target: "array[int]" = field(default_factory=lambda: array("i"))
    pending: int | None = None
    admitted_at: int = 0
    used_at: int = 0
    queue_key: QueueKey = (0, 0, 0)

    @property
    def is_reading(self) -> bool:
        return self.job is not None and self.pending is None

    def leave(self, used_at: int) -> None:
        """The job is done or preempted; the cells stay, as a prefix for others."""
        self.job, self.pending, self.target = None, None, array("i")
        self.used_at = used_at


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixToCome:
    """A slot that will hold `tokens` tokens of a waiting job's, if the admission it was seen in goes on."""

    slot: Slot
    admitted_at: int
    tokens: int

    @property
    def is_coming(self) -> bool:
        slot = self.slot
        return slot.is_reading and slot.admitted_at == self.admitted_at and len(slot.cells) < self.tokens


class SlotMemory:
    """The slots' cells and the operations that the next plan must carry out on them."""

    def __init__(self, limits: Limits) -> None:
        self.slots = [Slot(index) for index in range(limits.slots)]
        self._limits = limits
        self._shares_cells = limits.cells_total < limits.slots * limits.context_tokens
        self._operations: list[CopyCells | KeepCells] = []

    def take_operations(self) -> tuple[CopyCells | KeepCells, ...]:
        operations, self._operations = tuple(self._operations), []
        return operations

    def clear(self, slot: Slot) -> None:
        self._keep(slot, 0)
        slot.used_at = 0  # an empty slot is the first to be taken by a job that finds no prefix

    def make_room(self, feeds: Iterable[Feed]) -> None:
        """Drop what free slots hold, oldest first, until the step fits the cells that all slots share."""
        if not self._shares_cells:
            return
        fed_tokens = sum(len(feed.tokens) for feed in feeds)
        above = sum(len(slot.cells) for slot in self.slots) + fed_tokens - self._limits.cells_total
        cached = [slot for slot in self.slots if slot.job is None and slot.cells]
        for slot in sorted(cached, key=lambda s: s.used_at):
            if above <= 0:
                return
            above -= len(slot.cells)
            self.clear(slot)

    def prepare(self, wanted: "array[int]", *, use_prefix_cache: bool) -> Slot:
        """A free slot that holds as much of `wanted` as any does, and nothing else. There must be one."""
        free = [slot for slot in self.slots if slot.job is None]
        slot, kept = min(free, key=lambda s: s.used_at), 0
        if use_prefix_cache:
            usable = [self._usable(each.cells, wanted) for each in self.slots]
            best_free = max(free, key=lambda s: (usable[s.index], -s.used_at, -s.index))
            # A chance hit of a few tokens must not cost the slot's longer content: then the oldest goes.
            if usable[best_free.index] >= min(SHARE_TOKENS_MIN, len(wanted) // 2 + 1):
                slot = best_free
            kept = usable[slot.index]
            source = max(self.slots, key=lambda s: (usable[s.index], -s.index))
            if usable[source.index] >= kept + SHARE_TOKENS_MIN:
                kept = usable[source.index]
                copy = CopyCells(from_slot=source.index, to_slot=slot.index, tokens=kept)
                self._operations.append(copy)
                slot.cells = source.cells[:kept]
        if kept < len(slot.cells):
            self._keep(slot, kept)
        return slot

    def find_prefix_to_come(self, job: Job, wanted: "array[int]") -> PrefixToCome | None:
        """The slot worth waiting for: it is reading what the job would have to read again."""
        if not job.use_prefix_cache:
            return None
        now = -1
        for slot in self.slots:
            reader = slot.job if slot.is_reading else None
            # A better job must not wait for a worse one, which everybody better is read before.
            if reader is None or not reader.use_prefix_cache or reader.priority > job.priority:
                continue
            soon = self._usable(slot.target, wanted)
            if soon <= len(slot.cells):
                continue
            if now < 0:
                now = max(self._usable(each.cells, wanted) for each in self.slots)
            if soon >= now + SHARE_TOKENS_MIN:
                return PrefixToCome(slot=slot, admitted_at=slot.admitted_at, tokens=soon)
        return None

    def _keep(self, slot: Slot, tokens: int) -> None:
        self._operations.append(KeepCells(slot=slot.index, tokens=tokens))
        del slot.cells[tokens:]

    def _usable(self, cells: "array[int]", wanted: "array[int]") -> int:
        """How many of a slot's cells serve `wanted`; one token must be left to feed."""
        common = min(common_prefix_tokens(cells, wanted), len(wanted) - 1)
        if not self._limits.partial_removal and common < len(cells):
            return 0
        return common

    def check_integrity(self) -> None:
        held = [len(slot.cells) for slot in self.slots]
        if max(held) > self._limits.context_tokens or sum(held) > self._limits.cells_total:
            raise LocalFault(
                f"slots hold {held} cells, above {self._limits.context_tokens} each "
                f"or {self._limits.cells_total} together"
            )
