"""Any order of events: submit, cancel, steps, steps without space, lost memory.

What must hold is stated here without looking inside the scheduler: through the plans, through the fake
runner's cells, and through the jobs, each of which must get the output that it gets alone.

More examples: give `_SETTINGS` a larger max_examples and derandomize=False; the seed is printed on failure.
"""

from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.node.core.fake_runner import FakeRunner, output_alone, tokens
from unhosted.node.core.batching import OUTPUT_PIECE_TOKENS, Job, Limits, Plan
from unhosted.node.core.errors import Refused
from unhosted.node.core.inference import FinishReason
from unhosted.node.core.scheduler import Scheduler

CONTEXT_TOKENS = 160
QUEUE_MAX = 12
DRAIN_STEPS_MAX = 2_500
"""At most 16 jobs of 160 tokens are left at the end; each step feeds at least one."""

_SETTINGS = settings(max_examples=120, stateful_step_count=40, deadline=None, derandomize=True)

bases = st.tuples(st.integers(1, 3), st.sampled_from([0, 10, 40, 70, 100]))
tails = st.lists(st.integers(0, 1), max_size=20).map(tuple)


class SchedulerMachine(RuleBasedStateMachine):
    """shared: all slots together hold less than each its context. partial_removal: as in Limits."""

    shared = False
    partial_removal = True

    @initialize(
        slots=st.integers(1, 4),
        batch=st.integers(4, 60),
        cells=st.integers(CONTEXT_TOKENS, 2 * CONTEXT_TOKENS),
        prefill_min=st.integers(1, 20),
        per_decode=st.integers(1, 10),
    )
    def begin(self, slots: int, batch: int, cells: int, prefill_min: int, per_decode: int) -> None:
        self.limits = Limits(
            slots=slots,
            context_tokens=CONTEXT_TOKENS,
            batch_tokens=batch,
            queue_max=QUEUE_MAX,
            cells_total=min(cells, slots * CONTEXT_TOKENS) if self.shared else slots * CONTEXT_TOKENS,
            partial_removal=self.partial_removal,
            prefill_tokens_min=prefill_min,
            prefill_tokens_per_decode=per_decode,
        )
        self.scheduler = Scheduler(self.limits)
        self.runner = FakeRunner(self.limits)
        self.live: dict[str, Job] = {}
        self.running: dict[str, int] = {}  # how often it had been preempted when it was admitted
        self.generating: set[str] = set()
        self.submitted = 0

    # ---- events

    @precondition(lambda self: len(self.live) < QUEUE_MAX + 4)
    @rule(
        base=bases,
        tail=tails,
        priority=st.sampled_from([0, 0, 1, 3]),
        flow=st.sampled_from("abc"),
        max_tokens=st.integers(1, 40),
        use_prefix_cache=st.sampled_from([True, True, True, False]),
        resumed=st.sampled_from([0, 0, 1, 5]),
        copies=st.sampled_from([1, 1, 2, 5]),
    )
    def submit(
        self,
        base: tuple[int, int],
        tail: tuple[int, ...],
        priority: int,
        flow: str,
        max_tokens: int,
        use_prefix_cache: bool,
        resumed: int,
        copies: int,
    ) -> None:
        prompt = (*tokens(*base), *tail) or (7,)
        whole, _ = output_alone(prompt, max_tokens)
        for _ in range(copies):
            self.submitted += 1
            job = Job(
                job_id=f"job{self.submitted}",
                prompt=prompt,
                max_tokens=max_tokens,
                priority=priority,
                flow=flow,
                use_prefix_cache=use_prefix_cache,
                output=whole[: min(resumed, len(whole) - 1)],
            )
            was_full = self.scheduler.queued >= QUEUE_MAX
            try:
                self.scheduler.submit(job)
            except Refused as refusal:
                assert refusal.code == "overloaded" and was_full
            else:
                assert not was_full
                self.live[job.job_id] = job

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self._cancel(data.draw(st.sampled_from(sorted(self.live))))

    @rule(count=st.integers(1, 12))
    def step(self, count: int) -> None:
        for _ in range(count):
            if not self._step():
                break

    @precondition(lambda self: self.live)
    @rule(data=st.data(), refuse=st.booleans())
    def cancel_while_a_step_runs(self, data: st.DataObject, refuse: bool) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.live)))
        self._step(between=lambda: self._cancel(job_id), refuse=refuse and self.scheduler.slots_busy > 2)

    @precondition(lambda self: self.scheduler.slots_busy > 1)
    @rule()
    def step_without_space(self) -> None:
        before = self.scheduler.slots_busy
        self._step(refuse=True)
        # What is not needed goes first, so twice is enough to be rid of somebody.
        self._step(refuse=self.scheduler.slots_busy == before > 1)

    @rule(while_a_step_runs=st.booleans())
    def lose_memory(self, while_a_step_runs: bool) -> None:
        if while_a_step_runs:
            self.scheduler.plan()
        self.runner.clear()
        self.scheduler.forget_cells()
        assert self.scheduler.slots_busy == 0

    # ---- what must hold

    @invariant()
    def is_sound(self) -> None:
        self.scheduler.check_integrity()
        assert sum(map(len, self.runner.slots)) <= self.limits.cells_total
        assert self.scheduler.slots_busy + self.scheduler.queued == len(self.live)
        assert self.scheduler.slots_busy <= self.limits.slots
        for job in self.live.values():
            assert job.output == output_alone(job.prompt, job.max_tokens)[0][: len(job.output)]

    def teardown(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        for _ in range(DRAIN_STEPS_MAX):
            if not self._step():
                break
        assert not self.live, f"{sorted(self.live)} starve"
        assert self.scheduler.is_idle
        self.scheduler.check_integrity()

    # ---- how

    def _cancel(self, job_id: str) -> None:
        busy = self.scheduler.slots_busy
        was_queued = job_id not in self._running_now()
        assert self.scheduler.cancel(job_id)
        assert not self.scheduler.cancel(job_id)
        assert self.scheduler.slots_busy == busy - (not was_queued)
        del self.live[job_id]
        self.running.pop(job_id, None)

    def _running_now(self) -> set[str]:
        jobs = self.live
        return {job_id for job_id, count in self.running.items() if jobs[job_id].preemptions == count}

    def _step(self, *, between: Callable[[], None] | None = None, refuse: bool = False) -> bool:
        plan = self.scheduler.plan()
        if plan is None:
            assert self.scheduler.is_idle, "somebody waits and nothing is fed"
            if between is not None:
                between()
            return False
        for job_id in plan.admitted:
            self.running[job_id] = self.live[job_id].preemptions
            self.generating.discard(job_id)
        self._check_plan(plan)
        drawn = self.runner.execute(plan, refuse=refuse)
        if between is not None:
            between()
        if drawn is None:
            assert refuse, "no space within the limits"
            victim = self.scheduler.no_space()
            assert victim is None or victim in self.live
            return True
        self.generating |= {one.job_id for one in drawn}
        for job_id, reason in self.scheduler.apply(drawn).items():
            self._finish(job_id, reason)
        for index, cells in enumerate(self.runner.slots):
            assert self.scheduler.cells(index) == len(cells)
        return True

    def _finish(self, job_id: str, reason: FinishReason) -> None:
        job = self.live.pop(job_id)
        del self.running[job_id]
        assert (job.output, reason) == output_alone(job.prompt, job.max_tokens)

    def _check_plan(self, plan: Plan) -> None:
        running = self._running_now()
        fed = {feed.job_id: feed for feed in plan.feeds}
        assert fed.keys() <= running
        assert len(running) == self.scheduler.slots_busy
        assert sum(self.live[job_id].reserved_tokens for job_id in running) <= self.limits.cells_total
        # Decode first: one token each, in every step.
        generating = running & self.generating
        for job_id in generating:
            assert fed[job_id].draws and len(fed[job_id].tokens) == 1
        # Prompts get what is left up to the cap, all of it if they need it, the best and oldest first.
        cap = self.limits.batch_tokens - len(generating)
        if generating:
            share = self.limits.prefill_tokens_per_decode * len(generating)
            cap = min(cap, max(self.limits.prefill_tokens_min, share))
        read = plan.tokens - len(generating)
        assert read <= cap
        reading = running - generating
        # A piece of output ends a reading for this step; whoever is cut elsewhere was cut by the cap.
        whole = set()
        for job_id in reading & fed.keys():
            feed, prompt_tokens = fed[job_id], len(self.live[job_id].prompt)
            end, is_output = feed.start + len(feed.tokens), feed.start >= prompt_tokens
            limit = feed.start + OUTPUT_PIECE_TOKENS if is_output else prompt_tokens
            assert end <= limit
            if feed.draws or end == limit:
                whole.add(job_id)
        if reading - whole:
            assert read == cap
        worst_fed = max((self.live[job_id].priority for job_id in reading & fed.keys()), default=0)
        assert all(self.live[job_id].priority >= worst_fed for job_id in reading - fed.keys())


class SharedCellsMachine(SchedulerMachine):
    shared = True


class WholeRemovalMachine(SchedulerMachine):
    partial_removal = False


@pytest.mark.parametrize(
    "machine",
    [SchedulerMachine, SharedCellsMachine, WholeRemovalMachine],
    ids=["cells of its own for each slot", "cells shared by all slots", "memory without partial removal"],
)
@pytest.mark.slow
def test_every_job_gets_what_it_gets_alone(machine: type[SchedulerMachine]) -> None:
    run_state_machine_as_test(machine, settings=_SETTINGS)
