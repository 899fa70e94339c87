"""Kills a buyer or a seller at each point of a paid life, starts it again, and asks who lost what.

`python -m tests.node.money.crash_paid` sweeps all points of both ends on a real chain and prints a JSON line
for each. A point lies before each effect of the channel's rules and after each message that went out. It
imports once and forks each life. `--hasty buyer` and `--hasty seller` are the controls, which go on before
their disk has it, and must be caught.
"""

import argparse
import importlib
import json
import os
import random
import select
import signal
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import trio

from tests.devchain import DevChain, dev_chain
from tests.node.chain.stage import FAST, HASTY, OWNER, SELLER, STRANGER, authorization, fund
from tests.node.money.paid_life import PRICE, PROMPT_TOKENS, Setting
from tests.node.money.paid_programs import live
from unhosted.market.credit import loss_max, window_tokens
from unhosted.market.money import cost_micros
from unhosted.market.roots import ids_root
from unhosted.node.shell.chain import calls
from unhosted.node.shell.chain.adapter import open_chain
from unhosted.node.shell.chain.chains import chain_by_name
from unhosted.node.shell.devnet.contracts import selector

REQUESTS = 2
MOST_TOKENS = 70
POINTS_MAX = 2000
TRIES_MAX = 8
PATIENCE_S = 60.0
FUNDS_MICROS = 200_000_000

LAZY = ("web3", "eth_account", "libp2p", "coincurve", "unhosted.node.shell.chain.estimating")
LOSS = loss_max(PRICE, tokens_in=PROMPT_TOKENS, window=window_tokens(PRICE))


@dataclass(slots=True, kw_only=True)
class Outcome:
    """One life of a channel with one death in it. violations: what must not have happened."""

    victim: str
    kill_at: int
    killed: bool = False
    finished: int = 0
    acknowledged: int = 0
    claimed_micros: int = 0
    buyer_loss_micros: int = 0
    seller_loss_micros: int = 0
    violations: list[str] = field(default_factory=list)


