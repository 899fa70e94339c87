"""Both ways to lie about the class: a seller that claims bits it does not compute, a buyer that claims they
were claimed."""

from dataclasses import replace

import pytest

from tests.node.evidence.stage import FACTS, Channel, ids
from tests.verify.tables import noise_table, seen
from unhosted.node.core.engine_facts import EngineFacts, Replay, exact_class, replay_for
from unhosted.node.core.evidence_verdict import ReadAnswer, judge, judge_appeal
from unhosted.node.shell.evidence.making import make_evidence
from unhosted.node.shell.evidence.signatures import faults_of
from unhosted.verify.noise import NoiseTable

MODEL = bytes(range(32))
OWN = EngineFacts(
    library="llama.cpp b1",
    build="ab" * 32,
    device="cpu:x86-64:avx,avx2,f16c,fma:glibc-2.36",
    weights="q4_1",
    kv_type="bf16/f16",
)
EXACT = noise_table(rule="exact", clip_mlogit=1, means=(1,) * 9, bets=((20,) * 9, (50,) * 9))
NOISY = noise_table()
ROUNDING = [(150, 30) if place in (9, 31, 44) else (900, 0) for place in range(50)]
"""Three of 50 tokens fall the other way by 30 millilogits, where the two best are close: what f16 caches do,
and Q8_0 made of the Q4_1 as well."""


def test_a_seller_that_claims_an_exact_class_and_does_not_run_it_is_convicted_by_rounding_alone() -> None:
    assert exact_class(OWN) is not None
    check, replay = replay_for(OWN, OWN)
    assert check == "exact"
    channel = Channel(model=MODEL, facts=OWN)
    evidence = make_evidence([channel.sell(ids(n, 20), ids(90 * n, 50)) for n in range(1, 4)])
    assert not faults_of(evidence)
    claimed = [_read(EXACT, "exact", replay)] * 3
    assert judge(evidence, claimed).verdict == "convicts"
    assert judge_appeal(evidence, claimed).result == "not explained"


def test_the_same_tokens_of_a_seller_that_claims_nothing_are_noise() -> None:
    channel = Channel(model=MODEL, facts=FACTS)
    evidence = make_evidence([channel.sell(ids(n, 20), ids(90 * n, 50)) for n in range(1, 4)])
    assert judge(evidence, [_read(NOISY, "statistical", Replay())] * 3).verdict == "clear"


@pytest.mark.parametrize("claims", [OWN, None])
def test_a_buyer_cannot_say_what_a_seller_claimed(claims: EngineFacts | None) -> None:
    """The hash of its facts is in what it signed: others, or none, are not what it stated."""
    from unhosted.node.core.engine_facts import encode_facts

    kept = Channel(model=MODEL, facts=replace(OWN, kv_type="f16")).sell(ids(1, 20), ids(90, 50))
    evidence = make_evidence([kept])
    put = b"" if claims is None else encode_facts(claims)
    changed = replace(evidence, answers=(replace(evidence.answers[0], facts=put),))
    assert not faults_of(evidence)
    assert bool(faults_of(changed)) is (claims is not None), "without facts the gross table judges"


def _read(table: NoiseTable, check: str, replay: Replay) -> ReadAnswer:
    return ReadAnswer(check=check, replay=replay, table=table, seen=seen(ROUNDING))  # type: ignore[arg-type]
