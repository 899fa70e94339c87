"""The sampler against its specification, its vectors, and the distribution it promises."""

import json
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.verify import naive_gumbel as naive
from unhosted.verify.history import History
from unhosted.verify.params import SamplingParams
from unhosted.verify.sampler import (
    DeadEnd,
    Sampler,
    SamplerError,
    gumbel,
    logprobs,
    ranked,
    request_key,
    survivors,
    uniform,
)

KEY = request_key(bytes(32), bytes(range(32)))


class FakeMask:
    """Allows what a predicate allows, and counts how often it was asked about many."""

    def __init__(self, allowed: Callable[[int], bool]) -> None:
        self.allowed = allowed
        self.widths: list[int] = []

    def allows(self, token_id: int) -> bool:
        return self.allowed(token_id)

    def mask_ids(self, ids: NDArray[np.int32]) -> NDArray[np.bool_]:
        self.widths.append(len(ids))
        return np.array([self.allowed(i) for i in ids.tolist()], np.bool_)


def history_of(params: SamplingParams, prompt: list[int], output: list[int]) -> History:
    history = History(params, prompt)
    for token_id in output:
        history.push(token_id)
    return history


def test_vectors_in_the_repository_are_what_the_specification_gives() -> None:
    assert json.loads(naive.VECTORS.read_text())["vectors"] == naive.vectors()


@pytest.mark.parametrize("vector", json.loads(naive.VECTORS.read_text())["vectors"], ids=lambda v: v["case"])
def test_vectors_hold(vector: dict) -> None:  # type: ignore[type-arg]
    params = naive.params_of(vector["params"])
    key = request_key(bytes.fromhex(vector["core_hash"]), params.seed)
    assert key.hex() == vector["key"]
    row = np.array(naive.logits_by_rule(vector["case"], vector["n_vocab"]), np.float32)
    history = history_of(params, vector["prompt"], vector["output"])
    if vector["survivors"] is not None:
        ids, _ = survivors(*ranked(row, history, 1024), params)
        assert ids.tolist() == vector["survivors"]
        for draw in vector["draws"]:
            u = float(uniform(key, draw["position"], ids[:1])[0])
            assert u.hex() == draw["u_of_best"]
            assert u == naive.u_of(int(draw["x_of_best"], 16))
    for draw in vector["draws"]:
        assert Sampler(params, key).draw(row, draw["position"], history) == draw["token"]


PARAMS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.3, 0.8, 1.0, 3.0]),
    top_k=st.sampled_from([0, 1, 2, 7, 40, 2000]),
    top_p=st.sampled_from([0.0, 0.3, 0.95, 1.0]),
    min_p=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    repeat_penalty=st.sampled_from([1.0, 0.7, 1.3]),
    repeat_last_tokens=st.sampled_from([0, 1, 3, 64]),
    frequency_penalty=st.sampled_from([0.0, 0.4, -1.5]),
    presence_penalty=st.sampled_from([0.0, 0.6, -0.3]),
    logit_bias=st.lists(
        st.tuples(st.integers(0, 49), st.sampled_from([-100.0, -1.5, 3.25, 100.0])), unique_by=lambda b: b[0]
    ).map(lambda pairs: tuple(sorted(pairs))),
    seed=st.binary(min_size=32, max_size=32),
)
IDS = st.lists(st.integers(0, 49), max_size=100)


@settings(max_examples=60, deadline=None)
@given(
    params=PARAMS,
    # Few distinct values, so that ties are common; sizes on both sides of the table's threshold.
    row=st.integers(50, 3000).flatmap(
        lambda n: st.builds(
            lambda seed, levels: (
                np.random.default_rng(seed).integers(-levels, levels, n).astype(np.float32) / 4
            ),
            st.integers(0, 2**32 - 1),
            st.sampled_from([3, 30, 3000]),
        )
    ),
    prompt=IDS,
    output=IDS,
    position=st.integers(0, 2**32 - 1),
)
def test_agrees_with_a_naive_reading_of_the_specification(
    params: SamplingParams, row: NDArray[np.float32], prompt: list[int], output: list[int], position: int
) -> None:
    history = history_of(params, prompt, output)
    key = naive.key_of(bytes(32), params.seed)
    z = naive.adjusted_logits(row.tolist(), params, prompt, output)
    pool = naive.surviving(z, params)
    before = row.tobytes()
    assert Sampler(params, key).draw(row, position, history) == naive.drawn(z, pool, params, key, position)
    assert survivors(*ranked(row, history, 1024), params)[0].tolist() == pool
    assert row.tobytes() == before


