"""The rows of kept answers and of the receipts that came, in SQLite, each with a checksum, and back."""

import sqlite3
from collections.abc import Sequence
from typing import Any

from unhosted.market.channels import ChainId, Deployment
from unhosted.market.faults import RemoteFault
from unhosted.market.ids import Address, ChannelId, RequestId
from unhosted.market.receipts import (
    NO_RECEIPT,
    ReceiptHash,
    SignedReceipt,
    decode_receipt,
    encode_receipt,
    receipt_hash,
)
from unhosted.node.shell.money.database import FileKind, RowDamaged, row_check
from unhosted.node.shell.money.kept_words import (
    KeptAnswer,
    ReceiptLine,
    SecondReceipt,
    decode_content,
    encode_content,
)

KEPT_KIND = FileKind(
    name="the store of answers to check",
    advice="move it away: answers that were not checked yet stay unchecked, and the next receipt of each"
    " channel shows as one that follows a gap",
    application_id=0x554E484B,  # "UNHK"
    version=1,
    schema="""
CREATE TABLE channels (
    channel_id BLOB PRIMARY KEY, seller TEXT NOT NULL, payee BLOB NOT NULL, chain_id INTEGER NOT NULL,
    contract BLOB NOT NULL, tip BLOB NOT NULL, checked INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE receipts (
    number INTEGER PRIMARY KEY AUTOINCREMENT, receipt_hash BLOB NOT NULL UNIQUE, request_id BLOB NOT NULL,
    channel_id BLOB NOT NULL REFERENCES channels, receipt BLOB NOT NULL, came_unix_s INTEGER NOT NULL,
    is_gap INTEGER NOT NULL, checked INTEGER NOT NULL
) STRICT;
CREATE INDEX receipts_of_request ON receipts (request_id);
CREATE INDEX receipts_of_channel ON receipts (channel_id, number);
CREATE TABLE answers (
    number INTEGER PRIMARY KEY AUTOINCREMENT, request_id BLOB NOT NULL UNIQUE, receipt_hash BLOB,
    size_bytes INTEGER NOT NULL, checked_unix_s INTEGER NOT NULL, outcome TEXT NOT NULL,
    checked INTEGER NOT NULL, content BLOB NOT NULL
) STRICT;
CREATE INDEX answers_of_receipt ON answers (receipt_hash);
CREATE INDEX answers_by_check ON answers (checked_unix_s, number);
CREATE INDEX answers_by_size ON answers (size_bytes);
CREATE TABLE seconds (
    request_id BLOB PRIMARY KEY, channel_id BLOB NOT NULL REFERENCES channels, first BLOB NOT NULL,
    second BLOB NOT NULL, came_unix_s INTEGER NOT NULL
) STRICT
""",
)

_LINES = (
    "SELECT receipts.*, channels.*, answers.number, answers.checked_unix_s, answers.outcome FROM receipts"
    " JOIN channels USING (channel_id) LEFT JOIN answers USING (receipt_hash)"
)


def read_tip(database: sqlite3.Connection, of: ChannelId) -> ReceiptHash:
    """The hash of the newest receipt that came on a channel."""
    row = database.execute("SELECT * FROM channels WHERE channel_id = ?", (of,)).fetchone()
    if row is None:
        return NO_RECEIPT
    if row[-1] != row_check(*row[:-1]):
        raise RowDamaged(f"channel {of.hex()[:8]} does not fit its checksum")
    return ReceiptHash(row[5])


def write_tip(
    database: sqlite3.Connection,
    of: ChannelId,
    tip: ReceiptHash,
    *,
    seller: str,
    payee: Address,
    bonds: Deployment,
) -> None:
    values = (of, seller, payee, bonds.chain_id, bonds.contract, tip)
    database.execute(
        "INSERT INTO channels VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (channel_id) DO UPDATE SET"
        " seller = excluded.seller, payee = excluded.payee, chain_id = excluded.chain_id,"
        " contract = excluded.contract, tip = excluded.tip, checked = excluded.checked",
        (*values, row_check(*values)),
    )


def read_receipt_of(database: sqlite3.Connection, request_id: RequestId) -> SignedReceipt | None:
    """The first that came for a request."""
    statement = "SELECT * FROM receipts WHERE request_id = ? ORDER BY number LIMIT 1"
    row = database.execute(statement, (request_id,)).fetchone()
    return None if row is None else _receipt(row)


def add_receipt(
    database: sqlite3.Connection, signed: SignedReceipt, *, came_unix_s: int, is_gap: bool, most: int
) -> None:
    """most: of all channels; the oldest make room."""
    values = (
        receipt_hash(signed),
        signed.receipt.request_id,
        signed.receipt.channel_id,
        encode_receipt(signed),
        came_unix_s,
        int(is_gap),
    )
    database.execute(
        "INSERT INTO receipts (receipt_hash, request_id, channel_id, receipt, came_unix_s, is_gap, checked)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (*values, row_check(*values)),
    )
    database.execute("DELETE FROM receipts WHERE number <= (SELECT max(number) FROM receipts) - ?", (most,))


def add_second(
    database: sqlite3.Connection, first: SignedReceipt, second: SignedReceipt, came_unix_s: int, most: int
) -> None:
    """Once per request: one proof is enough. Beyond `most` nothing is added."""
    receipt = second.receipt
    database.execute(
        "INSERT INTO seconds SELECT ?, ?, ?, ?, ? WHERE (SELECT count(*) FROM seconds) < ?"
        " ON CONFLICT DO NOTHING",
        (
            receipt.request_id,
            receipt.channel_id,
            encode_receipt(first),
            encode_receipt(second),
            came_unix_s,
            most,
        ),
    )


