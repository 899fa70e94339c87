"""What checkers see of the answers: read again by the product's own check, kept for the tables.

A checker's reading is kept with the answers' names; a change of the scoring makes what is kept worthless, and
`--rescore` reads all anew.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import trio

from bench.verify.corpus import KEPT_DIR, Served
from bench.verify.models import model_path
from unhosted.node.shell.calibrating.answers import Answer
from unhosted.node.shell.calibrating.measuring import score
from unhosted.node.shell.calibrating.settings import CheckerSetting
from unhosted.verify.observations import Observations

Line = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One answer as one checker sees it."""

    answer: Answer
    observations: Observations


def read_again(served: Served, checker: CheckerSetting, *, reads: bool = True) -> tuple[Seen, ...]:
    """Every answer under the checker; those that were read are not read again.

    reads: off gives only those that were.
    """
    path = KEPT_DIR / "seen" / checker.name.replace(" ", "-") / f"{served.name}.jsonl"
    lines = _kept(path)
    missing = [answer for answer in served.answers if answer.number not in lines]
    if missing and reads:
        path.parent.mkdir(parents=True, exist_ok=True)

        def add(answer: Answer, observations: Observations) -> None:
            line = {"number": answer.number, "seen": asdict(observations)}
            with path.open("a") as file:
                file.write(json.dumps(line) + "\n")
            lines[answer.number] = line

        trio.run(score, model_path(served.sold), checker, missing, add)
    return tuple(
        _unpacked(answer, lines[answer.number]) for answer in served.answers if answer.number in lines
    )


def _kept(path: Path) -> dict[int, Line]:
    if not path.exists():
        return {}
    return {line["number"]: line for line in map(json.loads, path.read_text().splitlines())}


def _unpacked(answer: Answer, line: Line) -> Seen:
    seen = {name: tuple(values) for name, values in line["seen"].items()}
    return Seen(answer=answer, observations=Observations(**seen))
