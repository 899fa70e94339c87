"""The journal of what was sent: an intent by its key, the nonce it has, and every signed form of it.

A transaction is on the disk before anybody can see it, so after a crash the same bytes are sent again instead
of a second transaction. Rows are never deleted: they are the history of fees as well.

States of an intent:
  open       may be in a mempool, or nowhere; its nonce is taken
  mined      stands in a block that can still vanish; then it is open again
  failed     the same, but the contract said no in that block
  safe       mined, deep enough
  failed_safe  failed, deep enough: the same key may try again
  displaced  another transaction with its nonce is safe: it can never be mined
  refused    every endpoint refused its first form: its nonce is free again
The last three are dead: a key has at most one intent that is not.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from unhosted.market.ids import Address
from unhosted.node.core.chain import Call
from unhosted.node.shell.chain.answers import Mined
from unhosted.node.shell.chain.fees import Fees
from unhosted.node.shell.money.database import FileKind, explained, open_database, transaction

State = Literal["open", "mined", "failed", "safe", "failed_safe", "displaced", "refused"]

KEY_CHARS_MAX = 200
LIVE_MAX = 1_000
"""Intents that are not done: more are a defect of whoever makes them, and each is asked for at every poll."""

KIND = FileKind(
    name="the journal of transactions",
    advice="nothing is sent until it is repaired or restored; what was sent is still on the chain",
    application_id=0x554E5458,
    version=1,
    schema="""
CREATE TABLE intents(
  id INTEGER PRIMARY KEY,
  network BLOB NOT NULL,
  key TEXT NOT NULL,
  sender BLOB NOT NULL,
  nonce INTEGER NOT NULL,
  recipient BLOB NOT NULL,
  data BLOB NOT NULL,
  purpose TEXT NOT NULL,
  gas_limit INTEGER NOT NULL,
  state TEXT NOT NULL,
  created_unix_s INTEGER NOT NULL,
  transaction_hash BLOB,
  block_number INTEGER,
  block_hash BLOB,
  block_unix_s INTEGER,
  gas_used INTEGER,
  fee_wei TEXT
) STRICT;
CREATE UNIQUE INDEX one_live_key ON intents(network, key)
  WHERE state NOT IN ('failed_safe', 'displaced', 'refused');
CREATE UNIQUE INDEX one_nonce ON intents(network, sender, nonce)
  WHERE state NOT IN ('displaced', 'refused');
CREATE TABLE attempts(
  hash BLOB PRIMARY KEY,
  intent INTEGER NOT NULL REFERENCES intents(id),
  raw BLOB NOT NULL,
  max_fee_wei INTEGER NOT NULL,
  tip_wei INTEGER NOT NULL,
  made_unix_s INTEGER NOT NULL
) STRICT;
CREATE INDEX attempts_of ON attempts(intent)
""",
)
_LIVE = "state IN ('open', 'mined', 'failed')"
_COLUMNS = (
    "id, key, sender, nonce, recipient, data, purpose, gas_limit, state, created_unix_s,"
    " transaction_hash, block_number, block_hash, block_unix_s, gas_used, fee_wei"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One signed form of an intent: `transaction` is its hash."""

    transaction: bytes
    raw: bytes
    fees: Fees
    made_unix_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction:
    """An intent and what became of it; `attempts` has the dearest, which is the newest, first. The fields
    after `created_unix_s` are None until it is in a block."""

    id: int
    key: str
    sender: Address
    nonce: int
    call: Call
    gas_limit: int
    state: State
    attempts: tuple[Attempt, ...]
    created_unix_s: int
    transaction: bytes | None = None
    block_number: int | None = None
    block_hash: bytes | None = None
    block_unix_s: int | None = None
    gas_used: int | None = None
    fee_wei: int | None = None


