"""The seller's book: what it was told is there after any end, and nothing is signed twice."""

import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from tests.node.chain.stage import SELLER
from tests.node.money.seller_world import (
    AT,
    DAY_S,
    config_of,
    facts,
    id_of,
    receipt_maker,
    request_id,
    voucher,
)
from unhosted.market.eip712 import bonds_separator
from unhosted.market.receipts import NO_RECEIPT, decode_response, receipt_digest, receipt_hash
from unhosted.node.core.chain import ClaimRow
from unhosted.node.core.errors import LocalFault, Refused
from unhosted.node.shell.keys.signer import recover
from unhosted.node.shell.money import seller_book, seller_changes
from unhosted.node.shell.money.seller_book import SellerBook, open_seller_book
from unhosted.node.shell.money.seller_words import ClaimInFlight, Move

START_UNIX_S = 1_800_000_000


class _Clock:
    def __init__(self) -> None:
        self.unix_s = START_UNIX_S

    def __call__(self) -> int:
        return self.unix_s * 1_000_000_000


def _with_book(
    path: Path, work: Callable[[SellerBook], Awaitable[None]], clock: Callable[[], int] | None = None
) -> None:
    async def main() -> None:
        with trio.fail_after(10):
            async with open_seller_book(path, clock_ns=clock or _Clock()) as book:
                await work(book)

    trio.run(main)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "seller.db"


async def _serve(book: SellerBook, number: int, amount_micros: int, due_micros: int) -> None:
    """A request with one voucher and a receipt."""
    rid = request_id(number)
    await book.open_request(rid, id_of(), sequence=number)
    await book.store_voucher(voucher(amount_micros), live_micros={rid: due_micros})
    await book.settle_request(
        rid, tokens_out=1, due_micros=due_micros, end="finished", make_receipt=receipt_maker(rid, due_micros)
    )


def test_what_was_told_is_there_after_a_restart(path: Path) -> None:
    async def tell(book: SellerBook) -> None:
        await book.note_channel(AT, config_of(), facts())
        await _serve(book, 1, 5_000, 4_000)
        await book.settle_total(id_of(), settled_micros=3_900, written_off_micros=100)
        await book.note_winding_up(id_of())

    async def ask(book: SellerBook) -> None:
        channel = await book.channel(id_of())
        assert channel is not None
        assert channel.best == voucher(5_000) and channel.config == config_of() and channel.deployment == AT
        assert (channel.settled_micros, channel.written_off_micros) == (3_900, 100)
        assert channel.is_winding_up and channel.sequence == 1
        assert await book.channels() == [channel]
        request = await book.request(request_id(1))
        assert request is not None and (request.end, request.due_micros) == ("finished", 4_000)

    _with_book(path, tell)
    _with_book(path, ask)


def test_a_voucher_that_is_not_better_changes_nothing(path: Path) -> None:
    async def work(book: SellerBook) -> None:
        await book.note_channel(AT, config_of(), facts())
        await book.store_voucher(voucher(5_000), live_micros={})
        best = await book.channel(id_of())
        for amount_micros in (5_000, 4_999, 0):
            await book.store_voucher(voucher(amount_micros), live_micros={})
            assert await book.channel(id_of()) == best

    _with_book(path, work)


def test_a_request_has_one_receipt_and_the_same_comes_back(path: Path) -> None:
    made = []

    async def first(book: SellerBook) -> None:
        await book.note_channel(AT, config_of(), facts())
        await _serve(book, 1, 5_000, 4_000)
        await _serve(book, 2, 9_000, 3_000)
        request = await book.request(request_id(1))
        assert request is not None
        made.append(request.receipt)

    async def again(book: SellerBook) -> None:
        def never(previous: object) -> None:
            raise AssertionError("a second receipt was made")

        again = await book.settle_request(
            request_id(1),
            tokens_out=9,
            due_micros=9,
            end="stopped",
            make_receipt=never,  # type: ignore[arg-type]
        )
        assert again is not None
        assert recover(receipt_digest(bonds_separator(AT), again.receipt), again.signature) == SELLER.address
        request = await book.request(request_id(1))
        assert request is not None and request.receipt == made[0] and request.due_micros == 4_000
        second = await book.settle_request(
            request_id(2), tokens_out=0, due_micros=0, end="failed", make_receipt=None
        )
        assert second is not None
        assert decode_response(again.response).previous == NO_RECEIPT
        assert decode_response(second.response).previous == receipt_hash(again)
        channel = await book.channel(id_of())
        assert channel is not None and channel.settled_micros == 7_000

    _with_book(path, first)
    _with_book(path, again)


