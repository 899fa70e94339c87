"""What a paired peer costs: round trips, bulk and connects on loopback, and a node that only keeps in touch.

Two processes, one machine, real encryption. The idle node has twenty peers, all in the other process, which
ping as peers do; its CPU is taken over a time in which nothing is asked of it.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

import psutil
import trio

from bench.common import Report, parser, save
from unhosted.node.core.peering import Channel
from unhosted.node.shell.peers.identity import new_identity
from unhosted.node.shell.peers.network import LibP2PNetwork

ECHO, POUR = "/bench/echo/1", "/bench/pour/1"
MESSAGE_BYTES_MAX = 1024 * 1024
KIB = bytes(1024)
ROUND_TRIPS, OPENINGS, CONNECTS = 2000, 500, 50
BULK_BYTES = 256 * 1024 * 1024
SMALL_MESSAGES, SMALL_BYTES = 20_000, 100
IDLE_PEERS, IDLE_S = 20, 20.0
START_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """The other process."""

    peer: str
    addresses: tuple[str, ...]
    process: psutil.Process


async def _echo(channel: Channel) -> None:
    while (message := await channel.receive()) is not None:
        await channel.send(message)
    await channel.end()


async def _pour(channel: Channel) -> None:
    """As many messages, of such a size, as the first message says."""
    wish = await channel.receive()
    count, size = json.loads(wish or b"[0, 0]")
    message = bytes(size)
    for _ in range(count):
        await channel.send(message)
    await channel.end()


def _network() -> LibP2PNetwork:
    return LibP2PNetwork(new_identity(), listen=[("127.0.0.1", 0)], is_paired=lambda peer: True)


def serve() -> None:
    async def run() -> None:
        network = _network()
        network.serve(ECHO, _echo, access="paired", message_bytes_max=MESSAGE_BYTES_MAX)
        network.serve(POUR, _pour, access="paired", message_bytes_max=MESSAGE_BYTES_MAX)
        async with trio.open_nursery() as nursery:
            await nursery.start(network.run)
            sys.stdout.write(json.dumps([network.peer, network.addresses()]) + "\n")
            sys.stdout.flush()

    trio.run(run)


@contextmanager
def server() -> Iterator[Server]:
    command = [sys.executable, "-m", "bench.peers", "--serve"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ)
    try:
        assert child.stdout is not None
        peer, addresses = json.loads(child.stdout.readline())
        yield Server(peer=peer, addresses=tuple(addresses), process=psutil.Process(child.pid))
    finally:
        child.terminate()
        child.wait(START_S)


async def _timed(count: int, act: Callable[[], Awaitable[object]]) -> list[float]:
    """Milliseconds of each."""
    taken = []
    for _ in range(count):
        begun_s = perf_counter()
        await act()
        taken.append((perf_counter() - begun_s) * 1e3)
    return taken


async def _round_trips(network: LibP2PNetwork, other: Server) -> dict[str, list[float]]:
    async def connect() -> None:
        await network.disconnect(other.peer)
        await network.connect(other.peer, other.addresses, timeout_s=5.0)

    async def once() -> None:
        async with network.open_channel(
            other.peer, ECHO, message_bytes_max=MESSAGE_BYTES_MAX, timeout_s=5.0
        ) as fresh:
            await fresh.send(KIB)
            await fresh.receive()
            await fresh.end()

    found = {"connect": await _timed(CONNECTS, connect), "new channel": await _timed(OPENINGS, once)}
    async with network.open_channel(
        other.peer, ECHO, message_bytes_max=MESSAGE_BYTES_MAX, timeout_s=5.0
    ) as kept:

        async def again() -> None:
            await kept.send(KIB)
            await kept.receive()

        found["kept channel"] = await _timed(ROUND_TRIPS, again)
    return found


async def _poured_s(network: LibP2PNetwork, other: Server, count: int, size_bytes: int) -> float:
    async with network.open_channel(
        other.peer, POUR, message_bytes_max=MESSAGE_BYTES_MAX, timeout_s=5.0
    ) as channel:
        begun_s = perf_counter()
        await channel.send(json.dumps([count, size_bytes]).encode())
        while await channel.receive() is not None:
            pass
        return perf_counter() - begun_s


def measure(rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each round trip; of each round of bulk MB/s, and small messages a second."""

    async def run(other: Server) -> dict[str, list[float]]:
        network = _network()
        async with trio.open_nursery() as nursery:
            await nursery.start(network.run)
            found = await _round_trips(network, other)
            found["bulk"], found["small messages"] = [], []
            for _ in range(rounds):
                size = MESSAGE_BYTES_MAX
                took_s = await _poured_s(network, other, BULK_BYTES // size, size)
                found["bulk"].append(BULK_BYTES / took_s / 1e6)
                took_s = await _poured_s(network, other, SMALL_MESSAGES, SMALL_BYTES)
                found["small messages"].append(SMALL_MESSAGES / took_s)
            nursery.cancel_scope.cancel()
        return found

    with server() as other:
        return trio.run(run, other)


def idle(peers: int, seconds: float) -> tuple[float, float]:
    """Percent of a core, and MiB resident, of a node whose `peers` connections do nothing but ping."""

    async def run(other: Server) -> tuple[float, float]:
        async with trio.open_nursery() as nursery:
            for _ in range(peers):
                network = _network()
                await nursery.start(network.run)
                await network.connect(other.peer, other.addresses, timeout_s=5.0)
            await trio.sleep(2.0)
            before = other.process.cpu_times()
            await trio.sleep(seconds)
            after = other.process.cpu_times()
            resident = other.process.memory_info().rss / 2**20
            nursery.cancel_scope.cancel()
        used_s = after.user + after.system - before.user - before.system
        return used_s / seconds * 100, resident

    with server() as other:
        return trio.run(run, other)


def run(report: Report, *, rounds: int) -> None:
    """Measure and print; see the module's first lines."""
    found = measure(rounds)
    percent, resident_mib = idle(IDLE_PEERS, IDLE_S)
    report.measurements["peers"] = {**found, "idle percent": percent, "idle MiB": resident_mib}
    report.title("A paired peer over loopback")
    rows = [
        ["1 KB and back on a kept channel, ms", *_middle_and_tail(found["kept channel"]), "1.5"],
        ["1 KB and back on a new channel, ms", *_middle_and_tail(found["new channel"]), "5"],
        ["connect, with the handshake, ms", *_middle_and_tail(found["connect"]), ""],
    ]
    report.table(["", "median", "99 %", "goal: at most"], rows)
    report.title("Through one channel of a paired peer")
    report.table(
        ["", "median", "goal: at least"],
        [
            ["messages of 1 MiB, MB/s", f"{statistics.median(found['bulk']):.0f}", "120"],
            ["messages of 100 bytes a second", f"{statistics.median(found['small messages']):.0f}", ""],
        ],
    )
    report.title(f"A node with {IDLE_PEERS} peers and nothing to do, for {IDLE_S:.0f} s")
    report.table(
        ["", "found", "goal: at most"],
        [
            ["of a core, %", f"{percent:.2f}", "1"],
            ["resident, without HTTP and models, MiB", f"{resident_mib:.0f}", "150"],
        ],
    )


def _middle_and_tail(values: Sequence[float]) -> list[str]:
    ordered = sorted(values)
    return [f"{statistics.median(ordered):.2f}", f"{ordered[int(len(ordered) * 0.99)]:.2f}"]


def main() -> None:
    made: argparse.ArgumentParser = parser("Connections to paired peers.")
    made.add_argument("--serve", action="store_true", help="be the other process")
    options = made.parse_args()
    if options.serve:
        serve()
        return
    report = Report()
    report.machine()
    run(report, rounds=options.rounds)
    save(report, options.json)


if __name__ == "__main__":
    main()
