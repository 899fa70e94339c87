"""Kills a seller at random moments and asks the book whether anything that it had answered for is gone.

`python -m tests.node.money.crash_seller --kills 60` runs it at length. A child sells on several channels at
once with the production book and really signs; what it would let out (tokens for a voucher, a receipt) it
writes to a pipe instead, which outlives it. `--let-out-first` is the control: it answers before the book has
written, and must be caught.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import trio

from tests.node.money.seller_world import AT, config_of, facts, id_of, receipt_maker, voucher
from unhosted.market.ids import RequestId
from unhosted.market.receipts import decode_receipt, receipt_hash
from unhosted.node.shell.money.seller_book import SellerBook, open_seller_book

CHANNELS = 4
WINDOWS_MAX = 6
DEPOSIT_MICROS = 1 << 40
START_S = 20.0


@dataclass(slots=True)
class Outcome:
    """vouchers, receipts: let out in all. violations: what the book does not know, or knows otherwise."""

    kills: int = 0
    vouchers: int = 0
    receipts: int = 0
    violations: list[str] = field(default_factory=list)


async def _sell(book: SellerBook, number: int, *, lets_out_first: bool) -> None:
    """One channel's life: requests of a few windows each, for ever."""
    channel = await book.note_channel(AT, config_of(number), facts(DEPOSIT_MICROS))
    amount_micros, sequence = channel.best_micros, channel.sequence
    while True:
        sequence += 1
        rid = RequestId((number << 128 | sequence).to_bytes(32, "big"))
        await book.open_request(rid, id_of(number), sequence=sequence)
        due_micros = 0
        for _ in range(random.randint(1, WINDOWS_MAX)):
            amount_micros += 7
            due_micros += 5
            signed = voucher(amount_micros, number=number)
            if lets_out_first:
                _let_out(f"v {number} {amount_micros}")
            await book.store_voucher(signed, live_micros={rid: due_micros})
            _let_out(f"v {number} {amount_micros}")
        make = receipt_maker(rid, due_micros, number=number)
        receipt = await book.settle_request(
            rid, tokens_out=1, due_micros=due_micros, end="finished", make_receipt=make
        )
        assert receipt is not None
        _let_out(f"r {rid.hex()} {receipt_hash(receipt).hex()}")


def _let_out(line: str) -> None:
    os.write(1, f"{line}\n".encode())  # one write of less than PIPE_BUF: whole or not at all


async def _child(path: Path, *, lets_out_first: bool) -> None:
    async with open_seller_book(path) as book, trio.open_nursery() as nursery:
        for number in range(1, CHANNELS + 1):
            nursery.start_soon(lambda n: _sell(book, n, lets_out_first=lets_out_first), number)


def run(path: Path, *, kills: int, lets_out_first: bool = False, seed: int = 1) -> Outcome:
    """Start, kill and check, so many times, on one book; the control ends once it was caught."""
    chance = random.Random(seed)
    outcome = Outcome()
    best: dict[int, int] = {}
    receipts: dict[str, str] = {}
    command = [sys.executable, "-m", "tests.node.money.crash_seller", "--child", str(path)]
    for _ in range(kills):
        lines = _until_killed(
            [*command, "--let-out-first"] if lets_out_first else command, chance.uniform(0.0, 0.15)
        )
        outcome.kills += 1
        for kind, name, value in (line.split() for line in lines):
            if kind == "v":
                best[int(name)] = max(best.get(int(name), 0), int(value))
                outcome.vouchers += 1
            else:
                receipts[name] = value
                outcome.receipts += 1
        trio.run(_check, path, best, receipts, outcome)
        if lets_out_first and outcome.violations:
            break
    return outcome


def _until_killed(command: list[str], alive_s: float) -> list[str]:
    """What the child let out, from its first line on for so long; it is killed without warning."""
    known = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, env=known)
    assert child.stdout is not None
    try:
        first = child.stdout.readline()
        assert first, f"the seller ended with {child.wait(START_S)}"
        time.sleep(alive_s)  # the moment of the kill is what is tried
        child.send_signal(signal.SIGKILL)
        rest = child.stdout.read()
    finally:
        child.kill()
        child.wait(START_S)
        child.stdout.close()
    return [line for line in (first + rest).decode().split("\n") if line]


async def _check(path: Path, best: dict[int, int], receipts: dict[str, str], outcome: Outcome) -> None:
    async with open_seller_book(path) as book:
        for number, amount_micros in best.items():
            channel = await book.channel(id_of(number))
            known_micros = 0 if channel is None else channel.best_micros
            if known_micros < amount_micros:
                outcome.violations.append(f"channel {number}: {amount_micros} let out, {known_micros} known")
            if channel is not None and channel.best != voucher(known_micros, number=number):
                outcome.violations.append(f"channel {number}: the voucher is not its signer's")
            if channel is not None and channel.live_micros:
                outcome.violations.append(f"channel {number}: a request of a dead process is live")
        for rid, hash_ in receipts.items():
            request = await book.request(RequestId(bytes.fromhex(rid)))
            stored = None if request is None or request.receipt is None else decode_receipt(request.receipt)
            if stored is None or receipt_hash(stored).hex() != hash_:
                outcome.violations.append(f"request {rid[-8:]}: another receipt than the one let out")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--let-out-first", action="store_true")
    parser.add_argument("--child", type=Path)
    options = parser.parse_args()
    if options.child is not None:
        trio.run(lambda: _child(options.child, lets_out_first=options.let_out_first))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "seller.db"
        outcome = run(path, kills=options.kills, lets_out_first=options.let_out_first)
    print(
        f"{outcome.kills} kills, {outcome.vouchers} vouchers and {outcome.receipts} receipts let out,"
        f" {len(outcome.violations)} violations"
    )
    for line in outcome.violations[:10]:
        print(line)
    sys.exit(bool(outcome.violations) != options.let_out_first)


if __name__ == "__main__":
    main()
