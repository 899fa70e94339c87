"""The buyer's account of spending: nothing is signed that was not counted, on the disk, before.

The order for a request is: `reserve` → contact the seller → per window `authorise`, *then* sign and send →
`finish` (or `release`, if nobody knows what it used). Every call returns when what it did is durable; many
calls share one sync of the disk. What a cancelled call did, if it did anything, stays counted, except that a
cancelled `reserve` gives back.
"""

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from unhosted.market.channels import ChannelConfig, Deployment, SignedVoucher, channel_id
from unhosted.market.ids import Address, ChannelId, RequestId
from unhosted.market.months import UNIX_S_MAX, month_of
from unhosted.market.spending_words import (
    CapChanged,
    ChainTimeHeard,
    ChannelClosed,
    ChannelFound,
    ChannelOpened,
    ChannelRow,
    Decision,
    DepositSeen,
    DueStated,
    Entry,
    MoneyAuthorised,
    MoneyReserved,
    Purpose,
    RequestFinished,
    RequestLost,
    RereadDone,
    SpendingEvent,
    VoucherShown,
)
from unhosted.node.core.errors import Refused
from unhosted.node.shell.money.group_commit import GroupWriter, group_writer
from unhosted.node.shell.money.ledger_file import LedgerBatch, LedgerFile
from unhosted.node.shell.money.ledger_reading import read_history
from unhosted.node.shell.money.ledger_words import FoundChannel, LedgerView, refused

CHAIN_TIME_NOTED_S = 3_600
"""Every block says what time it is; on the disk it matters when a month turns."""


class Ledger:
    """Made by `open_ledger`. Any method raises Refused (ledger_damaged, disk_full, overloaded) when nothing
    could be written, and trio.ClosedResourceError after the end."""

    def __init__(self, file: LedgerFile, writer: GroupWriter[LedgerBatch]) -> None:
        self._file = file
        self._writer = writer
        self._chain_noted_unix_s = 0

    async def reserve(
        self, request_id: RequestId, channel: ChannelId, amount_micros: int, *, purpose: Purpose = "request"
    ) -> None:
        """Set aside the most that a request can cost, before a seller hears of it.

        Cancellation: nothing stays reserved.
        Raises: Refused: cap_reached, no_funds, ledger_damaged, chain_unavailable, … with all numbers.
        """
        event = MoneyReserved(
            request_id=request_id,
            channel_id=channel,
            amount_micros=amount_micros,
            purpose=purpose,
            owner=self._file.owner,
        )

        def work(batch: LedgerBatch) -> None:
            decision = batch.apply(event)
            is_short = decision.refusal is not None and decision.refusal.reason in ("cap", "too_many")
            if is_short and batch.end_dead() > 0:  # what a dead process had reserved need not stay so
                decision = batch.apply(event)
            _accepted(decision)

        try:
            await self._writer.write(work, is_droppable=True)
        except trio.Cancelled:
            self._writer.write_soon(lambda batch: batch.apply(RequestLost(request_id=request_id)))
            raise

    async def authorise(self, request_id: RequestId, delta_micros: int) -> int:
        """Count `delta_micros` as spent. Returns the voucher's new total on the channel: only now may it be
        signed, and exactly this. A delta of 0 returns the total that may be signed again.

        Cancellation: it may have been counted.
        Raises: Refused: cap_reached, no_funds, invalid_request (the request is over), …
        """
        event = MoneyAuthorised(request_id=request_id, delta_micros=delta_micros)
        row = await self._apply(event, is_droppable=True)
        return row.authorised_micros

    async def finish(
        self, request_id: RequestId, due_micros: int, *, due_max_micros: int | None = None
    ) -> ChannelRow:
        """End a request that owes `due_micros`, or up to `due_max_micros` if the seller might be right to say
        so. What was authorised beyond it serves the next request on the channel.

        Cancellation: it happens.
        """
        due_max = due_micros if due_max_micros is None else due_max_micros
        return await self._apply(
            RequestFinished(request_id=request_id, due_micros=due_micros, due_max_micros=due_max)
        )

    async def release(self, request_id: RequestId) -> None:
        """End a request of which nobody knows what it used: what was authorised stays spent, and the seller
        may state what is due. Nothing happens if it is over. Cancellation: it happens."""
        await self._writer.write(lambda batch: batch.apply(RequestLost(request_id=request_id)))

    async def note_channel(
        self,
        deployment: Deployment,
        config: ChannelConfig,
        deposit_micros: int,
        *,
        transaction: bytes | None = None,
    ) -> ChannelId:
        """A channel that this node is about to open; call it *before* the allocation is signed, with deposit
        0 if it is not on the chain yet. A channel that is not known here counts in full when found."""
        of = channel_id(deployment, config)
        event = ChannelOpened(
            channel_id=of, payee=config.payee, deposit_micros=deposit_micros, transaction=transaction
        )

        def work(batch: LedgerBatch) -> None:
            _accepted(batch.apply(event))
            batch.put_config(deployment, config)

        await self._writer.write(work)
        return of

    async def note_deposit(
        self,
        channel: ChannelId,
        deposit_micros: int,
        *,
        claimed_micros: int = 0,
        transaction: bytes | None = None,
    ) -> ChannelRow:
        """What the chain says of an open channel at a safe block. More claimed than authorised counts."""
        return await self._apply(
            DepositSeen(
                channel_id=channel,
                deposit_micros=deposit_micros,
                claimed_micros=claimed_micros,
                transaction=transaction,
            )
        )

    async def note_closed(
        self, channel: ChannelId, claimed_micros: int, *, transaction: bytes | None = None
    ) -> ChannelRow:
        """The channel is closed at a safe block. The only thing that lowers what is spent."""
        return await self._apply(
            ChannelClosed(channel_id=channel, claimed_micros=claimed_micros, transaction=transaction)
        )

    async def raise_authorised(self, proof: SignedVoucher, *, signed_by: Address) -> ChannelRow:
        """A seller shows a voucher of ours. signed_by: the address that the signature gave.

        Raises: Refused (invalid_request) if that is not the channel's signer; nothing is changed.
        """
        of = proof.voucher.channel_id

        def work(batch: LedgerBatch) -> ChannelRow:
            if batch.signer_of(of) != signed_by:
                raise Refused(
                    "invalid_request",
                    f"a voucher signed by 0x{signed_by.hex()} is not the channel's signer's",
                )
            return _accepted(
                batch.apply(VoucherShown(channel_id=of, amount_micros=proof.voucher.amount_micros))
            )

        return await self._writer.write(work)

    async def note_due(self, channel: ChannelId, due_micros: int) -> ChannelRow:
        """The seller says what finished requests owe in all.

        Raises: Refused (invalid_request) with the range, if it is outside what is proven and possible.
        """
        return await self._apply(DueStated(channel_id=channel, due_micros=due_micros))

    async def note_found(self, found: FoundChannel) -> ChannelId:
        """A channel of this buyer that was found on the chain; one that is not known counts in full."""

        def work(batch: LedgerBatch) -> ChannelId:
            return _put_found(batch, found)

        return await self._writer.write(work)

    async def reread(self, found: Sequence[FoundChannel], *, chain_unix_s: int) -> None:
        """All channels of this buyer, read from the chain at a safe block whose time is given: what a ledger
        that lost history waits for. Every open channel counts with its whole deposit, in this month.

        Raises: Refused (chain_mismatch) if the clocks differ; nothing is changed.
        """

        def work(batch: LedgerBatch) -> None:
            if not batch.book.must_reread:
                return
            _require(batch.apply(ChainTimeHeard(chain_unix_s=chain_unix_s)))
            read = {_put_found(batch, channel) for channel in found}
            batch.lose_unread(read)
            _require(batch.apply(RereadDone()))

        await self._writer.write(work)

    async def note_chain_time(self, chain_unix_s: int) -> None:
        """The timestamp of the chain's newest block; cheap to call for each."""
        last, chain_unix_s = self._chain_noted_unix_s, min(max(chain_unix_s, 0), UNIX_S_MAX)
        is_news = not 0 <= chain_unix_s - last < CHAIN_TIME_NOTED_S
        if is_news or month_of(chain_unix_s) != month_of(last):
            event = ChainTimeHeard(chain_unix_s=chain_unix_s)
            await self._writer.write(lambda batch: batch.apply(event))
            self._chain_noted_unix_s = chain_unix_s

    async def set_cap(self, cap_micros: int) -> None:
        """The monthly cap. Below what is spent or reserved it stops what runs; 0 stops all paying."""
        await self._writer.write(lambda batch: _require(batch.apply(CapChanged(cap_micros=cap_micros))))

    async def view(self) -> LedgerView:
        """The account as it is now, behind all writes that wait."""
        return await self._writer.write(LedgerBatch.view)

    async def entries(
        self, *, after_id: int = 0, from_unix_s: int = 0, to_unix_s: int = 1 << 62
    ) -> list[tuple[int, Entry]]:
        """History, as `ledger_reading.read_history` gives it."""
        return await trio.to_thread.run_sync(
            lambda: read_history(
                self._file.path, after_id=after_id, from_unix_s=from_unix_s, to_unix_s=to_unix_s
            )
        )

    async def _apply(self, event: SpendingEvent, *, is_droppable: bool = False) -> ChannelRow:
        return await self._writer.write(
            lambda batch: _accepted(batch.apply(event)), is_droppable=is_droppable
        )


