"""Scores against their specification, the sampler, and what they are for."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.verify import naive_gumbel, naive_scoring
from tests.verify.test_sampler import IDS, KEY, PARAMS, FakeMask, history_of
from unhosted.verify.history import History
from unhosted.verify.observations import GAP_MLOGIT_MAX, LOGPROB_MNAT_MIN, MARGIN_MLOGIT_MAX
from unhosted.verify.params import SamplingParams
from unhosted.verify.sampler import DeadEnd, Sampler, SamplerError, logprobs, ranked, surviving
from unhosted.verify.scoring import (
    SLACK_LOGITS,
    Scorer,
    as_observations,
    is_loose_survivor,
    strict_count,
)

ROWS = st.integers(50, 150).flatmap(
    lambda n: st.builds(
        lambda seed, levels: np.random.default_rng(seed).integers(-levels, levels, n).astype(np.float32) / 40,
        st.integers(0, 2**32 - 1),
        # Few distinct values, so that ties and candidates within the slack of an edge are common.
        st.sampled_from([3, 30, 300]),
    )
)


def milli(logits: float, most: int) -> int:
    return most if logits == math.inf else min(most, max(0, round(1000 * logits)))


@settings(max_examples=15, deadline=None)
@given(
    params=PARAMS,
    row=ROWS,
    prompt=IDS,
    output=IDS,
    position=st.integers(0, 2**32 - 1),
    claim=st.floats(0, 1, exclude_max=True),
    allowed_share=st.sampled_from([None, 0.02, 0.5, 1.0]),
)
def test_agrees_with_a_naive_reading_and_with_the_sampler(
    params: SamplingParams,
    row: NDArray[np.float32],
    prompt: list[int],
    output: list[int],
    position: int,
    claim: float,
    allowed_share: float | None,
) -> None:
    draw = np.random.default_rng(position)
    allowed = (
        None
        if allowed_share is None
        else set(np.flatnonzero(draw.random(len(row)) < allowed_share).tolist()) | {7}
    )
    mask = None if allowed is None else FakeMask(allowed.__contains__)
    drawn = Sampler(params, KEY).draw(row, position, history_of(params, prompt, output), mask)
    for claimed in (drawn, int(np.argsort(-row)[int(claim * 12)]), int(claim * len(row))):
        history = history_of(params, prompt, output)
        score = Scorer(params, KEY).score(row, claimed, position, history, mask)
        gap, margin, expected = naive_scoring.observed(
            row.tolist(),
            params,
            KEY,
            position,
            prompt,
            output,
            claimed,
            None if allowed is None else allowed.__contains__,
        )
        assert score.drawn_id == expected == drawn
        assert score.is_match == (claimed == drawn)
        assert score.margin_mlogit == milli(margin, MARGIN_MLOGIT_MAX)
        assert score.gap_mlogit == milli(gap, GAP_MLOGIT_MAX)
        if score.is_match:
            assert score.margin_mlogit == 0
        z = naive_gumbel.adjusted_logits(row.tolist(), params, prompt, output)
        assert score.rank == sum((-z[i], i) < (-z[claimed], claimed) for i in range(len(z)))


@settings(max_examples=40, deadline=None)
@given(params=PARAMS, row=ROWS)
def test_strict_survivors_survive_and_survivors_are_loose_ones(
    params: SamplingParams, row: NDArray[np.float32]
) -> None:
    cut = min(params.top_k or 1024, 1024)
    _, z = ranked(row, History(SamplingParams()), cut + 1)
    keep, mass = surviving(z, params)
    assert 0 <= strict_count(z, params, keep, mass) <= keep
    assert all(is_loose_survivor(float(one), z, params, mass) for one in z[:keep])


@settings(max_examples=30, deadline=None)
@given(params=PARAMS, row=ROWS, seed=st.integers(0, 2**32 - 1))
def test_no_honest_claim_is_outside_the_loose_survivors_or_far_behind(
    params: SamplingParams, row: NDArray[np.float32], seed: int
) -> None:
    """A seller whose every logit strays by less than half a slack is never further behind than it strayed."""
    stray = np.random.default_rng(seed).uniform(-1, 1, len(row)) * SLACK_LOGITS / 2
    theirs = (row + 0.99 * stray).astype(np.float32)
    history = history_of(params, [], [])
    claimed = Sampler(params, KEY).draw(theirs, 0, history)
    repeated = max(params.repeat_penalty, 1 / params.repeat_penalty)
    assert Scorer(params, KEY).score(row, claimed, 0, history).margin_mlogit <= 1000 * SLACK_LOGITS * repeated


def test_margin_and_gap_are_in_logits_at_every_temperature() -> None:
    row = np.full(100, -50, np.float32)
    row[[3, 4]] = [2.0, 1.25]
    for temperature in (0.0, 0.5, 2.0):
        params = SamplingParams(temperature=temperature, top_k=2, top_p=1.0, min_p=0.0)
        history, scorer = History(params), Scorer(params, KEY)
        noise = {i: -math.log(-math.log(naive_gumbel.u_of(naive_gumbel.x_of(KEY, 9, i)))) for i in (3, 4)}
        lead = 0.75 + temperature * (noise[3] - noise[4])
        first, second = (3, 4) if lead > 0 else (4, 3)
        winner, loser = (scorer.score(row, i, 9, history) for i in (first, second))
        assert (winner.margin_mlogit, winner.is_match, loser.is_match) == (0, True, False)
        assert winner.gap_mlogit == loser.gap_mlogit == loser.margin_mlogit == round(1000 * abs(lead))


def test_a_claim_that_only_noise_could_save_is_excused_and_one_beyond_the_slack_is_not() -> None:
    params = SamplingParams(temperature=0.01, top_k=3, top_p=1.0, min_p=0.0)
    row = np.full(100, -50, np.float32)
    row[:6] = [5.0, 4.0, 3.0, 3.0 - SLACK_LOGITS / 2, 3.0 - 2 * SLACK_LOGITS, 2.0]
    scorer, history = Scorer(params, KEY), History(params)
    excused = scorer.score(row, 3, 0, history)
    assert 1500 < excused.margin_mlogit < 2500
    for claimed in (4, 5, 99):
        assert scorer.score(row, claimed, 0, history).margin_mlogit == MARGIN_MLOGIT_MAX


def test_where_nobody_is_sure_to_survive_any_that_may_is_as_good() -> None:
    params = SamplingParams(temperature=1.0, top_k=1)
    row = np.full(100, -50, np.float32)
    row[[8, 9]] = [1.0, 1.0 - SLACK_LOGITS / 2]
    scorer, history = Scorer(params, KEY), History(params)
    assert [scorer.score(row, i, 5, history).margin_mlogit for i in (8, 9, 10)] == [0, 0, MARGIN_MLOGIT_MAX]
    assert [scorer.score(row, i, 5, history).gap_mlogit for i in (8, 9, 10)] == [0, 0, 0]
    assert [scorer.score(row, i, 5, history).is_match for i in (8, 9)] == [True, False]


def test_one_sure_survivor_has_the_widest_gap() -> None:
    params = SamplingParams(temperature=1.0, top_p=0.5, min_p=0.0)
    row = np.zeros(100, np.float32)
    row[42] = 30.0
    score = Scorer(params, KEY).score(row, 42, 0, History(params))
    assert (score.gap_mlogit, score.margin_mlogit, score.is_match, score.rank) == (GAP_MLOGIT_MAX, 0, True, 0)


def test_a_claim_the_grammar_refuses_has_the_widest_margin_even_if_it_is_the_free_draw() -> None:
    params = SamplingParams(temperature=0.0)
    row = np.linspace(0, 60, 2000).astype(np.float32)
    mask = FakeMask(lambda i: i == 1990)
    scorer, history = Scorer(params, KEY), History(params)
    assert scorer.score(row, 1999, 0, history, mask).margin_mlogit == MARGIN_MLOGIT_MAX
    assert scorer.score(row, 1990, 0, history, mask).margin_mlogit == 0
    with pytest.raises(DeadEnd):
        scorer.score(row, 1990, 0, history, FakeMask(lambda i: False))


def test_a_redraw_that_noise_may_have_caused_is_excused_by_how_close_it_was() -> None:
    """The checker's own free draw is allowed, but a refused candidate is only just behind it."""
    params = SamplingParams(temperature=1e-6, top_k=2, top_p=1.0, min_p=0.0)
    row = np.full(600, -50, np.float32)
    row[:4] = [5.0, 4.98, 1.0, 0.5]
    scorer, history = Scorer(params, KEY), History(params)
    mask = FakeMask(lambda i: i != 1)
    score = scorer.score(row, 0, 0, history, mask)
    assert (score.drawn_id, score.margin_mlogit) == (0, 0)
    # The redraw would give 0 as well, so a claim of 2 stays as far behind as it is there.
    assert scorer.score(row, 2, 0, history, mask).margin_mlogit == 4000
    refused_leads = FakeMask(lambda i: i != 0)
    assert scorer.score(row, 1, 0, history, refused_leads).is_match
    assert scorer.score(row, 2, 0, history, refused_leads).margin_mlogit == 3980


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_numbers_are_refused(bad: float, temperature: float) -> None:
    params = SamplingParams(temperature=temperature)
    row = np.zeros(100, np.float32)
    row[3] = bad
    with pytest.raises(SamplerError, match="not usable"):
        Scorer(params, KEY).score(row, 5, 0, History(params))


def test_an_impossible_claim_has_the_widest_margin_and_the_least_logprob() -> None:
    row = np.zeros(100, np.float32)
    row[3] = -math.inf
    for params in (SamplingParams(temperature=0.0), SamplingParams(top_k=0, top_p=1.0, min_p=0.0)):
        score = Scorer(params, KEY).score(row, 3, 0, History(params))
        assert (score.margin_mlogit, score.logprob_mnat) == (MARGIN_MLOGIT_MAX, LOGPROB_MNAT_MIN)
        assert score.rank == 99


def test_observations_hold_the_scores_in_order() -> None:
    params = SamplingParams()
    row = np.array(naive_gumbel.logits_by_rule(2, 900), np.float32)
    scores = [Scorer(params, KEY).score(row, i, i, History(params)) for i in range(4)]
    seen = as_observations(scores)
    assert seen.tokens == 4 and seen.rank == tuple(one.rank for one in scores)
    assert seen.logprob_mnat == tuple(round(1000 * logprobs(row, i, 0)[0]) for i in range(4))
    assert as_observations([]).tokens == 0
