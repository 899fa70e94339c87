"""What an honest seller's answer leaves at the buyer: all that proves it, also where the stream was cut."""

import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.node.money.lying_world import read
from tests.node.money.paid_world import (
    BUYER_PEER,
    FACTS,
    SELLER_PEER,
    PaidWorld,
    paid_world,
)
from unhosted.market.acks import ack_digest
from unhosted.market.eip712 import bonds_separator
from unhosted.market.receipts import (
    NO_RECEIPT,
    decode_response,
    encode_receipt,
    receipt_digest,
    receipt_hash,
)
from unhosted.market.requests import request_bytes_to_sign
from unhosted.market.roots import ids_root, open_prefix, prefix_root
from unhosted.node.core.engine_facts import decode_facts, encode_facts, facts_hash
from unhosted.node.shell.keys.signer import recover
from unhosted.node.shell.money.kept_words import KeptAnswer
from unhosted.node.shell.money.paid_stream import PaidStream
from unhosted.node.shell.money.paid_wire import (
    AckGiven,
    ReceiptGiven,
    StreamMessage,
)
from unhosted.node.shell.peers.identity import verify


def in_world(folder: Path, body: Callable[[PaidWorld], Awaitable[None]]) -> None:
    async def main() -> None:
        async with paid_world(folder) as world:
            await body(world)

    trio.run(main)


async def all_are_confirmed(world: PaidWorld) -> None:
    """On a stream that goes on: what is on its way at the end of one is given again at the next."""
    while await world.book.unconfirmed((await world.sold()).channel_id):
        await trio.sleep(0.001)


def check_all_signatures(found: KeptAnswer) -> None:
    """As a third party would, from what is kept alone."""
    request, signed = found.request, found.signed_request
    assert verify(request.buyer, request_bytes_to_sign(signed.body), signed.signature)
    assert ids_root("prompt", found.prompt_ids, salt=found.salt) == request.prompt_root
    separator = bonds_separator(found.bonds)
    if found.ack is not None:
        said = found.ack.ack
        assert recover(ack_digest(separator, said), found.ack.signature) == found.payee
        prefix = open_prefix("output", found.output_ids, salt=found.salt, count=said.tokens_out)
        assert prefix.ids == found.output_ids[: said.tokens_out]
        assert ids_root("output", prefix.ids, salt=found.salt) == said.output_root
        if found.receipt is not None:
            assert prefix_root(prefix) == decode_response(found.receipt.response).output_root
    if found.receipt is not None:
        digest = receipt_digest(separator, found.receipt.receipt)
        assert recover(digest, found.receipt.signature) == found.payee
        response = decode_response(found.receipt.response)
        assert response.output_root == ids_root("output", found.output_ids, salt=found.salt)
        assert response.engine == facts_hash(decode_facts(found.facts))


@pytest.mark.parametrize("finish", ["stop", "length", "tool_calls"])
def test_an_answer_is_kept_with_all_that_proves_it(tmp_path: Path, finish: Any) -> None:
    async def body(world: PaidWorld) -> None:
        world.engine.finish = finish
        async with world.stream() as payer:
            ids, answer = await world.whole(payer, world.terms())
        assert answer.receipt is not None and not payer.faults
        found = await world.kept.get(receipt_hash(answer.receipt))
        assert found is not None and found.receipt == answer.receipt
        check_all_signatures(found)
        assert found.output_ids == tuple(ids) and found.proven_tokens == 100
        assert found.ack is not None and found.ack.ack.tokens_out == 64
        assert decode_response(answer.receipt.response).finish == finish
        assert (found.seller, found.request.buyer) == (SELLER_PEER, BUYER_PEER)
        assert found.facts == encode_facts(FACTS)
        assert found.due_micros == answer.due_micros
        assert (found.fault, found.checked_unix_s) == ("", 0)

    in_world(tmp_path, body)


def test_of_an_answer_that_is_not_to_be_kept_only_the_receipt_is(tmp_path: Path) -> None:
    async def body(world: PaidWorld) -> None:
        async with world.stream() as payer:
            _, answer = await world.whole(payer, world.terms(), is_kept=False)
        assert await world.kept.of_request(answer.terms.request_id) is None
        (line,) = await world.kept.summaries()
        assert line.receipt == answer.receipt and not line.is_kept
        files = [path for path in tmp_path.iterdir() if path.name.startswith("kept.db")]
        assert answer.ask is not None
        assert not any(answer.ask.salt in path.read_bytes() for path in files)

    in_world(tmp_path, body)


