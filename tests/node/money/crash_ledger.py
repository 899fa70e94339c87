"""Kill -9 against the spending ledger: processes that pay are killed at random moments, over and over.

Each child opens the production ledger and runs streams that reserve, authorise, *then* sign and send; what
was sent is what came out of its pipe. After every round the parent holds what it saw against the ledger: no
voucher above what is on the disk, nothing above the cap, every sum right, nothing taken for lost history.

`python -m tests.node.money.crash_ledger --kills 200 --cap-usd 0.8` prints the figures. With --sign-first the
children send before the ledger answers: the negative control, which must show violations.
"""

import argparse
import json
import os
import random
import select
import signal
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import coincurve
import trio

from tests.node.money.ledger_world import DEPLOYMENT, config, files, of
from unhosted.market.channels import Voucher
from unhosted.market.eip712 import channels_separator, voucher_digest
from unhosted.market.ids import ChannelId, RequestId
from unhosted.market.money import Micros, parse_usd
from unhosted.node.core.errors import Refused
from unhosted.node.shell.money.ledger import Ledger, open_ledger
from unhosted.node.shell.money.ledger_file import LedgerFile

CHANNELS = 6
DEPOSIT_MICROS = 2_000_000
KEY = coincurve.PrivateKey(b"\x01" * 32)
LIFE_S = (0.005, 0.25)
"""Between a child's first voucher and its end: from within the first commits to hundreds of them."""
PATIENCE_S = 20.0


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What a run showed. over_cap_micros: how much more was sent than the cap, at worst."""

    kills: int = 0
    vouchers: int = 0
    sent_micros: int = 0
    authorised_micros: int = 0
    cap_micros: int = 0
    refused: int = 0
    over_cap_micros: int = 0
    violations: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    folder: Path
    cap_micros: int
    streams: int
    request_micros_max: int
    is_sign_first: bool


def send(out: int, number: int, total_micros: int) -> None:
    """Sign the voucher as a node does, and hand it to the world."""
    voucher = Voucher(channel_id=of(number), amount_micros=Micros(total_micros))
    digest = voucher_digest(channels_separator(DEPLOYMENT), voucher)
    KEY.sign_recoverable(digest, hasher=None)
    os.write(out, b"%d %d\n" % (number, total_micros))


async def stream(ledger: Ledger, plan: Plan, draw: random.Random, out: int, totals: dict[int, int]) -> None:
    """One request after the other; a cap or a deposit that is full is waited out by trying smaller ones."""
    largest = plan.request_micros_max
    while True:
        number, budget = draw.randrange(CHANNELS), draw.randint(1, largest)
        request = RequestId(draw.randbytes(32))
        try:
            await ledger.reserve(request, of(number), budget)
            largest = plan.request_micros_max
            left = budget
            while left > 0 and draw.random() < 0.9:
                delta = min(left, draw.randint(1, max(1, plan.request_micros_max // 5)))
                if plan.is_sign_first:
                    totals[number] += delta
                    send(out, number, totals[number])
                total = await ledger.authorise(request, delta)
                if not plan.is_sign_first:
                    send(out, number, total)
                left -= delta
            if draw.random() < 0.7:
                await ledger.finish(request, draw.randint(0, budget - left))
            else:
                await ledger.release(request)
        except Refused as refused:
            if refused.code not in ("cap_reached", "no_funds"):
                raise
            os.write(out, b"- 0\n")
            largest = max(1, largest // 2)
            await ledger.release(request)
            await trio.sleep(0.001)


async def live(plan: Plan, out: int) -> None:
    path, seal = files(plan.folder)
    draw = random.Random(os.urandom(8))
    async with open_ledger(path, seal, cap_micros=plan.cap_micros) as ledger:
        await ledger.note_chain_time(int(time.time()))
        for number in range(CHANNELS):
            await ledger.note_channel(DEPLOYMENT, config(number), DEPOSIT_MICROS)
        by_id = {known.row.channel_id: known.row for known in (await ledger.view()).channels}
        totals = {number: by_id[of(number)].authorised_micros for number in range(CHANNELS)}
        async with trio.open_nursery() as nursery:
            for _ in range(plan.streams):
                nursery.start_soon(stream, ledger, plan, draw, out, totals)


class Child:
    """A forked process that pays until it is killed, and what it sent."""

    def __init__(self, plan: Plan) -> None:
        self.out, theirs = os.pipe()
        self.heard = b""
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.out)
            try:
                trio.run(partial(live, plan, theirs))
            except BaseException as fault:
                os.write(theirs, f"! {fault!r}\n".encode()[:4000])
            finally:
                os._exit(1)
        os.close(theirs)

    def listen(self, seconds: float) -> None:
        """Take what it sends, so that it never waits for us."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if select.select([self.out], [], [], left)[0] and not self._read():
                return

    def wait_for_first(self) -> None:
        until = time.monotonic() + PATIENCE_S
        while b"\n" not in self.heard and time.monotonic() < until:
            self.listen(0.001)

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        while self._read():
            pass
        os.close(self.out)
        os.waitpid(self.pid, 0)

    def _read(self) -> bool:
        piece = os.read(self.out, 1 << 16)
        self.heard += piece
        return bool(piece)


