"""What a paired peer costs: the same engine asked by its own node's clients, and through another node.

Two nodes of their own processes on loopback are paired: the desktop has the model, the laptop has none and
asks it, over the encrypted connection and the infer protocol. Each row asks the desktop's HTTP and the
laptop's HTTP in turn; the engine, the model and the client are the same, so the ratio is the peers' part:
routing, the wire, encryption, and a second node's Python on the same CPUs. In the first rounds the connection
is warm, as it is between machines that are on.
"""

import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from bench.client import ask, completion, get
from bench.common import Report, model_file, parser, prompt, ratio_cell, save
from bench.servers import BenchError, Server, Setup, free_port, running, wait_listening
from bench.throughput import OUTPUT_TOKENS, REPEATS_BY_STREAMS, measure
from unhosted.node.config import locate
from unhosted.node.core.addresses import format_address
from unhosted.node.core.peering import PairedPeer
from unhosted.node.shell.peers.identity import Identity, load_identity
from unhosted.node.shell.trusted.book import PeerBook

STREAMS = (1, 16)
FIRST_TOKEN_PROMPT_TOKENS = 8
"""Short, so that the engine's own time is short and steady beside what is measured."""

FIRST_TOKEN_REPEATS = 20
MEET_TIMEOUT_S = 30.0
RATIO_MIN, ADDED_MS_MAX = 0.97, 5.0


@contextmanager
def paired_nodes(
    setup: Setup, *, owners: Sequence[str] = ("desktop",), core_of: Mapping[str, int] | None = None
) -> Iterator[tuple[Server, Server]]:
    """The desktop and the laptop, connected. owners: who has the model. core_of: the core each is kept to."""
    home = Path(tempfile.mkdtemp(prefix="unhosted-bench-"))
    names = ("desktop", "laptop")
    variables = {name: _variables(home / name, name, setup) for name in names}
    try:
        _pair(variables)
        command = [sys.executable, "-m", "unhosted.node"]
        pull = [*command, "pull", str(setup.model)]
        for name in owners:
            subprocess.run(pull, env=variables[name], check=True, capture_output=True)
        with ExitStack() as stack:
            servers = []
            for name in names:
                port = free_port()
                pinned = [] if core_of is None else ["taskset", "-c", str(core_of[name])]
                serve = [*pinned, *command, "serve", "--port", str(port), "--log-level", "warning"]
                process = stack.enter_context(running(serve, variables[name]))
                wait_listening(process, ("127.0.0.1", port), "/health")
                address = ("127.0.0.1", port)
                servers.append(Server(name=name, address=address, pid=process.pid, model=setup.model.stem))
            _wait_met(servers[1])
            yield servers[0], servers[1]
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _variables(home: Path, name: str, setup: Setup) -> dict[str, str]:
    home.mkdir()
    own = {
        "UNHOSTED_HOME": str(home),
        "UNHOSTED_SLOTS": str(setup.slots),
        "UNHOSTED_CONTEXT_TOKENS": str(setup.context_tokens),
        "UNHOSTED_THREADS": str(setup.threads_used),
        "UNHOSTED_PEERS_NAME": name,
        "UNHOSTED_PEERS_HOST": "127.0.0.1",
        "UNHOSTED_PEERS_PORT": str(free_port()),
        "UNHOSTED_PEERS_BULK_PORT": "0",
        "UNHOSTED_PEERS_MDNS": "false",
        # The measuring client would be taken for an owner at work.
        "UNHOSTED_PEERS_PAUSE_WHEN_BUSY": "false",
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
    }
    return {**os.environ, **own}


def _pair(variables: Mapping[str, Mapping[str, str]]) -> None:
    """Write both into each other's book, as a confirmed pairing does, with where the other is."""
    paths = {name: locate(own) for name, own in variables.items()}
    identities: dict[str, Identity] = {}
    for name, place in paths.items():
        place.identity_file.parent.mkdir(parents=True, exist_ok=True)
        place.peers_file.parent.mkdir(parents=True, exist_ok=True)
        identities[name] = load_identity(place.identity_file)
    now_unix_s = int(time.time())
    for name, place in paths.items():
        (other,) = paths.keys() - {name}
        book, peer = PeerBook(place.peers_file), identities[other].peer
        book.put(PairedPeer(peer=peer, name=other, state="paired", paired_unix_s=now_unix_s))
        address = format_address("127.0.0.1", int(variables[other]["UNHOSTED_PEERS_PORT"]))
        book.note_address(peer, address, source="pairing", unix_s=now_unix_s)
        book.close()


