"""What a node costs that is paired with 20 others and has nothing to do.

The node is `unhosted serve` in a process of its own, without a model. The 20 run in one other process, each
with its whole trusted ring: connection, link, facts, pairing, transfer. All are connected before the clock
starts.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import trio

from bench.client import get
from bench.common import Report, parser, save
from bench.servers import BenchError, free_port, running, wait_listening
from unhosted.node.app_own_facts import OwnFacts
from unhosted.node.app_trusted import TrustedRing
from unhosted.node.config import Config, Paths, locate
from unhosted.node.core.addresses import format_address
from unhosted.node.core.peering import PairedPeer
from unhosted.node.shell.models.store import ModelStore
from unhosted.node.shell.peers.identity import load_identity
from unhosted.node.shell.trusted.book import PeerBook

PEERS = 20
SECONDS = 30.0
MEET_TIMEOUT_S = 60.0
CPU_PERCENT_MAX, MEMORY_MIB_MAX = 1.0, 150
MIB = 1 << 20


def paths_of(home: Path) -> Paths:
    return locate({"UNHOSTED_HOME": str(home)})


def introduce(one: Path, port: int, other: Path) -> None:
    """Write the machine at home `one`, listening at `port`, into the book of `other`, as a pairing does."""
    for home in (one, other):
        paths_of(home).state_dir.mkdir(parents=True, exist_ok=True)
    peer = load_identity(paths_of(one).identity_file).peer
    book = PeerBook(paths_of(other).peers_file)
    book.put(PairedPeer(peer=peer, name=one.name, state="paired", paired_unix_s=int(time.time())))
    address = format_address("127.0.0.1", port)
    book.note_address(peer, address, source="pairing", unix_s=int(time.time()))
    book.close()


def crowd(folder: Path, ports: list[int]) -> None:
    """The others, until killed."""

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for number, port in enumerate(ports):
                home = folder / f"peer{number}"
                config = Config(
                    paths=paths_of(home),
                    peers_port=port,
                    peers_bulk_port=0,
                    peers_host="127.0.0.1",
                    peers_mdns=False,
                )
                store = ModelStore(home / "models")
                own = OwnFacts(config, store, tuple)
                ring = TrustedRing(
                    config,
                    name=home.name,
                    store=store,
                    answering=None,  # type: ignore[arg-type]  # nobody asks
                    models=own.models,
                    loaded=tuple,
                )
                nursery.start_soon(ring.run)

    trio.run(main)


def _wait_met(address: tuple[str, int]) -> None:
    deadline_s = time.monotonic() + MEET_TIMEOUT_S
    there = 0
    while time.monotonic() < deadline_s:
        peers = json.loads(get(address, "/api/peers")[1])["peers"]
        there = sum(peer["reachable"] and peer["facts"] is not None for peer in peers)
        if there == PEERS:
            return
        time.sleep(0.2)
    raise BenchError(f"{there} of {PEERS} peers met the node within {MEET_TIMEOUT_S:g} s")


def run(report: Report) -> None:
    """Measure and print; see the module's first lines."""
    with tempfile.TemporaryDirectory(prefix="unhosted-bench-") as folder, ExitStack() as stack:
        root = Path(folder)
        node, port, http_port = root / "node", free_port(), free_port()
        ports = [free_port() for _ in range(PEERS)]
        for number, other in enumerate(ports):
            introduce(node, port, root / f"peer{number}")
            introduce(root / f"peer{number}", other, node)
        variables = {
            **os.environ,
            "UNHOSTED_HOME": str(node),
            "UNHOSTED_PEERS_PORT": str(port),
            "UNHOSTED_PEERS_BULK_PORT": "0",
            "UNHOSTED_PEERS_HOST": "127.0.0.1",
            "UNHOSTED_PEERS_MDNS": "false",
            "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
        }
        others = [sys.executable, "-m", "bench.idle", "--crowd", folder, *map(str, ports)]
        stack.enter_context(running(others, variables))
        serve = [
            sys.executable,
            "-m",
            "unhosted.node",
            "serve",
            "--port",
            str(http_port),
            "--log-level",
            "warning",
        ]
        process = stack.enter_context(running(serve, variables))
        wait_listening(process, ("127.0.0.1", http_port), "/health")
        _wait_met(("127.0.0.1", http_port))
        watched = psutil.Process(process.pid)
        before = watched.cpu_times()
        with suppress(subprocess.TimeoutExpired):
            process.wait(SECONDS)
        after = watched.cpu_times()
        used_s = after.user + after.system - before.user - before.system
        memory_mib = watched.memory_info().rss / MIB
    percent = 100 * used_s / SECONDS
    report.measurements["idle"] = {"cpu_percent": percent, "resident_mib": memory_mib}
    report.title(f"A node with {PEERS} paired peers and nothing to do, for {SECONDS:g} s")
    rows = [
        ["of a core, %", f"{percent:.2f}", f"{CPU_PERCENT_MAX:g}"],
        ["resident, MiB", f"{memory_mib:.0f}", f"{MEMORY_MIB_MAX}"],
    ]
    report.table(["", "found", "goal: at most"], rows)


def main() -> None:
    if sys.argv[1:2] == ["--crowd"]:
        crowd(Path(sys.argv[2]), [int(port) for port in sys.argv[3:]])
        return
    options = parser("What an idle node with peers costs.").parse_args()
    report = Report()
    report.machine()
    run(report)
    save(report, options.json)


if __name__ == "__main__":
    main()
