"""What every test may use: a tiny random model, and SmolLM2, pulled once."""

from pathlib import Path

import pytest

from tests.tiny import write_tiny


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of 300 kB with the chatml tokens."""
    return write_tiny(tmp_path_factory.mktemp("models") / "tiny.gguf")
