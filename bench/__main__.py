"""All harnesses in a row: `python -m bench [--quick]` prints the README's figures; about 45 minutes."""

import sys

from bench import (
    cables,
    idle,
    latency,
    ledger,
    overhead,
    paid,
    peers,
    scaling,
    settlement,
    soak,
    throughput,
    transfer,
    trusted,
    vouchers,
)
from bench.common import Report, parser, save

BUSY_LOOPS = 2


def main() -> int:
    made = parser("All figures of the README, side by side with llama.cpp's own server.")
    made.add_argument("--quick", action="store_true", help="one model, two rounds, half a minute of soak")
    options = made.parse_args()
    models = options.models.split(",")[: 1 if options.quick else None]
    rounds = 2 if options.quick else options.rounds
    report = Report()
    report.machine()
    throughput.run(report, models=models, rounds=rounds, busy=options.busy)
    throughput.run(report, models=models[:1], rounds=rounds, busy=BUSY_LOOPS)
    latency.run(report, models=models[:1], rounds=rounds)
    overhead.run(report, models=models[:1], rounds=rounds)
    peers.run(report, rounds=rounds)
    idle.run(report)
    trusted.run(report, models=models[:1], rounds=rounds)
    scaling.run(report, model=models[0], rounds=rounds)
    transfer.run(report, rounds=rounds, size_mb=128 if options.quick else 512)
    cables.run(report, pulls=5 if options.quick else 50, model=models[0])
    vouchers.run(report, rounds=rounds)
    ledger.run(report, seconds=5 if options.quick else 20)
    settlement.run(report)
    paid.run(report, models=models[:1], rounds=rounds)
    held = soak.run(report, model=models[0], seconds=30 if options.quick else 180)
    save(report, options.json)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
