"""The record of checks on the disk: the state of `core.checks`, changed by whole steps.

A step is one transaction: what is known of a pair, the jobs, and the word on each answer change together or
not at all, before anything that follows from it is done. So an answer whose check was cut off by a crash is
read again, and one that was counted is not. A draw is in the same transaction as its receipt: it cannot be
repeated until it falls as somebody likes.

Where answers are kept is another file. What was decided is marked there afterwards, and again after a crash
until it was: marking twice changes nothing.
"""

import logging
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from unhosted.market.ids import RequestId
from unhosted.node.core.checks import step
from unhosted.node.core.checks_words import (
    CheckDone,
    CheckWanted,
    CountPrompt,
    Effect,
    Event,
    Forgiven,
    Limits,
    Pair,
    PairKey,
    ReceiptCame,
    Record,
    State,
    Status,
)
from unhosted.node.shell.checking import rows
from unhosted.node.shell.checking.rows import CHECKS_KIND, CheckedLine
from unhosted.node.shell.money.database import (
    RowDamaged,
    alone,
    broken,
    explained,
    open_database,
    transaction,
)

_LOG = logging.getLogger(__name__)

LINES_KEPT = 20_000
"""Answers that `unhosted receipts` can say something of: months of a busy buyer, some 8 MB."""

LINES_SHOWN_MAX = 1_000
UNTOLD_PER_READ_MAX = 256
"""Read in one piece; after a crash there are as many as one step had."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BookView:
    """As it stands on the disk. lines: newest first."""

    pairs: dict[PairKey, Pair]
    lines: tuple[CheckedLine, ...]
    counts: dict[Status, tuple[int, int, int]]


class CheckBook:
    """Of one process at a time, one thread at a time. Made by `open_book`.

    Raises: Refused (ledger_damaged, disk_full, overloaded), from any method; then nothing was changed.
    """

    def __init__(self, path: Path, database: sqlite3.Connection, state: State) -> None:
        self.state = state
        self._path = path
        self._database = database

    def apply(self, event: Event, *, now_ns: int) -> tuple[Effect, ...]:
        """One step, on the disk when this returns; then its effects are to be performed.

        A receipt that was drawn before is not drawn again, and an answer that was read is not counted again.
        """
        before = self.state
        with self._batch() as database:
            if _is_over(database, event):
                return ()
            event = _with_repeat(database, before, event)
            after, effects = step(before, event, now_ns)
            if isinstance(event, Forgiven):
                rows.delete_prompts(database, event.pair)
            _write(database, before, after, effects, now_unix_s=now_ns // 1_000_000_000)
        self.state = after
        return effects

    def line(self, request_id: RequestId) -> CheckedLine | None:
        """What is known of one answer."""
        with self._batch() as database:
            return rows.read_line(database, request_id)

    def untold(self) -> list[CheckedLine]:
        """Decided, and not marked yet where answers are kept; oldest first, some of them."""
        with self._batch() as database:
            return rows.read_untold(database, count_max=UNTOLD_PER_READ_MAX)

    def told(self, request_ids: Sequence[RequestId]) -> None:
        with self._batch() as database:
            for request_id in request_ids:
                rows.write_told(database, request_id)
            rows.delete_old(database, keep=LINES_KEPT)

    def counts(self) -> dict[Status, tuple[int, int, int]]:
        with self._batch() as database:
            return rows.count_by_status(database)

    @contextmanager
    def _batch(self) -> Iterator[sqlite3.Connection]:
        with _batch(self._path, self._database) as database:
            yield database


@contextmanager
def open_book(path: Path, limits: Limits, *, now_ns: int) -> Iterator[CheckBook]:
    """The record at `path`, for this process alone, made if there is none. Blocks.

    Raises: Refused (ledger_damaged, disk_full, overloaded).
    """
    with explained(path, CHECKS_KIND):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _only_this_process(path), closing(open_database(path, CHECKS_KIND)) as database:
        with _batch(path, database):
            jobs = {job.request_id: job for job in rows.read_jobs(database)}
            state = State(
                limits=limits,
                pairs=dict(rows.read_pairs(database)),
                jobs=jobs,
                left_tokens=limits.tokens_per_hour,
                filled_ns=now_ns,
                order=max((job.order for job in jobs.values()), default=0),
            )
        if jobs:
            _LOG.info("checks_waiting count=%d", len(jobs))
        yield CheckBook(path, database, state)


def read_book(path: Path, *, lines_max: int = LINES_SHOWN_MAX) -> BookView:
    """What the record says, while a node may be writing it; empty if there is none. Blocks.

    Raises: Refused (ledger_damaged, overloaded).
    """
    if not path.exists():
        return BookView(pairs={}, lines=(), counts={})
    with closing(open_database(path, CHECKS_KIND)) as database, explained(path, CHECKS_KIND):
        try:
            database.execute("BEGIN")
            return BookView(
                pairs=dict(rows.read_pairs(database)),
                lines=tuple(rows.read_lines(database, count_max=min(lines_max, LINES_SHOWN_MAX))),
                counts=rows.count_by_status(database),
            )
        except RowDamaged as damage:
            raise broken(path, CHECKS_KIND, str(damage)) from damage


def _is_over(database: sqlite3.Connection, event: Event) -> bool:
    if not isinstance(event, ReceiptCame | CheckWanted):
        return False
    line = rows.read_line(database, event.request_id)
    return line is not None and (isinstance(event, ReceiptCame) or line.status in ("checked", "faulty"))


def _with_repeat(database: sqlite3.Connection, state: State, event: Event) -> Event:
    """With what the record says of a prompt, in the transaction that counts it."""
    if not isinstance(event, CheckDone) or event.request_id not in state.jobs:
        return event
    is_repeat = rows.has_prompt(database, state.jobs[event.request_id].pair, event.prompt)
    return replace(event, is_repeat=is_repeat)


def _write(
    database: sqlite3.Connection, before: State, after: State, effects: Sequence[Effect], *, now_unix_s: int
) -> None:
    for key in before.pairs.keys() - after.pairs.keys():
        rows.delete_pair(database, key)
        rows.delete_prompts(database, key)
    for key, pair in after.pairs.items():
        if before.pairs.get(key) is not pair:
            rows.write_pair(database, key, pair)
    for request_id in before.jobs.keys() - after.jobs.keys():
        rows.delete_job(database, request_id)
    for request_id, job in after.jobs.items():
        if before.jobs.get(request_id) is not job:
            rows.write_job(database, job)
    for effect in effects:
        if isinstance(effect, Record):
            rows.write_record(database, effect, now_unix_s=now_unix_s)
        elif isinstance(effect, CountPrompt):
            rows.write_prompt(database, effect.pair, effect.prompt)


@contextmanager
def _batch(path: Path, database: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    with explained(path, CHECKS_KIND):
        try:
            with transaction(database):
                yield database
        except RowDamaged as damage:
            raise broken(path, CHECKS_KIND, str(damage)) from damage


def _only_this_process(path: Path) -> AbstractContextManager[None]:
    """Two checkers on one record would count an answer twice."""
    return alone(path, CHECKS_KIND, then="ask the running node, or stop it first")
