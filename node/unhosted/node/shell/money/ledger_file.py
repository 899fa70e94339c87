"""The spending ledger on the disk: the rules of `market.spending`, applied to SQLite in transactions.

When it is opened it is checked whole: pages, checksums, sums, and its seal. A ledger that fails a check is
refused; one that is behind its seal, or whose seal is gone, has lost history and pays nothing until the
channels were read from the chain. Reservations of processes that died are ended, with what they may owe.
"""

import logging
import secrets
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from unhosted.market.channels import ChannelConfig, Deployment
from unhosted.market.ids import Address, ChannelId
from unhosted.market.months import Month
from unhosted.market.spending import decide, rolled
from unhosted.market.spending_state import SpendingState, check_decision, check_state
from unhosted.market.spending_words import (
    Book,
    Decision,
    HistoryLost,
    MoneyAuthorised,
    RequestFinished,
    RequestLost,
    RereadNeeded,
    SpendingEvent,
    View,
)
from unhosted.node.core.errors import LocalFault, Refused
from unhosted.node.shell.money import ledger_tables as tables
from unhosted.node.shell.money.database import broken, explained, open_database, transaction
from unhosted.node.shell.money.ledger_reading import view_of
from unhosted.node.shell.money.ledger_tables import LEDGER_KIND, RowDamaged
from unhosted.node.shell.money.ledger_words import LedgerView
from unhosted.node.shell.money.owners import Owner, is_alive
from unhosted.node.shell.money.seal import Seal, Sealed

_LOG = logging.getLogger(__name__)
_LEDGER_ID_BYTES = 16
_BY_REQUEST = (MoneyAuthorised, RequestFinished, RequestLost)


class LedgerBatch:
    """One transaction on the ledger. `owner` is this process."""

    def __init__(self, database: sqlite3.Connection, book: Book, *, now_ns: int, owners: Path) -> None:
        self.book = book
        self.is_changed = False
        self._database = database
        self._now_ns = now_ns
        self._owners = owners

    def apply(self, event: SpendingEvent) -> Decision:
        """Decide, and write what was decided; durable when the batch has ended. A refusal changes no row."""
        view = self._view(event)
        decision = decide(view, event, self._now_ns)
        try:
            check_decision(view, decision)
        except RuntimeError as fault:
            raise LocalFault(str(fault)) from fault
        if decision.book != self.book:
            self.is_changed, self.book = True, decision.book
        if decision.refusal is None:
            self._write(view, decision)
        return decision

    def end_dead(self) -> int:
        """End the requests of processes that are gone; how many there were."""
        requests = list(tables.read_requests(self._database))
        dead = {
            owner for owner in {request.owner for request in requests} if not is_alive(self._owners, owner)
        }
        lost = [request for request in requests if request.owner in dead]
        for request in lost:
            self.apply(RequestLost(request_id=request.request_id))
        return len(lost)

    def put_config(self, deployment: Deployment, config: ChannelConfig) -> None:
        """After the channel's row is there."""
        tables.write_config(self._database, deployment, config)
        self.is_changed = True

    def lose_unread(self, read: Collection[ChannelId]) -> None:
        """Count the whole deposit of every open channel that was not among those read from the chain."""
        for row in list(tables.read_channels(self._database)):
            if not row.is_closed and row.channel_id not in read:
                self.apply(HistoryLost(channel_id=row.channel_id))

    def view(self) -> LedgerView:
        """As it is now, in the month that it is now."""
        return view_of(self._database, rolled(self.book, self._now_ns))

    def signer_of(self, of: ChannelId) -> Address | None:
        """The key whose vouchers count on the channel."""
        config = tables.read_config(self._database, of)
        return None if config is None else config[1].signer

    def _view(self, event: SpendingEvent) -> View:
        request_id = getattr(event, "request_id", None)
        request = tables.read_request(self._database, request_id) if request_id is not None else None
        if isinstance(event, _BY_REQUEST):
            of = request.channel_id if request else None
        else:
            of = getattr(event, "channel_id", None)
        return View(
            book=rolled(self.book, self._now_ns),
            channel=tables.read_channel(self._database, of) if of is not None else None,
            request=request,
            spent_by_month=tables.read_spent(self._database, of) if of is not None else (),
        )

    def _write(self, view: View, decision: Decision) -> None:
        channel, request = decision.channel, decision.request
        if channel is not None and channel != view.channel:
            tables.write_channel(self._database, channel)
            self.is_changed = True
        if channel is not None:
            for month, micros in decision.spent:
                tables.write_spent(self._database, channel.channel_id, month, micros)
        if request is not None and decision.is_request_over:
            tables.delete_request(self._database, request.request_id)
            self.is_changed = True
        elif request is not None and request != view.request:
            tables.write_request(self._database, request)
            self.is_changed = True
        for entry in decision.entries:
            tables.add_entry(self._database, entry)
            self.is_changed = True


