"""Stages: raised at once, lowered late, a conviction kept; and what the user is told."""

import subprocess
import sys
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unhosted.verify.verdicts import (
    LOWERED_BELOW_MILLI,
    RAISED_AT_MILLI,
    RESPONSES,
    Stage,
    explain,
    next_stage,
    response_of,
)

stages = st.sampled_from(list(Stage))


def _next(before: Stage, now: int, peak: int | None = None, *, is_proven: bool = False) -> Stage:
    return next_stage(
        before,
        log10_e_milli=now,
        peak_log10_e_milli=max(0, now) if peak is None else peak,
        is_proven=is_proven,
    )


def test_thresholds_are_a_hundred_ten_thousand_and_a_million() -> None:
    assert RAISED_AT_MILLI == {Stage.WATCH: 2_000, Stage.HOLD: 4_000, Stage.CONVICT: 6_000}
    for now, stage in (
        (1_999, Stage.CLEAR),
        (2_000, Stage.WATCH),
        (3_999, Stage.WATCH),
        (4_000, Stage.HOLD),
        (5_999, Stage.HOLD),
        (6_000, Stage.CONVICT),
    ):
        assert _next(Stage.CLEAR, now) is stage


def test_a_stage_is_lowered_a_decade_below_what_raised_it() -> None:
    assert _next(Stage.WATCH, 1_000, 2_500) is Stage.WATCH
    assert _next(Stage.WATCH, 999, 2_500) is Stage.CLEAR
    assert _next(Stage.HOLD, 3_000, 4_500) is Stage.HOLD
    assert _next(Stage.HOLD, 2_999, 4_500) is Stage.WATCH
    assert _next(Stage.HOLD, 999, 4_500) is Stage.CLEAR
    assert _next(Stage.CLEAR, 1_500, 2_500) is Stage.CLEAR, "having been higher does not raise it"


def test_a_conviction_stays_and_follows_from_the_peak() -> None:
    assert _next(Stage.CONVICT, -50_000, 6_100) is Stage.CONVICT
    assert _next(Stage.CLEAR, -50_000, 6_000) is Stage.CONVICT
    assert _next(Stage.CONVICT, 0, 0) is Stage.CONVICT, "one by proof stays as well"


def test_a_proof_convicts_without_statistics() -> None:
    assert _next(Stage.CLEAR, -5_000, 0, is_proven=True) is Stage.CONVICT


@given(stages, st.integers(-(10**6), 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_more_evidence_never_lowers_a_stage(before: Stage, now: int, more: int, above: int) -> None:
    peak = max(0, now + more) + above
    lower = _next(before, now, peak)
    assert _next(before, now + more, peak) >= lower
    assert lower >= next_stage(Stage.CLEAR, log10_e_milli=now, peak_log10_e_milli=peak)


def test_a_peak_below_the_present_is_refused() -> None:
    with pytest.raises(ValueError, match="peak"):
        next_stage(Stage.CLEAR, log10_e_milli=2_000, peak_log10_e_milli=1_999)


def test_responses_only_grow_with_the_stage() -> None:
    assert set(RESPONSES) == set(Stage)
    assert LOWERED_BELOW_MILLI.keys() == RAISED_AT_MILLI.keys() - {Stage.CONVICT}
    in_order = [response_of(stage) for stage in sorted(Stage)]
    for weaker, stronger in pairwise(in_order):
        assert weaker.check_factor <= stronger.check_factor
        for name in ("checks_all", "holds_pay", "is_avoided", "makes_evidence"):
            assert getattr(weaker, name) <= getattr(stronger, name)
    assert [one.makes_evidence for one in in_order] == [False, False, False, True]
    assert [one.holds_pay for one in in_order] == [False, False, True, True]
    assert [one.check_factor for one in in_order][:2] == [1, 5]


@given(stages, st.integers(0, 10**6), st.integers(-(10**6), 10**6), st.booleans())
def test_every_stage_has_words(stage: Stage, tokens: int, now: int, is_gross: bool) -> None:
    words = explain(stage, tokens=tokens, mismatches=tokens // 3, log10_e_milli=now, is_gross=is_gross)
    assert words.endswith(".") and "None" not in words


def test_words_name_the_odds_and_what_is_done() -> None:
    words = explain(Stage.CONVICT, tokens=1_200, mismatches=300, log10_e_milli=6_900)
    assert "300 of 1,200" in words and "1 in 1,000,000" in words
    assert "10^18" in explain(Stage.HOLD, tokens=9, mismatches=9, log10_e_milli=400_000)
    assert "calibrate" in explain(Stage.CLEAR, tokens=9, mismatches=0, log10_e_milli=0, is_gross=True)
    assert explain(
        Stage.CONVICT, tokens=9, mismatches=0, log10_e_milli=0, faults=("The counts differ.",)
    ).startswith("The counts differ.")
    assert "stays" in explain(Stage.CONVICT, tokens=9, mismatches=9, log10_e_milli=-4_000)
    assert explain(Stage.CLEAR, tokens=0, mismatches=0, log10_e_milli=0) == "Nothing was checked yet."


@pytest.mark.slow
def test_the_node_reads_the_rules_without_numpy() -> None:
    modules = ("noise", "increments", "eprocess", "sprt", "verdicts", "hard_checks")
    code = "import sys; " + "; ".join(f"import unhosted.verify.{one}" for one in modules)
    code += "; sys.exit('numpy' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}).returncode == 0
    )
