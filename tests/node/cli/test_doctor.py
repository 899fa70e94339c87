"""Findings of the doctor where something is amiss; test_commands.py has the run where nothing is."""

import os
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.node.cli.conftest import Unhosted
from tests.node.cli.fakes import FakeServer
from unhosted.node import app_facts, config, doctor
from unhosted.node.app_facts import LibraryFacts
from unhosted.node.finding import Finding


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library and the sandbox are looked at for real elsewhere; here they are as a test needs them."""
    facts = LibraryFacts(path="/lib/libllama.so", kind="native", version="1", features=("AVX2",))
    monkeypatch.setattr(app_facts, "library_facts", lambda: facts)
    monkeypatch.setattr(app_facts, "sandbox_level", lambda: "network-namespace")


def found(check: str, **environ: str) -> Finding:
    findings = doctor.examine(config.load(), os.environ | environ)
    return next(finding for finding in findings if finding.check == check)


def test_an_empty_store_names_the_pull(home: Path) -> None:
    assert found("models").next == "unhosted pull smollm2:135m"


def test_no_library_fails_with_the_command_that_makes_one(
    unhosted: Unhosted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app_facts, "library_facts", lambda: LibraryFacts(fault="no libllama was found"))
    result = unhosted("doctor")
    assert result.code == 1
    assert "fail  library    no libllama was found" in result.out and "next: make engine" in result.out


def test_a_library_without_vector_instructions_is_a_warning(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app_facts, "library_facts", lambda: LibraryFacts(features=("OPENMP",)))
    assert found("processor").status == "warn"


@pytest.mark.parametrize("level", ["audit-hook", "unknown"])
def test_a_weaker_sandbox_is_a_warning(home: Path, monkeypatch: pytest.MonkeyPatch, level: str) -> None:
    monkeypatch.setattr(app_facts, "sandbox_level", lambda: level)
    assert found("sandbox").status == "warn"


def test_short_memory_is_a_warning(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_facts, "memory_bytes", lambda: (10**8, 10**9))
    finding = found("memory")
    assert finding.status == "warn" and finding.next is not None and "0.1 GB free" in finding.text


def test_a_taken_port_names_the_way_out(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("UNHOSTED_PORT", str(port))
        monkeypatch.setattr("unhosted.node.cli.remote.FIND_TIMEOUT_S", 0.01)
        finding = found("port")
    assert (finding.status, finding.next) == ("warn", f"unhosted serve --port {port + 1}")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("UNHOSTED_OFFLINE", "1", "the node is offline"),
        ("UNHOSTED_PEERS_ENABLED", "0", "peers.enabled is false"),
        ("UNHOSTED_RADIUS", "local", "the radius is local"),
    ],
)
def test_a_machine_that_is_to_be_alone_is_fine(
    home: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)
    finding = found("peers")
    assert finding.status == "ok" and said in finding.text
    assert found("discovery").text.startswith("off")


def test_a_taken_port_for_peers_names_the_setting(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("UNHOSTED_PEERS_BULK_PORT", str(port))
        monkeypatch.setenv("UNHOSTED_PEERS_PORT", "0")
        finding = found("peers")
    assert finding.status == "warn" and f"port {port} is taken" in finding.text
    assert "unhosted config set peers.port" in str(finding.next)


def test_free_ports_show_where_others_reach_this_machine(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("UNHOSTED_PEERS_PORT", "UNHOSTED_PEERS_BULK_PORT"):
        monkeypatch.setenv(name, "0")
    entries = {"eth7": [("127.0.0.1", 2), ("192.0.2.9", 2), ("fe80::1%eth7", 10), ("2001:db8::9", 10)]}
    shown = {
        name: [SimpleNamespace(address=text, family=family) for text, family in listed]
        for name, listed in entries.items()
    }
    monkeypatch.setattr("psutil.net_if_addrs", lambda: shown)
    finding = found("peers")
    assert (finding.status, finding.text) == ("ok", "port 0 is free; reachable at 192.0.2.9, 2001:db8::9")
    monkeypatch.setenv("UNHOSTED_PEERS_INTERFACES", "eth8")
    assert "no network" in found("peers").text


def test_a_key_that_others_can_read_fails(home: Path) -> None:
    path = config.locate().identity_file
    path.parent.mkdir(parents=True)
    assert found("identity").status == "ok"
    path.write_bytes(b"key")
    path.chmod(0o644)
    finding = found("identity")
    assert (finding.status, finding.next) == ("fail", f"chmod 600 {path}")
    path.chmod(0o600)
    assert found("identity").status == "ok"


def test_an_interface_that_is_not_there_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNHOSTED_PEERS_INTERFACES", "nope9")
    finding = found("discovery")
    assert finding.status == "warn" and "nope9" in finding.text
    monkeypatch.setattr(socket, "if_nameindex", lambda: [(1, "lo"), (9_999, "nope9")])
    assert "multicast DNS cannot be joined (nope9)" in found("discovery").text


def test_a_running_node_says_itself_whom_it_is(home: Path, server: FakeServer) -> None:
    server.status["rings"] = {"trusted": "off: port 8643 is taken"}
    assert found("peers").text == "the running node: off: port 8643 is taken"
    server.status["rings"] = {"trusted": "on"}
    server.status["peers"] = {
        "peer": "12D3KooWabcdef",
        "name": "pc",
        "addresses": ["/ip4/192.0.2.9/tcp/8643"],
        "accepting": False,
        "why_not": "quiet hours until 07:00",
        "problems": [],
    }
    finding = found("peers")
    assert finding.status == "ok"
    assert finding.text == (
        "pc (…abcdef) at 192.0.2.9:8643; takes no work of others now: quiet hours until 07:00"
    )
    server.status["peers"]["problems"] = ["mDNS: port 5353 is taken"]
    assert found("peers").status == "warn" and "port 5353 is taken" in found("peers").text


def test_a_node_of_ours_on_the_port_is_fine(home: Path, server: FakeServer) -> None:
    finding = found("port")
    assert finding.status == "ok" and str(server.port) in finding.text


def test_a_mistyped_variable_is_shown(home: Path) -> None:
    finding = found("settings", UNHOSTED_SLOT="4")
    assert finding.status == "warn" and "UNHOSTED_SLOT" in finding.text


def test_a_missing_tool_for_the_proof_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    finding = found("offline")
    assert finding.status == "warn" and "ip" in finding.text and "iproute2" in str(finding.next)


def test_the_proof_without_a_model_says_to_pull_one(unhosted: Unhosted) -> None:
    result = unhosted("doctor", "--offline")
    assert result.code == 1 and "unhosted pull smollm2:135m" in result.err


def test_the_proof_without_its_tools_says_how_to_get_them(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unhosted.node.core.errors import Refused
    from unhosted.node.offline_proof import run_proof

    monkeypatch.setenv("PATH", "")
    with pytest.raises(Refused, match="apt install iproute2"):
        run_proof("tiny")
