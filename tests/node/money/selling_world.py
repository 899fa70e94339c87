"""A seller's door on a fake chain, and a buyer that writes whatever it likes on its streams."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import trio

from tests.fake_chain import FakeChain
from tests.fake_network import Fabric, FakeNetwork
from tests.node.chain.stage import (
    FOREVER_UNIX_S,
    FUNDS_MICROS,
    GAS_WEI,
    OPERATOR,
    OWNER,
    SELLER,
    STRANGER,
    allocation,
    authorization,
)
from tests.node.money.paid_world import BONDS, BUYER_PEER, PRICE, SELLER_PEER, Engine, asked, sale
from tests.node.money.seller_world import config_of, voucher
from unhosted.market.channels import ChannelConfig, channel_id
from unhosted.market.credit import window_tokens
from unhosted.market.eip712 import channels_separator, hello_digest
from unhosted.market.ids import ChannelId, RequestId, Signature
from unhosted.market.messages import (
    Allocation,
    ChannelState,
    RelayAnswer,
    RelayRequest,
    RequestEnd,
    StateAnswer,
    VoucherMessage,
)
from unhosted.market.money import Micros
from unhosted.market.terms import Terms
from unhosted.node.core.chain import ChainFacts
from unhosted.node.core.peering import Channel as Stream
from unhosted.node.core.peering import ChannelBroken
from unhosted.node.shell.chain import calls
from unhosted.node.shell.keys.signer import KeySigner
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
from unhosted.node.shell.money.seller_book import SellerBook, open_seller_book
from unhosted.node.shell.money.seller_words import SoldChannel
from unhosted.node.shell.money.selling import SellerDoor, SellerTerms

PATIENCE_S = 15


class BondedChain(FakeChain):
    """One with bonds, for which receipts are signed."""

    @property
    def facts(self) -> ChainFacts:
        return replace(super().facts, bonds=BONDS)


@dataclass(slots=True)
class Line:
    """The buyer's end of a stream."""

    stream: Stream
    contact: bytes = b""

    async def say(self, *said: StreamMessage) -> None:
        for message in said:
            await self.stream.send(encode_stream(message))

    async def hear(self) -> StreamMessage | None:
        """The next message; None at the end, or where the stream broke."""
        try:
            data = await self.stream.receive()
        except ChannelBroken:
            return None
        return None if data is None else decode_stream(data)

    async def tokens(self, *, ends: int = 1) -> int:
        """How many come until so many requests have ended, or the stream has."""
        count = 0
        while ends and (message := await self.hear()) is not None:
            count += len(message.ids) if isinstance(message, Tokens) else 0
            ends -= isinstance(message, RequestEnd)
        return count


class Shop:
    def __init__(self, chain: FakeChain, book: SellerBook) -> None:
        self.chain, self.book = chain, book
        self.engine = Engine()
        self.config: ChannelConfig = config_of()
        self.at = chain.facts.channels
        self.channel: ChannelId = channel_id(self.at, self.config)
        self.fabric = Fabric()
        self.buyer, self.seller = FakeNetwork(self.fabric, BUYER_PEER), FakeNetwork(self.fabric, SELLER_PEER)
        terms = SellerTerms(coin_micros=lambda: 1_000_000)
        self.door = SellerDoor(chain, book, SELLER, sale=sale(self.engine.work), terms=terms)
        self.seller.serve(
            PROTOCOL, self.door.answer, access="anyone", message_bytes_max=STREAM_MESSAGE_BYTES_MAX
        )

    async def open(self, total_micros: int) -> None:
        """The buyer's channel, by somebody else's gas."""
        facts = self.chain.facts
        deposit = authorization(facts, value_micros=9_000_000, limit_micros=9_000_000)
        await self.chain.send(calls.deposit_with_authorization(self.at, deposit), STRANGER, key="deposit")
        if total_micros:
            call = calls.allocate(
                self.at,
                self.config,
                total_micros=total_micros,
                valid_before_unix_s=FOREVER_UNIX_S,
                signature=allocation(facts, self.config, total_micros=total_micros),
            )
            await self.chain.send(call, STRANGER, key="open")

    async def relay(self, total_micros: int) -> RelayAnswer:
        return await self.door.relay(
            RelayRequest(deployment=self.at, config=self.config, allocation=self.allocation(total_micros))
        )

    def allocation(self, total_micros: int) -> Allocation:
        signature = allocation(self.chain.facts, self.config, total_micros=total_micros)
        return Allocation(
            total_micros=Micros(total_micros),
            valid_before_unix_s=FOREVER_UNIX_S,
            signature=Signature(signature),
        )

    @asynccontextmanager
    async def line(self) -> AsyncIterator[Line]:
        await self.buyer.connect(SELLER_PEER, self.seller.addresses(), timeout_s=1)
        async with self.buyer.open_channel(
            SELLER_PEER, PROTOCOL, message_bytes_max=STREAM_MESSAGE_BYTES_MAX, timeout_s=1
        ) as stream:
            yield Line(stream)

    def hello(self, signer: KeySigner = OPERATOR) -> Hello:
        contact = os.urandom(16)
        signature = signer.sign(hello_digest(channels_separator(self.at), self.channel, contact))
        return Hello(contact=contact, deployment=self.at, config=self.config, signature=signature)

    async def agree(self, line: Line, due_micros: int | None = None) -> ChannelState:
        """Open the stream and grant what the seller states, or another amount."""
        hello = self.hello()
        await line.say(hello)
        state = await line.hear()
        assert isinstance(state, ChannelState)
        due = state.due_micros if due_micros is None else Micros(due_micros)
        await line.say(StateAnswer(contact=hello.contact, channel_id=self.channel, due_micros=due))
        return state

    def ask(self, *, sequence: int, most: int = 100, request_id: RequestId | None = None) -> WorkAsked:
        terms = Terms(
            request_id=request_id or RequestId(os.urandom(32)),
            channel_id=self.channel,
            price=PRICE,
            tokens_in=10,
            tokens_out_max=most,
            window_tokens=window_tokens(PRICE),
        )
        return asked(terms, sequence=sequence)

    def pay(self, amount_micros: int) -> VoucherMessage:
        return VoucherMessage(signed=voucher(amount_micros, self.config, at=self.at))

    async def sold(self) -> SoldChannel:
        found = await self.book.channel(self.channel)
        assert found is not None
        return found


@asynccontextmanager
async def shop_world(folder: Path, *, total_micros: int = 1_000_000) -> AsyncIterator[Shop]:
    chain = BondedChain()
    chain.mint(OWNER.address, FUNDS_MICROS)
    for signer in (SELLER, STRANGER):
        chain.give_gas(signer.address, GAS_WEI)
    with trio.fail_after(PATIENCE_S):
        async with (
            open_seller_book(folder / "book.db") as book,
            trio.open_nursery() as nursery,
        ):
            shop = Shop(chain, book)
            await shop.open(total_micros)
            await nursery.start(shop.door.run)
            await nursery.start(shop.buyer.run)
            await nursery.start(shop.seller.run)
            yield shop
            nursery.cancel_scope.cancel()
