"""Whoever picks answers pays for the choice: what is left is evidence even for the worst that could be
picked."""

from fractions import Fraction
from itertools import combinations, product
from math import comb

import pytest

from tests.node.evidence.stage import Channel, ids
from unhosted.node.core.evidence_weight import choice_cost_log10_milli, evidence_cost_log10_milli
from unhosted.node.shell.evidence.making import make_evidence

PROMPT = ids(0, 3)


def _share(requests: int, opened: int) -> Fraction:
    return Fraction(1, (requests + 1) * comb(requests, opened))


def test_the_shares_of_all_choices_add_up_to_one() -> None:
    for requests in (1, 2, 5, 9):
        total = sum(_share(requests, opened) * comb(requests, opened) for opened in range(requests + 1))
        assert total == 1


def test_a_choice_has_the_share_of_its_two_continuations() -> None:
    for requests in range(1, 8):
        for opened in range(requests + 1):
            without = _share(requests + 1, opened)
            with_next = _share(requests + 1, opened + 1)
            assert without + with_next == _share(requests, opened)


def test_the_worst_choice_of_honest_answers_wins_nothing_on_average() -> None:
    # Honest answers: half of them look bad and multiply the stake by 9/5, half by 1/5: fair bets.
    requests = 6
    mean_taken_off, mean_as_it_is = Fraction(0), Fraction(0)
    for factors in product((Fraction(9, 5), Fraction(1, 5)), repeat=requests):
        left, raw = Fraction(0), Fraction(0)
        for opened in range(requests + 1):
            for chosen in combinations(factors, opened):
                wealth = Fraction(1)
                for factor in chosen:
                    wealth *= factor
                left, raw = max(left, wealth * _share(requests, opened)), max(raw, wealth)
        mean_taken_off += left / 2**requests
        mean_as_it_is += raw / 2**requests
    assert mean_taken_off <= 1
    assert mean_as_it_is > 7, "the choice is worth something, or the test shows nothing"


def test_the_cost_is_rounded_up() -> None:
    assert choice_cost_log10_milli(requests=1, opened=1) == 302  # log10 2 = 0.30103
    assert choice_cost_log10_milli(requests=3, opened=3) == 603  # log10 4 = 0.60206
    assert choice_cost_log10_milli(requests=9, opened=1) == 1_955  # log10 90 = 1.95424
    assert choice_cost_log10_milli(requests=9, opened=1, ends=[10]) == 2_955
    assert choice_cost_log10_milli(requests=1 << 53, opened=256) > 0


@pytest.mark.parametrize(("requests", "opened"), [(3, 4), (1, 0)])
def test_more_answers_than_requests_cannot_be(requests: int, opened: int) -> None:
    with pytest.raises(ValueError, match="opened answers"):
        choice_cost_log10_milli(requests=requests, opened=opened)


def test_hidden_answers_count_and_so_do_open_ends() -> None:
    channel = Channel()
    kept = [channel.sell(PROMPT, ids(10 * index, 130)) for index in range(9)]
    assert evidence_cost_log10_milli(make_evidence(kept)) == choice_cost_log10_milli(requests=9, opened=9)
    last = make_evidence(kept[8:])
    assert evidence_cost_log10_milli(last) == choice_cost_log10_milli(requests=9, opened=1)
    part = make_evidence(kept[8:], prefix_tokens=64)
    assert evidence_cost_log10_milli(part) == choice_cost_log10_milli(requests=9, opened=1, ends=[3])


def test_a_cut_stream_could_have_been_cut_anywhere() -> None:
    kept = Channel().sell(PROMPT, ids(0, 130), tokens_out_max=640, is_cut=True)
    expected = choice_cost_log10_milli(requests=1, opened=1, ends=[10])
    assert evidence_cost_log10_milli(make_evidence([kept])) == expected
