"""An encrypted channel over TCP with a key that both sides know: AES-256-GCM records.

    record = length (4 bytes, big-endian, of what follows; the top bit marks the end record) + sealed data

The header is authenticated with the data; the nonce is the number of the record, from 0 in each direction,
and each direction has its own key. So a record that is changed, left out, doubled or moved fails, and so does
a connection that is cut: only the end record ends a channel. It is a `core.peering.Channel`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import trio

from unhosted.node.core.peering import ChannelBroken, PeerId

RECORD_BYTES = 256 << 10
"""Data in one record at most: what AES-GCM does in a tenth of a millisecond, and few records to a chunk."""

TAG_BYTES = 16
HEADER_BYTES = 4
RECORDS_MAX = 1 << 32
"""Records under one key, far below what the nonce could count; a petabyte of full ones."""

INLINE_BYTES = 4 << 10
"""Sealing so little takes less than the hop to a thread."""

BUFFER_BYTES = 1 << 20
"""Bytes read ahead: what the system hands over at once when a line is fast."""

LATENCY_TOLERANT_TOS = 0x08
"""DSCP 2, lower effort (RFC 8622): routers that know it let token streams pass first."""

RECORD_BYTES_FAIR, RECORDS_LOOSE = 4 << 10, 2
"""Bytes that the records of a larger piece hold on average at least, but for some: each costs memory."""

_END = 1 << 31


@dataclass(frozen=True, slots=True, kw_only=True)
class _Record:
    number: int
    header: bytes
    sealed: bytes
    is_end: bool


class RecordChannel:
    """Messages of at most `RECORD_BYTES` each. Cancelling `send` or `receive` breaks it."""

    def __init__(
        self, stream: trio.SocketStream, *, peer: PeerId, send_key: bytes, receive_key: bytes
    ) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self.peer = peer
        self.closed = trio.Event()
        self._stream = stream
        self._seal = AESGCM(send_key)
        self._unseal = AESGCM(receive_key)
        self._sent = self._received = 0
        self._buffer = bytearray(BUFFER_BYTES)
        self._first = self._last = 0  # what was read and not yet taken
        self._limiter = trio.CapacityLimiter(2)
        self._is_sending = False
        self._why_broken = ""
        self._said_end = self._heard_end = False

    async def send(self, message: bytes) -> None:
        await self.send_all([message])

    async def send_all(self, messages: Sequence[bytes | memoryview]) -> None:
        """Several messages, sealed together. Raises: ChannelBroken."""
        if self._said_end:
            raise ChannelBroken("the channel was ended by this side")
        await self._send_records([(message, 0) for message in messages])

    async def end(self) -> None:
        if not self._said_end:
            self._said_end = True
            await self._send_records([(b"", _END)])

    async def receive(self) -> bytes | None:
        """The next message, None after the end record. Raises: ChannelBroken."""
        if self._heard_end:
            await trio.lowlevel.checkpoint()
            return None
        with self._receiving():
            record = await self._take_record()
            if len(record.sealed) <= INLINE_BYTES:
                data = self._open([record], len(record.sealed) - TAG_BYTES)
            else:
                data = await self._open_in_thread([record], len(record.sealed) - TAG_BYTES)
        self._heard_end = record.is_end
        return None if record.is_end else bytes(data)

    async def receive_bytes(self, size_bytes: int, heard: Callable[[], None]) -> bytearray:
        """The next messages, which are to be `size_bytes` in all, opened together; that is faster.

        heard: called for each as it comes. Raises: ChannelBroken, also if they end elsewhere.
        """
        self._check()
        with self._receiving():
            records = []
            left_bytes = size_bytes
            while left_bytes:
                record = await self._take_record()
                left_bytes -= len(record.sealed) - TAG_BYTES
                records.append(record)
                if record.is_end or left_bytes < 0:
                    raise self._broken("messages that end elsewhere than they should")
                if len(records) > RECORDS_LOOSE + size_bytes // RECORD_BYTES_FAIR:
                    raise self._broken("records that are too small")
                heard()
            return await self._open_in_thread(records, size_bytes)

    @contextmanager
    def _receiving(self) -> Iterator[None]:
        """Whatever goes wrong inside leaves the channel broken: a part of a record may be taken."""
        self._check()
        done = False
        try:
            yield
            done = True
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as error:
            raise self._broken(f"the connection was lost: {type(error).__name__}") from error
        finally:
            if not done:
                self._why_broken = self._why_broken or "a receive was cancelled"

    async def aclose(self) -> None:
        self._why_broken = self._why_broken or "the channel is closed"
        self.closed.set()
        await trio.aclose_forcefully(self._stream)

    def _check(self) -> None:
        if self._why_broken:
            raise ChannelBroken(self._why_broken)

    def _broken(self, why: str) -> ChannelBroken:
        self._why_broken = why
        return ChannelBroken(why)

    async def _send_records(self, messages: Sequence[tuple[bytes | memoryview, int]]) -> None:
        self._check()
        if self._is_sending:
            raise self._broken("two tasks send at once")
        if any(len(message) > RECORD_BYTES for message, _ in messages):
            raise ValueError(f"a message above {RECORD_BYTES} bytes")
        first = self._sent
        self._sent += len(messages)
        if self._sent > RECORDS_MAX:
            raise self._broken(f"more than {RECORDS_MAX} records under one key")

        def seal() -> bytes:
            parts = []
            for number, (message, mark) in enumerate(messages, start=first):
                header = (len(message) + TAG_BYTES | mark).to_bytes(HEADER_BYTES, "big")
                parts += [header, self._seal.encrypt(_nonce(number), message, header)]
            return b"".join(parts)

        self._is_sending = True
        done = False
        try:
            small = sum(len(message) for message, _ in messages) <= INLINE_BYTES
            sealed = seal() if small else await trio.to_thread.run_sync(seal, limiter=self._limiter)
            await self._stream.send_all(sealed)
            done = True
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise self._broken(f"the connection was lost: {type(error).__name__}") from error
        finally:
            self._is_sending = False
            if not done:
                self._why_broken = self._why_broken or "a send was cancelled"

    async def _take_record(self) -> _Record:
        header = bytes(await self._take(HEADER_BYTES))
        length = int.from_bytes(header, "big")
        is_end, length = bool(length & _END), length & (_END - 1)
        if not TAG_BYTES <= length <= RECORD_BYTES + TAG_BYTES:
            raise self._broken(f"a record of {length} bytes, at most {RECORD_BYTES + TAG_BYTES}")
        with await self._take(length) as view:
            sealed = bytes(view)
        number, self._received = self._received, self._received + 1
        return _Record(number=number, header=header, sealed=sealed, is_end=is_end)

    async def _open_in_thread(self, records: Sequence[_Record], size_bytes: int) -> bytearray:
        return await trio.to_thread.run_sync(self._open, records, size_bytes, limiter=self._limiter)

    def _open(self, records: Sequence[_Record], size_bytes: int) -> bytearray:
        from cryptography.exceptions import InvalidTag

        data = bytearray(size_bytes)
        at = 0
        try:
            with memoryview(data) as view:
                for record in records:
                    end = at + len(record.sealed) - TAG_BYTES
                    self._unseal.decrypt_into(
                        _nonce(record.number), record.sealed, record.header, view[at:end]
                    )
                    at = end
        except InvalidTag:
            raise self._broken("a record that does not match its key: changed on the way") from None
        return data

    async def _take(self, count: int) -> memoryview:
        """The next `count` bytes, valid until the next call; at most a record's."""
        while self._last - self._first < count:
            if self._first == self._last:
                self._first = self._last = 0
            elif self._first + count > BUFFER_BYTES:
                waiting = self._buffer[self._first : self._last]
                self._buffer[: len(waiting)] = waiting
                self._first, self._last = 0, len(waiting)
            with memoryview(self._buffer) as view:
                received = await self._stream.socket.recv_into(view[self._last :])
            if not received:
                raise self._broken("the connection was cut: it ended without its end record")
            self._last += received
        self._first += count
        return memoryview(self._buffer)[self._first - count : self._first]


def derive_keys(secret: bytes, token: bytes) -> tuple[bytes, bytes]:
    """The key of records from who connects, and the key of records to it."""
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    def derive(direction: bytes) -> bytes:
        info = b"unhosted/sideband/1 " + direction
        return HKDF(algorithm=SHA256(), length=32, salt=token, info=info).derive(secret)

    return derive(b"connect"), derive(b"accept")


def _nonce(number: int) -> bytes:
    return number.to_bytes(12, "big")
