"""How far the ledger had come, written down in another folder: it tells a restored ledger from the real one.

After each commit the ledger's number and its count of commits are written here, without a sync: that
survives a kill of the process, and after a power cut it is at most too low. A ledger that is behind its seal
has lost commits: a backup was put in its place, or its log is gone.

When ledger and seal are both restored from the same backup, nothing on this machine can tell.
"""

import fcntl
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

_RECORD = struct.Struct(">16sQI")
_SLOT_BYTES = 512
"""Two records by turns, a disk's block apart: a torn write loses one of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    ledger_id: bytes
    commits: int


class Seal:
    """The seal at `path`, made there if it is not. One per process and ledger; any thread, one at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        if os.fstat(self._descriptor).st_size == 0:
            self._clear()  # takes its place on the disk now: a full one must not stop it later
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        os.close(self._descriptor)

    def read(self) -> Sealed | None:
        """The later of the two records that are whole; None if there is none."""
        found = []
        for slot in range(2):
            record = os.pread(self._descriptor, _RECORD.size, slot * _SLOT_BYTES)
            if len(record) == _RECORD.size:
                ledger_id, commits, check = _RECORD.unpack(record)
                if check == _check(ledger_id, commits) and commits > 0:
                    found.append(Sealed(ledger_id=ledger_id, commits=commits))
        return max(found, key=lambda sealed: sealed.commits, default=None)

    def write(self, sealed: Sealed) -> None:
        """Raise the seal; it is never lowered for the same ledger, whichever process comes last."""
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        try:
            before = self.read()
            if before is not None and before.ledger_id != sealed.ledger_id:
                self._clear()
            elif before is not None and before.commits >= sealed.commits:
                return
            record = _RECORD.pack(sealed.ledger_id, sealed.commits, _check(sealed.ledger_id, sealed.commits))
            os.pwrite(self._descriptor, record, (sealed.commits % 2) * _SLOT_BYTES)
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def _clear(self) -> None:
        os.pwrite(self._descriptor, bytes(2 * _SLOT_BYTES), 0)


def _check(ledger_id: bytes, commits: int) -> int:
    return zlib.crc32(ledger_id + commits.to_bytes(8, "big"))