@given(
    row=st.lists(st.one_of(st.just(-math.inf), st.integers(-20, 20)), min_size=5, max_size=400).filter(
        lambda row: max(row) > -math.inf
    ),
    count=st.integers(1, 60),
)
@settings(deadline=None)
def test_ranking_is_exact_and_never_names_the_impossible(row: list[float], count: int) -> None:
    ids, z = ranked(np.array(row, np.float32), History(SamplingParams()), count)
    expected = sorted((i for i, v in enumerate(row) if v > -math.inf), key=lambda i: (-row[i], i))[:count]
    assert ids.tolist() == expected
    assert z.tolist() == [row[i] for i in expected]


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0),
        SamplingParams(temperature=0.7, top_k=0, top_p=1.0, min_p=0.0),
        SamplingParams(temperature=2.0, top_k=5, top_p=1.0, min_p=0.0),
        SamplingParams(temperature=1.0, top_k=0, top_p=0.8, min_p=0.0),
        SamplingParams(temperature=1.0, top_k=0, top_p=1.0, min_p=0.3),
    ],
)
def test_draws_follow_the_softmax_of_the_survivors(params: SamplingParams) -> None:
    row = np.array([2.0, 1.5, 1.5, 1.0, 0.5, 0.0, -0.5, -1.0, -2.0, -3.0], np.float32)
    history = History(params)
    ids, z = survivors(*ranked(row, history, 1024), params)
    p = np.exp(z / params.temperature)
    p /= p.sum()
    draws = 3000
    sampler = Sampler(params, KEY)
    counts = np.bincount([sampler.draw(row, t, history) for t in range(draws)], minlength=10)
    assert counts.sum() == counts[ids].sum()
    chi_square = float(((counts[ids] - draws * p) ** 2 / (draws * p)).sum())
    # 99.9 % quantile of chi-square with at most 9 degrees of freedom.
    assert chi_square < 27.9


def test_noise_is_independent_over_positions_and_tokens() -> None:
    u = np.stack([uniform(KEY, t, np.arange(200)) for t in range(200)])
    assert u.min() > 0.0 and u.max() < 1.0
    centred = (u - 0.5) * math.sqrt(12)
    n = u.size
    assert abs(centred.mean()) < 4 / math.sqrt(n)
    assert abs((centred[1:] * centred[:-1]).mean()) < 4 / math.sqrt(n)
    assert abs((centred[:, 1:] * centred[:, :-1]).mean()) < 4 / math.sqrt(n)
    # (t, i) and (i, t) must not share noise either.
    assert abs((centred * centred.T)[np.triu_indices(200, 1)].mean()) < 4 / math.sqrt(n / 2)
    assert not np.intersect1d(u, uniform(request_key(bytes(32), bytes(32)), 0, np.arange(200))).size


def test_one_tokens_noise_does_not_depend_on_the_others() -> None:
    alone = gumbel(KEY, 7, np.array([123]))
    among = gumbel(KEY, 7, np.array([5, 123, 9]))
    assert alone[0] == among[1]


def test_position_counts_on_over_a_resume() -> None:
    params = SamplingParams(repeat_penalty=1.2, frequency_penalty=0.3)
    rows = [np.array(naive.logits_by_rule(t, 500), np.float32) for t in range(20)]
    sampler = Sampler(params, KEY)
    history, whole = History(params, [1, 2, 3]), []
    for t, row in enumerate(rows):
        whole.append(sampler.draw(row, t, history))
        history.push(whole[-1])
    resumed = history_of(params, [1, 2, 3], whole[:8])
    again = whole[:8]
    for t, row in enumerate(rows[8:], start=8):
        again.append(sampler.draw(row, t, resumed))
        resumed.push(again[-1])
    assert again == whole


