"""The rows of the seller's book in SQLite, each with a checksum, and back."""

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

from unhosted.market.channels import ChainId, ChannelConfig, Deployment, SignedVoucher, Voucher, channel_id
from unhosted.market.ids import Address, ChannelId, RequestId, Signature
from unhosted.market.money import Micros
from unhosted.market.receipts import ReceiptHash
from unhosted.node.core.chain import ChannelFacts, ClaimRow
from unhosted.node.shell.money.database import FileKind, RowDamaged, row_check
from unhosted.node.shell.money.seller_drafts import DRAFTS_SCHEMA
from unhosted.node.shell.money.seller_words import ClaimInFlight, Earnings, Move, SoldChannel, SoldRequest

SELLER_KIND = FileKind(
    name="the seller's book",
    advice="put back the newest copy of it; without one, buyers that come again show their last vouchers, and"
    " what the others owe is lost",
    application_id=0x554E4853,  # "UNHS"
    version=2,
    upgrades=(DRAFTS_SCHEMA,),
    schema=f"""{DRAFTS_SCHEMA};
CREATE TABLE channels (
    channel_id BLOB PRIMARY KEY, chain_id INTEGER NOT NULL, contract BLOB NOT NULL, payer BLOB NOT NULL,
    signer BLOB NOT NULL, payee BLOB NOT NULL, delay_s INTEGER NOT NULL, salt BLOB NOT NULL,
    deposit INTEGER NOT NULL, claimed INTEGER NOT NULL, close_at INTEGER NOT NULL,
    is_closed INTEGER NOT NULL, best INTEGER NOT NULL, signature BLOB NOT NULL, settled INTEGER NOT NULL,
    written_off INTEGER NOT NULL, since_unix_s INTEGER NOT NULL, sequence INTEGER NOT NULL,
    is_winding_up INTEGER NOT NULL, last_receipt BLOB NOT NULL, checked INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE requests (
    request_id BLOB PRIMARY KEY, channel_id BLOB NOT NULL REFERENCES channels, sequence INTEGER NOT NULL,
    opened_unix_s INTEGER NOT NULL, due INTEGER NOT NULL, tokens_out INTEGER NOT NULL, ending TEXT,
    ended_unix_s INTEGER NOT NULL, receipt BLOB, checked INTEGER NOT NULL
) STRICT;
CREATE INDEX requests_live ON requests (channel_id) WHERE ending IS NULL;
CREATE TABLE claims (
    key TEXT PRIMARY KEY, begun_unix_s INTEGER NOT NULL, pays_out INTEGER NOT NULL
) STRICT;
CREATE TABLE claim_rows (
    key TEXT NOT NULL REFERENCES claims, channel_id BLOB NOT NULL REFERENCES channels,
    amount INTEGER NOT NULL, signature BLOB NOT NULL, PRIMARY KEY (key, channel_id)
) STRICT, WITHOUT ROWID;
CREATE TABLE moves (
    tx BLOB NOT NULL, log_index INTEGER NOT NULL, kind TEXT NOT NULL, amount INTEGER NOT NULL,
    channel_id BLOB, block_number INTEGER NOT NULL, PRIMARY KEY (tx, log_index)
) STRICT, WITHOUT ROWID;
CREATE TABLE cursors (
    chain_id INTEGER NOT NULL, contract BLOB NOT NULL, next_block INTEGER NOT NULL,
    PRIMARY KEY (chain_id, contract)
) STRICT, WITHOUT ROWID
""",
)


def read_channel(database: sqlite3.Connection, of: ChannelId) -> SoldChannel | None:
    row = database.execute("SELECT * FROM channels WHERE channel_id = ?", (of,)).fetchone()
    return None if row is None else _channel(database, row)


def read_channels(database: sqlite3.Connection, *, with_closed: bool) -> Iterator[SoldChannel]:
    which = "" if with_closed else " WHERE is_closed = 0"
    for row in database.execute(f"SELECT * FROM channels{which} ORDER BY channel_id").fetchall():
        yield _channel(database, row)


def read_channel_ids(database: sqlite3.Connection, at: Deployment, payee: Address) -> set[ChannelId]:
    """Of all channels, closed ones too."""
    statement = "SELECT channel_id FROM channels WHERE chain_id = ? AND contract = ? AND payee = ?"
    return {ChannelId(row[0]) for row in database.execute(statement, (at.chain_id, at.contract, payee))}


def write_channel(database: sqlite3.Connection, channel: SoldChannel) -> None:
    config, facts, best = channel.config, channel.facts, channel.best
    values = (
        channel.channel_id,
        channel.deployment.chain_id,
        channel.deployment.contract,
        config.payer,
        config.signer,
        config.payee,
        config.delay_s,
        config.salt,
        facts.deposit_micros,
        facts.claimed_micros,
        facts.close_at_unix_s,
        int(facts.is_closed),
        channel.best_micros,
        b"" if best is None else best.signature,
        channel.settled_micros,
        channel.written_off_micros,
        channel.since_unix_s,
        channel.sequence,
        int(channel.is_winding_up),
        channel.last_receipt,
    )
    _put(database, _PUT_CHANNEL, values)


