"""What a buyer takes of a seller's signatures, and what it keeps of them, when the seller is not honest."""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.node.money.lying_world import Liar, asking, read, with_liar
from tests.node.money.paid_world import (
    BONDS,
    FACTS,
    PRICE,
    SELLER,
)
from unhosted.market.acks import SignedAck, StreamAck, ack_digest
from unhosted.market.eip712 import bonds_separator
from unhosted.market.faults import Reason
from unhosted.market.messages import ReceiptAck, RequestEnd
from unhosted.market.money import Micros, cost_micros
from unhosted.market.receipts import (
    NO_RECEIPT,
    Receipt,
    ReceiptHash,
    Response,
    SignedReceipt,
    encode_response,
    receipt_digest,
    receipt_hash,
    response_hash,
)
from unhosted.market.roots import ids_root
from unhosted.node.core.engine_facts import facts_hash
from unhosted.node.shell.keys.signer import KeySigner, recover
from unhosted.node.shell.money import paid_receipts
from unhosted.node.shell.money.kept_answers import KeptAnswers
from unhosted.node.shell.money.paid_answer import PaidAnswer
from unhosted.node.shell.money.paid_wire import (
    AckGiven,
    EngineStated,
    ReceiptGiven,
    Tokens,
    WorkAsked,
)
from unhosted.node.shell.money.payer import Payer

SEPARATOR = bonds_separator(BONDS)
STRANGER = KeySigner(b"\x77" * 32)
STATED = EngineStated(facts=FACTS)


def ack(
    ask: WorkAsked, ids: Sequence[int], *, key: KeySigner = SELLER, engine: bytes = facts_hash(FACTS)
) -> AckGiven:
    said = StreamAck(
        request_hash=ask.request_hash,
        tokens_out=len(ids),
        output_root=ids_root("output", ids, salt=ask.salt),
        engine=engine,
        check="exact",
    )
    signed = SignedAck(ack=said, signature=key.sign(ack_digest(SEPARATOR, said)))
    return AckGiven(request_id=ask.terms.request_id, signed=signed)


def receipt(ask: WorkAsked, ids: Sequence[int], *, key: KeySigner = SELLER, **changes: Any) -> ReceiptGiven:
    """changes: of its response."""
    words: dict[str, Any] = {"finish": "stop", "previous": NO_RECEIPT, "engine": facts_hash(FACTS)}
    root = ids_root("output", ids, salt=ask.salt)
    body = encode_response(Response(output_root=root, check="exact", **(words | changes)))
    said = Receipt(
        request_id=ask.terms.request_id,
        channel_id=ask.terms.channel_id,
        model=ask.request.model,
        request_hash=ask.request_hash,
        response_hash=response_hash(body),
        tokens_in=ask.terms.tokens_in,
        tokens_out=len(ids),
        amount_micros=Micros(cost_micros(PRICE, tokens_in=ask.terms.tokens_in, tokens_out=len(ids))),
    )
    signature = key.sign(receipt_digest(SEPARATOR, said))
    return ReceiptGiven(signed=SignedReceipt(receipt=said, response=body, signature=signature))


def tokens(ask: WorkAsked, at: int, until: int) -> Tokens:
    return Tokens(request_id=ask.terms.request_id, position=at, ids=tuple(range(at, until)))


def ended(ask: WorkAsked, count: int) -> RequestEnd:
    return RequestEnd(request_id=ask.terms.request_id, tokens_out=count, end="finished")


def against(
    folder: Path,
    sell: Callable[[Liar], Awaitable[None]],
    look: Callable[[Payer, KeptAnswers, PaidAnswer, str], Awaitable[None]],
) -> None:
    """Ask one thing; once the seller has done, look at what is there."""

    async def main() -> None:
        over = trio.Event()

        async def to_the_end(liar: Liar) -> None:
            await sell(liar)
            over.set()
            await liar.listen()

        async with with_liar(folder, to_the_end) as (payer, _, kept):
            async with asking(payer) as answer:
                _, why = await read(answer)
            await over.wait()
            while not payer.faults:  # each of these sellers is caught
                await trio.sleep(0.001)
            await look(payer, kept, answer, why)

    trio.run(main)


