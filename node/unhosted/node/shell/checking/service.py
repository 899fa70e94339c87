"""The checking service: notices answers that were paid for, has them read when the engine is idle, and does
what the rules of `core.checks` want.

Two tasks. One looks for kept answers that were never drawn, draws, and marks what was decided; the other has
one batch at a time read. Every step of the rules is on the disk before its effects are performed, and those
that a crash may swallow are performed again at the next start: stages are told anew, evidence is made where
it is missing, marks are set. All of them may be repeated.
"""

import hashlib
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

import trio

from unhosted.market.ids import RequestId
from unhosted.node.core.checks_pairs import sentence
from unhosted.node.core.checks_queue import wake_at_ns
from unhosted.node.core.checks_words import (
    PROMPT_BYTES,
    BatchRead,
    CheckDone,
    CheckFailed,
    CheckWanted,
    Effect,
    Event,
    Findings,
    Forgiven,
    MakeEvidence,
    PairKey,
    Prompt,
    ReceiptCame,
    RunChecks,
    StageChanged,
    State,
    Status,
    Tell,
    TimePassed,
    ToRead,
)
from unhosted.node.core.errors import Refused
from unhosted.node.shell.checking.book import CheckBook
from unhosted.node.shell.checking.reading import NotRead
from unhosted.node.shell.checking.rows import CheckedLine
from unhosted.node.shell.money.kept_words import KeptAnswer
from unhosted.node.shell.money.paid_wire import pack_ids
from unhosted.verify.selection import ENTROPY_BYTES
from unhosted.verify.verdicts import Stage, response_of

_LOG = logging.getLogger(__name__)

NS_PER_S = 1_000_000_000

LOOK_EVERY_S = 60.0
"""Who keeps an answer says so; this is for answers that another process kept."""

PACE_TOKENS_MIN = 256
"""Of a batch that says how fast this machine reads: of less, starting is most."""

OUTCOMES: dict[Status, str] = {
    "not_drawn": "not drawn",
    "not_checked": "not checked",
    "checked": "checked",
    "faulty": "faulty",
}
"""What is marked at the kept answer."""


class Answers(Protocol):
    """Where answers are kept: `shell.money.kept_answers.KeptAnswers`."""

    async def next_unchecked(self, after: int = 0) -> tuple[int, KeptAnswer] | None: ...

    async def of_request(self, request_id: RequestId) -> KeptAnswer | None: ...

    async def mark_checked(
        self, request_id: RequestId, *, outcome: str, now_unix_s: int | None = None
    ) -> bool: ...


Read = Callable[[bytes, Sequence[tuple[KeptAnswer, ToRead]]], Awaitable[list[Findings | NotRead]]]
"""`reading.Reader.read`."""


Result = TypeVar("Result")
Done = TypeVar("Done")


async def _nothing(_: object) -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """What others do about it; each may be called again for the same thing after a crash. One that raises
    Refused has not done it, which is logged."""

    on_stage: Callable[[StageChanged], Awaitable[None]] = _nothing
    on_evidence: Callable[[MakeEvidence], Awaitable[None]] = _nothing
    on_told: Callable[[Tell], Awaitable[None]] = _nothing


