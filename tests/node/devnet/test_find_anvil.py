"""Where anvil is looked for, and in which order."""

from pathlib import Path

import pytest

from unhosted.node import doctor_devnet
from unhosted.node.core.errors import Refused
from unhosted.node.shell.devnet import find_anvil as module
from unhosted.node.shell.devnet.find_anvil import find_anvil


def program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


@pytest.mark.slow
def test_the_doctor_names_what_it_found_and_what_is_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finding = doctor_devnet.devnet()
    assert finding.status == "ok" and "anvil 1." in finding.text
    monkeypatch.setenv("UNHOSTED_ANVIL", str(tmp_path / "gone"))
    finding = doctor_devnet.devnet()
    assert (finding.status, finding.next) == ("warn", "unset UNHOSTED_ANVIL")
    monkeypatch.delenv("UNHOSTED_ANVIL")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(module, "_npm_places", lambda cwd: iter(()))
    finding = doctor_devnet.devnet()
    assert finding.status == "ok" and "the Ethereum machine in Python runs local chains" in finding.text


def test_the_variable_comes_before_the_path(tmp_path: Path) -> None:
    named, on_path = program(tmp_path / "my anvil"), program(tmp_path / "bin" / "anvil")
    environ = {"UNHOSTED_ANVIL": str(named), "PATH": str(on_path.parent)}
    assert find_anvil(environ) == named
    assert find_anvil({"PATH": str(on_path.parent)}) == on_path


def test_a_variable_that_names_nothing_is_not_passed_over(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"UNHOSTED_ANVIL=.*gone is not a program; correct or unset it"):
        find_anvil({"UNHOSTED_ANVIL": str(tmp_path / "gone")})


def test_the_folder_of_npm_is_found_from_where_one_stands(tmp_path: Path) -> None:
    installed = program(tmp_path / "node_modules" / "@foundry-rs" / module._package() / "bin" / "anvil")
    assert find_anvil({"PATH": ""}, cwd=tmp_path) == installed


def test_the_program_behind_the_wrapper_of_npm_is_run(tmp_path: Path) -> None:
    scope = tmp_path / "node_modules" / "@foundry-rs"
    wrapper = program(scope / "anvil" / "bin.mjs")
    installed = program(scope / module._package() / "bin" / "anvil")
    link = tmp_path / "node_modules" / ".bin" / "anvil"
    link.parent.mkdir()
    link.symlink_to(wrapper)
    assert find_anvil({"PATH": str(link.parent)}, cwd=tmp_path / "elsewhere") == installed


def test_a_wrapper_without_a_program_for_this_machine_is_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_npm_places", lambda cwd: iter(()))
    link = tmp_path / "anvil"
    link.symlink_to(program(tmp_path / "@foundry-rs" / "anvil" / "bin.mjs"))
    assert find_anvil({"PATH": str(tmp_path)}) is None
