"""Findings of the doctor where something is amiss; test_commands.py has the run where nothing is."""

import os
import socket
from pathlib import Path

import pytest

from tests.node.cli.conftest import Unhosted
from tests.node.cli.fakes import FakeServer
from unhosted.node import app_facts, config, doctor
from unhosted.node.app_facts import LibraryFacts
from unhosted.node.doctor import Finding


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
