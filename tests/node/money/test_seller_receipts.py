"""The seller's receipts across a crash: exactly one, over no less than what was acknowledged."""

import sqlite3
from pathlib import Path

import trio

from tests.node.chain.stage import SELLER
from tests.node.money.seller_world import AT, config_of, facts, id_of, request_id, voucher
from unhosted.market.eip712 import bonds_separator
from unhosted.market.ids import ModelHash
from unhosted.market.money import Micros
from unhosted.market.receipts import (
    NO_RECEIPT,
    Receipt,
    ReceiptHash,
    Response,
    SignedReceipt,
    decode_response,
    encode_response,
    receipt_digest,
    receipt_hash,
    response_hash,
)
from unhosted.market.requests import RequestHash
from unhosted.node.shell.money import seller_drafts
from unhosted.node.shell.money.seller_book import SellerBook, open_seller_book
from unhosted.node.shell.money.seller_changes import MakeReceipt
from unhosted.node.shell.money.seller_words import Delivered, Draft

ENGINE, FACTS = b"\x0e" * 32, b"facts of an engine"


def draft(number: int = 1) -> Draft:
    return Draft(
        request_id=request_id(number),
        channel_id=id_of(),
        model=ModelHash(bytes(32)),
        request_hash=RequestHash(number.to_bytes(32, "big")),
        tokens_in=5,
        engine=ENGINE,
        check="exact",
    )


def made(tokens_out: int) -> Delivered:
    root = tokens_out.to_bytes(32, "big")
    return Delivered(tokens_out=tokens_out, due_micros=5 + 3 * tokens_out, output_root=root)


def maker(of: Draft, delivered: Delivered) -> MakeReceipt:
    def make(previous: ReceiptHash) -> SignedReceipt:
        body = encode_response(
            Response(
                output_root=delivered.output_root,
                finish="cut",
                engine=of.engine,
                check=of.check,
                previous=previous,
            )
        )
        receipt = Receipt(
            request_id=of.request_id,
            channel_id=of.channel_id,
            model=of.model,
            request_hash=of.request_hash,
            response_hash=response_hash(body),
            tokens_in=of.tokens_in,
            tokens_out=delivered.tokens_out,
            amount_micros=Micros(delivered.due_micros),
        )
        signature = SELLER.sign(receipt_digest(bonds_separator(AT), receipt))
        return SignedReceipt(receipt=receipt, response=body, signature=signature)

    return make


async def begin(book: SellerBook, number: int = 1) -> None:
    await book.open_request(request_id(number), id_of(), sequence=number, draft=draft(number), facts=FACTS)


async def settle(book: SellerBook, number: int, tokens_out: int) -> SignedReceipt:
    receipt = await book.settle_request(
        request_id(number),
        tokens_out=tokens_out,
        due_micros=made(tokens_out).due_micros,
        end="finished",
        make_receipt=maker(draft(number), made(tokens_out)),
    )
    assert receipt is not None
    return receipt


async def stored(book: SellerBook, number: int, tokens_out: int) -> None:
    """A voucher, with what the request has delivered by then."""
    one = made(tokens_out)
    await book.store_voucher(
        voucher(one.due_micros + 100),
        live_micros={request_id(number): one.due_micros},
        delivered={request_id(number): one},
    )


def lives(path: Path, *bodies: object) -> None:
    """One after the other on the same file: each ends as a kill would end it, with its requests open."""

    async def main() -> None:
        for body in bodies:
            async with open_seller_book(path) as book:
                await book.note_channel(AT, config_of(), facts())
                await body(book)  # type: ignore[operator]

    trio.run(main)


def test_what_a_crash_cut_off_has_one_receipt_over_what_was_acknowledged(tmp_path: Path) -> None:
    async def first(book: SellerBook) -> None:
        await begin(book)
        await stored(book, 1, 16)
        assert await book.note_delivered(request_id(1), made(64))

    async def second(book: SellerBook) -> None:
        request = await book.request(request_id(1))
        assert request is not None and request.receipt is None
        assert (request.end, request.tokens_out, request.due_micros) == ("lost", 64, made(64).due_micros)
        assert await book.sign_cut_off(id_of(), maker) == 1
        assert await book.sign_cut_off(id_of(), maker) == 0
        ((receipt, stated),) = await book.unconfirmed(id_of())
        assert (receipt.receipt.tokens_out, receipt.receipt.amount_micros) == (64, made(64).due_micros)
        assert stated == FACTS
        sold = await book.channel(id_of())
        assert sold is not None and sold.last_receipt == receipt_hash(receipt)
        assert sold.settled_micros == made(64).due_micros

    async def third(book: SellerBook) -> None:
        assert await book.sign_cut_off(id_of(), maker) == 0
        ((receipt, _),) = await book.unconfirmed(id_of())
        later = await settle_new(book)
        assert decode_response(receipt.response).previous == NO_RECEIPT
        assert decode_response(later.response).previous == receipt_hash(receipt)

    async def settle_new(book: SellerBook) -> SignedReceipt:
        await begin(book, 2)
        return await settle(book, 2, 10)

    lives(tmp_path / "book.db", first, second, third)


