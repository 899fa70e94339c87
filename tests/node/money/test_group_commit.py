"""Many tasks, one thread that writes: what shares a commit, what fails alone, what happens at the end."""

import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest
import trio
import trio.testing

from unhosted.node.core.errors import LocalFault, Refused
from unhosted.node.shell.money import group_commit
from unhosted.node.shell.money.group_commit import group_writer

PATIENCE_S = 30.0


class Disk:
    """A disk that commits when it is let, and remembers what went into each commit."""

    def __init__(self) -> None:
        self.commits: list[list[str]] = []
        self.may_commit = threading.Event()
        self.may_commit.set()
        self.is_committing = threading.Event()
        self.fault: BaseException | None = None

    @contextmanager
    def batch(self) -> Iterator[list[str]]:
        rows: list[str] = []
        yield rows
        self.is_committing.set()
        assert self.may_commit.wait(PATIENCE_S)
        if self.fault is not None:
            raise self.fault
        self.commits.append(rows)


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        with trio.fail_after(PATIENCE_S):
            await main()

    trio.run(bounded)


def note(text: str) -> Callable[[list[str]], str]:
    def work(rows: list[str]) -> str:
        rows.append(text)
        return text.upper()

    return work


def test_those_who_wait_share_the_next_commit() -> None:
    async def main() -> None:
        disk = Disk()
        disk.may_commit.clear()
        async with group_writer(disk.batch, name="t") as writer, trio.open_nursery() as nursery:
            answers: list[str] = []

            async def write(text: str) -> None:
                answers.append(await writer.write(note(text)))

            for number in range(9):
                nursery.start_soon(write, f"r{number}")
            await trio.testing.wait_all_tasks_blocked()
            assert answers == [], "nobody is answered before the commit"
            disk.may_commit.set()
        assert sum(map(len, disk.commits)) == 9 and len(disk.commits) <= 2
        assert sorted(answers) == [f"R{number}" for number in range(9)]

    run(main)


def test_one_refusal_leaves_the_others_alone() -> None:
    async def main() -> None:
        disk = Disk()

        def refuse(rows: list[str]) -> None:
            raise Refused("cap_reached", "no")

        async with group_writer(disk.batch, name="t") as writer:
            with pytest.raises(Refused, match="no"):
                await writer.write(refuse)
            assert await writer.write(note("a")) == "A"

    run(main)


def test_a_commit_that_fails_fails_everybody_in_it_and_nobody_after() -> None:
    async def main() -> None:
        disk = Disk()
        disk.fault = Refused("disk_full", "full", retry_after_s=3)
        async with group_writer(disk.batch, name="t") as writer:
            with pytest.raises(Refused, match="full") as caught:
                await writer.write(note("a"))
            assert caught.value.retry_after_s == 3
            disk.fault = None
            assert await writer.write(note("b")) == "B"
        assert disk.commits == [["b"]]

    run(main)


def test_a_fault_ends_the_writer_and_reaches_who_waits() -> None:
    async def main() -> None:
        disk = Disk()

        def fail(rows: list[str]) -> None:
            raise LocalFault("broken")

        async with group_writer(disk.batch, name="t") as writer:
            with pytest.raises(LocalFault, match="broken"):
                await writer.write(fail)
            with pytest.raises(trio.ClosedResourceError):
                await writer.write(note("a"))
        assert disk.commits == []

    run(main)


def test_a_cancelled_job_that_had_not_begun_can_be_dropped() -> None:
    async def main() -> None:
        disk = Disk()
        disk.may_commit.clear()
        async with group_writer(disk.batch, name="t") as writer, trio.open_nursery() as nursery:
            nursery.start_soon(writer.write, note("first"))
            await trio.to_thread.run_sync(disk.is_committing.wait)
            for is_droppable, text in ((True, "dropped"), (False, "kept")):
                with trio.move_on_after(0):
                    await writer.write(note(text), is_droppable=is_droppable)
            disk.may_commit.set()
            await writer.write(note("last"))
        written = [row for rows in disk.commits for row in rows]
        assert written == ["first", "kept", "last"]

    run(main)


def test_what_waits_at_the_end_is_written() -> None:
    async def main() -> None:
        disk = Disk()
        async with group_writer(disk.batch, name="t") as writer:
            writer.write_soon(note("a"))
            writer.write_soon(note("b"))
        assert [row for rows in disk.commits for row in rows] == ["a", "b"]
        with pytest.raises(trio.ClosedResourceError):
            writer.write_soon(note("c"))

    run(main)


def test_too_many_writes_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "JOBS_WAITING_MAX", 3)

    async def main() -> None:
        disk = Disk()
        disk.may_commit.clear()
        async with group_writer(disk.batch, name="t") as writer, trio.open_nursery() as nursery:
            for _ in range(50):
                writer.write_soon(note("a"))
            with pytest.raises(Refused, match="wait for the disk"):
                for _ in range(50):
                    writer.write_soon(note("b"))
                    await writer.write(note("c"))
            disk.may_commit.set()
            nursery.cancel_scope.cancel()

    run(main)
