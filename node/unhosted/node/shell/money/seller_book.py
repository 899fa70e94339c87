"""The seller's book: every voucher that was answered with tokens is on the disk before the tokens are.

Written in this order: the request's sequence number and the draft of its receipt → each better voucher, with
what the live requests have delivered and owe by then → (tokens are released) → what was delivered at each
whole block → (it is acknowledged) → the receipt, with the request's due → (the receipt is sent, and again
until the buyer confirms it). Every call returns when what it did is durable; many calls share one sync. After
a crash the requests that were under way are ended with what stands in the book: what was delivered since is
lost to the seller, at most a window, and their receipts, over as much, are signed at the next contact.

Exactly one receipt is made per request, in the transaction that stores it: asked again, the same comes back,
since two different ones would be an equivocation that costs the bond.
"""

import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import trio

from unhosted.market.channel_states import LIVE_REQUESTS_MAX, EndKind
from unhosted.market.channels import ChannelConfig, Deployment, SignedVoucher, channel_id
from unhosted.market.ids import Address, ChannelId, RequestId
from unhosted.market.receipts import (
    SignedReceipt,
    decode_receipt,
    decode_response,
)
from unhosted.node.core.chain import ChannelFacts
from unhosted.node.core.errors import LocalFault, Refused
from unhosted.node.shell.money import seller_drafts as drafts
from unhosted.node.shell.money import seller_tables as tables
from unhosted.node.shell.money.database import explained, open_database
from unhosted.node.shell.money.group_commit import GroupWriter, group_writer
from unhosted.node.shell.money.seller_changes import (
    MakeReceipt,
    check_room,
    checked,
    put_delivered,
    put_facts,
    put_receipt,
)
from unhosted.node.shell.money.seller_file import batch, end_cut_off, only_this_process
from unhosted.node.shell.money.seller_tables import SELLER_KIND
from unhosted.node.shell.money.seller_words import (
    ClaimInFlight,
    Delivered,
    Draft,
    Earnings,
    Move,
    SoldChannel,
    SoldRequest,
)

MakeCutOff = Callable[[Draft, Delivered], MakeReceipt]
"""The same for a request that a crash cut off, from what was written down of it."""

_NOTHING: Mapping[RequestId, Delivered] = MappingProxyType({})
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
                check_room(database)
                channel = SoldChannel(
                    channel_id=of, deployment=deployment, config=config, facts=checked(facts)
                )
            return put_facts(database, channel, facts)

        return await self._writer.write(work)

    async def note_facts(self, of: ChannelId, facts: ChannelFacts) -> SoldChannel:
        """What the chain says of a channel at a safe block."""
        return await self._write(of, lambda database, channel: put_facts(database, channel, facts))

    async def open_request(
        self,
        request_id: RequestId,
        of: ChannelId,
        *,
        sequence: int,
        draft: Draft | None = None,
        facts: bytes = b"",
    ) -> None:
        """A request begins, before any work for it. draft: of its receipt; None if it shall have none after a
        crash. facts: what `draft.engine` is the hash of, encoded.

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
            if draft is not None:
                drafts.write_engine(database, draft.engine, facts)
                drafts.write_draft(database, draft, Delivered(tokens_out=0, due_micros=0, output_root=b""))

        await self._write(of, work)

    async def store_voucher(
        self,
        signed: SignedVoucher,
        *,
        live_micros: Mapping[RequestId, int],
        delivered: Mapping[RequestId, Delivered] = _NOTHING,
    ) -> None:
        """A voucher whose signer was checked. live_micros: what live requests of the channel owe by now;
        others than its own live ones are passed over. delivered: of those that have a draft, for what.

        Nothing happens for one that is not better. Only when this returned may tokens follow.
        """
        now_unix_s = self._now_unix_s()
        dues, for_what = dict(live_micros), dict(delivered)

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
                if request_id in for_what:
                    put_delivered(database, request_id, for_what[request_id])

        await self._write(signed.voucher.channel_id, work)

    async def note_delivered(self, request_id: RequestId, delivered: Delivered) -> bool:
        """How far a live request has come; only when this returned True may it be acknowledged."""

        def work(database: sqlite3.Connection) -> bool:
            request = tables.read_request(database, request_id)
            if request is None or request.end is not None:
                return False
            if delivered.due_micros > request.due_micros:
                tables.write_request(database, replace(request, due_micros=delivered.due_micros))
            return put_delivered(database, request_id, delivered)

        return await self._writer.write(work)

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
            settled = replace(channel, settled_micros=channel.settled_micros + due_micros)
            tables.write_channel(database, settled)
            ended = replace(
                request, due_micros=due_micros, tokens_out=tokens_out, end=end, ended_unix_s=now_unix_s
            )
            tables.write_request(database, ended)
            drafts.delete_draft(database, request_id)
            if make_receipt is None:
                return None
            return put_receipt(database, settled, ended, make_receipt, due_micros)

        return await self._writer.write(work)

    async def sign_cut_off(self, of: ChannelId, make: MakeCutOff) -> int:
        """The receipts of a channel's requests that a crash cut off, as far as something is due; how many."""

        def work(database: sqlite3.Connection) -> int:
            count = 0
            for draft, delivered in list(drafts.read_drafts(database, of)):
                request = tables.read_request(database, draft.request_id)
                channel = tables.read_channel(database, of)
                if request is None or channel is None or request.end is None:
                    continue
                drafts.delete_draft(database, draft.request_id)
                if request.receipt is None and delivered.due_micros:
                    due_micros = delivered.due_micros
                    put_receipt(database, channel, request, make(draft, delivered), due_micros)
                    count += 1
            return count

        return await self._writer.write(work)

    async def unconfirmed(self, of: ChannelId) -> list[tuple[SignedReceipt, bytes]]:
        """Receipts that the buyer may not have, in their order; each with its engine's facts, encoded, which
        are empty if they are not kept any more."""

        def work(database: sqlite3.Connection) -> list[tuple[SignedReceipt, bytes]]:
            return [
                (one, drafts.read_engine(database, decode_response(one.response).engine) or b"")
                for one in drafts.read_unconfirmed(database, of)
            ]

        return await self._writer.write(work)

    async def confirm(self, request_id: RequestId, of: ChannelId) -> None:
        """The buyer has the receipt. Forgotten in a crash, it is sent once more."""
        await self._writer.write(lambda database: drafts.delete_unconfirmed(database, request_id, of))

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
    with only_this_process(path):
        database = await trio.to_thread.run_sync(open_database, path, SELLER_KIND)
        try:
            await trio.to_thread.run_sync(end_cut_off, path, database, clock_ns() // 1_000_000_000)
            async with group_writer(lambda: batch(path, database), name="seller book") as writer:
                yield SellerBook(writer, clock_ns)
        finally:
            database.close()
