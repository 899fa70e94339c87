"""A watching seller on a chain, fake or real: channels that a buyer opened, and hands on everything."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from tests.node.chain.stage import (
    FOREVER_UNIX_S,
    OPERATOR,
    SELLER,
    STRANGER,
    Opener,
    Stage,
    allocation,
    authorization,
)
from tests.node.money.seller_world import DAY_S, config_of, voucher
from unhosted.market.channels import ChannelConfig, SignedVoucher, channel_id
from unhosted.market.eip712 import channels_separator, request_close_digest
from unhosted.market.ids import ChannelId
from unhosted.node.core.chain import ChannelFacts
from unhosted.node.shell.chain import calls
from unhosted.node.shell.keys.signer import KeySigner
from unhosted.node.shell.money.alarms import AlarmKind
from unhosted.node.shell.money.seller_book import SellerBook, open_seller_book
from unhosted.node.shell.money.watcher import SellerWatcher

COIN_MICROS = 1_000_000
"""A coin of USD 1: at 1 gwei a claim of one row costs 48 micro-USDC, on the fake and on anvil alike."""


@dataclass(slots=True)
class Watched:
    """`coin_micros` can be changed: it is asked for at each decision."""

    stage: Stage
    book: SellerBook
    watcher: SellerWatcher
    nursery: trio.Nursery
    coin_micros: int = COIN_MICROS
    delay_s: int = DAY_S

    def config_of(self, number: int = 1) -> ChannelConfig:
        return config_of(number, delay_s=self.delay_s)

    def id_of(self, number: int = 1) -> ChannelId:
        return channel_id(self.stage.chain.facts.channels, self.config_of(number))

    def voucher(self, amount_micros: int, number: int = 1) -> SignedVoucher:
        return voucher(amount_micros, self.config_of(number), at=self.stage.chain.facts.channels)

    async def open(self, *, count: int = 1, deposit_micros: int = 1_000_000, delay_s: int = DAY_S) -> None:
        """The buyer opens channels 1 to count, and the seller notes them."""
        self.delay_s = delay_s
        chain = self.stage.chain
        facts, at = chain.facts, chain.facts.channels
        total_micros = count * deposit_micros
        deposit = authorization(facts, value_micros=total_micros, limit_micros=total_micros)
        await chain.send(calls.deposit_with_authorization(at, deposit), STRANGER, key="deposit")
        for number in range(1, count + 1):
            config = self.config_of(number)
            signature = allocation(facts, config, total_micros=deposit_micros)
            call = calls.allocate(
                at,
                config,
                total_micros=deposit_micros,
                valid_before_unix_s=FOREVER_UNIX_S,
                signature=signature,
            )
            await chain.send(call, STRANGER, key=f"open:{number}")
            found = await chain.channel(channel_id(at, config), at="latest")
            await self.book.note_channel(at, config, found)

    async def promise(self, amount_micros: int, number: int = 1) -> None:
        await self.book.store_voucher(self.voucher(amount_micros, number), live_micros={})

    async def request_close(self, number: int = 1) -> None:
        chain = self.stage.chain
        at = chain.facts.channels
        digest = request_close_digest(
            channels_separator(at), self.id_of(number), valid_before_unix_s=FOREVER_UNIX_S
        )
        call = calls.request_close(
            at, self.config_of(number), valid_before_unix_s=FOREVER_UNIX_S, signature=OPERATOR.sign(digest)
        )
        await chain.send(call, STRANGER, key=f"close:{number}")

    async def finalize(self, number: int = 1) -> None:
        call = calls.finalize_close(self.stage.chain.facts.channels, self.config_of(number))
        await self.stage.chain.send(call, STRANGER, key=f"finalize:{number}")

    async def on_chain(self, number: int = 1) -> ChannelFacts:
        return await self.stage.chain.channel(self.id_of(number))

    async def look(self) -> float:
        """One turn of the watcher, and all claims that it began carried to their end."""
        pause_s = await self.watcher.look(self.nursery)
        await wait_until(lambda: self.watcher.status.in_flight == 0)
        return pause_s

    @property
    def alarms(self) -> set[AlarmKind]:
        return {alarm.kind for alarm in self.watcher.status.alarms}


async def wait_until(is_so: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not is_so():
            await trio.sleep(0.005)


@asynccontextmanager
async def watched(
    open_stage: Opener, path: Path, *, confirmations: int = 0, signer: KeySigner = SELLER
) -> AsyncIterator[Watched]:
    """Not yet running: `look`, or start `watcher.run` in the nursery."""
    async with (
        open_stage(confirmations) as stage,
        open_seller_book(path) as book,
        trio.open_nursery() as nursery,
    ):
        holder: list[Watched] = []
        watcher = SellerWatcher(
            chain=stage.chain,
            book=book,
            signer=signer,
            payee=SELLER.address,
            coin_micros=lambda: holder[0].coin_micros,
        )
        holder.append(Watched(stage=stage, book=book, watcher=watcher, nursery=nursery))
        yield holder[0]
        nursery.cancel_scope.cancel()