class Program:
    """A forked life, seen from the parent. hello: what its disk said when it began."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        command_out, self._commands = os.pipe()
        self._answers, answer_in = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._commands)
            os.close(self._answers)
            code = 1
            try:
                trio.run(live, setting, command_out, answer_in)
                code = 0
            finally:
                os._exit(code)
        os.close(command_out)
        os.close(answer_in)
        self.is_dead = False
        self.hello = self._hear("hello")

    def ask(self, *command: object) -> Any:
        """The answer; None once it is dead."""
        if self.is_dead:
            return None
        with suppress(BrokenPipeError):
            os.write(self._commands, json.dumps(command).encode() + b"\n")
        return self._hear(command[0])

    def _hear(self, what: object) -> Any:
        data = b""
        while not data.endswith(b"\n"):
            ready, _, _ = select.select([self._answers], [], [], PATIENCE_S)
            if not ready:
                raise TimeoutError(f"{self.setting.role}: {what} was not answered")
            piece = os.read(self._answers, 65536)
            if not piece:
                self.bury()
                return None
            data += piece
        return json.loads(data)[0]

    def bury(self) -> None:
        if not self.is_dead:
            self.is_dead = True
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            os.close(self._commands)
            os.close(self._answers)


def evidence(folder: Path) -> Iterator[list[str]]:
    path = folder / "evidence"
    if path.exists():
        yield from (line.split() for line in path.read_text().splitlines())


def highest(folder: Path, *ways: str) -> int:
    """The largest voucher that it noted in one of these ways."""
    return max((int(row[2]) for row in evidence(folder) if row[0] in ways and row[1] == "voucher"), default=0)


class Case:
    """One channel's life: requests, a death, what follows, the close and the account."""

    def __init__(self, chain: DevChain, folder: Path, victim: str, kill_at: int, *, is_hasty: bool) -> None:
        self.chain = chain
        self.folders = {role: folder / role for role in ("buyer", "seller")}
        folder.mkdir()
        self.outcome = Outcome(victim=victim, kill_at=kill_at)
        self.programs: dict[str, Program] = {}
        for role in ("seller", "buyer"):
            setting = Setting(role=role, folder=str(self.folders[role]), url=chain.url)
            if role == victim:
                setting = replace(setting, kill_at=kill_at, is_hasty=is_hasty)
            self.programs[role] = Program(setting)
        self.channel = ""
        self.story: list[object] = []

    def run(self) -> Outcome:
        try:
            self._until(lambda: self.outcome.finished >= REQUESTS, self._work)
            self._until(self._is_closed, self._close)
            if not self.outcome.killed:
                self._check_disks()
            self._account()
        finally:
            for program in self.programs.values():
                program.bury()
        return self.outcome

    def _until(self, is_done: Callable[[], bool], turn: Callable[[], None]) -> None:
        for _ in range(TRIES_MAX):
            self._revive()
            if is_done():
                return
            turn()
        raise AssertionError(f"it did not go on after {self.outcome}: {self.story}")

    def _revive(self) -> None:
        """Start the dead again, and hold what its disk says against what it had let out."""
        victim = self.outcome.victim
        program = self.programs[victim]
        if not program.is_dead and program.ask("report") is not None:
            return
        self.outcome.killed = True
        self.programs[victim] = Program(replace(program.setting, kill_at=-1, is_hasty=False))
        self._check_disks()

    def _check_disks(self) -> None:
        if self.outcome.victim == "buyer":
            rows = (self.programs["buyer"].ask("report"))[0]
            known, let_out = max((row[0] for row in rows.values()), default=0), self._let_out("buyer")
            if let_out > known:
                self.outcome.violations.append(f"a voucher over {let_out} was sent, {known} is counted")
        else:
            rows = self.programs["seller"].ask("report")
            known, let_out = max((row[0] for row in rows.values()), default=0), self._let_out("seller")
            if let_out > known:
                self.outcome.violations.append(f"tokens went for a voucher over {let_out}, {known} is kept")

    def _let_out(self, role: str) -> int:
        return highest(self.folders[role], "out" if role == "buyer" else "answered")

    def _meet(self) -> bool:
        """Whether both are connected and agree."""
        buyer, seller = self.programs["buyer"], self.programs["seller"]
        address = seller.ask("address")
        if address is None or buyer.ask("meet", *address) != "":
            return False
        if not self.channel:
            opened = buyer.ask("open")
            if opened is None or opened.startswith("no channel"):
                self.story.append(opened)
                return False
            self.channel = opened
        joined = buyer.ask("join", self.channel)
        self.story.append(["joined", joined])
        return bool(joined == "")

    def _work(self) -> None:
        if self._meet():
            reports = self.programs["buyer"].ask("work", MOST_TOKENS, REQUESTS - self.outcome.finished)
            self.story.append(reports)
            self.outcome.finished += sum(not report[-1] for report in reports or ())

    def _close(self) -> None:
        """Again, if the word about it or its transaction was lost in a crash."""
        if self._meet():
            self.story.append(self.programs["buyer"].ask("close"))
        for _ in range(200):
            if self._is_closed() or any(program.is_dead for program in self.programs.values()):
                return
            if self.programs["seller"].ask("report") is None:
                return
            select.select([], [], [], 0.01)

    def _facts(self) -> list[int]:
        data = selector("channels(bytes32)") + bytes.fromhex(self.channel)
        said = self.chain.call(self.chain.contracts.channels, data)
        return [int.from_bytes(said[at : at + 32], "big") for at in range(0, 128, 32)]

    def _is_closed(self) -> bool:
        return bool(self.channel) and self._facts()[3] == 1

    def _account(self) -> None:
        outcome = self.outcome
        outcome.claimed_micros = claimed = self._facts()[1]
        came, went = (self._tokens(role, way) for role, way in (("buyer", "in"), ("seller", "out")))
        got, given = (
            sum(cost_micros(PRICE, tokens_in=PROMPT_TOKENS, tokens_out=count) for count in tokens.values())
            for tokens in (came, went)
        )
        outcome.buyer_loss_micros, outcome.seller_loss_micros = claimed - got, given - claimed
        deaths = 1 if outcome.killed else 0
        violations = outcome.violations
        if outcome.buyer_loss_micros > deaths * LOSS.buyer_first_micros:
            violations.append(f"the buyer paid {claimed} for tokens worth {got}")
        if outcome.seller_loss_micros > deaths * LOSS.seller_micros:
            violations.append(f"the seller got {claimed} for tokens worth {given}")
        buyer, seller = self.programs["buyer"], self.programs["seller"]
        buyer.ask("closed", self.channel)
        rows, (spent, reserved, cap) = buyer.ask("report")
        book = seller.ask("report")
        if not spent == sum(row[0] for row in rows.values()) == claimed:
            violations.append(f"the chain says {claimed}, the ledger {rows} and {spent}")
        if book[self.channel][1] != claimed:
            violations.append(f"the chain says {claimed}, the book {book[self.channel]}")
        if reserved or spent > cap:
            violations.append(f"{reserved} are still reserved, {spent} of {cap} spent")
        self._check_receipts()

    def _tokens(self, role: str, way: str) -> dict[str, int]:
        """The most tokens of each request that went this way."""
        counts: dict[str, int] = defaultdict(int)
        for row in evidence(self.folders[role]):
            if row[:2] == [way, "tokens"]:
                counts[row[2]] = max(counts[row[2]], int(row[3]))
        return counts

    def _check_receipts(self) -> None:
        """One for each request of which anything is proven, the same wherever it is, and over no less than
        was acknowledged; at the buyer they are one chain."""
        seen: dict[str, set[str]] = defaultdict(set)
        salts: dict[str, bytes] = {}
        acks: list[tuple[str, int, str]] = []
        for role in ("seller", "buyer"):
            for row in evidence(self.folders[role]):
                if row[1] == "receipt":
                    seen[row[2]].add(row[3])
                elif row[1] == "salt":
                    salts[row[2]] = bytes.fromhex(row[3])
                elif row[1] == "ack":
                    acks.append((row[2], int(row[3]), row[4]))
        found = self.outcome.violations
        receipts: dict[str, list[Any]] = {}
        for request_id in {*seen, *self._tokens("seller", "out")}:
            kept = self.programs["seller"].ask("receipt", request_id)
            receipts[request_id] = kept
            if kept is None or kept[0] is None:
                found.append(f"request {request_id[:8]} never ended in the book")
            elif seen[request_id] - {kept[1]}:
                found.append(f"request {request_id[:8]} has receipts {seen[request_id]}")
            elif kept[0] == "finished" and not kept[1]:
                found.append(f"request {request_id[:8]} finished without a receipt")
            elif kept[1] and kept[3] != self._root(kept[2], salts[request_id]):
                found.append(f"request {request_id[:8]} has a receipt over other tokens than were made")
        for request_id, tokens_out, root in acks:
            kept = receipts[request_id]
            if kept is None or kept[2] < tokens_out or root != self._root(tokens_out, salts[request_id]):
                found.append(f"request {request_id[:8]}: {tokens_out} acknowledged, the receipt is {kept}")
        self.outcome.acknowledged = len(acks)
        if any(is_gap for _, is_gap in self.programs["buyer"].ask("chain", self.channel)):
            found.append("the buyer's chain of receipts has a gap")

    def _root(self, tokens_out: int, salt: bytes) -> str:
        """Of what the scripted engine makes."""
        return ids_root("output", range(tokens_out), salt=salt).hex()


