"""The seller's door against buyers that do not keep to the rules."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.fake_chain import START_UNIX_S
from tests.node.chain.stage import OPERATOR, OWNER, SELLER, STRANGER
from tests.node.money.paid_world import BUYER, BUYER_PEER, PRICE, SELLER_PEER
from tests.node.money.selling_world import Shop, shop_world
from unhosted.market.channels import ChainId
from unhosted.market.credit import window_tokens
from unhosted.market.fields import WIRE_MICROS_MAX
from unhosted.market.money import cost_micros
from unhosted.node.core.errors import Refused
from unhosted.node.core.peering import Channel as Stream
from unhosted.node.core.peering import ChannelBroken
from unhosted.node.core.sampling_words import Sampling
from unhosted.node.shell.money import buying
from unhosted.node.shell.money.buying import Buyer
from unhosted.node.shell.money.kept_answers import KeptAnswers, open_kept_answers
from unhosted.node.shell.money.ledger import Ledger, open_ledger
from unhosted.node.shell.money.paid_wire import PROTOCOL, STREAM_MESSAGE_BYTES_MAX

WINDOW_MICROS = cost_micros(PRICE, tokens_in=0, tokens_out=window_tokens(PRICE))


def in_shop(folder: Path, body: Callable[[Shop], Awaitable[None]], *, total_micros: int = 1_000_000) -> None:
    async def main() -> None:
        async with shop_world(folder, total_micros=total_micros) as shop:
            await body(shop)

    trio.run(main)


def buyers_answers(folder: Path) -> AbstractAsyncContextManager[KeptAnswers]:
    return open_kept_answers(folder / "kept.db")


def buyers_ledger(folder: Path) -> AbstractAsyncContextManager[Ledger]:
    return open_ledger(
        folder / "ledger.db",
        folder / "seal",
        cap_micros=1_000_000,
        clock_ns=lambda: START_UNIX_S * 1_000_000_000,
    )


def test_one_voucher_does_not_pay_on_two_streams(tmp_path: Path) -> None:
    async def body(shop: Shop) -> None:
        async with shop.line() as one, shop.line() as other:
            await shop.agree(one)
            await shop.agree(other)
            with suppress(ChannelBroken):
                await one.say(shop.ask(sequence=1), shop.pay(350))
            await other.say(shop.ask(sequence=2), shop.pay(350))
            came = [await other.tokens(), await one.tokens()]
        worth = sum(cost_micros(PRICE, tokens_in=10, tokens_out=count) for count in came if count)
        assert 0 < worth <= 350 + WINDOW_MICROS

    in_shop(tmp_path, body)


def test_what_was_sent_is_owed_however_the_stream_ends(tmp_path: Path) -> None:
    """A buyer that reads nothing holds the last tokens up, and cuts the stream then."""

    async def body(shop: Shop) -> None:
        shop.engine.length = 244
        async with shop.line() as line:
            await shop.agree(line)
            await line.say(shop.ask(sequence=1, most=244), shop.pay(1_000))
            while shop.engine.made < 244:
                await trio.sleep(0.01)
            await trio.testing.wait_all_tasks_blocked(0.05)
            shop.fabric.reset(BUYER_PEER, SELLER_PEER)
        due = cost_micros(PRICE, tokens_in=10, tokens_out=244)
        async with shop.line() as line:
            assert (await shop.agree(line)).due_micros == due
        assert (await shop.book.earnings()).requests_live == 0

    in_shop(tmp_path, body)


def test_who_is_not_the_signer_learns_and_changes_nothing(tmp_path: Path) -> None:
    async def body(shop: Shop) -> None:
        async with shop.line() as buyer:
            await shop.agree(buyer)
            async with shop.line() as line:
                await line.say(shop.hello(STRANGER))
                assert await line.hear() is None
            await buyer.say(shop.ask(sequence=1, most=4), shop.pay(100))
            assert await buyer.tokens() == 4

    in_shop(tmp_path, body)


def test_a_relay_must_add_what_is_worth_its_fee(tmp_path: Path) -> None:
    async def body(shop: Shop) -> None:
        assert (await shop.relay(249_999)).transaction is None
        assert (await shop.relay(1_000_000)).transaction is not None
        for more in (1, 2, 249_999):
            answer = await shop.relay(1_000_000 + more)
            assert answer.transaction is None
            assert "adds" in answer.message
        assert (await shop.relay(1_250_000)).transaction is not None

    in_shop(tmp_path, body, total_micros=0)


def test_nothing_is_served_on_a_channel_too_small_to_settle(tmp_path: Path) -> None:
    async def body(shop: Shop) -> None:
        async with shop.line() as line:
            await line.say(shop.hello())
            assert await line.hear() is None
        assert await shop.book.channels() == []

    in_shop(tmp_path, body, total_micros=249_999)


def test_a_buyer_that_grants_all_money_there_is_harms_only_itself(tmp_path: Path) -> None:
    async def body(shop: Shop) -> None:
        async with shop.line() as line:
            await shop.agree(line, due_micros=WIRE_MICROS_MAX)
            await line.say(shop.ask(sequence=1, most=4), shop.pay(100))
            await line.tokens()
        assert (await shop.sold()).settled_micros <= 1_000_000

    in_shop(tmp_path, body)


def test_a_request_id_is_worked_on_once(tmp_path: Path) -> None:
    async def body(shop: Shop) -> None:
        async with shop.line() as line:
            await shop.agree(line)
            first = shop.ask(sequence=1, most=4)
            again = [
                shop.ask(sequence=number, most=4, request_id=first.terms.request_id) for number in range(2, 9)
            ]
            await line.say(first, shop.pay(500), *again)
            assert await line.tokens(ends=8) == 4
            await line.say(shop.ask(sequence=9, most=4))
            assert await line.tokens() == 4
        assert shop.engine.started == 2

    in_shop(tmp_path, body)


def test_an_allocation_that_was_sent_late_can_be_spent(tmp_path: Path) -> None:
    """The buyer gave up waiting; the seller sent it all the same."""

    async def body(shop: Shop) -> None:
        shop.engine.length = 4
        async with buyers_ledger(tmp_path) as ledger, buyers_answers(tmp_path) as kept:
            await ledger.note_chain_time((await shop.chain.head()).timestamp_unix_s)
            await ledger.note_channel(shop.at, shop.config, 0)
            buyer = Buyer(shop.chain, ledger, OPERATOR, payer=OWNER.address, identity=BUYER, kept=kept)
            ask = shop.ask(sequence=1, most=4)
            async with (
                shop.line() as line,
                buyer.pay(line.stream, shop.channel) as payer,
                payer.open_request(
                    ask.terms,
                    prompt_ids=ask.prompt_ids,
                    model=ask.request.model,
                    sampling=Sampling(),
                ) as answer,
            ):
                assert [one async for piece in answer for one in piece] == [10, 11, 12, 13]

    in_shop(tmp_path, body)


def test_a_seller_that_says_nothing_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buying, "RELAY_WAIT_S", 0.02)

    async def body(shop: Shop) -> None:
        async def silent(stream: Stream) -> None:
            await trio.sleep_forever()

        shop.seller.serve(PROTOCOL, silent, access="anyone", message_bytes_max=STREAM_MESSAGE_BYTES_MAX)
        async with buyers_ledger(tmp_path) as ledger, buyers_answers(tmp_path) as kept:
            buyer = Buyer(shop.chain, ledger, OPERATOR, payer=OWNER.address, identity=BUYER, kept=kept)
            async with shop.line() as line:
                with pytest.raises(Refused, match="did not say"):
                    await buyer.open_channel(line.stream, SELLER.address)

    in_shop(tmp_path, body)


def test_a_channel_of_another_key_or_chain_is_not_paid_on(tmp_path: Path) -> None:
    async def body(shop: Shop) -> None:
        elsewhere = replace(shop.at, chain_id=ChainId(8453))
        async with buyers_ledger(tmp_path) as ledger, buyers_answers(tmp_path) as kept:
            await ledger.note_chain_time((await shop.chain.head()).timestamp_unix_s)
            here = await ledger.note_channel(shop.at, shop.config, 0)
            there = await ledger.note_channel(elsewhere, shop.config, 0)
            async with shop.line() as line:
                stranger = Buyer(shop.chain, ledger, STRANGER, payer=OWNER.address, identity=BUYER, kept=kept)
                with pytest.raises(Refused, match="put that key back"):
                    await stranger.pay(line.stream, here).__aenter__()
                buyer = Buyer(shop.chain, ledger, OPERATOR, payer=OWNER.address, identity=BUYER, kept=kept)
                with pytest.raises(Refused, match="on chain 8453"):
                    await buyer.pay(line.stream, there).__aenter__()

    in_shop(tmp_path, body)


def test_a_voucher_that_came_last_releases_nothing_into_a_dead_stream(tmp_path: Path) -> None:
    """It is kept, and what it would have paid for was never sent."""

    async def body(shop: Shop) -> None:
        shop.engine.length = 200
        async with shop.line() as line:
            await shop.agree(line)
            await line.say(shop.ask(sequence=1, most=200), shop.pay(58))
            while shop.engine.made < 200:
                await trio.sleep(0.01)
            await trio.testing.wait_all_tasks_blocked(0.05)
            await line.say(shop.pay(1_000))
            shop.fabric.reset(BUYER_PEER, SELLER_PEER)
        sent = cost_micros(PRICE, tokens_in=10, tokens_out=2 * window_tokens(PRICE))
        async with shop.line() as line:
            state = await shop.agree(line)
        best = 0 if state.voucher is None else state.voucher.voucher.amount_micros
        assert best in (58, 1_000)
        assert state.due_micros == sent

    in_shop(tmp_path, body)
