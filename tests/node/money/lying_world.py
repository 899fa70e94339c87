"""A seller that may say whatever it likes to a real buyer: ledger, store and keys are the production ones."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from tests.fake_network import Fabric, FakeNetwork
from tests.node.money.paid_world import (
    AT,
    BONDS,
    BUYER,
    BUYER_PEER,
    CHANNEL,
    MODEL,
    OPERATOR,
    PRICE,
    SELLER_PEER,
    ledger_now,
)
from tests.node.money.paid_world import CONFIG as BUYERS
from unhosted.market.channel_states import OnChain
from unhosted.market.channels import SignedVoucher
from unhosted.market.credit import window_tokens
from unhosted.market.ids import RequestId
from unhosted.market.messages import (
    ChannelState,
    StateAnswer,
    VoucherMessage,
)
from unhosted.market.money import Micros
from unhosted.market.terms import Terms
from unhosted.node.core.errors import Refused
from unhosted.node.core.peering import Channel as Stream
from unhosted.node.core.sampling_words import Sampling
from unhosted.node.shell.money.kept_answers import KeptAnswers, open_kept_answers
from unhosted.node.shell.money.ledger import Ledger, open_ledger
from unhosted.node.shell.money.paid_answer import PaidAnswer
from unhosted.node.shell.money.paid_wire import (
    PROTOCOL,
    STREAM_MESSAGE_BYTES_MAX,
    Hello,
    StreamMessage,
    WorkAsked,
    decode_stream,
    encode_stream,
)
from unhosted.node.shell.money.payer import Payer

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

    async def work(self) -> WorkAsked:
        while not isinstance(message := await self.hear(), WorkAsked):
            assert message is not None
        return message

    async def asked(self) -> RequestId:
        return (await self.work()).terms.request_id


@asynccontextmanager
async def with_liar(
    folder: Path, sell: Sell, *, cap_micros: int = 1_000_000
) -> AsyncIterator[tuple[Payer, Ledger, KeptAnswers]]:
    """A buyer with a real ledger, on a stream to a seller that does what `sell` says."""
    fabric = Fabric()
    buyer, seller = FakeNetwork(fabric, BUYER_PEER), FakeNetwork(fabric, SELLER_PEER)

    async def answer(stream: Stream) -> None:
        data = await stream.receive()
        assert data is not None
        hello = decode_stream(data)
        assert isinstance(hello, Hello)
        await sell(Liar(stream, hello))
        await stream.end()

    seller.serve(PROTOCOL, answer, access="anyone", message_bytes_max=STREAM_MESSAGE_BYTES_MAX)
    with trio.fail_after(PATIENCE_S):
        async with (
            open_ledger(folder / "ledger.db", folder / "seal", cap_micros=cap_micros) as ledger,
            open_kept_answers(folder / "kept.db") as kept,
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
                    kept=kept,
                    signer=OPERATOR,
                    identity=BUYER,
                )
                await nursery.start(payer.run)
                yield payer, ledger, kept
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
        terms, prompt_ids=tuple(range(10)), model=MODEL, sampling=Sampling()
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
