"""anvil as a child that cannot outlive us, with its state in a file.

A shell stands between: it waits for the end of a pipe that we hold, and then asks anvil to end. The kernel
closes the pipe however we end, also by kill -9, and anvil writes its state when it is asked. (A death signal
of the parent would not do: it follows the thread that started the child, and ours come and go.)
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import IO

from unhosted.node.core.errors import Refused
from unhosted.node.shell.devnet.accounts import CHAIN_ID, MNEMONIC
from unhosted.node.shell.devnet.ports import free_port
from unhosted.node.shell.devnet.rpc import LocalRpc, RpcFault

START_S = 20.0
"""It takes 0.4 s; a machine that needs fifty times as long has another problem."""

STOP_S = 10.0
"""It writes its state when it ends: some megabytes at most."""

STATE_INTERVAL_S = 5
"""What a kill -9 of anvil itself can lose."""

HARDFORK = "prague"
"""What the chains that we settle on run at least, and what the machine in Python can do as well."""

START_TRIES = 5
"""With a free port of our choice another program may take it first."""

WATCH = (
    'exec 3<&0; "$@" </dev/null 3<&- & child=$!; '
    "{ read -r _ <&3; kill -TERM $child; } 2>/dev/null & reader=$!; "
    "wait $child; code=$?; kill $reader; wait $reader; exit $code"
)

PAUSE_S = 0.01

WORDS_BYTES_MAX = 4096


class AnvilChain:
    """A running anvil. `url` for everybody; `stop` writes the state. Blocking; for one thread at a time."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, words: IO[bytes]) -> None:
        self._process = process
        self._words = words
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def wait(self) -> int:
        """Until it ends, whoever ends it; its exit code."""
        return self._process.wait()

    def last_words(self) -> str:
        """What it said when it could not go on, in one line."""
        self._words.seek(0)
        text = self._words.read(WORDS_BYTES_MAX).decode(errors="replace")
        return " ".join(text.split()) or f"exit code {self._process.poll()}"

    def stop(self) -> None:
        """Let it write its state and end; after STOP_S it is killed."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._words.close()


def start_anvil(
    program: Path,
    *,
    port: int = 0,
    state_file: Path | None = None,
    block_time_s: int = 0,
    epoch_slots: int = 0,
) -> AnvilChain:
    """Start it and wait until it answers.

    port: 0 takes a free one. state_file: read if it is there, written every STATE_INTERVAL_S and at the end.
    block_time_s: 0 mines a block for each transaction at once. epoch_slots: `safe` is so many blocks behind
    `latest`; 0 makes them the same, since nothing is ever undone here.
    Raises: Refused with what anvil said, if it does not answer within START_S.
    """
    if state_file is not None:
        state_file.parent.mkdir(parents=True, exist_ok=True)
        _keep_a_good_copy(state_file)
    for tries_left in reversed(range(START_TRIES if port == 0 else 1)):
        chosen = port or free_port()
        chain = _launch(program, chosen, state_file, block_time_s, epoch_slots)
        try:
            fault = _wait_ready(chain)
            if fault is None:
                _mend_clock(chain)
                return chain
        except BaseException:
            chain.stop()
            raise
        chain.stop()
        if tries_left == 0 or "in use" not in fault:
            raise Refused("chain_unavailable", f"{program} did not start: {fault}")
    raise AssertionError("the last try returns or raises")


def _launch(
    program: Path, port: int, state_file: Path | None, block_time_s: int, epoch_slots: int
) -> AnvilChain:
    command = [str(program), "--host", "127.0.0.1", "--port", str(port), "--silent"]
    command += ["--chain-id", str(CHAIN_ID), "--mnemonic", MNEMONIC, "--hardfork", HARDFORK]
    command += ["--slots-in-an-epoch", str(epoch_slots)]
    if state_file is not None:
        command += ["--state", str(state_file), "--state-interval", str(STATE_INTERVAL_S)]
    if block_time_s:
        command += ["--block-time", str(block_time_s)]
    # Not a pipe: one that nobody empties would stop it. It lives as long as the chain.
    words = tempfile.TemporaryFile()  # noqa: SIM115
    process = subprocess.Popen(
        ["/bin/sh", "-c", WATCH, "sh", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=words,
        start_new_session=True,  # Ctrl-C is for us alone: it would end anvil while others still ask it
    )
    return AnvilChain(process, port, words)


def _wait_ready(chain: AnvilChain) -> str | None:
    """None when it answers; otherwise why not."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if not chain.is_running:
            return chain.last_words()
        with contextlib.suppress(OSError, RpcFault), LocalRpc(chain.port, timeout_s=START_S) as rpc:
            rpc.call("eth_chainId")
            # Another program could have answered on this port; ours would then have ended.
            time.sleep(PAUSE_S)
            if chain.is_running:
                return None
        time.sleep(PAUSE_S)
    return f"no answer within {START_S:.0f} s"


def _mend_clock(chain: AnvilChain) -> None:
    """After a restart anvil takes the machine's time again, behind blocks made after a jump in time: on a
    chain, time never goes back."""
    with LocalRpc(chain.port) as rpc:
        head = int(rpc.call("eth_getBlockByNumber", "latest", False)["timestamp"], 16)
        ahead_s = head - int(time.time())
        if ahead_s > 0:
            rpc.call("evm_increaseTime", ahead_s)


def _keep_a_good_copy(state_file: Path) -> None:
    """anvil writes its state in place: a kill in the middle leaves half of it. The last whole one is kept.

    Raises: Refused when neither can be read.
    """
    spare = state_file.with_name(state_file.name + ".before")
    if _is_whole(state_file):
        draft = spare.with_name(spare.name + ".new")
        shutil.copyfile(state_file, draft)
        draft.replace(spare)
    elif state_file.exists():
        if not _is_whole(spare):
            message = f"{state_file} is damaged and so is its copy; start anew with --reset"
            raise Refused("invalid_request", message, field="state")
        shutil.copyfile(spare, state_file)


def _is_whole(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            json.load(file)
    except (OSError, ValueError):
        return False
    return True
