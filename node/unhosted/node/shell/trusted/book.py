"""The book of peers: who is paired, what each may do, where it was last reached, what it used today.

One SQLite file that several processes may have open. Who is paired is also held in memory, since it is
asked at each opening of a channel; a change by another process is noticed at the next look that is
`REFRESH_S` later. Pairings and capabilities are on the disk before a call returns. Addresses and token
counts survive a kill of the process but may lose their last moments to a power cut: a sync of the disk per
request would cost more than they are worth.

A file that is broken, foreign, of a newer program or open to other users is refused and left as it is: a new
empty book in its place would forget in silence whom the user trusts.
"""

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, cast, get_args

from unhosted.node.core.addresses import ADDRESS_CHARS_MAX, KnownAddress, Source
from unhosted.node.core.errors import Refused
from unhosted.node.core.peering import Capabilities, PairedPeer, PeerId
from unhosted.node.shell.trusted.book_file import broken, open_book, refusal

PEERS_MAX = 256
"""Machines that one user pairs; every one of them is dialled and listed."""

ADDRESSES_PER_PEER_MAX = 16
"""A machine has a handful at a time; the oldest go first."""

DAYS_KEPT = 40
"""Token counts of the last month and some, enough for `unhosted peers` and for a complaint."""

ID_CHARS_MAX = 128
NAME_CHARS_MAX = 64
START_CHARS_MIN = 6
"""Shorter pieces of an id match by accident."""

REFRESH_S = 0.5
"""How long a change by another process may stay unseen."""

NOTED_AGAIN_S = 60
"""An address that is confirmed more often than this is not written again."""

_SOURCES = frozenset(get_args(Source))
_CAPABILITY_FIELDS = frozenset(field.name for field in fields(Capabilities))


