"""The seller's book: every voucher that was answered with tokens is on the disk before the tokens are.

Written in this order: the request's sequence number → each better voucher, with what the live requests owe by
then → (tokens are released) → the receipt, with the request's due → (the receipt is sent). Every call returns
when what it did is durable; many calls share one sync. After a crash the requests that were under way are
ended with the due that stands in the book: what was delivered since is lost to the seller, at most a window.

Exactly one receipt is made per request, in the transaction that stores it: asked again, the same comes back,
since two different ones would be an equivocation that costs the bond.
"""

import fcntl
import logging
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import trio

from unhosted.market.channel_states import LIVE_REQUESTS_MAX, EndKind
from unhosted.market.channels import ChannelConfig, Deployment, SignedVoucher, channel_id
from unhosted.market.fields import WIRE_MICROS_MAX
from unhosted.market.ids import Address, ChannelId, RequestId
from unhosted.market.receipts import (
    ReceiptHash,
    SignedReceipt,
    decode_receipt,
    encode_receipt,
    receipt_hash,
)
from unhosted.node.core.chain import ChannelFacts
from unhosted.node.core.errors import LocalFault, Refused
from unhosted.node.shell.money import seller_tables as tables
from unhosted.node.shell.money.database import broken, explained, open_database, transaction
from unhosted.node.shell.money.group_commit import GroupWriter, group_writer
from unhosted.node.shell.money.seller_tables import SELLER_KIND, RowDamaged
from unhosted.node.shell.money.seller_words import ClaimInFlight, Earnings, Move, SoldChannel, SoldRequest

CHANNELS_OPEN_MAX = 10_000
"""Each is looked at on the chain every few hours; a home seller has some tens of buyers."""

MakeReceipt = Callable[[ReceiptHash], SignedReceipt]
"""From the hash of the channel's receipt before: builds and signs. Runs in the writer's thread, at most once
for each request."""

_LOG = logging.getLogger(__name__)
Result = TypeVar("Result")


