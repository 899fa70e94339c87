"""Pulls over real HTTP on loopback."""

import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import trio

from tests.node.models.conftest import Pull
from tests.node.models.offers import Server
from tests.node.models.server import Behaviour
from unhosted.node.core.errors import Refused
from unhosted.node.shell.models.progress import PullProgress
from unhosted.node.shell.models.pull import pull
from unhosted.node.shell.models.settings import PullSettings
from unhosted.node.shell.models.store import ModelStore


class Usage(NamedTuple):
    """Like `shutil.disk_usage`'s answer."""

    total: int
    used: int
    free: int


def test_url_is_fetched_in_parallel_ranges_and_resolved(
    server: Server, pull_now: Pull, store: ModelStore, tiny_bytes: bytes
) -> None:
    url, behaviour = server
    behaviour.files["/m/tiny.gguf"] = tiny_bytes
    seen: list[PullProgress] = []
    model = pull_now(f"{url}/m/tiny.gguf", seen=seen)
    assert model.path.read_bytes() == tiny_bytes
    assert model.name == "tiny"
    assert store.resolve("tiny").header.architecture == "llama"
    assert len(behaviour.requests) == 1 + -(-len(tiny_bytes) // (64 << 10))
    assert behaviour.sent == len(tiny_bytes)
    stages = list(dict.fromkeys(progress.stage for progress in seen))
    assert stages == ["resolving", "downloading", "verifying", "done"]
    assert not list(store.partial_dir.iterdir())


def test_second_pull_asks_nobody(server: Server, pull_now: Pull, tiny_bytes: bytes) -> None:
    url, behaviour = server
    behaviour.files["/tiny.gguf"] = tiny_bytes
    first = pull_now(f"{url}/tiny.gguf")
    asked = len(behaviour.requests)
    assert pull_now(f"{url}/tiny.gguf") == first
    assert pull_now(f"{url}/tiny.gguf", settings=PullSettings(offline=True)) == first
    assert len(behaviour.requests) == asked


def test_offline_refuses_before_any_connection(server: Server, pull_now: Pull, tiny_bytes: bytes) -> None:
    url, behaviour = server
    behaviour.files["/tiny.gguf"] = tiny_bytes
    with pytest.raises(Refused) as refusal:
        pull_now(f"{url}/tiny.gguf", settings=PullSettings(offline=True))
    assert refusal.value.code == "offline"
    with pytest.raises(Refused) as refusal:
        pull_now("hf.co/org/repo:Q4_0", settings=PullSettings(hub_endpoint=url, hub_offline=True))
    assert refusal.value.code == "offline"
    assert not behaviour.requests


def test_server_without_ranges_gives_one_stream(server: Server, pull_now: Pull, tiny_bytes: bytes) -> None:
    url, behaviour = server
    behaviour.files["/tiny.gguf"] = tiny_bytes
    behaviour.ranges = False
    behaviour.cuts = [0, 100_000]
    assert pull_now(f"{url}/tiny.gguf").path.read_bytes() == tiny_bytes


def test_server_without_ranges_or_length_gives_one_stream(
    server: Server, pull_now: Pull, tiny_bytes: bytes
) -> None:
    url, behaviour = server
    behaviour.files["/tiny.gguf"] = tiny_bytes
    behaviour.ranges = behaviour.length = False
    assert pull_now(f"{url}/tiny.gguf").path.read_bytes() == tiny_bytes


def test_broken_connections_and_busy_answers_are_retried_without_fetching_twice(
    server: Server, pull_now: Pull, tiny_bytes: bytes
) -> None:
    url, behaviour = server
    behaviour.files["/tiny.gguf"] = tiny_bytes
    behaviour.statuses = [503, 500, 429]
    behaviour.cuts = [20_000, 1, 0, 30_000, 5]
    assert pull_now(f"{url}/tiny.gguf").path.read_bytes() == tiny_bytes
    assert behaviour.sent <= len(tiny_bytes)


def test_server_that_stays_down_is_reported_after_bounded_attempts(
    server: Server, pull_now: Pull, tiny_bytes: bytes
) -> None:
    url, behaviour = server
    behaviour.files["/tiny.gguf"] = tiny_bytes
    behaviour.statuses = [503] * 50
    with pytest.raises(Refused) as refusal:
        pull_now(f"{url}/tiny.gguf")
    assert refusal.value.code == "download_failed"
    assert "503" in refusal.value.message
    assert len(behaviour.requests) == 6


def test_missing_file_is_reported_at_once(server: Server, pull_now: Pull) -> None:
    url, behaviour = server
    with pytest.raises(Refused) as refusal:
        pull_now(f"{url}/absent.gguf")
    assert refusal.value.code == "model_not_found"
    assert len(behaviour.requests) == 1


def test_redirects_are_followed_and_a_dead_link_is_renewed(
    server: Server, store: ModelStore, quick: PullSettings, tiny_bytes: bytes
) -> None:
    url, behaviour = server
    behaviour.files["/cdn/one"] = behaviour.files["/cdn/two"] = tiny_bytes
    behaviour.redirects["/tiny.gguf"] = "/cdn/one"

    def expire(progress: PullProgress) -> None:
        if progress.stage == "downloading":
            behaviour.gone.add("/cdn/one")
            behaviour.redirects["/tiny.gguf"] = "/cdn/two"

    model = trio.run(lambda: pull(store, f"{url}/tiny.gguf", settings=quick, progress=expire))
    assert model.path.read_bytes() == tiny_bytes
    assert behaviour.file_requests("/cdn/two")


def test_redirect_loop_ends(server: Server, pull_now: Pull) -> None:
    url, behaviour = server
    behaviour.redirects["/tiny.gguf"] = "/tiny.gguf"
    with pytest.raises(Refused, match="redirects"):
        pull_now(f"{url}/tiny.gguf")


def test_redirect_out_to_plain_http_is_refused(server: Server, pull_now: Pull) -> None:
    url, behaviour = server
    behaviour.redirects["/tiny.gguf"] = "http://example.invalid/tiny.gguf"
    with pytest.raises(Refused, match="not https"):
        pull_now(f"{url}/tiny.gguf")


def test_file_that_is_no_model_never_appears(server: Server, pull_now: Pull, store: ModelStore) -> None:
    url, behaviour = server
    behaviour.files["/page.gguf"] = b"<html>not a model</html>" * 1000
    with pytest.raises(Refused, match="no GGUF file"):
        pull_now(f"{url}/page.gguf")
    assert store.entries() == ()
    assert not list(store.root.rglob("*.gguf"))
    assert not list(store.partial_dir.iterdir())


def test_truncated_model_never_appears(
    server: Server, pull_now: Pull, store: ModelStore, tiny_bytes: bytes
) -> None:
    url, behaviour = server
    behaviour.files["/tiny.gguf"] = tiny_bytes[:-1]
    with pytest.raises(Refused, match="truncated"):
        pull_now(f"{url}/tiny.gguf")
    assert store.entries() == ()


def test_interrupted_pull_resumes_if_the_content_is_the_same(
    server: Server, pull_now: Pull, quick: PullSettings, tiny_bytes: bytes
) -> None:
    url, behaviour = server
    behaviour.files["/tiny.gguf"] = tiny_bytes
    give_up(behaviour, pull_now, url, quick)
    before = behaviour.sent
    seen: list[PullProgress] = []
    assert pull_now(f"{url}/tiny.gguf", seen=seen).path.read_bytes() == tiny_bytes
    assert behaviour.sent - before < len(tiny_bytes)
    assert max(progress.resumed_bytes for progress in seen if progress.stage == "downloading") > 0


def test_interrupted_pull_begins_anew_if_the_content_changed(
    server: Server, pull_now: Pull, quick: PullSettings, tiny_bytes: bytes
) -> None:
    url, behaviour = server
    behaviour.files["/tiny.gguf"] = tiny_bytes[:-4096] + bytes(4096)
    give_up(behaviour, pull_now, url, quick)
    behaviour.files["/tiny.gguf"] = tiny_bytes
    behaviour.etag = '"two"'
    before = behaviour.sent
    assert pull_now(f"{url}/tiny.gguf").path.read_bytes() == tiny_bytes
    assert behaviour.sent - before == len(tiny_bytes)


def test_interrupted_pull_begins_anew_where_nothing_identifies_the_content(
    server: Server, pull_now: Pull, quick: PullSettings, tiny_bytes: bytes
) -> None:
    url, behaviour = server
    behaviour.etag = None
    behaviour.files["/tiny.gguf"] = tiny_bytes
    give_up(behaviour, pull_now, url, quick)
    before = behaviour.sent
    assert pull_now(f"{url}/tiny.gguf").path.read_bytes() == tiny_bytes
    assert behaviour.sent - before == len(tiny_bytes)


def give_up(behaviour: Behaviour, pull_now: Pull, url: str, quick: PullSettings) -> None:
    """Let a pull fail after some chunks arrived."""
    behaviour.cuts = [80_000] * 3 + [0] * 40
    one = replace(quick, connections=1, attempts=2)
    with pytest.raises(Refused) as refusal:
        pull_now(f"{url}/tiny.gguf", settings=one)
    assert refusal.value.code == "download_failed"
    assert behaviour.sent > 0
    behaviour.cuts = []


def test_content_that_changes_during_a_pull_is_fetched_again_whole(
    server: Server, store: ModelStore, quick: PullSettings, tiny_bytes: bytes
) -> None:
    url, behaviour = server
    behaviour.files["/tiny.gguf"] = bytes(len(tiny_bytes))

    def swap(progress: PullProgress) -> None:
        if progress.stage == "downloading":
            behaviour.files["/tiny.gguf"] = tiny_bytes
            behaviour.etag = '"two"'

    model = trio.run(lambda: pull(store, f"{url}/tiny.gguf", settings=quick, progress=swap))
    assert model.path.read_bytes() == tiny_bytes


def test_full_disk_is_refused_before_the_download(
    server: Server, pull_now: Pull, tiny_bytes: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, behaviour = server
    behaviour.files["/tiny.gguf"] = tiny_bytes
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9 - 5000, 5000))
    with pytest.raises(Refused) as refusal:
        pull_now(f"{url}/tiny.gguf")
    assert refusal.value.code == "disk_full"
    assert refusal.value.details["free_bytes"] == 5000
    assert behaviour.sent == 0


