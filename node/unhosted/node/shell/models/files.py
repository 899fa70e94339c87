"""Files that are whole or absent, locks between processes, and digests."""

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unhosted.node.core.chunks import CHUNK_BYTES
from unhosted.node.core.errors import Refused
from unhosted.node.shell.models.manifest import Digests

DISK_RESERVE_BYTES = 64 << 20
"""Left free beside a download: a full disk breaks more than the pull that filled it."""

HASH_STEP_BYTES = 4 << 20
"""Read at a time: large enough that Python's own share is nothing, small enough for any machine."""


class Hasher:
    """Size, SHA-256, BLAKE3 and chunk list of a file, taken in one pass.

    chunk_list: the file's, where every chunk was checked against it already; None makes one.
    """

    __slots__ = ("_blake3", "_chunk", "_chunk_list", "_hashes", "_left_bytes", "_sha256", "size_bytes")

    def __init__(self, chunk_list: bytes | None = None) -> None:
        from blake3 import blake3

        self.size_bytes = 0
        self._sha256 = hashlib.sha256()
        self._blake3 = blake3()
        self._chunk_list = chunk_list
        self._chunk = blake3()
        self._hashes = bytearray()
        self._left_bytes = CHUNK_BYTES

    def update(self, data: bytes | bytearray) -> None:
        self.size_bytes += len(data)
        self._sha256.update(data)
        self._blake3.update(data)
        if self._chunk_list is None:
            self._update_chunks(memoryview(data))

    def _update_chunks(self, view: memoryview) -> None:
        while view:
            part, view = view[: self._left_bytes], view[self._left_bytes :]
            self._chunk.update(part)
            self._left_bytes -= len(part)
            if not self._left_bytes:
                self._end_chunk()

    def _end_chunk(self) -> None:
        self._hashes += self._chunk.digest()
        self._chunk.reset()
        self._left_bytes = CHUNK_BYTES

    def digests(self) -> Digests:
        """Of all that was given; to be called once, at the end."""
        if self._left_bytes < CHUNK_BYTES:
            self._end_chunk()
        return Digests(
            size_bytes=self.size_bytes,
            sha256=self._sha256.hexdigest(),
            blake3=self._blake3.hexdigest(),
            chunk_list=bytes(self._hashes) if self._chunk_list is None else self._chunk_list,
        )


def hash_file(path: Path) -> Digests:
    """The digests of a whole file; about a second for each gigabyte. Raises: OSError."""
    hasher = Hasher()
    with open(path, "rb") as file:
        while data := file.read(HASH_STEP_BYTES):
            hasher.update(data)
    return hasher.digests()


def write_atomically(path: Path, data: bytes) -> None:
    """Replace `path` so that a crash at any moment leaves the old content or the new, never a part."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    try:
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_file(path: Path) -> None:
    """Make a file's content durable, before a rename gives it a name."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_data(descriptor: int) -> None:
    """Make what was written durable; times and other metadata may lag where the system allows it."""
    getattr(os, "fdatasync", os.fsync)(descriptor)


def sync_directory(directory: Path) -> None:
    """Make renames and removals in `directory` durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems cannot sync a directory, and say so
            raise
    finally:
        os.close(descriptor)


@contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Wait for the lock and hold it; the kernel drops it when the process ends, however it ends."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def try_lock(path: Path) -> int | None:
    """A descriptor that holds the lock until it is closed, or None if another holder has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The holder before us removes the file as it leaves: a lock on a removed file excludes nobody.
        if os.fstat(descriptor).st_ino == os.stat(path).st_ino:
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None


def release_lock(path: Path, descriptor: int) -> None:
    """Give up a lock of `try_lock` and remove its file."""
    path.unlink(missing_ok=True)
    os.close(descriptor)


def remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def allocated_bytes(path: Path) -> int:
    """Disk that a file, which may have holes, takes; 0 if there is none."""
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0


def check_disk(directory: Path, needed_bytes: int, what: str) -> None:
    """Raises: Refused (disk_full) if `needed_bytes` and the reserve do not fit."""
    free_bytes = shutil.disk_usage(directory).free
    if needed_bytes + DISK_RESERVE_BYTES > free_bytes:
        raise disk_full(directory, needed_bytes + DISK_RESERVE_BYTES, free_bytes, what)


def disk_full(directory: Path, needed_bytes: int, free_bytes: int, what: str) -> Refused:
    return Refused(
        "disk_full",
        f"{what} needs {needed_bytes} bytes on the disk of {directory}, {free_bytes} are free: "
        "free some (`unhosted rm MODEL`) or set UNHOSTED_HOME to a larger disk.",
        details={"needed_bytes": needed_bytes, "free_bytes": free_bytes},
    )
