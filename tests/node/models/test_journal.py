"""The record of a download: what a crash may do to it."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from unhosted.node.shell.models.journal import Journal, Plan, load, open_journal

PLAN = Plan(url="https://x/y.gguf", size_bytes=1000, chunk_bytes=300, sha256=None, validator='"one"')


def begin(tmp_path: Path, plan: Plan = PLAN) -> Journal:
    return open_journal(tmp_path / "x.journal", tmp_path / "x.data", plan)


def commit(journal: Journal, tmp_path: Path, *chunks: int) -> None:
    descriptor = os.open(tmp_path / "x.data", os.O_WRONLY)
    for chunk in chunks:
        journal.commit(chunk, descriptor)
    os.close(descriptor)
    journal.close()


def test_chunks_cover_the_file() -> None:
    assert [PLAN.span(chunk) for chunk in range(PLAN.chunk_count)] == [
        (0, 300),
        (300, 600),
        (600, 900),
        (900, 1000),
    ]


def test_committed_chunks_are_there_after_reopening(tmp_path: Path) -> None:
    commit(begin(tmp_path), tmp_path, 3, 1)
    again = begin(tmp_path)
    assert again.done == {1, 3}
    assert again.done_bytes == 400
    again.close()


@pytest.mark.parametrize("garbage", [b"0000000", b"00000002", b"x0000002\n", b"00000099\n", b"\xff\n"])
def test_line_that_a_crash_cut_short_is_not_believed(tmp_path: Path, garbage: bytes) -> None:
    commit(begin(tmp_path), tmp_path, 1)
    with open(tmp_path / "x.journal", "ab") as file:
        file.write(garbage)
    again = begin(tmp_path)
    assert again.done == {1}
    commit(again, tmp_path, 0)
    found = load(tmp_path / "x.journal")
    assert found is not None
    assert found[1] == {0, 1}


def test_chunk_size_of_the_first_run_stays(tmp_path: Path) -> None:
    commit(begin(tmp_path), tmp_path, 1)
    again = begin(tmp_path, replace(PLAN, chunk_bytes=500))
    assert (again.plan.chunk_bytes, again.done) == (300, {1})
    again.close()


@pytest.mark.parametrize(
    "other",
    [
        replace(PLAN, validator='"two"'),
        replace(PLAN, validator=None),
        replace(PLAN, size_bytes=999),
        replace(PLAN, sha256="a" * 64),
        replace(PLAN, url="https://x/z.gguf"),
    ],
)
def test_other_content_begins_anew(tmp_path: Path, other: Plan) -> None:
    commit(begin(tmp_path), tmp_path, 1)
    again = begin(tmp_path, other)
    assert (again.plan, again.done) == (other, set())
    assert (tmp_path / "x.data").stat().st_size == other.size_bytes
    again.close()


def test_same_digest_goes_on_from_another_address(tmp_path: Path) -> None:
    first = replace(PLAN, sha256="a" * 64)
    commit(begin(tmp_path, first), tmp_path, 2)
    again = begin(tmp_path, replace(first, url="https://mirror/y.gguf", validator='"other"'))
    assert again.done == {2}
    again.close()


@pytest.mark.parametrize("damage", ["data gone", "data short", "no json", "journal of numbers", "empty"])
def test_damaged_record_begins_anew(tmp_path: Path, damage: str) -> None:
    commit(begin(tmp_path), tmp_path, 1)
    data, journal = tmp_path / "x.data", tmp_path / "x.journal"
    match damage:
        case "data gone":
            data.unlink()
        case "data short":
            os.truncate(data, 10)
        case "no json":
            journal.write_bytes(b"{\n")
        case "journal of numbers":
            journal.write_bytes(
                b'{"url": "", "size_bytes": 1000, "chunk_bytes": 0, "sha256": null, "validator": null}\n'
            )
        case "empty":
            journal.write_bytes(b"")
    again = begin(tmp_path)
    assert again.done == set()
    assert data.stat().st_size == 1000
    again.close()
