"""Three minutes of 64 streams, hung up at random, while the engine's process is killed at random.

Shows that no slot stays taken, no memory leaks and every request that is not hung up is answered: whole, or,
when the engine died twice under it, with an error. Exit code 1 if that does not hold.
"""

import random
import selectors
import signal
import socket
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from bench.client import completion, encode
from bench.common import Report, model_file, parser, prompt, save
from bench.servers import Server, Setup, metrics, unhosted

STREAMS = 64
HANG_UP_SHARE = 0.25
KILL_EVERY_S = (12.0, 30.0)
ANSWER_S_MAX = 120.0
"""A request waits for a slot behind 48 others and may begin again twice; longer than this it is stuck."""
DRAIN_S = 30.0
LEAK_MIB_PER_MIN_MAX = 2.0


@dataclass(slots=True)
class _Request:
    sock: socket.socket
    started_s: float
    hang_up_bytes: int | None
    received: bytearray = field(default_factory=bytearray)


@dataclass(slots=True)
class Soak:
    """What came of it. memory_mib: (seconds, MiB of the node's own process)."""

    outcomes: Counter[str] = field(default_factory=Counter)
    memory_mib: list[tuple[float, float]] = field(default_factory=list)
    kills: int = 0

    def leak_mib_per_min(self) -> float:
        """Slope of the node's memory over the second half, by least squares: the first half warms up."""
        half = self.memory_mib[len(self.memory_mib) // 2 :]
        mean_t = sum(at for at, _ in half) / len(half)
        mean_m = sum(mib for _, mib in half) / len(half)
        spread = sum((at - mean_t) ** 2 for at, _ in half)
        return 60 * sum((at - mean_t) * (mib - mean_m) for at, mib in half) / spread if spread else 0.0


def soak(server: Server, seconds: float, draw: random.Random) -> Soak:
    """Keep `STREAMS` requests alive for `seconds`, then wait until the last one is answered."""
    result = Soak()
    began_s = time.monotonic()
    next_kill_s = began_s + draw.uniform(*KILL_EVERY_S)
    next_sample_s = began_s
    with selectors.DefaultSelector() as selector:
        while True:
            now_s = time.monotonic()
            is_on = now_s < began_s + seconds
            while is_on and len(selector.get_map()) < STREAMS:
                request = _send(server, draw)
                selector.register(request.sock, selectors.EVENT_READ, request)
            if not is_on and not selector.get_map():
                return result
            for key, _ in selector.select(timeout=0.2):
                _receive(key.data, selector, result)
            for key in list(selector.get_map().values()):
                if time.monotonic() - key.data.started_s > ANSWER_S_MAX:
                    _close(key.data, selector, result, "stuck")
            if is_on and now_s >= next_kill_s:
                result.kills += _kill_engine(server)
                next_kill_s = now_s + draw.uniform(*KILL_EVERY_S)
            if is_on and now_s >= next_sample_s:
                result.memory_mib.append(
                    (now_s - began_s, psutil.Process(server.pid).memory_info().rss / 2**20)
                )
                next_sample_s = now_s + 1.0


def _send(server: Server, draw: random.Random) -> _Request:
    body = completion(
        prompt(draw, draw.randrange(8, 128)), draw.randrange(8, 96), model=server.model, cache=True
    )
    sock = socket.create_connection(server.address, timeout=10)
    sock.sendall(encode(server.address, body))
    sock.setblocking(False)
    hangs_up = draw.random() < HANG_UP_SHARE
    return _Request(sock, time.monotonic(), draw.randrange(1, 6000) if hangs_up else None)


def _receive(request: _Request, selector: selectors.BaseSelector, result: Soak) -> None:
    try:
        data = request.sock.recv(65536)
    except OSError:
        data = b""
    request.received += data
    if request.hang_up_bytes is not None and len(request.received) >= request.hang_up_bytes:
        _close(request, selector, result, "hung up by the client")
    elif b"[DONE]" in request.received:
        failed = b'"error"' in request.received
        _close(request, selector, result, "answered with an error" if failed else "answered whole")
    elif not data:
        head = bytes(request.received[:12])
        told = b'"error"' in request.received and head.startswith(b"HTTP/1.1")
        _close(request, selector, result, "answered with an error" if told else "broken off")


def _close(request: _Request, selector: selectors.BaseSelector, result: Soak, outcome: str) -> None:
    result.outcomes[outcome] += 1
    selector.unregister(request.sock)
    request.sock.close()


def _kill_engine(server: Server) -> int:
    children = [one for one in server.processes() if one.pid != server.pid]
    if not children:
        return 0
    max(children, key=lambda one: one.memory_info().rss).send_signal(signal.SIGKILL)
    return 1


def run(report: Report, *, model: str, seconds: float, seed: int = 1) -> bool:
    """Soak and print; whether all held."""
    report.title(f"{STREAMS} streams for {seconds:g} s, hung up and killed at random")
    setup = Setup(model=model_file(model), slots=16, context_tokens=256)
    with unhosted(setup) as server:
        result = soak(server, seconds, random.Random(seed))
        deadline_s = time.monotonic() + DRAIN_S
        while time.monotonic() < deadline_s and _busy(server):
            time.sleep(0.2)
        left = _busy(server)
    report.table(
        ["outcome", "requests"], [[name, str(count)] for name, count in result.outcomes.most_common()]
    )
    slope = result.leak_mib_per_min()
    report.note(
        f"{result.kills} kills; slots and queue places taken at the end: {left:g}; "
        f"memory of the node: {slope:+.2f} MiB per minute"
    )
    report.measurements["soak"] = {
        "outcomes": result.outcomes,
        "kills": result.kills,
        "memory_mib": result.memory_mib,
    }
    lost = result.outcomes["stuck"] + result.outcomes["broken off"]
    return not lost and not left and slope < LEAK_MIB_PER_MIN_MAX


def _busy(server: Server) -> float:
    found = metrics(server)
    return found.get("unhosted_engine_slots_busy", 0.0) + found.get("unhosted_engine_queued", 0.0)


def main() -> int:
    made = parser("64 streams with hang-ups and kills.")
    made.add_argument("--seconds", type=float, default=180.0)
    made.add_argument("--seed", type=int, default=1)
    options = made.parse_args()
    report = Report()
    report.machine()
    held = run(report, model=options.models.split(",")[-1], seconds=options.seconds, seed=options.seed)
    save(report, Path(options.json) if options.json else None)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
