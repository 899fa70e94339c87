"""Never the honest one, always the cheat: judged on tokens of real engines, recorded by bench.verify."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from unhosted.verify.eprocess import EvidenceState, add_answer, peak_log10_e_milli, tokens_until
from unhosted.verify.increments import growth_nnat
from unhosted.verify.noise import GAP_EDGES_MLOGIT, NoiseTable
from unhosted.verify.observations import Observations, joined

FILE = Path(__file__).parent.parent / "vectors" / "verify_observations.json"
CONVICT_LOG10_MILLI = 6_000
WATCH_LOG10_MILLI = 2_000

HONEST = (
    "usual + one slot + small ubatch + warm prefix + all threads + exact cache / usual, statistical",
    "unified cache / usual, statistical",
    "cache q8_0 / usual, statistical",
    "no flash attention / usual, statistical",
    "other library 1 / usual, statistical",
    "usual / no flash attention, statistical",
    "no flash attention / no flash attention, statistical",
    "usual / other library, statistical",
    "other library 1 / other library, statistical",
    "cache q8_0 / exact q8_0, exact",
    "exact cache / exact f16-bf16, exact",
)
CHEATS = (
    ("gemma, statistical", 60),
    ("seed, statistical", 60),
    ("pruned, statistical", 60),
    ("q2_k, statistical", 100),
    ("q3_k_m, statistical", 150),
    ("q4_0, statistical", 100),
    ("q4_0, exact", 60),
    ("t10, statistical", 450),
    ("kv-q4_0, statistical", 300),
    ("system, statistical", 700),
    ("tail-q2_k, statistical", 600),
    ("q8_0, exact", 900),
    ("full-stop, exact", 300),
    ("kv-q8_0, exact", 700),
)
"""With the tokens that each may take: half again as many as today, for bets that are tuned otherwise."""


@cache
def _sets() -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in json.loads(FILE.read_text())["sets"]}


def _table(name: str) -> NoiseTable:
    fields = dict(_sets()[name]["table"])
    for field in ("mean_max_ppb", "tokens"):
        fields[field] = tuple(fields[field])
    return NoiseTable(
        **{
            **fields,
            "model": bytes.fromhex(fields["model"]),
            "bets_ppb": tuple(tuple(row) for row in fields["bets_ppb"]),
        }
    )


def _answers(name: str) -> list[Observations]:
    found = []
    for answer in _sets()[name]["answers"]:
        tokens = len(answer["gap_mlogit"])
        margins, differs = dict(answer["margin_mlogit"]), set(answer["differs"])
        found.append(
            Observations(
                gap_mlogit=tuple(answer["gap_mlogit"]),
                margin_mlogit=tuple(margins.get(place, 0) for place in range(tokens)),
                is_match=tuple(place not in differs for place in range(tokens)),
                logprob_mnat=(0,) * tokens,
                rank=(0,) * tokens,
            )
        )
    return found


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_seller_on_prompts_never_fitted_on_is_not_even_watched(name: str) -> None:
    state, table, answers = EvidenceState(), _table(f"honest: {name}"), _answers(f"honest: {name}")
    for seen in answers:
        state = add_answer(state, table, seen)
    assert peak_log10_e_milli(state) < WATCH_LOG10_MILLI
    assert max(growth_nnat(table, joined(answers))) < 0


@pytest.mark.parametrize(("name", "tokens_max"), CHEATS)
def test_a_cheat_is_convicted_within_so_many_tokens(name: str, tokens_max: int) -> None:
    needed = tokens_until(_table(name), _answers(name), log10_milli=CONVICT_LOG10_MILLI)
    assert needed is not None and needed <= tokens_max


def test_the_record_was_made_for_the_bins_of_today() -> None:
    assert tuple(json.loads(FILE.read_text())["gap_edges_mlogit"]) == GAP_EDGES_MLOGIT


def test_every_recorded_seller_is_judged() -> None:
    assert set(_sets()) == {*(f"honest: {name}" for name in HONEST), *(name for name, _ in CHEATS)}
