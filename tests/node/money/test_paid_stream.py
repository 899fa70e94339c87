"""A paid stream end to end over real disks and keys: who pays what, when either end or the stream fails."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.node.money.paid_world import (
    AT,
    BONDS,
    BUYER_PEER,
    CHANNEL,
    PRICE,
    SELLER,
    SELLER_PEER,
    PaidWorld,
    paid_world,
)
from unhosted.market.eip712 import bonds_separator, channels_separator, close_digest
from unhosted.market.faults import Reason
from unhosted.market.messages import VoucherMessage
from unhosted.market.money import Price, cost_micros
from unhosted.market.receipts import decode_response, receipt_digest
from unhosted.market.roots import ids_root
from unhosted.node.core.errors import Refused
from unhosted.node.shell.keys.signer import KeySigner, recover
from unhosted.node.shell.money.paid_wire import StreamMessage
from unhosted.node.shell.money.payee import HELD_TOKENS_MAX
from unhosted.node.shell.money.payer import Payer


def in_world(
    folder: Path, body: Callable[[PaidWorld], Awaitable[None]], *, cap_micros: int = 1_000_000
) -> None:
    async def main() -> None:
        async with paid_world(folder, cap_micros=cap_micros) as world:
            await body(world)

    trio.run(main)


def test_an_answer_is_paid_exactly_and_receipted(tmp_path: Path) -> None:
    async def body(world: PaidWorld) -> None:
        async with world.stream() as payer:
            terms = world.terms()
            ids, answer = await world.whole(payer, terms)
        assert ids == list(range(10, 110))
        due = cost_micros(PRICE, tokens_in=10, tokens_out=100)
        assert (answer.end, answer.tokens_out, answer.due_micros) == ("finished", 100, due)
        assert answer.receipt is not None and answer.ask is not None
        digest = receipt_digest(bonds_separator(BONDS), answer.receipt.receipt)
        assert recover(digest, answer.receipt.signature) == SELLER.address
        response = decode_response(answer.receipt.response)
        assert response.output_root == answer.made.root(100) == ids_root("output", ids, salt=answer.ask.salt)
        sold, row = await world.sold(), (await world.known()).row
        assert sold.settled_micros == row.due_min_micros == row.due_max_micros == due
        assert sold.best_micros == row.authorised_micros >= due
        assert (await world.ledger.view()).book.spent_micros == row.authorised_micros

    in_world(tmp_path, body)


def test_what_was_prepaid_and_not_used_pays_for_the_next_request(tmp_path: Path) -> None:
    async def body(world: PaidWorld) -> None:
        world.engine.length = 1
        async with world.stream() as payer:
            dues = 0
            for _ in range(8):
                _, answer = await world.whole(payer, world.terms())
                dues += answer.due_micros
        assert dues == 8 * cost_micros(PRICE, tokens_in=10, tokens_out=1)
        row = (await world.known()).row
        # The last prompt and window were paid ahead; nothing else stands beyond what was used.
        assert row.authorised_micros - dues <= cost_micros(PRICE, tokens_in=0, tokens_out=16)

    in_world(tmp_path, body)


def test_many_requests_share_a_channel(tmp_path: Path) -> None:
    async def body(world: PaidWorld) -> None:
        answers = []

        async def one(payer: Payer) -> None:
            answers.append(await world.whole(payer, world.terms()))

        async with world.stream() as payer, trio.open_nursery() as nursery:
            for _ in range(12):
                nursery.start_soon(one, payer)
        assert all(ids == list(range(10, 110)) for ids, _ in answers)
        due = sum(answer.due_micros for _, answer in answers)
        assert (await world.sold()).settled_micros == (await world.known()).row.due_min_micros == due
        assert not payer.faults
        assert not world.payees[0].faults

    in_world(tmp_path, body)


def test_above_the_cap_the_seller_never_hears_of_it(tmp_path: Path) -> None:
    async def body(world: PaidWorld) -> None:
        async with world.stream() as payer:
            with pytest.raises(Refused, match="monthly cap") as caught:
                async with world.ask(payer, world.terms(most=1000)):
                    raise AssertionError("it was opened")
            assert caught.value.code == "cap_reached"
            await world.whole(payer, world.terms(most=100))
        assert world.engine.started == 1
        assert (await world.ledger.view()).book.reserved_micros == 0

    in_world(tmp_path, body, cap_micros=400)


def test_a_voucher_of_another_key_buys_nothing(tmp_path: Path) -> None:
    async def body(world: PaidWorld) -> None:
        async with world.stream(signer=KeySigner(b"\x33" * 32)) as payer, trio.open_nursery() as nursery:

            async def ask() -> None:
                async with world.ask(payer, world.terms()) as answer:
                    async for _ in answer:
                        raise AssertionError("a token came")

            nursery.start_soon(ask)
            while not world.payees or not world.payees[0].faults:
                await trio.sleep(0.001)
            assert world.payees[0].faults[0].reason == Reason.WRONG_SIGNATURE
            assert world.engine.started == 0
            nursery.cancel_scope.cancel()
        assert (await world.sold()).best is None

    in_world(tmp_path, body)


def test_leaving_early_stops_the_engine_and_pays_what_came(tmp_path: Path) -> None:
    async def body(world: PaidWorld) -> None:
        world.engine.length = 10_000
        async with world.stream() as payer:
            async with world.ask(payer, world.terms(most=10_000)) as answer:
                async for _ in answer:
                    break
            assert answer.end == "stopped"
            made = world.engine.made
            await world.whole(payer, world.terms(most=8))
            assert world.engine.made - made <= 8
        row = (await world.known()).row
        assert row.due_min_micros == (await world.sold()).settled_micros

    in_world(tmp_path, body)


def test_the_engine_waits_where_nobody_pays(tmp_path: Path) -> None:
    """A buyer whose vouchers stop coming gets one window for nothing, and the engine works no further."""

    async def body(world: PaidWorld) -> None:
        world.engine.length, world.engine.piece = 5_000, 16
        got: list[int] = []

        async def ask(payer: Payer) -> None:
            async with world.ask(payer, world.terms(most=5_000)) as answer:
                async for piece in answer:
                    got.extend(piece)

        async with world.stream() as payer:
            first = cost_micros(PRICE, tokens_in=10, tokens_out=16)
            _lose_vouchers_above(payer, first)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask, payer)
                while world.engine.made <= HELD_TOKENS_MAX:
                    await trio.sleep(0.001)
                await trio.testing.wait_all_tasks_blocked(0.01)
                due = world.payees[0].end.channel.tally.live_due_micros
                assert due <= first + cost_micros(PRICE, tokens_in=0, tokens_out=16)
                assert world.engine.made <= HELD_TOKENS_MAX + 3 * 16
                nursery.cancel_scope.cancel()
        assert 16 <= len(got) <= 32

    in_world(tmp_path, body)


def _lose_vouchers_above(payer: Payer, micros: int) -> None:
    send = payer._stream.send

    async def lossy(message: StreamMessage) -> None:
        if not isinstance(message, VoucherMessage) or message.signed.voucher.amount_micros <= micros:
            await send(message)

    payer._stream.send = lossy  # type: ignore[method-assign]


def test_after_a_broken_stream_both_ends_agree_again(tmp_path: Path) -> None:
    async def body(world: PaidWorld) -> None:
        world.engine.length, world.engine.stop_at = 200, 100
        got: list[int] = []
        async with world.stream() as payer:
            with pytest.raises(Refused, match="nothing in time"):
                async with world.ask(payer, world.terms()) as answer:
                    async for piece in answer:
                        got += piece
                        if len(got) >= 90:
                            world.fabric.reset(BUYER_PEER, SELLER_PEER)
        world.engine.stop_at = None
        async with world.stream() as payer:
            ids, _ = await world.whole(payer, world.terms())
            assert len(ids) == 200
        row = (await world.known()).row
        assert row.due_min_micros == row.due_max_micros == (await world.sold()).settled_micros
        least = cost_micros(PRICE, tokens_in=10, tokens_out=90)
        assert row.due_min_micros >= least + cost_micros(PRICE, tokens_in=10, tokens_out=200)

    in_world(tmp_path, body)


def test_both_ends_restart_from_their_disks(tmp_path: Path) -> None:
    async def first(world: PaidWorld) -> None:
        async with world.stream() as payer:
            await world.whole(payer, world.terms())

    async def second(world: PaidWorld) -> None:
        before = (await world.known()).row
        async with world.stream() as payer:
            await world.whole(payer, world.terms())
            after = (await world.known()).row
            due = cost_micros(PRICE, tokens_in=10, tokens_out=100)
            assert before.due_min_micros == due
            assert after.due_min_micros == 2 * due == (await world.sold()).settled_micros

    in_world(tmp_path, first)
    in_world(tmp_path, second)


def test_a_channel_closes_in_agreement_with_what_was_used(tmp_path: Path) -> None:
    async def body(world: PaidWorld) -> None:
        async with world.stream() as payer:
            _, answer = await world.whole(payer, world.terms())
            closed = await payer.close()
            assert closed.amount_micros == answer.due_micros
            digest = close_digest(channels_separator(AT), CHANNEL, amount_micros=closed.amount_micros)
            assert recover(digest, closed.signature) == SELLER.address
            with pytest.raises(Refused, match="being closed"):
                await world.whole(payer, world.terms())
        assert (await world.sold()).is_winding_up

    in_world(tmp_path, body)


def test_another_price_than_is_sold_is_refused(tmp_path: Path) -> None:
    async def body(world: PaidWorld) -> None:
        cheap = Price(in_micros_per_mtok=1_000_000, out_micros_per_mtok=2_000_000)
        async with world.stream() as payer:
            with pytest.raises(Refused):
                async with world.ask(payer, world.terms(price=cheap)) as answer:
                    async for _ in answer:
                        raise AssertionError("a token came")
        assert world.engine.started == 0
        assert [fault.reason for fault in world.payees[0].faults] == [Reason.WRONG_TERMS]

    in_world(tmp_path, body)
