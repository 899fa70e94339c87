"""What it costs to count money before it is signed: authorisations a second, and how long a stream waits.

The ledger is the node's own, its file on a real file system, every answer behind a sync of the disk. In the
second part every token is authorised on its own, which is the most that a seller's window can ask for: the
window is 16 tokens or more, so real streams write a sixteenth of this.
"""

import argparse
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import trio

from bench.common import Report, parser, save
from unhosted.market.channels import ChainId, ChannelConfig, Deployment
from unhosted.market.ids import Address, ChannelId, RequestId
from unhosted.node.shell.money.group_commit import group_writer
from unhosted.node.shell.money.ledger import Ledger
from unhosted.node.shell.money.ledger_file import LedgerBatch, LedgerFile

CHANNELS = 16
STREAMS_FULL, FULL_S = 16, 5.0
STREAMS, TOKENS_PER_S, STEADY_S = 64, 20, 20.0
BUDGET_MICROS = 1_000_000
DEPOSIT_MICROS = 1 << 50
SYNCS = 200
GOAL_MS = 20
SLOWER_MS = 8
"""A laptop's disk: this one may sync into a cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Seconds of each wait, and how long they were taken for."""

    waits_s: Sequence[float]
    took_s: float


def _config(number: int) -> ChannelConfig:
    return ChannelConfig(
        payer=Address(b"\x01" * 20),
        signer=Address(b"\x02" * 20),
        payee=Address(bytes([number + 1]) * 20),
        delay_s=86_400,
        salt=bytes(32),
    )


async def _channels(ledger: Ledger) -> list[ChannelId]:
    deployment = Deployment(chain_id=ChainId(31337), contract=Address(b"\x05" * 20))
    await ledger.note_chain_time(int(time.time()))
    return [
        await ledger.note_channel(deployment, _config(number), DEPOSIT_MICROS) for number in range(CHANNELS)
    ]


async def _stream(
    ledger: Ledger, channel: ChannelId, until_s: float, period_s: float, start_s: float, waits_s: list[float]
) -> None:
    """One request that authorises a unit at each tick, or as fast as it is answered if the period is 0."""
    request = RequestId(os.urandom(32))
    await ledger.reserve(request, channel, BUDGET_MICROS)
    for tick in itertools.count():
        if period_s:
            await trio.sleep_until(
                trio.current_time() + max(0.0, start_s + tick * period_s - time.monotonic())
            )
        begun_s = time.monotonic()
        if begun_s >= until_s:
            break
        await ledger.authorise(request, 1)
        waits_s.append(time.monotonic() - begun_s)
    await ledger.finish(request, 0)


@asynccontextmanager
async def _slow_ledger(folder: Path, slower_ms: int) -> AsyncIterator[Ledger]:
    """The ledger on a disk whose syncs take so much longer."""
    file = LedgerFile(folder / "data" / "ledger.db", folder / "state" / "ledger.seal")

    @contextmanager
    def slow_batch() -> Iterator[LedgerBatch]:
        with file.batch() as batch:
            yield batch
        time.sleep(slower_ms / 1e3)

    async with group_writer(slow_batch, name="ledger") as writer:
        yield Ledger(file, writer)
    file.close()


def measure(folder: Path, *, streams: int, seconds: float, per_second: int, slower_ms: int = 0) -> Found:
    """Waits of `streams` requests at a time. per_second: authorisations of each, 0 for as many as can be."""

    async def main() -> Found:
        waits_s: list[float] = []
        async with _slow_ledger(folder, slower_ms) as ledger:
            await ledger.set_cap(DEPOSIT_MICROS)
            channels = await _channels(ledger)
            begun_s = time.monotonic()
            period_s = 1 / per_second if per_second else 0.0
            async with trio.open_nursery() as nursery:
                for number in range(streams):
                    start_s = begun_s + period_s * number / streams
                    channel = channels[number % CHANNELS]
                    nursery.start_soon(
                        _stream, ledger, channel, begun_s + seconds, period_s, start_s, waits_s
                    )
            return Found(waits_s=waits_s, took_s=time.monotonic() - begun_s)

    return trio.run(main)


def sync_ms(folder: Path) -> list[float]:
    """What the disk takes for a sync after four kilobytes, the least that a commit can wait for."""
    taken = []
    with (folder / "sync").open("wb", buffering=0) as file:
        for _ in range(SYNCS):
            file.write(bytes(4096))
            begun_s = time.perf_counter()
            os.fdatasync(file.fileno())
            taken.append((time.perf_counter() - begun_s) * 1e3)
    return taken


def file_system(folder: Path) -> str:
    """Its name and its device, as the system mounted it."""
    mounts = [part for part in psutil.disk_partitions(all=True) if folder.is_relative_to(part.mountpoint)]
    longest = max(mounts, key=lambda part: len(part.mountpoint))
    return f"{longest.fstype} on {longest.device}"


def run(report: Report, *, seconds: float, folder: Path | None = None) -> None:
    """Measure and print; see the module's first lines."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        here = Path(name).resolve()
        syncs = sync_ms(here)
        full = measure(here / "full", streams=STREAMS_FULL, seconds=FULL_S, per_second=0)
        steady = measure(here / "steady", streams=STREAMS, seconds=seconds, per_second=TOKENS_PER_S)
        slow = measure(
            here / "slow", streams=STREAMS, seconds=seconds, per_second=TOKENS_PER_S, slower_ms=SLOWER_MS
        )
        system = file_system(here)
    report.measurements["ledger"] = {
        "file system": system,
        "sync ms": syncs,
        "authorisations a second": len(full.waits_s) / full.took_s,
        "full waits ms": _middle_and_tail(full.waits_s),
        "steady waits ms": _middle_and_tail(steady.waits_s),
        "steady authorisations a second": len(steady.waits_s) / steady.took_s,
        "slow waits ms": _middle_and_tail(slow.waits_s),
    }
    report.title("The spending ledger, every answer behind a sync")
    steadily = f"{STREAMS}, each {TOKENS_PER_S} times a second, {seconds:.0f} s"
    report.table(
        ["streams at a time", "authorisations a second", "wait, median, ms", "99 %, ms", "goal, median"],
        [
            [f"{STREAMS_FULL}, as fast as they can", *_row(full), ""],
            [steadily, *_row(steady), f"{GOAL_MS}"],
            [f"the same, each commit {SLOWER_MS} ms slower", *_row(slow), f"{GOAL_MS}"],
        ],
    )
    report.note(f"{system}; a sync of 4 KiB takes {statistics.median(syncs):.1f} ms there (median).")


def _row(found: Found) -> list[str]:
    return [f"{len(found.waits_s) / found.took_s:.0f}", *_middle_and_tail(found.waits_s)]


def _middle_and_tail(seconds: Sequence[float]) -> list[str]:
    ordered = sorted(seconds)
    return [f"{statistics.median(ordered) * 1e3:.1f}", f"{ordered[int(len(ordered) * 0.99)] * 1e3:.1f}"]


def main() -> None:
    made: argparse.ArgumentParser = parser("The spending ledger.")
    made.add_argument("--seconds", type=float, default=STEADY_S, help="of steady streams (default 20)")
    made.add_argument("--folder", type=Path, help="where the ledger is to be: names the disk")
    options = made.parse_args()
    report = Report()
    report.machine()
    run(report, seconds=options.seconds, folder=options.folder)
    save(report, options.json)


if __name__ == "__main__":
    main()
