"""What one reading does to what is known of its pair: evidence, stage, suspects, and what is to be read
twice.

Rules 4 and 5 of `checks`. Evidence of first and of second readings is kept apart: the first accuses, with the
error bound of its e-process; the second only guards against a fault of our own, such as a broken engine or a
bad memory, and so is made on other settings and of the heaviest answers alone. A pair is convicted when the
first is enough and the second, by itself, is enough too.
"""

from dataclasses import dataclass, replace

from unhosted.market.ids import RequestId
from unhosted.node.core.checks_words import (
    SUSPECTS_MAX,
    CheckDone,
    CountPrompt,
    Effect,
    Findings,
    Job,
    MakeEvidence,
    Pair,
    Record,
    StageChanged,
    Suspect,
    Tell,
)
from unhosted.verify.eprocess import EvidenceState, add_answer, log10_e_milli, peak_log10_e_milli
from unhosted.verify.hard_checks import proofs
from unhosted.verify.selection import History
from unhosted.verify.verdicts import RAISED_AT_MILLI, Stage, explain, next_stage, response_of

PROOF_WEIGHT_NNAT = 1 << 60
"""An answer with a proof weighs more than any evidence."""

REPEATED = "read, but not counted: its prompt was counted before"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """to_confirm: suspects to be read a second time."""

    pair: Pair
    effects: tuple[Effect, ...] = ()
    to_confirm: tuple[Job, ...] = ()


def with_receipt(pair: Pair, due_micros: int, now_ns: int) -> Pair:
    """After a receipt came, checked or not."""
    history = pair.history
    counted = replace(history, receipts=history.receipts + 1, due_micros=history.due_micros + due_micros)
    return replace(pair, history=counted, changed_ns=now_ns)


def after_reading(pair: Pair, job: Job, done: CheckDone, *, now_ns: int, is_more_coming: bool) -> Outcome:
    """is_more_coming: whether other second readings of the pair wait or run."""
    pair = replace(pair, changed_ns=now_ns)
    if job.is_second:
        return _after_second(pair, job, done.findings, is_more_coming=is_more_coming)
    outcome = _after_first(pair, replace(job, is_repeat=done.is_repeat), done.findings)
    if done.is_repeat or _adds(done.findings):
        counted = CountPrompt(pair=job.pair, prompt=done.prompt)
        return replace(outcome, effects=(*outcome.effects, counted))
    return outcome


def without_confirmation(pair: Pair, job: Job, why: str, *, is_more_coming: bool) -> Outcome:
    """A second reading was given up, for a reason of ours."""
    pair = _read_twice(pair, job.request_id)
    if is_more_coming or pair.stage is Stage.CONVICT:
        return Outcome(pair=pair)
    return Outcome(pair=pair, effects=(_not_confirmed(pair, job, why),))


def sentence(pair: Pair) -> str:
    """What is known of the pair, for the user."""
    words = explain(
        pair.stage,
        tokens=pair.evidence.tokens,
        mismatches=pair.evidence.mismatches,
        log10_e_milli=log10_e_milli(pair.evidence),
        is_gross=pair.is_gross,
        faults=(pair.proof,) if pair.proof else (),
    )
    unjudged = pair.history.checked_tokens - pair.evidence.tokens
    if unjudged > 0:
        words += (
            f" {unjudged:,} tokens could not be judged: the noise between the seller's engine and this one"
            " was never measured; `unhosted calibrate` does."
        )
    return words


def is_accused(pair: Pair) -> bool:
    """Whether first readings alone would convict."""
    return bool(pair.proof) or peak_log10_e_milli(pair.evidence) >= RAISED_AT_MILLI[Stage.CONVICT]


def _adds(findings: Findings) -> bool:
    return findings.table is not None and findings.seen.tokens > 0