def caught(payer: Payer) -> list[Reason]:
    return [fault.reason for fault in payer.faults]


def breaks(folder: Path, sell: Callable[[Liar], Awaitable[None]], reason: Reason) -> None:
    """It is not paid on, and nothing that it signed wrongly is held."""

    async def look(payer: Payer, kept: KeptAnswers, answer: PaidAnswer, why: str) -> None:
        assert caught(payer) == [reason]
        assert "did not sign for what it sent" in why
        assert answer.ack is None

    against(folder, sell, look)


def test_tokens_without_a_signature_for_them_end_the_stream(tmp_path: Path) -> None:
    async def sell(liar: Liar) -> None:
        await liar.agree()
        ask = await liar.work()
        await liar.say(STATED, tokens(ask, 0, 64), tokens(ask, 64, 65))

    breaks(tmp_path, sell, Reason.WRONG_ORDER)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (lambda ask: ack(ask, range(1, 65)), Reason.WRONG_RECEIPT),
        (lambda ask: ack(ask, range(128)), Reason.OVER_CLAIM),
        (lambda ask: ack(ask, range(64), key=STRANGER), Reason.WRONG_SIGNATURE),
        (lambda ask: ack(ask, range(64), engine=bytes(32)), Reason.WRONG_RECEIPT),
    ],
    ids=["other tokens", "more than came", "another key", "an unknown engine"],
)
def test_a_signature_for_something_else_ends_the_stream(
    tmp_path: Path, wrong: Callable[[WorkAsked], AckGiven], reason: Reason
) -> None:
    async def sell(liar: Liar) -> None:
        await liar.agree()
        ask = await liar.work()
        await liar.say(STATED, tokens(ask, 0, 64), wrong(ask))

    breaks(tmp_path, sell, reason)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda ask: receipt(ask, range(60), finish="cut"),
        lambda ask: receipt(ask, range(1, 71)),
        lambda ask: receipt(ask, range(70), engine=bytes(32)),
        lambda ask: receipt(ask, range(69)),
    ],
    ids=["less than acknowledged", "other tokens", "another engine", "fewer tokens"],
)
def test_a_receipt_that_contradicts_what_came_is_kept_as_what_it_is(
    tmp_path: Path, wrong: Callable[[WorkAsked], ReceiptGiven]
) -> None:
    async def sell(liar: Liar) -> None:
        await liar.agree()
        ask = await liar.work()
        await liar.say(STATED, tokens(ask, 0, 64), ack(ask, range(64)), tokens(ask, 64, 70))
        await liar.say(ended(ask, 70), wrong(ask))

    async def look(payer: Payer, kept: KeptAnswers, answer: PaidAnswer, why: str) -> None:
        assert caught(payer) == [Reason.WRONG_RECEIPT]
        assert answer.receipt is None
        found = await kept.of_request(answer.terms.request_id)
        assert found is not None and found.receipt is not None and found.fault
        assert found.ack is not None and found.ack.ack.tokens_out == 64
        assert found.proven_tokens == 64  # by the acknowledgement; the receipt proves itself wrong
        assert found.output_ids == tuple(range(70))

    against(tmp_path, sell, look)


@pytest.mark.parametrize("finish", ["cut", "cancelled"])
@pytest.mark.parametrize("signed_for", [0, 40])
def test_an_answer_that_was_finished_is_not_signed_for_as_a_cut_one(
    tmp_path: Path, finish: str, signed_for: int
) -> None:
    """Else nothing of it could be checked, and all of it was paid."""

    async def sell(liar: Liar) -> None:
        await liar.agree()
        ask = await liar.work()
        await liar.say(STATED, tokens(ask, 0, 40), ended(ask, 40))
        await liar.say(receipt(ask, range(signed_for), finish=finish))

    async def look(payer: Payer, kept: KeptAnswers, answer: PaidAnswer, why: str) -> None:
        assert caught(payer) == [Reason.WRONG_RECEIPT]
        assert answer.receipt is None
        found = await kept.of_request(answer.terms.request_id)
        assert found is not None and found.fault

    against(tmp_path, sell, look)


