"""History from the node's own books: the buyer's ledger, the seller's book, the journal of transactions.

What the owner's own wallet sends (withdrawals, another operator) is in none of them: that wallet has it, and
the chain.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from unhosted.market.eip712 import keccak256
from unhosted.market.ids import ChannelId, address_text
from unhosted.market.months import month_text
from unhosted.market.spending_words import NO_MONTH, Entry
from unhosted.node.shell.chain.transactions import KIND as JOURNAL_KIND
from unhosted.node.shell.money import seller_tables
from unhosted.node.shell.money.database import RowDamaged, broken, explained, open_database
from unhosted.node.shell.money.ledger_reading import ENTRIES_PER_READ_MAX, read_history
from unhosted.node.shell.money.seller_tables import SELLER_KIND
from unhosted.node.shell.money.seller_words import Move, SoldChannel
from unhosted.node.shell.wallet.deposits import DepositFiles
from unhosted.node.shell.wallet.history import HistoryRow, Side

BOUGHT = frozenset({"request", "check", "raised", "found", "lost", "closed"})
"""Entries of the ledger that change what was spent; `opened` and `deposit` move the buyer's own money."""

_DEPOSIT = keccak256(
    b"depositWithAuthorization(address,uint256,uint256,uint256,address,uint96,bytes32,bytes)"
)[:4]


def read_rows(*, ledger: Path, sales: Path, transactions: Path, deposits: Path) -> list[HistoryRow]:
    """All books together, oldest first. Blocks. Raises: Refused (ledger_damaged)."""
    sent = list(read_sent(transactions))
    time_of = {row.transaction: row.unix_s for row in sent}
    rows = [*read_bought(ledger), *sent, *read_sold(sales, time_of), *read_relayed(deposits)]
    return sorted(rows, key=lambda row: row.unix_s)


def read_bought(ledger: Path) -> Iterator[HistoryRow]:
    """Blocks. Raises: Refused (ledger_damaged)."""
    after = 0
    while True:
        lines = read_history(ledger, after_id=after)
        for number, entry in lines:
            after = number
            yield _bought(entry)
        if len(lines) < ENTRIES_PER_READ_MAX:
            return


def read_sent(transactions: Path) -> Iterator[HistoryRow]:
    """What this node's key sent, on every chain, once it is in a block; failed ones cost their fee, too.

    Blocks. Raises: Refused (ledger_damaged).
    """
    if not transactions.exists():
        return
    with (
        closing(open_database(transactions, JOURNAL_KIND)) as database,
        explained(transactions, JOURNAL_KIND),
    ):
        rows = database.execute(
            "SELECT network, purpose, data, recipient, state, transaction_hash, block_unix_s, fee_wei"
            " FROM intents WHERE block_unix_s IS NOT NULL ORDER BY id"
        )
        for network, purpose, data, recipient, state, transaction, unix_s, fee in rows:
            is_failed = state.startswith("failed")
            yield HistoryRow(
                unix_s=unix_s,
                side="moved",
                kind=f"failed {purpose}" if is_failed else purpose,
                # What is relayed is somebody else's money; the fee is ours.
                amount_micros=deposited_micros(data) if purpose == "deposit" and not is_failed else 0,
                counterparty=address_text(recipient),
                transaction=hex_text(transaction),
                fee_wei=None if fee is None else int(fee),
                chain=str(int.from_bytes(network[:8], "big")),
            )


def read_sold(sales: Path, time_of: Mapping[str, int]) -> Iterator[HistoryRow]:
    """Requests that were served, and what was claimed and paid out for them.

    Earned is what was claimed: what a request owes may still be lost. time_of: of transactions that this node
    sent; what somebody else sent for it has no time in our books. Blocks. Raises: Refused (ledger_damaged).
    """
    if not sales.exists():
        return
    with closing(open_database(sales, SELLER_KIND)) as database, explained(sales, SELLER_KIND):
        try:
            sold = {one.channel_id: one for one in seller_tables.read_channels(database, with_closed=True)}
            moves = list(seller_tables.read_moves(database))
        except RowDamaged as damage:
            raise broken(sales, SELLER_KIND, str(damage)) from damage
        ended = database.execute(
            "SELECT request_id, channel_id, due, ended_unix_s FROM requests WHERE ending IS NOT NULL"
        ).fetchall()
    for request_id, of, due_micros, unix_s in ended:
        yield HistoryRow(
            unix_s=unix_s,
            side="sold",
            kind="request",
            amount_micros=due_micros,
            counterparty=address_text(sold[of].config.payer) if of in sold else "",
            channel=hex_text(of),
            request=hex_text(request_id),
        )
    yield from _moved(moves, sold, time_of)


def _moved(
    moves: Sequence[Move], sold: Mapping[ChannelId, SoldChannel], time_of: Mapping[str, int]
) -> Iterator[HistoryRow]:
    """Claims are cumulative per channel, so each earns what it adds to the one before."""
    claimed: dict[ChannelId, int] = {}
    for move in moves:
        transaction = hex_text(move.transaction)
        channel = None if move.channel_id is None else sold.get(move.channel_id)
        earned_micros = 0
        if move.channel_id is not None:
            earned_micros = move.amount_micros - claimed.get(move.channel_id, 0)
            claimed[move.channel_id] = move.amount_micros
        yield HistoryRow(
            unix_s=time_of.get(transaction, 0),
            side="moved" if move.channel_id is None else "sold",
            kind="payout" if move.channel_id is None else move.kind,
            amount_micros=move.amount_micros,
            earned_micros=earned_micros,
            counterparty="" if channel is None else address_text(channel.config.payer),
            channel=hex_text(move.channel_id),
            transaction=transaction,
            chain="" if channel is None else str(channel.deployment.chain_id),
        )


def read_relayed(deposits: Path) -> Iterator[HistoryRow]:
    """Deposits of ours that somebody else sent. Blocks."""
    for seen_unix_s, request in DepositFiles(deposits).settled():
        yield HistoryRow(
            unix_s=seen_unix_s,
            side="moved",
            kind="deposit sent by another",
            amount_micros=request.amount_micros,
            counterparty=address_text(request.channels.contract),
            chain=str(request.channels.chain_id),
        )


def _bought(entry: Entry) -> HistoryRow:
    side: Side = "bought" if entry.kind in BOUGHT else "moved"
    return HistoryRow(
        unix_s=entry.unix_s,
        side=side,
        kind=entry.kind,
        amount_micros=entry.amount_micros,
        spent_micros=entry.counted_micros,
        month="" if entry.month == NO_MONTH else month_text(entry.month),
        counterparty="" if entry.counterparty is None else address_text(entry.counterparty),
        channel=hex_text(entry.channel_id),
        request=hex_text(entry.request_id),
        transaction=hex_text(entry.transaction),
    )


def hex_text(value: bytes | None) -> str:
    return "" if value is None else "0x" + value.hex()


def deposited_micros(data: bytes) -> int:
    """What a deposit's calldata moves; 0 for another call."""
    return int.from_bytes(data[36:68], "big") if data[:4] == _DEPOSIT and len(data) >= 68 else 0
