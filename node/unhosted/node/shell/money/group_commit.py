"""One thread that writes for many tasks: whoever waits while the disk syncs shares the next commit.

A sync takes milliseconds and costs the same for one row as for a hundred, so the jobs that arrived during
the last commit go into one transaction. Each succeeds or fails alone, and none is answered before the COMMIT
has returned: an answer means that it is on the disk.
"""

import queue
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import trio

from unhosted.node.core.errors import Refused

JOBS_PER_COMMIT_MAX = 256
"""A transaction of these takes some 20 ms of work: longer ones would make the first of them wait."""

JOBS_WAITING_MAX = 4096
"""Three seconds of work: more are refused at once instead of waiting for longer than their streams live."""

Batch = TypeVar("Batch")
Result = TypeVar("Result")


@dataclass(slots=True, eq=False)
class _Job(Generic[Batch]):
    work: Callable[[Batch], Any]
    token: trio.lowlevel.TrioToken
    done: trio.Event = field(default_factory=trio.Event)
    is_cancelled: bool = False
    result: Any = None
    error: BaseException | None = None


class GroupWriter(Generic[Batch]):
    """Runs jobs in shared transactions. Made by `group_writer`."""

    def __init__(self, open_batch: Callable[[], AbstractContextManager[Batch]]) -> None:
        self._open_batch = open_batch
        self._jobs: queue.SimpleQueue[_Job[Batch] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._is_closed = False
        self._fault: BaseException | None = None

    async def write(self, work: Callable[[Batch], Result], *, is_droppable: bool = False) -> Result:
        """What `work` returns, once the transaction that it ran in is on the disk.

        work: runs in the writer's thread. If it raises Refused, only it fails, and what it wrote before
        stays; any other exception is a fault and ends the writer.
        Cancellation: the job may happen or not; with is_droppable it does not if it had not begun.
        Raises: what `work` or the batch raises; Refused (overloaded) if too many wait;
            trio.ClosedResourceError.
        """
        job = self._put(work)
        try:
            await job.done.wait()
        except trio.Cancelled:
            job.is_cancelled = is_droppable
            raise
        if job.error is not None:
            raise job.error
        result: Result = job.result
        return result

    def write_soon(self, work: Callable[[Batch], object]) -> None:
        """The same behind all jobs that wait already; nobody waits for it, and it is never one too many."""
        self._put(work, is_bounded=False)

    def _put(self, work: Callable[[Batch], Any], *, is_bounded: bool = True) -> _Job[Batch]:
        if is_bounded and self._jobs.qsize() >= JOBS_WAITING_MAX:
            raise Refused(
                "overloaded",
                f"{JOBS_WAITING_MAX} writes wait for the disk already; nothing was changed, try again",
                retry_after_s=1,
            )
        job = _Job(work, trio.lowlevel.current_trio_token())
        with self._lock:
            if self._is_closed:
                raise trio.ClosedResourceError("the writer is closed") from self._fault
            self._jobs.put(job)
        return job

    def work_until_closed(self) -> None:
        """The thread's life."""
        is_open = True
        while is_open:
            jobs, is_open = self._next_jobs()
            if jobs:
                self._commit(jobs)
                _answer(jobs)
            if self._fault is not None:
                self.close()
                is_open = False
        self._fail_the_rest()

    def close(self) -> None:
        """Let the thread end after what waits already."""
        with self._lock:
            self._is_closed = True
            self._jobs.put(None)

    def _next_jobs(self) -> tuple[list[_Job[Batch]], bool]:
        jobs: list[_Job[Batch]] = []
        job = self._jobs.get()
        while job is not None:
            jobs.append(job)
            if len(jobs) == JOBS_PER_COMMIT_MAX:
                return jobs, True
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return jobs, True
        return jobs, False

    def _commit(self, jobs: Sequence[_Job[Batch]]) -> None:
        try:
            with self._open_batch() as batch:
                for job in jobs:
                    if job.is_cancelled:
                        continue
                    try:
                        job.result = job.work(batch)
                    except Refused as refused:
                        job.error = refused
        except Refused as refused:  # the transaction did not happen: full disk, held by another process
            for job in jobs:
                job.error = Refused(
                    refused.code,
                    refused.message,
                    retry_after_s=refused.retry_after_s,
                    details=refused.details,
                )
        except BaseException as fault:
            self._fault = fault
            for job in jobs:
                job.error = fault

    def _fail_the_rest(self) -> None:
        rest = []
        while not self._jobs.empty():
            job = self._jobs.get_nowait()
            if job is not None:
                job.error = trio.ClosedResourceError("the writer is closed")
                rest.append(job)
        if rest:
            _answer(rest)


def _answer(jobs: Sequence[_Job[Any]]) -> None:
    """Wake who waits; one call into the event loop for all that live in the same one."""
    by_token: dict[trio.lowlevel.TrioToken, list[_Job[Any]]] = {}
    for job in jobs:
        by_token.setdefault(job.token, []).append(job)
    for token, those in by_token.items():
        try:
            token.run_sync_soon(_wake, those)
        except trio.RunFinishedError:
            continue  # nobody is left to hear it


def _wake(jobs: Sequence[_Job[Any]]) -> None:
    for job in jobs:
        job.done.set()


@asynccontextmanager
async def group_writer(
    open_batch: Callable[[], AbstractContextManager[Batch]], *, name: str
) -> AsyncIterator[GroupWriter[Batch]]:
    """A writer with its thread. At the end it finishes what waits, then stops.

    open_batch: one transaction; its end is the commit. Raises Refused if nothing of it happened.
    """
    writer = GroupWriter(open_batch)
    thread = threading.Thread(target=writer.work_until_closed, name=name, daemon=True)
    thread.start()
    try:
        yield writer
    finally:
        writer.close()
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(thread.join)
