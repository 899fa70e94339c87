"""The rules of checking: who is read, in what order, and what it takes to convict."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.node.checking.checks_world import (
    MODEL,
    PAIR,
    PROOF,
    Bounds,
    World,
    came,
    cheated,
    clean,
    request_id,
    seen,
    wanted,
)
from unhosted.node.core.checks_pairs import is_accused, sentence
from unhosted.node.core.checks_queue import RETRY_NS, wake_at_ns
from unhosted.node.core.checks_words import (
    ATTEMPTS_MAX,
    PROMPT_BYTES,
    Findings,
    Forgiven,
    PairKey,
    TimePassed,
)
from unhosted.verify.eprocess import EvidenceState, log10_e_milli
from unhosted.verify.selection import History
from unhosted.verify.verdicts import Stage

NEVER = b"\xff" * 32
"""Entropy that is drawn at no chance below 1."""


def convicted_world() -> World:
    world = World()
    number = 0
    while not world.evidence:
        if not world.reads:
            world.happens(came(number))
            number += 1
        world.done(cheated())
        assert number < 20
    return world


def test_answers_of_a_new_seller_are_all_read_and_counted_as_clean() -> None:
    world = World()
    for number in range(10):
        world.happens(came(number, entropy=NEVER))
        world.done(clean())
        record = world.last(number)
        assert (record.status, record.how, record.tokens, record.mismatches) == (
            "checked",
            "probation",
            50,
            0,
        )
    pair = world.state.pairs[PAIR]
    assert pair.history == History(
        checked=10, checked_tokens=500, checked_ok=10, receipts=10, due_micros=1_000
    )
    world.happens(came(10, entropy=NEVER))
    assert world.last(10).status == "not_drawn"
    assert not world.reads
    assert not world.changes
    assert "no more than rounding explains" in sentence(pair)


def test_what_the_buyer_said_of_one_request_is_done() -> None:
    world = World()
    world.happens(came(0, wish="never"))
    assert (world.last(0).status, world.last(0).why) == ("not_drawn", "you asked for none")
    world.state = replace(world.state, pairs={PAIR: replace(world.state.pairs[PAIR], history=settled())})
    world.happens(came(1, wish="always", entropy=NEVER))
    assert world.last(1).how == "always"
    assert len(world.reads) == 1


def settled() -> History:
    return History(checked=10_000, checked_tokens=500_000, checked_ok=10_000)


def test_a_receipt_counts_once_however_often_it_is_told() -> None:
    world = World()
    world.happens(came(0))
    world.happens(came(0))
    world.happens(wanted(0))
    assert len(world.state.jobs) == 1
    assert world.state.pairs[PAIR].history.receipts == 1
    read = world.done(clean())
    before = world.state
    world.reads.append(read)
    world.done(clean())
    world.reads.append(read)
    world.failed(may_retry=True)
    assert world.state == before


def test_a_cheat_is_held_by_first_readings_and_convicted_by_second_ones_alone() -> None:
    world = World()
    number = 0
    while not is_accused(world.state.pairs[PAIR]) if world.state.pairs else True:
        world.happens(came(number))
        world.done(cheated())
        number += 1
    pair = world.state.pairs[PAIR]
    assert pair.stage is Stage.HOLD
    assert log10_e_milli(pair.evidence) >= 6_000
    assert world.changes[-1].after is Stage.HOLD
    assert world.changes[-1].response.holds_pay
    assert world.changes[-1].response.is_avoided
    assert not world.evidence, "one reading makes no evidence"
    assert all(read.is_second for read in world.reads)
    while world.reads:
        world.done(cheated())
    pair = world.state.pairs[PAIR]
    assert pair.stage is Stage.CONVICT
    assert [one.pair for one in world.evidence] == [PAIR]
    assert set(world.evidence[0].request_ids) == {request_id(one) for one in range(number)}
    assert not world.told
    assert not world.state.jobs


def test_nobody_is_convicted_where_the_second_readings_say_otherwise() -> None:
    world = World()
    number = 0
    while not any(read.is_second for read in world.reads):
        world.happens(came(number))
        world.done(cheated())
        number += 1
    while world.reads:
        world.done(clean())
    pair = world.state.pairs[PAIR]
    assert pair.stage is Stage.HOLD
    assert not world.evidence
    assert [one.pair for one in world.told] == [PAIR]
    assert "not confirmed" in world.told[0].text
    assert pair.confirming.tokens == 50 * number


def test_second_readings_that_fail_here_convict_nobody_and_take_nothing_back() -> None:
    world = World()
    number = 0
    while not any(read.is_second for read in world.reads):
        world.happens(came(number))
        world.done(cheated())
        number += 1
    evidence = world.state.pairs[PAIR].evidence
    while world.reads:
        world.failed(may_retry=False, why="the model is gone")
    pair = world.state.pairs[PAIR]
    assert (pair.stage, pair.evidence, pair.confirming) == (Stage.HOLD, evidence, EvidenceState())
    assert "the model is gone" in world.told[-1].text
    assert not world.evidence


def test_a_proof_holds_at_once_and_convicts_when_it_is_read_twice() -> None:
    world = World()
    world.happens(came(0))
    world.done(Findings(check="statistical", seen=seen(50), faults=(PROOF,)))
    assert world.last(0).status == "faulty"
    assert world.state.pairs[PAIR].stage is Stage.HOLD
    assert not world.evidence
    world.done(Findings(check="statistical", seen=seen(50), faults=(PROOF,)))
    assert world.state.pairs[PAIR].stage is Stage.CONVICT
    assert world.evidence[0].request_ids == (request_id(0),)
    assert PROOF.sentence in world.changes[-1].why


def test_a_suspicion_is_no_proof() -> None:
    world = World()
    world.happens(came(0))
    world.done(replace(clean(), faults=(replace(PROOF, is_proof=False),)))
    assert world.last(0).status == "checked"
    assert world.last(0).why == PROOF.sentence
    assert world.state.pairs[PAIR].stage is Stage.CLEAR
    assert world.state.pairs[PAIR].history.checked_ok == 0


def test_an_answer_whose_noise_was_never_measured_says_nothing() -> None:
    world = World()
    world.happens(came(0))
    world.done(Findings(check="statistical", seen=seen(50, wrong=50)))
    pair = world.state.pairs[PAIR]
    assert (world.last(0).status, pair.stage, pair.evidence) == ("checked", Stage.CLEAR, EvidenceState())
    assert "50 tokens could not be judged" in sentence(pair)


def test_failures_of_ours_are_retried_and_then_recorded_without_blame() -> None:
    world = World()
    world.happens(came(0))
    for attempt in range(ATTEMPTS_MAX - 1):
        world.failed(may_retry=True)
        assert not world.reads, "not at once"
        due_ns = wake_at_ns(world.state, world.now_ns)
        assert due_ns == world.now_ns + (RETRY_NS << attempt)
        world.now_ns = due_ns
        world.happens(TimePassed())
        assert len(world.reads) == 1
    world.failed(may_retry=True)
    assert world.last(0).status == "not_checked"
    assert world.last(0).why == "no memory"
    pair = world.state.pairs[PAIR]
    assert (pair.stage, pair.evidence, pair.history.checked) == (Stage.CLEAR, EvidenceState(), 0)
    world.happens(wanted(0))
    assert len(world.reads) == 1, "the user may ask for it again"
    world.done(clean())
    assert world.last(0).status == "checked"
    assert world.state.pairs[PAIR].history.receipts == 1


def test_one_unlucky_prompt_that_is_bought_again_and_again_convicts_nobody() -> None:
    """An honest engine's flips are the same each time: a hundred of them are one."""
    world = World()
    for number in range(100):
        world.prompts[request_id(number)] = b"p" * PROMPT_BYTES
        world.happens(came(number))
        world.done(cheated(wrong=6))
    pair = world.state.pairs[PAIR]
    assert (pair.evidence.tokens, pair.evidence.mismatches) == (50, 6)
    assert world.last(99).status == "checked"
    assert "counted before" in world.last(99).why
    assert (pair.stage, len(pair.suspects)) == (Stage.WATCH, 1)
    assert pair.history.checked == 1, "what is no evidence ends no probation"


