"""`unhosted devnet` as a user meets it: another process, signals, kills, ports, missing engines."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.devchain import Engine
from unhosted.market.ids import Address, address_text, parse_address
from unhosted.node.core.errors import Refused
from unhosted.node.shell.devnet import contracts as deployment
from unhosted.node.shell.devnet.contracts import dev_contracts, mint
from unhosted.node.shell.devnet.ports import require_free
from unhosted.node.shell.devnet.rpc import LocalRpc

START_TIMEOUT_S = 60.0
HOLDER = Address(b"\x77" * 20)
both = pytest.mark.parametrize("engine", ["anvil", "python"])


def environment(**changed: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(part for part in sys.path if part)} | changed


def start(state: Path, *arguments: str, engine: Engine = "anvil") -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "unhosted.node", "devnet", "--json", "--state", str(state)]
    return subprocess.Popen(
        [*command, "--engine", engine, *arguments],
        env=environment(UNHOSTED_HOME=str(state / "home")),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def info_of(process: "subprocess.Popen[str]") -> dict[str, Any]:
    """The JSON that it prints when it is ready; it goes on running."""
    assert process.stdout is not None and process.stderr is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line == "}\n":
            info: dict[str, Any] = json.loads("".join(lines))
            return info
    raise AssertionError(process.stderr.read())


@contextmanager
def devnet(
    state: Path, *arguments: str, engine: Engine = "anvil"
) -> Iterator[tuple["subprocess.Popen[str]", dict[str, Any]]]:
    process = start(state, *(arguments or ("--port", "0")), engine=engine)
    try:
        yield process, info_of(process)
    finally:
        process.kill()
        process.communicate(timeout=START_TIMEOUT_S)


def rpc_of(info: dict[str, Any]) -> LocalRpc:
    return LocalRpc(int(info["rpc_url"].rpartition(":")[2]))


def wait_until_closed(info: dict[str, Any]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            with rpc_of(info) as rpc:
                rpc.call("eth_chainId")
        except OSError:
            return
        time.sleep(0.01)
    raise TimeoutError("the chain outlived the command")


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "number"), [("anvil", signal.SIGINT), ("python", signal.SIGTERM)])
def test_a_signal_ends_it_cleanly(engine: Engine, number: signal.Signals, tmp_path: Path) -> None:
    with devnet(tmp_path, engine=engine) as (process, info):
        contracts = dev_contracts()
        assert (info["chain_id"], info["engine"], info["is_fresh"]) == (31337, engine, True)
        assert info["channels"] == address_text(contracts.channels)
        accounts = {one["name"]: one for one in info["accounts"]}
        assert (accounts["buyer"]["has_eth"], accounts["buyer"]["usdc_micros"]) == (False, 1_000_000_000)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        assert process.wait(START_TIMEOUT_S) == 0
        wait_until_closed(info)
        assert psutil.wait_procs(children, timeout=START_TIMEOUT_S)[1] == []


@both
@pytest.mark.slow
def test_kill_9_takes_the_engine_along_and_loses_no_block(engine: Engine, tmp_path: Path) -> None:
    with devnet(tmp_path, engine=engine) as (process, info):
        with rpc_of(info) as rpc:
            for _ in range(5):
                mint(rpc, parse_address(info["token"]), HOLDER, 3)
            before = rpc.call("eth_getBlockByNumber", "latest", False)
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait(START_TIMEOUT_S)
        wait_until_closed(info)
        assert psutil.wait_procs(children, timeout=START_TIMEOUT_S)[1] == []
    with devnet(tmp_path, engine=engine) as (_, info):
        assert (info["is_fresh"], info["blocks"]) == (False, int(before["number"], 16))
        with rpc_of(info) as rpc:
            assert rpc.call("eth_getBlockByNumber", "latest", False)["hash"] == before["hash"]
            fields = {
                "to": info["token"],
                "data": "0x" + (deployment.selector("balanceOf(address)") + bytes(12) + HOLDER).hex(),
            }
            assert int(rpc.call("eth_call", fields, "latest"), 16) == 15


@pytest.mark.slow
def test_reset_begins_anew_and_leaves_other_files_alone(tmp_path: Path) -> None:
    mine = tmp_path / "notes.txt"
    mine.write_text("keep me")
    with devnet(tmp_path) as (process, info):
        with rpc_of(info) as rpc:
            mint(rpc, dev_contracts().token, HOLDER, 1)
        process.terminate()
        process.wait(START_TIMEOUT_S)
    with devnet(tmp_path, "--port", "0", "--reset") as (_, again):
        assert (again["is_fresh"], again["blocks"]) == (True, info["blocks"])
        assert mine.read_text() == "keep me"


@pytest.mark.slow
def test_a_second_one_on_the_same_state_or_port_says_who_is_there(tmp_path: Path) -> None:
    with devnet(tmp_path / "a") as (process, info):
        same_state = start(tmp_path / "a", "--port", "0")
        _, words = same_state.communicate(timeout=START_TIMEOUT_S)
        assert same_state.returncode == 1
        assert f"is running already (process {process.pid})" in words and "--state" in words
        port = info["rpc_url"].rpartition(":")[2]
        same_port = start(tmp_path / "b", "--port", port)
        _, words = same_port.communicate(timeout=START_TIMEOUT_S)
        assert same_port.returncode == 1
        assert "a local chain (31337) already runs there" in words and info["rpc_url"] in words


@pytest.mark.slow
def test_a_port_of_another_program_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(Refused, match=f"port {port} is taken by .*; stop it or choose another"):
            require_free(port)
    require_free(port)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("auto", ("nothing here can run a chain", "pip install 'unhosted[devnet]'", "npm install")),
        ("anvil", ("there is no anvil", "npm install", "--engine python")),
        ("python", ("is not installed", "pip install 'unhosted[devnet]'")),
    ],
)
def test_without_an_engine_it_says_how_to_get_one(
    tmp_path: Path, arguments: str, words: tuple[str, ...]
) -> None:
    """An empty PATH, no node_modules, and a Python without py-evm."""
    hide = (
        "import importlib.util, sys\n"
        "from unhosted.node.shell.devnet import find_anvil\n"
        "find_anvil._npm_places = lambda cwd: iter(())\n"
        "real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'eth' else real(name, *rest)\n"
        "from unhosted.node.cli.main import run_command\n"
        f"sys.exit(run_command(['devnet', '--engine', '{arguments}', '--state', sys.argv[1]]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", hide, str(tmp_path)],
        env=environment(PATH="", UNHOSTED_ANVIL="", UNHOSTED_HOME=str(tmp_path / "home")),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT_S,
    )
    assert done.returncode == 1
    for word in words:
        assert word in done.stderr


@pytest.mark.slow
def test_the_text_for_people_names_what_they_need(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "unhosted.node", "devnet", "--port", "0", "--state", str(tmp_path)],
        env=environment(UNHOSTED_HOME=str(tmp_path / "home")),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("Ctrl-C stops it"):
                break
        text = "".join(lines)
        for word in ("http://127.0.0.1:", "TestUSDC", "Channels", "published", "UNHOSTED_CHAIN_NAME=local"):
            assert word in text
    finally:
        process.terminate()
        process.communicate(timeout=START_TIMEOUT_S)
