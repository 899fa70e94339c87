"""`kill -9` in the middle of pulls: the next one goes on from what is there."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.node.models.conftest import Pull
from tests.node.models.server import Behaviour
from tests.tiny import write_tiny
from unhosted.node.shell.models.store import ModelStore

KILLS = 9
CONNECTIONS = 4
CHUNK_BYTES = 32 << 10

PULLER = """
import os, signal, sys, trio
from pathlib import Path
from unhosted.node.shell.models.pull import pull
from unhosted.node.shell.models.settings import PullSettings
from unhosted.node.shell.models.store import ModelStore

settings = PullSettings(connections=int(sys.argv[3]), chunk_bytes=int(sys.argv[4]))
store = ModelStore(Path(sys.argv[1]))


def report(progress):
    if progress.stage == sys.argv[5]:
        os.kill(os.getpid(), signal.SIGKILL)


trio.run(lambda: pull(store, sys.argv[2], settings=settings, progress=report))
"""


def start_pull(store: ModelStore, ref: str, *, die_at: str = "never") -> subprocess.Popen[bytes]:
    """die_at: the stage at whose first report the process kills itself."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    arguments = [str(store.root), ref, str(CONNECTIONS), str(CHUNK_BYTES), die_at]
    return subprocess.Popen([sys.executable, "-c", PULLER, *arguments], env=environment)


@pytest.mark.slow
def test_resumes_after_kill_9_at_random_moments(
    server: tuple[str, Behaviour], store: ModelStore, pull_now: Pull, tmp_path: Path
) -> None:
    url, behaviour = server
    data = write_tiny(tmp_path / "source.gguf", vocab=12_000).read_bytes()
    behaviour.files["/big.gguf"] = data
    draw = random.Random(9)
    budget = 0
    for _ in range(KILLS):
        budget += draw.randrange(CHUNK_BYTES, 8 * CHUNK_BYTES)
        behaviour.raise_budget(budget)
        process = start_pull(store, f"{url}/big.gguf")
        behaviour.wait_until_spent()
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert store.entries() == ()
        assert not list(store.root.glob("blobs/*"))
    behaviour.raise_budget(None)
    assert pull_now(f"{url}/big.gguf").path.read_bytes() == data
    # A kill loses at most the chunk that each connection was in the middle of, or had just finished.
    refetched = behaviour.sent - len(data)
    assert refetched <= KILLS * CONNECTIONS * CHUNK_BYTES
    assert not list(store.partial_dir.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["verifying", "done"])
def test_killed_after_the_download_nothing_is_fetched_again(
    server: tuple[str, Behaviour], store: ModelStore, pull_now: Pull, tiny_bytes: bytes, stage: str
) -> None:
    url, behaviour = server
    behaviour.files["/tiny.gguf"] = tiny_bytes
    process = start_pull(store, f"{url}/tiny.gguf", die_at=stage)
    assert process.wait(30) == -signal.SIGKILL
    assert [entry.name for entry in store.entries()] == (["tiny"] if stage == "done" else [])
    assert pull_now(f"{url}/tiny.gguf").path.read_bytes() == tiny_bytes
    assert behaviour.sent == len(tiny_bytes)


@pytest.mark.slow
def test_processes_that_pull_the_same_ref_download_it_once(
    server: tuple[str, Behaviour], store: ModelStore, tiny_bytes: bytes
) -> None:
    url, behaviour = server
    behaviour.files["/tiny.gguf"] = tiny_bytes
    behaviour.raise_budget(100_000)
    processes = [start_pull(store, f"{url}/tiny.gguf") for _ in range(3)]
    behaviour.wait_until_spent()
    behaviour.raise_budget(None)
    assert [process.wait(30) for process in processes] == [0, 0, 0]
    assert behaviour.sent == len(tiny_bytes)
    assert store.resolve("tiny").path.read_bytes() == tiny_bytes
