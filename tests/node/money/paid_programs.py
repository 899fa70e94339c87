"""A buyer and a seller of paid streams as programs of their own, that can be killed, stopped and cut off.

Real ledger, book, keys, network and chain; only the engine is scripted. Each takes lines ["word", …] from one
descriptor and answers each with a line [answer] on another. What it lets out or takes in is noted in a file
called `evidence`, which outlives it: that is what its disk is held against.
"""

import json
import logging
import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import trio

from tests.node.chain.stage import FAST, HASTY, OPERATOR, OWNER, SELLER
from tests.node.money.paid_life import (
    PROMPT_TOKENS,
    DeadlyPayee,
    DeadlyPayer,
    DeadlyStream,
    Life,
    Setting,
)
from unhosted.market.credit import window_tokens
from unhosted.market.ids import ChannelId, ModelHash, RequestId
from unhosted.market.receipts import decode_receipt, decode_response, receipt_hash
from unhosted.market.terms import Terms
from unhosted.node.core.chain import ChainUnavailable
from unhosted.node.core.engine_facts import EngineFacts
from unhosted.node.core.errors import Refused
from unhosted.node.core.peering import ChannelBroken, PeerUnreachable
from unhosted.node.core.sampling_words import Sampling
from unhosted.node.shell.chain.adapter import WebChain, open_chain
from unhosted.node.shell.chain.chains import chain_by_name
from unhosted.node.shell.money import buying, selling
from unhosted.node.shell.money.buying import Buyer
from unhosted.node.shell.money.kept_answers import KeptAnswers, open_kept_answers
from unhosted.node.shell.money.ledger import Ledger, open_ledger
from unhosted.node.shell.money.paid_answer import PaidAnswer
from unhosted.node.shell.money.paid_jobs import Piece, Sale
from unhosted.node.shell.money.paid_wire import (
    PROTOCOL,
    STREAM_MESSAGE_BYTES_MAX,
    WorkAsked,
)
from unhosted.node.shell.money.payer import Payer
from unhosted.node.shell.money.seller_book import SellerBook, open_seller_book
from unhosted.node.shell.money.selling import SellerDoor, SellerTerms
from unhosted.node.shell.money.watcher import SellerWatcher
from unhosted.node.shell.peers.identity import load_identity
from unhosted.node.shell.peers.network import LibP2PNetwork

MODEL = ModelHash(b"\x4d" * 32)
FACTS = EngineFacts(library="scripted", build="00" * 32, device="cpu:none", weights="f32")
COIN_MICROS = 1_000_000
PATIENCE_S = 20.0
RECEIPT_S = 5.0


@dataclass
class Asked:
    """A request under way, and how it ended. said: why it was refused or broken off."""

    tokens: int = 0
    answer: PaidAnswer | None = None
    said: str = ""
    done: trio.Event = field(default_factory=trio.Event)

    def report(self) -> list[Any]:
        answer = self.answer
        if answer is None:
            return [self.tokens, None, 0, False, self.said]
        return [self.tokens, answer.end, answer.due_micros, answer.receipt is not None, self.said]


