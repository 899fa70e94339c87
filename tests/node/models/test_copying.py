"""Models onto a stick and back: checked while they are copied, and nothing half-written is left."""

import errno
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from unhosted.node.core.errors import Refused
from unhosted.node.shell.models import copying, files
from unhosted.node.shell.models.copying import Exported, copy_in, export_model, is_elsewhere
from unhosted.node.shell.models.progress import PullProgress
from unhosted.node.shell.models.store import InstalledModel, ModelStore


@pytest.fixture
def full_store(store: ModelStore, tiny_bytes: bytes, tmp_path: Path) -> ModelStore:
    source = tmp_path / "tiny.gguf"
    source.write_bytes(tiny_bytes)
    store.install(source, name="org/tiny:1m", source="test", digests=files.hash_file(source))
    return store


@pytest.fixture
def stick(tmp_path: Path) -> Path:
    folder = tmp_path / "stick"
    folder.mkdir()
    return folder


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 128 KiB: less than the model."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def export(store: ModelStore, target: Path, seen: list[PullProgress] | None = None) -> Exported:
    report = seen.append if seen is not None else lambda progress: None
    return trio.run(lambda: export_model(store, "org/tiny:1m", target, progress=report))


def take(store: ModelStore, path: Path, name: str | None = None) -> InstalledModel:
    return trio.run(lambda: copy_in(store, path, name=name, progress=lambda progress: None))


def test_an_exported_model_is_taken_in_elsewhere(
    full_store: ModelStore, stick: Path, tmp_path: Path, tiny_bytes: bytes
) -> None:
    seen: list[PullProgress] = []
    done = export(full_store, stick, seen)
    assert done.path == stick / "org-tiny-1m.gguf"
    assert done.path.read_bytes() == tiny_bytes
    record = json.loads(done.sidecar.read_text())
    entry = full_store.resolve("org/tiny:1m").entry
    assert (record["name"], record["blake3"]) == ("org/tiny:1m", entry.blake3)
    assert (record["licence"], record["sha256"]) == ("CC0-1.0", done.sha256)
    assert seen[0].stage == "copying"
    assert sorted(path.name for path in stick.iterdir()) == ["org-tiny-1m.gguf", "org-tiny-1m.gguf.json"]
    other = ModelStore(tmp_path / "other")
    model = take(other, done.path)
    assert (model.name, model.entry.blake3) == ("org/tiny:1m", entry.blake3)
    done.path.unlink()  # the stick is unplugged
    assert other.verify("org/tiny:1m").path.read_bytes() == tiny_bytes
    assert not list(other.partial_dir.iterdir())


def test_a_file_without_a_sidecar_is_called_as_it_is(
    store: ModelStore, stick: Path, tiny_bytes: bytes
) -> None:
    path = stick / "plain.gguf"
    path.write_bytes(tiny_bytes)
    path.with_name("plain.gguf.json").write_text("[1, 2")  # not ours
    assert take(store, path).name == "plain"
    assert take(store, path, "mine").name == "mine"


def test_a_damaged_file_is_refused_by_its_sidecar(
    full_store: ModelStore, stick: Path, tmp_path: Path
) -> None:
    done = export(full_store, stick)
    data = bytearray(done.path.read_bytes())
    data[-1] ^= 1
    done.path.write_bytes(data)
    other = ModelStore(tmp_path / "other")
    with pytest.raises(Refused) as refused:
        take(other, done.path)
    assert refused.value.code == "digest_mismatch"
    assert other.entries() == ()
    assert not list(other.partial_dir.iterdir())


def test_a_rotten_model_is_not_exported(full_store: ModelStore, stick: Path) -> None:
    path = full_store.resolve("org/tiny:1m").path
    times = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)

    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as a failing disk would leave it
    with pytest.raises(Refused) as refused:
        export(full_store, stick)
    assert refused.value.code == "digest_mismatch"
    assert not list(stick.iterdir())


def test_nothing_is_overwritten(full_store: ModelStore, stick: Path) -> None:
    export(full_store, stick / "one.gguf")
    with pytest.raises(Refused, match="there already"):
        export(full_store, stick / "one.gguf")
    with pytest.raises(Refused, match="no folder"):
        export(full_store, stick / "missing" / "one.gguf")


def test_a_full_stick_is_told_before_and_leaves_nothing(full_store: ModelStore, tiny_disk: Path) -> None:
    with pytest.raises(Refused) as refused:
        export(full_store, tiny_disk)
    assert refused.value.code == "disk_full"
    assert str(tiny_disk) in refused.value.message
    assert not list(tiny_disk.iterdir())


def test_a_disk_that_fills_up_meanwhile_leaves_nothing(
    full_store: ModelStore, tiny_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "check_disk", lambda directory, needed_bytes, what: None)
    with pytest.raises(Refused) as refused:
        export(full_store, tiny_disk)
    assert refused.value.code == "disk_full"
    assert isinstance(refused.value.__cause__, OSError)
    assert refused.value.__cause__.errno == errno.ENOSPC
    assert not list(tiny_disk.iterdir())


def test_a_file_that_is_not_there_or_no_model(store: ModelStore, stick: Path) -> None:
    with pytest.raises(Refused) as refused:
        take(store, stick / "missing.gguf")
    assert refused.value.code == "model_not_found"
    (stick / "text.gguf").write_text("hello")
    with pytest.raises(Refused) as refused:
        take(store, stick / "text.gguf")
    assert refused.value.code == "invalid_request"
    assert not list(store.partial_dir.iterdir())


def test_another_disk_is_noticed(store: ModelStore, tiny_disk: Path, stick: Path) -> None:
    (tiny_disk / "a").write_text("a")
    (stick / "a").write_text("a")
    assert is_elsewhere(store, tiny_disk / "a")
    assert not is_elsewhere(store, stick / "a")