def read_request(database: sqlite3.Connection, request_id: RequestId) -> SoldRequest | None:
    row = database.execute("SELECT * FROM requests WHERE request_id = ?", (request_id,)).fetchone()
    return None if row is None else _request(row)


def read_live(database: sqlite3.Connection) -> Iterator[SoldRequest]:
    return map(_request, database.execute("SELECT * FROM requests WHERE ending IS NULL").fetchall())


def write_request(database: sqlite3.Connection, request: SoldRequest) -> None:
    values = (
        request.request_id,
        request.channel_id,
        request.sequence,
        request.opened_unix_s,
        request.due_micros,
        request.tokens_out,
        request.end,
        request.ended_unix_s,
        request.receipt,
    )
    _put(database, _PUT_REQUEST, values)


def delete_requests_of_closed(database: sqlite3.Connection, *, before_unix_s: int) -> int:
    """Those that ended before, on channels where no request can be opened any more; how many."""
    statement = (
        "DELETE FROM requests WHERE ending IS NOT NULL AND ended_unix_s < ? AND channel_id IN"
        " (SELECT channel_id FROM channels WHERE is_closed = 1)"
    )
    return database.execute(statement, (before_unix_s,)).rowcount


def read_claims(database: sqlite3.Connection) -> Iterator[ClaimInFlight]:
    claims = database.execute("SELECT * FROM claims ORDER BY begun_unix_s, key").fetchall()
    for key, begun_unix_s, pays_out in claims:
        rows = database.execute(
            "SELECT channel_id, amount, signature FROM claim_rows WHERE key = ? ORDER BY channel_id", (key,)
        ).fetchall()
        yield ClaimInFlight(
            key=key,
            begun_unix_s=begun_unix_s,
            pays_out=bool(pays_out),
            rows=tuple(_claim_row(database, *row) for row in rows),
        )


def add_claim(database: sqlite3.Connection, claim: ClaimInFlight) -> None:
    database.execute(
        "INSERT INTO claims VALUES (?, ?, ?)", (claim.key, claim.begun_unix_s, int(claim.pays_out))
    )
    for row in claim.rows:
        voucher = row.voucher.voucher
        database.execute(
            "INSERT INTO claim_rows VALUES (?, ?, ?, ?)",
            (claim.key, voucher.channel_id, voucher.amount_micros, row.voucher.signature),
        )


def delete_claim(database: sqlite3.Connection, key: str) -> None:
    database.execute("DELETE FROM claim_rows WHERE key = ?", (key,))
    database.execute("DELETE FROM claims WHERE key = ?", (key,))


def add_move(database: sqlite3.Connection, move: Move) -> None:
    """Once, however often it is seen."""
    values = (
        move.transaction,
        move.log_index,
        move.kind,
        move.amount_micros,
        move.channel_id,
        move.block_number,
    )
    database.execute("INSERT INTO moves VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", values)


def read_moves(database: sqlite3.Connection) -> Iterator[Move]:
    for row in database.execute("SELECT * FROM moves ORDER BY block_number, log_index").fetchall():
        transaction, log_index, kind, amount, of, block_number = row
        yield Move(
            kind=kind,
            amount_micros=amount,
            channel_id=None if of is None else ChannelId(of),
            block_number=block_number,
            transaction=transaction,
            log_index=log_index,
        )


def read_cursor(database: sqlite3.Connection, at: Deployment) -> int | None:
    """The first block whose events were not seen yet; None before the first look."""
    statement = "SELECT next_block FROM cursors WHERE chain_id = ? AND contract = ?"
    row = database.execute(statement, (at.chain_id, at.contract)).fetchone()
    return None if row is None else int(row[0])


def write_cursor(database: sqlite3.Connection, at: Deployment, next_block: int) -> None:
    """Never back."""
    database.execute(
        "INSERT INTO cursors VALUES (?, ?, ?) ON CONFLICT (chain_id, contract) DO UPDATE"
        " SET next_block = max(next_block, excluded.next_block)",
        (at.chain_id, at.contract, next_block),
    )


