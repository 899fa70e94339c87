"""What is read next, when, and how deep: the order of the queue, and what reading may cost this machine.

Rules 2 and 3 of `checks`. A machine that reads a model slowly reads long answers up to a depth that is drawn,
so that one answer takes about `ANSWER_S` on average; every token is still reached with some chance.
"""

from collections.abc import Iterator
from dataclasses import replace

from unhosted.node.core.checks_words import (
    ATTEMPTS_MAX,
    BATCH_MAX,
    Job,
    PairKey,
    RunChecks,
    State,
    ToRead,
)
from unhosted.verify.selection import prefix_tokens

HOUR_NS = 3_600 * 1_000_000_000

RETRY_NS = 30 * 1_000_000_000
"""After a failure of ours, doubled each time: a full memory or an engine that restarts is over by then."""

ANSWER_S = 60
"""Of reading one answer's output, on average: nobody waits for it, but memory is taken meanwhile."""

ANSWER_TOKENS_MIN = 64
"""However slow the machine is: less says nothing."""

PACES_MAX = 64
"""Models whose speed is remembered, the newest ones."""


def start(state: State, now_ns: int) -> tuple[State, tuple[RunChecks, ...]]:
    """Begin the next readings, if none are under way and the allowance lasts."""
    if state.running:
        return state, ()
    first = next(_in_order(state, now_ns), None)
    if first is None:
        return state, ()
    left_tokens, chosen = state.left_tokens, list[Job]()
    for job in _in_order(state, now_ns):
        if job.pair.model != first.pair.model:
            continue
        cost = 0 if is_free(job) else _cost(state, job)
        if cost > left_tokens or len(chosen) == BATCH_MAX:
            break
        left_tokens -= cost
        chosen.append(replace(job, attempts=job.attempts + 1))
    if not chosen:
        return state, ()
    jobs = {**state.jobs, **{job.request_id: job for job in chosen}}
    running = frozenset(job.request_id for job in chosen)
    reads = tuple(
        ToRead(request_id=job.request_id, output_tokens=_depth(state, job), is_second=job.is_second)
        for job in chosen
    )
    state = replace(state, jobs=jobs, running=running, left_tokens=left_tokens)
    return state, (RunChecks(model=first.pair.model, reads=reads),)


def wake_at_ns(state: State, now_ns: int) -> int | None:
    """When something that waits can begin, if nothing else happens before; None while nothing can."""
    if state.running or not state.jobs:
        return None
    state = refilled(state, now_ns)
    times = [job.not_before_ns for job in state.jobs.values() if not _is_due(job, now_ns)]
    first = next(_in_order(state, now_ns), None)
    if first is not None:
        missing, per_hour = _cost(state, first) - state.left_tokens, state.limits.tokens_per_hour
        if is_free(first) or missing <= 0:
            times.append(now_ns)
        elif per_hour:
            times.append(now_ns - (-missing * HOUR_NS // per_hour))
    return min(times, default=None)


def with_pace(state: State, model: bytes, tokens_per_s: int) -> State:
    """After a batch: the model's speed here. A faster one is believed at once, a slower one by a quarter,
    since reading also waits for users and for the model to load."""
    known = state.paces.get(model, tokens_per_s)
    pace = max(tokens_per_s, (3 * known + tokens_per_s) // 4)
    others = [(one, value) for one, value in state.paces.items() if one != model]
    return replace(state, paces=dict([*others, (model, pace)][-PACES_MAX:]))


def refilled(state: State, now_ns: int) -> State:
    """With what the time since the last filling gave; a fraction of a token counts from the next one on."""
    per_hour, passed_ns = state.limits.tokens_per_hour, now_ns - state.filled_ns
    if not 0 <= passed_ns < HOUR_NS or not per_hour:
        left_tokens = per_hour if passed_ns >= HOUR_NS else state.left_tokens
        return replace(state, left_tokens=left_tokens, filled_ns=now_ns)
    gained = passed_ns * per_hour // HOUR_NS
    used_ns = -(-gained * HOUR_NS // per_hour)
    left_tokens = min(per_hour, state.left_tokens + gained)
    return replace(state, left_tokens=left_tokens, filled_ns=state.filled_ns + used_ns)


def is_free(job: Job) -> bool:
    """Whether it does not wait for the allowance."""
    return job.is_second or job.is_asked


def _in_order(state: State, now_ns: int) -> Iterator[Job]:
    """What is due, best first: by pair, then as the receipts came."""
    due = [job for job in state.jobs.values() if _is_due(job, now_ns)]
    waiting_micros: dict[PairKey, int] = {}
    for job in due:
        waiting_micros[job.pair] = waiting_micros.get(job.pair, 0) + job.due_micros
    return iter(
        sorted(
            due,
            key=lambda job: (
                not is_free(job),
                -state.pairs[job.pair].stage,
                -waiting_micros[job.pair],
                job.pair,
                job.order,
            ),
        )
    )


def _is_due(job: Job, now_ns: int) -> bool:
    """Also when the clock was set back behind what it waits for."""
    return not now_ns < job.not_before_ns <= now_ns + (RETRY_NS << ATTEMPTS_MAX)


def _depth(state: State, job: Job) -> int:
    pace = state.paces.get(job.pair.model)
    budget_tokens = state.limits.answer_tokens
    if pace is not None:
        budget_tokens = min(budget_tokens, max(ANSWER_TOKENS_MIN, pace * ANSWER_S))
    return prefix_tokens(job.tokens_out, job.entropy, budget_tokens=budget_tokens)


def _cost(state: State, job: Job) -> int:
    """In tokens of the allowance. One that is larger than an hour's waits for a full one, not for ever."""
    return max(1, min(job.tokens_in + _depth(state, job), state.limits.tokens_per_hour))