def test_the_receipts_of_a_channel_are_one_chain(tmp_path: Path) -> None:
    async def one(world: PaidWorld) -> None:
        async with world.stream() as payer:
            async with trio.open_nursery() as nursery:
                for _ in range(4):
                    nursery.start_soon(world.whole, payer, world.terms())
            await all_are_confirmed(world)
        assert not payer.faults

    async def whole(world: PaidWorld) -> None:
        await one(world)
        lines = await world.kept.chain((await world.sold()).channel_id)
        previous = NO_RECEIPT
        for line in lines:
            assert not line.is_gap and decode_response(line.receipt.response).previous == previous
            previous = line.receipt_hash
        assert (await world.sold()).last_receipt == previous
        assert len(lines) == 8

    in_world(tmp_path, one)
    in_world(tmp_path, whole)  # after a restart of both


def test_a_cut_stream_is_evidence_and_its_receipt_comes_at_the_next_contact(tmp_path: Path) -> None:
    async def body(world: PaidWorld) -> None:
        world.engine.length, world.engine.stop_at = 200, 100
        got = 0
        async with world.stream() as payer, world.ask(payer, world.terms()) as answer:
            with pytest.RaisesExc(Exception, match="nothing in time"):
                async for piece in answer:
                    got += len(piece)
                    if got >= 90:
                        world.fabric.reset(BUYER_PEER, SELLER_PEER)
        found = await world.kept.of_request(answer.terms.request_id)
        assert found is not None and found.receipt is None and found.ack is not None
        assert found.proven_tokens == found.ack.ack.tokens_out == 64
        check_all_signatures(found)
        assert found.facts == encode_facts(FACTS)
        world.engine.stop_at = None
        async with world.stream() as payer:
            await world.whole(payer, world.terms())
            await all_are_confirmed(world)
            assert not payer.faults
        late = await world.kept.of_request(answer.terms.request_id)
        assert late is not None and late.receipt is not None and not late.fault
        assert decode_response(late.receipt.response).finish == "cut"
        assert late.receipt.receipt.tokens_out >= 64
        assert [line.is_gap for line in await world.kept.chain(late.channel_id)] == [False, False]

    in_world(tmp_path, body)


def test_an_engine_that_does_not_say_why_it_ended_has_failed(tmp_path: Path) -> None:
    async def body(world: PaidWorld) -> None:
        world.engine.finish = None
        async with world.stream() as payer:
            async with world.ask(payer, world.terms()) as answer:
                ids, why = await read(answer)
            await answer.receipted.wait()
        assert ids == list(range(10, 10 + len(ids))) and "engine failed" in why  # what was held is dropped
        assert answer.receipt is not None
        assert decode_response(answer.receipt.response).finish == "cut"

    in_world(tmp_path, body)


def test_nothing_that_is_signed_goes_out_before_it_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    send = PaidStream.send

    async def watched(stream: PaidStream, message: StreamMessage) -> None:
        database = sqlite3.connect(f"file:{tmp_path / 'book.db'}?mode=ro", uri=True)
        if isinstance(message, AckGiven):
            asked_for = (message.request_id, message.signed.ack.output_root)
            statement = "SELECT tokens_out FROM drafts WHERE request_id = ? AND output_root = ?"
            seen.extend(row[0] for row in database.execute(statement, asked_for))
            assert seen[-1] == message.signed.ack.tokens_out
        elif isinstance(message, ReceiptGiven):
            statement = "SELECT tokens_out FROM requests WHERE receipt = ?"
            seen.extend(row[0] for row in database.execute(statement, (encode_receipt(message.signed),)))
            assert seen[-1] == message.signed.receipt.tokens_out
        database.close()
        await send(stream, message)

    async def body(world: PaidWorld) -> None:
        world.engine.length = 150
        async with world.stream() as payer:
            await world.whole(payer, world.terms())
        assert seen == [64, 128, 150]

    monkeypatch.setattr(PaidStream, "send", watched)
    in_world(tmp_path, body)
