"""The library is chosen by what it says: real libraries, real processes, and some that lie."""

import ctypes
import json
import os
import subprocess
import sys
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import pytest

from unhosted.node.shell.engine import bindings, layout, library


@pytest.fixture(autouse=True)
def _own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNHOSTED_HOME", str(tmp_path / "home"))
    for variable in library.ENVIRONMENT_VARIABLES:
        monkeypatch.delenv(variable, raising=False)


def _run(code: str, tmp_path: Path) -> str:
    """Standard output of a new interpreter: a process can load one library only."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "UNHOSTED_HOME": str(tmp_path / "home"),
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _all_installed() -> list[Path]:
    """Every libllama of this environment, so that a native build is tested wherever there is one."""
    known = Path(next(iter(find_spec("llama_cpp").submodule_search_locations)))  # type: ignore[union-attr,arg-type]
    return [path for _, path in library._candidates(known)]


@pytest.mark.slow
def test_finds_a_library_whose_defaults_read_as_documented() -> None:
    found = library.find_library()
    assert found.path.exists()
    assert found.layout in {entry.name for entry in layout.LAYOUTS}
    assert set(found.missing) <= bindings.SYMBOLS_OPTIONAL


@pytest.mark.slow
def test_every_installed_library_passes_its_probe() -> None:
    answers = {path: library.probe_file(path) for path in _all_installed()}
    assert answers
    assert {path: answer.get("fault") for path, answer in answers.items()} == dict.fromkeys(answers)


@pytest.mark.slow
def test_second_look_does_not_start_a_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    first = library.find_library()

    def fail(path: Path) -> dict[str, object]:
        raise AssertionError(f"{path} was probed again")

    monkeypatch.setattr(library, "probe_file", fail)
    assert library.find_library() == first


@pytest.mark.slow
def test_changed_library_is_probed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = library.find_library().path
    for beside in found.parent.glob("*.so*"):  # a native build's parts look for each other beside them
        (tmp_path / beside.name).symlink_to(beside)
    link = tmp_path / "libllama.so"
    if not link.exists():
        link.symlink_to(found)
    monkeypatch.setenv("UNHOSTED_LLAMA_LIB", str(link))
    assert library.find_library().path == link
    link.unlink()
    link.write_bytes(b"not a library any more")
    with pytest.raises(library.LibraryError, match="cannot be loaded"):
        library.find_library()


@pytest.mark.slow
def test_torn_cache_file_is_replaced(tmp_path: Path) -> None:
    cache = tmp_path / "home" / "cache" / "engine-library.json"
    cache.parent.mkdir(parents=True)
    cache.write_text('{"abc": {"layo')
    found = library.find_library()
    stored = json.loads(cache.read_bytes())
    assert [entry["layout"] for entry in stored.values()] == [found.layout]


@pytest.mark.slow
def test_layout_that_no_table_entry_fits_is_told_with_what_was_read(tmp_path: Path) -> None:
    # The library is real and the tables are changed: for the probe that is the same difference.
    code = f"""
import json
from unhosted.node.shell.engine import layout, library_probe
struct, (function, defaults) = "llama_context_params", layout.DEFAULTS["llama_context_params"]
layout.DEFAULTS = {{**layout.DEFAULTS, struct: (function, {{**defaults, "n_batch": 4096}})}}
print(json.dumps(library_probe.probe({str(library.find_library().path)!r})))
"""
    found = json.loads(_run(code, tmp_path))
    assert "llama_context_params.n_batch reads 2048, not 4096" in found["fault"]
    assert all(f"layout {entry.name!r}" in found["fault"] for entry in layout.LAYOUTS)
    assert "layout" not in found


def test_refusal_names_both_versions_the_fault_and_the_next_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "libllama.so").touch()
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(tmp_path))
    monkeypatch.setattr(
        library, "probe_file", lambda path: {"version": "llama.cpp 9.9.9", "fault": "unknown"}
    )
    with pytest.raises(library.LibraryError) as caught:
        library.find_library()
    message = str(caught.value)
    for part in ("9.9.9", bindings.bindings_version(), "unknown", "make engine", "unhosted doctor"):
        assert part in message


def test_library_that_crashes_takes_only_its_probe_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interpreter = tmp_path / "python"
    interpreter.write_text("#!/bin/sh\nkill -ABRT $$\n")
    interpreter.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(interpreter))
    assert "signal 6" in library.probe_file(tmp_path / "libllama.so")["fault"]


def test_library_that_lacks_a_needed_function_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    libc = next(
        line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "libc.so" in line
    )
    monkeypatch.setenv("UNHOSTED_LLAMA_LIB", libc)
    with pytest.raises(library.LibraryError, match="lacks a function that the engine needs"):
        library.find_library()


def test_named_library_that_is_not_there_is_refused_and_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(tmp_path))
    with pytest.raises(library.LibraryError, match="environment at"):
        library.find_library()


@pytest.mark.slow
def test_struct_of_the_bindings_is_read_through_the_layout_that_was_probed(tmp_path: Path) -> None:
    code = """
import json
from unhosted.node.shell.engine import layout
from unhosted.node.shell.engine.library import load_library
L = load_library()
value = L.llama_context_default_params()
print(json.dumps({name: getattr(value, name) for name in ("n_batch", "type_v", "swa_full", "kv_unified")}))
"""
    read = json.loads(_run(code, tmp_path))
    assert read == {"n_batch": 2048, "type_v": 1, "swa_full": True, "kv_unified": False}


@pytest.mark.slow
def test_loading_sets_passive_waiting_and_imports_nothing_heavy(tmp_path: Path) -> None:
    code = """
import os, sys
from unhosted.node.shell.engine.library import load_library
load_library()
import llama_cpp
from llama_cpp.llama_grammar import json_schema_to_gbnf
assert llama_cpp.llama_backend_init and json_schema_to_gbnf
print(os.environ["OMP_WAIT_POLICY"], {"jinja2", "diskcache", "numpy"} & set(sys.modules))
"""
    assert _run(code, tmp_path).split() == ["passive", "set()"]


@pytest.mark.slow
def test_reason_of_a_failed_load_is_kept_and_stderr_stays_silent(tmp_path: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF" + bytes(64))
    code = f"""
import json
from unhosted.node.shell.engine import library
L = library.load_library()
model = L.llama_model_load_from_file({str(bad)!r}.encode(), L.llama_model_default_params())
print(json.dumps([bool(model), library.recent_errors()]))
"""
    loaded, errors = json.loads(_run(code, tmp_path))
    assert not loaded
    assert any("version" in line or "gguf" in line for line in errors)


def test_layout_with_one_more_field_is_told_from_the_one_without() -> None:
    class Context(ctypes.Structure):
        _fields_ = (("n_ctx", ctypes.c_uint32), ("abort_callback", ctypes.c_void_p))

    module = type(sys)("bindings")
    module.llama_context_params = Context  # type: ignore[attr-defined]
    names = {}
    for entry in layout.LAYOUTS:
        built = layout._struct_class(module, "llama_context_params", entry)
        names[entry.name] = [item[0] for item in built._fields_]
    assert names["bindings"] == ["n_ctx", "abort_callback"]
    assert names["moe-cache"] == ["n_ctx", "moe_cache_size", "abort_callback"]
    assert asdict(layout.layout_by_name("bindings"))["insertions"] == ()
