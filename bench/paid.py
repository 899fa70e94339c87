"""What paying costs: an answer paid for by vouchers, against the same engine's answer given away.

Two processes on loopback, buyer and seller, with the production ledger, book, keys, network and engine. Both
ways go over the same encrypted connection with the same messages of tokens; unpaid, nothing else is sent. The
price is the one at which vouchers are most frequent: one for each 16 tokens of each stream.
"""

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import trio

from bench.common import Report, model_file, parser, prompt, ratio_cell, save
from bench.servers import BenchError
from unhosted.market.channel_states import OnChain
from unhosted.market.channels import ChainId, ChannelConfig, Deployment, channel_id
from unhosted.market.credit import window_tokens
from unhosted.market.ids import Address, ModelHash, RequestId
from unhosted.market.money import Price
from unhosted.market.terms import Terms
from unhosted.node.app_asks import LocalAnswering
from unhosted.node.app_facts import engine_settings
from unhosted.node.config import load
from unhosted.node.core.asks import Ask
from unhosted.node.core.chain import ChannelFacts
from unhosted.node.core.engine_facts import EngineFacts
from unhosted.node.core.peering import Channel as Stream
from unhosted.node.core.sampling_words import Sampling
from unhosted.node.shell.engine.manager import EngineManager
from unhosted.node.shell.keys.signer import KeySigner
from unhosted.node.shell.models.store import ModelStore
from unhosted.node.shell.money.kept_answers import open_kept_answers
from unhosted.node.shell.money.ledger import open_ledger
from unhosted.node.shell.money.paid_asks import Asking
from unhosted.node.shell.money.paid_jobs import Piece, Sale
from unhosted.node.shell.money.paid_wire import (
    PROTOCOL,
    STREAM_MESSAGE_BYTES_MAX,
    Tokens,
    WorkAsked,
    decode_stream,
    encode_stream,
)
from unhosted.node.shell.money.payee import Payee
from unhosted.node.shell.money.payer import Payer
from unhosted.node.shell.money.seller_book import SellerBook, open_seller_book
from unhosted.node.shell.peers.identity import Identity, new_identity
from unhosted.node.shell.peers.network import LibP2PNetwork

FREE = "/unhosted/bench-free/1"
STREAMS = (1, 16)
REPEATS_BY_STREAMS = {1: 3, 16: 1}
PROMPT_TOKENS, OUTPUT_TOKENS = 128, 64
RATIO_MIN = 0.97
STARTING_S = 60.0

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
CHANNEL = channel_id(AT, CONFIG)
MODEL = ModelHash(b"\x4d" * 32)
PRICE = Price(in_micros_per_mtok=1_000_000, out_micros_per_mtok=3_000_000)
DEPOSIT_MICROS = 100_000_000
CHAIN = OnChain(phase="open", deposit_micros=DEPOSIT_MICROS)


def _network(identity: Identity) -> LibP2PNetwork:
    return LibP2PNetwork(identity, listen=[("127.0.0.1", 0)], is_paired=lambda peer: True)


class _Seller:
    def __init__(
        self, book: SellerBook, answering: LocalAnswering, model: str, facts: EngineFacts, peer: str
    ) -> None:
        self._book, self._answering, self._model = book, answering, model
        self._facts, self._peer = facts, peer

    async def sell(self, stream: Stream) -> None:
        sold = await self._book.channel(CHANNEL)
        assert sold is not None
        sale = Sale(
            seller=self._peer, price=PRICE, model=MODEL, facts=self._facts, check="exact", work=self._work
        )
        payee = Payee(stream, sold=sold, chain=CHAIN, bonds=BONDS, book=self._book, signer=SELLER, sale=sale)
        await payee.run()

    async def give(self, stream: Stream) -> None:
        """One answer, for nothing."""
        data = await stream.receive()
        ask = None if data is None else decode_stream(data)
        assert isinstance(ask, WorkAsked)
        position = 0
        async with self._work(ask) as pieces:
            async for piece in pieces:
                ids = tuple(piece.ids)
                if ids:
                    tokens = Tokens(request_id=ask.terms.request_id, position=position, ids=ids)
                    await stream.send(encode_stream(tokens))
                position += len(ids)
        await stream.end()

    @asynccontextmanager
    async def _work(self, ask: WorkAsked) -> AsyncIterator[AsyncIterator[Piece]]:
        wanted = Ask(
            ask_id=ask.terms.request_id.hex(),
            model=self._model,
            prompt=ask.prompt_ids,
            max_tokens=ask.terms.tokens_out_max,
            ignore_eos=True,
            use_prefix_cache=False,
        )
        async with self._answering.open_ask(wanted) as deltas:
            yield (Piece(delta.token_ids, "length" if delta.finish else None) async for delta in deltas)


