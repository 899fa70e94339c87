"""A buyer that breaks the rules of a paid stream: the seller loses a window at most, and lives on."""

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from tests.node.chain.stage import FOREVER_UNIX_S, STRANGER, allocation
from tests.node.money.paid_world import (
    AT,
    OPERATOR,
    PRICE,
    asked,
)
from tests.node.money.seller_world import config_of, voucher
from tests.node.money.selling_world import Line, Shop, shop_world
from unhosted.market.channels import SignedVoucher, Voucher
from unhosted.market.credit import loss_max, window_tokens
from unhosted.market.eip712 import channels_separator, voucher_digest
from unhosted.market.ids import RequestId, Signature
from unhosted.market.messages import (
    Allocation,
    RelayRequest,
    RequestEnd,
    StopRequest,
    VoucherMessage,
)
from unhosted.market.money import Micros, cost_micros
from unhosted.market.terms import Terms
from unhosted.node.core.peering import ChannelBroken
from unhosted.node.shell.keys.signer import KeySigner
from unhosted.node.shell.money.paid_wire import (
    StreamMessage,
    Tokens,
)

LOSS = loss_max(PRICE, tokens_in=10, window=window_tokens(PRICE))


QUIET_S = 0.1
"""In which nothing more comes of a seller that waits for money."""


async def quiet(line: Line) -> int:
    """Tokens that come until nothing does."""
    count = 0
    while True:
        message: StreamMessage | None = None
        with trio.move_on_after(QUIET_S):
            message = await line.hear()
        if message is None:
            return count
        count += len(message.ids) if isinstance(message, Tokens) else 0


async def bought(shop: Shop) -> int:
    """Tokens that an honest request gets, afterwards: the seller is still there."""
    async with shop.line() as line:
        state = await shop.agree(line)
        best = 0 if state.voucher is None else state.voucher.voucher.amount_micros
        await line.say(
            shop.ask(sequence=state.sequence + 1, most=4), shop.pay(max(best, state.due_micros) + 100)
        )
        return await line.tokens()


def in_shop(folder: Path, body: Callable[[Shop, Line], Awaitable[None]]) -> None:
    """A stream on which both agree, and an honest request after it."""

    async def main() -> None:
        async with shop_world(folder) as shop:
            async with shop.line() as line:
                await shop.agree(line)
                await body(shop, line)
            assert await bought(shop) == 4

    trio.run(main)


def forged(shop: Shop, amount_micros: int, signer: KeySigner) -> VoucherMessage:
    said = Voucher(channel_id=shop.channel, amount_micros=Micros(amount_micros))
    signature = signer.sign(voucher_digest(channels_separator(shop.at), said))
    return VoucherMessage(signed=SignedVoucher(voucher=said, signature=signature))


def of_another_channel(shop: Shop) -> VoucherMessage:
    return VoucherMessage(signed=voucher(500, config_of(2), at=shop.at))


def of_another_contract(shop: Shop) -> VoucherMessage:
    said = Voucher(channel_id=shop.channel, amount_micros=Micros(500))
    signature = OPERATOR.sign(voucher_digest(channels_separator(AT), said))
    return VoucherMessage(signed=SignedVoucher(voucher=said, signature=signature))


@pytest.mark.parametrize(
    "make",
    [
        lambda shop: forged(shop, 500, STRANGER),
        lambda shop: shop.pay(1_000_001),
        lambda shop: VoucherMessage(
            signed=SignedVoucher(
                voucher=Voucher(channel_id=shop.channel, amount_micros=Micros(500)),
                signature=Signature(bytes(65)),
            )
        ),
        of_another_channel,
        of_another_contract,
    ],
    ids=["of a stranger", "above the deposit", "of nobody", "of another channel", "for another contract"],
)
def test_a_voucher_that_cannot_be_claimed_buys_nothing(
    tmp_path: Path, make: Callable[[Shop], VoucherMessage]
) -> None:
    async def body(shop: Shop, line: Line) -> None:
        await line.say(shop.ask(sequence=1), make(shop))
        assert await quiet(line) == 0
        assert shop.engine.started == 0
        assert (await shop.sold()).best is None

    in_shop(tmp_path, body)


def test_old_and_lower_vouchers_buy_nothing_more(tmp_path: Path) -> None:
    async def body(shop: Shop, line: Line) -> None:
        await line.say(shop.ask(sequence=1, most=200), shop.pay(100))
        came = await quiet(line)
        assert came <= (100 - 10 + LOSS.seller_micros) // 3
        await line.say(shop.pay(100), shop.pay(60), shop.pay(10))
        assert await quiet(line) == 0
        assert (await shop.sold()).best_micros == 100

    in_shop(tmp_path, body)


def test_what_was_paid_in_an_earlier_stream_does_not_pay_again(tmp_path: Path) -> None:
    """Ended with its stream, a request is settled; the same voucher then covers nothing new."""

    async def body(shop: Shop, line: Line) -> None:
        await line.say(shop.ask(sequence=1, most=30), shop.pay(148))
        first = await quiet(line)
        async with shop.line() as again:
            await shop.agree(again)
            await again.say(shop.ask(sequence=2, most=30), shop.pay(148))
            second = await quiet(again)
        worth = sum(cost_micros(PRICE, tokens_in=10, tokens_out=count) for count in (first, second) if count)
        assert first > 0
        assert worth <= 148 + LOSS.seller_micros

    in_shop(tmp_path, body)


