"""A paid life on a local chain, from a deposit to the seller's cash, with real parts throughout.

Two ends of this program meet over libp2p on loopback. The buyer owns USDC and no ETH; its owner key signs
one deposit and is not needed again. A model on this machine answers, every window of its tokens is paid for,
the cap stops the buyer, and at the end three accounts must agree to the micro-USDC: the chain's, the buyer's
ledger and the seller's book.

Before it closes the channel the buyer reads the answers again; then the seller begins to cheat, and is found
out.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import trio

from unhosted.market.credit import window_tokens
from unhosted.market.eip712 import deposit_nonce, receive_digest
from unhosted.market.ids import ChannelId, ModelHash, RequestId
from unhosted.market.messages import DepositAuthorisation
from unhosted.market.money import Micros, Price, format_usd
from unhosted.market.terms import Terms
from unhosted.node.app_asks import LocalAnswering, render_prompt
from unhosted.node.app_facts import engine_settings
from unhosted.node.app_trial_checks import Found, TrialChecks, TurningSeller
from unhosted.node.config import Config
from unhosted.node.core.asks import ChatPrompt
from unhosted.node.core.engine_facts import exact_class
from unhosted.node.core.errors import Refused
from unhosted.node.core.sampling_words import Sampling
from unhosted.node.core.service import Message
from unhosted.node.shell.chain import calls
from unhosted.node.shell.chain.adapter import WebChain, open_chain
from unhosted.node.shell.chain.chains import chain_by_name
from unhosted.node.shell.devnet.accounts import ACCOUNT_BY_NAME
from unhosted.node.shell.engine.manager import EngineManager
from unhosted.node.shell.keys.signer import KeySigner
from unhosted.node.shell.models.store import InstalledModel, ModelStore
from unhosted.node.shell.money.buying import Buyer
from unhosted.node.shell.money.kept_answers import KeptAnswers, open_kept_answers
from unhosted.node.shell.money.ledger import Ledger, open_ledger
from unhosted.node.shell.money.paid_jobs import Sale
from unhosted.node.shell.money.paid_wire import PROTOCOL, STREAM_MESSAGE_BYTES_MAX
from unhosted.node.shell.money.payer import Payer
from unhosted.node.shell.money.seller_book import SellerBook, open_seller_book
from unhosted.node.shell.money.selling import SellerDoor, SellerTerms
from unhosted.node.shell.peers.identity import Identity, new_identity
from unhosted.node.shell.peers.network import LibP2PNetwork
from unhosted.verify.params import SEED_BYTES, SamplingParams
from unhosted.verify.verdicts import Stage

PRICE = Price(in_micros_per_mtok=5_000_000, out_micros_per_mtok=20_000_000)
"""A hundred times what models of this size sell for, so that a short answer moves the cap."""

DEPOSIT = Micros(2_000_000)
ALLOCATION = Micros(1_000_000)
CAP = Micros(3_500)
"""USD 0.0035: three answers or so, then it binds."""

CAP_RAISED = Micros(14_000)
"""For the cheat: ten answers more at most."""

COIN_MICROS = 3_000_000
"""What an ETH is taken to cost for judging fees, USD 3: a local chain's gas price is far above Base's."""

ANSWER_TOKENS_MAX = 48
QUESTIONS = (
    "Why is the sky blue?",
    "What is a payment channel?",
    "Name three rivers.",
    "What is a prime number?",
    "How do bees find their way?",
    "Why do cats purr?",
)
MORE_QUESTIONS = (
    "Tell a short story about a fox.",
    "How is bread made?",
    "Describe a city by the sea.",
    "What would you take to the moon?",
    "Write about a rainy day.",
    "Explain how a bicycle stays upright.",
    "Describe a garden in spring.",
    "What makes a good friend?",
)
"""None twice: a prompt that is bought again says nothing new."""

ENOUGH_LOG10_MILLI = 9_000
"""Two decades or three above a conviction: evidence for others is charged for the choice of answers."""

LIFE_S = 3_600
RECEIPT_WAIT_S = 10.0
CLOSE_LOOK_S, CLOSE_LOOKS_MAX = 0.2, 300

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialAnswer:
    question: str
    text_tokens: int
    prompt_tokens: int
    due_micros: int
    has_receipt: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialResult:
    """Amounts in micro-USDC. stopped: the sentence with which the cap stopped the buyer.

    honest, cheating: what reading the answers again showed, before and after the seller began to cheat.
    verdict: of an outsider who has the evidence and the model alone.
    """

    answers: tuple[TrialAnswer, ...]
    stopped: str
    honest: Found
    cheating: Found
    verdict: str
    due_micros: int
    ledger_spent_micros: int
    book_settled_micros: int
    chain_claimed_micros: int
    seller_received_micros: int
    buyer_free_micros: int
    buyer_eth_wei: int

    @property
    def is_caught(self) -> bool:
        """Not while it was honest, and then for good."""
        return (
            self.honest.answers > 0
            and self.honest.stage is Stage.CLEAR
            and self.cheating.stage is Stage.CONVICT
            and self.verdict == "convicts"
        )

    @property
    def agrees(self) -> bool:
        """Chain, ledger, book and receipts name one amount, and the buyer has all the rest back."""
        return (
            self.due_micros
            == self.ledger_spent_micros
            == self.book_settled_micros
            == self.chain_claimed_micros
            == self.seller_received_micros
            == DEPOSIT - self.buyer_free_micros
        )


def has_model(config: Config, model: str) -> bool:
    """Whether it need not be pulled first."""
    try:
        ModelStore(config.paths.models_dir).resolve(model)
    except Refused as why:
        if why.code != "model_not_found":
            raise
        return False
    return True


async def play(config: Config, *, rpc_url: str, folder: Path, model: str, say: Say) -> TrialResult:
    """All of it, on the local chain at `rpc_url`; `folder` keeps the books. Raises: Refused."""
    store = ModelStore(config.paths.models_dir)
    installed = await trio.to_thread.run_sync(store.resolve, model)
    engines = EngineManager(engine_settings(config), store.resolve)
    checks = TrialChecks(config, engines, folder / "buyer")
    async with (
        open_chain(chain_by_name("local"), (rpc_url,), journal_path=folder / "transactions.db") as chain,
        open_ledger(folder / "buyer" / "ledger.db", folder / "seal", cap_micros=CAP) as ledger,
        open_kept_answers(checks.kept_file) as kept,
        open_seller_book(folder / "seller" / "book.db") as book,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(engines.run)
        answering = LocalAnswering(engines, store.resolve)
        async with checks.running():
            trial = _Trial(chain, ledger, kept, book, engines, installed, answering, checks, say)
            result = await trial.play(nursery)
        nursery.cancel_scope.cancel()
    return result


class _Trial:
    def __init__(
        self,
        chain: WebChain,
        ledger: Ledger,
        kept: KeptAnswers,
        book: SellerBook,
        engines: EngineManager,
        installed: InstalledModel,
        answering: LocalAnswering,
        checks: TrialChecks,
        say: Say,
    ) -> None:
        self.chain, self.ledger, self.kept, self.book, self.say = chain, ledger, kept, book, say
        self.engines, self.installed, self.checks = engines, installed, checks
        self.turning = TurningSeller(answering)
        self.owner = KeySigner(ACCOUNT_BY_NAME["buyer"].key)
        self.seller = KeySigner(ACCOUNT_BY_NAME["seller"].key)
        self.operator = KeySigner(os.urandom(32))
        self.shop, self.visitor = new_identity(), new_identity()
        self.model = ModelHash(bytes.fromhex(installed.entry.blake3))

    async def play(self, nursery: trio.Nursery) -> TrialResult:
        shop, visitor = _network(self.shop), _network(self.visitor)
        facts = await self.engines.facts(self.installed.name)
        sale = Sale(
            seller=shop.peer,
            price=PRICE,
            model=self.model,
            facts=facts,
            check="statistical" if exact_class(facts) is None else "exact",
            work=self.turning.work,
        )
        door = SellerDoor(
            self.chain,
            self.book,
            self.seller,
            sale=sale,
            terms=SellerTerms(coin_micros=lambda: COIN_MICROS),
        )
        await nursery.start(door.run)
        shop.serve(PROTOCOL, door.answer, access="anyone", message_bytes_max=STREAM_MESSAGE_BYTES_MAX)
        await nursery.start(shop.run)
        await nursery.start(visitor.run)
        await visitor.connect(shop.peer, shop.addresses(), timeout_s=10)
        before = await self.chain.usdc_balance(self.seller.address)
        async with visitor.open_channel(
            shop.peer, PROTOCOL, message_bytes_max=STREAM_MESSAGE_BYTES_MAX, timeout_s=10
        ) as stream:
            buyer = Buyer(
                self.chain,
                self.ledger,
                self.operator,
                payer=self.owner.address,
                identity=self.visitor,
                kept=self.kept,
            )
            of = await buyer.open_channel(
                stream,
                self.seller.address,
                total_micros=ALLOCATION,
                deposit=await self._deposit(),
            )
            self.say(
                f"deposit of {format_usd(DEPOSIT)} USD and a channel of {format_usd(ALLOCATION)} USD, sent by"
                " the seller; the buyer has no ETH"
            )
            async with buyer.pay(stream, of) as payer:
                answers, stopped = await self._ask_until_stopped(payer, of)
                honest = await self.checks.read()
                self.say(f"read again on the buyer's machine: {_told(honest)}")
                more, cheating = await self._ask_until_caught(payer, of, honest)
                closed = await payer.close()
                self.say(f"both sides close the channel at {format_usd(closed.amount_micros)} USD")
                await self._wait_for_close(of)
        payout = calls.payout(self.chain.facts.channels, self.seller.address)
        await self.chain.send(payout, self.seller, key=f"payout:{of.hex()}")
        account = await self._account(of, before)
        verdict = await self.checks.verdict()
        self.say(f"somebody with the evidence file and the model alone: {verdict}")
        return TrialResult(
            answers=answers + more,
            stopped=stopped,
            due_micros=sum(answer.due_micros for answer in answers + more),
            honest=honest,
            cheating=cheating,
            verdict=verdict,
            **account,
        )

    async def _wait_for_close(self, of: ChannelId) -> None:
        """The seller sends it; nobody tells the buyer but the chain."""
        for _ in range(CLOSE_LOOKS_MAX):
            if (await self.chain.channel(of, at="safe")).is_closed:
                return
            await trio.sleep(CLOSE_LOOK_S)
        raise Refused("chain_unavailable", "the agreed close did not come into a block; try again")

    async def _ask_until_stopped(self, payer: Payer, of: ChannelId) -> tuple[tuple[TrialAnswer, ...], str]:
        answers: list[TrialAnswer] = []
        for question in QUESTIONS:
            try:
                answers.append(await self._ask(payer, of, question))
            except Refused as why:
                if why.code != "cap_reached":
                    raise
                self.say(f"stopped before the seller heard of it: {why.message}")
                return tuple(answers), why.message
        return tuple(answers), ""

    async def _ask_until_caught(
        self, payer: Payer, of: ChannelId, found: Found
    ) -> tuple[tuple[TrialAnswer, ...], Found]:
        """With more room under the cap, from a seller that has just begun to cheat."""
        await self.ledger.set_cap(CAP_RAISED)
        self.turning.turn()
        self.say(f"the cap is raised to {format_usd(CAP_RAISED)} USD, and the seller begins to cheat")
        answers: list[TrialAnswer] = []
        for question in MORE_QUESTIONS:
            answers.append(await self._ask(payer, of, question))
            found = await self.checks.read()
            self.say(f"read again: {_told(found)}")
            if found.stage is Stage.CONVICT and found.log10_e_milli >= ENOUGH_LOG10_MILLI:
                break
        return tuple(answers), found

    async def _ask(self, payer: Payer, of: ChannelId, question: str) -> TrialAnswer:
        text, add_special = render_prompt(
            ChatPrompt(messages=(Message(role="user", content=question),)), self.installed
        )
        ids = await self.engines.tokenize(self.installed.name, text, add_special=add_special)
        terms = Terms(
            request_id=RequestId(os.urandom(32)),
            channel_id=of,
            price=PRICE,
            tokens_in=len(ids),
            tokens_out_max=ANSWER_TOKENS_MAX,
            window_tokens=window_tokens(PRICE),
        )
        count = 0
        sampling = Sampling(params=SamplingParams(seed=os.urandom(SEED_BYTES)))
        async with payer.open_request(terms, prompt_ids=ids, model=self.model, sampling=sampling) as answer:
            async for piece in answer:
                count += len(piece)
        with trio.move_on_after(RECEIPT_WAIT_S):
            await answer.receipted.wait()
        spent = (await self.ledger.view()).book.spent_micros
        self.say(
            f"{len(ids)} + {count} tokens, {format_usd(answer.due_micros)} USD,"
            f" {'receipted' if answer.receipt else 'no receipt came'};"
            f" {format_usd(spent)} USD this month"
        )
        return TrialAnswer(
            question=question,
            text_tokens=count,
            prompt_tokens=len(ids),
            due_micros=answer.due_micros,
            has_receipt=answer.receipt is not None,
        )

    async def _deposit(self) -> DepositAuthorisation:
        """The one thing that the owner's key signs: it names the operator and its monthly limit."""
        now, salt = (await self.chain.head()).timestamp_unix_s, os.urandom(32)
        facts = self.chain.facts
        signature = self.owner.sign(
            receive_digest(
                facts.token,
                payer=self.owner.address,
                payee=facts.channels.contract,
                value_micros=DEPOSIT,
                valid_after_unix_s=0,
                valid_before_unix_s=now + LIFE_S,
                nonce=deposit_nonce(self.operator.address, limit_micros=ALLOCATION, salt=salt),
            )
        )
        return DepositAuthorisation(
            value_micros=DEPOSIT,
            valid_after_unix_s=0,
            valid_before_unix_s=now + LIFE_S,
            operator=self.operator.address,
            limit_micros=ALLOCATION,
            salt=salt,
            signature=signature,
        )

    async def _account(self, of: ChannelId, before: int) -> dict[str, int]:
        """Each party's own number, after all is over."""
        await self.ledger.note_closed(of, (await self.chain.channel(of, at="safe")).claimed_micros)
        sold = await self.book.channel(of)
        account = {
            "ledger_spent_micros": int((await self.ledger.view()).book.spent_micros),
            "book_settled_micros": 0 if sold is None else sold.settled_micros,
            "chain_claimed_micros": (await self.chain.channel(of)).claimed_micros,
            "seller_received_micros": await self.chain.usdc_balance(self.seller.address) - before,
            "buyer_free_micros": (await self.chain.account(self.owner.address)).free_micros,
            "buyer_eth_wei": await self.chain.gas_balance(self.owner.address),
        }
        self.say(
            f"the seller was paid {format_usd(account['seller_received_micros'])} USD, the buyer has"
            f" {format_usd(account['buyer_free_micros'])} USD free again"
        )
        return account


def _told(found: Found) -> str:
    decades = f"{found.log10_e_milli / 1000:.1f}"
    return (
        f"{found.mismatches} of {found.tokens} tokens of {found.answers} answers differ from what the model"
        f" draws, evidence of cheating 10^{decades} to 1: {found.stage.name.lower()}"
    )


def _network(identity: Identity) -> LibP2PNetwork:
    return LibP2PNetwork(identity, listen=[("127.0.0.1", 0)], is_paired=lambda peer: False)
