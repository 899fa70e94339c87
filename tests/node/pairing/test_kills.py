"""kill -9 of either node at every point of a pairing, on the real network and the real book."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.node.pairing.kills import NEITHER, PAIRED


@pytest.mark.slow
def test_both_agree_after_kill_9_of_either_at_every_point(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.node.pairing.kills", str(tmp_path)]
    path = os.pathsep.join(part for part in sys.path if part)
    run = subprocess.run(
        command, capture_output=True, text=True, timeout=150, env={**os.environ, "PYTHONPATH": path}
    )
    assert run.returncode == 0, run.stderr
    outcomes = [json.loads(line) for line in run.stdout.splitlines()]
    assert [outcome for outcome in outcomes if outcome["reports"] not in (PAIRED, NEITHER)] == []
    for victim, points in (("offerer", 9), ("joiner", 13)):
        of_victim = [outcome for outcome in outcomes if outcome["victim"] == victim]
        assert [outcome["killed"] for outcome in of_victim] == [True] * (len(of_victim) - 1) + [False]
        assert len(of_victim) > points
        after = [outcome["reports"] for outcome in of_victim]
        assert after[0] == NEITHER and after[-2] == PAIRED, "kills fell on both sides of the decision"
