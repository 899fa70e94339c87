"""Output tokens per second through HTTP: 1, 4 and 16 streams, side by side in interleaved rounds.

Held equal: the model file, 16 slots of 512 tokens, split KV, the thread count, greedy sampling, unique
prompts of 128 token ids, 64 tokens out whatever the model says, the client. Both get OMP_WAIT_POLICY=passive.
Unhosted adds its own GOMP_SPINCOUNT to that; the column `server, same spin` gives it to the server as well.
The clock runs from the first request of a round to the last token, prefill included.
"""

import random
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack

from bench.client import ask, completion
from bench.common import Report, model_file, parser, prompt, ratio_cell, save
from bench.servers import PASSIVE, Server, Setup, busy_loops, llama_server, unhosted

PROMPT_TOKENS, OUTPUT_TOKENS = 128, 64
REPEATS_BY_STREAMS = {1: 3, 4: 2, 16: 1}
"""Requests of each stream in one round, one after another: a round lasts some seconds in every row."""


def measure(server: Server, streams: int, draw: random.Random) -> float:
    """Output tokens per second of one round. Raises: ValueError if an answer failed or is short."""
    started_s, tokens = time.perf_counter(), 0
    for _ in range(REPEATS_BY_STREAMS.get(streams, 1)):
        bodies = [
            completion(prompt(draw, PROMPT_TOKENS), OUTPUT_TOKENS, model=server.model) for _ in range(streams)
        ]
        for answer in ask(server.address, bodies):
            if (answer.status, answer.tokens) != (200, OUTPUT_TOKENS):
                raise ValueError(f"{server.name} answered {answer.status} with {answer.tokens} tokens")
            tokens += answer.tokens
    return tokens / (time.perf_counter() - started_s)


def run(report: Report, *, models: Sequence[str], rounds: int, busy: int, tuned: bool = True) -> None:
    """Measure and print; see the module's first lines."""
    report.title(f"Output tokens/s through HTTP{f', {busy} busy loops beside' if busy else ''}")
    rows: list[list[str]] = []
    columns = ["unhosted", "llama-server", *(["server, same spin"] if tuned else [])]
    for model in models:
        setup, draw = Setup(model=model_file(model)), random.Random(model)
        with ExitStack() as stack:
            servers = [stack.enter_context(unhosted(setup)), stack.enter_context(llama_server(setup))]
            if tuned:
                spin = {**PASSIVE, "GOMP_SPINCOUNT": "300"}
                servers.append(stack.enter_context(llama_server(setup, spin, columns[2])))
            for server in servers:
                measure(server, 1, draw)  # Loads the model and warms the caches.
            stack.enter_context(busy_loops(busy))
            for streams in REPEATS_BY_STREAMS:
                speeds: dict[str, list[float]] = {server.name: [] for server in servers}
                for turn in range(rounds):
                    # The order turns, so that no server always follows the same one.
                    for server in servers[turn % len(servers) :] + servers[: turn % len(servers)]:
                        speeds[server.name].append(measure(server, streams, draw))
                report.measurements[f"throughput busy={busy} {model} streams={streams}"] = speeds
                cells = [f"{statistics.median(speeds[name]):.1f}" for name in columns]
                ratio = ratio_cell(speeds["unhosted"], speeds["llama-server"])
                rows.append([f"{model}, {streams} streams", *cells, ratio])
    report.table(["", *columns, "unhosted / llama-server"], rows)


def main() -> None:
    options = parser("Output tokens per second, side by side.").parse_args()
    report = Report()
    report.machine()
    run(report, models=options.models.split(","), rounds=options.rounds, busy=options.busy)
    save(report, options.json)


if __name__ == "__main__":
    main()
