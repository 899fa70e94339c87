"""What a pulled cable costs: how long an answer stands still when its machine falls off the net.

Three machines in network namespaces, paired: a laptop without models, and two that have SmolLM2. The laptop's
answers come from one of these; at a random token its cable is pulled, so that nothing more comes and no
connection is closed, and the other one goes on. The gap is what the client sees, from the last text before to
the first one after. Each answer is compared with one of the same request that nobody disturbed. Needs Linux
with `ip`, and root or user namespaces.
"""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.common import Report, model_file, save
from bench.servers import BenchError
from tests.netns.lab import Lab
from tests.netns.ring import Ring, Said, long_answer, wait

PULLS = 50
TOKENS = 160
FIRST_PULLED, LAST_PULLED = 2, 120
"""Pieces of text before the cable is pulled; after the last of them enough are left to come."""

SEEDS = (11, 12, 13, 14, 15)
MEDIAN_MAX_S, WORST_MAX_S = 2.0, 4.0
LAPTOP, SERVERS = "laptop", ("desktop", "server")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pull:
    """One answer. resumed_at, first_difference: characters after which another machine went on, and after
    which it left the undisturbed one; None if it never did.
    """

    seed: int
    after_pieces: int
    gap_s: float
    steady_s: float
    back_s: float
    is_whole: bool
    resumed_at: int
    first_difference: int | None
    resumed_on: tuple[str, ...]


def run(report: Report, *, pulls: int, model: str) -> None:
    """Measure and print; see the module's first lines."""
    draw = random.Random(model)
    with Lab() as lab, tempfile.TemporaryDirectory() as folder:
        ring = Ring(lab, Path(folder))
        ring.add(LAPTOP)
        for name in SERVERS:
            ring.add(name, env={"UNHOSTED_THREADS": "1"}, models={model: model_file(model).absolute()})
        ring.start(LAPTOP, *SERVERS)
        for name in SERVERS:
            ring.wait_seen(LAPTOP, name)
            ring.pair(LAPTOP, name)
        ring.wait_known(LAPTOP, *SERVERS)
        whole = {seed: [_undisturbed(ring, model, seed, name) for name in SERVERS] for seed in SEEDS}
        done = []
        for number in range(pulls):
            seed = SEEDS[number % len(SEEDS)]
            done.append(_pull(ring, model, seed, draw.randint(FIRST_PULLED, LAST_PULLED), whole[seed]))
            report.measurements[f"cables {model}"] = [asdict(one) for one in done]
    _print(report, done, model, noise=sum(len(set(texts)) > 1 for texts in whole.values()))


def _undisturbed(ring: Ring, model: str, seed: int, name: str) -> str:
    """What this machine answers by itself."""
    *_, said = ring.stream(name, _body(model, seed))
    if said.finish != "length":
        raise BenchError(f"{name} ended with {said.finish or said.error}")
    return said.text


def _body(model: str, seed: int) -> dict[str, object]:
    return long_answer(model=model, seed=seed, tokens=TOKENS, cache_prompt=False)


def _pull(ring: Ring, model: str, seed: int, after: int, whole: list[str]) -> Pull:
    said, pulled_at_s, host = Said(), 0.0, ring.hosts[LAPTOP]
    for said in ring.stream(LAPTOP, _body(model, seed)):
        if not pulled_at_s and len(said.pieces) >= after:
            host = ring.hosts[said.served_by]
            pulled_at_s = time.monotonic()
            ring.lab.link_down(host)
    times = said.times_s
    gaps = [(now - times[at], at + 1) for at, now in enumerate(times[1:])]
    gap_s, resumed = max(one for one in gaps if times[one[1]] >= pulled_at_s)
    ring.lab.link_up(host)
    plugged_at_s = time.monotonic()
    ring.wait_known(LAPTOP, host.name)
    back_s = time.monotonic() - plugged_at_s
    wait("idle machines", lambda: all(ring.is_idle(name) for name in SERVERS))
    same = [_first_difference(said.text, text) for text in whole]
    return Pull(
        seed=seed,
        after_pieces=after,
        gap_s=gap_s,
        steady_s=statistics.median(gap for gap, _ in gaps),
        back_s=back_s,
        is_whole=said.finish == "length" and said.usage["completion_tokens"] == TOKENS and not said.error,
        resumed_at=len("".join(said.pieces[:resumed])),
        first_difference=None if None in same else max(one for one in same if one is not None),
        resumed_on=tuple(said.unhosted["resumed_on"]) if said.unhosted else (),
    )


def _first_difference(one: str, other: str) -> int | None:
    if one == other:
        return None
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (left, right) in pairs if left != right), min(len(one), len(other)))


def _print(report: Report, done: list[Pull], model: str, *, noise: int) -> None:
    gaps = [one.gap_s for one in done]
    back = [one.back_s for one in done]
    turned = [one for one in done if one.first_difference is not None]
    flips = sum(one.first_difference >= one.resumed_at for one in turned if one.first_difference is not None)
    report.title(f"{len(done)} cables pulled in mid-answer ({model}, {TOKENS} tokens)")
    rows = [
        _row("an answer stands still, s", gaps, f"≤ {MEDIAN_MAX_S:g}, ≤ {WORST_MAX_S:g}"),
        _row("until a machine that is plugged in again is used, s", back, ""),
    ]
    report.table(["", "median", "worst", "goal"], rows)
    report.note(
        f"{sum(one.is_whole for one in done)} of {len(done)} answers whole, "
        f"{sum(bool(one.resumed_on) for one in done)} went on elsewhere. Numeric noise turned a token after "
        f"the pull in {flips} and before it in {len(turned) - flips}; of {len(SEEDS)} requests that nobody "
        f"disturbed the two machines answered {noise} differently."
    )


def _row(name: str, values: Sequence[float], goal: str) -> list[str]:
    return [name, f"{statistics.median(values):.2f}", f"{max(values):.2f}", goal]


def main() -> None:
    made = argparse.ArgumentParser(description="What a pulled cable costs an answer.")
    made.add_argument("--pulls", type=int, default=PULLS, help=f"default {PULLS}")
    made.add_argument("--model", default="q4_0", help="quantization of SmolLM2 (default q4_0)")
    made.add_argument("--json", type=Path, help="write every measurement to this file")
    options = made.parse_args()
    report = Report()
    report.machine()
    run(report, pulls=options.pulls, model=options.model)
    save(report, options.json)


if __name__ == "__main__":
    main()