class PeerBook:
    """The book at `path`, made there if nothing is. Every method may be called from any thread.

    Raises: Refused, from any method, that names the file and what is wrong with it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.RLock()
        self._callbacks: list[Callable[[], None]] = []
        self._peers: dict[PeerId, PairedPeer] = {}
        self._paired: frozenset[PeerId] = frozenset()
        self._looked_at_s = 0.0
        self._version = -1
        with self._explained():
            self._database = open_book(path)
            try:
                self._load()
            except BaseException:
                self._database.close()
                raise

    def close(self) -> None:
        with self._lock:
            self._database.close()

    def peers(self) -> tuple[PairedPeer, ...]:
        """Everybody in the book, pending ones too, in the order of their pairing."""
        self.refresh()
        return tuple(sorted(self._peers.values(), key=lambda peer: (peer.paired_unix_s, peer.peer)))

    def get(self, peer: PeerId) -> PairedPeer | None:
        self.refresh()
        return self._peers.get(peer)

    def is_paired(self, peer: PeerId) -> bool:
        """Whether the pairing is confirmed: a lookup in memory, and one look at the file each REFRESH_S."""
        self.refresh()
        return peer in self._paired

    def find(self, text: str) -> PairedPeer:
        """The peer that `text` means: its id, its name, or at least six characters from either end of its id.

        Raises: Refused (not_paired) if it is nobody, or names those it could be.
        """
        known = self.peers()
        if exact := self._peers.get(text):
            return exact
        found = [peer for peer in known if _is_meant(peer, text)]
        if len(found) == 1:
            return found[0]
        shown = ", ".join(f"{peer.name} ({peer.peer})" for peer in found or known)
        if found:
            message = f"{text!r} could be any of {shown}; use more of the id"
        else:
            message = f"no paired peer is called {text!r}; " + (
                f"paired are {shown}" if known else "nothing is paired yet, `unhosted pair` does it"
            )
        raise Refused(
            "not_paired", message, field="peer", details={"candidates": [peer.peer for peer in found]}
        )

    def put(self, peer: PairedPeer) -> None:
        """Add a peer, or replace what the book says of it; addresses and counts stay. Durable on return.

        Raises: Refused if the book is full, or a field is empty or too long.
        """
        _check_text("peer id", peer.peer, ID_CHARS_MAX)
        _check_text("name", peer.name, NAME_CHARS_MAX)
        with self._writing(durable=True) as database:
            others = database.execute("SELECT count(*) FROM peers WHERE peer != ?", (peer.peer,)).fetchone()[
                0
            ]
            if others >= PEERS_MAX:
                raise Refused(
                    "invalid_request",
                    f"{others} peers are paired, at most {PEERS_MAX}; remove one with `unhosted peers rm`",
                )
            database.execute(
                "INSERT INTO peers VALUES (?, ?, ?, ?, ?) ON CONFLICT (peer) DO UPDATE SET"
                " name = excluded.name, state = excluded.state, paired_unix_s = excluded.paired_unix_s,"
                " capabilities = excluded.capabilities",
                (peer.peer, peer.name, peer.state, peer.paired_unix_s, _encode(peer.capabilities)),
            )
        self._changed()

    def remove(self, peer: PeerId) -> bool:
        """Forget a peer with its addresses and counts; False if it was not there. Durable on return."""
        with self._writing(durable=True) as database:
            removed = database.execute("DELETE FROM peers WHERE peer = ?", (peer,)).rowcount > 0
        if removed:
            self._changed()
        return removed

    def set_capabilities(self, peer: PeerId, capabilities: Capabilities) -> None:
        """Raises: Refused (not_paired) if the peer is not in the book. Durable on return."""
        with self._writing(durable=True) as database:
            changed = database.execute(
                "UPDATE peers SET capabilities = ? WHERE peer = ?", (_encode(capabilities), peer)
            ).rowcount
        if not changed:
            raise Refused("not_paired", f"{peer} is not paired, so it has no capabilities", field="peer")
        self._changed()

    def note_address(self, peer: PeerId, address: str, *, source: Source, unix_s: int) -> None:
        """Remember where a peer was reached or is said to be. Nothing happens if it is not in the book."""
        if not 0 < len(address) <= ADDRESS_CHARS_MAX or source not in _SOURCES:
            raise Refused("invalid_request", f"{address[:80]!r} from {source!r} is no address of a peer")
        with self._lock, self._explained():
            row = self._database.execute(
                "SELECT source, unix_s FROM addresses WHERE peer = ? AND address = ?", (peer, address)
            ).fetchone()
        if row is not None and row[0] == source and 0 <= unix_s - row[1] < NOTED_AGAIN_S:
            return
        with self._writing(durable=False) as database:
            database.execute(
                "INSERT INTO addresses SELECT peer, ?, ?, ? FROM peers WHERE peer = ?"
                " ON CONFLICT (peer, address) DO UPDATE SET source = excluded.source,"
                " unix_s = max(unix_s, excluded.unix_s)",
                (address, source, unix_s, peer),
            )
            database.execute(
                "DELETE FROM addresses WHERE peer = ? AND address NOT IN (SELECT address FROM addresses"
                " WHERE peer = ? ORDER BY unix_s DESC, address LIMIT ?)",
                (peer, peer, ADDRESSES_PER_PEER_MAX),
            )

    def forget_address(self, peer: PeerId, address: str) -> None:
        with self._writing(durable=False) as database:
            database.execute("DELETE FROM addresses WHERE peer = ? AND address = ?", (peer, address))

    def addresses(self, peer: PeerId) -> tuple[KnownAddress, ...]:
        """Newest first, at most ADDRESSES_PER_PEER_MAX."""
        with self._lock, self._explained():
            rows = self._database.execute(
                "SELECT address, source, unix_s FROM addresses WHERE peer = ? ORDER BY unix_s DESC, address"
                " LIMIT ?",
                (peer, ADDRESSES_PER_PEER_MAX),
            ).fetchall()
        return tuple(
            KnownAddress(address=address, source=cast("Source", source), unix_s=unix_s)
            for address, source, unix_s in rows
            if source in _SOURCES
        )

    def add_tokens(self, peer: PeerId, day: str, tokens: int) -> None:
        """Count tokens that the peer used; nothing if it is not in the book. day: YYYY-MM-DD in UTC."""
        if tokens < 0:
            raise Refused("invalid_request", f"{tokens} tokens cannot be used", field="tokens")
        with self._writing(durable=False) as database:
            database.execute(
                "INSERT INTO tokens SELECT peer, ?, ? FROM peers WHERE peer = ?"
                " ON CONFLICT (peer, day) DO UPDATE SET tokens = tokens + excluded.tokens",
                (day, tokens, peer),
            )
            database.execute(
                "DELETE FROM tokens WHERE peer = ? AND day NOT IN"
                " (SELECT day FROM tokens WHERE peer = ? ORDER BY day DESC LIMIT ?)",
                (peer, peer, DAYS_KEPT),
            )

    def tokens(self, peer: PeerId, day: str) -> int:
        """Tokens that the peer used on that day, by any process of this machine."""
        with self._lock, self._explained():
            row = self._database.execute(
                "SELECT tokens FROM tokens WHERE peer = ? AND day = ?", (peer, day)
            ).fetchone()
        return 0 if row is None else int(row[0])

    def on_change(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` after each change of the peers or their capabilities; the result takes it back.

        It runs in the thread that made the change, or that noticed one by another process.
        """
        self._callbacks.append(callback)

        def take_back() -> None:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

        return take_back

    def refresh(self) -> None:
        """Notice what another process changed, if the last look is REFRESH_S ago."""
        if time.monotonic() - self._looked_at_s < REFRESH_S:
            return
        if not self._lock.acquire(blocking=False):
            return  # another thread is at work; who asks must not wait for its disk
        try:
            with self._explained():
                is_new = self._database.execute("PRAGMA data_version").fetchone()[0] != self._version
                if is_new:
                    before = self._peers
                    self._load()
                    is_new = self._peers != before
                self._looked_at_s = time.monotonic()
        finally:
            self._lock.release()
        if is_new:
            self._call_back()

    def _load(self) -> None:
        self._version = self._database.execute("PRAGMA data_version").fetchone()[0]
        rows = self._database.execute("SELECT * FROM peers LIMIT ?", (PEERS_MAX,)).fetchall()
        self._peers = {row[0]: _decode(self._path, *row) for row in rows}
        self._paired = frozenset(peer.peer for peer in self._peers.values() if peer.state == "paired")
        self._looked_at_s = time.monotonic()

    def _changed(self) -> None:
        with self._lock, self._explained():
            self._load()
        self._call_back()

    def _call_back(self) -> None:
        for callback in tuple(self._callbacks):
            callback()

    @contextmanager
    def _writing(self, *, durable: bool) -> Iterator[sqlite3.Connection]:
        """One transaction. durable: synced to the disk before it returns."""
        with self._lock, self._explained():
            # Not synced now, its pages are by the next durable one, or by SQLite's own checkpoint.
            self._database.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Say what the file's fault means for the user."""
        try:
            yield
        except sqlite3.Error as error:
            raise refusal(self._path, error) from error
        except OSError as error:
            raise Refused("invalid_request", f"{self._path} cannot be used: {error.strerror}") from error


