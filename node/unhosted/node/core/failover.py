"""One request on its way over several servers: whom to try, when to try another, how to go on in mid-stream.

The rules:
- One attempt runs at a time. The next one begins when it fails, and is given what the client already has, so
  that nothing is delivered twice or lost.
- A peer that does not accept soon is left for the next one; with nobody else to ask it is waited for.
- If the first token is late by the server's own record, one more attempt runs beside it, at most once per
  request, never at a server that would have to let it queue, and never for money. The first of the two that
  delivers goes on alone; the other one is cancelled.
- After the first delta the attempt streams alone and nothing is said here until it ends: that keeps the cost
  of a token out of this file. Silence in mid-stream is noticed by the link, which then fails the attempt.
- A refusal that lies with the request ends it at once. One that lies with the server moves on.
- When nobody else is left, a server that had accepted and was lost is tried again: its link may come back.

Not handled here: who is best (`core.routing`), and what the failures mean for the next request
(`core.health`).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import assert_never

from unhosted.node.core.errors import Code, LocalFault, Refused
from unhosted.node.core.failover_words import (
    Accepted,
    Attempt,
    Begun,
    Cancel,
    Effect,
    Event,
    Failed,
    Failure,
    Finished,
    FirstDelta,
    GiveUp,
    Planned,
    Replan,
    Result,
    Session,
    Start,
    Stream,
    TimePassed,
)
from unhosted.node.core.inference import Usage
from unhosted.node.core.routing import LOCAL, Choice

ATTEMPTS_MAX = 8
"""Of one request. Each may cost up to two seconds, and a client has given up by then."""

TRIES_PER_SERVER_MAX = 3
"""The first one and two after a lost link."""

RETRY_PAUSES_NS = (500_000_000, 1_500_000_000)
"""Before each further try of the same server: a link that was reset is back in tenths of a second, a Wi-Fi
that changed its access point in one or two."""

ACCEPT_NS = 1_800_000_000
"""A peer accepts in milliseconds; with this a dead one costs less than two seconds."""

ACCEPT_LOADING_NS = 60_000_000_000
"""A model that is not loaded is loaded before the request is accepted; the link watches over the peer."""

ACCEPT_LAST_NS = 120_000_000_000
"""With nobody else to ask. A machine may be so busy; the link says if it is dead."""

CLIENTS_FAULT: frozenset[Code] = frozenset({"invalid_request"})
"""Every server would say so. The context's length differs between servers, see `_is_hopeless`."""


def step(state: Session, event: Event, now_ns: int) -> Result:
    """The session after one event, and what is to be done, in order.

    What an attempt says after it was cancelled is ignored. Raises: LocalFault if a rule above is broken.
    """
    if state.outcome != "open":
        return state, ()
    match event:
        case Begun():
            result = _start_next(state, now_ns)
        case Planned(choices=choices):
            result = _start_next(replace(state, choices=choices), now_ns)
        case TimePassed():
            result = _time_passed(state, now_ns)
        case Accepted(number=number):
            result = _accepted(state, number)
        case FirstDelta():
            result = _first_delta(state, event)
        case Finished(number=number, tokens=tokens):
            result = _finished(state, number, tokens)
        case Failed():
            result = _failed(state, event)
        case _:
            assert_never(event)
    check_session(result[0])
    return result


def next_deadline_ns(state: Session) -> int | None:
    """When `TimePassed` is due; None while nothing but an event can change anything."""
    deadlines = [attempt.deadline_ns for attempt in state.live if attempt.deadline_ns is not None]
    if state.retry is not None:
        deadlines.append(state.retry[1])
    return min(deadlines, default=None)


def check_session(state: Session) -> None:
    """Raises: LocalFault."""
    if len(state.live) > 2 or (len(state.live) == 2 and not state.hedged):
        raise LocalFault(f"{len(state.live)} attempts at once")
    if state.attempts > ATTEMPTS_MAX:
        raise LocalFault(f"{state.attempts} attempts, at most {ATTEMPTS_MAX}")
    if len(state.live) == 2 and any(attempt.phase == "streaming" for attempt in state.live):
        raise LocalFault("an attempt streams beside another one")
    for attempt in state.live:
        if attempt.phase != "streaming" and attempt.resume_from != state.delivered:
            raise LocalFault(f"began after {attempt.resume_from} tokens, {state.delivered} are delivered")
    if state.outcome != "open" and state.live:
        raise LocalFault(f"{len(state.live)} attempts are left of a session that is over")


