"""One file over HTTP: several ranges at a time, resumed after a crash, one stream where ranges are refused.

What comes out has the right size and nothing more is claimed: digests are the caller's to check.
"""

import math
import os
import re
from collections import deque
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import trio

from unhosted.node.core.errors import Refused
from unhosted.node.shell.models.files import (
    DISK_RESERVE_BYTES,
    allocated_bytes,
    check_disk,
    disk_full,
    remove,
    sync_data,
)
from unhosted.node.shell.models.journal import Journal, Plan, open_journal
from unhosted.node.shell.models.progress import Meter
from unhosted.node.shell.models.settings import PullSettings
from unhosted.node.shell.models.web import Backoff, LinkExpired, Opened, Passing, open_url, public, read_body

if TYPE_CHECKING:
    import httpx

MIB = 1 << 20
CHUNK_BYTES_MIN = 2 * MIB
CHUNK_BYTES_MAX = 32 * MIB
CHUNKS_WANTED = 256
"""Many enough that a kill loses little of a file, few enough that the requests cost nothing."""

WRITE_BYTES = 1 * MIB
"""Gathered before a write leaves for its thread: the hop costs about 0.1 ms."""

FILE_BYTES_MAX = 4 << 40
"""No model comes near 4 TiB; a server that claims more is not believed."""

RESTARTS_MAX = 2
"""A file that changes under a download twice is not going to stand still."""

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)")
_LENGTH = re.compile(r"[0-9]{1,19}")


class _ContentChanged(Exception):
    """The server serves other content than when the download began."""