def test_requests_that_a_crash_cut_off_are_settled_with_what_the_book_has(path: Path) -> None:
    async def crash(book: SellerBook) -> None:
        await book.note_channel(AT, config_of(), facts())
        await book.open_request(request_id(1), id_of(), sequence=1)
        await book.open_request(request_id(2), id_of(), sequence=2)
        await book.store_voucher(voucher(5_000), live_micros={request_id(1): 1_500, request_id(2): 700})
        await book.store_voucher(voucher(6_000), live_micros={request_id(1): 1_400})
        await book.open_request(request_id(3), id_of(), sequence=3)
        await book.settle_request(request_id(3), tokens_out=0, due_micros=0, end="failed", make_receipt=None)
        await book.store_voucher(voucher(6_000), live_micros={request_id(3): 900})  # it was on its way
        channel = await book.channel(id_of())
        assert channel is not None and channel.due_micros == 2_200

    async def after(book: SellerBook) -> None:
        channel = await book.channel(id_of())
        assert channel is not None
        assert (channel.settled_micros, channel.live_micros, channel.best_micros) == (2_200, 0, 6_000)
        request = await book.request(request_id(1))
        assert request is not None and (request.end, request.receipt) == ("lost", None)

    _with_book(path, crash)
    _with_book(path, after)


def test_a_used_request_id_or_number_is_refused(path: Path) -> None:
    async def work(book: SellerBook) -> None:
        await book.note_channel(AT, config_of(), facts())
        await _serve(book, 5, 5_000, 4_000)
        for rid, sequence in ((5, 6), (6, 5), (6, 1)):
            with pytest.raises(Refused, match="was used on the channel, the newest is 5"):
                await book.open_request(request_id(rid), id_of(), sequence=sequence)

    _with_book(path, work)


def test_a_request_id_of_another_channel_ends_nothing_there(path: Path) -> None:
    """A buyer with two channels uses one id on both: the second is refused, and its end is nobody else's."""

    async def work(book: SellerBook) -> None:
        rid = request_id(1)
        for number in (1, 2):
            await book.note_channel(AT, config_of(number), facts())
        await book.open_request(rid, id_of(1), sequence=1)
        await book.store_voucher(voucher(5_000), live_micros={rid: 900})
        with pytest.raises(Refused, match="was used"):
            await book.open_request(rid, id_of(2), sequence=1)
        await book.store_voucher(voucher(5_000, number=2), live_micros={rid: 4_000, request_id(7): 1})
        nothing = await book.settle_request(
            rid, tokens_out=0, due_micros=0, end="failed", make_receipt=None, channel_id=id_of(2)
        )
        request = await book.request(rid)
        assert nothing is None and request is not None
        assert (request.end, request.due_micros) == (None, 900)

    _with_book(path, work)


def test_more_live_requests_than_the_bound_are_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seller_book, "LIVE_REQUESTS_MAX", 3)

    async def work(book: SellerBook) -> None:
        await book.note_channel(AT, config_of(), facts())
        for number in range(1, 4):
            await book.open_request(request_id(number), id_of(), sequence=number)
        with pytest.raises(Refused, match="3 requests run on the channel"):
            await book.open_request(request_id(1_000), id_of(), sequence=1_000)

    _with_book(path, work)


def test_more_channels_than_the_bound_are_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seller_changes, "CHANNELS_OPEN_MAX", 2)

    async def work(book: SellerBook) -> None:
        for number in (1, 2):
            await book.note_channel(AT, config_of(number), facts())
        with pytest.raises(Refused, match="2 channels are open, at most 2"):
            await book.note_channel(AT, config_of(3), facts())
        await book.note_channel(AT, config_of(2), facts(2_000_000))
        await book.note_facts(id_of(1), facts(is_closed=True))
        await book.note_channel(AT, config_of(3), facts())

    _with_book(path, work)


def test_earnings_add_up(path: Path) -> None:
    async def work(book: SellerBook) -> None:
        for number in (1, 2, 3):
            await book.note_channel(AT, config_of(number), facts())
        await _serve(book, 1, 5_000, 4_000)
        await book.store_voucher(voucher(7_000, number=2), live_micros={})
        await book.note_facts(id_of(2), facts(claimed_micros=2_000, is_closed=True))
        await book.open_request(request_id(9), id_of(3), sequence=1)
        await book.store_voucher(voucher(100, number=3), live_micros={request_id(9): 300})
        paid = Move(
            kind="paid",
            amount_micros=1_234,
            channel_id=None,
            block_number=5,
            transaction=bytes(32),
            log_index=0,
        )
        for _ in range(2):  # the same event twice counts once
            await book.note_moves(AT, [paid], next_block=6)
        earnings = await book.earnings()
        assert (earnings.settled_micros, earnings.promised_micros) == (4_000, 12_100)
        assert (earnings.unpaid_micros, earnings.claimable_micros) == (200, 5_100)
        assert (earnings.claimed_micros, earnings.paid_micros, earnings.lost_micros) == (2_000, 1_234, 5_000)
        assert (earnings.requests_live, earnings.channels_open) == (1, 2)
        assert earnings.exposure_micros == 5_300
        assert await book.moves() == [paid]

    _with_book(path, work)


