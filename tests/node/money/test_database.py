"""The file under every book of money: made whole, upgraded once, refused when it is not ours."""

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from unhosted.node.core.errors import Refused
from unhosted.node.shell.money import database as files
from unhosted.node.shell.money.database import FileKind, explained, open_database, row_check, transaction

KIND = FileKind(
    name="the test book",
    advice="do this",
    application_id=0x554E4854,
    version=1,
    schema="CREATE TABLE rows (id INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT",
)
NEWER = replace(
    KIND,
    version=3,
    schema="CREATE TABLE rows (id INTEGER PRIMARY KEY, text TEXT NOT NULL, a INTEGER, b INTEGER) STRICT",
    upgrades=("ALTER TABLE rows ADD COLUMN a INTEGER", "ALTER TABLE rows ADD COLUMN b INTEGER;"),
)


def columns(database: sqlite3.Connection) -> list[str]:
    return [row[1] for row in database.execute("PRAGMA table_info(rows)")]


def test_a_new_file_is_durable_private_and_ours(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "book.db"
    database = open_database(path, KIND)
    pragmas = ("journal_mode", "synchronous", "foreign_keys", "application_id", "user_version")
    found = [database.execute(f"PRAGMA {name}").fetchone()[0] for name in pragmas]
    assert found == ["wal", 2, 1, KIND.application_id, 1]
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in path.parent.iterdir() if file.name.startswith(".")] == []
    database.close()


def test_an_old_file_is_upgraded_and_keeps_its_rows(tmp_path: Path) -> None:
    old = open_database(tmp_path / "book.db", KIND)
    with transaction(old):
        old.execute("INSERT INTO rows VALUES (1, 'kept')")
    old.close()
    for _ in range(2):
        new = open_database(tmp_path / "book.db", NEWER)
        assert columns(new) == ["id", "text", "a", "b"]
        assert new.execute("SELECT * FROM rows").fetchall() == [(1, "kept", None, None)]
        new.close()
    with pytest.raises(Refused, match="schema 3, this program knows 1 to 1"):
        open_database(tmp_path / "book.db", KIND)


def test_a_transaction_is_all_or_nothing(tmp_path: Path) -> None:
    database = open_database(tmp_path / "book.db", KIND)
    with pytest.raises(ZeroDivisionError), transaction(database):
        database.execute("INSERT INTO rows VALUES (1, 'gone')")
        raise ZeroDivisionError
    assert database.execute("SELECT count(*) FROM rows").fetchone() == (0,)
    assert not database.in_transaction
    database.close()


def test_a_file_that_another_process_holds_is_waited_for_and_then_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "BUSY_S", 0.05)
    one, other = (open_database(tmp_path / "book.db", KIND) for _ in range(2))
    with (
        transaction(one),
        pytest.raises(Refused, match="held by another process") as caught,
        explained(tmp_path / "book.db", KIND),
        transaction(other),
    ):
        raise AssertionError("it was let in")
    assert (caught.value.code, caught.value.retry_after_s) == ("overloaded", 1)
    one.close()
    other.close()


@pytest.mark.parametrize("content", [b"", b"hello", bytes(8192)])
def test_a_file_that_is_no_book_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "book.db"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(Refused, match="do this") as caught:
        open_database(path, KIND)
    assert caught.value.code == "ledger_damaged"
    assert path.read_bytes() == content


def test_a_book_of_another_program_is_refused(tmp_path: Path) -> None:
    open_database(tmp_path / "book.db", KIND).close()
    with pytest.raises(Refused, match="another program"):
        open_database(tmp_path / "book.db", replace(KIND, application_id=5))


def test_a_checksum_changes_with_every_value() -> None:
    row = (b"id", 5, None, "text")
    others = [(b"ie", 5, None, "text"), (b"id", 4, None, "text"), (b"id", 5, 0, "text"), (b"id", 5, None, "")]
    assert len({row_check(*values) for values in [row, *others]}) == 5
    assert row_check(*row) == row_check(*row)