class _RangesRefused(Exception):
    """The server answers a range with the whole file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """A file somewhere else. size_bytes, sha256: what its index says, None where there is no index."""

    url: str
    size_bytes: int | None = None
    sha256: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Probe:
    size_bytes: int | None
    has_ranges: bool
    etag: str | None
    final_url: str


async def download(
    client: "httpx.AsyncClient",
    remote: Remote,
    *,
    data_path: Path,
    journal_path: Path,
    settings: PullSettings,
    meter: Meter,
    extra_bytes: int = 0,
) -> None:
    """Fetch `remote` to `data_path`. extra_bytes: disk that a later step needs beside the file.

    Raises: Refused (download_failed, model_not_found, disk_full); OSError from the disk. Cancelled or killed,
    it leaves data and journal for the next call.
    """
    for _ in range(RESTARTS_MAX + 1):
        probe = await _probe(client, remote, settings)
        size_bytes = probe.size_bytes if probe.size_bytes is not None else remote.size_bytes
        try:
            if probe.has_ranges and size_bytes:
                job = _Ranges(client, remote, probe, settings, meter)
                await job.run(data_path, journal_path, size_bytes, extra_bytes)
            else:
                await _stream_whole(client, remote, data_path, size_bytes, extra_bytes, settings, meter)
            return
        except _RangesRefused:
            remove(journal_path)
            await _stream_whole(client, remote, data_path, size_bytes, extra_bytes, settings, meter)
            return
        except _ContentChanged:
            remove(journal_path)
    raise Refused(
        "download_failed", f"{public(remote.url)} keeps changing while it is fetched: pull it later."
    )


async def _probe(client: "httpx.AsyncClient", remote: Remote, settings: PullSettings) -> _Probe:
    """Ask for one byte: that tells the size, whether ranges work, and where redirects lead."""
    backoff = Backoff(settings)
    while True:
        try:
            async with open_url(client, remote.url, {**remote.headers, "range": "bytes=0-0"}) as opened:
                probe = _read_probe(opened)
            break
        except Passing as failure:
            await backoff.wait(failure)
    size_bytes = probe.size_bytes
    if size_bytes is not None and not 0 < size_bytes <= FILE_BYTES_MAX:
        raise Refused("download_failed", f"{public(remote.url)} has {size_bytes} bytes, which is no model.")
    if None not in (size_bytes, remote.size_bytes) and size_bytes != remote.size_bytes:
        raise Refused(
            "digest_mismatch",
            f"{public(remote.url)} has {size_bytes} bytes, its index says {remote.size_bytes}: pull it again "
            "later, or report it to who publishes it.",
        )
    return probe


def _read_probe(opened: Opened) -> _Probe:
    headers = opened.response.headers
    etag = headers.get("etag")
    size_bytes = None
    if opened.response.status_code == 206:
        found = _CONTENT_RANGE.fullmatch(headers.get("content-range", ""))
        if found and found[3] != "*":
            size_bytes = int(found[3])
    elif _LENGTH.fullmatch(headers.get("content-length", "")):
        size_bytes = int(headers["content-length"])
    return _Probe(
        size_bytes=size_bytes,
        has_ranges=opened.response.status_code == 206 and size_bytes is not None,
        etag=etag if etag and not etag.startswith("W/") else None,
        final_url=opened.url,
    )


class _Ranges:
    """A download in chunks: workers take the next one until none is left."""

    def __init__(
        self,
        client: "httpx.AsyncClient",
        remote: Remote,
        probe: _Probe,
        settings: PullSettings,
        meter: Meter,
    ) -> None:
        self._client = client
        self._remote = remote
        self._etag = probe.etag
        self._settings = settings
        self._meter = meter
        # Chunks go straight to where the redirects led; when that link dies, the original gives another.
        self._direct_url: str | None = probe.final_url if probe.final_url != remote.url else None
        self._failure: Exception | None = None
        self._todo: deque[int] = deque()
        self._descriptor = -1

    async def run(self, data_path: Path, journal_path: Path, size_bytes: int, extra_bytes: int) -> None:
        plan = Plan(
            url=public(self._remote.url),
            size_bytes=size_bytes,
            chunk_bytes=self._settings.chunk_bytes or _chunk_bytes(size_bytes),
            sha256=self._remote.sha256,
            validator=self._etag,
        )
        missing_bytes = max(0, size_bytes - allocated_bytes(data_path))
        check_disk(data_path.parent, missing_bytes + extra_bytes, public(self._remote.url))
        journal = open_journal(journal_path, data_path, plan)
        self._descriptor = os.open(data_path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            self._todo.extend(sorted(set(range(journal.plan.chunk_count)) - journal.done))
            self._meter.start(
                "downloading",
                total_bytes=size_bytes,
                resumed_bytes=journal.done_bytes,
                source=urlsplit(self._remote.url).hostname or "",
            )
            async with trio.open_nursery() as nursery:
                for _ in range(min(self._settings.connections, len(self._todo))):
                    nursery.start_soon(self._work, journal, nursery.cancel_scope)
        finally:
            os.close(self._descriptor)
            journal.close()
        if self._failure is not None:
            raise self._failure

    async def _work(self, journal: Journal, scope: trio.CancelScope) -> None:
        try:
            while self._todo:
                await self._fetch(journal, self._todo.popleft())
        except (Refused, OSError, _ContentChanged, _RangesRefused) as error:
            # Raised again by `run`, on its own: callers are not to pick groups of exceptions apart.
            self._failure = self._failure or error
            scope.cancel()

    async def _fetch(self, journal: Journal, chunk: int) -> None:
        span = _Span(*journal.plan.span(chunk))
        backoff = Backoff(self._settings)
        while span.at < span.end:
            before = span.at
            try:
                await self._receive(span, journal.plan.size_bytes)
                if span.at < span.end:
                    raise Passing(f"{public(self._remote.url)} ended {span.end - span.at} bytes early")
            except Passing as failure:
                if span.at > before:
                    backoff.progressed()
                if isinstance(failure, LinkExpired):
                    self._direct_url = None
                await backoff.wait(failure)
        await trio.to_thread.run_sync(journal.commit, chunk, self._descriptor)

    async def _receive(self, span: "_Span", size_bytes: int) -> None:
        """Write what one request gives of a span, which shrinks as its bytes are written."""
        direct = self._direct_url
        headers = {"range": f"bytes={span.at}-{span.end - 1}"}
        if direct is None or urlsplit(direct).netloc == urlsplit(self._remote.url).netloc:
            headers |= self._remote.headers
        if self._etag is not None and self._remote.sha256 is None:
            headers["if-range"] = self._etag
        url = direct or self._remote.url
        async with open_url(self._client, url, headers, is_link=direct is not None) as opened:
            self._check_range(opened, span.at, size_bytes)
            if direct is None and opened.url != self._remote.url:
                self._direct_url = opened.url
            gathered = bytearray()
            try:
                async with aclosing(read_body(opened)) as pieces:
                    async for piece in pieces:
                        gathered += piece
                        if span.at + len(gathered) > span.end:
                            raise Passing(f"{public(opened.url)} gives more than the range asked for")
                        if len(gathered) >= WRITE_BYTES:
                            await self._write(span, gathered)
                            gathered = bytearray()
            finally:
                # What arrived before a broken connection counts, and is not asked for again.
                del gathered[max(0, span.end - span.at) :]
                with trio.CancelScope(shield=True):
                    await self._write(span, gathered)

    def _check_range(self, opened: Opened, at: int, size_bytes: int) -> None:
        headers = opened.response.headers
        if opened.response.status_code != 206:
            # With If-Range a whole answer means: changed. Without, the server has stopped serving ranges.
            raise _ContentChanged if self._etag is not None else _RangesRefused
        found = _CONTENT_RANGE.fullmatch(headers.get("content-range", ""))
        if found is None or int(found[1]) != at:
            raise Passing(f"{public(opened.url)} answers another range than the one asked for")
        if found[3] not in ("*", str(size_bytes)):
            raise _ContentChanged

    async def _write(self, span: "_Span", data: bytearray) -> None:
        if data:
            await trio.to_thread.run_sync(_write_all, self._descriptor, bytes(data), span.at)
            span.at += len(data)
            self._meter.add(len(data))


class _Span:
    """Bytes still to be fetched."""

    __slots__ = ("at", "end")

    def __init__(self, at: int, end: int) -> None:
        self.at = at
        self.end = end


async def _stream_whole(
    client: "httpx.AsyncClient",
    remote: Remote,
    data_path: Path,
    size_bytes: int | None,
    extra_bytes: int,
    settings: PullSettings,
    meter: Meter,
) -> None:
    """One request for everything; a failure begins again from the start, there is no other way."""
    check_disk(data_path.parent, (size_bytes or 0) + extra_bytes, public(remote.url))
    backoff = Backoff(settings)
    while True:
        meter.start("downloading", total_bytes=size_bytes, source=urlsplit(remote.url).hostname or "")
        try:
            at = await _stream_once(client, remote, data_path, size_bytes, meter)
            if size_bytes in (None, at):
                return
            raise Passing(f"{public(remote.url)} gave {at} bytes, must be {size_bytes}")
        except Passing as failure:
            await backoff.wait(failure)


async def _stream_once(
    client: "httpx.AsyncClient", remote: Remote, data_path: Path, size_bytes: int | None, meter: Meter
) -> int:
    limit_bytes = size_bytes
    if limit_bytes is None:
        stat = os.statvfs(data_path.parent)
        limit_bytes = max(0, stat.f_bavail * stat.f_frsize - DISK_RESERVE_BYTES)
    at, gathered = 0, bytearray()
    descriptor = os.open(data_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        async with (
            open_url(client, remote.url, remote.headers) as opened,
            aclosing(read_body(opened)) as pieces,
        ):
            async for piece in pieces:
                gathered += piece
                meter.add(len(piece))
                if at + len(gathered) > limit_bytes:
                    raise _too_long(remote, size_bytes, limit_bytes, data_path)
                if len(gathered) >= WRITE_BYTES:
                    await trio.to_thread.run_sync(_write_all, descriptor, bytes(gathered), at)
                    at += len(gathered)
                    gathered = bytearray()
        await trio.to_thread.run_sync(_write_all, descriptor, bytes(gathered), at)
        await trio.to_thread.run_sync(sync_data, descriptor)
    finally:
        os.close(descriptor)
    return at + len(gathered)


def _too_long(remote: Remote, size_bytes: int | None, limit_bytes: int, data_path: Path) -> Exception:
    if size_bytes is None:
        return disk_full(data_path.parent, limit_bytes + 1, limit_bytes, public(remote.url))
    return Passing(f"{public(remote.url)} gives more than the {size_bytes} bytes it should")


def _write_all(descriptor: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, at)
        view = view[written:]
        at += written


def _chunk_bytes(size_bytes: int) -> int:
    wanted = math.ceil(size_bytes / CHUNKS_WANTED / MIB) * MIB
    return min(CHUNK_BYTES_MAX, max(CHUNK_BYTES_MIN, wanted))
