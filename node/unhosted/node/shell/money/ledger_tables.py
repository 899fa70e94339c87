"""The rows of the spending rules in SQLite, each with a checksum, and back."""

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

from unhosted.market.channels import ChainId, ChannelConfig, Deployment, channel_id
from unhosted.market.ids import Address, ChannelId, RequestId
from unhosted.market.months import Month
from unhosted.market.spending_words import Book, ChannelRow, Entry, RequestRow
from unhosted.node.shell.money.database import FileKind, row_check

LEDGER_KIND = FileKind(
    name="the spending ledger",
    advice="move it away and start again: every open channel's whole deposit then counts as spent, until the"
    " channels are closed",
    application_id=0x554E484C,  # "UNHL"
    version=1,
    schema="""
CREATE TABLE book (
    id INTEGER PRIMARY KEY CHECK (id = 1), ledger_id BLOB NOT NULL, commits INTEGER NOT NULL,
    cap INTEGER NOT NULL, month INTEGER NOT NULL, spent INTEGER NOT NULL, reserved INTEGER NOT NULL,
    chain_unix_s INTEGER NOT NULL, must_reread INTEGER NOT NULL, channels_open INTEGER NOT NULL,
    requests_live INTEGER NOT NULL, checked INTEGER NOT NULL
) STRICT;
CREATE TABLE channels (
    channel_id BLOB PRIMARY KEY, payee BLOB NOT NULL, deposit INTEGER NOT NULL, ceiling INTEGER NOT NULL,
    authorised INTEGER NOT NULL, due_min INTEGER NOT NULL, due_max INTEGER NOT NULL,
    budgets INTEGER NOT NULL, is_closed INTEGER NOT NULL, checked INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE configs (
    channel_id BLOB PRIMARY KEY REFERENCES channels, chain_id INTEGER NOT NULL, contract BLOB NOT NULL,
    payer BLOB NOT NULL, signer BLOB NOT NULL, payee BLOB NOT NULL, delay_s INTEGER NOT NULL,
    salt BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE spent (
    channel_id BLOB NOT NULL REFERENCES channels, month INTEGER NOT NULL, micros INTEGER NOT NULL,
    checked INTEGER NOT NULL, PRIMARY KEY (channel_id, month)
) STRICT, WITHOUT ROWID;
CREATE TABLE requests (
    request_id BLOB PRIMARY KEY, channel_id BLOB NOT NULL REFERENCES channels, owner TEXT NOT NULL,
    purpose TEXT NOT NULL, budget INTEGER NOT NULL, month INTEGER NOT NULL, counted INTEGER NOT NULL,
    checked INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE entries (
    id INTEGER PRIMARY KEY, unix_s INTEGER NOT NULL, month INTEGER NOT NULL, kind TEXT NOT NULL,
    amount INTEGER NOT NULL, counted INTEGER NOT NULL, channel_id BLOB, request_id BLOB,
    counterparty BLOB, tx BLOB, checked INTEGER NOT NULL
) STRICT
""",
)


class RowDamaged(Exception):
    """A row does not fit its checksum, or a row that must be there is not."""


def read_book(database: sqlite3.Connection) -> tuple[bytes, int, Book] | None:
    """The ledger's number, its count of commits, and the book; None in a file that is new."""
    row = database.execute("SELECT * FROM book").fetchone()
    if row is None:
        return None
    _, ledger_id, commits, *figures, reread, channels_open, requests_live, checked = row
    if checked != row_check(*row[:-1]):
        raise RowDamaged("the book does not fit its checksum")
    cap, month, spent, reserved, chain_unix_s = figures
    book = Book(
        cap_micros=cap,
        month=Month(month),
        spent_micros=spent,
        reserved_micros=reserved,
        chain_unix_s=chain_unix_s,
        must_reread=bool(reread),
        channels_open=channels_open,
        requests_live=requests_live,
    )
    return ledger_id, commits, book


