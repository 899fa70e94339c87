"""kill -9 at each step of sending, and the same key again: one transaction takes effect, never two."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.devchain import DevChain
from tests.netns.lab import environment
from tests.netns.talk import Talk
from tests.node.chain.crash_program import STEPS
from tests.node.chain.stage import STRANGER, fund
from unhosted.market.eip712 import keccak256
from unhosted.market.ids import address_text

pytestmark = pytest.mark.slow

KILLED = -9


@pytest.fixture(scope="module")
def program() -> Iterator[Talk]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.node.chain.crash_program"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
    )
    talk = Talk(process, name="sender")
    talk.hear(timeout_s=60)
    yield talk
    talk.kill()
    assert process.stdin is not None and process.stdout is not None
    process.stdin.close()
    process.stdout.close()


def _word(dev: DevChain, folder: Path, step: str | None, **changes: object) -> dict[str, Any]:
    return {
        "folder": str(folder),
        "url": dev.url,
        "token": address_text(dev.contracts.token),
        "channels": address_text(dev.contracts.channels),
        "limit": 5,
        "key": "operator",
        "step": step,
        **changes,
    }


def _effects(dev: DevChain) -> int:
    topic = keccak256(b"OperatorSet(address,address,uint96)")
    wanted = {
        "address": address_text(dev.contracts.channels),
        "fromBlock": "0x0",
        "topics": ["0x" + topic.hex()],
    }
    return len(dev.rpc.call("eth_getLogs", wanted))


def _nonce(dev: DevChain) -> int:
    return int(dev.rpc.call("eth_getTransactionCount", address_text(STRANGER.address), "latest"), 16)


@pytest.mark.parametrize("step", STEPS)
def test_a_sender_killed_at_any_step_sends_once(
    step: str, program: Talk, dev: DevChain, tmp_path: Path
) -> None:
    fund(dev)
    assert program.ask(_word(dev, tmp_path, step))["code"] == KILLED, program.story()
    assert _effects(dev) == (0 if step in ("while signing", "before journal", "after journal") else 1)
    assert program.ask(_word(dev, tmp_path, None))["code"] == 0, program.story()
    assert (_effects(dev), _nonce(dev)) == (1, 1)
    assert program.ask(_word(dev, tmp_path, None))["code"] == 0, program.story()
    assert program.ask(_word(dev, tmp_path, None, key="another", limit=6))["code"] == 0, program.story()
    assert (_effects(dev), _nonce(dev)) == (2, 2)


def test_killed_again_and_again_it_still_sends_once(program: Talk, dev: DevChain, tmp_path: Path) -> None:
    fund(dev)
    for step in (*STEPS, *reversed(STEPS)):
        program.ask(_word(dev, tmp_path, step))
    assert program.ask(_word(dev, tmp_path, None))["code"] == 0, program.story()
    assert (_effects(dev), _nonce(dev)) == (1, 1)
