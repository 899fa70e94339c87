"""Which processes that use a ledger are alive: each holds the lock of a file of its own, until it dies.

The kernel lets go of the lock at any death, and a process number that is used again cannot be mistaken for
the old one. The lock is the open file's (flock), so a second owner in one process is another owner, too.
"""

import fcntl
import os
import secrets
from contextlib import suppress
from pathlib import Path

_NAME_BYTES = 8


class Owner:
    """This process, as `name`, in `folder`. A child that was forked without exec keeps it alive."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.name = secrets.token_hex(_NAME_BYTES)
        self._path = folder / self.name
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def close(self) -> None:
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


def is_alive(folder: Path, name: str) -> bool:
    """Whether the owner still holds its lock. What a dead one left in the folder is removed."""
    path = folder / name
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        with suppress(FileNotFoundError):
            path.unlink()
        return False
    finally:
        os.close(descriptor)
