"""The buyer's store: what it holds, for how long, and what of it survives."""

import os
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from tests.node.chain.stage import SELLER
from tests.node.money.paid_world import BONDS, BUYER, MODEL, PRICE, SALT, SELLER_PEER, asked
from unhosted.market.eip712 import bonds_separator
from unhosted.market.ids import ChannelId, RequestId
from unhosted.market.money import Micros
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
from unhosted.market.terms import Terms
from unhosted.node.core.errors import Refused
from unhosted.node.shell.money import kept_answers
from unhosted.node.shell.money.kept_answers import KeptAnswers, Noted, open_kept_answers
from unhosted.node.shell.money.kept_words import KeptAnswer

CHANNEL = ChannelId(b"\x06" * 32)
START_S = 20.0


def terms(number: int) -> Terms:
    return Terms(
        request_id=RequestId(number.to_bytes(32, "big")),
        channel_id=CHANNEL,
        price=PRICE,
        tokens_in=4,
        tokens_out_max=100,
        window_tokens=16,
    )


def receipt(number: int, previous: ReceiptHash = NO_RECEIPT, *, tokens_out: int = 3) -> SignedReceipt:
    body = encode_response(
        Response(
            output_root=ids_root("output", range(tokens_out), salt=SALT),
            finish="stop",
            engine=bytes(32),
            check="exact",
            previous=previous,
        )
    )
    said = Receipt(
        request_id=terms(number).request_id,
        channel_id=CHANNEL,
        model=MODEL,
        request_hash=asked(terms(number), sequence=number).request_hash,
        response_hash=response_hash(body),
        tokens_in=4,
        tokens_out=tokens_out,
        amount_micros=Micros(13),
    )
    signature = SELLER.sign(receipt_digest(bonds_separator(BONDS), said))
    return SignedReceipt(receipt=said, response=body, signature=signature)


def answer(number: int, *, given: SignedReceipt | None = None, long: int = 3) -> KeptAnswer:
    ask = asked(terms(number), sequence=number)
    return KeptAnswer(
        signed_request=ask.signed,
        salt=ask.salt,
        prompt_ids=ask.prompt_ids,
        output_ids=tuple(range(long)),
        ack=None,
        receipt=receipt(number) if given is None else given,
        facts=b"",
        bonds=BONDS,
        payee=SELLER.address,
        due_micros=13,
        ended_unix_s=1_700_000_000 + number,
    )


async def note(kept: KeptAnswers, signed: SignedReceipt) -> Noted:
    return await kept.note_receipt(signed, seller=SELLER_PEER, payee=SELLER.address, bonds=BONDS)


def on(path: Path, *bodies: Callable[[KeptAnswers], Awaitable[None]]) -> None:
    """Each on the store opened anew."""

    async def main() -> None:
        for body in bodies:
            async with open_kept_answers(path / "kept.db", clock_ns=lambda: 1_800_000_000 * 10**9) as kept:
                await body(kept)

    trio.run(main)


def test_what_was_kept_comes_back_until_it_is_forgotten(tmp_path: Path) -> None:
    one, two = answer(1), answer(2)

    async def first(kept: KeptAnswers) -> None:
        await kept.keep(one)
        await kept.keep(two)

    async def second(kept: KeptAnswers) -> None:
        assert one.receipt is not None
        assert await kept.get(receipt_hash(one.receipt)) == one
        assert await kept.of_request(two.request_id) == two
        found = await kept.next_unchecked()
        assert found is not None and found[1] == one
        later = await kept.next_unchecked(found[0])
        assert later is not None and later[1] == two
        assert await kept.next_unchecked(later[0]) is None
        assert await kept.mark_checked(one.request_id, outcome="clear")
        assert await kept.mark_checked(one.request_id, outcome="clear")
        looked_at = await kept.of_request(one.request_id)
        assert looked_at == replace(one, checked_unix_s=1_800_000_000, outcome="clear")
        assert (await kept.next_unchecked() or (0, None))[1] == two
        assert await kept.forget(two.request_id)
        assert not await kept.forget(two.request_id)
        assert not await kept.mark_checked(two.request_id, outcome="clear")
        assert await kept.next_unchecked() is None

    on(tmp_path, first, second)