def _start_next(state: Session, now_ns: int) -> Result:
    if state.live:
        raise LocalFault("another attempt is under way")
    if state.attempts >= ATTEMPTS_MAX:
        return _give_up(state)
    choice = next((one for one in state.choices if _tries(state, one) == 0), None)
    if choice is not None:
        return _start(state, choice, now_ns)
    again = next((one for one in state.failures if _may_try_again(state, one)), None)
    if again is None:
        return _give_up(state)
    pause_ns = RETRY_PAUSES_NS[_tries(state, again.choice) - 1]
    return replace(state, retry=(again.choice, now_ns + pause_ns)), ()


def _start(state: Session, choice: Choice, now_ns: int) -> Result:
    if choice.server == LOCAL:
        accept_ns = None  # the engine's own limits hold, and there is no link that could be dead
    else:
        accept_ns = now_ns + (ACCEPT_NS if choice.is_loaded else ACCEPT_LOADING_NS)
    attempt = Attempt(
        number=state.attempts,
        choice=choice,
        phase="opening",
        resume_from=state.delivered,
        started_at_ns=now_ns,
        deadline_ns=accept_ns,
    )
    after = replace(state, live=(*state.live, attempt), attempts=state.attempts + 1, retry=None)
    return after, (Start(attempt.number, choice, state.delivered),)


def _accepted(state: Session, number: int) -> Result:
    attempt = _find(state, number)
    if attempt is None:
        return state, ()
    may_be_late = not state.hedged and state.delivered == 0
    late_at_ns = attempt.started_at_ns + attempt.choice.late_after_ns if may_be_late else None
    return _with(state, replace(attempt, phase="waiting", deadline_ns=late_at_ns)), ()


def _first_delta(state: Session, event: FirstDelta) -> Result:
    attempt = _find(state, event.number)
    if attempt is None:
        return state, ()
    losers = tuple(Cancel(other.number) for other in state.live if other is not attempt)
    answered = state.answered
    if not answered or answered[-1].server != attempt.choice.server:
        answered = (*answered, attempt.choice)
    after = replace(
        state,
        live=() if event.is_last else (replace(attempt, phase="streaming", deadline_ns=None),),
        answered=answered,
        delivered=state.delivered + event.tokens,
        outcome="answered" if event.is_last else "open",
    )
    return after, (*losers, Stream(event.number))


def _finished(state: Session, number: int, tokens: int) -> Result:
    if _find(state, number) is None:
        return state, ()
    return replace(state, live=(), delivered=state.delivered + tokens, outcome="answered"), ()


def _failed(state: Session, event: Failed) -> Result:
    attempt = _find(state, event.number)
    if attempt is None:
        return state, ()
    delivered = state.delivered + event.tokens
    failure = Failure(
        choice=attempt.choice,
        reason=event.reason,
        refused=event.refused,
        accepted=attempt.phase != "opening",
        delivered=delivered,
    )
    after = replace(
        state,
        live=tuple(other for other in state.live if other is not attempt),
        failures=(*state.failures, failure),
        delivered=delivered,
    )
    if after.live:
        return after, ()  # the other one of two goes on
    if _is_hopeless(after, failure):
        return _give_up(after)
    return after, (Replan(),)


def _time_passed(state: Session, now_ns: int) -> Result:
    if state.retry is not None and now_ns >= state.retry[1]:
        return _start(state, state.retry[0], now_ns)
    due = [one for one in state.live if one.deadline_ns is not None and now_ns >= one.deadline_ns]
    effects: tuple[Effect, ...] = ()
    for attempt in due:
        if attempt.phase == "opening":
            state, more = _not_accepted(state, attempt, now_ns)
        else:
            state, more = _late(state, attempt, now_ns)
        effects += more
    return state, effects


def _not_accepted(state: Session, attempt: Attempt, now_ns: int) -> Result:
    waited_ns = now_ns - attempt.started_at_ns
    others = [one for one in state.choices if _tries(state, one) == 0]
    if not others and len(state.live) == 1 and waited_ns < ACCEPT_LAST_NS:
        patient = replace(attempt, deadline_ns=attempt.started_at_ns + ACCEPT_LAST_NS)
        return _with(state, patient), ()
    reason = f"did not accept the request within {waited_ns / 1e9:.1f} s"
    busy = Refused("overloaded", f"{attempt.choice.name} {reason}; ask again later", retry_after_s=5)
    after, effects = _failed(state, Failed(attempt.number, reason, busy))
    return after, (Cancel(attempt.number), *effects)


