"""Tables made from measured tokens: bounds that hold, bets with a margin of safety, and refusals."""

from dataclasses import replace

import numpy as np
import pytest

from tests.verify.tables import BINS, drawn, noisy, seen
from unhosted.verify.eprocess import EvidenceState, add_answer, peak_log10_e_milli, tokens_until
from unhosted.verify.fitting import (
    ALTERNATIVES,
    CLIP_MLOGIT_MAX,
    CLIP_MLOGIT_MIN,
    FIT_TOKENS_MIN,
    FitError,
    alternative_of,
    clip_of,
    fit,
    inflated,
    inflated_growth,
    mean_bound,
)
from unhosted.verify.increments import growth_nnat
from unhosted.verify.noise import GAP_EDGES_MLOGIT, PPB, NoiseTable, Rule
from unhosted.verify.observations import Observations, joined

SCALE = 60.0


def _fitted(
    random: np.random.Generator,
    *,
    tokens: int = 8_000,
    scale: float = SCALE,
    held_out_scale: float | None = None,
    rule: Rule = "statistical",
    cheats: dict[str, list[Observations]] | None = None,
    clip_mlogit: int | None = None,
) -> NoiseTable:
    return fit(
        model=bytes(32),
        seller_class="seller",
        checker_class="checker",
        library="library 1",
        rule=rule,
        honest=[noisy(random, tokens // 4, scale_mlogit=scale) for _ in range(4)],
        held_out=[
            noisy(random, tokens // 2, scale_mlogit=scale if held_out_scale is None else held_out_scale)
        ],
        cheats=cheats,
        clip_mlogit=clip_mlogit,
    )


@pytest.mark.parametrize("high", [0.01, 0.3, 1.0])
@pytest.mark.parametrize("chance", [0.0, 0.01, 0.3])
def test_the_bound_is_above_the_mean_and_near_it_with_many_values(high: float, chance: float) -> None:
    random = np.random.default_rng(1)
    for tokens in (10, 300, 5_000):
        x = high * (random.random(tokens) < chance).astype(np.float64)
        bound = mean_bound(x)
        assert max(high * chance, float(x.mean())) <= bound <= 1.0
    assert bound - high * chance < 0.003 + 0.12 * high * max(chance, 0.05)


def test_the_bound_errs_no_more_often_than_it_says() -> None:
    random = np.random.default_rng(2)
    below = sum(mean_bound((random.random(60) < 0.1).astype(float), error=0.05) < 0.1 for _ in range(120))
    assert below <= 12
    assert mean_bound(np.zeros(0)) == 1.0


def test_without_a_flip_the_bound_is_about_ten_over_the_count() -> None:
    assert 9.2 / 2_000 <= mean_bound(np.zeros(2_000)) <= 13 / 2_000


def test_means_are_half_again_above_what_was_measured_in_every_bin() -> None:
    random = np.random.default_rng(3)
    table = _fitted(random)
    tokens = noisy(np.random.default_rng(99), 30_000, scale_mlogit=SCALE)
    bins = np.searchsorted(GAP_EDGES_MLOGIT, tokens.gap_mlogit, side="right") - 1
    x = np.minimum(tokens.margin_mlogit, table.clip_mlogit) / table.clip_mlogit
    for index in range(BINS):
        assert table.mean_max_ppb[index] / PPB >= 1.5 * x[bins == index].mean() - 0.001
    assert sum(table.tokens) == 8_000
    assert table.mean_max_ppb[-1] < table.mean_max_ppb[4] < table.mean_max_ppb[2]


@pytest.mark.slow
def test_honest_tokens_lose_also_with_noise_half_again_as_strong() -> None:
    random = np.random.default_rng(4)
    table = _fitted(random)
    assert table.held_out_growth_nnat < 0
    strong = noisy(random, 12_000, scale_mlogit=1.5 * SCALE)
    assert max(growth_nnat(table, strong)) < 0
    assert max(inflated_growth(table, noisy(random, 8_000, scale_mlogit=SCALE))) < 0
    for index in range(BINS):
        inside = [at for at, gap in enumerate(strong.gap_mlogit) if _bin(gap) == index]
        if len(inside) >= 300:
            part = seen([(strong.gap_mlogit[at], strong.margin_mlogit[at]) for at in inside])
            assert max(growth_nnat(table, part)) <= 300_000, f"bin {index}"


def test_inflated_tokens_look_like_those_of_stronger_noise() -> None:
    random = np.random.default_rng(5)
    measured, true = (noisy(random, 30_000, scale_mlogit=scale) for scale in (SCALE, 1.5 * SCALE))

    def flips(tokens: Observations) -> float:
        inside = [
            match for gap, match in zip(tokens.gap_mlogit, tokens.is_match, strict=True) if 80 <= gap < 200
        ]
        return 1 - sum(inside) / len(inside)

    assert flips(inflated(measured)) == pytest.approx(flips(true), rel=0.3)
    assert flips(inflated(measured)) > 2 * flips(measured)


def test_the_clip_is_the_honest_tail_within_its_limits() -> None:
    def clip(margins: list[int]) -> int:
        return clip_of(seen([(10, margin) for margin in margins]))

    assert clip([0] * 2_000) == CLIP_MLOGIT_MIN
    assert clip([5_000] * 2_000) == CLIP_MLOGIT_MAX
    assert clip([0] * 900 + [430] * 100) == 450
    assert _fitted(np.random.default_rng(6), clip_mlogit=700).clip_mlogit == 700


def test_a_fitted_table_convicts_cheats_and_spares_honesty() -> None:
    random = np.random.default_rng(7)
    table = _fitted(random)
    cheat = [noisy(random, 200, scale_mlogit=12 * SCALE) for _ in range(8)]
    needed = tokens_until(table, cheat, log10_milli=6_000)
    assert needed is not None and needed <= 400
    state = EvidenceState()
    for _ in range(20):
        state = add_answer(state, table, noisy(random, 100, scale_mlogit=SCALE))
    assert peak_log10_e_milli(state) < 2_000


@pytest.mark.slow
def test_the_exact_rule_sees_what_the_statistical_one_cannot() -> None:
    random = np.random.default_rng(8)
    exact = _fitted(random, scale=0.0, rule="exact")
    statistical = _fitted(random, scale=SCALE)
    faint = [noisy(random, 200, scale_mlogit=SCALE) for _ in range(10)]
    needed = tokens_until(exact, faint, log10_milli=6_000)
    assert needed is not None and needed <= 600
    assert tokens_until(statistical, faint, log10_milli=6_000) is None
    assert max(exact.mean_max_ppb) < PPB // 50


@pytest.mark.slow
def test_a_known_cheat_tunes_the_bets() -> None:
    random = np.random.default_rng(9)
    known = [noisy(random, 4_000, scale_mlogit=5 * SCALE)]
    tuned, usual = _fitted(random, cheats={"known": known}), _fitted(random)
    assert len(tuned.bets_ppb) == 1 and len(usual.bets_ppb) == len(ALTERNATIVES["statistical"])
    assert max(growth_nnat(tuned, known[0])) >= max(growth_nnat(usual, known[0])) * 0.9
    many = {f"cheat {index}": [drawn(random, 500, differs=[0.1 * index] * BINS)] for index in range(2, 8)}
    assert len(_fitted(random, cheats=many).bets_ppb) == 4


def test_an_alternative_is_what_the_cheat_does_in_each_bin() -> None:
    random = np.random.default_rng(10)
    share = [0.6, 0.5, 0.5, 0.4, 0.4, 0.3, 0.2, 0.1, 0.05]
    found = alternative_of("cheat", [drawn(random, 40_000, differs=share)])
    assert found.differs == pytest.approx(share, abs=0.05)
    few = alternative_of("few", [seen([(5_000, 6_000)] * 30 + [(5_000, 0)] * 30 + [(10, 0)] * 3)])
    assert few.differs == (0.5,) * BINS, "bins that were not reached take the nearest one's"
    assert alternative_of("fewer", [seen([(10, 20)] * 3)]).differs == (1.0,) * BINS
    with pytest.raises(FitError, match="nothing"):
        alternative_of("nothing", [])


def test_too_few_tokens_are_refused() -> None:
    random = np.random.default_rng(11)
    with pytest.raises(FitError, match=str(FIT_TOKENS_MIN)):
        _fitted(random, tokens=FIT_TOKENS_MIN - 4)
    honest = [noisy(random, 2_000, scale_mlogit=SCALE)]
    with pytest.raises(FitError, match="held-out"):
        fit(
            model=bytes(32),
            seller_class="",
            checker_class="",
            library="",
            rule="statistical",
            honest=honest,
            held_out=[honest[0].part(0, 10)],
        )


def test_held_out_prompts_that_gain_refuse_the_table() -> None:
    with pytest.raises(FitError, match="held-out honest tokens would gain"):
        _fitted(np.random.default_rng(12), held_out_scale=10 * SCALE)


def test_noise_that_nothing_stands_out_from_is_refused() -> None:
    random = np.random.default_rng(13)
    with pytest.raises(FitError, match="no bet gains"):
        _fitted(random, cheats={"none": [replace(joined([seen([(3_000, 0)] * 500)]))]})


def test_bins_below_the_peak_of_noise_are_not_bounded_by_their_neighbours() -> None:
    # Half of the tokens of the second bin differ by half the clip, and none of the first.
    tokens = [(10, 0)] * 3_000 + [(30, 250), (30, 0)] * 400 + [(5_000, 0)] * 3_000
    table = _of(tokens)
    assert table.mean_max_ppb[0] < 0.02 * PPB
    assert table.mean_max_ppb[1] > 1.5 * 0.25 * PPB


def test_a_gap_on_an_edge_is_fitted_in_the_bin_that_bets_on_it() -> None:
    table = _of([(edge, 0) for edge in GAP_EDGES_MLOGIT for _ in range(200)])
    assert table.tokens == (200,) * BINS


def test_a_cheat_hardly_above_noise_gets_no_bet() -> None:
    random = np.random.default_rng(15)
    near, far = (noisy(random, 8_000, scale_mlogit=times * SCALE) for times in (1.4, 12))
    with pytest.raises(FitError, match="no bet gains"):
        _fitted(random, cheats={"near": [near]})
    assert len(_fitted(random, cheats={"near": [near], "far": [far]}).bets_ppb) == 1


@pytest.mark.slow
def test_no_bin_has_a_stake_that_stronger_noise_would_gain_by() -> None:
    # The cheat is hardly above noise at near ties, where its best stake would be a small one, and strong
    # elsewhere, so that the row as a whole loses on honest tokens.
    random = np.random.default_rng(16)
    honest, held_out = _near_ties(random, SCALE, far=0.001), _near_ties(random, SCALE, far=0.001)
    table = fit(
        model=bytes(32),
        seller_class="",
        checker_class="",
        library="",
        rule="statistical",
        honest=[honest],
        held_out=[held_out],
        cheats={"mixed": [_near_ties(random, 1.55 * SCALE, far=0.5)]},
    )
    assert table.bets_ppb[0][-2] > PPB // 10
    stronger = inflated(honest)
    for index in {_bin(gap) for gap in stronger.gap_mlogit}:
        inside = [at for at, gap in enumerate(stronger.gap_mlogit) if _bin(gap) == index]
        part = seen([(stronger.gap_mlogit[at], stronger.margin_mlogit[at]) for at in inside])
        assert max(growth_nnat(table, part)) <= 0, f"bin {index}"


def test_a_table_of_few_tokens_is_careful() -> None:
    few, many = (_fitted(np.random.default_rng(14), tokens=count) for count in (1_200, 12_000))
    assert all(a >= b for a, b in zip(few.mean_max_ppb, many.mean_max_ppb, strict=True))


def _of(tokens: list[tuple[int, int]]) -> NoiseTable:
    return fit(
        model=bytes(32),
        seller_class="",
        checker_class="",
        library="",
        rule="statistical",
        honest=[seen(tokens)],
        held_out=[seen(tokens)],
        clip_mlogit=500,
    )


def _near_ties(random: np.random.Generator, scale_mlogit: float, *, far: float) -> Observations:
    """Half of the gaps below 200, with normal noise; half of 2,000, where the part `far` differs."""
    gaps = random.integers(0, 200, 6_000)
    flips = random.normal(0, scale_mlogit, 6_000) > gaps
    near = zip(gaps.tolist(), np.where(flips, np.maximum(gaps, 1), 0).tolist(), strict=True)
    differs = (random.random(6_000) < far).tolist()
    return seen([*near, *((2_000, 3_000 if one else 0) for one in differs)])


def _bin(gap: int) -> int:
    return sum(gap >= edge for edge in GAP_EDGES_MLOGIT) - 1
