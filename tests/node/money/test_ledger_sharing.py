"""One ledger for many: tasks at once, tasks that are cancelled, processes that share it or die."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from tests.node.money.ledger_world import (
    NOW_UNIX_S,
    Clock,
    config,
    files,
    ledger_in,
    of,
    ready_ledger,
    request,
)
from tests.node.money.test_ledger import refused, run
from unhosted.node.core.errors import Refused
from unhosted.node.shell.money.group_commit import group_writer
from unhosted.node.shell.money.ledger import Ledger
from unhosted.node.shell.money.ledger_file import LedgerBatch, LedgerFile
from unhosted.node.shell.money.ledger_reading import read_history, read_view

ONE, TWO = of(1), of(2)
PATIENCE_S = 30.0


def test_many_tasks_at_once_never_pass_the_cap(tmp_path: Path) -> None:
    async def main() -> None:
        async with ready_ledger(tmp_path, cap=300) as ledger:
            granted: list[int] = []

            async def stream(number: int) -> None:
                try:
                    await ledger.reserve(request(number), (ONE, TWO)[number % 2], 7)
                    for _ in range(7):
                        await ledger.authorise(request(number), 1)
                        granted.append(1)
                except Refused as error:
                    assert error.code == "cap_reached"

            async with trio.open_nursery() as nursery:
                for number in range(100):
                    nursery.start_soon(stream, number)
            view = await ledger.view()
            assert view.book.spent_micros == len(granted) == 42 * 7

    run(main)


def test_a_cancelled_reserve_leaves_nothing_reserved(tmp_path: Path) -> None:
    async def main() -> None:
        async with ready_ledger(tmp_path) as ledger:
            for number in range(20):
                with trio.move_on_after(0) as scope:
                    await ledger.reserve(request(number), ONE, 10)
                assert scope.cancelled_caught
            async with trio.open_nursery() as nursery:
                for number in range(20, 40):
                    nursery.start_soon(ledger.reserve, request(number), ONE, 10)
                await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
            view = await ledger.view()
            assert (view.book.reserved_micros, view.book.requests_live) == (0, 0)

    run(main)


def test_a_reserve_that_is_cancelled_in_mid_commit_is_given_back(tmp_path: Path) -> None:
    """The worst moment: the row is written, the disk is not done, and nobody waits any more."""

    async def main() -> None:
        async with ready_ledger(tmp_path):
            pass
        file = LedgerFile(*files(tmp_path), clock_ns=Clock())
        is_written, may_commit = threading.Event(), threading.Event()

        @contextmanager
        def held_batch() -> Iterator[LedgerBatch]:
            with file.batch() as batch:
                yield batch
                is_written.set()
                assert may_commit.wait(PATIENCE_S)

        async with group_writer(held_batch, name="t") as writer, trio.open_nursery() as nursery:
            ledger = Ledger(file, writer)
            with trio.CancelScope() as scope:
                nursery.start_soon(_cancel_when, is_written, scope)
                await ledger.reserve(request(1), ONE, 10)
            assert scope.cancelled_caught
            may_commit.set()
            view = await ledger.view()
            assert (view.book.reserved_micros, view.book.requests_live) == (0, 0)
        file.close()

    run(main)


async def _cancel_when(happened: threading.Event, scope: trio.CancelScope) -> None:
    await trio.to_thread.run_sync(happened.wait)
    scope.cancel()


def test_a_ledger_that_could_not_be_written_stays_closed_until_it_is_opened_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with ready_ledger(tmp_path) as ledger:
            await ledger.reserve(request(1), ONE, 10)
        file = LedgerFile(*files(tmp_path), clock_ns=Clock())
        async with group_writer(file.batch, name="t") as writer:
            ledger = Ledger(file, writer)
            with sqlite_read_only(file):
                error = await refused(ledger.reserve(request(2), ONE, 10), "ledger_damaged")
                assert "writable" in error.message
            # A sync that failed may be followed by one that succeeds although what it should hold is gone.
            await refused(ledger.reserve(request(3), ONE, 10), "ledger_damaged")
        file.close()
        async with ledger_in(tmp_path) as ledger:
            await ledger.reserve(request(4), ONE, 10)

    run(main)


@contextmanager
def sqlite_read_only(file: LedgerFile) -> Iterator[None]:
    """As if the disk had turned read-only under the open file."""
    file._database.execute("PRAGMA query_only = ON")
    yield
    file._database.execute("PRAGMA query_only = OFF")


def test_a_cancelled_authorisation_stays_counted_or_never_was(tmp_path: Path) -> None:
    async def main() -> None:
        async with ready_ledger(tmp_path) as ledger:
            await ledger.reserve(request(1), ONE, 100)
            async with trio.open_nursery() as nursery:
                for _ in range(10):
                    nursery.start_soon(ledger.authorise, request(1), 1)
                await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
            total = await ledger.authorise(request(1), 0)
            assert 0 <= total <= 10 and (await ledger.view()).book.spent_micros == total

    run(main)


def test_after_the_end_nothing_hangs(tmp_path: Path) -> None:
    async def main() -> None:
        async with ready_ledger(tmp_path) as ledger:
            await ledger.reserve(request(1), ONE, 10)
        with pytest.raises(trio.ClosedResourceError):
            await ledger.authorise(request(1), 1)

    run(main)


@pytest.mark.slow
def test_the_reservation_of_a_dead_process_is_ended_when_room_is_needed(tmp_path: Path) -> None:
    async def main() -> None:
        async with ready_ledger(tmp_path, cap=100) as ledger:
            dead = "tests.node.money.die_reserved"
            held = await trio.run_process(
                [sys.executable, "-m", dead, str(tmp_path), "90"],
                capture_stdout=True,
                check=False,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )
            assert held.stdout == b"reserved\n" and held.returncode == -9
            assert (await ledger.view()).book.reserved_micros == 90
            await ledger.reserve(request(1), TWO, 100)
            assert (await ledger.view()).book.reserved_micros == 100

    run(main)


def test_the_reservation_of_a_live_process_stays(tmp_path: Path) -> None:
    async def main() -> None:
        async with ready_ledger(tmp_path, cap=100) as one, ledger_in(tmp_path, cap=100) as other:
            await one.reserve(request(1), ONE, 90)
            await refused(other.reserve(request(2), TWO, 11), "cap_reached")
            async with ledger_in(tmp_path, cap=100) as third:
                assert (await third.view()).book.reserved_micros == 90
            assert await one.authorise(request(1), 90) == 90

    run(main)


def test_two_ledgers_on_one_file_share_the_cap(tmp_path: Path) -> None:
    async def main() -> None:
        async with ready_ledger(tmp_path, cap=200) as one, ledger_in(tmp_path, cap=200) as other:
            granted = [0]

            async def pay(ledger: Ledger, first: int) -> None:
                for number in range(first, first + 30):
                    try:
                        await ledger.reserve(request(number), (ONE, TWO)[number % 2], 5)
                        await ledger.authorise(request(number), 5)
                        granted[0] += 5
                        await ledger.finish(request(number), 5)
                    except Refused as error:
                        assert error.code == "cap_reached"

            async with trio.open_nursery() as nursery:
                nursery.start_soon(pay, one, 0)
                nursery.start_soon(pay, other, 100)
            assert granted[0] == (await one.view()).book.spent_micros == 200

    run(main)


def test_commands_read_the_ledger_while_a_node_runs(tmp_path: Path) -> None:
    path, _ = files(tmp_path)
    assert read_view(path) is None and read_history(path) == []

    async def main() -> None:
        async with ready_ledger(tmp_path) as ledger:
            await ledger.reserve(request(1), ONE, 100)
            await ledger.authorise(request(1), 30)
            await ledger.finish(request(1), 25)
            view = read_view(path, clock_ns=Clock())
            assert view == await ledger.view()
            lines = read_history(path)
            assert [line.kind for _, line in lines] == ["cap", "opened", "opened", "request"]
            last = lines[-1][1]
            assert (last.request_id, last.channel_id, last.counterparty) == (request(1), ONE, config(1).payee)
            assert read_history(path, after_id=lines[2][0]) == lines[3:]
            assert read_history(path, from_unix_s=NOW_UNIX_S + 1) == []

    run(main)


def test_the_files_are_closed_to_other_users(tmp_path: Path) -> None:
    async def main() -> None:
        async with ready_ledger(tmp_path):
            for path in tmp_path.rglob("*"):
                assert path.stat().st_mode & 0o077 == 0, path

    run(main)
