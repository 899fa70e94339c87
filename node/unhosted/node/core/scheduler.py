"""Continuous batching as a rule: which tokens of which requests the next step of the engine feeds.

No I/O, no clock, no entropy: the same calls in the same order give the same plans. The engine's loop asks
for a `Plan`, executes it on the runner, and reports the drawn tokens with `apply`. It is one mutable object
rather than a fold over frozen values because a step touches every slot's token list, thousands of tokens
long, some hundred times a second; every way in is a method below, and `check_integrity` states what must
hold between calls.

The rules:
1. Every generating slot gets its one token in every step. Prompts fill what is left of the batch, but while
   anything generates they get at most `prefill_tokens_per_decode` tokens for each generating slot (and at
   least `prefill_tokens_min`): a long prompt delays the others by a bounded time, and they cost it a few
   percent.
2. A slot holds up to `context_tokens` cells. A request is admitted when a slot is free and its reserved
   length (prompt plus all it may generate) fits the cells that no other running request has reserved. What
   free slots still hold is a cache: where slots share their cells, it makes room for those who run.
3. The queue is ordered by priority, then fairly between flows (start-time fair queueing on reserved tokens),
   then by arrival. A waiting request of a better priority preempts the youngest running ones of the worst,
   if that makes room enough; they keep what they generated, and go on later from there.
4. A request takes the free slot that already holds the longest prefix of its prompt. If another slot holds a
   longer one, busy or not, its cells are copied. If another slot is about to hold one, because it is reading
   that very prompt now for a request of no worse priority, the request waits for it: n samples of one
   prompt cost one prefill. (Not where memory has no partial removal: what was read cannot be cut to fit.)
5. Output that is read again (after a crash, a preemption, or a failure of another machine) goes in small
   pieces of its own: see `OUTPUT_PIECE_TOKENS`.
6. A cancelled request frees its slot at once; what the slot holds stays as a prefix for others.

Not handled here: text, stop strings, sampling. The caller decides those and reports `Drawn.ended`.
"""

from array import array
from collections.abc import Iterable

from unhosted.node.core.batching import Drawn, Feed, Job, Limits, Plan
from unhosted.node.core.errors import LocalFault, Refused
from unhosted.node.core.inference import FinishReason
from unhosted.node.core.queueing import FairQueue, QueueKey
from unhosted.node.core.slots import PrefixToCome, Slot, SlotMemory