async def _serve(folder: Path, name: str) -> None:
    """The seller's process, until its standard input ends."""
    config = load()
    store = ModelStore(config.paths.models_dir)
    engines = EngineManager(engine_settings(config), store.resolve)
    model = store.resolve(name).entry.blake3
    facts = ChannelFacts(deposit_micros=DEPOSIT_MICROS, claimed_micros=0, close_at_unix_s=0, is_closed=False)
    async with open_seller_book(folder / "book.db") as book, trio.open_nursery() as nursery:
        await book.note_channel(AT, CONFIG, facts)
        await nursery.start(engines.run)
        network = _network(new_identity())
        stated = await engines.facts(name)
        seller = _Seller(book, LocalAnswering(engines, store.resolve), model, stated, network.peer)
        for protocol, answer in ((PROTOCOL, seller.sell), (FREE, seller.give)):
            network.serve(protocol, answer, access="anyone", message_bytes_max=STREAM_MESSAGE_BYTES_MAX)
        await nursery.start(network.run)
        print(json.dumps([network.peer, network.addresses()]), flush=True)
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
        nursery.cancel_scope.cancel()


class _Buyer:
    """Asks for answers in both ways."""

    def __init__(
        self, network: LibP2PNetwork, peer: str, payer: Payer, asking: Asking, draw: random.Random
    ) -> None:
        self._network, self._peer, self._payer = network, peer, payer
        self._asking, self._draw = asking, draw

    def _terms(self) -> Terms:
        return Terms(
            request_id=RequestId(os.urandom(32)),
            channel_id=CHANNEL,
            price=PRICE,
            tokens_in=PROMPT_TOKENS,
            tokens_out_max=OUTPUT_TOKENS,
            window_tokens=window_tokens(PRICE),
        )

    async def paid(self) -> int:
        count = 0
        async with self._payer.open_request(
            self._terms(),
            prompt_ids=tuple(prompt(self._draw, PROMPT_TOKENS)),
            model=MODEL,
            sampling=Sampling(),
        ) as answer:
            async for ids in answer:
                count += len(ids)
        return count

    async def given(self) -> int:
        make = await self._asking.prepare(
            self._terms(),
            prompt_ids=tuple(prompt(self._draw, PROMPT_TOKENS)),
            model=MODEL,
            sampling=Sampling(),
            salt=bytes(32),
        )
        count = 0
        async with self._network.open_channel(
            self._peer, FREE, message_bytes_max=STREAM_MESSAGE_BYTES_MAX, timeout_s=10
        ) as stream:
            await stream.send(encode_stream(make(1)))
            while (data := await stream.receive()) is not None:
                tokens = decode_stream(data)
                assert isinstance(tokens, Tokens)
                count += len(tokens.ids)
            await stream.end()
        return count

    async def speed(self, ask: Callable[[], Awaitable[int]], streams: int) -> float:
        """Output tokens per second, prefill included."""
        tokens = 0

        async def one() -> None:
            nonlocal tokens
            for _ in range(REPEATS_BY_STREAMS[streams]):
                came = await ask()  # not in one line: the sum must be read after the wait
                tokens += came

        started_s = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for _ in range(streams):
                nursery.start_soon(one)
        return tokens / (time.perf_counter() - started_s)


