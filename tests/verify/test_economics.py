"""What makes cheating a loss, against the published table and against its own definition."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unhosted.verify.economics import (
    CHEATS,
    PPM,
    STAKES_REQUESTS,
    Cheat,
    checks_to_catch,
    detection_ppm,
    gain_until_caught,
    held_back_micros,
    paid_check_room_micros,
    rate_min_ppm,
    rate_table,
    requests_until_caught,
)

shares = st.integers(1, PPM)
cheats = st.builds(Cheat, name=st.just("a cheat"), gain_ppm=shares, detection_ppm=shares)


@given(cheats, st.integers(1, 10_000), st.integers(0, PPM - 1))
def test_at_the_least_rate_the_cheat_is_no_gain_and_just_below_it_is(
    cheat: Cheat, stake: int, collusion: int
) -> None:
    rate = rate_min_ppm(cheat, stake_requests=stake, collusion_ppm=collusion)
    per_rate = Fraction(PPM - collusion, PPM) * Fraction(cheat.detection_ppm, PPM) * stake
    gain = Fraction(cheat.gain_ppm, PPM)
    if rate is None:
        assert per_rate < gain
    else:
        assert Fraction(rate, PPM) * per_rate >= gain
        assert Fraction(rate - 1, PPM) * per_rate < gain


@given(cheats, st.integers(1, PPM), st.integers(0, PPM - 1))
def test_the_rate_that_suffices_is_that_where_the_stake_is_above_the_gain_until_caught(
    cheat: Cheat, rate: int, collusion: int
) -> None:
    gain = gain_until_caught(cheat, rate_ppm=rate, collusion_ppm=collusion)
    stake = int(gain) + 1
    least = rate_min_ppm(cheat, stake_requests=stake, collusion_ppm=collusion)
    assert least is not None
    assert least <= rate + 1


def test_the_table_is_the_one_that_was_published() -> None:
    by_name = {row[0]: row[3:] for row in rate_table(collusion_ppm=0)[1:]}
    assert by_name["a small model or a replayed answer"] == (
        "89 %", "18 %", "8.9 %", "4.5 %", "1.8 %", "0.89 %", "0.089 %",
    )  # fmt: skip
    assert by_name["one quantization step, short answers"][0] == "-"
    assert by_name["near the noise"] == ("-", "-", "80 %", "40 %", "16 %", "8 %", "0.8 %")
    assert all(len(row) == 3 + len(STAKES_REQUESTS) for row in rate_table(collusion_ppm=300_000))


def test_checkers_who_are_friends_of_the_seller_must_be_made_up_for() -> None:
    step = CHEATS[1]
    honest = rate_min_ppm(step, stake_requests=100)
    colluding = rate_min_ppm(step, stake_requests=100, collusion_ppm=300_000)
    assert (honest, colluding) == (4_211, 6_016)
    assert rate_min_ppm(step, stake_requests=100, collusion_ppm=PPM) is None
    assert requests_until_caught(step, rate_ppm=0) == float("inf")


def test_with_one_request_at_stake_the_hold_back_alone_brings_the_rate_into_reach() -> None:
    step = CHEATS[1]
    assert rate_min_ppm(step, stake_requests=1) == 421_053
    assert rate_min_ppm(step, stake_requests=20) == 21_053
    assert gain_until_caught(step, rate_ppm=20_000) == pytest.approx(21.05, abs=0.01)


def test_evidence_adds_up_over_short_answers() -> None:
    assert detection_ppm(answer_tokens=30, convicting_tokens=100) == 300_000
    assert detection_ppm(answer_tokens=500, convicting_tokens=100) == PPM
    assert checks_to_catch(cheated_ppm=50_000, cheat=CHEATS[0], certainty_ppm=990_000) == 95
    assert checks_to_catch(cheated_ppm=10_000, cheat=CHEATS[0], certainty_ppm=990_000) == 483
    assert checks_to_catch(cheated_ppm=0, cheat=CHEATS[0], certainty_ppm=990_000) is None


@given(st.lists(st.integers(0, 10**9), max_size=60), st.integers(0, 10**10))
def test_no_more_is_held_back_than_the_seller_gives_credit_for(dues: list[int], credit: int) -> None:
    held = held_back_micros(dues, credit_micros=credit)
    assert 0 <= held <= credit
    assert held == min(credit, sum(dues[-20:]))


def test_nothing_is_held_back_of_a_seller_without_credit() -> None:
    assert held_back_micros([50] * 40, credit_micros=0) == 0
    assert held_back_micros([50] * 40, credit_micros=10**6) == 1_000
    assert held_back_micros([50] * 40, credit_micros=10**6, requests=0) == 0
    with pytest.raises(ValueError, match="negative"):
        held_back_micros([-1], credit_micros=5)


@given(st.integers(0, 10**12), st.integers(0, 10**12), st.integers(0, 10**12))
def test_paid_checks_stay_under_the_cap_and_under_their_share(answers: int, checks: int, room: int) -> None:
    may_cost = paid_check_room_micros(answers_micros=answers, checks_micros=checks, cap_room_micros=room)
    assert 0 <= may_cost <= room
    assert may_cost == 0 or checks + may_cost <= answers // 20


def test_impossible_shares_are_refused() -> None:
    with pytest.raises(ValueError, match="gain_ppm"):
        rate_min_ppm(Cheat(name="x", gain_ppm=PPM + 1, detection_ppm=1), stake_requests=1)
    with pytest.raises(ValueError, match="stake of 0"):
        rate_min_ppm(CHEATS[0], stake_requests=0)
