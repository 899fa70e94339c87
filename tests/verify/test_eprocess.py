"""The e-process: what it is worth, that honesty never gains by it, and that cheats of every shape show."""

import json
from decimal import Decimal, localcontext
from fractions import Fraction
from math import log
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.verify.tables import BETS, MEANS, drawn, noise_table, seen, slow_e
from unhosted.verify.eprocess import (
    LOG_NNAT_MAX,
    EvidenceState,
    add_answer,
    from_fields,
    log10_e_milli,
    peak_log10_e_milli,
    to_fields,
    tokens_until,
)
from unhosted.verify.noise import GAP_EDGES_MLOGIT, PPB, NoiseTable
from unhosted.verify.observations import joined

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "eprocess.json").read_text("utf-8"))
HONEST = tuple(mean / 1_000 / 3 for mean in MEANS)
CHEAT = (0.6, 0.6, 0.6, 0.55, 0.5, 0.4, 0.3, 0.15, 0.05)

tokens = st.tuples(st.sampled_from([0, 10, 20, 49, 99, 399, 1_600, 5_000]), st.integers(0, 700))
answers = st.lists(st.lists(tokens, min_size=1, max_size=40), min_size=0, max_size=4)


def _after(table: NoiseTable, given: list[list[tuple[int, int]]]) -> EvidenceState:
    state = EvidenceState()
    for one in given:
        state = add_answer(state, table, seen(one))
    return state


def _e(state: EvidenceState) -> float:
    return float(np.exp(state.log_e_nnat / 1e9))


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(answers)
def test_it_is_worth_what_the_rules_say_in_exact_fractions(given: list[list[tuple[int, int]]]) -> None:
    table = noise_table()
    state = _after(table, given)
    exact = slow_e(table, [seen(one) for one in given])
    assert -1e-7 < state.log_e_nnat / 1e9 - log(exact) <= 1e-12 + abs(log(exact)) * 1e-12


def test_the_exact_rule_looks_at_mismatches_alone() -> None:
    table = noise_table(rule="exact")
    matching = [(10, 400)] * 20
    state = add_answer(EvidenceState(), table, seen(matching, [True] * 20))
    assert state.log_e_nnat < 0
    exact = slow_e(table, [seen(matching, [False, *[True] * 19])])
    one = add_answer(EvidenceState(), table, seen(matching, [False, *[True] * 19]))
    assert one.log_e_nnat / 1e9 == pytest.approx(log(exact), abs=1e-7)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    answers,
    st.lists(tokens, min_size=0, max_size=33),
    st.integers(0, len(GAP_EDGES_MLOGIT) - 1),
    st.integers(1, 500),
    st.sampled_from(["exact", "statistical"]),
)
def test_no_next_token_gains_on_average_under_any_honest_distribution(
    before: list[list[tuple[int, int]]],
    prefix: list[tuple[int, int]],
    bin_index: int,
    margin: int,
    rule: str,
) -> None:
    # Distributions of X with a mean of at most mean_max are mixtures of those on 0 (or any value below the
    # mean) and one value above it, so two points are enough; the mean is put right at the bound.
    table = noise_table(rule="exact" if rule == "exact" else "statistical")
    state, gap = _after(table, before), GAP_EDGES_MLOGIT[bin_index]
    mean = Fraction(table.mean_max_ppb[bin_index], PPB)
    high = Fraction(1) if rule == "exact" else Fraction(margin, table.clip_mlogit)
    if high <= mean:
        return
    chance = mean / high
    now = add_answer(state, table, seen(prefix)) if prefix else state
    agrees = add_answer(state, table, seen([*prefix, (gap, 0)]))
    differs = add_answer(state, table, seen([*prefix, (gap, margin)]))
    expected = float(1 - chance) * _e(agrees) + float(chance) * _e(differs)
    assert expected <= _e(now) * (1 + 1e-8)
    assert expected >= _e(now) * (1 - 1e-7), "and at the bound nothing is lost either"


def test_it_starts_at_one_and_a_new_answer_costs_nothing() -> None:
    assert log10_e_milli(EvidenceState()) == 0 == peak_log10_e_milli(EvidenceState())
    table = noise_table(bets=[[0] * 9])
    state = EvidenceState()
    for _ in range(30):
        state = add_answer(state, table, seen([(10, 400)] * 40))
    assert -1_000 < state.log_e_nnat <= 0, "who bets nothing neither wins nor loses"


