"""A seller that breaks the rules of a paid stream: the buyer loses a prompt and a window at most."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.fake_network import Fabric, FakeNetwork
from tests.node.money.paid_world import (
    AT,
    BONDS,
    BUYER_PEER,
    CHANNEL,
    MODEL,
    OPERATOR,
    PRICE,
    SELLER,
    SELLER_PEER,
    ledger_now,
)
from tests.node.money.paid_world import CONFIG as BUYERS
from unhosted.market.channel_states import OnChain
from unhosted.market.channels import SignedVoucher, Voucher
from unhosted.market.credit import loss_max, window_tokens
from unhosted.market.eip712 import channels_separator, voucher_digest
from unhosted.market.ids import RequestId
from unhosted.market.messages import (
    ChannelState,
    RequestEnd,
    StateAnswer,
    VoucherMessage,
)
from unhosted.market.money import Micros, cost_micros
from unhosted.market.requests import RequestHash
from unhosted.market.terms import Terms
from unhosted.node.core.errors import Refused
from unhosted.node.core.peering import Channel as Stream
from unhosted.node.shell.money import paid_close, paid_stream
from unhosted.node.shell.money import payer as payer_module
from unhosted.node.shell.money.ledger import Ledger, open_ledger
from unhosted.node.shell.money.paid_answer import PaidAnswer
from unhosted.node.shell.money.paid_wire import (
    PROTOCOL,
    STREAM_MESSAGE_BYTES_MAX,
    Hello,
    StreamMessage,
    Tokens,
    WorkAsked,
    decode_stream,
    encode_stream,
)
from unhosted.node.shell.money.payer import Payer

LOSS = loss_max(PRICE, tokens_in=10, window=window_tokens(PRICE))
PATIENCE_S = 20

Sell = Callable[["Liar"], Awaitable[None]]


class Liar:
    """The seller's end of a stream, to be used as a test likes."""

    def __init__(self, stream: Stream, hello: Hello) -> None:
        self.stream, self.hello = stream, hello
        self.paid_micros = 0

    async def say(self, *said: StreamMessage) -> None:
        for message in said:
            await self.stream.send(encode_stream(message))

    async def hear(self) -> StreamMessage | None:
        data = await self.stream.receive()
        message = None if data is None else decode_stream(data)
        if isinstance(message, VoucherMessage):
            self.paid_micros = max(self.paid_micros, message.signed.voucher.amount_micros)
        return message

    async def listen(self) -> None:
        while await self.hear() is not None:
            pass

    async def agree(self, *, due_micros: int = 0, voucher: SignedVoucher | None = None) -> int:
        """What the buyer grants."""
        contact = self.hello.contact
        await self.say(
            ChannelState(
                contact=contact,
                channel_id=CHANNEL,
                voucher=voucher,
                due_micros=Micros(due_micros),
                sequence=0,
            )
        )
        while not isinstance(answer := await self.hear(), StateAnswer):
            assert answer is not None
        return answer.due_micros

    async def asked(self) -> RequestId:
        while not isinstance(message := await self.hear(), WorkAsked):
            assert message is not None
        return message.terms.request_id


@asynccontextmanager
async def with_liar(
    folder: Path, sell: Sell, *, cap_micros: int = 1_000_000
) -> AsyncIterator[tuple[Payer, Ledger, list[Liar]]]:
    """A buyer with a real ledger, on a stream to a seller that does what `sell` says."""
    fabric, liars = Fabric(), list[Liar]()
    buyer, seller = FakeNetwork(fabric, BUYER_PEER), FakeNetwork(fabric, SELLER_PEER)

    async def answer(stream: Stream) -> None:
        data = await stream.receive()
        assert data is not None
        hello = decode_stream(data)
        assert isinstance(hello, Hello)
        liars.append(liar := Liar(stream, hello))
        await sell(liar)
        await stream.end()

    seller.serve(PROTOCOL, answer, access="anyone", message_bytes_max=STREAM_MESSAGE_BYTES_MAX)
    with trio.fail_after(PATIENCE_S):
        async with (
            open_ledger(folder / "ledger.db", folder / "seal", cap_micros=cap_micros) as ledger,
            trio.open_nursery() as nursery,
        ):
            await ledger.note_chain_time(ledger_now())
            await ledger.note_channel(AT, BUYERS, 1_000_000)
            await nursery.start(buyer.run)
            await nursery.start(seller.run)
            await buyer.connect(SELLER_PEER, seller.addresses(), timeout_s=1)
            (known,) = (await ledger.view()).channels
            async with buyer.open_channel(
                SELLER_PEER, PROTOCOL, message_bytes_max=STREAM_MESSAGE_BYTES_MAX, timeout_s=1
            ) as stream:
                payer = Payer(
                    stream,
                    known=known,
                    bonds=BONDS,
                    chain=OnChain(phase="open", deposit_micros=1_000_000),
                    ledger=ledger,
                    signer=OPERATOR,
                )
                await nursery.start(payer.run)
                yield payer, ledger, liars
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def asking(payer: Payer, *, most: int = 200) -> AsyncIterator[PaidAnswer]:
    terms = Terms(
        request_id=RequestId(os.urandom(32)),
        channel_id=CHANNEL,
        price=PRICE,
        tokens_in=10,
        tokens_out_max=most,
        window_tokens=window_tokens(PRICE),
    )
    async with payer.open_request(
        terms,
        prompt_ids=tuple(range(10)),
        model=MODEL,
        request_hash=RequestHash(bytes(32)),
        salt=bytes(32),
    ) as answer:
        yield answer


async def read(answer: PaidAnswer) -> tuple[list[int], str]:
    ids: list[int] = []
    try:
        async for piece in answer:
            ids += piece
    except Refused as why:
        return ids, why.message
    return ids, ""


def against(folder: Path, sell: Sell, *, most: int = 200) -> tuple[list[int], str, int, PaidAnswer]:
    """What an asking buyer got, why it ended, what was authorised in the end, and the answer."""
    result: list[tuple[list[int], str, int, PaidAnswer]] = []

    async def main() -> None:
        async with with_liar(folder, sell) as (payer, ledger, _):
            async with asking(payer, most=most) as answer:
                ids, why = await read(answer)
            (known,) = (await ledger.view()).channels
            result.append((ids, why, known.row.authorised_micros, answer))

    trio.run(main)
    return result[0]


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
