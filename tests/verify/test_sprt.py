"""Wald's test on mismatches, the baseline."""

from math import log

import numpy as np
import pytest

from tests.verify.tables import drawn, noise_table, seen
from unhosted.verify.noise import PPB
from unhosted.verify.sprt import ACCUSE_NNAT, CLEAR_NNAT, SprtState, add_tokens, rates, rates_of


def test_each_token_adds_the_ratio_of_its_likelihoods() -> None:
    used = rates(PPB * 3 // 100, PPB * 12 // 100)
    state = add_tokens(SprtState(), used, seen([(10, 50), (10, 0), (10, 0)]))
    assert state.ratio_nnat / 1e9 == pytest.approx(log(4) + 2 * log(0.88 / 0.97), abs=1e-8)
    assert (state.peak_nnat, state.low_nnat) == (used.differs_nnat, 0)
    assert state.tokens == 3 and not state.is_accused


def test_a_cheat_is_accused_and_an_honest_seller_cleared() -> None:
    used, random = rates(PPB * 3 // 100, PPB * 12 // 100), np.random.default_rng(1)
    cheat = add_tokens(SprtState(), used, drawn(random, 400, differs=[0.3] * 9))
    assert cheat.is_accused and cheat.peak_nnat >= ACCUSE_NNAT
    honest = add_tokens(SprtState(), used, drawn(random, 1_000, differs=[0.02] * 9))
    assert not honest.is_accused and honest.low_nnat <= CLEAR_NNAT


def test_it_goes_on_where_it_was() -> None:
    used, tokens = rates(PPB // 50, PPB // 10), seen([(10, 50), (10, 0)] * 5)
    half = add_tokens(SprtState(), used, tokens.part(0, 5))
    assert add_tokens(half, used, tokens.part(5, 10)) == add_tokens(SprtState(), used, tokens)


def test_rates_come_from_the_table_and_must_differ() -> None:
    used = rates_of(noise_table())
    assert (used.honest_ppb, used.cheat_ppb) == (60_000_000, 130_000_000)
    for honest, cheat in ((0, 5), (5, 5), (6, 5), (5, PPB)):
        with pytest.raises(ValueError, match="is needed"):
            rates(honest, cheat)
