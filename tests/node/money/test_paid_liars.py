"""A seller that breaks the rules of a paid stream: the buyer loses a prompt and a window at most."""

from pathlib import Path

import pytest
import trio

from tests.node.money.lying_world import Liar, against, asking, read, with_liar
from tests.node.money.paid_world import (
    AT,
    CHANNEL,
    PRICE,
    SELLER,
)
from unhosted.market.channels import SignedVoucher, Voucher
from unhosted.market.credit import loss_max, window_tokens
from unhosted.market.eip712 import channels_separator, voucher_digest
from unhosted.market.messages import (
    RequestEnd,
    VoucherMessage,
)
from unhosted.market.money import Micros, cost_micros
from unhosted.node.core.errors import Refused
from unhosted.node.shell.money import paid_close, paid_stream
from unhosted.node.shell.money import payer as payer_module
from unhosted.node.shell.money.paid_wire import (
    Tokens,
)

LOSS = loss_max(PRICE, tokens_in=10, window=window_tokens(PRICE))


def test_an_end_that_claims_more_than_came_is_not_paid(tmp_path: Path) -> None:
    async def sell(liar: Liar) -> None:
        await liar.agree()
        request_id = await liar.asked()
        await liar.say(Tokens(request_id=request_id, position=0, ids=tuple(range(8))))
        await liar.say(RequestEnd(request_id=request_id, tokens_out=200, end="finished"))
        await liar.listen()

    ids, _, authorised, answer = against(tmp_path, sell)
    assert ids == list(range(8))
    assert answer.due_micros == cost_micros(PRICE, tokens_in=10, tokens_out=8)
    assert authorised <= LOSS.buyer_first_micros


def test_tokens_beyond_the_agreed_number_are_neither_shown_nor_paid(tmp_path: Path) -> None:
    async def sell(liar: Liar) -> None:
        await liar.agree()
        request_id = await liar.asked()
        await liar.say(Tokens(request_id=request_id, position=0, ids=tuple(range(500))))
        await liar.say(RequestEnd(request_id=request_id, tokens_out=20, end="finished"))
        await liar.listen()

    ids, why, authorised, answer = against(tmp_path, sell, most=20)
    assert ids == list(range(20))
    assert "more tokens than it delivered" in why
    assert authorised <= cost_micros(PRICE, tokens_in=10, tokens_out=20)
    assert answer.due_micros <= authorised


def test_repetitions_and_gaps_are_not_counted(tmp_path: Path) -> None:
    async def sell(liar: Liar) -> None:
        await liar.agree()
        request_id = await liar.asked()
        for _ in range(50):
            await liar.say(Tokens(request_id=request_id, position=0, ids=(1, 2, 3)))
        await liar.say(Tokens(request_id=request_id, position=90, ids=(9,) * 50))
        await liar.say(Tokens(request_id=request_id, position=2, ids=(3, 4)))
        await liar.say(RequestEnd(request_id=request_id, tokens_out=4, end="finished"))
        await liar.listen()

    ids, why, authorised, answer = against(tmp_path, sell)
    assert (ids, why) == ([1, 2, 3, 4], "")
    assert answer.due_micros == cost_micros(PRICE, tokens_in=10, tokens_out=4)
    assert authorised <= LOSS.buyer_first_micros


def test_a_seller_that_takes_and_leaves_keeps_a_prompt_and_a_window(tmp_path: Path) -> None:
    async def sell(liar: Liar) -> None:
        await liar.agree()
        await liar.asked()
        while not isinstance(await liar.hear(), VoucherMessage):
            pass

    ids, why, authorised, answer = against(tmp_path, sell)
    assert ids == []
    assert why
    assert authorised <= LOSS.buyer_first_micros
    assert answer.due_micros == 0


@pytest.mark.parametrize("stated", [1, 200, 1 << 40])
def test_a_higher_due_is_granted_only_as_far_as_it_may_be_right(tmp_path: Path, stated: int) -> None:
    granted: list[int] = []

    async def sell(liar: Liar) -> None:
        granted.append(await liar.agree(due_micros=stated))
        await liar.listen()

    async def main() -> None:
        async with with_liar(tmp_path, sell) as (_, ledger, _):
            (known,) = (await ledger.view()).channels
            assert known.row.authorised_micros == known.row.due_min_micros == 0

    trio.run(main)
    assert granted == [0]


def test_a_forged_voucher_in_its_statement_counts_for_nothing(tmp_path: Path) -> None:
    said = Voucher(channel_id=CHANNEL, amount_micros=Micros(900_000))
    signature = SELLER.sign(voucher_digest(channels_separator(AT), said))
    forged = SignedVoucher(voucher=said, signature=signature)

    async def sell(liar: Liar) -> None:
        assert await liar.agree(due_micros=900_000, voucher=forged) == 0
        await liar.listen()

    async def main() -> None:
        async with with_liar(tmp_path, sell) as (payer, ledger, _):
            (known,) = (await ledger.view()).channels
            assert known.row.authorised_micros == 0
            assert [fault.reason.value for fault in payer.faults] == ["wrong_signature"]

    trio.run(main)


def test_a_seller_that_never_answers_does_not_hold_the_buyer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(payer_module, "AGREE_S", 0.05)

    async def sell(liar: Liar) -> None:
        await liar.listen()

    async def main() -> None:
        async with with_liar(tmp_path, sell):
            raise AssertionError("it agreed")

    with pytest.RaisesGroup(
        pytest.RaisesExc(Refused, match="did not say what is due"), flatten_subgroups=True
    ):
        trio.run(main)


def test_a_close_that_is_not_answered_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paid_close, "CLOSE_S", 0.05)

    async def sell(liar: Liar) -> None:
        await liar.agree()
        await liar.listen()

    async def main() -> None:
        async with with_liar(tmp_path, sell) as (payer, _, _):
            with pytest.raises(Refused, match="does not answer the close"):
                await payer.close()

    trio.run(main)


def test_on_a_stream_that_is_over_nothing_is_asked(tmp_path: Path) -> None:
    async def sell(liar: Liar) -> None:
        await liar.agree()
        await liar.asked()

    async def main() -> None:
        async with with_liar(tmp_path, sell) as (payer, ledger, _):
            async with asking(payer) as answer:
                assert (await read(answer))[1]
            with pytest.raises(Refused, match="stream is gone"):
                async with asking(payer):
                    raise AssertionError("it was opened")
            prompt = cost_micros(PRICE, tokens_in=10, tokens_out=0)  # of the first, which may have been begun
            assert (await ledger.view()).book.reserved_micros <= prompt

    trio.run(main)


def test_a_peer_that_takes_nothing_ends_the_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A seller that reads no voucher: the buyer does not wait for it for ever."""
    monkeypatch.setattr(paid_stream, "SEND_WAIT_S", 0.05)

    async def sell(liar: Liar) -> None:
        await liar.agree()
        request_id = await liar.asked()
        position = 0
        with trio.move_on_after(2):
            while True:
                await liar.say(Tokens(request_id=request_id, position=position, ids=(1,)))
                position += 1
        await trio.sleep(0.2)

    async def main() -> None:
        async with with_liar(tmp_path, sell) as (payer, ledger, _):
            async with asking(payer, most=5_000) as answer:
                _, why = await read(answer)
            assert why
            (known,) = (await ledger.view()).channels
            assert known.row.authorised_micros <= answer.due_micros + LOSS.buyer_first_micros

    trio.run(main)