def write_book(database: sqlite3.Connection, ledger_id: bytes, commits: int, book: Book) -> None:
    row = (
        1,
        ledger_id,
        commits,
        book.cap_micros,
        book.month,
        book.spent_micros,
        book.reserved_micros,
        book.chain_unix_s,
        int(book.must_reread),
        book.channels_open,
        book.requests_live,
    )
    _upsert(database, "book", row)


def read_channel(database: sqlite3.Connection, of: ChannelId) -> ChannelRow | None:
    rows = database.execute("SELECT * FROM channels WHERE channel_id = ?", (of,))
    return next(map(_channel, rows), None)


def read_channels(database: sqlite3.Connection) -> Iterator[ChannelRow]:
    return map(_channel, database.execute("SELECT * FROM channels").fetchall())


def write_channel(database: sqlite3.Connection, row: ChannelRow) -> None:
    values = (
        row.channel_id,
        row.payee,
        row.deposit_micros,
        row.ceiling_micros,
        row.authorised_micros,
        row.due_min_micros,
        row.due_max_micros,
        row.budgets_micros,
        int(row.is_closed),
    )
    _upsert(database, "channels", values)


def read_spent(database: sqlite3.Connection, channel_id: ChannelId) -> tuple[tuple[Month, int], ...]:
    rows = database.execute(
        "SELECT month, micros, checked FROM spent WHERE channel_id = ? ORDER BY month DESC", (channel_id,)
    ).fetchall()
    return tuple(_spent(channel_id, *row) for row in rows)


def read_all_spent(database: sqlite3.Connection) -> Iterator[tuple[ChannelId, Month, int]]:
    for of, month, micros, checked in database.execute("SELECT * FROM spent").fetchall():
        yield ChannelId(of), *_spent(of, month, micros, checked)


def write_spent(database: sqlite3.Connection, channel_id: ChannelId, month: Month, micros: int) -> None:
    _upsert(database, "spent", (channel_id, month, micros))


def read_request(database: sqlite3.Connection, request_id: RequestId) -> RequestRow | None:
    rows = database.execute("SELECT * FROM requests WHERE request_id = ?", (request_id,))
    return next(map(_request, rows), None)


def read_requests(database: sqlite3.Connection) -> Iterator[RequestRow]:
    return map(_request, database.execute("SELECT * FROM requests").fetchall())


def write_request(database: sqlite3.Connection, row: RequestRow) -> None:
    values = (
        row.request_id,
        row.channel_id,
        row.owner,
        row.purpose,
        row.budget_micros,
        row.month,
        row.counted_micros,
    )
    _upsert(database, "requests", values)


def delete_request(database: sqlite3.Connection, request_id: RequestId) -> None:
    database.execute("DELETE FROM requests WHERE request_id = ?", (request_id,))


def add_entry(database: sqlite3.Connection, entry: Entry) -> None:
    values = (
        entry.unix_s,
        entry.month,
        entry.kind,
        entry.amount_micros,
        entry.counted_micros,
        entry.channel_id,
        entry.request_id,
        entry.counterparty,
        entry.transaction,
    )
    statement = "INSERT INTO entries VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    database.execute(statement, (*values, row_check(*values)))


def read_config(database: sqlite3.Connection, of: ChannelId) -> tuple[Deployment, ChannelConfig] | None:
    rows = database.execute("SELECT * FROM configs WHERE channel_id = ?", (of,))
    return next(map(_config, rows), None)


def read_configs(
    database: sqlite3.Connection,
) -> Iterator[tuple[ChannelId, Deployment, ChannelConfig]]:
    for row in database.execute("SELECT * FROM configs").fetchall():
        yield ChannelId(row[0]), *_config(row)


def write_config(database: sqlite3.Connection, deployment: Deployment, config: ChannelConfig) -> None:
    values = (
        channel_id(deployment, config),
        deployment.chain_id,
        deployment.contract,
        config.payer,
        config.signer,
        config.payee,
        config.delay_s,
        config.salt,
    )
    database.execute("INSERT INTO configs VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", values)


