"""Starts what is measured, and what disturbs it, and stops it again."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.client import Address, get
from unhosted.node.shell.engine.library import find_library, native_dir

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 20.0
PASSIVE = {"OMP_WAIT_POLICY": "passive"}


class BenchError(Exception):
    """Something that is needed is missing or did not start; the message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running server. model: its name in requests."""

    name: str
    address: Address
    pid: int
    model: str

    def processes(self) -> list[psutil.Process]:
        """The server and its children, such as the engine's."""
        root = psutil.Process(self.pid)
        return [root, *root.children(recursive=True)]

    def rss_bytes(self) -> int:
        """Resident memory; pages that processes share, such as the mapped model, count once per process."""
        return sum(process.memory_info().rss for process in self.processes())

    def pss_bytes(self) -> int:
        """Proportional memory: a shared page counts once in all."""
        return sum(process.memory_full_info().pss for process in self.processes())

    def cpu_s(self) -> dict[int, float]:
        """CPU seconds used so far, by process id."""
        used = {process.pid: process.cpu_times() for process in self.processes()}
        return {pid: times.user + times.system for pid, times in used.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What both servers are given alike. context_tokens: per slot."""

    model: Path
    slots: int = 16
    context_tokens: int = 512
    threads: int = 0

    @property
    def threads_used(self) -> int:
        return self.threads or psutil.cpu_count(logical=False) or 1


@contextmanager
def llama_server(
    setup: Setup, environment: Mapping[str, str] = PASSIVE, name: str = "llama-server"
) -> Iterator[Server]:
    """llama.cpp's server from the native build, with split KV like ours: one slot never slows another."""
    program = tool("llama-server")
    port = free_port()
    command = [
        *(str(program), "-m", str(setup.model), "--host", "127.0.0.1", "--port", str(port)),
        *("-np", str(setup.slots), "-c", str(setup.slots * setup.context_tokens), "-no-kvu"),
        *("-t", str(setup.threads_used), "-tb", str(setup.threads_used), "-b", "2048", "-ub", "512"),
        *("--no-webui", "-cram", "0", "--log-disable"),
    ]
    with running(command, {**os.environ, **environment}) as process:
        address = ("127.0.0.1", port)
        wait_listening(process, address, "/health")
        yield Server(name=name, address=address, pid=process.pid, model="default")


@contextmanager
def unhosted(setup: Setup, environment: Mapping[str, str] | None = None) -> Iterator[Server]:
    """`unhosted serve --offline` with its own home, over whichever library it finds."""
    home = tempfile.mkdtemp(prefix="unhosted-bench-")
    port = free_port()
    own = {
        "UNHOSTED_HOME": home,
        "UNHOSTED_SLOTS": str(setup.slots),
        "UNHOSTED_CONTEXT_TOKENS": str(setup.context_tokens),
        "UNHOSTED_THREADS": str(setup.threads_used),
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
    }
    variables = {**os.environ, **own, **(environment or {})}
    program = [sys.executable, "-m", "unhosted.node"]
    try:
        subprocess.run([*program, "pull", str(setup.model)], env=variables, check=True, capture_output=True)
        command = [*program, "serve", "--offline", "--port", str(port), "--log-level", "warning"]
        with running(command, variables) as process:
            address = ("127.0.0.1", port)
            wait_listening(process, address, "/health")
            yield Server(name="unhosted", address=address, pid=process.pid, model=setup.model.stem)
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """Another program that takes `count` cores for as long as it can get them."""
    loops = [subprocess.Popen(["/bin/sh", "-c", "while :; do :; done"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def tool(name: str) -> Path:
    """A program of the native build. Raises: BenchError if it was not built."""
    places = [native_dir(), find_library().path.parent]
    found = next((place / name for place in places if (place / name).exists()), None)
    if found is None:
        raise BenchError(f"{name} is not in {places[0]}; next: make bench, which builds it")
    return found


def metrics(server: Server) -> dict[str, float]:
    """The numbers of /metrics by name, labels dropped: one model is loaded."""
    values: dict[str, float] = {}
    for line in get(server.address, "/metrics")[1].decode().splitlines():
        name, _, value = line.rpartition(" ")
        if name and not name.startswith("#"):
            values[name.partition("{")[0]] = float(value)
    return values


def status(server: Server) -> dict[str, object]:
    """/api/status, parsed."""
    value = json.loads(get(server.address, "/api/status")[1])
    assert isinstance(value, dict)
    return value


@contextmanager
def running(command: list[str], environment: Mapping[str, str]) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that is ended with the context."""
    process = subprocess.Popen(
        command, env=dict(environment), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_listening(process: "subprocess.Popen[bytes]", address: Address, path: str) -> None:
    """Until `path` answers 200. Raises: BenchError if that does not come to pass."""
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        if process.poll() is not None:
            raise BenchError(f"{process.args!r} ended with {process.returncode} before it listened")
        try:
            if get(address, path)[0] == 200:
                return
        except OSError:
            pass
        time.sleep(0.05)
    raise BenchError(f"{process.args!r} did not listen within {START_TIMEOUT_S:g} s")


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
