"""A buyer and a seller on one paid stream: real ledger, book and keys, scripted tokens, a network to cut."""

import os
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from tests.fake_network import Fabric, FakeNetwork
from unhosted.market.channel_states import OnChain
from unhosted.market.channels import ChainId, ChannelConfig, Deployment, channel_id
from unhosted.market.credit import window_tokens
from unhosted.market.ids import Address, ChannelId, ModelHash, PeerText, RequestId
from unhosted.market.money import Price
from unhosted.market.quotes import QuoteId
from unhosted.market.receipts import FinishReason
from unhosted.market.requests import NO_QUOTE, Request, encode_request, request_bytes_to_sign
from unhosted.market.roots import ids_root
from unhosted.market.signed import Signed
from unhosted.market.terms import Terms
from unhosted.node.core.chain import ChannelFacts, Signer
from unhosted.node.core.engine_facts import EngineFacts
from unhosted.node.core.peering import Channel as Stream
from unhosted.node.core.sampling_words import Sampling, encode_sampling
from unhosted.node.shell.keys.signer import KeySigner
from unhosted.node.shell.money.kept_answers import KeptAnswers, open_kept_answers
from unhosted.node.shell.money.ledger import Ledger, open_ledger
from unhosted.node.shell.money.ledger_words import KnownChannel
from unhosted.node.shell.money.paid_answer import PaidAnswer
from unhosted.node.shell.money.paid_jobs import Piece, Sale, Work
from unhosted.node.shell.money.paid_wire import PROTOCOL, STREAM_MESSAGE_BYTES_MAX, WorkAsked
from unhosted.node.shell.money.payee import Payee
from unhosted.node.shell.money.payer import Payer
from unhosted.node.shell.money.seller_book import SellerBook, open_seller_book
from unhosted.node.shell.money.seller_words import SoldChannel
from unhosted.node.shell.peers.identity import Identity, new_identity

AT = Deployment(chain_id=ChainId(31337), contract=Address(b"\xcc" * 20))
BONDS = Deployment(chain_id=ChainId(31337), contract=Address(b"\xbb" * 20))
OPERATOR, SELLER = KeySigner(b"\x11" * 32), KeySigner(b"\x22" * 32)
CONFIG = ChannelConfig(
    payer=Address(b"\x01" * 20),
    signer=OPERATOR.address,
    payee=SELLER.address,
    delay_s=86_400,
    salt=bytes(32),
)
CHANNEL: ChannelId = channel_id(AT, CONFIG)
MODEL = ModelHash(b"\x4d" * 32)
PRICE = Price(in_micros_per_mtok=1_000_000, out_micros_per_mtok=3_000_000)
"""3 micro-USDC a token: a window is 16 of them."""
BUYER, SHOP = new_identity(), new_identity()
BUYER_PEER, SELLER_PEER = BUYER.peer, SHOP.peer
FACTS = EngineFacts(library="scripted", build="00" * 32, device="cpu:none", weights="f32")
SALT = bytes(range(32))
PATIENCE_S = 20


def sale(work: Work) -> Sale:
    return Sale(seller=SELLER_PEER, price=PRICE, model=MODEL, facts=FACTS, check="exact", work=work)


def asked(
    terms: Terms,
    *,
    sequence: int = 1,
    prompt_ids: tuple[int, ...] | None = None,
    sampling: bytes = encode_sampling(Sampling()),
    seller: str = SELLER_PEER,
    model: ModelHash = MODEL,
    quote: QuoteId = NO_QUOTE,
    identity: Identity = BUYER,
) -> WorkAsked:
    """A request as its buyer signs it."""
    ids = tuple(range(terms.tokens_in)) if prompt_ids is None else prompt_ids
    request = Request(
        buyer=PeerText(identity.peer),
        seller=PeerText(seller),
        quote=quote,
        model=model,
        terms=terms,
        prompt_root=ids_root("prompt", ids, salt=SALT),
        sampling=sampling,
        seed=bytes(32),
        channel_sequence=sequence,
        sent_unix_s=1_700_000_000,
    )
    body = encode_request(request)
    signed = Signed(body=body, signature=identity.sign(request_bytes_to_sign(body)))
    return WorkAsked(signed=signed, request=request, salt=SALT, prompt_ids=ids)


@dataclass
class Engine:
    """Answers of `length` tokens, whose ids count up from the prompt's last. gate: closed, it makes no more
    once `stop_at` tokens are out. finish: its last word."""

    length: int = 100
    piece: int = 4
    stop_at: int | None = None
    gate: trio.Event = field(default_factory=trio.Event)
    finish: FinishReason | None = "stop"
    made: int = 0
    started: int = 0

    @asynccontextmanager
    async def work(self, ask: WorkAsked) -> AsyncIterator[AsyncIterator[Piece]]:
        self.started += 1
        async with aclosing(self._pieces(ask)) as pieces:
            yield pieces

    async def _pieces(self, ask: WorkAsked) -> AsyncGenerator[Piece, None]:
        first = ask.prompt_ids[-1] + 1
        length = min(self.length, ask.terms.tokens_out_max)
        for at in range(0, length, self.piece):
            if self.stop_at is not None and at >= self.stop_at:
                await self.gate.wait()
            ids = range(first + at, first + min(at + self.piece, length))
            self.made += len(ids)
            yield Piece(list(ids))
            await trio.lowlevel.checkpoint()
        yield Piece((), self.finish)


