"""SQLite as a durable journal of money: one file, whole on the disk before anybody acts on what it says.

Opened only if it is ours, whole, and closed to other users; a file that is not is refused and left as it is,
because an empty one in its place would forget in silence what was paid. COMMIT returns when the write-ahead
log has reached the disk (`synchronous=FULL`). Several processes may have one file open: a transaction takes
the write lock at its start, so what it read cannot change before it writes.

`quick_check` finds broken pages, not a changed figure inside a whole one: who keeps money in a row keeps a
checksum beside it (`row_check`).
"""

import errno
import fcntl
import os
import sqlite3
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from unhosted.node.core.errors import Refused

BUSY_S = 10.0
"""How long a transaction waits for another process's: commits take milliseconds, so this is a stuck one."""

_UNWRITABLE = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM)
_UNWRITABLE_ERRNO = (errno.EROFS, errno.EACCES, errno.EPERM)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileKind:
    """What a database is: `name` and `advice` (what to do when it is broken) are for messages.

    schema: makes an empty file of `version`. upgrades[i]: takes version i + 1 to i + 2.
    """

    name: str
    advice: str
    application_id: int
    version: int
    schema: str
    upgrades: tuple[str, ...] = ()


class RowDamaged(Exception):
    """A row does not fit its checksum."""


def open_database(path: Path, kind: FileKind) -> sqlite3.Connection:
    """The database at `path`, made there if nothing is; in autocommit mode, for any thread.

    Raises: Refused if the file is broken, foreign, newer, open to other users, or cannot be written.
    """
    with explained(path, kind):
        _create(path, kind)
        _check_mode(path, kind)
        database = _connect(path)
        try:
            _check_content(database, path, kind)
        except BaseException:
            database.close()
            raise
        return database


@contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[None]:
    """All of it or nothing, and on the disk when this ends; the write lock is held from the start.

    Raises: sqlite3.Error; then nothing of it happened, except that a COMMIT whose sync failed may turn up
    again after a crash.
    """
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:  # a full disk has rolled it back already
            database.execute("ROLLBACK")
        raise


@contextmanager
def explained(path: Path, kind: FileKind) -> Iterator[None]:
    """Turns what SQLite and the system raise into Refused, with what to do next."""
    try:
        yield
    except sqlite3.Error as error:
        raise refusal(path, kind, error) from error
    except UnicodeDecodeError as error:  # of a text in a row, or of SQLite's words about a broken page
        raise broken(path, kind, "a text in it is not UTF-8") from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _full(path, kind) from error
        if error.errno in _UNWRITABLE_ERRNO:
            raise _unwritable(path, kind, str(error.strerror)) from error
        raise broken(path, kind, str(error)) from error


def refusal(path: Path, kind: FileKind, error: sqlite3.Error) -> Refused:
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return _full(path, kind)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Refused(
            "overloaded",
            f"{kind.name} {path} has been held by another process for {BUSY_S:.0f} s; nothing was changed,"
            " try again",
            retry_after_s=1,
        )
    if code in _UNWRITABLE:
        return _unwritable(path, kind, str(error))
    return broken(path, kind, str(error))


def broken(path: Path, kind: FileKind, why: str) -> Refused:
    return Refused("ledger_damaged", f"{kind.name} {path} cannot be trusted ({why}); {kind.advice}")


def row_check(*values: object) -> int:
    """32 bits that change with any of the values (None, ints, bytes, text): a row's checksum."""
    return zlib.crc32(repr(values).encode())


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable: a new file's content alone is not enough after a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _full(path: Path, kind: FileKind) -> Refused:
    return Refused(
        "disk_full",
        f"{kind.name} {path} could not be written, the disk is full: nothing was paid; free some space",
    )


def _unwritable(path: Path, kind: FileKind, why: str) -> Refused:
    return Refused(
        "ledger_damaged",
        f"{kind.name} {path} cannot be written ({why}), so nothing is paid; make the file and its folder"
        " writable for this user",
    )


def _create(path: Path, kind: FileKind) -> None:
    """Make an empty database unless there is a file; it appears whole, so an empty file is a broken one."""
    if path.exists():
        return
    if path.with_name(f"{path.name}-wal").exists():
        raise broken(
            path, kind, "the file is gone, its write-ahead log is still there"
        )  # it would be replayed
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    draft.unlink(missing_ok=True)
    os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    try:
        database = sqlite3.connect(draft, isolation_level=None)
        try:
            database.execute(f"PRAGMA application_id = {kind.application_id}")
            database.executescript(f"BEGIN;{kind.schema};PRAGMA user_version = {kind.version};COMMIT;")
        finally:
            database.close()
        try:
            os.link(draft, path)  # unlike a rename it never takes the place of another process's file
        except FileExistsError:
            return
        sync_folder(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def _check_mode(path: Path, kind: FileKind) -> None:
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise Refused(
            "ledger_damaged",
            f"{kind.name} {path} has mode {mode:03o}, so that other users could read or change it; look at"
            f" what it says after `chmod 600 {path}`",
        )


def _connect(path: Path) -> sqlite3.Connection:
    # mode=rw: a file that vanished since is an error, not a new ledger.
    uri = f"{path.absolute().as_uri()}?mode=rw"
    return sqlite3.connect(uri, uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False)


def _check_content(database: sqlite3.Connection, path: Path, kind: FileKind) -> None:
    if path.stat().st_size == 0:
        raise broken(path, kind, "it is empty")
    application = database.execute("PRAGMA application_id").fetchone()[0]
    if application != kind.application_id:
        raise broken(path, kind, "it is a database of another program")
    fault = database.execute("PRAGMA quick_check(1)").fetchone()[0]
    if fault != "ok":
        raise broken(path, kind, fault)
    mode = database.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise broken(path, kind, f"the file system allows no write-ahead log, only {mode}")
    for pragma in ("foreign_keys = ON", "synchronous = FULL", "trusted_schema = OFF", "fullfsync = ON"):
        database.execute(f"PRAGMA {pragma}")
    _upgrade(database, path, kind)


def _upgrade(database: sqlite3.Connection, path: Path, kind: FileKind) -> None:
    if _version(database) == kind.version:
        return
    with transaction(database):  # looked at again inside: another process may have been faster
        found = _version(database)
        if not 1 <= found <= kind.version:
            raise Refused(
                "ledger_damaged",
                f"{kind.name} {path} has schema {found}, this program knows 1 to {kind.version};"
                " use the program that wrote it",
            )
        for step in kind.upgrades[found - 1 : kind.version - 1]:
            for statement in filter(None, map(str.strip, step.split(";"))):
                database.execute(statement)  # executescript would commit first
        database.execute(f"PRAGMA user_version = {kind.version}")


def _version(database: sqlite3.Connection) -> int:
    version: int = database.execute("PRAGMA user_version").fetchone()[0]
    return version


@contextmanager
def alone(path: Path, kind: FileKind, *, then: str) -> Iterator[None]:
    """Hold the lock beside a database for one process. then: what the user of a second one does next.

    Raises: Refused (overloaded) where another process has it.
    """
    lock = path.with_name(f"{path.name}.lock")
    with explained(path, kind):
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused("overloaded", f"{kind.name} {path} is in use by another process: {then}") from None
        yield
    finally:
        os.close(descriptor)