def read_seconds(database: sqlite3.Connection) -> list[SecondReceipt]:
    rows = database.execute(
        "SELECT first, second, payee, chain_id, contract, came_unix_s FROM seconds"
        " JOIN channels USING (channel_id) ORDER BY came_unix_s, request_id"
    ).fetchall()
    return [
        SecondReceipt(
            first=decode_receipt(first),
            second=decode_receipt(second),
            payee=Address(payee),
            bonds=Deployment(chain_id=ChainId(chain_id), contract=Address(contract)),
            came_unix_s=came_unix_s,
        )
        for first, second, payee, chain_id, contract, came_unix_s in rows
    ]


def read_lines(
    database: sqlite3.Connection, *, before: int, limit: int, seller: str | None
) -> list[ReceiptLine]:
    """Newest first, with numbers below `before`."""
    which, values = ("", ()) if seller is None else (" AND channels.seller = ?", (seller,))
    statement = f"{_LINES} WHERE receipts.number < ?{which} ORDER BY receipts.number DESC LIMIT ?"
    return [_line(row) for row in database.execute(statement, (before, *values, limit)).fetchall()]


def read_chain(database: sqlite3.Connection, of: ChannelId) -> list[ReceiptLine]:
    statement = f"{_LINES} WHERE receipts.channel_id = ? ORDER BY receipts.number"
    return [_line(row) for row in database.execute(statement, (of,)).fetchall()]


def write_answer(database: sqlite3.Connection, answer: KeptAnswer) -> None:
    """Anew, or in the place of what was kept of the request."""
    content = encode_content(answer)
    key = answer.receipt_hash
    values = (answer.request_id, key, len(content), answer.checked_unix_s, answer.outcome)
    database.execute(
        "INSERT INTO answers (request_id, receipt_hash, size_bytes, checked_unix_s, outcome, checked,"
        " content) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (request_id) DO UPDATE SET"
        " receipt_hash = excluded.receipt_hash, size_bytes = excluded.size_bytes,"
        " checked_unix_s = excluded.checked_unix_s, outcome = excluded.outcome,"
        " checked = excluded.checked, content = excluded.content",
        (*values, row_check(*values, content), content),
    )


def read_answer(database: sqlite3.Connection, where: str, value: object) -> tuple[int, KeptAnswer] | None:
    """The first by `where`, an SQL condition with one place for `value`, with its number."""
    row = database.execute(
        f"SELECT * FROM answers WHERE {where} ORDER BY number LIMIT 1", (value,)
    ).fetchone()
    return None if row is None else (row[0], _answer(row))


def delete_answer(database: sqlite3.Connection, request_id: RequestId) -> bool:
    return database.execute("DELETE FROM answers WHERE request_id = ?", (request_id,)).rowcount > 0


def make_room(database: sqlite3.Connection, *, answers_max: int, bytes_max: int) -> None:
    """Drop what was checked, the oldest first, and then the oldest of the rest."""
    count, size = database.execute("SELECT count(*), coalesce(sum(size_bytes), 0) FROM answers").fetchone()
    while count > answers_max or (size > bytes_max and count > 1):
        row = database.execute(
            "SELECT number, size_bytes FROM answers ORDER BY checked_unix_s = 0, number LIMIT 1"
        ).fetchone()
        database.execute("DELETE FROM answers WHERE number = ?", (row[0],))
        count, size = count - 1, size - row[1]


def _receipt(row: Sequence[Any]) -> SignedReceipt:
    values = row[1:7]
    if row[7] != row_check(*values):
        raise RowDamaged(f"receipt {values[0].hex()[:8]} does not fit its checksum")
    try:
        return decode_receipt(values[3])
    except RemoteFault as fault:
        raise RowDamaged(f"receipt {values[0].hex()[:8]}: {fault.message}") from None


def _line(row: Sequence[Any]) -> ReceiptLine:
    number, hash_, _, _, _, came_unix_s, is_gap, _ = row[:8]
    seller, payee, chain_id, contract = row[9:13]
    kept, checked_unix_s, outcome = row[-3:]
    return ReceiptLine(
        number=number,
        receipt=_receipt(row),
        receipt_hash=ReceiptHash(hash_),
        seller=seller,
        payee=Address(payee),
        bonds=Deployment(chain_id=ChainId(chain_id), contract=Address(contract)),
        came_unix_s=came_unix_s,
        is_gap=bool(is_gap),
        is_kept=kept is not None,
        checked_unix_s=checked_unix_s or 0,
        outcome=outcome or "",
    )


def _answer(row: Sequence[Any]) -> KeptAnswer:
    _, request_id, key, size_bytes, checked_unix_s, outcome, check, content = row
    if check != row_check(request_id, key, size_bytes, checked_unix_s, outcome, content):
        raise RowDamaged(f"the answer to request {request_id.hex()[:8]} does not fit its checksum")
    try:
        return decode_content(content, checked_unix_s=checked_unix_s, outcome=outcome)
    except (ValueError, RemoteFault) as fault:
        raise RowDamaged(f"the answer to request {request_id.hex()[:8]}: {fault}") from None