class CheckingService:
    """Run it with `run`. book: open for as long; draw: fresh entropy; clock_ns: UTC."""

    def __init__(
        self,
        book: CheckBook,
        kept: Answers,
        read: Read,
        *,
        hooks: Hooks | None = None,
        clock_ns: Callable[[], int] = time.time_ns,
        draw: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._book, self._kept, self._read = book, kept, read
        self._hooks = hooks or Hooks()
        self._clock_ns, self._draw = clock_ns, draw
        self._drawn_to = 0
        self._lock = trio.Lock()
        self._noticed = trio.Event()
        self._changed = trio.Event()
        self._send_batch, self._batches = trio.open_memory_channel[RunChecks](1)

    @property
    def state(self) -> State:
        return self._book.state

    def stage_of(self, seller: str, model: bytes) -> Stage:
        """For the router, and for who authorises pay."""
        pair = self._book.state.pairs.get(PairKey(seller=seller, model=model))
        return Stage.CLEAR if pair is None else pair.stage

    def notice(self) -> None:
        """An answer was kept: look at once."""
        self._noticed.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled. Raises: Refused where the record cannot be written."""
        await self._tell_again()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read_batches)
            task_status.started()
            while True:
                self._noticed = trio.Event()
                await self._draw_new()
                await self._mark_decided()
                await self._happens(TimePassed())
                with trio.move_on_after(self._wait_s()):
                    await self._noticed.wait()

    async def want(self, answers: Sequence[KeptAnswer]) -> int:
        """Have these read now, drawn or not; those that were read before are left out. How many wait now."""
        count = 0
        for answer in answers:
            await self._draw_one(answer)
            await self._happens(
                CheckWanted(
                    request_id=answer.request_id,
                    pair=_pair(answer),
                    tokens_in=len(answer.prompt_ids),
                    tokens_out=len(answer.output_ids),
                    due_micros=answer.due_micros,
                    entropy=self._draw(ENTROPY_BYTES),
                )
            )
            count += answer.request_id in self._book.state.jobs
        self.notice()
        return count

    async def forgive(self, pair: PairKey) -> None:
        """Start again with a seller and model, as if nothing was known of them."""
        await self._happens(Forgiven(pair=pair))

    async def wait_read(self) -> None:
        """Until nothing waits that is due: what only the allowance or a retry holds back stays."""
        while True:
            changed = self._changed
            state, now_ns = self._book.state, self._clock_ns()
            due_ns = wake_at_ns(state, now_ns)
            if not state.running and (due_ns is None or due_ns > now_ns):
                return
            await changed.wait()

    # ---- drawing

    async def _draw_new(self) -> None:
        while (found := await self._kept.next_unchecked(self._drawn_to)) is not None:
            self._drawn_to, answer = found
            await self._draw_one(answer)
            line = await self._in_book(partial(self._book.line, answer.request_id))
            if line is not None and line.status != "waiting":
                await self._mark(line)

    async def _draw_one(self, answer: KeptAnswer) -> None:
        await self._happens(
            ReceiptCame(
                request_id=answer.request_id,
                pair=_pair(answer),
                tokens_in=len(answer.prompt_ids),
                tokens_out=len(answer.output_ids),
                due_micros=answer.due_micros,
                wish=answer.wish,
                entropy=self._draw(ENTROPY_BYTES),
            )
        )

    async def _mark_decided(self) -> None:
        while lines := await self._in_book(self._book.untold):
            for line in lines:
                await self._mark(line)
            await self._in_book(partial(self._book.told, [line.request_id for line in lines]))

    async def _mark(self, line: CheckedLine) -> None:
        outcome = OUTCOMES[line.status]
        await self._kept.mark_checked(line.request_id, outcome=outcome, now_unix_s=line.decided_unix_s)

    # ---- reading

    async def _read_batches(self) -> None:
        async for batch in self._batches:
            found: list[tuple[KeptAnswer, ToRead]] = []
            for read in batch.reads:
                answer = await self._kept.of_request(read.request_id)
                if answer is None:
                    await self._happens(_failed(read, "prompt and output are not kept any more"))
                else:
                    found.append((answer, read))
            begun_ns = self._clock_ns()
            results = await self._read(batch.model, found) if found else []
            await self._note_pace(batch.model, found, results, took_ns=self._clock_ns() - begun_ns)
            for (answer, read), result in zip(found, results, strict=True):
                if isinstance(result, NotRead):
                    await self._happens(_failed(read, result.why, may_retry=result.may_retry))
                else:
                    prompt = prompt_of(answer)
                    await self._happens(CheckDone(request_id=read.request_id, findings=result, prompt=prompt))
            self.notice()

    async def _note_pace(
        self,
        model: bytes,
        answers: Sequence[tuple[KeptAnswer, ToRead]],
        results: Sequence[Findings | NotRead],
        *,
        took_ns: int,
    ) -> None:
        """Of what was read whole. A clock that was set back says nothing."""
        tokens = sum(
            len(answer.prompt_ids) + result.seen.tokens
            for (answer, _), result in zip(answers, results, strict=True)
            if isinstance(result, Findings)
        )
        if tokens >= PACE_TOKENS_MIN and took_ns > 0:
            await self._happens(BatchRead(model=model, tokens_per_s=tokens * NS_PER_S // took_ns))

    # ---- steps

    async def _happens(self, event: Event) -> None:
        """One step, and its effects. Not cancelled in between: what was decided is done."""
        with trio.CancelScope(shield=True):
            effects = await self._in_book(lambda: self._book.apply(event, now_ns=self._clock_ns()))
            for effect in effects:
                await self._perform(effect)
        self._changed.set()
        self._changed = trio.Event()

    async def _in_book(self, work: Callable[[], Result]) -> Result:
        """In a thread, one at a time: the record is one connection."""
        async with self._lock:
            return await trio.to_thread.run_sync(work)

    async def _perform(self, effect: Effect) -> None:
        match effect:
            case RunChecks():
                self._send_batch.send_nowait(effect)
            case StageChanged():
                _LOG.warning(
                    "seller_stage seller=%s model=%s before=%s after=%s",
                    effect.pair.seller[-8:],
                    effect.pair.model.hex()[:8],
                    effect.before.name,
                    effect.after.name,
                )
                await _tolerantly(self._hooks.on_stage, effect)
            case MakeEvidence():
                await _tolerantly(self._hooks.on_evidence, effect)
            case Tell():
                _LOG.warning("seller_unconfirmed seller=%s", effect.pair.seller[-8:])
                await _tolerantly(self._hooks.on_told, effect)
            case _:
                pass  # a record or a prompt, which the step has written

    async def _tell_again(self) -> None:
        """What the process before may have decided and not done."""
        for key, pair in self._book.state.pairs.items():
            if pair.stage is Stage.CLEAR:
                continue
            changed = StageChanged(
                pair=key,
                before=pair.stage,
                after=pair.stage,
                response=response_of(pair.stage),
                why=sentence(pair),
            )
            await _tolerantly(self._hooks.on_stage, changed)
            if pair.stage is Stage.CONVICT:
                request_ids = tuple(one.job.request_id for one in pair.suspects)
                await _tolerantly(self._hooks.on_evidence, MakeEvidence(pair=key, request_ids=request_ids))

    def _wait_s(self) -> float:
        now_ns = self._clock_ns()
        due_ns = wake_at_ns(self._book.state, now_ns)
        return LOOK_EVERY_S if due_ns is None else min(LOOK_EVERY_S, max(0, due_ns - now_ns) / NS_PER_S)


def prompt_of(answer: KeptAnswer) -> Prompt:
    """What tells its prompt from others."""
    packed = pack_ids(answer.prompt_ids)
    return Prompt(hashlib.blake2b(packed, digest_size=PROMPT_BYTES).digest())


def _pair(answer: KeptAnswer) -> PairKey:
    return PairKey(seller=answer.seller, model=answer.model)


def _failed(read: ToRead, why: str, *, may_retry: bool = False) -> CheckFailed:
    return CheckFailed(request_id=read.request_id, why=why, may_retry=may_retry)


async def _tolerantly(hook: Callable[[Done], Awaitable[None]], effect: Done) -> None:
    try:
        await hook(effect)
    except Refused as refused:
        _LOG.error("check_hook_failed hook=%s code=%s", type(effect).__name__, refused.code)