def read_entries(
    database: sqlite3.Connection, *, after_id: int, from_unix_s: int, to_unix_s: int, count_max: int
) -> list[tuple[int, Entry]]:
    """With their numbers, oldest first; `to_unix_s` itself is left out."""
    rows = database.execute(
        "SELECT * FROM entries WHERE id > ? AND unix_s >= ? AND unix_s < ? ORDER BY id LIMIT ?",
        (after_id, from_unix_s, to_unix_s, count_max),
    ).fetchall()
    return [(row[0], _entry(row)) for row in rows]


def _entry(row: Sequence[Any]) -> Entry:
    if row[-1] != row_check(*row[1:-1]):
        raise RowDamaged(f"line {row[0]} of the history does not fit its checksum")
    _, unix_s, month, kind, amount, counted, of, request_id, counterparty, transaction, _ = row
    return Entry(
        unix_s=unix_s,
        month=Month(month),
        kind=kind,
        amount_micros=amount,
        counted_micros=counted,
        channel_id=of,
        request_id=request_id,
        counterparty=counterparty,
        transaction=transaction,
    )


def _config(row: Sequence[Any]) -> tuple[Deployment, ChannelConfig]:
    of, chain_id, contract, payer, signer, payee, delay_s, salt = row
    deployment = Deployment(chain_id=ChainId(chain_id), contract=Address(contract))
    config = ChannelConfig(
        payer=Address(payer), signer=Address(signer), payee=Address(payee), delay_s=delay_s, salt=salt
    )
    if channel_id(deployment, config) != of:
        raise RowDamaged("the config of a channel does not give its id")
    return deployment, config


def _channel(row: Sequence[Any]) -> ChannelRow:
    if row[-1] != row_check(*row[:-1]):
        raise RowDamaged("a channel does not fit its checksum")
    of, payee, deposit, ceiling, authorised, due_min, due_max, budgets, is_closed, _ = row
    return ChannelRow(
        channel_id=ChannelId(of),
        payee=Address(payee),
        deposit_micros=deposit,
        ceiling_micros=ceiling,
        authorised_micros=authorised,
        due_min_micros=due_min,
        due_max_micros=due_max,
        budgets_micros=budgets,
        is_closed=bool(is_closed),
    )


def _spent(of: bytes, month: int, micros: int, checked: int) -> tuple[Month, int]:
    if checked != row_check(of, month, micros):
        raise RowDamaged("what was spent in a month does not fit its checksum")
    return Month(month), micros


def _request(row: Sequence[Any]) -> RequestRow:
    if row[-1] != row_check(*row[:-1]):
        raise RowDamaged("a reservation does not fit its checksum")
    request_id, of, owner, purpose, budget, month, counted, _ = row
    return RequestRow(
        request_id=RequestId(request_id),
        channel_id=ChannelId(of),
        owner=owner,
        purpose=purpose,
        budget_micros=budget,
        month=Month(month),
        counted_micros=counted,
    )


def _upsert_statement(table: str, keys: str, columns: str) -> str:
    names = [*keys.split(), *columns.split(), "checked"]
    sets = ", ".join(f"{name} = excluded.{name}" for name in names[len(keys.split()) :])
    marks = ", ".join("?" * len(names))
    return (
        f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})"
        f" ON CONFLICT ({', '.join(keys.split())}) DO UPDATE SET {sets}"
    )


# Not INSERT OR REPLACE: that deletes first, and looks at every row that refers to the one deleted.
_UPSERTS = {
    "book": _upsert_statement(
        "book",
        "id",
        "ledger_id commits cap month spent reserved chain_unix_s must_reread channels_open requests_live",
    ),
    "channels": _upsert_statement(
        "channels", "channel_id", "payee deposit ceiling authorised due_min due_max budgets is_closed"
    ),
    "spent": _upsert_statement("spent", "channel_id month", "micros"),
    "requests": _upsert_statement("requests", "request_id", "channel_id owner purpose budget month counted"),
}


def _upsert(database: sqlite3.Connection, table: str, values: tuple[object, ...]) -> None:
    database.execute(_UPSERTS[table], (*values, row_check(*values)))
