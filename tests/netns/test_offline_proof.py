"""Not one packet: `serve --offline` in a network namespace where every packet that leaves is counted.

Needs Linux with `ip` and `unshare`, and root or user namespaces, as `unhosted doctor --offline` does.
"""

import contextlib
import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import write_tiny
from unhosted.node import offline_proof
from unhosted.node.cli import main
from unhosted.node.core.errors import Refused
from unhosted.node.offline_namespace import Sent, family
from unhosted.node.offline_proof import Evidence, namespace_command, run_proof

pytestmark = pytest.mark.slow

UNPRIVILEGED = ["unshare", "--user", "--map-root-user", "--net", "--mount"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose store holds the tiny model under its own name."""
    home = tmp_path_factory.mktemp("home")
    model = write_tiny(home / "tiny.gguf", context=512)
    environ = environment() | {"UNHOSTED_HOME": str(home)}
    subprocess.run([sys.executable, "-m", "unhosted.node", "pull", str(model)], env=environ, check=True)
    return home


@pytest.fixture
def at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNHOSTED_HOME", str(home))


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}


def in_namespace(code: str, command: list[str] | None = None) -> Any:
    """Run `code` in a counting namespace; what it leaves in `result` comes back."""
    prelude = (
        "import contextlib, json, os, socket, subprocess, sys\n"
        "from unhosted.node import offline_namespace as counting\n"
        "counting.lay_network()\n"
        "with counting.count_lookups() as lookups:\n"
        "    before = counting.look(lookups)\n"
    )
    ending = "\nprint(json.dumps(result))"
    body = "".join(f"    {line}\n" for line in code.strip().splitlines())
    done = subprocess.run(
        [*(command or namespace_command()), sys.executable, "-c", prelude + body + ending],
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_an_offline_node_answers_and_sends_nothing(at_home: None) -> None:
    evidence = run_proof("tiny")
    assert evidence.answer_tokens > 0
    assert evidence.sent == Sent(packets=0, lookups=0, no_route=0)
    assert evidence.open_sockets == ()
    assert evidence.listening == ("tcp 127.0.0.1:8642",)
    assert evidence.refused_count == 0
    assert evidence.control.packets > 0 and evidence.control.lookups > 0
    assert evidence.holds
    engine = next(line for line in evidence.processes if "engine" in line)
    assert "an empty one of its own" in engine


def test_the_proof_runs_without_privileges(at_home: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline_proof, "namespace_command", lambda: UNPRIVILEGED)
    assert run_proof("tiny").holds


def test_doctor_prints_the_evidence(at_home: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run_command(["doctor", "--offline"]) == 0
    shown = capsys.readouterr().out
    assert "left       0 packets, 0 name lookups, 0 IPv6 attempts" in shown
    assert "Nothing left this machine" in shown


def test_a_proof_without_its_model_says_what_failed(at_home: None) -> None:
    with pytest.raises(Refused, match="nosuch:1b"):
        run_proof("nosuch:1b")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "killed"])
def test_a_proof_that_is_cut_off_leaves_no_node(at_home: None, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "unhosted.node", "doctor", "--offline"]
    with subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as doctor:
        node = wait_for_node(doctor.pid)
        os.kill(doctor.pid, number)
        ended, _, _ = select.select([node], [], [], 60)
        os.close(node)
    assert ended


def wait_for_node(pid: int) -> int:
    """A descriptor that becomes readable when the node of the proof under `pid` has ended."""
    for _ in range(6000):
        for child in family(pid):
            with contextlib.suppress(OSError):
                if b"serve" in Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0"):
                    return os.pidfd_open(child)
        threading.Event().wait(0.005)
    raise AssertionError("no node was started")


@pytest.mark.parametrize("command", [None, UNPRIVILEGED], ids=["as we are", "unprivileged"])
def test_a_program_that_sends_moves_the_counters(command: list[str] | None) -> None:
    packets, lookups, still = in_namespace(
        "counting.send_for_control()\n"
        "moved = counting.since(before, counting.wait_moved(lookups, before))\n"
        "result = moved.packets, moved.lookups, before.packets",
        command,
    )
    assert still == 0 and packets > 0 and lookups > 0


def test_an_attempt_over_ipv6_is_counted() -> None:
    assert (
        in_namespace(
            "with contextlib.suppress(OSError), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:\n"
            "    sock.sendto(b'x', ('2001:db8::1', 9))\n"
            "result = counting.since(before, counting.look(lookups)).no_route"
        )
        == 1
    )


def test_sockets_beyond_loopback_are_found_in_children_too() -> None:
    code = (
        "import socket, sys; s = socket.create_server(('0.0.0.0', 7001)); "
        "u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.connect(('203.0.113.9', 9)); "
        "p = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); "
        "l = socket.create_server(('127.0.0.1', 7002)); print('up', flush=True); sys.stdin.read()"
    )
    beyond, listening = in_namespace(
        f"with subprocess.Popen([sys.executable, '-c', {code!r}], stdin=-1, stdout=-1) as child:\n"
        "    child.stdout.readline()\n"
        "    result = counting.sockets(counting.family(os.getpid()))\n"
        "    child.stdin.close()"
    )
    words = {line.partition(" ")[2].split(" ", 1)[1] for line in beyond}
    assert "tcp 0.0.0.0:7001 to 0.0.0.0:0" in words
    assert any(line.startswith("udp 198.51.100.2:") and line.endswith("to 203.0.113.9:9") for line in words)
    assert any(line.startswith("packet socket") for line in words)
    assert "tcp 127.0.0.1:7002" in listening


def test_the_guard_keeps_a_program_quiet_where_names_would_be_asked() -> None:
    # CPython resolves a name before its audit event: the guard has to be there first.
    doors = ("socket.socket().connect(('a.example', 1))", "_socket.socket().connect(('b.example', 1))")
    code = "import _socket, socket\nfrom unhosted.node.app_offline import install\ninstall(True)\n" + "".join(
        f"try: {door}\nexcept PermissionError: print('refused')\n" for door in doors
    )
    result = in_namespace(
        f"done = subprocess.run([sys.executable, '-c', {code!r}], capture_output=True, text=True)\n"
        "result = done.stdout.split(), counting.since(before, counting.look(lookups)).is_nothing"
    )
    assert result == [["refused", "refused"], True]


def test_evidence_holds_only_if_nothing_left_and_the_control_was_seen() -> None:
    nothing = Sent(packets=0, lookups=0, no_route=0)
    good = Evidence(
        model="m",
        answer_tokens=1,
        sent=nothing,
        control=Sent(packets=1, lookups=1, no_route=0),
        refused_count=0,
        open_sockets=(),
        processes=(),
        listening=(),
        route="",
        counters_before="",
        counters_after="",
    )
    assert good.holds
    for change in (
        {"sent": Sent(packets=1, lookups=0, no_route=0)},
        {"sent": Sent(packets=0, lookups=1, no_route=0)},
        {"sent": Sent(packets=0, lookups=0, no_route=1)},
        {"control": nothing},
        {"open_sockets": ("pid 1 udp",)},
        {"answer_tokens": 0},
    ):
        assert not dataclasses.replace(good, **change).holds