@pytest.mark.slow
def test_honest_sellers_at_the_bound_rarely_reach_a_hundred() -> None:
    # Ville: at most 1 % of runs ever do. The mean of X is exactly at mean_max in every bin.
    table = noise_table()
    random = np.random.default_rng(20)
    runs = 700
    chance = [mean / 1_000 / 0.6 for mean in MEANS]
    reached = 0
    for _ in range(runs):
        bins = random.integers(0, 9, 48)
        flips = random.random(48) < np.asarray(chance)[bins]
        tokens = [
            (GAP_EDGES_MLOGIT[at], 300 * flip) for at, flip in zip(bins.tolist(), flips.tolist(), strict=True)
        ]
        state = add_answer(EvidenceState(), table, seen(tokens))
        reached += peak_log10_e_milli(state) >= 2_000
    assert reached <= runs // 100


def test_an_honest_seller_loses_and_a_cheat_is_convicted() -> None:
    table, random = noise_table(), np.random.default_rng(1)
    state = EvidenceState()
    for _ in range(10):
        state = add_answer(state, table, drawn(random, 200, differs=HONEST, margin_mlogit=10))
    assert peak_log10_e_milli(state) < 1_000
    assert log10_e_milli(state) < 0
    cheat = [drawn(random, 200, differs=CHEAT) for _ in range(3)]
    needed = tokens_until(table, cheat, log10_milli=6_000)
    assert needed is not None and needed <= 100


def test_a_seller_that_turns_after_a_long_honest_life_is_convicted_soon() -> None:
    table, random = noise_table(), np.random.default_rng(2)
    honest = [drawn(random, 50, differs=HONEST, margin_mlogit=10) for _ in range(60)]
    cheat = [drawn(random, 200, differs=CHEAT) for _ in range(4)]
    needed = tokens_until(table, [*honest, *cheat], log10_milli=6_000)
    assert needed is not None and needed <= 3_000 + 250


def test_cheating_on_one_answer_in_eight_is_convicted() -> None:
    table, random = noise_table(), np.random.default_rng(3)
    mixed = [
        drawn(random, 100, differs=CHEAT if index % 8 == 7 else HONEST, margin_mlogit=10)
        for index in range(48)
    ]
    assert tokens_until(table, mixed, log10_milli=6_000) is not None


def test_a_cheap_tail_of_a_fifth_is_convicted_within_1500_tokens() -> None:
    table, random = noise_table(), np.random.default_rng(4)
    answers = []
    for _ in range(8):
        head = drawn(random, 160, differs=HONEST, margin_mlogit=10)
        tail = drawn(random, 40, differs=CHEAT)
        answers.append(joined([head, tail]))
    needed = tokens_until(table, answers, log10_milli=6_000)
    assert needed is not None and needed <= 1_500


def test_a_cheap_middle_shows_as_well() -> None:
    table, random = noise_table(), np.random.default_rng(5)
    parts = [
        joined(
            [
                drawn(random, 80, differs=HONEST, margin_mlogit=10),
                drawn(random, 60, differs=CHEAT),
                drawn(random, 260, differs=HONEST, margin_mlogit=10),
            ]
        )
        for _ in range(5)
    ]
    assert tokens_until(table, parts, log10_milli=6_000) is not None


def test_the_peak_is_the_greatest_after_any_token_and_stays() -> None:
    table = noise_table()
    rise, fall = [(1_600, 2_000)] * 6, [(10, 0)] * 150
    high = add_answer(EvidenceState(), table, seen(rise))
    both = add_answer(EvidenceState(), table, seen([*rise, *fall]))
    assert both.peak_nnat == pytest.approx(high.log_e_nnat, abs=10)
    assert both.log_e_nnat < high.log_e_nnat
    later = add_answer(both, table, seen(fall))
    assert later.peak_nnat == both.peak_nnat


def test_tokens_until_finds_the_very_token() -> None:
    table = noise_table()
    answer = seen([(1_600, 2_000)] * 30)
    needed = tokens_until(table, [answer], log10_milli=6_000)
    assert needed is not None
    assert peak_log10_e_milli(add_answer(EvidenceState(), table, answer.part(0, needed))) >= 6_000
    assert peak_log10_e_milli(add_answer(EvidenceState(), table, answer.part(0, needed - 1))) < 6_000
    assert tokens_until(table, [seen([(10, 0)] * 5)], log10_milli=6_000) is None