def test_history_grows_beyond_its_first_capacity_and_forgets_what_leaves_the_window() -> None:
    params = SamplingParams(repeat_penalty=2.0, repeat_last_tokens=10)
    history = history_of(params, [], list(range(1000)))
    ids, z = history.adjusted(np.ones(1000, np.float32))
    halved = sorted(ids[z == 0.5].tolist())
    assert halved == list(range(990, 1000))
    assert len(ids) == 1000


def test_a_mask_redraws_among_the_best_that_it_allows() -> None:
    params = SamplingParams(top_k=3, top_p=1.0, min_p=0.0)
    row = np.linspace(0, 60, 20_000).astype(np.float32)
    allowed = {19_990, 19_991, 19_992, 19_993, 5}
    mask = FakeMask(lambda i: i in allowed)
    token_id = Sampler(params, KEY).draw(row, 0, History(params), mask)
    assert token_id in {19_991, 19_992, 19_993}
    assert mask.widths == [512]
    z = row.tolist()
    best = sorted(range(len(z)), key=lambda i: (-z[i], i))[:512]
    pool = naive.surviving(z, params, [i for i in best if i in allowed])
    assert token_id == naive.drawn(z, pool, params, KEY, 0)


def test_a_mask_is_asked_wider_and_wider_and_then_reported_as_a_dead_end() -> None:
    params = SamplingParams(temperature=0.0)
    row = np.linspace(0, 60, 20_000).astype(np.float32)
    sampler, history = Sampler(params, KEY), History(params)
    only_worst = FakeMask(lambda i: i == 0)
    assert sampler.draw(row, 0, history, only_worst) == 0
    assert only_worst.widths == [512, 8192, 20_000]
    with pytest.raises(DeadEnd, match="none of 20000"):
        sampler.draw(row, 0, history, FakeMask(lambda i: False))


def test_a_mask_that_allows_the_free_draw_changes_nothing() -> None:
    params = SamplingParams()
    row = np.array(naive.logits_by_rule(3, 900), np.float32)
    sampler, history = Sampler(params, KEY), History(params)
    mask = FakeMask(lambda i: True)
    assert sampler.draw(row, 4, history, mask) == sampler.draw(row, 4, history)
    assert mask.widths == []


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_numbers_are_refused(bad: float, temperature: float) -> None:
    params = SamplingParams(temperature=temperature)
    row = np.zeros(100, np.float32)
    row[3] = bad
    with pytest.raises(SamplerError, match="not usable"):
        Sampler(params, KEY).draw(row, 0, History(params))


def test_a_bias_outside_the_vocabulary_is_refused() -> None:
    params = SamplingParams(logit_bias=((100, 1.0),))
    with pytest.raises(SamplerError, match="outside the vocabulary"):
        Sampler(params, KEY).draw(np.zeros(100, np.float32), 0, History(params))


def test_logprobs_are_the_log_of_the_softmax() -> None:
    row = np.array(naive.logits_by_rule(1, 2000), np.float32)
    exact = row.astype(np.float64) - math.log(sum(math.exp(v) for v in row.tolist()))
    own, top = logprobs(row, 77, 5)
    assert own == pytest.approx(exact[77], abs=1e-5)
    best = np.lexsort((np.arange(2000), -exact))[:5].tolist()
    assert [i for i, _ in top] == best
    assert [v for _, v in top] == pytest.approx(exact[best].tolist(), abs=1e-5)
    assert logprobs(row, 77, 0)[1] == []


def test_keys_differ_by_seed_and_by_request() -> None:
    keys = {request_key(bytes([a]) * 32, bytes([b]) * 32) for a in range(3) for b in range(3)}
    assert len(keys) == 9
    with pytest.raises(SamplerError, match="must be 32"):
        request_key(b"", bytes(32))
