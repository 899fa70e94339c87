"""kill -9 in the middle of paying; the long run is `python -m tests.node.money.crash_ledger --kills 200`."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

PATIENCE_S = 100.0


def crash(*options: str) -> dict[str, Any]:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.node.money.crash_ledger", *options],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert ran.stdout, ran.stderr[-2000:]
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


@pytest.mark.slow
def test_nothing_is_sent_beyond_what_the_disk_and_the_cap_say_after_kill_9() -> None:
    found = crash("--kills", "20", "--cap-usd", "0.02", "--request-micros-max", "400")
    assert found["violations"] == 0, found
    assert found["kills"] >= 20 and found["vouchers"] > 50
    assert found["sent_micros"] > 0.9 * found["cap_micros"], "the cap was not reached: it was not tested"


@pytest.mark.slow
def test_several_processes_that_are_killed_share_one_cap() -> None:
    found = crash("--kills", "12", "--cap-usd", "0.01", "--request-micros-max", "400", "--processes", "3")
    assert found["violations"] == 0, found
    assert found["sent_micros"] > 0.9 * found["cap_micros"], "the cap was not reached: it was not tested"


@pytest.mark.slow
def test_signing_before_the_commit_is_caught() -> None:
    found = crash("--kills", "6", "--cap-usd", "0.01", "--request-micros-max", "400", "--sign-first")
    assert found["violations"] > 0, "the harness would not notice"