def test_prompts_are_for_this_user_alone_and_gone_when_they_are_forgotten(tmp_path: Path) -> None:
    async def keep(kept: KeptAnswers) -> None:
        await kept.keep(answer(1))

    async def forget(kept: KeptAnswers) -> None:
        await kept.forget(answer(1).request_id)

    on(tmp_path, keep)
    path = tmp_path / "kept.db"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert SALT in path.read_bytes()
    on(tmp_path, forget)
    assert SALT not in path.read_bytes()
    path.chmod(0o644)
    with pytest.raises(Refused, match="chmod 600"):
        on(tmp_path, keep)


def test_the_chain_of_a_channel_shows_what_is_missing(tmp_path: Path) -> None:
    first = receipt(1)
    second = receipt(2, receipt_hash(first))
    third = receipt(3, receipt_hash(second))
    fourth = receipt(4, receipt_hash(third))

    async def body(kept: KeptAnswers) -> None:
        assert await note(kept, first) == "new"
        assert await note(kept, second) == "new"
        assert await note(kept, fourth) == "gap"
        assert await note(kept, fourth) == await note(kept, first) == "known"
        assert await note(kept, receipt(5, receipt_hash(fourth))) == "new"

    async def again(kept: KeptAnswers) -> None:
        chain = await kept.chain(CHANNEL)
        assert [line.is_gap for line in chain] == [False, False, True, False]
        assert [line.receipt for line in chain][:3] == [first, second, fourth]
        assert {(line.seller, line.payee, line.bonds) for line in chain} == {
            (SELLER_PEER, SELLER.address, BONDS)
        }

    on(tmp_path, body, again)


def test_two_receipts_for_one_request_are_kept_and_the_chain_goes_on(tmp_path: Path) -> None:
    first, other = receipt(1), receipt(1, tokens_out=2)

    async def body(kept: KeptAnswers) -> None:
        assert await note(kept, first) == "new"
        resigned = replace(first, signature=other.signature)  # says the same: no second one
        assert await note(kept, resigned) == "known"
        assert await note(kept, other) == await note(kept, receipt(1, tokens_out=1)) == "second"
        assert await note(kept, receipt(2, receipt_hash(first))) == "new"

    async def again(kept: KeptAnswers) -> None:
        (proof,) = await kept.proofs()
        assert (proof.first, proof.second, proof.payee) == (first, other, SELLER.address)

    on(tmp_path, body, again)


def test_the_listing_is_newest_first_and_in_pages(tmp_path: Path) -> None:
    async def body(kept: KeptAnswers) -> None:
        previous = NO_RECEIPT
        for number in range(1, 6):
            signed = receipt(number, previous)
            previous = receipt_hash(signed)
            await note(kept, signed)
            if number % 2:
                await kept.keep(answer(number, given=signed))
        await kept.mark_checked(terms(3).request_id, outcome="clear")
        page = await kept.summaries(2)
        assert [line.receipt.receipt.request_id[-1] for line in page] == [5, 4]
        rest = await kept.summaries(10, before=page[-1].number)
        assert [line.receipt.receipt.request_id[-1] for line in rest] == [3, 2, 1]
        assert [line.is_kept for line in (*page, *rest)] == [True, False, True, False, True]
        assert (rest[0].outcome, rest[0].checked_unix_s) == ("clear", 1_800_000_000)
        assert len(await kept.summaries(seller=SELLER_PEER)) == 5
        assert await kept.summaries(seller=BUYER.peer) == ()

    on(tmp_path, body)