def read_earnings(database: sqlite3.Connection) -> Earnings:
    channels = list(read_channels(database, with_closed=True))
    paid = database.execute("SELECT coalesce(sum(amount), 0) FROM moves WHERE kind = 'paid'").fetchone()[0]
    live = database.execute("SELECT count(*) FROM requests WHERE ending IS NULL").fetchone()[0]
    return Earnings(
        settled_micros=sum(channel.settled_micros for channel in channels),
        promised_micros=sum(channel.best_micros for channel in channels),
        unpaid_micros=sum(max(channel.due_micros - channel.best_micros, 0) for channel in channels),
        claimable_micros=sum(channel.claimable_micros for channel in channels),
        claimed_micros=sum(channel.facts.claimed_micros for channel in channels),
        paid_micros=paid,
        lost_micros=sum(
            max(channel.best_micros - channel.facts.claimed_micros, 0)
            for channel in channels
            if channel.facts.is_closed and not channel.is_winding_up
        ),
        requests_live=live,
        channels_open=sum(not channel.facts.is_closed for channel in channels),
    )


def _put(database: sqlite3.Connection, statement: str, values: Sequence[Any]) -> None:
    database.execute(statement, (*values, row_check(*values)))


def _put_statement(table: str, columns: str) -> str:
    # Not INSERT OR REPLACE: that deletes first, and looks at every row that refers to the one deleted.
    names = columns.split()
    sets = ", ".join(f"{name} = excluded.{name}" for name in names[1:])
    marks = ", ".join("?" * len(names))
    return f"INSERT INTO {table} VALUES ({marks}) ON CONFLICT ({names[0]}) DO UPDATE SET {sets}"


_CHANNEL_NAMES = (
    "channel_id chain_id contract payer signer payee delay_s salt deposit claimed close_at is_closed best"
    " signature settled written_off since_unix_s sequence is_winding_up last_receipt checked"
)
_REQUEST_NAMES = (
    "request_id channel_id sequence opened_unix_s due tokens_out ending ended_unix_s receipt checked"
)
_PUT_CHANNEL = _put_statement("channels", _CHANNEL_NAMES)
_PUT_REQUEST = _put_statement("requests", _REQUEST_NAMES)


def _channel(database: sqlite3.Connection, row: Sequence[Any]) -> SoldChannel:
    if row[-1] != row_check(*row[:-1]):
        raise RowDamaged(f"channel {row[0].hex()[:8]} does not fit its checksum")
    of, chain_id, contract, payer, signer, payee, delay_s, salt = row[:8]
    deposit, claimed, close_at, is_closed, best, signature, settled, written_off = row[8:16]
    since_unix_s, sequence, is_winding_up, last_receipt = row[16:20]
    deployment = Deployment(chain_id=ChainId(chain_id), contract=Address(contract))
    config = ChannelConfig(
        payer=Address(payer), signer=Address(signer), payee=Address(payee), delay_s=delay_s, salt=salt
    )
    if channel_id(deployment, config) != of:
        raise RowDamaged(f"the config of channel {of.hex()[:8]} does not give its id")
    live = database.execute(
        "SELECT coalesce(sum(due), 0) FROM requests WHERE channel_id = ? AND ending IS NULL", (of,)
    ).fetchone()[0]
    return SoldChannel(
        channel_id=ChannelId(of),
        deployment=deployment,
        config=config,
        facts=ChannelFacts(
            deposit_micros=deposit,
            claimed_micros=claimed,
            close_at_unix_s=close_at,
            is_closed=bool(is_closed),
        ),
        best=signed_voucher(ChannelId(of), best, signature) if signature else None,
        settled_micros=settled,
        live_micros=live,
        written_off_micros=written_off,
        since_unix_s=since_unix_s,
        sequence=sequence,
        is_winding_up=bool(is_winding_up),
        last_receipt=ReceiptHash(last_receipt),
    )


def signed_voucher(of: ChannelId, amount_micros: int, signature: bytes) -> SignedVoucher:
    voucher = Voucher(channel_id=of, amount_micros=Micros(amount_micros))
    return SignedVoucher(voucher=voucher, signature=Signature(signature))


def _claim_row(database: sqlite3.Connection, of: bytes, amount_micros: int, signature: bytes) -> ClaimRow:
    channel = read_channel(database, ChannelId(of))
    if channel is None:
        raise RowDamaged(f"a claim is for channel {of.hex()[:8]}, which is not in the book")
    return ClaimRow(
        config=channel.config, voucher=signed_voucher(channel.channel_id, amount_micros, signature)
    )


def _request(row: Sequence[Any]) -> SoldRequest:
    if row[-1] != row_check(*row[:-1]):
        raise RowDamaged(f"request {row[0].hex()[:8]} does not fit its checksum")
    request_id, of, sequence, opened_unix_s, due, tokens_out, ending, ended_unix_s, receipt, _ = row
    return SoldRequest(
        request_id=RequestId(request_id),
        channel_id=ChannelId(of),
        sequence=sequence,
        opened_unix_s=opened_unix_s,
        due_micros=due,
        tokens_out=tokens_out,
        end=ending,
        ended_unix_s=ended_unix_s,
        receipt=receipt,
    )