class Scheduler:
    """See the module's rules. Not thread-safe: one loop owns it."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._memory = SlotMemory(limits)
        self._slots = self._memory.slots
        self._queue: FairQueue[Job] = FairQueue()
        self._slot_by_job: dict[str, Slot] = {}
        self._step = 0
        self._admissions = 0
        self._planned: Plan | None = None
        self._awaited_by_job: dict[str, PrefixToCome] = {}
        self._is_short = False  # the runner had no space: nobody is admitted until a running job leaves

    # ---- what the caller may ask

    @property
    def is_idle(self) -> bool:
        return not self._slot_by_job and not self._queue

    @property
    def queued(self) -> int:
        return len(self._queue)

    @property
    def slots_busy(self) -> int:
        return len(self._slot_by_job)

    def job(self, job_id: str) -> Job | None:
        slot = self._slot_by_job.get(job_id)
        return slot.job if slot is not None else self._queue.get(job_id)

    # ---- ways in

    def submit(self, job: Job) -> None:
        """Queue a job.

        Raises Refused: the prompt does not fit the context, nothing is left to generate, the queue is full.
        """
        context = self.limits.context_tokens
        if not job.prompt:
            raise Refused("invalid_request", "the prompt is empty: 0 tokens", field="prompt")
        if len(job.prompt) >= context:
            raise Refused(
                "context_length_exceeded",
                f"the prompt has {len(job.prompt)} tokens, the context holds {context} "
                "and at least one must be left for the answer",
                field="prompt",
                details={"prompt_tokens": len(job.prompt), "context_tokens": context},
            )
        if len(self._queue) >= self.limits.queue_max:
            raise Refused(
                "overloaded",
                f"{len(self._queue)} requests are waiting, which is the limit; try again shortly",
                retry_after_s=1,
            )
        if self.job(job.job_id) is not None:
            raise LocalFault(f"job {job.job_id} is submitted twice")
        job.max_tokens = max(1, min(job.max_tokens, context - len(job.prompt)))
        if len(job.output) >= job.max_tokens:
            raise Refused(
                "invalid_request",
                f"resume_ids has {len(job.output)} tokens, which is all that {job.max_tokens} max_tokens "
                "allow: there is nothing left to generate",
                field="resume_ids",
            )
        self._queue.push(job.job_id, job, priority=job.priority, flow=job.flow, cost=job.reserved_tokens)

    def cancel(self, job_id: str) -> bool:
        """Forget a job, waiting or running; its slot is free for the next plan."""
        if self._queue.remove(job_id):
            self._awaited_by_job.pop(job_id, None)
            return True
        slot = self._slot_by_job.pop(job_id, None)
        if slot is None:
            return False
        self._release(slot)
        return True

    def plan(self) -> Plan | None:
        """The next step, or None when there is nothing to feed."""
        if self._planned is not None:
            raise LocalFault("a plan is asked for while one is under way")
        admitted = [] if self._is_short else self._admit()
        feeds = self._feeds()
        if not feeds:
            if admitted:
                raise LocalFault("slots were prepared but nothing is fed")
            return None
        self._memory.make_room(feeds)
        operations = self._memory.take_operations()
        self._planned = Plan(operations=operations, feeds=tuple(feeds), admitted=tuple(admitted))
        return self._planned

    def apply(self, drawn: Iterable[Drawn]) -> dict[str, FinishReason]:
        """The plan was executed: record it and the drawn tokens. Gives the finished jobs: stop or length.

        A job that was cancelled between plan and apply is passed over: its cells are recorded all the same.
        """
        plan = self._take_plan()
        self._step += 1
        for feed in plan.feeds:
            slot = self._slots[feed.slot]
            if len(slot.cells) != feed.start:
                raise LocalFault(f"slot {slot.index} holds {len(slot.cells)} cells, fed at {feed.start}")
            slot.cells.extend(feed.tokens)
            slot.used_at = self._step
            if slot.job is not None and slot.job.job_id == feed.job_id:
                slot.pending = None
        finished: dict[str, FinishReason] = {}
        for one in drawn:
            reason = self._record(one)
            if reason is not None:
                finished[one.job_id] = reason
        for feed in plan.feeds:
            slot = self._slots[feed.slot]
            if slot.is_reading and len(slot.cells) >= len(slot.target):
                raise LocalFault(f"slot {slot.index} was fed to its end and no token was drawn")
        return finished

    def no_space(self) -> str | None:
        """The runner did the plan's memory operations, but had no cells for its batch: make some free.

        What free slots hold goes first; if they hold nothing a job is preempted, and its id given. Raises
        LocalFault when only one job runs: then the limits promise more than the runner has.
        """
        plan = self._take_plan()
        running = [slot for slot in self._slots if slot.job is not None]
        cached = [slot for slot in self._slots if slot.job is None and slot.cells]
        for slot in cached:
            self._memory.clear(slot)
        if cached or any(self._slots[feed.slot].job is None for feed in plan.feeds):
            return None  # the next plan needs less: cells were freed, or a job of this one was cancelled
        if len(running) < 2:
            raise LocalFault("the runner has no space for a single job within its own context")
        victim = max(running, key=lambda slot: (slot.job.priority if slot.job else 0, slot.admitted_at))
        job_id = victim.job.job_id if victim.job else ""
        self._preempt(victim)
        self._memory.clear(victim)
        self._is_short = True
        return job_id

    def forget_cells(self) -> None:
        """The runner lost its memory (a failed step): every slot reads from the start again."""
        self._planned = None
        for slot in self._slots:
            if slot.job is not None:
                self._preempt(slot)
            self._memory.clear(slot)
        self._memory.take_operations()  # there is nothing left that the runner could drop

    def cells(self, slot: int) -> int:
        """How many cells the slot holds, for the runner's own check."""
        return len(self._slots[slot].cells)

    # ---- admission

    def _admit(self) -> list[str]:
        admitted: list[str] = []
        held = 0  # jobs at the head of the queue that wait for a prefix: each keeps a free slot
        while held < len(self._queue):
            job = self._queue.at(held)
            free = sum(slot.job is None for slot in self._slots)
            fits = self._reserved_tokens() + job.reserved_tokens <= self.limits.cells_total
            has_room = fits and free > held
            victims = [] if has_room or held else self._victims(job, free)
            if not has_room and not victims:
                break
            wanted = job.known_tokens()
            if self._should_wait_for_prefix(job, wanted):
                held += 1
                continue
            for victim in victims:
                self._preempt(victim)
            key, _ = self._queue.take(job.job_id)
            self._place(job, wanted, key)
            admitted.append(job.job_id)
        return admitted

    def _reserved_tokens(self) -> int:
        return sum(slot.job.reserved_tokens for slot in self._slots if slot.job is not None)

    def _victims(self, job: Job, free: int) -> list[Slot]:
        """Whom to preempt for a slot and cells for a better job: youngest of the worst; none if no use."""
        worse = [s for s in self._slots if s.job is not None and s.job.priority > job.priority]
        worse.sort(key=lambda s: (s.job.priority if s.job else 0, s.admitted_at))
        tokens = self._reserved_tokens() + job.reserved_tokens
        victims: list[Slot] = []
        while tokens > self.limits.cells_total or not free + len(victims):
            if not worse:
                return []
            victims.append(worse.pop())
            tokens -= victims[-1].job.reserved_tokens if victims[-1].job else 0
        return victims

    def _preempt(self, slot: Slot) -> None:
        job = slot.job
        if job is None:
            raise LocalFault(f"slot {slot.index} has nothing to preempt")
        del self._slot_by_job[job.job_id]
        self._release(slot)
        job.preemptions += 1
        self._queue.push_back(job.job_id, job, slot.queue_key)

    def _release(self, slot: Slot) -> None:
        slot.leave(self._step + 1)
        self._is_short = False

    def _should_wait_for_prefix(self, job: Job, wanted: "array[int]") -> bool:
        awaited = self._awaited_by_job.pop(job.job_id, None)
        if awaited is None or not awaited.is_coming:
            awaited = self._memory.find_prefix_to_come(job, wanted)
        if awaited is None:
            return False
        self._awaited_by_job[job.job_id] = awaited
        return True

    def _place(self, job: Job, wanted: "array[int]", key: QueueKey) -> None:
        slot = self._memory.prepare(wanted, use_prefix_cache=job.use_prefix_cache)
        self._admissions += 1
        slot.job, slot.target, slot.pending = job, wanted, None
        slot.admitted_at, slot.queue_key = self._admissions, key
        self._slot_by_job[job.job_id] = slot
        if not job.preemptions:
            job.cached_tokens = min(len(slot.cells), len(job.prompt))

    # ---- one step

    def _feeds(self) -> list[Feed]:
        # A step comes right after the model has swept the caches: what is touched here is counted.
        feeds: list[Feed] = []
        reading: list[Slot] = []
        for slot in sorted(self._slot_by_job.values(), key=lambda s: s.index):
            if slot.pending is None:
                reading.append(slot)
            elif slot.job is not None:
                feeds.append(
                    Feed(
                        slot=slot.index,
                        job_id=slot.job.job_id,
                        start=len(slot.cells),
                        tokens=(slot.pending,),
                        draws=True,
                    )
                )
        budget = self.limits.batch_tokens - len(feeds)
        if self.limits.prefill_tokens_max is not None:
            budget = min(budget, self.limits.prefill_tokens_max)
        if feeds:
            share = self.limits.prefill_tokens_per_decode * len(feeds)
            budget = min(budget, max(self.limits.prefill_tokens_min, share))
        reading.sort(key=lambda s: (s.job.priority if s.job else 0, s.admitted_at))
        for slot in reading:
            if budget <= 0 or slot.job is None:
                break
            start = len(slot.cells)
            tokens = tuple(slot.target[start : min(start + budget, slot.job.piece_end(start))])
            draws = start + len(tokens) == len(slot.target)
            feeds.append(
                Feed(slot=slot.index, job_id=slot.job.job_id, start=start, tokens=tokens, draws=draws)
            )
            budget -= len(tokens)
        return feeds

    def _record(self, one: Drawn) -> FinishReason | None:
        slot = self._slot_by_job.get(one.job_id)
        if slot is None or slot.job is None:
            return None
        job = slot.job
        if len(slot.cells) != len(job.prompt) + len(job.output):
            raise LocalFault(f"a token was drawn for job {job.job_id}, which was not fed to its end")
        job.output.append(one.token_id)
        slot.pending, slot.target = one.token_id, array("i")
        if one.ended or len(job.output) >= job.max_tokens:
            del self._slot_by_job[job.job_id]
            self._release(slot)
            return "stop" if one.ended else "length"
        return None

    def _take_plan(self) -> Plan:
        plan, self._planned = self._planned, None
        if plan is None:
            raise LocalFault("no plan is under way")
        return plan

    # ---- invariants

    def check_integrity(self) -> None:
        """Raise LocalFault if any promise between calls is broken. Cheap enough for every idle moment."""
        running = [slot for slot in self._slots if slot.job is not None]
        if {slot.job.job_id for slot in running if slot.job} != set(self._slot_by_job):
            raise LocalFault("slots and the index of running jobs disagree")
        for slot in self._slots:
            if slot.job is None and (slot.pending is not None or slot.target):
                raise LocalFault(f"slot {slot.index} is free but has work")
            if slot.job is not None:
                self._check_running(slot, slot.job)
        reserved = self._reserved_tokens()
        if reserved > self.limits.cells_total:
            raise LocalFault(f"{reserved} cells reserved of {self.limits.cells_total}")
        self._memory.check_integrity()
        if any(self._queue.get(job_id) is None for job_id in self._awaited_by_job):
            raise LocalFault("a job that does not wait awaits a prefix")
        self._queue.check_integrity()

    def _check_running(self, slot: Slot, job: Job) -> None:
        if self._queue.get(job.job_id) is not None:
            raise LocalFault(f"job {job.job_id} runs and waits at once")
        if slot.pending is None:
            if slot.cells != slot.target[: len(slot.cells)] or len(slot.cells) >= len(slot.target):
                raise LocalFault(f"slot {slot.index} reads, but not its job's tokens")
            return
        known = job.known_tokens()
        if slot.cells != known[:-1] or slot.pending != known[-1]:
            raise LocalFault(f"slot {slot.index} holds other tokens than its job's")
