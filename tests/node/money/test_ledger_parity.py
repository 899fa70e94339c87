"""The ledger on the disk is the one in memory: the same events give the same answers, rows and sums."""

import fcntl
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.market.spending_world import NOVEMBER_30_UNIX_S, NS, OWNERS, START, histories
from unhosted.market.spending_state import SpendingState, step
from unhosted.market.spending_words import SpendingEvent
from unhosted.node.shell.money.ledger_file import LedgerFile


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(history=histories, batch_sizes=st.lists(st.integers(1, 40), min_size=60, max_size=60))
def test_the_disk_says_what_memory_says(
    history: Sequence[tuple[SpendingEvent, int]], batch_sizes: Sequence[int]
) -> None:
    waiting = [(event, NOVEMBER_30_UNIX_S * NS) for event in START] + list(history)
    memory, now_ns = SpendingState(), [0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "data" / "ledger.db"
        owners = [_Alive(path, owner) for owner in OWNERS]
        file = LedgerFile(path, folder / "state" / "seal", clock_ns=lambda: now_ns[0])
        for size in batch_sizes:
            if not waiting:
                break
            now_ns[0] = waiting[0][1]  # one transaction has one time
            with file.batch() as batch:
                for event, _ in waiting[:size]:
                    memory, expected = step(memory, event, now_ns[0])
                    assert batch.apply(event) == expected
            del waiting[:size]
        assert file.audit() == memory
        file.close()
        reopened = LedgerFile(path, folder / "state" / "seal", clock_ns=lambda: now_ns[0])
        assert reopened.audit() == memory, "nothing is lost, ended or doubted by a restart"
        reopened.close()
        for owner in owners:
            owner.close()


class _Alive:
    """The owner of a request that hypothesis drew: alive as long as this is open."""

    def __init__(self, ledger: Path, name: str) -> None:
        folder = ledger.with_name(f"{ledger.name}.owners")
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / name).open("wb")
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def close(self) -> None:
        self._file.close()
