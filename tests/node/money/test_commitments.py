"""What a seller refuses to work on: a request that is not signed, not for it, or not what was signed."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.node.money.paid_world import (
    BUYER_PEER,
    MODEL,
    PRICE,
    SALT,
    SELLER_PEER,
    Engine,
    PaidWorld,
    asked,
    paid_world,
    sale,
)
from tests.node.money.selling_world import Line, Shop, shop_world
from unhosted.market.faults import Reason
from unhosted.market.ids import ChannelId, ModelHash, RequestId
from unhosted.market.messages import RequestEnd
from unhosted.market.money import Price
from unhosted.market.quotes import QuoteId
from unhosted.market.requests import decode_request, encode_request, request_bytes_to_sign
from unhosted.market.roots import ids_root
from unhosted.market.signed import Signed
from unhosted.market.terms import Terms
from unhosted.node.core.errors import Refused
from unhosted.node.core.sampling_words import Sampling, encode_sampling
from unhosted.node.shell.money.paid_asks import IDS_AT_ONCE_MAX, check_ask, check_prompt, sampling_of
from unhosted.node.shell.money.paid_wire import WorkAsked
from unhosted.node.shell.peers.identity import new_identity, verify
from unhosted.verify.params import SamplingParams

CHANNEL = ChannelId(b"\x06" * 32)
TERMS = Terms(
    request_id=RequestId(b"\x05" * 32),
    channel_id=CHANNEL,
    price=PRICE,
    tokens_in=10,
    tokens_out_max=100,
    window_tokens=16,
)
STRANGER = new_identity()


def reason(ask: WorkAsked) -> Reason | None:
    fault = check_ask(ask, buyer=BUYER_PEER, channel_id=CHANNEL, sale=sale(Engine().work))
    return None if fault is None else fault.reason


def forged(ask: WorkAsked, **changes: Any) -> WorkAsked:
    """Another request under the signature of the one that was signed."""
    request = replace(ask.request, **changes)
    signed = Signed(body=encode_request(request), signature=ask.signed.signature)
    return replace(ask, signed=signed, request=request)


def test_a_request_that_its_buyer_signed_for_what_is_sold_is_taken() -> None:
    ask = asked(TERMS)
    assert reason(ask) is None
    assert verify(BUYER_PEER, request_bytes_to_sign(ask.signed.body), ask.signed.signature)
    assert sampling_of(ask).params.seed == ask.request.seed


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": b"\1" * 32},
        {"sampling": encode_sampling(Sampling(params=SamplingParams(temperature=1.5)))},
        {"prompt_root": bytes(32)},
        {"channel_sequence": 2},
        {"terms": replace(TERMS, tokens_out_max=99)},
        {"terms": replace(TERMS, request_id=RequestId(bytes(32)))},
        {"sent_unix_s": 1},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_nothing_of_a_request_can_be_changed_after_it_was_signed(changes: dict[str, Any]) -> None:
    assert reason(forged(asked(TERMS), **changes)) is Reason.WRONG_SIGNATURE


def test_a_request_is_of_the_buyer_on_the_stream_and_for_this_seller() -> None:
    assert reason(asked(TERMS, identity=STRANGER)) is Reason.WRONG_TERMS
    assert reason(asked(TERMS, seller=STRANGER.peer)) is Reason.WRONG_TERMS
    no_key = BUYER_PEER[:-1] + ("1" if BUYER_PEER[-1] != "1" else "2")
    ask = forged(asked(TERMS), buyer=no_key)
    fault = check_ask(ask, buyer=no_key, channel_id=CHANNEL, sale=sale(Engine().work))
    assert fault is not None and fault.reason is Reason.WRONG_SIGNATURE


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model": ModelHash(bytes(32))}, Reason.WRONG_TERMS),
        ({"quote": QuoteId(b"\1" * 32)}, Reason.WRONG_TERMS),
        ({"sampling": encode_sampling(Sampling(ignore_eos=True))}, Reason.WRONG_TERMS),
        ({"sampling": b"\xa0"}, Reason.MALFORMED),
    ],
    ids=["model", "quote", "no end", "no sampler"],
)
def test_a_signed_request_for_what_is_not_sold_is_refused(changes: dict[str, Any], expected: Reason) -> None:
    assert reason(asked(TERMS, **changes)) is expected


def test_the_terms_are_those_of_the_seller_and_the_channel() -> None:
    cheap = Price(in_micros_per_mtok=1, out_micros_per_mtok=1)
    assert reason(asked(replace(TERMS, price=cheap))) is Reason.WRONG_TERMS
    assert reason(asked(replace(TERMS, channel_id=ChannelId(bytes(32))))) is Reason.WRONG_CHANNEL


@pytest.mark.parametrize("length", [0, 10, 100, IDS_AT_ONCE_MAX + 1])
def test_the_prompt_is_the_one_whose_root_was_signed(length: int) -> None:
    ask = asked(replace(TERMS, tokens_in=length))
    another = replace(ask, prompt_ids=(*ask.prompt_ids[:-1], 7_777)) if length else None
    salted = replace(ask, salt=bytes(32))

    async def main() -> None:
        assert await check_prompt(ask) is None
        for wrong in filter(None, (another, salted)):
            fault = await check_prompt(wrong)
            assert fault is not None and fault.reason is Reason.WRONG_TERMS

    trio.run(main)


def on_a_line(folder: Path, body: Callable[[Shop, Line], Awaitable[None]]) -> None:
    async def main() -> None:
        async with shop_world(folder) as shop, shop.line() as line:
            await shop.agree(line)
            await body(shop, line)

    trio.run(main)


def test_a_forged_request_gets_no_token_and_the_stream_goes_on(tmp_path: Path) -> None:
    async def body(shop: Shop, line: Line) -> None:
        right = shop.ask(sequence=1, most=4)
        await line.say(forged(right, seed=b"\1" * 32), shop.pay(100))
        ended = await line.hear()
        assert isinstance(ended, RequestEnd) and ended.end == "failed"
        assert shop.engine.started == 0
        assert await shop.book.request(right.terms.request_id) is None
        await line.say(right)
        assert await line.tokens() == 4

    on_a_line(tmp_path, body)


def test_another_prompt_than_was_signed_is_not_worked_on(tmp_path: Path) -> None:
    """Looked at once it is paid for: what is owed for it is nothing."""

    async def body(shop: Shop, line: Line) -> None:
        ask = shop.ask(sequence=1, most=4)
        await line.say(replace(ask, prompt_ids=tuple(range(1, 11))), shop.pay(100))
        ended = await line.hear()
        assert isinstance(ended, RequestEnd)
        assert (ended.end, ended.tokens_out) == ("failed", 0)
        assert shop.engine.started == 0
        assert (await shop.sold()).due_micros == 0

    on_a_line(tmp_path, body)


def test_the_buyer_signs_what_it_sends(tmp_path: Path) -> None:
    async def main() -> None:
        async with paid_world(tmp_path) as world:
            await look(world)

    async def look(world: PaidWorld) -> None:
        async with world.stream() as payer:
            _, first = await world.whole(payer, world.terms())
            _, second = await world.whole(payer, world.terms())
        assert first.ask is not None and second.ask is not None and first.receipt is not None
        request = decode_request(first.ask.signed.body)
        assert verify(request.buyer, request_bytes_to_sign(first.ask.signed.body), first.ask.signed.signature)
        assert (request.buyer, request.seller, request.model) == (BUYER_PEER, SELLER_PEER, MODEL)
        assert request.prompt_root == ids_root("prompt", range(10), salt=first.ask.salt)
        assert first.receipt.receipt.request_hash == first.ask.request_hash
        assert [first.ask.sequence, second.ask.sequence] == [1, 2]
        assert first.ask.salt != second.ask.salt != SALT

    trio.run(main)


def test_what_cannot_be_checked_is_not_even_asked_for(tmp_path: Path) -> None:
    async def main() -> None:
        async with paid_world(tmp_path) as world, world.stream() as payer:
            endless = Sampling(ignore_eos=True)
            terms = world.terms()
            opening = payer.open_request(terms, prompt_ids=tuple(range(10)), model=MODEL, sampling=endless)
            with pytest.raises(Refused, match="ignore_eos"):
                await opening.__aenter__()
            assert (await world.ledger.view()).book.reserved_micros == 0

    trio.run(main)
