"""One anvil for the whole folder; every test finds it as it was at its start."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.devchain import DevChain, dev_chain


@pytest.fixture(scope="session")
def _running() -> Iterator[DevChain]:
    with dev_chain() as dev:
        yield dev


@pytest.fixture
def dev(_running: DevChain, tmp_path: Path) -> Iterator[DevChain]:
    snapshot = _running.snapshot()
    yield _running
    _running.rpc.call("anvil_dropAllTransactions")
    _running.rpc.call("evm_setAutomine", True)
    _running.revert(snapshot)
