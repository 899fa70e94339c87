"""The file of the book of peers: made whole, opened only if it is ours, whole and closed to other users."""

import os
import sqlite3
import threading
from pathlib import Path

from unhosted.node.core.errors import Refused

BUSY_S = 5.0
SCHEMA_VERSION = 1
APPLICATION_ID = 0x554E4850  # "UNHP", so that a database of another program is told apart

_SCHEMA = """
CREATE TABLE peers (
    peer TEXT PRIMARY KEY, name TEXT NOT NULL, state TEXT NOT NULL CHECK (state IN ('pending', 'paired')),
    paired_unix_s INTEGER NOT NULL, capabilities TEXT NOT NULL
) STRICT;
CREATE TABLE addresses (
    peer TEXT NOT NULL REFERENCES peers ON DELETE CASCADE, address TEXT NOT NULL, source TEXT NOT NULL,
    unix_s INTEGER NOT NULL, PRIMARY KEY (peer, address)
) STRICT;
CREATE TABLE tokens (
    peer TEXT NOT NULL REFERENCES peers ON DELETE CASCADE, day TEXT NOT NULL, tokens INTEGER NOT NULL,
    PRIMARY KEY (peer, day)
) STRICT;
"""


def open_book(path: Path) -> sqlite3.Connection:
    """The database at `path`, made there if nothing is; in autocommit mode, for any thread.

    Raises: Refused if the file is broken, foreign, newer or open to other users. sqlite3.Error, OSError.
    """
    _create(path)
    _check_mode(path)
    database = _connect(path)
    try:
        _check_content(database, path)
    except BaseException:
        database.close()
        raise
    return database


def refusal(path: Path, error: sqlite3.Error) -> Refused:
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return Refused("disk_full", f"{path} could not be written: the disk is full; free some space")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Refused(
            "overloaded",
            f"{path} has been held by another process for {BUSY_S:.0f} s; try again",
            retry_after_s=1,
        )
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return broken(path, str(error))
    return Refused("invalid_request", f"{path} cannot be used: {error}")


def broken(path: Path, why: str) -> Refused:
    return Refused(
        "invalid_request",
        f"{path}, which holds the paired peers, is broken ({why}); put a backup in its place, or move it away"
        " and pair again",
    )


def _create(path: Path) -> None:
    """Make an empty book unless there is a file; it appears whole, so that an empty file is a broken one."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    try:
        database = sqlite3.connect(draft, isolation_level=None)
        try:
            database.executescript(f"BEGIN;{_SCHEMA}PRAGMA user_version = {SCHEMA_VERSION};COMMIT;")
            database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        finally:
            database.close()
        try:
            os.link(draft, path)  # unlike a rename it never takes the place of another process's book
        except FileExistsError:
            return
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        draft.unlink()


def _check_mode(path: Path) -> None:
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise Refused(
            "invalid_request",
            f"{path} has mode {mode:03o}, so that other users could read whom you trust or add themselves;"
            f" look through `unhosted peers` after `chmod 600 {path}`",
        )


def _connect(path: Path) -> sqlite3.Connection:
    # mode=rw: a file that vanished since is an error, not a new book.
    uri = f"{path.absolute().as_uri()}?mode=rw"
    return sqlite3.connect(uri, uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False)


def _check_content(database: sqlite3.Connection, path: Path) -> None:
    if path.stat().st_size == 0:
        raise broken(path, "it is empty")
    application = database.execute("PRAGMA application_id").fetchone()[0]
    if application != APPLICATION_ID:
        raise broken(path, "it is a database of another program")
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if version != SCHEMA_VERSION:
        raise Refused(
            "invalid_request",
            f"{path} has schema {version}, this program knows {SCHEMA_VERSION};"
            " use the program that wrote it",
        )
    fault = database.execute("PRAGMA quick_check(1)").fetchone()[0]
    if fault != "ok":
        raise broken(path, fault)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA foreign_keys = ON")
    database.execute("PRAGMA synchronous = FULL")
