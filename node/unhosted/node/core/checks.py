"""The rules of checking: which receipts are read again, in what order, and what follows from it.

1. A receipt is drawn when it comes, once (`verify.selection`). What is drawn waits for an idle engine.
2. Pairs under suspicion go first, then those with most money waiting; within a pair, in the order of its
   receipts, because evidence must not be added in an order that its content chose.
3. Checking costs this machine a bounded number of tokens an hour, saved up to an hour's worth. What the user
   asked for by hand, and second readings, do not wait for that.
4. A reading adds to the pair's evidence, once for each receipt and once for each prompt. Evidence raises
   and lowers the stage (`verify.verdicts`): check more, then hold pay and route elsewhere.
5. Nobody is convicted by one reading: when the evidence is there, the answers that weigh most are read again
   on other settings, and only when the second readings alone say the same, evidence is made. Until then the
   pair is held.
6. A check that fails for a reason of ours is tried again a few times, then recorded as not checked. It never
   changes evidence, stage or history.

Not handled: whose money is held, how evidence is written, what a reading is made of. Time and entropy come
in with the events. Every step ends with `check_state`.
"""

from dataclasses import replace
from typing import assert_never

from unhosted.market.ids import RequestId
from unhosted.node.core import checks_pairs as pairs
from unhosted.node.core.checks_queue import RETRY_NS, is_free, refilled, start, with_pace
from unhosted.node.core.checks_words import (
    ATTEMPTS_MAX,
    BATCH_MAX,
    JOBS_MAX,
    PAIRS_MAX,
    BatchRead,
    CheckDone,
    CheckFailed,
    CheckWanted,
    Effect,
    Event,
    Forgiven,
    How,
    Job,
    Pair,
    PairKey,
    ReceiptCame,
    Record,
    StageChanged,
    State,
    TimePassed,
)
from unhosted.node.core.errors import LocalFault
from unhosted.verify.selection import PPM, is_drawn, rate_ppm
from unhosted.verify.verdicts import Stage, response_of

Step = tuple[State, tuple[Effect, ...]]


def step(state: State, event: Event, now_ns: int) -> Step:
    """What follows from an event, and what is to be done. now_ns: UTC; a clock that is set back harms
    little."""
    effects: tuple[Effect, ...]
    match event:
        case ReceiptCame():
            state, effects = _on_receipt(state, event, now_ns)
        case CheckWanted():
            state, effects = _on_wanted(state, event, now_ns)
        case CheckDone():
            state, effects = _on_done(state, event, now_ns)
        case CheckFailed():
            state, effects = _on_failed(state, event, now_ns)
        case BatchRead():
            state, effects = with_pace(state, event.model, event.tokens_per_s), ()
        case Forgiven():
            state, effects = _on_forgiven(state, event, now_ns)
        case TimePassed():
            effects = ()
        case _:
            assert_never(event)
    state, started = start(refilled(state, now_ns), now_ns)
    check_state(state)
    return state, (*effects, *started)


def check_state(state: State) -> None:
    """Raises: LocalFault if what must always hold does not."""
    if not state.running <= state.jobs.keys():
        raise LocalFault("a check runs for a receipt that is not among the jobs")
    if len(state.running) > BATCH_MAX or len(state.jobs) > JOBS_MAX or len(state.pairs) > PAIRS_MAX:
        raise LocalFault(
            f"{len(state.running)} checks run, {len(state.jobs)} wait, {len(state.pairs)} pairs:"
            f" at most {BATCH_MAX}, {JOBS_MAX}, {PAIRS_MAX}"
        )
    if len({state.jobs[one].pair.model for one in state.running}) > 1:
        raise LocalFault("answers of two models are read together")
    for key in {job.pair for job in state.jobs.values()}:
        if key not in state.pairs:
            raise LocalFault(f"a receipt of {key.seller} waits, and nothing is known of its pair")


# ---- events


def _on_receipt(state: State, event: ReceiptCame, now_ns: int) -> Step:
    if event.request_id in state.jobs:
        return state, ()
    pair = state.pairs.get(event.pair) or Pair(changed_ns=now_ns)
    if event.tokens_out == 0:
        return state, (_not_drawn(event, "drawn", 0, "no token of it came"),)
    chance_ppm = rate_ppm(pair.history, pair.stage, due_micros=event.due_micros, wish=event.wish)
    how: How = "always" if event.wish == "always" else "drawn"
    if pair.history.is_on_probation and event.wish == "auto":
        how = "probation"
    state = _with_pair(state, event.pair, pairs.with_receipt(pair, event.due_micros, now_ns))
    if not is_drawn(chance_ppm, event.entropy):
        why = "you asked for none" if event.wish == "never" else f"not drawn, at {chance_ppm / PPM:.1%}"
        return state, (_not_drawn(event, how, chance_ppm, why),)
    return _enqueue(state, _job(state, event, how=how, chance_ppm=chance_ppm))


def _not_drawn(event: ReceiptCame, how: How, chance_ppm: int, why: str) -> Record:
    return Record(
        request_id=event.request_id,
        pair=event.pair,
        status="not_drawn",
        why=why,
        how=how,
        chance_ppm=chance_ppm,
    )


def _on_wanted(state: State, event: CheckWanted, now_ns: int) -> Step:
    waiting = state.jobs.get(event.request_id)
    if waiting is not None:
        if event.request_id in state.running:
            return state, ()
        return _with_job(state, replace(waiting, is_asked=True, attempts=0, not_before_ns=0)), ()
    if event.tokens_out == 0:
        return state, ()
    pair = state.pairs.get(event.pair) or Pair(changed_ns=now_ns)
    state = _with_pair(state, event.pair, pair)
    return _enqueue(state, _job(state, event, how="asked", chance_ppm=PPM))


