"""Models, stores and a server for the tests of this folder."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from tests.node.models.server import Behaviour, serve
from tests.tiny import write_tiny
from unhosted.node.shell.models.progress import PullProgress
from unhosted.node.shell.models.pull import pull
from unhosted.node.shell.models.settings import PullSettings
from unhosted.node.shell.models.store import InstalledModel, ModelStore

Pull = Callable[..., InstalledModel]


@pytest.fixture(scope="session")
def tiny_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A model of about 290 KB."""
    return write_tiny(tmp_path_factory.mktemp("tiny") / "tiny.gguf").read_bytes()


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


@pytest.fixture
def server() -> Iterator[tuple[str, Behaviour]]:
    with serve() as started:
        yield started


@pytest.fixture
def quick() -> PullSettings:
    """Settings that do not wait, with chunks far smaller than the model."""
    return PullSettings(chunk_bytes=64 << 10, backoff_s=0.001, timeout_s=10)


@pytest.fixture
def pull_now(store: ModelStore, quick: PullSettings) -> Pull:
    """Pull to the end; `seen` collects what it reports."""

    def run(
        ref: str,
        *,
        settings: PullSettings = quick,
        seen: list[PullProgress] | None = None,
        name: str | None = None,
    ) -> InstalledModel:
        async def main() -> InstalledModel:
            report = seen.append if seen is not None else lambda progress: None
            return await pull(store, ref, settings=settings, progress=report, name=name)

        return trio.run(main)

    return run