class LedgerFile:
    """The ledger at `path`, sealed at `seal_path` (in another folder: what is backed up together is restored
    together). One thread at a time; other processes may have it open, too.

    Raises: Refused (ledger_damaged, disk_full, overloaded), from any method.
    """

    def __init__(self, path: Path, seal_path: Path, *, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self.path = path
        self._clock_ns = clock_ns
        self._owners = path.with_name(f"{path.name}.owners")
        self._damage: Refused | None = None
        with explained(path, LEDGER_KIND):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._seal = Seal(seal_path)
            try:
                self._owner = Owner(self._owners)
            except BaseException:
                self._seal.close()
                raise
        try:
            self._database = open_database(path, LEDGER_KIND)
        except BaseException:
            self._owner.close()
            self._seal.close()
            raise
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    @property
    def owner(self) -> str:
        """This process, in the reservations that it makes."""
        return self._owner.name

    def close(self) -> None:
        self._database.close()
        self._owner.close()
        self._seal.close()

    @contextmanager
    def batch(self) -> Iterator[LedgerBatch]:
        """One transaction; what was applied in it is on the disk when this ends."""
        if self._damage is not None:
            raise self._damage
        try:
            with self._trusted(), transaction(self._database):
                ledger_id, commits, book = self._read_book()
                batch = LedgerBatch(self._database, book, now_ns=self._clock_ns(), owners=self._owners)
                yield batch
                if batch.is_changed:
                    commits += 1
                    tables.write_book(self._database, ledger_id, commits, batch.book)
        except Refused as refused:
            if refused.code == "ledger_damaged":
                # After a sync that failed, the next one may say that all is well although it is not.
                self._damage = refused
            raise
        if batch.is_changed:
            self._write_seal(Sealed(ledger_id=ledger_id, commits=commits))

    def audit(self) -> SpendingState:
        """Read everything and add it up. Raises: Refused (ledger_damaged) with the sum that is broken."""
        with self._trusted(), transaction(self._database):
            return _audited(self._database)

    def _begin(self) -> None:
        """Check the ledger and its seal; end what dead processes had reserved."""
        with self._trusted(), transaction(self._database):
            sealed = self._seal.read()
            found = tables.read_book(self._database)
            if found is None:
                _check_empty(self._database)
                ledger_id, commits, book = secrets.token_bytes(_LEDGER_ID_BYTES), 0, Book()
                is_lost = sealed is not None
            else:
                ledger_id, commits, book = found
                _audited(self._database)
                is_lost = sealed is None or sealed.ledger_id != ledger_id or sealed.commits > commits
                if sealed is not None and sealed.ledger_id == ledger_id:
                    commits = max(commits, sealed.commits)
            batch = LedgerBatch(self._database, book, now_ns=self._clock_ns(), owners=self._owners)
            batch.end_dead()
            if is_lost:
                _LOG.error("ledger_lost_history path=%s commits=%d sealed=%s", self.path, commits, sealed)
                batch.apply(RereadNeeded())
            commits += 1
            tables.write_book(self._database, ledger_id, commits, batch.book)
        self._write_seal(Sealed(ledger_id=ledger_id, commits=commits))

    def _read_book(self) -> tuple[bytes, int, Book]:
        found = tables.read_book(self._database)
        if found is None:
            raise RowDamaged("the book is gone")
        return found

    def _write_seal(self, sealed: Sealed) -> None:
        try:
            self._seal.write(sealed)
        except OSError as error:
            # What was committed stands. Without its seal a restored backup is not noticed, so say it loudly.
            _LOG.error("ledger_seal_not_written path=%s error=%s", self._seal.path, error)

    @contextmanager
    def _trusted(self) -> Iterator[None]:
        with explained(self.path, LEDGER_KIND):
            try:
                yield
            except RowDamaged as damage:
                raise broken(self.path, LEDGER_KIND, str(damage)) from damage


def _check_empty(database: sqlite3.Connection) -> None:
    for table in ("channels", "spent", "requests", "entries"):
        if database.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone() is not None:
            raise RowDamaged("the book is gone")


def _audited(database: sqlite3.Connection) -> SpendingState:
    found = tables.read_book(database)
    if found is None:
        raise RowDamaged("the book is gone")
    spent: dict[ChannelId, dict[Month, int]] = {}
    for of, month, micros in tables.read_all_spent(database):
        spent.setdefault(of, {})[month] = micros
    state = SpendingState(
        book=found[2],
        channels={row.channel_id: row for row in tables.read_channels(database)},
        requests={row.request_id: row for row in tables.read_requests(database)},
        spent=spent,
    )
    try:
        check_state(state)
    except RuntimeError as fault:
        raise RowDamaged(str(fault)) from fault
    _check_history(database, state)
    return state


def _check_history(database: sqlite3.Connection, state: SpendingState) -> None:
    """What the lines of history and the live requests counted is what was spent, month by month."""
    counted: dict[Month, int] = dict(
        database.execute("SELECT month, sum(counted) FROM entries GROUP BY month")
    )
    for request in state.requests.values():
        counted[request.month] = counted.get(request.month, 0) + request.counted_micros
    spent: dict[Month, int] = {}
    for months in state.spent.values():
        for month, micros in months.items():
            spent[month] = spent.get(month, 0) + micros
    for month in counted.keys() | spent.keys():
        if counted.get(month, 0) != spent.get(month, 0):
            raise RowDamaged(
                f"history counts {counted.get(month, 0)} micro-USDC in month {month},"
                f" the channels {spent.get(month, 0)}"
            )
