"""An engine without a model: slots of cells, and tokens drawn as a hash of them.

It obeys a plan as llama.cpp's split memory would and checks what llama.cpp would abort on. What it draws
depends on a slot's cells alone, so a job's output is right exactly when its cells were, whatever else ran.
"""

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence

from unhosted.node.core.batching import CopyCells, Drawn, Job, KeepCells, Limits, Plan
from unhosted.node.core.inference import FinishReason
from unhosted.node.core.scheduler import Scheduler

END_EVERY = 23
"""One token in so many ends its generation."""


def draw(cells: Sequence[int]) -> int:
    """The token that follows these, of a vocabulary of 32,000."""
    return (
        int.from_bytes(hashlib.blake2b(array("i", cells).tobytes(), digest_size=4).digest(), "big") % 32_000
    )


def is_end(token_id: int) -> bool:
    return token_id % END_EVERY == 0


def output_alone(prompt: Sequence[int], max_tokens: int) -> tuple[list[int], FinishReason]:
    """What a job gives when nothing else runs, by the definition and without a scheduler."""
    cells, output = list(prompt), list[int]()
    while len(output) < max_tokens:
        output.append(draw(cells))
        cells.append(output[-1])
        if is_end(output[-1]):
            return output, "stop"
    return output, "length"


class FakeRunner:
    """cells_max: above so many cells in all it has no space. fed_tokens: by job id, prompt and output."""

    def __init__(self, limits: Limits, *, cells_max: int | None = None) -> None:
        self.limits = limits
        self.cells_max = limits.cells_total if cells_max is None else cells_max
        self.slots: list[list[int]] = [[] for _ in range(limits.slots)]
        self.fed_tokens: Counter[str] = Counter()
        self.copies: list[CopyCells] = []
        self.refusals = 0

    def execute(self, plan: Plan, *, refuse: bool = False) -> list[Drawn] | None:
        """The drawn tokens, or None when there was no space: then the memory operations alone were done."""
        self._check_batch(plan)
        for operation in plan.operations:
            self._operate(operation)
        if refuse or sum(map(len, self.slots)) + plan.tokens > self.cells_max:
            self.refusals += 1
            return None
        drawn: list[Drawn] = []
        for feed in plan.feeds:
            cells = self.slots[feed.slot]
            assert feed.start == len(cells), f"{feed} but the slot holds {len(cells)} cells"
            cells.extend(feed.tokens)
            assert len(cells) <= self.limits.context_tokens, "a sequence outgrows its context"
            self.fed_tokens[feed.job_id] += len(feed.tokens)
            if feed.draws:
                token_id = draw(cells)
                drawn.append(Drawn(feed.job_id, token_id, is_end(token_id)))
        return drawn

    def clear(self) -> None:
        for cells in self.slots:
            cells.clear()

    def _check_batch(self, plan: Plan) -> None:
        assert 0 < plan.tokens <= self.limits.batch_tokens
        assert all(feed.tokens for feed in plan.feeds)
        assert len({feed.slot for feed in plan.feeds}) == len(plan.feeds), "two feeds for one slot"
        assert len({feed.job_id for feed in plan.feeds}) == len(plan.feeds), "two feeds for one job"

    def _operate(self, operation: CopyCells | KeepCells) -> None:
        whole = self.limits.partial_removal
        if isinstance(operation, KeepCells):
            cells = self.slots[operation.slot]
            assert operation.tokens <= len(cells), f"{operation} of {len(cells)} cells"
            assert whole or operation.tokens in (0, len(cells)), "this memory cannot drop a tail"
            del cells[operation.tokens :]
            return
        source = self.slots[operation.from_slot]
        assert operation.from_slot != operation.to_slot
        assert operation.tokens <= len(source), f"{operation} of {len(source)} cells"
        assert whole or operation.tokens == len(source), "this memory cannot drop a copy's tail"
        self.slots[operation.to_slot] = source[: operation.tokens]
        self.copies.append(operation)


def run_step(scheduler: Scheduler, runner: FakeRunner) -> tuple[Plan, dict[str, FinishReason]] | None:
    """One step that has space, checked before and after; None when there was nothing to do."""
    plan = scheduler.plan()
    if plan is None:
        assert scheduler.is_idle, "somebody waits and nothing is fed"
        return None
    drawn = runner.execute(plan)
    assert drawn is not None, "no space within the limits"
    finished = scheduler.apply(drawn)
    scheduler.check_integrity()
    return plan, finished


def run_until_idle(
    scheduler: Scheduler, runner: FakeRunner, *, steps_max: int = 5_000
) -> dict[str, FinishReason]:
    """How each job finished. Fails when it takes longer than `steps_max` steps."""
    finished: dict[str, FinishReason] = {}
    for _ in range(steps_max):
        step = run_step(scheduler, runner)
        if step is None:
            return finished
        finished |= step[1]
    raise AssertionError(f"not idle after {steps_max} steps")


def tokens(seed: int, count: int) -> tuple[int, ...]:
    """Token ids that differ from those of any other seed from the first one on."""
    return tuple(1_000_000 * seed + position for position in range(count))


def long_answers(max_tokens: int, *, prompt_tokens: int = 20) -> Iterator[tuple[int, ...]]:
    """Prompts, all different, whose answers do not end before `max_tokens`."""
    prompts = (tokens(seed, prompt_tokens) for seed in range(1, 1_000))
    return (prompt for prompt in prompts if output_alone(prompt, max_tokens)[1] == "length")


def limits(
    *,
    slots: int = 4,
    context: int = 512,
    batch: int = 128,
    queue: int = 64,
    cells: int | None = None,
    partial_removal: bool = True,
) -> Limits:
    return Limits(
        slots=slots,
        context_tokens=context,
        batch_tokens=batch,
        queue_max=queue,
        cells_total=slots * context if cells is None else cells,
        partial_removal=partial_removal,
    )


def start(bounds: Limits) -> tuple[Scheduler, FakeRunner]:
    return Scheduler(bounds), FakeRunner(bounds)


def submit(
    scheduler: Scheduler,
    job_id: str,
    prompt: tuple[int, ...],
    *,
    max_tokens: int = 8,
    priority: int = 0,
    flow: str = "",
    use_prefix_cache: bool = True,
    output: Sequence[int] = (),
) -> Job:
    job = Job(
        job_id=job_id,
        prompt=prompt,
        max_tokens=max_tokens,
        priority=priority,
        flow=flow,
        use_prefix_cache=use_prefix_cache,
        output=list(output),
    )
    scheduler.submit(job)
    return job