def _after_first(pair: Pair, job: Job, findings: Findings) -> Outcome:
    seen, proven = findings.seen, proofs(findings.faults)
    before = pair.stage
    pair = replace(pair, proof=pair.proof or (proven[0] if proven else ""))
    weight_nnat = PROOF_WEIGHT_NNAT if proven else 0
    if findings.table is not None and not job.is_repeat:
        pair = replace(
            pair,
            evidence=add_answer(pair.evidence, findings.table, seen),
            is_gross=findings.table.is_gross,
        )
        weight_nnat = max(weight_nnat, add_answer(EvidenceState(), findings.table, seen).log_e_nnat)
    pair = replace(
        pair, stage=_unconfirmed_stage(pair), suspects=_with_suspect(pair.suspects, job, weight_nnat)
    )
    if not job.is_repeat:  # what is no evidence ends no probation either
        pair = replace(pair, history=_checked(pair, before, seen.tokens, is_ok=not findings.faults))
    record = Record(
        request_id=job.request_id,
        pair=job.pair,
        status="faulty" if proven else "checked",
        why=" ".join(fault.sentence for fault in findings.faults) or _uncounted(job, findings),
        how=job.how,
        chance_ppm=job.chance_ppm,
        tokens=seen.tokens,
        mismatches=seen.mismatches,
        log10_e_milli=log10_e_milli(pair.evidence),
    )
    to_confirm: tuple[Job, ...] = ()
    if is_accused(pair) and pair.stage is not Stage.CONVICT:
        to_confirm = tuple(one.job for one in pair.suspects if not one.is_read_twice)
    return Outcome(pair=pair, effects=(record, *_changed(pair, job, before)), to_confirm=to_confirm)


def _after_second(pair: Pair, job: Job, findings: Findings, *, is_more_coming: bool) -> Outcome:
    proven, before = proofs(findings.faults), pair.stage
    pair = replace(
        _read_twice(pair, job.request_id),
        proof_confirmed=pair.proof_confirmed or (proven[0] if proven else ""),
    )
    if findings.table is not None and not job.is_repeat:
        pair = replace(pair, confirming=add_answer(pair.confirming, findings.table, findings.seen))
    if before is Stage.CONVICT:
        return Outcome(pair=pair)
    if is_accused(pair) and _is_confirmed(pair):
        pair = replace(pair, stage=Stage.CONVICT)
        request_ids = tuple(one.job.request_id for one in pair.suspects)
        made = MakeEvidence(pair=job.pair, request_ids=request_ids)
        return Outcome(pair=pair, effects=(*_changed(pair, job, before), made))
    if is_more_coming:
        return Outcome(pair=pair)
    return Outcome(pair=pair, effects=(_not_confirmed(pair, job, "the second readings say less"),))


def _is_confirmed(pair: Pair) -> bool:
    is_enough = peak_log10_e_milli(pair.confirming) >= RAISED_AT_MILLI[Stage.CONVICT]
    return is_enough or bool(pair.proof and pair.proof_confirmed)


def _unconfirmed_stage(pair: Pair) -> Stage:
    """What first readings alone may bring a pair to: never further than to be held."""
    if pair.stage is Stage.CONVICT:
        return Stage.CONVICT
    reached = next_stage(
        pair.stage,
        log10_e_milli=log10_e_milli(pair.evidence),
        peak_log10_e_milli=peak_log10_e_milli(pair.evidence),
        is_proven=bool(pair.proof),
    )
    return min(reached, Stage.HOLD)


def _checked(pair: Pair, before: Stage, tokens: int, *, is_ok: bool) -> History:
    """Clean checks count from zero again whenever suspicion rises."""
    history, has_risen = pair.history, pair.stage > before
    return replace(
        history,
        checked=history.checked + 1,
        checked_tokens=history.checked_tokens + tokens,
        checked_ok=0 if has_risen else history.checked_ok + is_ok,
    )


def _with_suspect(suspects: tuple[Suspect, ...], job: Job, weight_nnat: int) -> tuple[Suspect, ...]:
    """The heaviest ones, with this one if it is among them; equal ones stay in the order that they came."""
    if weight_nnat <= 0:
        return suspects
    every = (*suspects, Suspect(job=job, weight_nnat=weight_nnat))
    return tuple(sorted(every, key=lambda one: -one.weight_nnat)[:SUSPECTS_MAX])


def _read_twice(pair: Pair, request_id: RequestId) -> Pair:
    suspects = tuple(
        replace(one, is_read_twice=True) if one.job.request_id == request_id else one for one in pair.suspects
    )
    return replace(pair, suspects=suspects)


def _changed(pair: Pair, job: Job, before: Stage) -> tuple[Effect, ...]:
    if pair.stage is before:
        return ()
    response = response_of(pair.stage)
    words = sentence(pair)
    return (StageChanged(pair=job.pair, before=before, after=pair.stage, response=response, why=words),)


def _not_confirmed(pair: Pair, job: Job, why: str) -> Tell:
    return Tell(
        pair=job.pair,
        text=f"evidence against {job.pair.seller} is not confirmed ({why}): its pay stays held and nothing is"
        " claimed; `unhosted doctor` checks this machine, more answers decide",
    )


def _uncounted(job: Job, findings: Findings) -> str:
    if job.is_repeat:
        return REPEATED
    return "" if findings.table is not None else "read, but not judged: the noise was never measured"