@asynccontextmanager
async def _buyer(folder: Path, peer: str, addresses: list[str]) -> AsyncIterator[_Buyer]:
    identity = new_identity()
    network = _network(identity)
    async with (
        open_ledger(folder / "ledger.db", folder / "seal", cap_micros=DEPOSIT_MICROS) as ledger,
        open_kept_answers(folder / "kept.db") as kept,
        trio.open_nursery() as nursery,
    ):
        await ledger.note_chain_time(int(time.time()))
        await ledger.note_channel(AT, CONFIG, DEPOSIT_MICROS)
        (known,) = (await ledger.view()).channels
        await nursery.start(network.run)
        await network.connect(peer, addresses, timeout_s=10)
        async with network.open_channel(
            peer, PROTOCOL, message_bytes_max=STREAM_MESSAGE_BYTES_MAX, timeout_s=10
        ) as stream:
            payer = Payer(
                stream,
                known=known,
                bonds=BONDS,
                chain=CHAIN,
                ledger=ledger,
                kept=kept,
                signer=OPERATOR,
                identity=identity,
            )
            await nursery.start(payer.run)
            yield _Buyer(network, peer, payer, Asking(identity, peer), random.Random(1))
        nursery.cancel_scope.cancel()


async def _measure(
    folder: Path, peer: str, addresses: list[str], rounds: int
) -> dict[str, list[list[float]]]:
    """By streams: the speeds of each round, paid and given."""
    speeds: dict[str, list[list[float]]] = {}
    async with _buyer(folder, peer, addresses) as buyer:
        await buyer.given()  # loads the model
        for streams in STREAMS:
            paid, given = speeds[str(streams)] = [[], []]
            for turn in range(rounds):
                ways = [(buyer.paid, paid), (buyer.given, given)]
                for ask, found in ways if turn % 2 else ways[::-1]:
                    found.append(await buyer.speed(ask, streams))
    return speeds


@contextmanager
def _selling(folder: Path, model: Path) -> Iterator[tuple[str, list[str]]]:
    variables = {
        **os.environ,
        "UNHOSTED_HOME": str(folder),
        "UNHOSTED_SLOTS": "16",
        "UNHOSTED_CONTEXT_TOKENS": "512",
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
    }
    pull = [sys.executable, "-m", "unhosted.node", "pull", str(model)]
    subprocess.run(pull, env=variables, check=True, capture_output=True)
    command = [sys.executable, "-m", "bench.paid", "--serve", str(folder), model.stem]
    with subprocess.Popen(
        command, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            if not line:
                raise BenchError(f"the seller ended with {process.wait(STARTING_S)}")
            peer, addresses = json.loads(line)
            yield peer, addresses
        finally:
            process.stdin.close()
            process.wait(STARTING_S)


def run(report: Report, *, models: Sequence[str], rounds: int) -> None:
    """Measure and print; see the module's first lines."""
    report.title("Paid by vouchers, against the same answers given away")
    rows = []
    for model in models:
        with tempfile.TemporaryDirectory(prefix="unhosted-bench-") as name:
            folder = Path(name)
            with _selling(folder, model_file(model)) as (peer, addresses):
                speeds = trio.run(partial(_measure, folder, peer, addresses, rounds))
        for streams, (paid, given) in speeds.items():
            report.measurements[f"paid {model} streams={streams}"] = {"paid": paid, "given": given}
            what = f"{model}, {streams} stream{'s' if streams != '1' else ''}, tokens/s"
            cells = [f"{statistics.median(values):.1f}" for values in (given, paid)]
            rows.append([what, *cells, ratio_cell(paid, given), f"≥ {RATIO_MIN} ×"])
    report.table(["", "given away", "paid", "ratio", "goal"], rows)


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        trio.run(_serve, Path(sys.argv[2]), sys.argv[3])
        return
    options = parser("What paying costs.").parse_args()
    report = Report()
    report.machine()
    run(report, models=options.models.split(","), rounds=options.rounds)
    save(report, options.json)


if __name__ == "__main__":
    main()
