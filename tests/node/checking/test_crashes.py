"""Whatever moment the process dies at: each answer counts once, and is marked in the end."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from tests.node.checking.checks_world import PAIR, cheated, clean
from tests.node.checking.crash_checks import ANSWERS, WRONG
from tests.node.checking.kept_world import answer_of
from unhosted.node.shell.checking.book import read_book
from unhosted.node.shell.money.kept_answers import open_kept_answers
from unhosted.verify.eprocess import EvidenceState, add_answer

PROGRAM = "tests.node.checking.crash_checks"


@pytest.mark.slow
def test_a_process_that_is_killed_counts_each_answer_once(tmp_path: Path) -> None:
    lives = ("draw:2", "read:1", "mark:1", "marked:1", "never:1")
    command = [sys.executable, "-m", PROGRAM, str(tmp_path), *lives]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    ends = done.stdout.decode().split()
    assert ends == [*[str(-signal.SIGKILL)] * 4, "0"], done.stderr.decode()
    view = read_book(tmp_path / "checks.db")
    pair = view.pairs[PAIR]
    assert (pair.history.checked, pair.history.receipts) == (ANSWERS, ANSWERS)
    expected = EvidenceState()
    for number in range(ANSWERS):
        findings = cheated(wrong=WRONG) if number == 0 else clean()
        assert findings.table is not None
        expected = add_answer(expected, findings.table, findings.seen)
    assert pair.evidence.mismatches == WRONG
    assert pair.evidence == expected
    assert [line.status for line in view.lines] == ["checked"] * ANSWERS

    async def unmarked() -> int:
        async with open_kept_answers(tmp_path / "kept.db") as kept:
            marks = [await kept.of_request(answer_of(number).request_id) for number in range(ANSWERS)]
            return sum(mark is None or not mark.checked_unix_s for mark in marks)

    assert trio.run(unmarked) == 0
