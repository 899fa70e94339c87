"""The command line in this process, and a tiny random model in the store of each test."""

import json
from pathlib import Path

import pytest

from tests.node.cli.conftest import Unhosted, home, unhosted
from tests.tiny import write_tiny

__all__ = ["home", "unhosted"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("models") / "tiny.gguf", context=512)


@pytest.fixture
def model(unhosted: Unhosted, tiny: Path) -> str:
    result = unhosted("pull", str(tiny), "--json")
    assert result.code == 0, result.err
    return str(json.loads(result.out)["name"])
