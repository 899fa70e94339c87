"""The buyer's store of answers to check: what was asked, what came, and what the seller signed for it.

A receipt is written down as it comes, in its order on the channel, before anything is made of it: so that one
that is kept back shows as a gap, and a second one for a request as what it is. Prompt and output stay on this
disk alone, in a file for this user, and for no longer than the bounds below; whoever asks may leave them out
of it, and then the answer cannot be checked.
"""

import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import trio

from unhosted.market.channels import Deployment
from unhosted.market.ids import Address, ChannelId, RequestId
from unhosted.market.receipts import ReceiptHash, SignedReceipt, decode_response, receipt_hash
from unhosted.node.shell.money import kept_tables as tables
from unhosted.node.shell.money.database import RowDamaged, broken, explained, open_database, transaction
from unhosted.node.shell.money.group_commit import GroupWriter, group_writer
from unhosted.node.shell.money.kept_tables import KEPT_KIND
from unhosted.node.shell.money.kept_words import OUTCOME_CHARS_MAX, KeptAnswer, ReceiptLine, SecondReceipt

KEPT_ANSWERS_MAX = 10_000
"""A busy month of one household. The oldest that were checked make room, then the oldest of all."""

KEPT_BYTES_MAX = 256 << 20
"""Ten thousand answers of usual length take a tenth of it; long documents in prompts take the rest."""

RECEIPTS_MAX = 100_000
"""Without prompt and output a receipt takes 0.7 KB: what the listing and the channels' chains go back."""

PROOFS_MAX = 1_000
"""Of equivocation: one costs a seller its bond."""

NUMBER_MAX = (1 << 63) - 1

Noted = Literal["new", "known", "gap", "second"]
"""new: it follows the channel's last one. known: it came before. gap: it is new, and does not follow. second:
another one came for the same request; both are kept as proof."""


class KeptAnswers:
    """Made by `open_kept_answers`. Any method raises Refused (ledger_damaged, disk_full, overloaded)."""

    def __init__(self, writer: GroupWriter[sqlite3.Connection], clock_ns: Callable[[], int]) -> None:
        self._writer, self._clock_ns = writer, clock_ns

    async def note_receipt(
        self, signed: SignedReceipt, *, seller: str, payee: Address, bonds: Deployment
    ) -> Noted:
        """A receipt that `payee` signed, as it comes. seller: the peer id of who sent it.

        Raises: RemoteFault if its response is no message.
        """
        now_unix_s, of = self._now_unix_s(), signed.receipt.channel_id
        previous = decode_response(signed.response).previous

        def work(database: sqlite3.Connection) -> Noted:
            first = tables.read_receipt_of(database, signed.receipt.request_id)
            if first is not None and first.receipt == signed.receipt:
                return "known"
            if first is not None:
                tables.add_second(database, first, signed, now_unix_s, PROOFS_MAX)
                return "second"
            is_gap = previous != tables.read_tip(database, of)
            tip = receipt_hash(signed)
            tables.write_tip(database, of, tip, seller=seller, payee=payee, bonds=bonds)
            tables.add_receipt(database, signed, came_unix_s=now_unix_s, is_gap=is_gap, most=RECEIPTS_MAX)
            return "gap" if is_gap else "new"

        return await self._writer.write(work)

    async def keep(self, answer: KeptAnswer) -> None:
        """Whole, once it is over; again with the receipt, if that comes later."""

        def work(database: sqlite3.Connection) -> None:
            tables.write_answer(database, answer)
            tables.make_room(database, answers_max=KEPT_ANSWERS_MAX, bytes_max=KEPT_BYTES_MAX)

        await self._writer.write(work)

    async def get(self, receipt: ReceiptHash) -> KeptAnswer | None:
        return await self._read("receipt_hash = ?", receipt)

    async def of_request(self, request_id: RequestId) -> KeptAnswer | None:
        return await self._read("request_id = ?", request_id)

    async def next_unchecked(self, after: int = 0) -> tuple[int, KeptAnswer] | None:
        """The oldest that was not checked, with its number; `after`: of those with a greater number."""
        where = "checked_unix_s = 0 AND number > ?"
        return await self._writer.write(lambda database: tables.read_answer(database, where, after))

    async def summaries(
        self, limit: int = 100, *, before: int | None = None, seller: str | None = None
    ) -> tuple[ReceiptLine, ...]:
        """Receipts, the newest first; `before`: those with a smaller number. seller: of this peer alone."""
        below = NUMBER_MAX if before is None else before

        def work(database: sqlite3.Connection) -> tuple[ReceiptLine, ...]:
            return tuple(tables.read_lines(database, before=below, limit=limit, seller=seller))

        return await self._writer.write(work)

    async def chain(self, of: ChannelId) -> tuple[ReceiptLine, ...]:
        """All receipts of a channel that are still there, in the order in which they came."""
        return await self._writer.write(lambda database: tuple(tables.read_chain(database, of)))

    async def proofs(self) -> tuple[SecondReceipt, ...]:
        return await self._writer.write(lambda database: tuple(tables.read_seconds(database)))

    async def mark_checked(
        self, request_id: RequestId, *, outcome: str, now_unix_s: int | None = None
    ) -> bool:
        """Note that an answer was looked at; may be repeated. False: it is not there (any more).

        outcome: at most 64 printable characters. Raises: ValueError for another.
        """
        if len(outcome) > OUTCOME_CHARS_MAX or not outcome.isprintable():
            raise ValueError(
                f"an outcome of {len(outcome)} characters, at most {OUTCOME_CHARS_MAX} printable"
            )
        checked_unix_s = self._now_unix_s() if now_unix_s is None else now_unix_s

        def work(database: sqlite3.Connection) -> bool:
            found = tables.read_answer(database, "request_id = ?", request_id)
            if found is None:
                return False
            checked = replace(found[1], checked_unix_s=checked_unix_s, outcome=outcome)
            tables.write_answer(database, checked)
            return True

        return await self._writer.write(work)

    async def forget(self, request_id: RequestId) -> bool:
        """Drop prompt, output and salt; the receipt stays in its channel's chain. Whether they were there."""
        return await self._writer.write(lambda database: tables.delete_answer(database, request_id))

    async def _read(self, where: str, value: object) -> KeptAnswer | None:
        found = await self._writer.write(lambda database: tables.read_answer(database, where, value))
        return None if found is None else found[1]

    def _now_unix_s(self) -> int:
        return self._clock_ns() // 1_000_000_000


@asynccontextmanager
async def open_kept_answers(
    path: Path, *, clock_ns: Callable[[], int] = time.time_ns
) -> AsyncIterator[KeptAnswers]:
    """The store at `path`; several processes may have it open. clock_ns: UTC.

    Raises: Refused (ledger_damaged, disk_full, overloaded) with what to do next.
    """
    with explained(path, KEPT_KIND):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    database = await trio.to_thread.run_sync(open_database, path, KEPT_KIND)
    try:
        database.execute("PRAGMA secure_delete = ON")  # what was forgotten is not left in free pages
        async with group_writer(lambda: _batch(path, database), name="kept answers") as writer:
            yield KeptAnswers(writer, clock_ns)
    finally:
        database.close()


@contextmanager
def _batch(path: Path, database: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    with explained(path, KEPT_KIND):
        try:
            with transaction(database):
                yield database
        except RowDamaged as damage:
            raise broken(path, KEPT_KIND, str(damage)) from damage
