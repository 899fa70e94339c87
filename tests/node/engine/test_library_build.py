"""The parts of the native build that need no compiler; the build itself is a step of `.ci/run`."""

import json
import tarfile
from pathlib import Path

import pytest

from unhosted.node.shell.engine import library, library_build


def _built(place: Path, text: str) -> Path:
    place.mkdir()
    (place / "libllama.so.0").write_text(text)
    (place / "libllama.so").symlink_to("libllama.so.0")
    return place


def test_new_library_replaces_the_old_one_and_leaves_nothing_behind(tmp_path: Path) -> None:
    target = tmp_path / "lib" / "unhosted-engine"
    target.parent.mkdir()
    for turn in ("first", "second"):
        library_build._install(_built(tmp_path / turn, turn), target)
        assert (target / "libllama.so").read_text() == turn
    assert len(list(target.parent.iterdir())) == 2  # the link, and what it points at


def test_directory_put_there_by_hand_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "lib" / "unhosted-engine"
    target.mkdir(parents=True)
    (target / "libllama.so").write_text("by hand")
    library_build._install(_built(tmp_path / "new", "new"), target)
    assert (target / "libllama.so").read_text() == "new"


@pytest.mark.parametrize(
    ("installed", "wanted", "is_current"),
    [(False, False, True), (True, True, True), (True, False, True), (False, True, False)],
)
def test_build_with_the_server_serves_for_one_without(
    tmp_path: Path, installed: bool, wanted: bool, is_current: bool
) -> None:
    stamp = library_build._stamp("0.3.36", with_server=installed)
    (tmp_path / "build.json").write_text(json.dumps(stamp))
    assert (
        library_build._is_current(tmp_path, library_build._stamp("0.3.36", with_server=wanted)) is is_current
    )


def test_other_bindings_need_another_build(tmp_path: Path) -> None:
    (tmp_path / "build.json").write_text(json.dumps(library_build._stamp("0.3.36", with_server=True)))
    assert not library_build._is_current(tmp_path, library_build._stamp("0.3.37", with_server=False))


def test_flags_of_the_user_reach_the_build_and_the_bindings_own_switch_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CMAKE_ARGS", "-DLLAMA_BUILD=OFF -DGGML_CUDA=on '-DCMAKE_CXX_FLAGS=-O3 -g'")
    assert library_build._user_flags() == ["-DGGML_CUDA=on", "-DCMAKE_CXX_FLAGS=-O3 -g"]


def test_machine_without_a_compiler_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(library, "native_dir", lambda: tmp_path / "lib" / "unhosted-engine")
    assert library_build.main([]) == 1
    assert "apt-get install g++" in capsys.readouterr().err


def test_source_package_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("other")
    package = tmp_path / "other-1.0.tar.gz"
    with tarfile.open(package, "w:gz") as archive:
        archive.add(tmp_path / "other.txt", "other-1.0/other.txt")
    with pytest.raises(library_build.BuildError, match=r"no vendor/llama\.cpp"):
        library_build._unpack(package, tmp_path, lambda line: None)


def test_only_the_engines_source_is_unpacked(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    package = tmp_path / "bindings-1.0.tar.gz"
    with tarfile.open(package, "w:gz") as archive:
        for name in ("bindings-1.0/vendor/llama.cpp/CMakeLists.txt", "bindings-1.0/setup.py"):
            archive.add(tmp_path / "file", name)
    source = library_build._unpack(package, tmp_path, lambda line: None)
    assert [path.name for path in source.iterdir()] == ["CMakeLists.txt"]
    assert not list((tmp_path / "source").rglob("setup.py"))