class BuyerProgram:
    """Words: see `do_…`."""

    def __init__(
        self, setting: Setting, life: Life, chain: WebChain, ledger: Ledger, kept: KeptAnswers
    ) -> None:
        self._setting, self._life, self._chain, self._ledger = setting, life, chain, ledger
        self._kept = kept
        self._network = _network(setting)
        identity = load_identity(Path(setting.folder) / "identity.key")
        self._buyer = Buyer(chain, ledger, OPERATOR, payer=OWNER.address, identity=identity, kept=kept)
        self._seller = ""
        self._payer: Payer | None = None
        self._asked: list[Asked] = []

    async def run(self, commands: int, answers: int) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await nursery.start(self._network.run)
            await obey(self, commands, answers, await self.do_report())
            nursery.cancel_scope.cancel()

    async def do_report(self) -> Any:
        """[authorised, due at least, due at most] of each channel, [spent, reserved, cap] of the month."""
        view = await self._ledger.view()
        rows = {
            known.row.channel_id.hex(): [
                known.row.authorised_micros,
                known.row.due_min_micros,
                known.row.due_max_micros,
            ]
            for known in view.channels
        }
        return [rows, [view.book.spent_micros, view.book.reserved_micros, view.book.cap_micros]]

    async def do_chain(self, channel: str) -> Any:
        """[hash, whether it follows a gap] of each receipt of the channel that came, in their order."""
        lines = await self._kept.chain(ChannelId(bytes.fromhex(channel)))
        return [[line.receipt_hash.hex(), line.is_gap] for line in lines]

    async def do_meet(self, peer: str, addresses: list[str]) -> Any:
        self._seller = peer
        try:
            await self._network.connect(peer, addresses, timeout_s=5)
        except PeerUnreachable as why:
            return str(why)
        return ""

    async def do_open(self) -> Any:
        """A channel that the chain has, or a new one, or why there is none."""
        for known in (await self._ledger.view()).channels:
            seen = await self._chain.channel(known.row.channel_id)
            if seen.deposit_micros and not seen.is_closed:
                await self._ledger.note_deposit(known.row.channel_id, seen.deposit_micros)
                return known.row.channel_id.hex()
        try:
            async with self._stream() as stream:
                of = await self._buyer.open_channel(
                    stream, SELLER.address, total_micros=self._setting.allocation_micros
                )
                await stream.end()
                return of.hex()
        except (Refused, ChannelBroken, PeerUnreachable, ChainUnavailable) as why:
            return f"no channel: {why}"

    async def do_join(self, channel: str) -> Any:
        """Agree with the seller, and stay; or why not."""
        return await self._nursery.start(self._session, ChannelId(bytes.fromhex(channel)))

    async def do_begin(self, most: int, times: int = 1) -> Any:
        for _ in range(times):
            self._asked.append(asked := Asked())
            self._nursery.start_soon(self._ask, asked, most)
        return ""

    async def do_progress(self) -> Any:
        return [asked.report() for asked in self._asked]

    async def do_deposit(self) -> Any:
        assert self._payer is not None
        return self._payer.end.channel.chain.deposit_micros

    async def do_wait(self) -> Any:
        for asked in self._asked:
            await asked.done.wait()
        reports, self._asked = [asked.report() for asked in self._asked], []
        return reports

    async def do_work(self, most: int, times: int) -> Any:
        """So many requests, one after the other, unless the stream ends before."""
        reports = []
        for _ in range(times):
            asked = Asked()
            await self._ask(asked, most)
            reports.append(asked.report())
            if asked.said:
                break
        return reports

    async def do_close(self) -> Any:
        """The amount that both ends agree to close with, or why not."""
        assert self._payer is not None
        try:
            return (await self._payer.close()).amount_micros
        except Refused as why:
            return why.message

    async def do_closed(self, channel: str) -> Any:
        of = ChannelId(bytes.fromhex(channel))
        await self._ledger.note_closed(of, (await self._chain.channel(of, at="safe")).claimed_micros)
        return ""

    async def _session(self, of: ChannelId, task_status: trio.TaskStatus[str]) -> None:
        is_agreed = False
        try:
            async with self._stream() as stream, self._buyer.pay(stream, of) as payer:
                is_agreed, self._payer = True, payer
                task_status.started("")
                await trio.sleep_forever()
        except* (Refused, ChannelBroken, PeerUnreachable, ChainUnavailable) as group:
            if not is_agreed:
                task_status.started(str(group.exceptions[0]))

    @asynccontextmanager
    async def _stream(self) -> AsyncIterator[DeadlyStream]:
        async with self._network.open_channel(
            self._seller, PROTOCOL, message_bytes_max=STREAM_MESSAGE_BYTES_MAX, timeout_s=5
        ) as stream:
            yield DeadlyStream(stream, self._life)

    async def _ask(self, asked: Asked, most: int) -> None:
        assert self._payer is not None
        terms = Terms(
            request_id=RequestId(os.urandom(32)),
            channel_id=self._payer.end.channel.channel_id,
            price=self._setting.price,
            tokens_in=PROMPT_TOKENS,
            tokens_out_max=most,
            window_tokens=window_tokens(self._setting.price),
        )
        try:
            async with self._payer.open_request(
                terms,
                prompt_ids=tuple(range(PROMPT_TOKENS)),
                model=MODEL,
                sampling=Sampling(),
            ) as asked.answer:
                async for piece in asked.answer:
                    asked.tokens += len(piece)
            with trio.move_on_after(RECEIPT_S):
                await asked.answer.receipted.wait()
        except Refused as why:
            asked.said = why.message
        finally:
            asked.done.set()


