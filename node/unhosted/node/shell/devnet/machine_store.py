"""The embedded chain's database: in memory while it runs, in SQLite so that it is there again.

py-evm keeps everything under content hashes, so a block is a set of new keys. They are written in one
transaction after each block, before the block is told to anybody: a kill at any moment leaves a whole chain.
"""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

from unhosted.node.core.errors import Refused

APPLICATION_ID = 0x554E4456
"""Marks the file as ours."""

SCHEMA = (
    "CREATE TABLE pairs (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
    "CREATE TABLE facts (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
)


class MachineStore:
    """Keys and values as py-evm wants them (a mapping of bytes), and a few integers of our own."""

    def __init__(self, path: Path | None) -> None:
        """path: None keeps nothing. Raises: Refused when the file is not a chain of ours."""
        self.pairs: dict[bytes, bytes] = {}
        self.facts: dict[str, int] = {}
        self._changed: set[bytes] = set()
        self._file: sqlite3.Connection | None = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._open(path)
            except sqlite3.Error as error:
                message = f"{path} cannot be read as a local chain: {error}; start anew with --reset"
                raise Refused("invalid_request", message, field="state") from None

    def _open(self, path: Path) -> None:
        file = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._file = file
        file.execute("PRAGMA journal_mode=WAL")
        file.execute("PRAGMA synchronous=FULL")
        mark = file.execute("PRAGMA application_id").fetchone()[0]
        if mark == 0 and file.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
            file.execute("BEGIN IMMEDIATE")
            for statement in SCHEMA:
                file.execute(statement)
            file.execute(f"PRAGMA application_id={APPLICATION_ID}")
            file.execute("COMMIT")
        elif mark != APPLICATION_ID:
            raise sqlite3.DatabaseError("another program's file")
        self.pairs = dict(file.execute("SELECT key, value FROM pairs"))
        self.facts = dict(file.execute("SELECT name, value FROM facts"))

    def __getitem__(self, key: bytes) -> bytes:
        return self.pairs[key]

    def __setitem__(self, key: bytes, value: bytes) -> None:
        self.pairs[key] = value
        self._changed.add(key)

    def __delitem__(self, key: bytes) -> None:
        del self.pairs[key]
        self._changed.add(key)

    def __contains__(self, key: object) -> bool:
        return key in self.pairs

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def replace(self, pairs: dict[bytes, bytes]) -> None:
        """Back to what it held before."""
        both = self.pairs.keys() | pairs.keys()
        self._changed.update(key for key in both if self.pairs.get(key) != pairs.get(key))
        self.pairs = dict(pairs)

    def commit(self) -> None:
        """Make what changed since the last time durable."""
        file, changed = self._file, self._changed
        self._changed = set()
        if file is None:
            return
        kept = [(key, self.pairs[key]) for key in changed if key in self.pairs]
        gone = [(key,) for key in changed if key not in self.pairs]
        file.execute("BEGIN IMMEDIATE")
        file.executemany("INSERT OR REPLACE INTO pairs VALUES (?, ?)", kept)
        file.executemany("DELETE FROM pairs WHERE key = ?", gone)
        file.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", self.facts.items())
        file.execute("COMMIT")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