def run(
    folder: Path,
    *,
    kills: int,
    cap_micros: int,
    streams: int = 4,
    processes: int = 1,
    request_micros_max: int = 4_000,
    is_sign_first: bool = False,
) -> Outcome:
    """Rounds of `processes` children, each of them killed, until there were `kills`."""
    plan = Plan(
        folder=folder,
        cap_micros=cap_micros,
        streams=streams,
        request_micros_max=request_micros_max,
        is_sign_first=is_sign_first,
    )
    outcome = Outcome(cap_micros=cap_micros)
    seen: dict[ChannelId, int] = defaultdict(int)
    while outcome.kills < kills:
        children = [Child(plan) for _ in range(processes)]
        for child in children:
            child.wait_for_first()
        random.shuffle(children)
        for child in children:
            for other in children:
                other.listen(random.uniform(*LIFE_S) / processes)
            child.kill()
            children = [other for other in children if other is not child]
            outcome.kills += 1
            _hear(outcome, seen, child.heard)
        _check(outcome, seen, plan)
    return outcome


def _hear(outcome: Outcome, seen: dict[ChannelId, int], heard: bytes) -> None:
    for line in heard.split(b"\n")[:-1]:
        first, _, rest = line.partition(b" ")
        if first == b"!":
            outcome.violations.append(f"a child failed: {rest.decode()}")
        elif first == b"-":
            outcome.refused += 1
        else:
            number = of(int(first))
            seen[number] = max(seen[number], int(rest))
            outcome.vouchers += 1


def _check(outcome: Outcome, seen: dict[ChannelId, int], plan: Plan) -> None:
    """What was sent against what is on the disk. Opening the ledger audits it, and ends what the dead had."""
    file = LedgerFile(*files(plan.folder))
    try:
        state = file.audit()
    finally:
        file.close()
    book = state.book
    outcome.authorised_micros = sum(row.authorised_micros for row in state.channels.values())
    outcome.sent_micros = sum(seen.values())
    outcome.over_cap_micros = max(outcome.over_cap_micros, outcome.sent_micros - plan.cap_micros)
    found = outcome.violations
    for number, amount in seen.items():
        if amount > state.channels[number].authorised_micros:
            found.append(f"sent {amount}, on the disk {state.channels[number].authorised_micros}")
    if outcome.sent_micros > plan.cap_micros:
        found.append(f"sent {outcome.sent_micros} of {plan.cap_micros}")
    if book.spent_micros != outcome.authorised_micros or book.spent_micros > plan.cap_micros:
        found.append(f"spent {book.spent_micros}, authorised {outcome.authorised_micros}")
    if book.requests_live or book.must_reread:
        found.append(f"after a kill: {book}")


def main() -> int:
    made = argparse.ArgumentParser(description="Kill -9 against the spending ledger.")
    made.add_argument("--kills", type=int, default=200)
    made.add_argument("--cap-usd", default="0.8")
    made.add_argument("--streams", type=int, default=4, help="requests at a time in each process")
    made.add_argument("--processes", type=int, default=1, help="at a time on one ledger")
    made.add_argument("--request-micros-max", type=int, default=4_000)
    made.add_argument("--sign-first", action="store_true", help="the negative control")
    made.add_argument("--folder", type=Path, help="where the ledger is to be (default: a temporary one)")
    options = made.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        outcome = run(
            Path(folder),
            kills=options.kills,
            cap_micros=parse_usd(options.cap_usd),
            streams=options.streams,
            processes=options.processes,
            request_micros_max=options.request_micros_max,
            is_sign_first=options.sign_first,
        )
    report = asdict(outcome) | {
        "violations": len(outcome.violations),
        "examples": outcome.violations[:5],
    }
    sys.stdout.write(json.dumps(report, indent=1) + "\n")
    return 0 if bool(outcome.violations) == options.sign_first else 1


if __name__ == "__main__":
    sys.exit(main())