def test_a_repeated_prompt_counts_for_another_seller_and_its_proofs_count_for_all() -> None:
    world, other = World(), PairKey(seller="s2", model=MODEL)
    for number, pair in enumerate((PAIR, other, PAIR)):
        world.prompts[request_id(number)] = b"p" * PROMPT_BYTES
        world.happens(came(number, pair=pair))
        findings = clean() if number < 2 else replace(clean(), faults=(PROOF,))
        world.done(findings)
    assert world.state.pairs[other].evidence.tokens == 50
    assert world.last(2).status == "faulty"
    assert world.state.pairs[PAIR].stage is Stage.HOLD
    assert world.reads[0].is_second
    world.done(replace(cheated(), faults=(PROOF,)))
    assert world.state.pairs[PAIR].stage is Stage.CONVICT
    assert world.state.pairs[PAIR].confirming == EvidenceState()


def test_a_prompt_whose_answer_could_not_be_judged_still_counts_later() -> None:
    world = World()
    for number in range(2):
        world.prompts[request_id(number)] = b"p" * PROMPT_BYTES
        world.happens(came(number))
        world.done(clean() if number else replace(clean(), table=None))
    assert world.state.pairs[PAIR].evidence.tokens == 50


def test_the_user_asks_for_one_that_was_not_drawn() -> None:
    world = World()
    world.happens(came(0, wish="never"))
    world.happens(wanted(0))
    world.done(clean())
    assert (world.last(0).status, world.last(0).how) == ("checked", "asked")