def _late(state: Session, attempt: Attempt, now_ns: int) -> Result:
    """One more attempt beside the late one, if somebody can start at once."""
    waiting = _with(state, replace(attempt, deadline_ns=None))
    other = next(
        (
            one
            for one in state.choices
            if _tries(state, one) == 0 and one.can_start_now and not one.on_trial and one.ring != "public"
        ),
        None,
    )
    if state.hedged or other is None or len(state.live) > 1 or state.attempts >= ATTEMPTS_MAX:
        return waiting, ()
    late = replace(other, reason=f"{attempt.choice.name} was late with its first token by its own record")
    return _start(replace(waiting, hedged=True), late, now_ns)


def _is_hopeless(state: Session, failure: Failure) -> bool:
    """Whether every other server would say the same. Once tokens came, the request itself was good."""
    if failure.refused is None or state.delivered > 0:
        return False
    if failure.refused.code == "context_length_exceeded":
        longer = (one for one in state.choices if one.context_tokens > failure.choice.context_tokens)
        return all(_tries(state, one) > 0 for one in longer)
    return failure.refused.code in CLIENTS_FAULT


def _may_try_again(state: Session, failure: Failure) -> bool:
    """It was there a moment ago, and nothing but its link failed; and it did not say no since."""
    server = failure.choice.server
    is_lost = failure.refused is None and failure.accepted and server != LOCAL
    said_no = any(one.choice.server == server and one.refused is not None for one in state.failures)
    return is_lost and not said_no and 0 < _tries(state, failure.choice) < TRIES_PER_SERVER_MAX


def _tries(state: Session, choice: Choice) -> int:
    tried = sum(failure.choice.server == choice.server for failure in state.failures)
    return tried + sum(attempt.choice.server == choice.server for attempt in state.live)


def _give_up(state: Session) -> Result:
    return replace(state, live=(), outcome="gave up"), (GiveUp(),)


def _find(state: Session, number: int) -> Attempt | None:
    return next((attempt for attempt in state.live if attempt.number == number), None)


def _with(state: Session, changed: Attempt) -> Session:
    live = tuple(changed if attempt.number == changed.number else attempt for attempt in state.live)
    return replace(state, live=live)


def final_refusal(state: Session, model_name: str) -> Refused:
    """What the client is told when nobody can go on: the one refusal there was, or all failures."""
    last = state.failures[-1]
    codes = {None if failure.refused is None else failure.refused.code for failure in state.failures}
    if last.refused is not None and state.delivered == 0 and (len(state.failures) == 1 or len(codes) == 1):
        waits = [one.refused.retry_after_s for one in state.failures if one.refused is not None]
        refused = _with_name(last.choice, last.refused)
        if len(state.failures) > 1:
            message = f"nobody can serve {model_name}: {_lines(state.failures)}"
            retry_after_s = min((wait for wait in waits if wait is not None), default=None)
            refused = Refused(refused.code, message, field=refused.field, retry_after_s=retry_after_s)
        return refused
    if state.failures and _is_hopeless(state, last) and last.refused is not None:
        return last.refused
    broke_off = f"the answer broke off after {state.delivered} tokens and " if state.delivered else ""
    return Refused(
        "no_provider",
        f"{broke_off}nobody can serve {model_name} now: {_lines(state.failures)}; next: ask again, or see: "
        f"unhosted peers",
        retry_after_s=1,
        details={"tried": [str(failure) for failure in state.failures], "delivered_tokens": state.delivered},
    )


def _with_name(choice: Choice, refused: Refused) -> Refused:
    """What a peer says of itself, as "this machine", is to be read on another one."""
    if choice.server == LOCAL or refused.code in CLIENTS_FAULT:
        return refused
    return Refused(
        refused.code,
        f"{choice.name}: {refused.message}",
        field=refused.field,
        retry_after_s=refused.retry_after_s,
        details=refused.details,
    )


def resumed_usage(usage: Usage, *, delivered: int) -> Usage:
    """The counts of an answer that went on elsewhere, from the last server's: to that one, what was delivered
    before is something to read, and may be cached."""
    return Usage(
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=min(usage.cached_tokens, usage.prompt_tokens),
        completion_tokens=delivered,
    )


def first_difference(ids_a: Sequence[int], ids_b: Sequence[int]) -> int | None:
    """The first position at which two runs of one request differ; None if they are equal.

    A run on another machine may flip a token within numeric noise: whoever compares counts and reports it.
    """
    for position, (left, right) in enumerate(zip(ids_a, ids_b, strict=False)):
        if left != right:
            return position
    return None if len(ids_a) == len(ids_b) else min(len(ids_a), len(ids_b))


def _lines(failures: Sequence[Failure]) -> str:
    return "; ".join(str(failure) for failure in failures)
