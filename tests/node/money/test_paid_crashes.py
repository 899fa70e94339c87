"""Buyer and seller as processes that are killed while payments stream; `crash_paid` says how."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

pytestmark = pytest.mark.slow

DURATION_S = 240


def crashes(*words: str) -> list[dict[str, Any]]:
    """The outcomes of a sweep that ended as it should."""
    command = [sys.executable, "-m", "tests.node.money.crash_paid", *words]
    known = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, capture_output=True, text=True, env=known, timeout=DURATION_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return [outcome for line in done.stdout.splitlines() if "victim" in (outcome := json.loads(line))]


def test_kill_9_of_either_end_loses_no_voucher_and_at_most_a_window() -> None:
    """Some of the points; `python -m tests.node.money.crash_paid` takes all of them."""
    outcomes = crashes("--first", "3", "--every", "12")
    assert {outcome["victim"] for outcome in outcomes if outcome["killed"]} == {"buyer", "seller"}
    assert all(outcome["finished"] == 2 for outcome in outcomes)
    assert all(outcome["acknowledged"] >= 4 for outcome in outcomes)  # two requests, each at both ends


@pytest.mark.parametrize("victim", ["buyer", "seller"])
def test_an_end_that_goes_on_before_its_disk_has_it_is_caught(victim: str) -> None:
    *_, caught = crashes("--victims", victim, "--first", "6", "--hasty")
    assert caught["violations"]