async def _deposit(url: str, folder: Path) -> None:
    async with open_chain(
        chain_by_name("local"),
        (url,),
        journal_path=folder / "deposit.db",
        pool_policy=HASTY,
        sending_policy=FAST,
    ) as chain:
        signed = authorization(chain.facts, value_micros=FUNDS_MICROS, limit_micros=FUNDS_MICROS)
        await chain.send(
            calls.deposit_with_authorization(chain.facts.channels, signed), STRANGER, key="deposit"
        )


def in_fork(work: Callable[[], None]) -> None:
    """Run it in a child, so that no thread of it is there when the lives are forked."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0


def prepare(chain: DevChain, folder: Path) -> None:
    """The buyer's account holds enough, and names its operator."""
    for module in LAZY:  # once, not in each life
        importlib.import_module(module)
    fund(chain)
    chain.mint(OWNER.address, FUNDS_MICROS)
    in_fork(partial(trio.run, _deposit, chain.url, folder))


def sweep(
    victims: Sequence[str], *, first: int, every: int, random_kills: int, is_hasty: bool
) -> Iterator[Outcome]:
    """A life for each point, or each so-manyth, of each end; then some at random ones."""
    with tempfile.TemporaryDirectory() as place, dev_chain() as chain:
        folder = Path(place)
        prepare(chain, folder)
        points = dict.fromkeys(victims, 0)
        for victim in victims:
            for kill_at in range(first, POINTS_MAX, every):
                outcome = Case(
                    chain, folder / f"{victim}-{kill_at}", victim, kill_at, is_hasty=is_hasty
                ).run()
                yield outcome
                if not outcome.killed:
                    break
                points[victim] = kill_at
        chance = random.Random(1)
        for number in range(random_kills):
            victim = chance.choice(list(victims))
            kill_at = chance.randrange(points[victim] + 1)
            yield Case(chain, folder / f"random-{number}", victim, kill_at, is_hasty=is_hasty).run()
        credit = chain.call(
            chain.contracts.channels, selector("credit(address)") + SELLER.address.rjust(32, b"\0")
        )
        print(json.dumps({"credit_micros": int.from_bytes(credit, "big")}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--victims", default="buyer,seller")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--random", type=int, default=0)
    parser.add_argument("--hasty", action="store_true")
    options = parser.parse_args()
    found = 0
    for outcome in sweep(
        options.victims.split(","),
        first=options.first,
        every=options.every,
        random_kills=options.random,
        is_hasty=options.hasty,
    ):
        print(json.dumps(asdict(outcome)), flush=True)
        found += bool(outcome.violations)
        if found and options.hasty:
            break
    sys.exit(bool(found) != options.hasty)


if __name__ == "__main__":
    main()