def test_a_voucher_after_the_acknowledgement_moves_the_receipt_on(tmp_path: Path) -> None:
    async def first(book: SellerBook) -> None:
        await begin(book)
        await book.note_delivered(request_id(1), made(64))
        await stored(book, 1, 80)
        assert await book.note_delivered(request_id(1), made(64))  # late: never back

    async def second(book: SellerBook) -> None:
        await book.sign_cut_off(id_of(), maker)
        ((receipt, _),) = await book.unconfirmed(id_of())
        assert receipt.receipt.tokens_out == 80

    lives(tmp_path / "book.db", first, second)


def test_where_nothing_is_due_nothing_is_signed(tmp_path: Path) -> None:
    async def first(book: SellerBook) -> None:
        await begin(book)
        await book.open_request(request_id(2), id_of(), sequence=2)
        await stored(book, 2, 16)  # it has no draft

    async def second(book: SellerBook) -> None:
        assert await book.sign_cut_off(id_of(), maker) == 0
        assert await book.unconfirmed(id_of()) == []

    lives(tmp_path / "book.db", first, second)


def test_what_ended_is_neither_acknowledged_nor_signed_again(tmp_path: Path) -> None:
    async def body(book: SellerBook) -> None:
        await begin(book)
        receipt = await settle(book, 1, 70)
        assert not await book.note_delivered(request_id(1), made(128))
        assert await book.sign_cut_off(id_of(), maker) == 0
        assert [one for one, _ in await book.unconfirmed(id_of())] == [receipt]

    lives(tmp_path / "book.db", body)


def test_a_receipt_is_given_again_until_it_is_confirmed(tmp_path: Path) -> None:
    async def first(book: SellerBook) -> None:
        for number in (1, 2, 3):
            await begin(book, number)
        for number in (2, 1, 3):
            await settle(book, number, number)

    async def second(book: SellerBook) -> None:
        await book.confirm(request_id(2), id_of(9))  # of another channel
        given = [receipt.receipt.request_id for receipt, _ in await book.unconfirmed(id_of())]
        assert given == [request_id(2), request_id(1), request_id(3)]
        await book.confirm(request_id(2), id_of())
        await book.confirm(request_id(2), id_of())

    async def third(book: SellerBook) -> None:
        receipts = [receipt for receipt, _ in await book.unconfirmed(id_of())]
        assert [one.receipt.request_id for one in receipts] == [request_id(1), request_id(3)]
        assert decode_response(receipts[1].response).previous == receipt_hash(receipts[0])

    lives(tmp_path / "book.db", first, second, third)


def test_a_buyer_that_confirms_nothing_costs_a_bounded_table(tmp_path: Path, monkeypatch: object) -> None:
    async def body(book: SellerBook) -> None:
        for number in range(1, 9):
            await begin(book, number)
            await settle(book, number, 1)
        given = [receipt.receipt.request_id for receipt, _ in await book.unconfirmed(id_of())]
        assert given == [request_id(number) for number in (6, 7, 8)]

    monkeypatch.setattr(seller_drafts, "UNCONFIRMED_MAX", 3)  # type: ignore[attr-defined]
    lives(tmp_path / "book.db", body)


def test_a_book_of_the_version_before_gets_what_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "book.db"

    async def nothing(book: SellerBook) -> None:
        await book.open_request(request_id(7), id_of(), sequence=7)

    lives(path, nothing)
    database = sqlite3.connect(path)
    for table in ("drafts", "unconfirmed", "engines"):
        database.execute(f"DROP TABLE {table}")
    database.execute("PRAGMA user_version = 1")
    database.commit()
    database.close()

    async def body(book: SellerBook) -> None:
        await begin(book, 8)
        await settle(book, 8, 3)
        assert len(await book.unconfirmed(id_of())) == 1

    lives(path, body)