class PaidWorld:
    """Both ends with their disks, in one trio run."""

    def __init__(self, ledger: Ledger, book: SellerBook, kept: KeptAnswers, deposit_micros: int) -> None:
        self.ledger, self.book, self.kept = ledger, book, kept
        self.engine = Engine()
        self.chain = OnChain(phase="open", deposit_micros=deposit_micros)
        self.fabric = Fabric()
        self.buyer = FakeNetwork(self.fabric, BUYER_PEER)
        self.seller = FakeNetwork(self.fabric, SELLER_PEER)
        self.payees: list[Payee] = []
        self.requests = 0
        self.seller.serve(PROTOCOL, self._sell, access="anyone", message_bytes_max=STREAM_MESSAGE_BYTES_MAX)

    async def _sell(self, stream: Stream) -> None:
        payee = Payee(
            stream,
            sold=await self.sold(),
            chain=self.chain,
            bonds=BONDS,
            book=self.book,
            signer=SELLER,
            sale=sale(self.engine.work),
        )
        self.payees.append(payee)
        await payee.run()

    async def sold(self) -> SoldChannel:
        found = await self.book.channel(CHANNEL)
        assert found is not None
        return found

    async def known(self) -> KnownChannel:
        (found,) = (await self.ledger.view()).channels
        return found

    @asynccontextmanager
    async def stream(self, signer: Signer = OPERATOR) -> AsyncIterator[Payer]:
        """A stream on which both ends agree; it ends with the block."""
        await self.buyer.connect(SELLER_PEER, self.seller.addresses(), timeout_s=1)
        async with (
            self.buyer.open_channel(
                SELLER_PEER, PROTOCOL, message_bytes_max=STREAM_MESSAGE_BYTES_MAX, timeout_s=1
            ) as stream,
            trio.open_nursery() as nursery,
        ):
            payer = Payer(
                stream,
                known=await self.known(),
                bonds=BONDS,
                chain=self.chain,
                ledger=self.ledger,
                kept=self.kept,
                signer=signer,
                identity=BUYER,
            )
            await nursery.start(payer.run)
            yield payer
            nursery.cancel_scope.cancel()

    def terms(self, *, tokens_in: int = 10, most: int = 200, price: Price = PRICE) -> Terms:
        self.requests += 1
        return Terms(
            request_id=RequestId(os.urandom(28) + self.requests.to_bytes(4, "big")),
            channel_id=CHANNEL,
            price=price,
            tokens_in=tokens_in,
            tokens_out_max=most,
            window_tokens=window_tokens(price),
        )

    @asynccontextmanager
    async def ask(self, payer: Payer, terms: Terms, *, is_kept: bool = True) -> AsyncIterator[PaidAnswer]:
        async with payer.open_request(
            terms,
            prompt_ids=tuple(range(terms.tokens_in)),
            model=MODEL,
            sampling=Sampling(),
            is_kept=is_kept,
        ) as answer:
            yield answer

    async def whole(
        self, payer: Payer, terms: Terms, *, is_kept: bool = True
    ) -> tuple[list[int], PaidAnswer]:
        """All of an answer, and its receipt."""
        ids: list[int] = []
        async with self.ask(payer, terms, is_kept=is_kept) as answer:
            async for piece in answer:
                ids += piece
        await answer.receipted.wait()
        return ids, answer


@asynccontextmanager
async def paid_world(
    folder: Path, *, cap_micros: int = 1_000_000, deposit_micros: int = 1_000_000
) -> AsyncIterator[PaidWorld]:
    """Opened on the folder's disks: again on the same folder is a restart of both."""
    facts = ChannelFacts(deposit_micros=deposit_micros, claimed_micros=0, close_at_unix_s=0, is_closed=False)
    with trio.fail_after(PATIENCE_S):
        async with (
            open_ledger(folder / "ledger.db", folder / "seal", cap_micros=cap_micros) as ledger,
            open_seller_book(folder / "book.db") as book,
            open_kept_answers(folder / "kept.db") as kept,
            trio.open_nursery() as nursery,
        ):
            world = PaidWorld(ledger, book, kept, deposit_micros)
            await ledger.note_chain_time(ledger_now())
            await ledger.note_channel(AT, CONFIG, deposit_micros)
            await book.note_channel(AT, CONFIG, facts)
            await nursery.start(world.buyer.run)
            await nursery.start(world.seller.run)
            yield world
            nursery.cancel_scope.cancel()


def ledger_now() -> int:
    """What the chain's newest block would say."""
    return int(time.time())