def test_an_empty_answer_changes_nothing_and_counts_are_kept() -> None:
    state = _after(noise_table(), [[(10, 0), (10, 30)]])
    assert add_answer(state, noise_table(), seen([])) == state
    assert (state.answers, state.tokens, state.mismatches) == (1, 2, 1)


def test_tables_may_change_between_answers() -> None:
    first, second = noise_table(), noise_table(rule="exact", bets=[BETS[0], BETS[1], BETS[0]])
    state = add_answer(EvidenceState(), first, seen([(10, 100)] * 3))
    state = add_answer(state, second, seen([(10, 100)] * 3))
    assert state.answers == 2


def test_accounts_neither_overflow_nor_come_back_from_nothing() -> None:
    table = noise_table(means=[1] * 9, bets=[[999] * 9])
    full = EvidenceState(
        answers=5,
        tokens=5,
        always_nnat=(LOG_NNAT_MAX,) * 4,
        fraction_nnat=(-LOG_NNAT_MAX,) * 12,
        late_nnat=(-LOG_NNAT_MAX,) * 4,
        log_e_nnat=LOG_NNAT_MAX,
        peak_nnat=LOG_NNAT_MAX,
    )
    state = add_answer(full, table, seen([(10, 500)] * 200))
    assert state.always_nnat == (LOG_NNAT_MAX,) * 4
    assert state.fraction_nnat == (-LOG_NNAT_MAX,) * 12
    sunk = EvidenceState(answers=5, tokens=5, always_nnat=(-LOG_NNAT_MAX + 1,) * 4)
    state = add_answer(sunk, table, seen([(10, 0)] * 200))
    assert state.always_nnat == (-LOG_NNAT_MAX,) * 4
    assert add_answer(state, table, seen([(10, 500)] * 200)).always_nnat == (-LOG_NNAT_MAX,) * 4


@given(answers)
@settings(max_examples=20, deadline=None)
def test_fields_carry_the_state_over(given: list[list[tuple[int, int]]]) -> None:
    state = _after(noise_table(), given)
    assert from_fields(to_fields(state)) == state
    assert from_fields(json.loads(json.dumps(to_fields(state)))) == state


@pytest.mark.parametrize(
    "change",
    [
        lambda fields: fields[:-1],
        lambda fields: [*fields, 1],
        lambda fields: [1.5, *fields[1:]],
        lambda fields: [True, *fields[1:]],
        lambda fields: [[1], *fields[1:]],
        lambda fields: [*fields[:3], fields[3][:-1], *fields[4:]],
        lambda fields: [*fields[:3], 0, *fields[4:]],
        lambda fields: [*fields[:3], [0, 0, 0, "0"], *fields[4:]],
        lambda fields: [1, 1, 2, *fields[3:]],
        lambda fields: [*fields[:6], 5, 4],
        lambda fields: [*fields[:6], 10**16, 10**16],
    ],
)
def test_fields_that_are_no_state_are_refused(change: object) -> None:
    fields = list(to_fields(EvidenceState()))
    with pytest.raises(ValueError):
        from_fields(change(fields))  # type: ignore[operator]


def test_the_callers_decimal_context_changes_nothing() -> None:
    answer = seen([(10, 100), (300, 400), (5_000, 0)] * 20)
    expected = add_answer(EvidenceState(), noise_table(clip_mlogit=450), answer)
    with localcontext() as context:
        context.prec = 3
        Decimal(1) / Decimal(3)
        assert add_answer(EvidenceState(), noise_table(clip_mlogit=450), answer) == expected


@pytest.mark.parametrize("vector", VECTORS["cases"], ids=lambda vector: vector["name"])
def test_vectors(vector: dict[str, object]) -> None:
    # The same digits on every platform and in every implementation: docs/verification.md has the rules.
    table = noise_table(**vector["table"])  # type: ignore[arg-type]
    state = EvidenceState()
    for answer, expected in zip(vector["answers"], vector["states"], strict=True):  # type: ignore[call-overload]
        state = add_answer(state, table, seen([(gap, margin) for gap, margin in answer]))
        assert json.loads(json.dumps(to_fields(state))) == expected
    assert [log10_e_milli(state), peak_log10_e_milli(state)] == vector["log10_e_milli"]