def test_dues_that_are_always_denied_are_forgiven_once(tmp_path: Path) -> None:
    """At most 1,000 micro-USDC and a hundredth: then the seller serves only who pays."""
    given = cost_micros(PRICE, tokens_in=10, tokens_out=100)

    async def main() -> None:
        async with shop_world(tmp_path) as shop:
            got = 0
            for number in range(1, 9):
                async with shop.line() as line:
                    await shop.agree(line, due_micros=0)
                    await line.say(shop.ask(sequence=number), shop.pay(given))
                    came = await quiet(line)
                got += cost_micros(PRICE, tokens_in=10, tokens_out=came) if came else 0
            assert got <= given + 1_000 + given // 100 + LOSS.seller_micros

    trio.run(main)


def test_a_huge_prompt_is_not_worked_on_before_it_is_paid(tmp_path: Path) -> None:
    async def body(shop: Shop, line: Line) -> None:
        terms = Terms(
            request_id=RequestId(os.urandom(32)),
            channel_id=shop.channel,
            price=PRICE,
            tokens_in=900_000,
            tokens_out_max=10,
            window_tokens=window_tokens(PRICE),
        )
        ask = asked(terms, prompt_ids=(7,) * 900_000)
        await line.say(ask, shop.pay(500))
        assert await quiet(line) == 0
        assert shop.engine.started == 0
        await line.say(StopRequest(request_id=terms.request_id, reason="cancelled"))
        ended = await line.hear()
        assert isinstance(ended, RequestEnd)
        assert ended.end == "failed"

    in_shop(tmp_path, body)


@pytest.mark.parametrize(
    "data",
    [b"\xff" * 100, b"\xa0", b"\xa2akehelloav\x01", os.urandom(5_000), b"\x9b" + b"\xff" * 8],
    ids=["breaks", "empty", "half a hello", "noise", "a list without end"],
)
def test_garbage_ends_the_stream_and_nothing_else(tmp_path: Path, data: bytes) -> None:
    async def body(shop: Shop, line: Line) -> None:
        await line.say(shop.ask(sequence=1, most=200), shop.pay(100))
        await line.stream.send(data)
        await quiet(line)
        async with shop.line() as other:
            await other.stream.send(data)
            assert await other.hear() is None

    in_shop(tmp_path, body)


def test_thousands_of_messages_leave_nothing_behind(tmp_path: Path) -> None:
    """Asks nobody pays, vouchers that say nothing, stops of nothing: refused one by one, and forgotten."""

    async def body(shop: Shop, line: Line) -> None:
        async def write() -> None:
            for number in range(1, 1_500):
                stop = StopRequest(request_id=RequestId(os.urandom(32)), reason="cancelled")
                await line.say(shop.ask(sequence=number), stop)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            refused = 0
            while refused < 1_000:
                message = await line.hear()
                assert isinstance(message, RequestEnd)
                assert message.refusal == "too_many_live"
                refused += 1
            nursery.cancel_scope.cancel()
        assert shop.engine.started == 0

    in_shop(tmp_path, body)


def test_many_forgeries_end_the_stream(tmp_path: Path) -> None:
    async def main() -> None:
        async with shop_world(tmp_path) as shop:
            async with shop.line() as line:
                await shop.agree(line)
                with pytest.raises(ChannelBroken):
                    while True:
                        await line.say(forged(shop, 100, STRANGER))
            assert await bought(shop) == 4

    trio.run(main)


def test_channels_out_of_one_account_are_opened_one_after_the_other(tmp_path: Path) -> None:
    """All of them would succeed alone; the account pays for one, and the seller for one transaction."""

    async def main() -> None:
        async with shop_world(tmp_path, total_micros=0) as shop:
            answers = []
            before = shop.chain.sent

            async def open_one(number: int) -> None:
                config = config_of(number)
                signed = _allocation(shop, number)
                answers.append(
                    await shop.door.relay(RelayRequest(deployment=shop.at, config=config, allocation=signed))
                )

            async with trio.open_nursery() as nursery:
                for number in range(1, 5):
                    nursery.start_soon(open_one, number)
            assert sum(answer.transaction is not None for answer in answers) == 1
            assert shop.chain.sent == before + 1
            again = await shop.door.relay(
                RelayRequest(deployment=shop.at, config=config_of(1), allocation=_allocation(shop, 1))
            )
            assert again.transaction is None
            assert shop.chain.sent == before + 1

    trio.run(main)


def _allocation(shop: Shop, number: int) -> Allocation:
    total = 8_000_000
    signature = allocation(shop.chain.facts, config_of(number), total_micros=total)
    return Allocation(
        total_micros=Micros(total), valid_before_unix_s=FOREVER_UNIX_S, signature=Signature(signature)
    )
