"""Models over real connections: libp2p for the session, TCP for the bulk, processes that are killed."""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.node.transfer.harness import put
from tests.tiny import write_tiny
from unhosted.node.core.chunks import CHUNK_BYTES, WINDOW_MAX
from unhosted.node.core.peering import Capabilities, Channel
from unhosted.node.shell.models import journal
from unhosted.node.shell.models.files import hash_file
from unhosted.node.shell.models.manifest import Digests
from unhosted.node.shell.models.store import ModelStore
from unhosted.node.shell.nurseries import plain_nursery
from unhosted.node.shell.peers.identity import new_identity
from unhosted.node.shell.peers.network import LibP2PNetwork
from unhosted.node.shell.transfer.serving import ModelServing
from unhosted.node.shell.transfer.sideband import Sideband

KILLS = 2


class Gated(ModelServing):
    """Gives as many chunks as it is let."""

    budget = 1_000_000

    async def _give(self, channel: Channel, *more: object) -> None:
        while self.given_bytes >= self.budget * CHUNK_BYTES:
            await trio.sleep(0.002)
        await super()._give(channel, *more)  # type: ignore[arg-type]


@asynccontextmanager
async def desktop(root: Path, model: Path, *, sideband: bool) -> AsyncIterator[tuple[Gated, list[str]]]:
    """A real node that gives `model`, and the arguments of a child that fetches from it."""
    network = LibP2PNetwork(new_identity(), listen=[("127.0.0.1", 0)], is_paired=lambda peer: True)
    bulk = Sideband(0, host="127.0.0.1") if sideband else None
    store = ModelStore(root / "desktop")
    put(store, model)
    gated = Gated(network, store, capabilities=lambda peer: Capabilities(), sideband=bulk)
    gated.start()
    with trio.fail_after(60):
        async with plain_nursery() as nursery:
            await nursery.start(network.run)
            if bulk is not None:
                await nursery.start(bulk.run)
            yield gated, [str(root / "laptop"), network.peer, network.addresses()[0]]


def start_child(arguments: list[str], blake3: str) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-m", "tests.node.transfer.fetching_child", *arguments, f"b3:{blake3}"]
    return subprocess.Popen(command, env=environment)


def kept_chunks(partial: Path) -> int:
    found = [journal.load(path) for path in partial.glob("*.journal")]
    return max((len(one[1]) for one in found if one), default=0)


@pytest.mark.slow
@pytest.mark.parametrize("sideband", [True, False])
def test_two_processes_pass_a_model_on(
    tmp_path: Path, big_model: Path, big_digests: Digests, sideband: bool
) -> None:
    async def main() -> None:
        async with desktop(tmp_path, big_model, sideband=sideband) as (given, arguments):
            child = start_child(arguments, big_digests.blake3)
            assert await trio.to_thread.run_sync(child.wait, 50) == 0
            assert given.given_bytes == big_digests.size_bytes

    trio.run(main)
    store = ModelStore(tmp_path / "laptop")
    (entry,) = store.entries()
    assert entry.blake3 == big_digests.blake3
    assert store.verify(entry.name).path.read_bytes() == big_model.read_bytes()
    assert not list(store.partial_dir.iterdir())


@pytest.mark.slow
def test_resumes_after_kill_9_of_the_fetching_process(tmp_path: Path) -> None:
    model = write_tiny(tmp_path / "large.gguf", vocab=12_000, embedding=512, feed_forward=512, layers=1)
    digests = hash_file(model)
    partial = tmp_path / "laptop" / "partial"

    async def main() -> None:
        async with desktop(tmp_path, model, sideband=True) as (gated, arguments):
            kept = 0
            for _ in range(KILLS):
                gated.budget = gated.given_bytes // CHUNK_BYTES + 5
                child = start_child(arguments, digests.blake3)
                while (now := kept_chunks(partial)) <= kept:
                    assert child.poll() is None
                    await trio.sleep(0.01)
                kept = now
                child.send_signal(signal.SIGKILL)
                assert child.wait() == -signal.SIGKILL
                assert ModelStore(tmp_path / "laptop").entries() == ()
            gated.budget = 1_000_000
            child = start_child(arguments, digests.blake3)
            assert await trio.to_thread.run_sync(child.wait, 50) == 0
            refetched_bytes = gated.given_bytes - digests.size_bytes
            assert 0 <= refetched_bytes <= KILLS * WINDOW_MAX * CHUNK_BYTES

    trio.run(main)
    (entry,) = ModelStore(tmp_path / "laptop").entries()
    assert entry.blake3 == digests.blake3