class SellerBook:
    """Made by `open_seller_book`. Any method raises Refused (ledger_damaged, disk_full, overloaded) when
    nothing could be written, and trio.ClosedResourceError after the end. What a cancelled call asked for may
    have happened."""

    def __init__(self, writer: GroupWriter[sqlite3.Connection], clock_ns: Callable[[], int]) -> None:
        self._writer = writer
        self._clock_ns = clock_ns

    async def note_channel(
        self, deployment: Deployment, config: ChannelConfig, facts: ChannelFacts
    ) -> SoldChannel:
        """Sell on a channel, or go on doing so; `facts` at a safe block.

        Raises: Refused (overloaded) above CHANNELS_OPEN_MAX, (invalid_request) for a deposit beyond all USDC.
        """
        of = channel_id(deployment, config)

        def work(database: sqlite3.Connection) -> SoldChannel:
            channel = tables.read_channel(database, of)
            if channel is None:
                _check_room(database)
                channel = SoldChannel(
                    channel_id=of, deployment=deployment, config=config, facts=_checked(facts)
                )
            return _put_facts(database, channel, facts)

        return await self._writer.write(work)

    async def note_facts(self, of: ChannelId, facts: ChannelFacts) -> SoldChannel:
        """What the chain says of a channel at a safe block."""
        return await self._write(of, lambda database, channel: _put_facts(database, channel, facts))

    async def open_request(self, request_id: RequestId, of: ChannelId, *, sequence: int) -> None:
        """A request begins, before any work for it.

        Raises: Refused (invalid_request) for an id or a sequence number that was used, (overloaded) above
        LIVE_REQUESTS_MAX.
        """
        now_unix_s = self._now_unix_s()

        def work(database: sqlite3.Connection, channel: SoldChannel) -> None:
            if tables.read_request(database, request_id) is not None or sequence <= channel.sequence:
                raise Refused(
                    "invalid_request",
                    f"request {request_id.hex()[:8]} or its number {sequence} was used on the channel, the"
                    f" newest is {channel.sequence}; draw a new id and count on",
                )
            live = sum(request.channel_id == of for request in tables.read_live(database))
            if live >= LIVE_REQUESTS_MAX:
                raise Refused(
                    "overloaded", f"{live} requests run on the channel, at most {LIVE_REQUESTS_MAX}"
                )
            tables.write_channel(database, replace(channel, sequence=sequence))
            tables.write_request(
                database,
                SoldRequest(
                    request_id=request_id, channel_id=of, sequence=sequence, opened_unix_s=now_unix_s
                ),
            )

        await self._write(of, work)

    async def store_voucher(self, signed: SignedVoucher, *, live_micros: Mapping[RequestId, int]) -> None:
        """A voucher whose signer was checked. live_micros: what live requests of the channel owe by now;
        others than its own live ones are passed over.

        Nothing happens for one that is not better. Only when this returned may tokens follow.
        """
        now_unix_s = self._now_unix_s()
        dues = dict(live_micros)

        def work(database: sqlite3.Connection, channel: SoldChannel) -> None:
            if signed.voucher.amount_micros > channel.best_micros:
                since_unix_s = channel.since_unix_s if channel.claimable_micros else now_unix_s
                tables.write_channel(database, replace(channel, best=signed, since_unix_s=since_unix_s))
            for request_id, due_micros in dues.items():
                request = tables.read_request(database, request_id)
                if request is None or request.channel_id != channel.channel_id or request.end is not None:
                    continue  # refused by `open_request`, which a buyer can bring about, or over
                if due_micros > request.due_micros:
                    tables.write_request(database, replace(request, due_micros=due_micros))

        await self._write(signed.voucher.channel_id, work)

    async def settle_request(
        self,
        request_id: RequestId,
        *,
        tokens_out: int,
        due_micros: int,
        end: EndKind,
        make_receipt: MakeReceipt | None,
        channel_id: ChannelId | None = None,
    ) -> SignedReceipt | None:
        """End a request: its due is settled on the channel and its one receipt is stored. May be repeated.

        make_receipt: None if there is nothing to sign for (nothing was delivered). channel_id: where it ran;
        nothing happens if the id is that of a request on another channel: a buyer may use an id twice.
        """
        now_unix_s = self._now_unix_s()

        def work(database: sqlite3.Connection) -> SignedReceipt | None:
            request = tables.read_request(database, request_id)
            channel = None if request is None else tables.read_channel(database, request.channel_id)
            if request is None or channel is None:
                raise LocalFault(f"request {request_id.hex()[:8]} was never opened")
            if channel_id is not None and channel_id != channel.channel_id:
                return None
            if request.end is not None:
                return None if request.receipt is None else decode_receipt(request.receipt)
            receipt = None if make_receipt is None else make_receipt(channel.last_receipt)
            if receipt is not None:
                _check_receipt(receipt, request, due_micros)
                channel = replace(channel, last_receipt=receipt_hash(receipt))
            tables.write_channel(
                database, replace(channel, settled_micros=channel.settled_micros + due_micros)
            )
            ended = replace(
                request,
                due_micros=due_micros,
                tokens_out=tokens_out,
                end=end,
                ended_unix_s=now_unix_s,
                receipt=None if receipt is None else encode_receipt(receipt),
            )
            tables.write_request(database, ended)
            return receipt

        return await self._writer.write(work)

    async def settle_total(self, of: ChannelId, *, settled_micros: int, written_off_micros: int) -> None:
        """What both ends agreed on at a contact; less than before is forgiven."""
        await self._write(
            of,
            lambda database, channel: tables.write_channel(
                database,
                replace(channel, settled_micros=settled_micros, written_off_micros=written_off_micros),
            ),
        )

    async def note_winding_up(self, of: ChannelId) -> None:
        """Before a close is signed: nothing new is served on the channel, also after a crash."""
        await self._write(
            of,
            lambda database, channel: tables.write_channel(database, replace(channel, is_winding_up=True)),
        )

    async def channel(self, of: ChannelId) -> SoldChannel | None:
        return await self._writer.write(lambda database: tables.read_channel(database, of))

    async def channels(self, *, with_closed: bool = False) -> list[SoldChannel]:
        return await self._writer.write(
            lambda database: list(tables.read_channels(database, with_closed=with_closed))
        )

    async def channel_ids(self, at: Deployment, payee: Address) -> set[ChannelId]:
        """Of all channels that pay `payee` there, closed ones too."""
        return await self._writer.write(lambda database: tables.read_channel_ids(database, at, payee))

    async def request(self, request_id: RequestId) -> SoldRequest | None:
        return await self._writer.write(lambda database: tables.read_request(database, request_id))

    async def earnings(self) -> Earnings:
        return await self._writer.write(tables.read_earnings)

    async def begin_claim(self, claim: ClaimInFlight) -> None:
        """Before it is sent, so that it is followed after a crash."""
        await self._writer.write(lambda database: tables.add_claim(database, claim))

    async def end_claim(self, key: str) -> None:
        """It is at a safe block, or will never be in any."""
        await self._writer.write(lambda database: tables.delete_claim(database, key))

    async def claims(self) -> list[ClaimInFlight]:
        return await self._writer.write(lambda database: list(tables.read_claims(database)))

    async def cursor(self, at: Deployment) -> int | None:
        """The first block whose events were not noted yet."""
        return await self._writer.write(lambda database: tables.read_cursor(database, at))

    async def note_moves(self, at: Deployment, moves: Sequence[Move], *, next_block: int) -> None:
        """Events up to before `next_block`, all of them or none."""

        def work(database: sqlite3.Connection) -> None:
            for move in moves:
                tables.add_move(database, move)
            tables.write_cursor(database, at, next_block)

        await self._writer.write(work)

    async def moves(self) -> list[Move]:
        return await self._writer.write(lambda database: list(tables.read_moves(database)))

    async def forget_requests(self, *, before_unix_s: int) -> int:
        """Drop what ended before then on closed channels, where no id can be used again; how many."""
        return await self._writer.write(
            lambda database: tables.delete_requests_of_closed(database, before_unix_s=before_unix_s)
        )

    async def _write(
        self, of: ChannelId, work: Callable[[sqlite3.Connection, SoldChannel], Result]
    ) -> Result:
        def with_channel(database: sqlite3.Connection) -> Result:
            channel = tables.read_channel(database, of)
            if channel is None:
                raise LocalFault(f"channel {of.hex()[:8]} is not in the seller's book")
            return work(database, channel)

        return await self._writer.write(with_channel)

    def _now_unix_s(self) -> int:
        return self._clock_ns() // 1_000_000_000


