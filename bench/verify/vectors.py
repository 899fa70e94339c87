"""A small recorded sample of real readings, and histograms of them.

The test suite judges honest sellers and cheats by the very tokens that engines gave, without an engine; a
simulation may draw noise from the histograms. Gaps are cut at GAP_MAX, far above the last bin's edge, and
margins of 0 are left out: no rule can tell the difference.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.verify.scoring import Seen
from unhosted.verify.increments import bin_of
from unhosted.verify.noise import GAP_EDGES_MLOGIT, NoiseTable

FILE = Path(__file__).resolve().parents[2] / "tests" / "vectors" / "verify_observations.json"
GAP_MAX = 9_999
MARGIN_EDGES_MLOGIT = (0, 1, 20, 50, 100, 200, 400, 700, 1_000, 2_000, 10_000)
"""Lower edges of the histograms' columns: the first holds margins of 0, the last is open."""

HONEST_TOKENS, CHEAT_TOKENS = 2_600, 1_300
"""Of each set that is recorded; histograms are of all its tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """One seller as one checker sees it, and the table that it is judged by."""

    name: str
    is_honest: bool
    table: NoiseTable
    seen: Sequence[Seen]


def write(sets: Iterable[Recorded], file: Path = FILE) -> None:
    """One line for each answer, so that a change is seen as what it is."""
    written = []
    for one in sets:
        tokens_max = HONEST_TOKENS if one.is_honest else CHEAT_TOKENS
        table = {**asdict(one.table), "model": one.table.model.hex()}
        head = {"name": one.name, "is_honest": one.is_honest, "table": table}
        answers = [_line(answer) for answer in _sample(one.seen, tokens_max)]
        written.append(_open({**head, "histogram": _histogram(one.seen)}, "answers", answers))
    edges = {"gap_edges_mlogit": GAP_EDGES_MLOGIT, "margin_edges_mlogit": MARGIN_EDGES_MLOGIT}
    file.write_text(_open({"format": 1, **edges}, "sets", written) + "\n")


def _line(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _open(head: dict[str, object], name: str, lines: Sequence[str]) -> str:
    """The object with one more field, a list that has a line for each entry."""
    joined = ",\n".join(lines)
    return f'{_line(head)[:-1]},"{name}":[\n{joined}\n]}}'


def _sample(seen: Sequence[Seen], tokens_max: int) -> list[dict[str, object]]:
    """Whole answers from the start of the list, of prompts that no table was fitted on."""
    found: list[dict[str, object]] = []
    tokens = 0
    for one in seen:
        if one.answer.part != "held-out" or not one.observations.tokens:
            continue
        if tokens + one.observations.tokens > tokens_max and found:
            continue
        tokens += one.observations.tokens
        found.append(_packed(one))
    return found


def _packed(one: Seen) -> dict[str, object]:
    seen = one.observations
    return {
        "kind": one.answer.kind,
        "temperature": one.answer.sampling.temperature,
        "gap_mlogit": [min(gap, GAP_MAX) for gap in seen.gap_mlogit],
        "margin_mlogit": [[place, margin] for place, margin in enumerate(seen.margin_mlogit) if margin],
        "differs": [place for place, is_match in enumerate(seen.is_match) if not is_match],
    }


def _histogram(seen: Sequence[Seen]) -> list[list[int]]:
    """A row for each bin of the gap: tokens by their margin, and last those that differ."""
    rows = [[0] * (len(MARGIN_EDGES_MLOGIT) + 1) for _ in GAP_EDGES_MLOGIT]
    for one in seen:
        observations = one.observations
        for gap, margin, is_match in zip(
            observations.gap_mlogit, observations.margin_mlogit, observations.is_match, strict=True
        ):
            row = rows[bin_of(gap)]
            row[sum(edge <= margin for edge in MARGIN_EDGES_MLOGIT) - 1] += 1
            row[-1] += not is_match
    return rows