@asynccontextmanager
async def open_ledger(
    path: Path, seal_path: Path, *, cap_micros: int, clock_ns: Callable[[], int] = time.time_ns
) -> AsyncIterator[Ledger]:
    """The ledger at `path` with its seal, which belongs into another folder (what is backed up together is
    restored together). Everything that pays lives inside this. clock_ns: UTC.

    Raises: Refused (ledger_damaged, disk_full, overloaded) with what to do next.
    """
    file = await trio.to_thread.run_sync(lambda: LedgerFile(path, seal_path, clock_ns=clock_ns))
    try:
        async with group_writer(file.batch, name="ledger") as writer:
            ledger = Ledger(file, writer)
            await ledger.set_cap(cap_micros)
            yield ledger
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(file.close)  # folds the log into the file


def _put_found(batch: LedgerBatch, found: FoundChannel) -> ChannelId:
    of = channel_id(found.deployment, found.config)
    event = ChannelFound(
        channel_id=of,
        payee=found.config.payee,
        deposit_micros=found.deposit_micros,
        claimed_micros=found.claimed_micros,
        is_closed=found.is_closed,
        closed_unix_s=found.closed_unix_s,
    )
    _accepted(batch.apply(event))
    batch.put_config(found.deployment, found.config)
    return of


def _accepted(decision: Decision) -> ChannelRow:
    _require(decision)
    assert decision.channel is not None  # every event of a channel or request gives one
    return decision.channel


def _require(decision: Decision) -> None:
    if decision.refusal is not None:
        raise refused(decision.refusal, decision.book)
