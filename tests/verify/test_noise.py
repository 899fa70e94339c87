"""Noise tables: their limits, and the worst of several for engines that nobody measured."""

from dataclasses import replace

import numpy as np
import pytest

from tests.verify.tables import BINS, drawn, noise_table
from unhosted.verify.eprocess import EvidenceState, add_answer, peak_log10_e_milli
from unhosted.verify.noise import GROSS_MEAN_PPB, PPB, worst_of


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": b"short"}, "32 are needed"),
        ({"rule": "vague"}, "neither"),
        ({"clip_mlogit": 0}, "clip_mlogit"),
        ({"mean_max_ppb": (1,) * 8}, "8 bins"),
        ({"mean_max_ppb": (0,) * 9}, "mean_max_ppb"),
        ({"mean_max_ppb": (PPB,) * 9}, "mean_max_ppb"),
        ({"bets_ppb": ()}, "rows"),
        ({"bets_ppb": ((1,) * 9,) * 5}, "rows"),
        ({"bets_ppb": ((PPB,) * 9,)}, "bets_ppb"),
        ({"bets_ppb": ((-1,) * 9,)}, "bets_ppb"),
        ({"tokens": (1,) * 3}, "3 bins"),
        ({"mismatch_max_ppb": 0}, "mismatch_max_ppb"),
        ({"library": "x" * 201}, "library"),
    ],
)
def test_a_table_that_breaks_a_limit_is_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(noise_table(), **change)  # type: ignore[arg-type]


def test_the_worst_of_tables_allows_what_any_of_them_does_and_more() -> None:
    near, far = noise_table(), noise_table(means=[400] * 9, clip_mlogit=500)
    gross = worst_of([near, far], seller_class="unknown", checker_class="mine")
    assert gross.is_gross and gross.rule == "statistical"
    assert gross.mean_max_ppb == (400_000_000,) * BINS
    assert worst_of([near], seller_class="", checker_class="").mean_max_ppb == (GROSS_MEAN_PPB,) * BINS
    wide = noise_table(means=[400] * 9, clip_mlogit=2_000)
    assert worst_of([wide], seller_class="", checker_class="").mean_max_ppb == (800_000_000,) * BINS


def test_the_worst_of_exact_tables_still_judges_by_the_margin() -> None:
    exact = noise_table(rule="exact", means=[400] * 9)  # shares of mismatches, which no margin is held to
    gross = worst_of([exact], seller_class="", checker_class="")
    assert gross.rule == "statistical" and gross.mean_max_ppb == (GROSS_MEAN_PPB,) * BINS


def test_a_gross_table_convicts_gross_cheats_alone() -> None:
    gross = worst_of([noise_table()], seller_class="", checker_class="")
    random = np.random.default_rng(1)

    def peak(differs: list[float], margin: float) -> int:
        state = EvidenceState()
        for _ in range(4):
            state = add_answer(state, gross, drawn(random, 200, differs=differs, margin_mlogit=margin))
        return peak_log10_e_milli(state)

    assert peak([0.7, 0.7, 0.7, 0.7, 0.65, 0.6, 0.5, 0.35, 0.1], 1_500) >= 6_000
    assert peak([0.6, 0.5, 0.4, 0.25, 0.1, 0.03, 0.01, 0.001, 0.001], 80) < 2_000


def test_the_worst_of_nothing_or_of_several_models_is_refused() -> None:
    with pytest.raises(ValueError, match="no table"):
        worst_of([], seller_class="", checker_class="")
    with pytest.raises(ValueError, match="several models"):
        worst_of([noise_table(), replace(noise_table(), model=bytes(32))], seller_class="", checker_class="")