def _check_text(what: str, text: str, chars_max: int) -> None:
    if not 0 < len(text) <= chars_max or not text.isprintable():
        raise Refused(
            "invalid_request",
            f"the {what} {text[:chars_max]!r} must be 1 to {chars_max} printable characters",
        )


def _is_meant(peer: PairedPeer, text: str) -> bool:
    if peer.name.casefold() == text.casefold():
        return True
    return len(text) >= START_CHARS_MIN and (peer.peer.startswith(text) or peer.peer.endswith(text))


def _encode(capabilities: Capabilities) -> str:
    return json.dumps(asdict(capabilities), separators=(",", ":"))


def _decode(
    path: Path, peer: str, name: str, state: Any, paired_unix_s: int, capabilities: str
) -> PairedPeer:
    try:
        values = json.loads(capabilities)
        known = {key: value for key, value in values.items() if key in _CAPABILITY_FIELDS}
        allowed = Capabilities(**known)
        if allowed.models is not None:
            allowed = replace(allowed, models=tuple(allowed.models))
    except (ValueError, TypeError, AttributeError) as error:
        raise broken(path, f"capabilities of {peer}: {error}") from error
    return PairedPeer(peer=peer, name=name, state=state, paired_unix_s=paired_unix_s, capabilities=allowed)
