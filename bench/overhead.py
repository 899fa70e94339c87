"""What Python costs: its share of the CPU per output token, and resident memory beside the server's.

Python's share is the node's whole process (HTTP, JSON, SSE) and the part of the engine child's loop outside
llama.cpp, of all CPU that both processes use. Memory is taken after 16 streams have run: RSS counts the
mapped model in every process that maps it, PSS counts it once.
"""

import random
import statistics
from collections.abc import Sequence
from contextlib import ExitStack

from bench.common import Report, model_file, parser, save
from bench.servers import Server, Setup, llama_server, metrics, unhosted
from bench.throughput import OUTPUT_TOKENS, REPEATS_BY_STREAMS, measure

MEMORY_FACTOR_MAX, MEMORY_EXTRA_MIB = 1.15, 120
"""The goal: node and child together against the server, same context and slots."""


def cpu_round(server: Server, streams: int, draw: random.Random) -> dict[str, float]:
    """CPU milliseconds per output token: all of it, the node's process, the child's loop."""
    before_s, counters = server.cpu_s(), metrics(server)
    measure(server, streams, draw)
    after_s, later = server.cpu_s(), metrics(server)
    tokens = streams * REPEATS_BY_STREAMS[streams] * OUTPUT_TOKENS
    used_s = {pid: after_s[pid] - before_s.get(pid, 0.0) for pid in after_s}
    name = "unhosted_engine_python_cpu_seconds_total"
    return {
        "all": sum(used_s.values()) / tokens * 1e3,
        "node": used_s[server.pid] / tokens * 1e3,
        "loop": (later[name] - counters.get(name, 0.0)) / tokens * 1e3,
    }


def run(report: Report, *, models: Sequence[str], rounds: int) -> None:
    """Measure and print; see the module's first lines."""
    for model in models:
        setup, draw = Setup(model=model_file(model)), random.Random(model)
        with ExitStack() as stack:
            ours = stack.enter_context(unhosted(setup))
            measure(ours, 1, draw)
            report.title(f"CPU milliseconds per output token, {model}")
            _cpu_table(report, ours, model, rounds, draw)
            theirs = stack.enter_context(llama_server(setup))
            measure(theirs, 16, draw)
            report.title(f"Memory in MiB with 16 slots of 512 tokens, {model}")
            _memory_table(report, ours, theirs, model)


def _cpu_table(report: Report, ours: Server, model: str, rounds: int, draw: random.Random) -> None:
    rows = []
    for streams in REPEATS_BY_STREAMS:
        measured = [cpu_round(ours, streams, draw) for _ in range(rounds)]
        report.measurements[f"cpu {model} streams={streams}"] = measured
        cells = [
            f"{statistics.median(one[part] for one in measured):.3f}" for part in ("all", "node", "loop")
        ]
        end_to_end = statistics.median((one["node"] + one["loop"]) / one["all"] for one in measured)
        loop = statistics.median(one["loop"] / (one["all"] - one["node"]) for one in measured)
        rows.append([f"{streams} streams", *cells, f"**{end_to_end:.2%}**", f"**{loop:.2%}**"])
    header = [
        "",
        "all",
        "node process",
        "child outside llama.cpp",
        "Python end to end",
        "Python in the child",
    ]
    report.table(header, rows)


def _memory_table(report: Report, ours: Server, theirs: Server, model: str) -> None:
    rows = []
    for kind in ("rss", "pss"):
        mine, other = (getattr(server, f"{kind}_bytes")() / 2**20 for server in (ours, theirs))
        limit = MEMORY_FACTOR_MAX * other + MEMORY_EXTRA_MIB
        rows.append([kind.upper(), f"{mine:.0f}", f"{other:.0f}", f"{limit:.0f}"])
        report.measurements[f"memory {model} {kind}_mib"] = [mine, other]
    report.table(["", "unhosted", "llama-server", "goal: at most"], rows)


def main() -> None:
    options = parser("Python's share of the CPU, and memory.").parse_args()
    report = Report()
    report.machine()
    run(report, models=options.models.split(","), rounds=options.rounds)
    save(report, options.json)


if __name__ == "__main__":
    main()
