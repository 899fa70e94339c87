"""A ledger on a disk that is full, or read-only: run in a mount namespace of its own, prints JSON.

`unshare --mount --map-root-user python -m tests.node.money.small_disk full|read-only|seal FOLDER`
"""

import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import trio

from tests.node.money.ledger_world import Clock, files, ledger_in, of, ready_ledger, request
from unhosted.node.core.errors import Refused
from unhosted.node.shell.money.ledger import Ledger, open_ledger

DISK_KB = 400
PAYMENTS_MAX = 5_000


def mount(folder: Path, options: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


async def refusal(call: Callable[[], Awaitable[object]]) -> list[str]:
    try:
        await call()
    except Refused as refused:
        return [refused.code, refused.message]
    return ["ok", ""]


async def pay_until_refused(ledger: Ledger, first: int) -> tuple[int, list[str]]:
    """Requests of 10 each, eight at a time: what was granted, and the first refusal."""
    granted, why = 0, ["ok", ""]

    async def one(number: int) -> None:
        nonlocal granted, why
        try:
            await ledger.reserve(request(number), of(1 + number % 2), 10)
            await ledger.authorise(request(number), 10)
            granted += 10
            await ledger.finish(request(number), 10)
        except Refused as refused:
            why = [refused.code, refused.message]

    for number in range(first, first + PAYMENTS_MAX, 8):
        async with trio.open_nursery() as nursery:
            for offset in range(8):
                nursery.start_soon(one, number + offset)
        if why[0] != "ok":
            break
    return granted, why


async def full(folder: Path) -> dict[str, object]:
    """Pay until the disk is full; make room, and go on; then open it again."""
    disk = folder / "data"
    mount(disk, f"size={DISK_KB}k")
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(100_000))
    async with ready_ledger(folder, cap=10**9, deposit=10**9) as ledger:
        granted, why = await pay_until_refused(ledger, 0)
        again = await refusal(lambda: ledger.reserve(request(10**6), of(1), 10))
        ballast.unlink()
        more, _ = await pay_until_refused(ledger, 10**7)
        spent = (await ledger.view()).book.spent_micros
    remount(disk, "size=4m")
    async with ledger_in(folder, cap=10**9) as ledger:
        book = (await ledger.view()).book
    return {
        "granted": granted,
        "why": why,
        "again": again[0],
        "more": more,
        "spent": spent,
        "spent_after": book.spent_micros,
        "reserved_after": book.reserved_micros,
    }


async def read_only(folder: Path) -> dict[str, object]:
    """A disk that turns read-only under a running ledger, and one that was before it was opened."""
    disk = folder / "data"
    mount(disk, "size=4m")
    async with ready_ledger(folder, cap=1000) as ledger:
        await ledger.reserve(request(1), of(1), 100)
        spent = await ledger.authorise(request(1), 30)
    remount(disk, "ro")

    async def open_it() -> None:
        async with ledger_in(folder, cap=1000):
            raise AssertionError("it was opened")

    opened = await refusal(open_it)
    remount(disk, "rw")
    async with ledger_in(folder, cap=1000, clock=Clock()) as ledger:
        book = (await ledger.view()).book
    return {"spent": spent, "opened": opened, "spent_after": book.spent_micros, "reread": book.must_reread}


async def seal(folder: Path) -> dict[str, object]:
    """The seal's disk is full from the start: its place was taken when it was made."""
    state = files(folder)[1].parent
    mount(state, "size=64k")
    async with ready_ledger(folder, cap=1000) as ledger:
        with suppress(OSError):
            (state / "ballast").write_bytes(bytes(1 << 20))
        await ledger.reserve(request(1), of(1), 100)
        total = await ledger.authorise(request(1), 30)
    async with ledger_in(folder, cap=1000) as ledger:
        book = (await ledger.view()).book

    async def open_another() -> None:
        path = folder / "other" / "ledger.db"
        async with open_ledger(path, state / "other.seal", cap_micros=1):
            raise AssertionError("it was opened")

    another = await refusal(open_another)
    return {"total": total, "reread": book.must_reread, "another": another[0]}


if __name__ == "__main__":
    case = {"full": full, "read-only": read_only, "seal": seal}[sys.argv[1]]
    sys.stdout.write(json.dumps(trio.run(case, Path(sys.argv[2]))) + "\n")