@pytest.mark.parametrize(
    ("number", "code", "message"),
    [(errno.ENOSPC, "disk_full", "bytes"), (errno.EROFS, "download_failed", "UNHOSTED_HOME")],
)
def test_disk_that_fails_in_the_middle_is_named_and_what_arrived_is_kept(
    server: Server,
    pull_now: Pull,
    tiny_bytes: bytes,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    code: str,
    message: str,
) -> None:
    url, behaviour = server
    behaviour.files["/tiny.gguf"] = tiny_bytes
    pwrite = os.pwrite

    def fail_late(descriptor: int, data: bytes, at: int) -> int:
        if at >= 128 << 10:
            raise OSError(number, os.strerror(number))
        return pwrite(descriptor, data, at)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", fail_late)
        with pytest.raises(Refused, match=message) as refusal:
            pull_now(f"{url}/tiny.gguf")
    assert refusal.value.code == code
    assert pull_now(f"{url}/tiny.gguf").path.read_bytes() == tiny_bytes


def test_path_is_adopted_without_a_copy(
    pull_now: Pull, store: ModelStore, tiny_bytes: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "mine.gguf"
    path.write_bytes(tiny_bytes)
    model = pull_now(str(path))
    assert (model.name, model.path) == ("mine", path)
    assert not (store.root / "blobs").exists()


def test_name_of_another_source_is_not_taken_over(server: Server, pull_now: Pull, tiny_bytes: bytes) -> None:
    url, behaviour = server
    behaviour.files["/a/tiny.gguf"] = behaviour.files["/b/tiny.gguf"] = tiny_bytes
    pull_now(f"{url}/a/tiny.gguf")
    with pytest.raises(Refused, match="already stands for"):
        pull_now(f"{url}/b/tiny.gguf")
    assert pull_now(f"{url}/b/tiny.gguf", name="tiny-b").name == "tiny-b"


def test_unknown_alias_suggests_names(pull_now: Pull) -> None:
    with pytest.raises(Refused, match="smollm2:135m"):
        pull_now("smolm2:135m")


def test_damaged_blob_is_fetched_again(
    server: Server, pull_now: Pull, store: ModelStore, tiny_bytes: bytes
) -> None:
    url, behaviour = server
    behaviour.files["/tiny.gguf"] = tiny_bytes
    path = pull_now(f"{url}/tiny.gguf").path
    path.chmod(0o600)
    path.write_bytes(tiny_bytes[:-1] + b"\x01")
    with pytest.raises(Refused) as refusal:
        store.resolve("tiny")
    assert refusal.value.code == "digest_mismatch"
    assert pull_now(f"{url}/tiny.gguf").path.read_bytes() == tiny_bytes


def test_pulls_of_one_ref_at_the_same_time_download_once(
    server: Server, store: ModelStore, quick: PullSettings, tiny_bytes: bytes
) -> None:
    url, behaviour = server
    behaviour.files["/tiny.gguf"] = tiny_bytes
    names = []

    async def one() -> None:
        model = await pull(store, f"{url}/tiny.gguf", settings=quick, progress=lambda progress: None)
        names.append(model.name)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(one)

    trio.run(main)
    assert names == ["tiny"] * 3
    assert behaviour.sent == len(tiny_bytes)


def test_cancelled_pull_leaves_what_it_has_for_the_next(
    server: Server, store: ModelStore, quick: PullSettings, tiny_bytes: bytes
) -> None:
    url, behaviour = server
    behaviour.files["/tiny.gguf"] = tiny_bytes
    behaviour.budget = 150_000

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                lambda: pull(store, f"{url}/tiny.gguf", settings=quick, progress=lambda progress: None)
            )
            await trio.to_thread.run_sync(behaviour.wait_until_spent)
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert store.entries() == ()
    behaviour.raise_budget(None)
    again = trio.run(lambda: pull(store, f"{url}/tiny.gguf", settings=quick, progress=lambda progress: None))
    assert again.path.read_bytes() == tiny_bytes
