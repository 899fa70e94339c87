"""Nothing is published on one machine's word: two independent readers, no refutation, and the seller
heard."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unhosted.market.faults import RemoteFault
from unhosted.market.ids import PeerText
from unhosted.node.core.confirmation_wire import decode_vote, encode_vote
from unhosted.node.core.confirmations import (
    APPEAL_NS,
    CASE_NS_MAX,
    VOTES_MAX,
    AppealHeard,
    Case,
    Close,
    Effect,
    Event,
    Publish,
    TellSeller,
    TimePassed,
    Vote,
    VoteCame,
    average_log10_milli,
    is_confirmed,
    step,
)
from unhosted.node.core.evidence_wire import EvidenceHash
from unhosted.node.shell.keys.identity import new_identity

HASH = EvidenceHash(b"\x01" * 32)
PEERS = [PeerText(new_identity().peer) for _ in range(4)]
OWN = Vote(
    evidence=HASH,
    reader=PEERS[0],
    host="here",
    engine_class="cpu q4_1 flash",
    check="statistical",
    convicts=True,
    left_milli=7_000,
    is_own=True,
)
OTHER = replace(OWN, reader=PEERS[1], host="there", engine_class="cuda q4_1", is_own=False)
CASE = Case(evidence=HASH, opened_ns=0)


def _run(events: Sequence[tuple[int, Event]], case: Case = CASE) -> tuple[Case, list[Effect]]:
    effects: list[Effect] = []
    for now_ns, event in events:
        case, made = step(case, event, now_ns)
        effects += made
    return case, effects


def test_two_independent_readers_and_a_silent_seller_publish() -> None:
    case, effects = _run([(1, VoteCame(vote=OWN)), (2, VoteCame(vote=OTHER))])
    assert effects == [TellSeller(evidence=HASH, until_ns=2 + APPEAL_NS)]
    case, effects = _run([(3, TimePassed()), (1 + APPEAL_NS, TimePassed())], case)
    assert effects == [], "the seller has its time"
    case, effects = _run([(2 + APPEAL_NS, TimePassed())], case)
    assert effects == [Publish(evidence=HASH, readers=(PEERS[0], PEERS[1]), log10_e_milli=7_000)]
    assert _run([(3 + APPEAL_NS, TimePassed())], case)[1] == [], "once"


@pytest.mark.parametrize(
    "second",
    [
        replace(OTHER, reader=OWN.reader),
        replace(OTHER, host=OWN.host),
        replace(OTHER, engine_class=OWN.engine_class),
        replace(OTHER, engine_class=OWN.engine_class, check="exact"),
        replace(OTHER, left_milli=5_999),
    ],
    ids=["same key", "same machine", "same class", "exact beside statistical", "not enough"],
)
def test_a_second_reader_who_is_none_does_not_count(second: Vote) -> None:
    case, effects = _run([(1, VoteCame(vote=OWN)), (2, VoteCame(vote=second))])
    assert (case.status, effects) == ("waiting", [])


def test_readers_who_disagree_confirm_nothing() -> None:
    refuting = replace(OTHER, reader=PEERS[2], host="elsewhere", convicts=False)
    assert is_confirmed([OWN, OTHER])
    assert not is_confirmed([OWN, OTHER, refuting])
    assert not is_confirmed([OWN, replace(OTHER, reader=OWN.reader)])


def test_two_others_do_not_replace_the_own_reading() -> None:
    third = replace(OTHER, reader=PEERS[2], host="elsewhere", engine_class="metal q4_1")
    case, effects = _run([(1, VoteCame(vote=OTHER)), (2, VoteCame(vote=third))])
    assert (case.status, effects) == ("waiting", [])


def test_exact_readings_and_faults_without_noise_need_two_machines_only() -> None:
    changes: list[dict[str, Any]] = [{"check": "exact"}, {"is_proven": True, "left_milli": 0}]
    for change in changes:
        own, other = replace(OWN, **change), replace(OTHER, engine_class=OWN.engine_class, **change)
        case, _ = _run([(1, VoteCame(vote=own)), (2, VoteCame(vote=other))])
        assert case.status == "told"


@pytest.mark.parametrize("refuting", [0, 1, 2])
def test_a_refutation_blocks_for_good_whenever_it_comes(refuting: int) -> None:
    third = replace(OTHER, reader=PEERS[2], host="elsewhere", convicts=False, left_milli=-3_000)
    votes = [VoteCame(vote=OWN), VoteCame(vote=OTHER)]
    votes.insert(refuting, VoteCame(vote=third))
    case, effects = _run([(1, vote) for vote in votes] + [(2 + APPEAL_NS, TimePassed())])
    assert case.status == "refuted"
    assert not any(isinstance(effect, Publish) for effect in effects)
    assert any(isinstance(effect, Close) for effect in effects)


def test_an_appeal_that_explains_ends_it_and_one_that_does_not_goes_on() -> None:
    told, _ = _run([(1, VoteCame(vote=OWN)), (1, VoteCame(vote=OTHER))])
    case, effects = _run([(2, AppealHeard(explains=True)), (2 + APPEAL_NS, TimePassed())], told)
    assert case.status == "explained" and not any(isinstance(effect, Publish) for effect in effects)
    case, effects = _run([(2, AppealHeard(explains=False)), (2 + APPEAL_NS, TimePassed())], told)
    assert case.status == "published"


def test_a_reader_votes_once_and_only_so_many_are_heard() -> None:
    turned = replace(OTHER, convicts=False)
    case, _ = _run([(1, VoteCame(vote=OTHER)), (2, VoteCame(vote=turned))])
    assert case.votes == (OTHER,)
    many = [replace(OTHER, reader=PeerText(f"peer {index}")) for index in range(VOTES_MAX + 5)]
    case, _ = _run([(1, VoteCame(vote=vote)) for vote in many])
    assert len(case.votes) == VOTES_MAX


def test_a_case_that_nobody_confirms_is_dropped() -> None:
    case, effects = _run([(1, VoteCame(vote=OWN)), (CASE_NS_MAX, TimePassed())])
    assert case.status == "dropped"
    assert [type(effect) for effect in effects] == [Close]


def test_a_vote_on_other_evidence_is_a_defect() -> None:
    with pytest.raises(ValueError, match="the case is"):
        step(CASE, VoteCame(vote=replace(OWN, evidence=EvidenceHash(b"\x02" * 32))), 1)


VOTES = st.builds(
    Vote,
    evidence=st.just(HASH),
    reader=st.sampled_from(PEERS),
    host=st.sampled_from(["here", "there", "elsewhere"]),
    engine_class=st.sampled_from(["a", "b"]),
    check=st.sampled_from(["exact", "statistical"]),
    convicts=st.booleans() | st.just(True),
    left_milli=st.integers(5_000, 9_000),
    is_proven=st.just(False),
    is_own=st.booleans(),
)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, APPEAL_NS), VOTES.map(lambda vote: VoteCame(vote=vote)))))
def test_whatever_is_published_kept_every_rule(events: list[tuple[int, Event]]) -> None:
    case, effects = _run([*sorted(events, key=lambda one: one[0]), (3 * APPEAL_NS, TimePassed())])
    if not any(isinstance(effect, Publish) for effect in effects):
        return
    confirming = [vote for vote in case.votes if vote.is_confirming]
    assert all(vote.convicts for vote in case.votes)
    assert any(vote.is_own for vote in confirming)
    assert len({vote.reader for vote in confirming}) >= 2
    assert len({vote.host for vote in confirming}) >= 2
    are_exact = sum(vote.check == "exact" for vote in confirming) >= 2
    assert are_exact or len({vote.engine_class for vote in confirming}) >= 2


def test_e_values_on_the_same_answers_are_averaged_and_rounded_down() -> None:
    assert average_log10_milli([6_000]) == 6_000
    assert average_log10_milli([8_000, -2_000]) == 7_698  # log10(1e8 / 2) = 7.69897
    assert average_log10_milli([6_000, 7_000]) == 6_740  # log10(5.5e6) = 6.74036
    with pytest.raises(ValueError, match="no E-values"):
        average_log10_milli([])


def test_a_word_on_evidence_travels_without_what_its_reader_cannot_know() -> None:
    read = decode_vote(encode_vote(OWN), host="there")
    assert read == replace(OWN, host="there", is_own=False)
    with pytest.raises(RemoteFault):
        decode_vote(encode_vote(OWN)[:-1], host="there")