class SellerProgram:
    """Words: see `do_…`."""

    def __init__(self, setting: Setting, life: Life, chain: WebChain, book: SellerBook) -> None:
        self._setting, self._life, self._book, self._chain = setting, life, book, chain
        self._network = _network(setting)
        self.made = 0
        sale = Sale(
            seller=self._network.peer,
            price=setting.price,
            model=MODEL,
            facts=FACTS,
            check="exact",
            work=self._work,
        )
        terms = SellerTerms(coin_micros=lambda: COIN_MICROS)
        self._door = SellerDoor(chain, book, SELLER, sale=sale, terms=terms)
        self._watcher = SellerWatcher(
            chain=chain, book=book, signer=SELLER, payee=SELLER.address, coin_micros=lambda: COIN_MICROS
        )

    async def run(self, commands: int, answers: int) -> None:
        hello = await self.do_report()
        async with trio.open_nursery() as nursery:
            await nursery.start(self._door.run)
            nursery.start_soon(self._watcher.run)
            self._network.serve(
                PROTOCOL,
                lambda stream: self._door.answer(DeadlyStream(stream, self._life)),
                access="anyone",
                message_bytes_max=STREAM_MESSAGE_BYTES_MAX,
            )
            await nursery.start(self._network.run)
            await obey(self, commands, answers, hello)
            nursery.cancel_scope.cancel()

    async def do_address(self) -> Any:
        return [self._network.peer, self._network.addresses()]

    async def do_made(self) -> Any:
        """Tokens that the engine made so far."""
        return self.made

    async def do_report(self) -> Any:
        """[best, settled, live] of each channel."""
        return {
            sold.channel_id.hex(): [sold.best_micros, sold.settled_micros, sold.live_micros]
            for sold in await self._book.channels(with_closed=True)
        }

    async def do_receipt(self, request_id: str) -> Any:
        """[how it ended, the hash of its receipt or an empty text, its tokens and their root]."""
        found = await self._book.request(RequestId(bytes.fromhex(request_id)))
        if found is None:
            return None
        if found.receipt is None:
            return [found.end, "", 0, ""]
        signed = decode_receipt(found.receipt)
        root = decode_response(signed.response).output_root
        return [found.end, receipt_hash(signed).hex(), signed.receipt.tokens_out, root.hex()]

    @asynccontextmanager
    async def _work(self, ask: WorkAsked) -> AsyncIterator[AsyncIterator[Piece]]:
        async with aclosing(self._pieces(ask)) as pieces:
            yield pieces

    async def _pieces(self, ask: WorkAsked) -> AsyncGenerator[Piece, None]:
        for at in range(0, min(self._setting.length, ask.terms.tokens_out_max), 4):
            self.made += 4
            yield Piece([at, at + 1, at + 2, at + 3])
            await trio.sleep(self._setting.pause_s)
        yield Piece((), "stop")


async def obey(program: Any, commands: int, answers: int, hello: object) -> None:
    """Answer words until there are no more of them."""
    _say(answers, hello)
    with os.fdopen(commands, "rb", buffering=0) as pipe:
        while True:
            await trio.lowlevel.wait_readable(pipe.fileno())
            if not (line := pipe.readline()):
                return
            word, *arguments = json.loads(line)
            with trio.fail_after(PATIENCE_S * 3):
                _say(answers, await getattr(program, f"do_{word}")(*arguments))


def _say(answers: int, word: object) -> None:
    os.write(answers, json.dumps([word]).encode() + b"\n")


def _network(setting: Setting) -> LibP2PNetwork:
    identity = load_identity(Path(setting.folder) / "identity.key")
    return LibP2PNetwork(identity, listen=[(setting.host, setting.port)], is_paired=lambda peer: False)


async def live(setting: Setting, commands: int, answers: int) -> None:
    """One life of a buyer or a seller, until its commands end."""
    folder = Path(setting.folder)
    folder.mkdir(exist_ok=True)
    life = Life(setting)
    vars(buying)["Payer"] = type("Payer", (DeadlyPayer,), {"life": life, "is_hasty": setting.is_hasty})
    vars(selling)["Payee"] = type("Payee", (DeadlyPayee,), {"life": life, "is_hasty": setting.is_hasty})
    async with open_chain(
        chain_by_name("local"),
        (setting.url,),
        journal_path=folder / "transactions.db",
        pool_policy=HASTY,
        sending_policy=FAST,
    ) as chain:
        if setting.role == "buyer":
            cap = setting.cap_micros
            async with (
                open_ledger(folder / "ledger.db", folder / "seal", cap_micros=cap) as ledger,
                open_kept_answers(folder / "kept.db") as kept,
            ):
                await ledger.note_chain_time((await chain.head()).timestamp_unix_s)
                await BuyerProgram(setting, life, chain, ledger, kept).run(commands, answers)
        else:
            async with open_seller_book(folder / "book.db") as book:
                await SellerProgram(setting, life, chain, book).run(commands, answers)


def words(setting: Setting) -> str:
    """The argument with which this module plays `setting` as a program."""
    return json.dumps(asdict(setting))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s", stream=sys.stderr)
    trio.run(partial(live, Setting(**json.loads(sys.argv[1])), 0, 1))