def test_a_receipt_of_another_key_is_nothing(tmp_path: Path) -> None:
    async def sell(liar: Liar) -> None:
        await liar.agree()
        ask = await liar.work()
        await liar.say(STATED, tokens(ask, 0, 3), ended(ask, 3), receipt(ask, range(3), key=STRANGER))

    async def look(payer: Payer, kept: KeptAnswers, answer: PaidAnswer, why: str) -> None:
        assert caught(payer) == [Reason.WRONG_SIGNATURE]
        assert await kept.summaries() == ()

    against(tmp_path, sell, look)


def test_a_receipt_that_was_kept_back_shows_as_a_gap(tmp_path: Path) -> None:
    async def sell(liar: Liar) -> None:
        await liar.agree()
        ask = await liar.work()
        given = receipt(ask, range(3), previous=ReceiptHash(b"\1" * 32))
        await liar.say(STATED, tokens(ask, 0, 3), ended(ask, 3), given)

    async def look(payer: Payer, kept: KeptAnswers, answer: PaidAnswer, why: str) -> None:
        assert caught(payer) == [Reason.WRONG_RECEIPT]
        await answer.receipted.wait()  # it is one for all that
        (line,) = await kept.chain(answer.terms.channel_id)
        assert line.is_gap and line.is_kept and line.receipt == answer.receipt

    against(tmp_path, sell, look)


def test_a_second_receipt_for_a_request_is_proof_of_it(tmp_path: Path) -> None:
    async def sell(liar: Liar) -> None:
        await liar.agree()
        ask = await liar.work()
        first = receipt(ask, range(3))
        await liar.say(STATED, tokens(ask, 0, 3), ended(ask, 3), first)
        while not isinstance(await liar.hear(), ReceiptAck):
            pass
        second = receipt(ask, range(3), finish="length", previous=receipt_hash(first.signed))
        await liar.say(second, second)

    async def look(payer: Payer, kept: KeptAnswers, answer: PaidAnswer, why: str) -> None:
        while len(payer.faults) < 2:
            await trio.sleep(0.001)
        assert caught(payer) == [Reason.SECOND_RECEIPT] * 2
        (proof,) = await kept.proofs()
        assert proof.first == answer.receipt
        assert proof.first.receipt.request_id == proof.second.receipt.request_id
        assert proof.first.receipt != proof.second.receipt
        for one in (proof.first, proof.second):
            assert (
                recover(receipt_digest(bonds_separator(proof.bonds), one.receipt), one.signature)
                == proof.payee
            )
        assert len(await kept.chain(answer.terms.channel_id)) == 1

    against(tmp_path, sell, look)


def test_a_seller_that_signs_nothing_at_the_end_is_not_paid_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Short answers have no acknowledgement: without receipts they would be paid and never be checked."""
    monkeypatch.setattr(paid_receipts, "RECEIPT_WAIT_S", 0)

    async def main() -> None:
        async def sell(liar: Liar) -> None:
            await liar.agree()
            for _ in range(2):
                ask = await liar.work()
                await liar.say(STATED, tokens(ask, 0, 40), ended(ask, 40))
            await liar.listen()

        async with with_liar(tmp_path, sell) as (payer, _, _):
            async with asking(payer) as answer:
                ids, _ = await read(answer)
            assert len(ids) == 40
            async with asking(payer) as answer:
                ids, why = await read(answer)
            assert "has no receipt" in why and not ids
            assert caught(payer) == [Reason.WRONG_ORDER]

    trio.run(main)
