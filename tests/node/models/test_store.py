"""The store on a real disk."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.tiny import write_tiny
from unhosted.node.core.errors import Refused
from unhosted.node.shell.models.files import hash_file, release_lock, try_lock
from unhosted.node.shell.models.foreign import find_by_sha256, find_foreign
from unhosted.node.shell.models.store import InstalledModel, ModelStore


def install(store: ModelStore, data: bytes, name: str, source: str = "test:one") -> InstalledModel:
    path = store.partial_dir / f"{name}.data"
    path.write_bytes(data)
    return store.install(path, name=name, source=source, digests=hash_file(path))


def touch_back(path: Path, data: bytes, mtime_ns: int) -> None:
    """Write, and pretend that nothing was written."""
    path.chmod(0o600)
    path.write_bytes(data)
    os.utime(path, ns=(mtime_ns, mtime_ns))


def test_installed_model_is_listed_and_resolved_by_every_name(store: ModelStore, tiny_bytes: bytes) -> None:
    model = install(store, tiny_bytes, "smollm2:135m", "hf.co/org/repo:Q4_0")
    assert model.path.read_bytes() == tiny_bytes
    assert model.entry.size_bytes == len(tiny_bytes)
    assert "smollm2" in model.entry.aliases
    assert store.entries() == (model.entry,)
    names = ("smollm2:135m", "smollm2", "SmolLM2:135M", "hf.co/org/repo:q4_0", f"b3:{model.entry.blake3[:8]}")
    for name in names:
        assert store.resolve(name) == model


def test_store_seen_by_another_process_is_the_same(store: ModelStore, tiny_bytes: bytes) -> None:
    model = install(store, tiny_bytes, "a")
    assert ModelStore(store.root).resolve("a") == model


def test_unknown_name_suggests_what_is_close_or_how_to_get_it(store: ModelStore, tiny_bytes: bytes) -> None:
    install(store, tiny_bytes, "my-model")
    for name, advice in (
        ("my-modle", "did you mean my-model"),
        ("qwen3:8b", "unhosted pull qwen3:8b"),
        ("zzzzzzzz", "here are: my-model"),
        ("b3:00000000", "unhosted pull"),
    ):
        with pytest.raises(Refused, match=advice) as refusal:
            store.resolve(name)
        assert refusal.value.code == "model_not_found"


def test_removal_frees_the_file_once_no_name_uses_it(store: ModelStore, tiny_bytes: bytes) -> None:
    first = install(store, tiny_bytes, "a")
    install(store, tiny_bytes, "b", "test:two")
    assert len(list(store.root.glob("blobs/*"))) == 1
    assert store.resolve("a").path == store.resolve("b").path
    assert store.remove("a") == 0
    assert store.resolve("b").path == first.path
    assert store.remove("b") == len(tiny_bytes)
    assert not list(store.root.glob("blobs/*"))
    with pytest.raises(Refused):
        store.remove("b")


def test_new_content_under_a_name_frees_the_old(store: ModelStore, tiny_bytes: bytes, tmp_path: Path) -> None:
    old = install(store, tiny_bytes, "a")
    other = write_tiny(tmp_path / "other.gguf", seed=1).read_bytes()
    assert install(store, other, "a").path.read_bytes() == other
    assert not old.path.exists()


def test_adopted_file_is_served_in_place_and_survives_removal(
    store: ModelStore, tiny_bytes: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "mine.gguf"
    path.write_bytes(tiny_bytes)
    model = store.adopt(path, "mine")
    assert (model.path, store.resolve("mine").path, store.resolve(str(path)).name) == (path, path, "mine")
    assert store.remove("mine") == 0
    assert path.read_bytes() == tiny_bytes


def test_adopted_file_that_vanished_or_changed_is_refused(
    store: ModelStore, tiny_bytes: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "mine.gguf"
    path.write_bytes(tiny_bytes)
    store.adopt(path, "mine")
    path.write_bytes(write_tiny(tmp_path / "other.gguf", seed=1).read_bytes())
    with pytest.raises(Refused, match="BLAKE3") as refusal:
        store.resolve("mine")
    assert refusal.value.code == "digest_mismatch"
    path.write_bytes(tiny_bytes + b"more")
    with pytest.raises(Refused, match=f"must be {len(tiny_bytes)}"):
        store.resolve("mine")
    path.unlink()
    with pytest.raises(Refused, match="is gone"):
        store.resolve("mine")


def test_file_that_was_only_touched_is_served_after_one_more_hash(
    store: ModelStore, tiny_bytes: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = install(store, tiny_bytes, "a")
    os.utime(model.path, ns=(1, 1))
    assert store.resolve("a").path == model.path
    monkeypatch.setattr("unhosted.node.shell.models.store.hash_file", None)
    assert store.resolve("a").path == model.path  # remembered: not hashed a second time


def test_corrupt_blob_is_never_served(store: ModelStore, tiny_bytes: bytes) -> None:
    model = install(store, tiny_bytes, "a")
    mtime_ns = model.path.stat().st_mtime_ns
    model.path.chmod(0o600)
    model.path.write_bytes(tiny_bytes[:-1] + b"\x55")
    with pytest.raises(Refused) as refusal:
        store.resolve("a")
    assert refusal.value.code == "digest_mismatch"
    touch_back(model.path, tiny_bytes[: len(tiny_bytes) // 2], mtime_ns)
    with pytest.raises(Refused):
        store.resolve("a")


def test_verify_notices_what_the_modification_time_hides(store: ModelStore, tiny_bytes: bytes) -> None:
    model = install(store, tiny_bytes, "a")
    assert store.verify("a") == model
    touch_back(model.path, tiny_bytes[:-1] + b"\x55", model.path.stat().st_mtime_ns)
    with pytest.raises(Refused) as refusal:
        store.verify("a")
    assert refusal.value.code == "digest_mismatch"


def test_file_that_is_no_model_is_not_taken(store: ModelStore, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"GGUF and then nothing")
    with pytest.raises(Refused, match="no model"):
        store.adopt(path)
    with pytest.raises(Refused, match="cannot be read"):
        store.adopt(tmp_path / "absent.gguf")
    assert store.entries() == ()


def test_name_too_long_for_a_file_is_refused(store: ModelStore) -> None:
    with pytest.raises(Refused, match="1 to 200"):
        store.check_name("x" * 201, "test:one")


def test_unreadable_manifest_hides_one_model_and_no_other(store: ModelStore, tiny_bytes: bytes) -> None:
    install(store, tiny_bytes, "a")
    (store.root / "names" / "b.json").write_text("{")
    (store.root / "names" / "c.json").write_text(json.dumps({"version": 99}))
    assert [entry.name for entry in store.entries()] == ["a"]


def test_prune_removes_what_killed_processes_left_but_nothing_under_way(
    store: ModelStore, tiny_bytes: bytes
) -> None:
    model = install(store, tiny_bytes, "a")
    for key in ("dead", "live"):
        (store.partial_dir / f"{key}.data").write_bytes(bytes(8192))
        (store.partial_dir / f"{key}.journal").write_bytes(b"{}")
    orphan = store.root / "blobs" / f"{'0' * 64}.gguf"
    orphan.write_bytes(bytes(4096))
    chunks = store.root / "chunks"
    (chunks / f"{'0' * 64}.b3").write_bytes(bytes(32))
    lock_path = store.partial_dir / "live.lock"
    lock = try_lock(lock_path)
    assert lock is not None
    assert store.prune() > 0
    assert sorted(path.name for path in store.partial_dir.iterdir()) == [
        "live.data",
        "live.journal",
        "live.lock",
    ]
    assert not orphan.exists()
    assert model.path.exists()
    assert [path.stem for path in chunks.iterdir()] == [model.entry.blake3]
    release_lock(lock_path, lock)


def test_threads_that_install_and_remove_at_once_leave_a_sound_store(
    store: ModelStore, tiny_bytes: bytes
) -> None:
    failures = []

    def work(number: int) -> None:
        try:
            for _ in range(4):
                install(store, tiny_bytes, f"m{number}", f"test:{number}")
                store.resolve(f"m{number}")
                store.remove(f"m{number}")
            install(store, tiny_bytes, f"m{number}", f"test:{number}")
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert [entry.name for entry in store.entries()] == ["m0", "m1", "m2"]
    assert {store.verify(f"m{number}").entry.blake3 for number in range(3)}


def test_lock_of_a_process_that_was_killed_is_free(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    code = (
        "import fcntl, os, sys; fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT);"
        "fcntl.flock(fd, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-S", "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert try_lock(path) is None
        holder.kill()
        holder.wait()
        lock = try_lock(path)
        assert lock is not None
        release_lock(path, lock)
    assert not path.exists()


def test_models_of_other_programs_are_found_and_adopted(
    store: ModelStore, tiny_bytes: bytes, tmp_path: Path
) -> None:
    home, no_environment = tmp_path / "home", dict[str, str]()
    digest = "a" * 64
    ollama = home / ".ollama/models"
    layers = [
        {"mediaType": "application/vnd.ollama.image.license", "digest": f"sha256:{'b' * 64}", "size": 3},
        {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}", "size": 9},
    ]
    files = {
        ollama / "manifests/registry.ollama.ai/library/tiny/latest": json.dumps({"layers": layers}).encode(),
        ollama / "manifests/registry.ollama.ai/library/broken/latest": b"{",
        ollama / "manifests/.DS_Store": b"left by a desktop",
        ollama / "manifests/shallow/latest": json.dumps({"layers": layers}).encode(),
        ollama / f"blobs/sha256-{digest}": tiny_bytes,
        home / ".lmstudio/models/pub/repo/tiny.gguf": tiny_bytes,
        home / ".lmstudio/models/pub/repo/mmproj-tiny.gguf": tiny_bytes,
        home / ".lmstudio/models/pub/repo/notes.gguf": b"text",
        home / ".cache/huggingface/hub/models--org--repo/blobs/cafe": tiny_bytes,
    }
    for path, data in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    snapshot = home / ".cache/huggingface/hub/models--org--repo/snapshots/main"
    snapshot.mkdir(parents=True)
    (snapshot / "tiny-Q8_0.gguf").symlink_to("../../blobs/cafe")
    (snapshot / "dangling.gguf").symlink_to("../../blobs/none")
    found = find_foreign(home, no_environment)
    assert [(model.origin, model.name) for model in found] == [
        ("huggingface", "hf.co/org/repo/tiny-Q8_0.gguf"),
        ("lmstudio", "pub/repo/tiny.gguf"),
        ("ollama", "tiny:latest"),
    ]
    assert all(model.size_bytes == len(tiny_bytes) for model in found)
    for model in found:
        assert store.adopt(model.path, model.name).path == model.path
    assert not (store.root / "blobs").exists()
    assert find_by_sha256(digest, len(tiny_bytes), home, no_environment) == ollama / f"blobs/sha256-{digest}"
    assert find_by_sha256(digest, 5, home, no_environment) is None