class Journal:
    """Blocking: for one thread at a time. network: which chain, so that a new local one starts empty."""

    def __init__(self, path: Path, *, network: bytes) -> None:
        self._path, self._network = path, network
        self._database = open_database(path, KIND)

    def close(self) -> None:
        self._database.close()

    def by_key(self, key: str) -> Transaction | None:
        """The intent that is not dead, or None."""
        rows = self._select(
            "key = ? AND state NOT IN ('failed_safe', 'displaced', 'refused')", (key,), limit=1
        )
        return rows[0] if rows else None

    def by_id(self, number: int) -> Transaction:
        return self._select("id = ?", (number,), limit=1)[0]

    def live(self, sender: Address | None = None) -> list[Transaction]:
        """Those that are not done, by nonce."""
        if sender is None:
            return self._select(f"{_LIVE} ORDER BY sender, nonce", (), limit=LIVE_MAX)
        return self._select(f"{_LIVE} AND sender = ? ORDER BY nonce", (sender,), limit=LIVE_MAX)

    def between(self, sender: Address, first_nonce: int, last_nonce: int) -> list[Transaction]:
        """Those that hold these nonces, done or not, by nonce."""
        where = (
            "sender = ? AND nonce BETWEEN ? AND ? AND state NOT IN ('displaced', 'refused') ORDER BY nonce"
        )
        return self._select(where, (sender, first_nonce, last_nonce), limit=LIVE_MAX)

    def history(self, *, limit: int, before_id: int | None = None) -> list[Transaction]:
        """The newest first."""
        where = "id < ? ORDER BY id DESC" if before_id is not None else "? IS NULL ORDER BY id DESC"
        return self._select(where, (before_id,), limit=limit)

    def begin(
        self,
        *,
        key: str,
        sender: Address,
        call: Call,
        gas_limit: int,
        fees: Fees,
        first_nonce: int,
        sign: Callable[[int], bytes],
        hash_of: Callable[[bytes], bytes],
        now_unix_s: int,
    ) -> tuple[Transaction, bool]:
        """Give an intent the lowest free nonce from `first_nonce` on and keep its first signed form, at once.

        sign: makes the raw transaction for a nonce. It is called while the journal is locked, so that no
        other process takes the same nonce. An intent that another process began under this key is given back
        instead. The second value says whether it is new.
        """
        with explained(self._path, KIND), transaction(self._database):
            if (other := self.by_key(key)) is not None:
                return other, False
            taken = self._database.execute(
                "SELECT nonce FROM intents WHERE network = ? AND sender = ? AND nonce >= ?"
                " AND state NOT IN ('displaced', 'refused')",
                (self._network, sender, first_nonce),
            )
            used = {row[0] for row in taken}
            nonce = next(
                number for number in range(first_nonce, first_nonce + len(used) + 1) if number not in used
            )
            raw = sign(nonce)
            values = (
                self._network,
                key,
                sender,
                nonce,
                call.to,
                call.data,
                call.purpose,
                gas_limit,
                now_unix_s,
            )
            number = self._database.execute(
                "INSERT INTO intents(network, key, sender, nonce, recipient, data, purpose, gas_limit, state,"
                " created_unix_s) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'open', ?)",
                values,
            ).lastrowid
            assert number is not None
            self._insert_attempt(number, hash_of(raw), raw, fees, now_unix_s)
        return self.by_id(number), True

    def add_attempt(
        self, number: int, *, transaction_hash: bytes, raw: bytes, fees: Fees, now_unix_s: int
    ) -> Transaction:
        with explained(self._path, KIND), transaction(self._database):
            self._insert_attempt(number, transaction_hash, raw, fees, now_unix_s)
        return self.by_id(number)

    def mark(self, number: int, state: State) -> Transaction:
        """A state without a block: `open` again, `displaced` or `refused`."""
        with explained(self._path, KIND), transaction(self._database):
            self._database.execute(
                "UPDATE intents SET state = ?, transaction_hash = NULL, block_number = NULL,"
                " block_hash = NULL, block_unix_s = NULL, gas_used = NULL, fee_wei = NULL WHERE id = ?",
                (state, number),
            )
        return self.by_id(number)

    def mark_mined(self, number: int, mined: Mined, *, block_unix_s: int, is_safe: bool) -> Transaction:
        if mined.succeeded:
            state: State = "safe" if is_safe else "mined"
        else:
            state = "failed_safe" if is_safe else "failed"
        with explained(self._path, KIND), transaction(self._database):
            self._database.execute(
                "UPDATE intents SET state = ?, transaction_hash = ?, block_number = ?, block_hash = ?,"
                " block_unix_s = ?, gas_used = ?, fee_wei = ? WHERE id = ?",
                (
                    state,
                    mined.transaction,
                    mined.block_number,
                    mined.block_hash,
                    block_unix_s,
                    mined.gas_used,
                    str(mined.fee_wei),
                    number,
                ),
            )
        return self.by_id(number)

    def _insert_attempt(
        self, number: int, transaction_hash: bytes, raw: bytes, fees: Fees, now_unix_s: int
    ) -> None:
        # The same fees sign to the same bytes: then it is there already.
        self._database.execute(
            "INSERT OR IGNORE INTO attempts(hash, intent, raw, max_fee_wei, tip_wei, made_unix_s)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (transaction_hash, number, raw, fees.max_fee_wei, fees.tip_wei, now_unix_s),
        )

    def _select(self, where: str, values: tuple[object, ...], *, limit: int) -> list[Transaction]:
        with explained(self._path, KIND):
            rows = self._database.execute(
                f"SELECT {_COLUMNS} FROM intents WHERE network = ? AND {where} LIMIT ?",
                (self._network, *values, limit),
            ).fetchall()
            return [self._transaction(row) for row in rows]

    def _transaction(self, row: tuple[Any, ...]) -> Transaction:
        (
            number,
            key,
            sender,
            nonce,
            to,
            data,
            purpose,
            gas,
            state,
            created,
            sent,
            block,
            block_hash,
            at,
            used,
            fee,
        ) = row
        attempts = self._database.execute(
            "SELECT hash, raw, max_fee_wei, tip_wei, made_unix_s FROM attempts WHERE intent = ?"
            " ORDER BY max_fee_wei DESC",
            (number,),
        )
        return Transaction(
            id=number,
            key=key,
            sender=Address(sender),
            nonce=nonce,
            call=Call(to=Address(to), data=data, purpose=purpose),
            gas_limit=gas,
            state=state,
            attempts=tuple(
                Attempt(
                    transaction=hash_, raw=raw, fees=Fees(max_fee_wei=most, tip_wei=tip), made_unix_s=made
                )
                for hash_, raw, most, tip, made in attempts
            ),
            created_unix_s=created,
            transaction=sent,
            block_number=block,
            block_hash=block_hash,
            block_unix_s=at,
            gas_used=used,
            fee_wei=None if fee is None else int(fee),
        )
