"""A model of some megabytes, many chunks long."""

from pathlib import Path

import pytest

from tests.tiny import write_tiny
from unhosted.node.shell.models.files import hash_file
from unhosted.node.shell.models.manifest import Digests


@pytest.fixture(scope="session")
def big_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 6 MB: five chunks and a piece of one."""
    return write_tiny(
        tmp_path_factory.mktemp("big") / "big.gguf", vocab=2000, embedding=512, feed_forward=512, layers=1
    )


@pytest.fixture(scope="session")
def big_digests(big_model: Path) -> Digests:
    return hash_file(big_model)
