"""Looking at the ledger without taking part: for commands that show what was spent while a node may run."""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from unhosted.market.months import Month
from unhosted.market.spending import rolled
from unhosted.market.spending_words import Book, Entry
from unhosted.node.shell.money import ledger_tables as tables
from unhosted.node.shell.money.database import broken, explained, open_database
from unhosted.node.shell.money.ledger_tables import LEDGER_KIND, RowDamaged
from unhosted.node.shell.money.ledger_words import KnownChannel, LedgerView

ENTRIES_PER_READ_MAX = 1000
"""Lines of history read at once: some 200 kB."""


def read_view(path: Path, *, clock_ns: Callable[[], int] = time.time_ns) -> LedgerView | None:
    """What the ledger at `path` says; None if there is none yet. Blocks; nothing is changed.

    Raises: Refused (ledger_damaged, overloaded).
    """
    if not path.exists():
        return None
    with _reading(path) as database:
        found = tables.read_book(database)
        return None if found is None else view_of(database, rolled(found[2], clock_ns()))


def read_history(
    path: Path, *, after_id: int = 0, from_unix_s: int = 0, to_unix_s: int = 1 << 62
) -> list[tuple[int, Entry]]:
    """Lines of history with their numbers, oldest first, at most ENTRIES_PER_READ_MAX; `to_unix_s` itself is
    left out. For more, ask again with the last number. Blocks.

    Raises: Refused (ledger_damaged, overloaded).
    """
    if not path.exists():
        return []
    with _reading(path) as database:
        return tables.read_entries(
            database,
            after_id=after_id,
            from_unix_s=from_unix_s,
            to_unix_s=to_unix_s,
            count_max=ENTRIES_PER_READ_MAX,
        )


def view_of(database: sqlite3.Connection, book: Book) -> LedgerView:
    """The picture with `book` in it, from one transaction of the caller."""
    rows = {row.channel_id: row for row in tables.read_channels(database)}
    return LedgerView(
        book=book,
        channels=tuple(
            KnownChannel(deployment=deployment, config=config, row=rows[of])
            for of, deployment, config in tables.read_configs(database)
            if of in rows
        ),
        by_month={
            Month(month): micros
            for month, micros in database.execute(
                "SELECT month, sum(micros) FROM spent GROUP BY month ORDER BY month"
            )
        },
    )


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A transaction that sees one state; writers go on meanwhile."""
    with closing(open_database(path, LEDGER_KIND)) as database, explained(path, LEDGER_KIND):
        try:
            database.execute("BEGIN")
            yield database
        except RowDamaged as damage:
            raise broken(path, LEDGER_KIND, str(damage)) from damage
