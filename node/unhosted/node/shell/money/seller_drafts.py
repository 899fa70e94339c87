"""The rows of the seller's book that its receipts come from: drafts, receipts not confirmed yet, engines.

A draft is written when a request is opened and follows what was delivered, so that a crash leaves enough to
sign the one receipt that does not contradict any acknowledgement which went out.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

from unhosted.market.ids import ChannelId, ModelHash, RequestId
from unhosted.market.receipts import SignedReceipt, decode_receipt
from unhosted.market.requests import RequestHash
from unhosted.node.shell.money.database import RowDamaged, row_check
from unhosted.node.shell.money.seller_words import Delivered, Draft

UNCONFIRMED_MAX = 128
"""Receipts of one channel that are sent again at a contact: twice what may be live at once. Of a buyer that
confirms none the older ones are given up: they stay in the book, and show as a gap to that buyer."""

ENGINES_MAX = 256
"""Descriptions of engines: a new one comes with each update of the library or change of its settings."""

DRAFTS_SCHEMA = """
CREATE TABLE drafts (
    request_id BLOB PRIMARY KEY REFERENCES requests ON DELETE CASCADE, channel_id BLOB NOT NULL,
    model BLOB NOT NULL, request_hash BLOB NOT NULL, tokens_in INTEGER NOT NULL, engine BLOB NOT NULL,
    check_class TEXT NOT NULL, tokens_out INTEGER NOT NULL, due INTEGER NOT NULL, output_root BLOB NOT NULL,
    checked INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE unconfirmed (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    request_id BLOB NOT NULL UNIQUE REFERENCES requests ON DELETE CASCADE, channel_id BLOB NOT NULL
) STRICT;
CREATE INDEX unconfirmed_of_channel ON unconfirmed (channel_id, number);
CREATE TABLE engines (engine BLOB PRIMARY KEY, facts BLOB NOT NULL, checked INTEGER NOT NULL) STRICT
"""


def read_draft(database: sqlite3.Connection, request_id: RequestId) -> tuple[Draft, Delivered] | None:
    """Raises: RowDamaged for a damaged row."""
    row = database.execute("SELECT * FROM drafts WHERE request_id = ?", (request_id,)).fetchone()
    return None if row is None else _draft(row)


def read_drafts(database: sqlite3.Connection, of: ChannelId) -> Iterator[tuple[Draft, Delivered]]:
    """Of a channel, in the order in which their requests were opened. Raises: RowDamaged."""
    rows = database.execute(
        "SELECT drafts.* FROM drafts JOIN requests USING (request_id) WHERE drafts.channel_id = ?"
        " ORDER BY requests.sequence",
        (of,),
    ).fetchall()
    return map(_draft, rows)


def write_draft(database: sqlite3.Connection, draft: Draft, delivered: Delivered) -> None:
    values = (
        draft.request_id,
        draft.channel_id,
        draft.model,
        draft.request_hash,
        draft.tokens_in,
        draft.engine,
        draft.check,
        delivered.tokens_out,
        delivered.due_micros,
        delivered.output_root,
    )
    database.execute(
        "INSERT INTO drafts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (request_id) DO UPDATE SET"
        " tokens_out = excluded.tokens_out, due = excluded.due, output_root = excluded.output_root,"
        " checked = excluded.checked",
        (*values, row_check(*values)),
    )


def delete_draft(database: sqlite3.Connection, request_id: RequestId) -> None:
    database.execute("DELETE FROM drafts WHERE request_id = ?", (request_id,))


def add_unconfirmed(database: sqlite3.Connection, request_id: RequestId, of: ChannelId) -> None:
    database.execute("INSERT INTO unconfirmed (request_id, channel_id) VALUES (?, ?)", (request_id, of))
    database.execute(
        "DELETE FROM unconfirmed WHERE channel_id = ? AND number <= (SELECT number FROM unconfirmed"
        " WHERE channel_id = ? ORDER BY number DESC LIMIT 1 OFFSET ?)",
        (of, of, UNCONFIRMED_MAX),
    )


def delete_unconfirmed(database: sqlite3.Connection, request_id: RequestId, of: ChannelId) -> None:
    statement = "DELETE FROM unconfirmed WHERE request_id = ? AND channel_id = ?"
    database.execute(statement, (request_id, of))


def read_unconfirmed(database: sqlite3.Connection, of: ChannelId) -> list[SignedReceipt]:
    """In the order in which they were signed."""
    rows = database.execute(
        "SELECT requests.receipt FROM unconfirmed JOIN requests USING (request_id)"
        " WHERE unconfirmed.channel_id = ? AND requests.receipt IS NOT NULL ORDER BY number",
        (of,),
    ).fetchall()
    return [decode_receipt(row[0]) for row in rows]


def write_engine(database: sqlite3.Connection, engine: bytes, facts: bytes) -> None:
    """Once; the oldest beyond ENGINES_MAX makes room."""
    known = database.execute("SELECT 1 FROM engines WHERE engine = ?", (engine,)).fetchone()
    if known is None:
        database.execute("INSERT INTO engines VALUES (?, ?, ?)", (engine, facts, row_check(engine, facts)))
        database.execute(
            "DELETE FROM engines WHERE rowid <= (SELECT max(rowid) FROM engines) - ?", (ENGINES_MAX,)
        )


def read_engine(database: sqlite3.Connection, engine: bytes) -> bytes | None:
    """Raises: RowDamaged for a damaged row."""
    row = database.execute("SELECT * FROM engines WHERE engine = ?", (engine,)).fetchone()
    if row is not None and row[-1] != row_check(*row[:-1]):
        raise RowDamaged(f"engine {engine.hex()[:8]} does not fit its checksum")
    return None if row is None else row[1]


def _draft(row: Sequence[Any]) -> tuple[Draft, Delivered]:
    if row[-1] != row_check(*row[:-1]):
        raise RowDamaged(f"the draft of request {row[0].hex()[:8]} does not fit its checksum")
    request_id, of, model, request_hash, tokens_in, engine, check, tokens_out, due, output_root, _ = row
    draft = Draft(
        request_id=RequestId(request_id),
        channel_id=ChannelId(of),
        model=ModelHash(model),
        request_hash=RequestHash(request_hash),
        tokens_in=tokens_in,
        engine=engine,
        check=check,
    )
    return draft, Delivered(tokens_out=tokens_out, due_micros=due, output_root=output_root)
