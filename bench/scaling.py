"""Two equal nodes against one: 32 streams asked of the laptop, alone and with a paired desktop beside it.

Both have the model and 16 slots. Each node, engine included, is pinned to a core of its own and its engine
runs one thread: two machines of one core each, as far as one computer can play them. The client takes a
little of both. The desktop's half of the answers comes to the laptop over the encrypted connection.
"""

import random
import statistics
import time

from bench.client import ask, completion
from bench.common import Report, model_file, parser, prompt, ratio_cell, save
from bench.servers import BenchError, Server, Setup
from bench.throughput import OUTPUT_TOKENS, PROMPT_TOKENS
from bench.trusted import paired_nodes

STREAMS = 32
CORE_OF = {"desktop": 0, "laptop": 1}
RATIO_MIN = 1.8


def measure(laptop: Server, radius: str, draw: random.Random) -> float:
    """Output tokens per second of one round. Raises: BenchError if an answer failed or is short."""
    bodies = [
        completion(prompt(draw, PROMPT_TOKENS), OUTPUT_TOKENS, model=laptop.model)
        | {"unhosted": {"radius": radius}}
        for _ in range(STREAMS)
    ]
    started_s = time.perf_counter()
    answers = ask(laptop.address, bodies)
    taken_s = time.perf_counter() - started_s
    for answer in answers:
        if (answer.status, answer.tokens) != (200, OUTPUT_TOKENS):
            raise BenchError(f"{laptop.name} answered {answer.status} with {answer.tokens} tokens")
    return STREAMS * OUTPUT_TOKENS / taken_s


def run(report: Report, *, model: str, rounds: int) -> None:
    """Measure and print; see the module's first lines."""
    report.title("Two equal nodes against one, 32 streams")
    draw = random.Random(model)
    setup = Setup(model=model_file(model), threads=1)
    speeds: dict[str, list[float]] = {"local": [], "trusted": []}
    with paired_nodes(setup, owners=("desktop", "laptop"), core_of=CORE_OF) as (_, laptop):
        for radius in speeds:
            measure(laptop, radius, draw)  # Loads the models and warms the caches.
        for turn in range(rounds):
            for radius in ("local", "trusted") if turn % 2 else ("trusted", "local"):
                speeds[radius].append(measure(laptop, radius, draw))
    report.measurements[f"scaling {model}"] = speeds
    cells = [f"{statistics.median(speeds[radius]):.1f}" for radius in speeds]
    ratio = ratio_cell(speeds["trusted"], speeds["local"])
    header = ["", "laptop alone", "with the desktop", "ratio", "goal"]
    report.table(header, [[f"{model}, tokens/s", *cells, ratio, f"≥ {RATIO_MIN} ×"]])


def main() -> None:
    options = parser("Two equal nodes against one.").parse_args()
    report = Report()
    report.machine()
    run(report, model=options.models.split(",")[0], rounds=options.rounds)
    save(report, options.json)


if __name__ == "__main__":
    main()