def test_a_seller_that_is_forgiven_begins_anew() -> None:
    world = convicted_world()
    assert world.state.pairs[PAIR].stage is Stage.CONVICT
    world.happens(came(100))
    world.done(clean())
    assert world.state.pairs[PAIR].stage is Stage.CONVICT, "later honesty unmakes nothing"
    world.happens(Forgiven(pair=PAIR))
    pair = world.state.pairs[PAIR]
    assert (pair.stage, pair.evidence, pair.history) == (Stage.CLEAR, EvidenceState(), History())
    assert world.changes[-1].after is Stage.CLEAR


def test_clean_checks_count_from_zero_when_suspicion_rises() -> None:
    world = World()
    for number in range(12):
        world.happens(came(number))
        world.done(clean())
    assert world.state.pairs[PAIR].history.checked_ok == 12
    world.happens(came(12))
    world.done(cheated(wrong=12))
    pair = world.state.pairs[PAIR]
    assert pair.stage > Stage.CLEAR
    assert pair.history.checked_ok == 0
    assert pair.history.checked == 13


outcomes = st.sampled_from(
    ["clean", "cheated", "proof", "unknown", "retry", "give_up", "came", "wanted", "time"]
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(outcomes, st.integers(0, 6)), max_size=40))
def test_whatever_happens_nobody_is_convicted_without_two_readings(
    script: list[tuple[str, int]],
) -> None:
    """Invariants of the machine are checked by every step; these are about whole histories."""
    world, first, second = World(), 0, 0
    with Bounds(jobs=6, pairs=8):
        for what, number in script:
            key = PairKey(seller=f"s{number % 3}", model=MODEL)
            if what == "came" or not world.reads:
                world.happens(came(number, pair=key))
            elif what == "wanted":
                world.happens(wanted(number, pair=key))
            elif what == "time":
                world.now_ns += RETRY_NS
                world.happens(TimePassed())
            elif what in ("retry", "give_up"):
                kept = {one: (pair.stage, pair.evidence) for one, pair in world.state.pairs.items()}
                world.failed(may_retry=what == "retry")
                after = {one: (pair.stage, pair.evidence) for one, pair in world.state.pairs.items()}
                assert after == kept, "a failure of ours changed what is known of a seller"
            else:
                findings = cheated() if what == "cheated" else clean()
                if what == "proof":
                    findings = replace(clean(), faults=(PROOF,))
                if what == "unknown":
                    findings = replace(cheated(), table=None)
                is_second = world.reads[0].is_second
                first, second = first + (not is_second), second + is_second
                world.done(findings)
    for change in world.changes:
        if change.after is Stage.CONVICT:
            assert second, "convicted without a second reading"
    for pair in world.state.pairs.values():
        if pair.stage is Stage.CONVICT:
            assert pair.proof_confirmed or log10_e_milli(pair.confirming) > 0
        assert pair.history.checked <= first + second
