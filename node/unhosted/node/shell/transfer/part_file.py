"""The file of a transfer under way: chunks checked and written where they belong, and hashed as a whole.

A journal says which chunks are durable; a kill costs what came since the last commit. The whole file's hash
follows the chunks that are there without a gap, so that it is ready soon after the last one.
"""

import os
from pathlib import Path

import trio

from unhosted.node.core.chunks import CHUNK_BYTES, HASH_BYTES, chunk_count, chunk_span
from unhosted.node.shell.models.files import HASH_STEP_BYTES, Hasher
from unhosted.node.shell.models.journal import Plan, open_journal
from unhosted.node.shell.models.manifest import Digests

COMMIT_EVERY_S = 0.5
"""A kill loses what came in so long: less than a tenth of a gigabyte at 1 Gbit/s."""


class PartFile:
    """Blocking calls run in threads. The caller closes it."""

    def __init__(
        self, data_path: Path, journal_path: Path, *, url: str, size_bytes: int, hashes: bytes, root: str
    ) -> None:
        """Go on with what is there of the same file and chunk list, else begin anew. Raises: OSError."""
        self.size_bytes = size_bytes
        self._hashes = hashes
        self._journal = open_journal(
            journal_path,
            data_path,
            Plan(url=url, size_bytes=size_bytes, chunk_bytes=CHUNK_BYTES, sha256=None, validator=root),
        )
        self._descriptor = os.open(data_path, os.O_RDWR | os.O_CLOEXEC)
        self.resumed = frozenset(self._journal.done)
        self.resumed_bytes = self._journal.done_bytes
        self._here = set(self.resumed)
        self._uncommitted: list[int] = []
        self._committing = trio.Lock()
        self._hasher = Hasher(chunk_list=hashes)
        self._is_hashing = False
        self._grown = trio.Event()

    def close(self) -> None:
        os.close(self._descriptor)
        self._journal.close()

    async def put(self, chunk: int, data: bytearray) -> bool:
        """Write a chunk if it is the right one; False leaves the file as it was. Raises: OSError."""
        at, _ = chunk_span(self.size_bytes, chunk)
        follows = not self._is_hashing and at == self._hasher.size_bytes and chunk not in self._here
        self._is_hashing = self._is_hashing or follows
        try:
            is_right = await trio.to_thread.run_sync(self._put, chunk, at, data, follows)
        finally:
            if follows:
                self._is_hashing = False
                self._grown.set()
        if is_right and chunk not in self._here:
            self._here.add(chunk)
            self._uncommitted.append(chunk)
            self._grown.set()
        return is_right

    def _put(self, chunk: int, at: int, data: bytearray, follows: bool) -> bool:
        from blake3 import blake3

        if blake3(data).digest() != self._hashes[chunk * HASH_BYTES : (chunk + 1) * HASH_BYTES]:
            return False
        with memoryview(data) as view:
            written = 0
            while written < len(data):
                written += os.pwrite(self._descriptor, view[written:], at + written)
        if follows:
            self._hasher.update(data)  # while it is at hand: what comes in order is not read again
        return True

    async def commit(self) -> None:
        """Make what came since the last commit survive a kill and a power cut. Raises: OSError."""
        async with self._committing:
            chunks, self._uncommitted = self._uncommitted, []
            if chunks:
                await trio.to_thread.run_sync(self._journal.commit_all, chunks, self._descriptor)

    async def digest(self) -> Digests:
        """The digests of the whole file, taken while it grows; returns once all chunks are there."""
        count = chunk_count(self.size_bytes)
        following = 0
        while True:
            while following in self._here:
                following += 1
            ready_bytes = min(following * CHUNK_BYTES, self.size_bytes)
            waiting_bytes = ready_bytes - self._hasher.size_bytes
            if following == count and not waiting_bytes and not self._is_hashing:
                return self._hasher.digests()
            # Whole steps while more is to come: a hop to a thread for each chunk would cost too much.
            if not self._is_hashing and (
                waiting_bytes >= HASH_STEP_BYTES or (following == count and waiting_bytes > 0)
            ):
                self._is_hashing = True
                try:
                    await trio.to_thread.run_sync(self._hash_step, ready_bytes)
                finally:
                    self._is_hashing = False
                continue
            self._grown = trio.Event()
            await self._grown.wait()

    def _hash_step(self, end: int) -> None:
        at = self._hasher.size_bytes
        self._hasher.update(os.pread(self._descriptor, min(HASH_STEP_BYTES, end - at), at))