def test_what_was_checked_makes_room_before_what_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ids(kept: KeptAnswers) -> list[int]:
        found = [await kept.of_request(terms(number).request_id) for number in range(1, 9)]
        return [one.request.channel_sequence for one in found if one is not None]

    async def by_count(kept: KeptAnswers) -> None:
        for number in (1, 2, 3):
            await kept.keep(answer(number))
        await kept.mark_checked(terms(2).request_id, outcome="clear")
        await kept.keep(answer(4))
        assert await ids(kept) == [1, 3, 4]
        await kept.keep(answer(5))
        assert await ids(kept) == [3, 4, 5]

    async def by_size(kept: KeptAnswers) -> None:
        await kept.keep(answer(6, long=5_000))
        assert await ids(kept) == [6]  # the newest stays, however long it is

    monkeypatch.setattr(kept_answers, "KEPT_ANSWERS_MAX", 3)
    monkeypatch.setattr(kept_answers, "KEPT_BYTES_MAX", 10_000)
    on(tmp_path, by_count, by_size)


def test_receipts_have_a_bound_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(kept: KeptAnswers) -> None:
        for number in range(1, 7):
            await note(kept, receipt(number))
        for number in (5, 6):
            assert await note(kept, receipt(number, tokens_out=1)) == "second"
        assert len(await kept.summaries()) == 4
        assert len(await kept.proofs()) == 1

    monkeypatch.setattr(kept_answers, "RECEIPTS_MAX", 4)
    monkeypatch.setattr(kept_answers, "PROOFS_MAX", 1)
    on(tmp_path, body)


@pytest.mark.parametrize("outcome", ["x" * 65, "two\nlines"])
def test_an_outcome_is_a_word_or_two(tmp_path: Path, outcome: str) -> None:
    async def body(kept: KeptAnswers) -> None:
        with pytest.raises(ValueError, match="at most 64"):
            await kept.mark_checked(terms(1).request_id, outcome=outcome)

    on(tmp_path, body)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE answers SET outcome = 'clear'",
        "UPDATE answers SET content = substr(content, 1, 100)",
    ],
)
def test_a_changed_row_is_found_and_not_believed(tmp_path: Path, change: str) -> None:
    async def keep(kept: KeptAnswers) -> None:
        await kept.keep(answer(1))

    async def read(kept: KeptAnswers) -> None:
        with pytest.raises(Refused, match="does not fit its checksum"):
            await kept.of_request(terms(1).request_id)

    on(tmp_path, keep)
    database = sqlite3.connect(tmp_path / "kept.db")
    database.execute(change)
    database.commit()
    database.close()
    on(tmp_path, read)


KEEPER = """
import sys, trio
from pathlib import Path
from tests.node.money.test_kept_answers import answer, note, receipt, receipt_hash, terms
from unhosted.node.shell.money.kept_answers import open_kept_answers
from unhosted.market.receipts import NO_RECEIPT

async def main():
    async with open_kept_answers(Path(sys.argv[1])) as kept:
        previous, number = NO_RECEIPT, 0
        while True:
            number += 1
            signed = receipt(number, previous)
            previous = receipt_hash(signed)
            await note(kept, signed)
            await kept.keep(answer(number, given=signed))
            await kept.mark_checked(terms(number).request_id, outcome="clear")
            print(number, flush=True)

trio.run(main)
"""


@pytest.mark.slow
def test_a_kill_loses_nothing_that_was_told(tmp_path: Path) -> None:
    path = tmp_path / "kept.db"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    child = subprocess.Popen(
        [sys.executable, "-c", KEEPER, str(path)], stdout=subprocess.PIPE, env=environment
    )
    assert child.stdout is not None
    try:
        for _ in range(12):
            told = int(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        told = max([told, *map(int, child.stdout.read().split())])
    finally:
        child.kill()
        child.wait(START_S)
        child.stdout.close()

    async def body(kept: KeptAnswers) -> None:
        chain = await kept.chain(CHANNEL)
        assert told <= len(chain) <= told + 1
        assert not any(line.is_gap for line in chain)
        assert all(line.outcome == "clear" for line in chain[:told])

    on(tmp_path, body)
