"""The ledger on disks that are full or read-only: nothing is answered that is not on them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PATIENCE_S = 60.0


def on_small_disk(case: str, folder: Path) -> dict[str, Any]:
    """What the case says, from a mount namespace that ends with it."""
    command = ["unshare", "--mount", "--map-root-user", sys.executable, "-m", "tests.node.money.small_disk"]
    ran = subprocess.run(
        [*command, case, str(folder)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


@pytest.mark.slow
def test_a_full_disk_refuses_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    found = on_small_disk("full", tmp_path)
    assert found["granted"] > 0 and found["more"] > 0
    code, message = found["why"]
    assert code == "disk_full" and "free some space" in message
    assert found["again"] == "disk_full"
    assert found["granted"] + found["more"] <= found["spent"], "all that was answered is counted"
    assert (found["spent_after"], found["reserved_after"]) == (found["spent"], 0)


@pytest.mark.slow
def test_a_read_only_disk_is_refused_with_what_to_do(tmp_path: Path) -> None:
    found = on_small_disk("read-only", tmp_path)
    code, message = found["opened"]
    assert code == "ledger_damaged" and "writable" in message
    assert (found["spent_after"], found["reread"]) == (found["spent"], False)


@pytest.mark.slow
def test_a_full_disk_of_the_seal_does_not_stop_payments(tmp_path: Path) -> None:
    found = on_small_disk("seal", tmp_path)
    assert found == {"total": 30, "reread": False, "another": "disk_full"}
