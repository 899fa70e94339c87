"""Models between two machines: over the encrypted bulk connection, over libp2p, and over plain TCP.

Two processes, on loopback and in two network namespaces on a cable of 1 Gbit/s. A transfer counts from the
first question to the whole file on the disk, every chunk checked and the whole file hashed. Plain TCP writes
the same bytes to the same disk and checks nothing. `records` is the encrypted connection alone: no file.
"""

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.common import Report, parser, ratio_cell, save
from tests.netns.lab import Lab
from tests.netns.talk import Talk

CABLE_MBIT = 1000
PATIENCE_S = 300

Measured = dict[str, list[dict[str, Any]]]


def run(report: Report, *, rounds: int, size_mb: int) -> None:
    """Measure and print; see the module's first lines."""
    with tempfile.TemporaryDirectory() as folder:
        giver = _start("give", Path(folder), str(size_mb))
        fetcher = _start("fetch", Path(folder), "127.0.0.1")
        ways = ("plain", "bulk", "channel", "records")
        _print(report, "loopback", _measure(giver, fetcher, ways, rounds), size_mb)
        for talk in (giver, fetcher):
            talk.kill()
    with Lab() as lab, tempfile.TemporaryDirectory() as folder:
        one, other = lab.host("one"), lab.host("other")
        lab.netem(one, rate_mbit=CABLE_MBIT)
        module = "bench.transfer_node"
        giver = one.python(module, "give", folder, str(size_mb))
        fetcher = other.python(module, "fetch", folder, one.address)
        measured = _measure(giver, fetcher, ("plain", "bulk", "channel"), rounds)
        _print(report, f"two namespaces, {CABLE_MBIT} Mbit/s", measured, size_mb)


def _start(*words: str | Path) -> Talk:
    command = [sys.executable, "-m", "bench.transfer_node", *map(str, words)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return Talk(subprocess.Popen(command, text=True, **pipes), name=str(words[0]))  # type: ignore[call-overload]


def _measure(giver: Talk, fetcher: Talk, ways: Sequence[str], rounds: int) -> Measured:
    where = giver.hear(timeout_s=PATIENCE_S)
    measured: Measured = {way: [] for way in ways}
    for turn in range(rounds):
        for way in ways if turn % 2 == 0 else ways[::-1]:
            measured[way].append(fetcher.ask({"giver": where, "how": way}, timeout_s=PATIENCE_S))
    return measured


def _print(report: Report, where: str, measured: Measured, size_mb: int) -> None:
    report.title(f"A model of {size_mb:,} MB from a peer: {where}")
    rates = {way: [size_mb / one["seconds"] for one in found] for way, found in measured.items()}
    report.table(
        ["way", "MB/s", "of plain TCP", "CPU ms/MB of the fetching side"],
        [
            [
                way,
                f"{statistics.median(rates[way]):.0f}",
                ratio_cell(rates[way], rates["plain"]),
                f"{statistics.median(1e3 * one['cpu_s'] / size_mb for one in found):.1f}",
            ]
            for way, found in measured.items()
        ],
    )
    report.measurements[f"transfer {where}"] = measured


def main() -> int:
    made = parser("Models between peers, beside plain TCP.")
    made.add_argument("--size-mb", type=int, default=1000, help="size of the model (default 1000)")
    options = made.parse_args()
    report = Report()
    report.machine()
    run(report, rounds=options.rounds, size_mb=options.size_mb)
    save(report, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