def _wait_met(laptop: Server) -> None:
    deadline_s = time.monotonic() + MEET_TIMEOUT_S
    why_not = "it knows nobody"
    while time.monotonic() < deadline_s:
        for peer in json.loads(get(laptop.address, "/api/peers")[1])["peers"]:
            if peer["reachable"] and peer["facts"] is not None:
                return
            why_not = peer["why_not"]
        time.sleep(0.05)
    raise BenchError(f"the laptop did not meet the desktop within {MEET_TIMEOUT_S:g} s: {why_not}")


def _first_token_ms(draw: random.Random, server: Server) -> float:
    """Milliseconds to the first text of a short prompt, the median of some."""
    times_ms = []
    for _ in range(FIRST_TOKEN_REPEATS):
        ids = prompt(draw, FIRST_TOKEN_PROMPT_TOKENS)
        (answer,) = ask(server.address, [completion(ids, 2, model=server.model)])
        if answer.status != 200:
            raise BenchError(f"{server.name} answered {answer.status}")
        times_ms.append(answer.first_text_s * 1e3)
    return statistics.median(times_ms)


def run(report: Report, *, models: Sequence[str], rounds: int) -> None:
    """Measure and print; see the module's first lines."""
    rows: list[list[str]] = []
    report.title("Through a paired peer, against the same engine asked by its own node")
    for model in models:
        draw = random.Random(model)
        with paired_nodes(Setup(model=model_file(model))) as nodes:
            for server in nodes:
                measure(server, 1, draw)  # Loads the model and warms the caches.
            for streams in STREAMS:
                speeds, cpu = _compare(nodes, rounds, partial(_measure, streams, draw))
                tokens = streams * REPEATS_BY_STREAMS[streams] * OUTPUT_TOKENS
                cpu_ms = {name: [one / tokens * 1e3 for one in values] for name, values in cpu.items()}
                report.measurements[f"trusted {model} streams={streams}"] = [speeds, cpu_ms]
                what = f"{model}, {streams} stream{'s' if streams > 1 else ''}"
                rows.append(_row(f"{what}, tokens/s", speeds, f"≥ {RATIO_MIN} ×"))
                rows.append(_row(f"{what}, CPU ms of both nodes per token", cpu_ms, "", digits=3))
            times_ms, _ = _compare(nodes, rounds, partial(_first_token_ms, draw))
            report.measurements[f"trusted {model} first_token_ms"] = times_ms
            rows.append(_row(f"{model}, first token, ms", times_ms, f"≤ {ADDED_MS_MAX:g} ms more"))
    report.table(["", "own node", "through the peer", "ratio", "goal"], rows)


def _measure(streams: int, draw: random.Random, server: Server) -> float:
    return measure(server, streams, draw)


def _compare(
    nodes: tuple[Server, Server], rounds: int, measure_one: Callable[[Server], float]
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """What was measured, and the CPU seconds of both nodes without the engine, by who was asked."""
    values: dict[str, list[float]] = {server.name: [] for server in nodes}
    cpu_s: dict[str, list[float]] = {server.name: [] for server in nodes}
    for turn in range(rounds):
        for server in nodes if turn % 2 else nodes[::-1]:
            before_s = _nodes_cpu_s(nodes)
            values[server.name].append(measure_one(server))
            cpu_s[server.name].append(_nodes_cpu_s(nodes) - before_s)
    return values, cpu_s


def _nodes_cpu_s(nodes: tuple[Server, Server]) -> float:
    return sum(node.cpu_s()[node.pid] for node in nodes)


def _row(name: str, values: Mapping[str, Sequence[float]], goal: str, digits: int = 1) -> list[str]:
    cells = [f"{statistics.median(values[server]):.{digits}f}" for server in ("desktop", "laptop")]
    return [name, *cells, ratio_cell(values["laptop"], values["desktop"]), goal]


def main() -> None:
    options = parser("What a paired peer costs.").parse_args()
    report = Report()
    report.machine()
    run(report, models=options.models.split(","), rounds=options.rounds)
    save(report, options.json)


if __name__ == "__main__":
    main()