def test_a_voucher_above_a_deposit_that_shrank_is_not_claimable(path: Path) -> None:
    async def work(book: SellerBook) -> None:
        await book.note_channel(AT, config_of(), facts(2_000_000))
        await book.store_voucher(voucher(1_500_000), live_micros={})
        shrunk = await book.note_facts(id_of(), facts(1_000_000))
        assert shrunk.claimable_micros == 0
        whole = await book.note_facts(id_of(), facts(2_000_000))
        assert whole.claimable_micros == 1_500_000

    _with_book(path, work)


def test_the_first_unclaimed_voucher_has_its_time(path: Path) -> None:
    clock = _Clock()

    async def work(book: SellerBook) -> None:
        await book.note_channel(AT, config_of(), facts())
        await book.store_voucher(voucher(100), live_micros={})
        clock.unix_s += 500
        await book.store_voucher(voucher(200), live_micros={})
        channel = await book.channel(id_of())
        assert channel is not None and channel.since_unix_s == START_UNIX_S
        assert (await book.note_facts(id_of(), facts(claimed_micros=200))).since_unix_s == 0
        await book.store_voucher(voucher(300), live_micros={})
        channel = await book.channel(id_of())
        assert channel is not None and channel.since_unix_s == START_UNIX_S + 500

    _with_book(path, work, clock)


def test_claims_in_flight_and_the_cursor_survive_a_restart(path: Path) -> None:
    claim = ClaimInFlight(
        key="claim:1",
        begun_unix_s=5,
        pays_out=True,
        rows=(ClaimRow(config=config_of(), voucher=voucher(300)),),
    )

    async def tell(book: SellerBook) -> None:
        assert await book.cursor(AT) is None
        await book.note_channel(AT, config_of(), facts())
        await book.begin_claim(claim)
        await book.begin_claim(replace(claim, key="payout:1", rows=()))
        await book.note_moves(AT, [], next_block=17)
        await book.note_moves(AT, [], next_block=3)

    async def ask(book: SellerBook) -> None:
        assert await book.cursor(AT) == 17
        assert await book.claims() == [claim, replace(claim, key="payout:1", rows=())]
        await book.end_claim("claim:1")
        await book.end_claim("payout:1")
        assert await book.claims() == []

    _with_book(path, tell)
    _with_book(path, ask)


def test_old_requests_are_dropped_on_closed_channels_alone(path: Path) -> None:
    clock = _Clock()

    async def work(book: SellerBook) -> None:
        await book.note_channel(AT, config_of(), facts())
        await _serve(book, 1, 5_000, 4_000)
        clock.unix_s += 10 * DAY_S
        await _serve(book, 2, 9_000, 3_000)
        cut_unix_s = START_UNIX_S + DAY_S
        assert await book.forget_requests(before_unix_s=cut_unix_s) == 0
        await book.note_facts(id_of(), facts(is_closed=True))
        assert await book.forget_requests(before_unix_s=cut_unix_s) == 1
        assert await book.request(request_id(1)) is None
        assert await book.request(request_id(2)) is not None

    _with_book(path, work, clock)


def test_a_second_process_is_refused_the_same_book(path: Path) -> None:
    async def work(book: SellerBook) -> None:
        with pytest.raises(Refused, match="in use by another process"):
            async with open_seller_book(path):
                pass

    _with_book(path, work)


def test_a_changed_figure_is_found_at_the_start(path: Path) -> None:
    async def work(book: SellerBook) -> None:
        await book.note_channel(AT, config_of(), facts())
        await book.store_voucher(voucher(5_000), live_micros={})

    _with_book(path, work)
    database = sqlite3.connect(path)
    database.execute("UPDATE channels SET best = best + 1")
    database.commit()
    database.close()
    with pytest.raises(Refused, match=r"cannot be trusted \(channel [0-9a-f]{8} does not fit its checksum\)"):
        _with_book(path, work)


@pytest.mark.parametrize("fault", ["amount", "request"])
def test_a_receipt_over_something_else_is_a_defect_and_is_not_stored(path: Path, fault: str) -> None:
    async def main() -> None:
        with pytest.raises(LocalFault, match="receipt"):
            async with open_seller_book(path) as book:
                await book.note_channel(AT, config_of(), facts())
                await book.open_request(request_id(1), id_of(), sequence=1)
                wrong = receipt_maker(request_id(2 if fault == "request" else 1), 5)
                await book.settle_request(
                    request_id(1),
                    tokens_out=1,
                    due_micros=5 if fault == "request" else 6,
                    end="finished",
                    make_receipt=wrong,
                )
        async with open_seller_book(path) as book:
            request = await book.request(request_id(1))
            assert request is not None and (request.end, request.receipt) == ("lost", None)

    trio.run(main)