def _on_done(state: State, event: CheckDone, now_ns: int) -> Step:
    if event.request_id not in state.running:
        return state, ()  # of a batch that was given up: a receipt counts once
    job, state = state.jobs[event.request_id], _without_job(state, event.request_id)
    pair = state.pairs[job.pair]
    outcome = pairs.after_reading(
        pair, job, event, now_ns=now_ns, is_more_coming=_has_second(state, job.pair)
    )
    state = _with_pair(state, job.pair, outcome.pair)
    effects = list(outcome.effects)
    for suspect in outcome.to_confirm:
        if suspect.request_id in state.jobs:
            continue
        second = replace(suspect, is_second=True, attempts=0, not_before_ns=0, order=state.order + 1)
        state, dropped = _enqueue(state, second)
        effects += dropped
    if outcome.pair.stage is Stage.CONVICT and pair.stage is not Stage.CONVICT:
        state = _without_seconds(state, job.pair)
    return state, tuple(effects)


def _on_forgiven(state: State, event: Forgiven, now_ns: int) -> Step:
    pair = state.pairs.get(event.pair)
    if pair is None:
        return state, ()
    state = _with_pair(_without_seconds(state, event.pair), event.pair, Pair(changed_ns=now_ns))
    if pair.stage is Stage.CLEAR:
        return state, ()
    why = "you started again with it: its answers are all checked at first, as a new seller's"
    changed = StageChanged(
        pair=event.pair,
        before=pair.stage,
        after=Stage.CLEAR,
        response=response_of(Stage.CLEAR),
        why=why,
    )
    return state, (changed,)


def _on_failed(state: State, event: CheckFailed, now_ns: int) -> Step:
    if event.request_id not in state.running:
        return state, ()
    job = state.jobs[event.request_id]
    if event.may_retry and job.attempts < ATTEMPTS_MAX:
        later = replace(job, not_before_ns=now_ns + (RETRY_NS << (job.attempts - 1)))
        return replace(_with_job(state, later), running=state.running - {job.request_id}), ()
    return _given_up(_without_job(state, job.request_id), job, event.why)


# ---- the queue


def _job(state: State, event: ReceiptCame | CheckWanted, *, how: How, chance_ppm: int) -> Job:
    return Job(
        request_id=event.request_id,
        pair=event.pair,
        tokens_in=event.tokens_in,
        tokens_out=event.tokens_out,
        due_micros=event.due_micros,
        how=how,
        chance_ppm=chance_ppm,
        is_asked=isinstance(event, CheckWanted),
        entropy=event.entropy,
        order=state.order + 1,
    )


def _enqueue(state: State, job: Job) -> Step:
    """With the job; where the queue is full, without the one that is worth least, which may be this one."""
    effects: tuple[Effect, ...] = ()
    if not job.is_second:
        record = Record(
            request_id=job.request_id,
            pair=job.pair,
            status="waiting",
            why="",
            how=job.how,
            chance_ppm=job.chance_ppm,
        )
        effects = (record,)
    state = _with_job(replace(state, order=max(state.order, job.order)), job)
    if len(state.jobs) <= JOBS_MAX:
        return state, effects
    least = min(
        (one for one in state.jobs.values() if one.request_id not in state.running),
        key=lambda one: (one.is_second, is_free(one), one.due_micros, -one.order),
    )
    state, given_up = _given_up(
        _without_job(state, least.request_id), least, f"{JOBS_MAX} others that are worth more wait"
    )
    return state, (*effects, *given_up)


def _given_up(state: State, job: Job, why: str) -> Step:
    if job.is_second:
        # The first reading stands and counts; it is only not confirmed.
        is_more_coming = _has_second(state, job.pair)
        outcome = pairs.without_confirmation(state.pairs[job.pair], job, why, is_more_coming=is_more_coming)
        return _with_pair(state, job.pair, outcome.pair), outcome.effects
    record = Record(
        request_id=job.request_id,
        pair=job.pair,
        status="not_checked",
        why=why,
        how=job.how,
        chance_ppm=job.chance_ppm,
    )
    return state, (record,)


def _without_seconds(state: State, key: PairKey) -> State:
    """Without second readings that wait; those that run end by themselves."""
    jobs = {
        request_id: job
        for request_id, job in state.jobs.items()
        if request_id in state.running or not (job.is_second and job.pair == key)
    }
    return replace(state, jobs=jobs)


def _has_second(state: State, key: PairKey) -> bool:
    return any(job.is_second and job.pair == key for job in state.jobs.values())


# ---- the state's maps


def _with_job(state: State, job: Job) -> State:
    return replace(state, jobs={**state.jobs, job.request_id: job})


def _without_job(state: State, request_id: RequestId) -> State:
    jobs = {key: job for key, job in state.jobs.items() if key != request_id}
    return replace(state, jobs=jobs, running=state.running - {request_id})


def _with_pair(state: State, key: PairKey, pair: Pair) -> State:
    """With it; where there are too many, without one that is clear, waits for nothing and was quiet
    longest."""
    changed = {**state.pairs, key: pair}
    if len(changed) > PAIRS_MAX:
        busy = {job.pair for job in state.jobs.values()} | {key}
        quiet = [one for one in changed if one not in busy]
        oldest = min(quiet, key=lambda one: (changed[one].stage, changed[one].changed_ns))
        del changed[oldest]
    return replace(state, pairs=changed)