@asynccontextmanager
async def open_seller_book(
    path: Path, *, clock_ns: Callable[[], int] = time.time_ns
) -> AsyncIterator[SellerBook]:
    """The book at `path`, for this process alone. clock_ns: UTC.

    Raises: Refused (ledger_damaged, disk_full, overloaded) with what to do next.
    """
    with explained(path, SELLER_KIND):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _only_this_process(path):
        database = await trio.to_thread.run_sync(open_database, path, SELLER_KIND)
        try:
            await trio.to_thread.run_sync(_end_cut_off, path, database, clock_ns() // 1_000_000_000)
            async with group_writer(lambda: _batch(path, database), name="seller book") as writer:
                yield SellerBook(writer, clock_ns)
        finally:
            database.close()


@contextmanager
def _only_this_process(path: Path) -> Iterator[None]:
    """Two sellers on one book would count the same voucher twice."""
    lock = path.with_name(f"{path.name}.lock")
    with explained(path, SELLER_KIND):
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused(
                "overloaded",
                f"the seller's book {path} is in use by another process; stop that node first, or give this"
                " one another UNHOSTED_HOME",
            ) from None
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _batch(path: Path, database: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    with explained(path, SELLER_KIND):
        try:
            with transaction(database):
                yield database
        except RowDamaged as damage:
            raise broken(path, SELLER_KIND, str(damage)) from damage


def _end_cut_off(path: Path, database: sqlite3.Connection, now_unix_s: int) -> None:
    """Settle the requests of the process before, with what stands in the book; and read every row once."""
    with _batch(path, database):
        cut_off = list(tables.read_live(database))
        for request in cut_off:
            channel = tables.read_channel(database, request.channel_id)
            if channel is None:
                raise RowDamaged(f"request {request.request_id.hex()[:8]} has no channel")
            settled_micros = channel.settled_micros + request.due_micros
            tables.write_channel(database, replace(channel, settled_micros=settled_micros))
            tables.write_request(database, replace(request, end="lost", ended_unix_s=now_unix_s))
        list(tables.read_channels(database, with_closed=True))
    if cut_off:
        _LOG.warning("requests_cut_off count=%d", len(cut_off))


def _check_room(database: sqlite3.Connection) -> None:
    count = database.execute("SELECT count(*) FROM channels WHERE is_closed = 0").fetchone()[0]
    if count >= CHANNELS_OPEN_MAX:
        raise Refused(
            "overloaded",
            f"{count} channels are open, at most {CHANNELS_OPEN_MAX} are served; try another seller",
        )


def _checked(facts: ChannelFacts) -> ChannelFacts:
    if facts.deposit_micros > WIRE_MICROS_MAX:
        raise Refused(
            "invalid_request",
            f"a deposit of {facts.deposit_micros} micro-USDC is more than all there is, {WIRE_MICROS_MAX} is"
            " the most that is counted; look at the chain's endpoint",
        )
    return facts


def _put_facts(database: sqlite3.Connection, channel: SoldChannel, facts: ChannelFacts) -> SoldChannel:
    changed = replace(channel, facts=_checked(facts))
    if changed.claimable_micros == 0:
        changed = replace(changed, since_unix_s=0)
    tables.write_channel(database, changed)
    return changed


def _check_receipt(receipt: SignedReceipt, request: SoldRequest, due_micros: int) -> None:
    signed = receipt.receipt
    if (signed.request_id, signed.channel_id) != (request.request_id, request.channel_id):
        raise LocalFault("a receipt was made for another request or channel")
    if signed.amount_micros != due_micros:
        raise LocalFault(f"a receipt over {signed.amount_micros}, {due_micros} micro-USDC are due")
