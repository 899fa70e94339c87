"""One stream of a session. Reading takes bytes out of a buffer and writing puts whole frames into a queue,
each without a checkpoint in its middle: whoever is cancelled has either done it or not, and nothing is lost.
"""

from typing import TYPE_CHECKING, Any

import trio
from libp2p.abc import IMuxedStream
from libp2p.stream_muxer.exceptions import MuxedStreamClosed, MuxedStreamEOF, MuxedStreamReset

from unhosted.node.shell.peers.overrides.frames import (
    DATA,
    FIN,
    FRAME_BYTES_MAX,
    HEADER,
    RST,
    WINDOW_BYTES,
    WINDOW_UPDATE,
    frame,
)

if TYPE_CHECKING:
    from unhosted.node.shell.peers.overrides.session import Session

STALL_S = 120.0
"""How long a peer may leave its window shut before a writer gives up: longer than any model takes to load."""

GROWN_WINDOW_BYTES = 4 * 1024 * 1024
"""A reader that keeps up gets a window this large: 40 MB/s at a round trip of 100 ms."""

GROWTH_ROUND_TRIPS = 4.0
"""A window that was used up within so many round trips is what holds the sender back."""

UNKNOWN_ROUND_TRIP_S = 0.001

SPARE_BYTES = 4
"""What may still arrive when nobody reads any more: the explicit end of a channel (`channel.py`)."""


class Stream(IMuxedStream):  # type: ignore[misc]
    """buffered: bytes that wait to be read. is_taken: somebody answers for reading or aborting it.

    `session.py` alone feeds it and breaks it.
    """

    def __init__(self, session: "Session", stream_id: int) -> None:
        self.muxed_conn = session
        self.session = session
        self.stream_id = stream_id
        self.buffered = bytearray()
        self.send_window_bytes = WINDOW_BYTES
        self.receive_window_bytes = WINDOW_BYTES
        self.is_taken = self.is_discarding = False
        self.local_done = self.remote_done = self.is_broken = False
        self.linger_ticks = 0
        self._granted_bytes = WINDOW_BYTES
        self._uncredited_bytes = 0
        self._credited_at_s = 0.0
        self._spare_bytes = SPARE_BYTES
        self._arrived = trio.lowlevel.ParkingLot()
        self._writable = trio.lowlevel.ParkingLot()

    # Reading

    async def read(self, n: int | None = None) -> bytes:
        """Up to `n` bytes, at least one. Raises: MuxedStreamEOF, MuxedStreamReset."""
        if n == 0:
            return b""
        await self.wait_buffered(1)
        size = len(self.buffered)
        return self.take(size if n is None or n < 0 else min(n, size))

    async def wait_buffered(self, size_bytes: int) -> None:
        """Until so many bytes can be taken; at most a window's worth. Cancelling it loses nothing.

        Raises: MuxedStreamEOF, MuxedStreamReset if fewer are left and no more come.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while len(self.buffered) < size_bytes:
            if self.is_broken:
                raise MuxedStreamReset(self.session.reason or "the peer reset the stream")
            if self.remote_done:
                raise MuxedStreamEOF("the peer sends no more")
            await self._arrived.park()

    def take(self, size_bytes: int, *, keep_counted: bool = False) -> bytes:
        """The next bytes of the buffer, which must be there; the peer may send as many more.

        keep_counted: they stay on the peer's account until `session.count_read` is called for them.
        """
        with memoryview(self.buffered) as view:
            data = bytes(view[:size_bytes])
        del self.buffered[:size_bytes]
        if not keep_counted:
            self.session.count_read(size_bytes)
        self._credit(size_bytes)
        return data

    def _credit(self, size_bytes: int) -> None:
        self._uncredited_bytes += size_bytes
        if self._uncredited_bytes * 2 < self._granted_bytes or self.remote_done or self.is_broken:
            return
        credit = self._uncredited_bytes
        now_s = trio.current_time()
        quick_s = GROWTH_ROUND_TRIPS * (self.session.round_trip_s or UNKNOWN_ROUND_TRIP_S)
        if now_s - self._credited_at_s < quick_s and self._granted_bytes < GROWN_WINDOW_BYTES:
            credit += self._granted_bytes
            self._granted_bytes *= 2
        self._credited_at_s = now_s
        self._uncredited_bytes = 0
        self.receive_window_bytes += credit
        self.session.queue_frame(frame(WINDOW_UPDATE, 0, self.stream_id, credit))

    # Writing

    async def write(self, data: bytes) -> None:
        """Queue all of it. Cancelled: whole frames of it may be on their way, the rest is not.

        Raises: MuxedStreamClosed, MuxedStreamReset.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        view = memoryview(data)
        sent = 0
        while sent < len(view):
            await self._wait_writable()
            size = min(self.send_window_bytes, FRAME_BYTES_MAX, len(view) - sent)
            self.send_window_bytes -= size
            header = HEADER.pack(0, DATA, 0, self.stream_id, size)
            self.session.queue_frame(b"".join((header, view[sent : sent + size])))
            sent += size

    async def _wait_writable(self) -> None:
        while True:
            if self.is_broken:
                raise MuxedStreamReset(self.session.reason or "the stream was reset")
            if self.local_done:
                raise MuxedStreamClosed("the stream was closed for writing")
            if self.session.is_congested:
                await self.session.wait_uncongested()
            elif self.send_window_bytes > 0:
                return
            else:
                with trio.move_on_after(STALL_S) as scope:
                    await self._writable.park()
                if scope.cancelled_caught:
                    self.abort()
                    raise MuxedStreamReset(f"the peer has not read for {STALL_S:.0f} s")

    # Ending

    def finish(self) -> None:
        """Say that no more will be written; reading goes on."""
        if not self.local_done and not self.is_broken:
            self.local_done = True
            self.session.queue_frame(frame(WINDOW_UPDATE, FIN, self.stream_id, 0))
            self.session.forget_if_done(self)
            self._writable.unpark_all()

    def abort(self) -> None:
        """End both directions, and drop what waits to be read."""
        if not self.is_broken:
            over = self.local_done and self.remote_done
            self.break_off()
            if not over:
                self.session.queue_frame(frame(WINDOW_UPDATE, RST, self.stream_id, 0))
        self.drop()

    def leave(self) -> None:
        """Nobody reads any more. Clean if our end was said and the peer sends no more; otherwise a reset."""
        if self.is_broken or not self.local_done:
            self.abort()
            return
        self.is_discarding = True
        unread = len(self.buffered)
        self.buffered.clear()
        self.session.count_read(unread)
        self.unwanted(unread)

    def unwanted(self, size_bytes: int) -> None:
        self._spare_bytes -= size_bytes
        if self._spare_bytes < 0:
            self.abort()

    def drop(self) -> None:
        self.session.count_read(len(self.buffered))
        self.buffered.clear()
        self.session.forget(self)

    # For the session

    def arrived(self, part: memoryview) -> None:
        self.buffered += part
        self._arrived.unpark_all()

    def credited(self, increment_bytes: int) -> None:
        self.send_window_bytes += increment_bytes
        self._writable.unpark_all()

    def remote_finished(self) -> None:
        self.remote_done = True
        self._arrived.unpark_all()

    def break_off(self) -> None:
        """What is buffered can still be read; then reading and writing raise MuxedStreamReset."""
        self.is_broken = True
        self._arrived.unpark_all()
        self._writable.unpark_all()

    # The library's names for the same

    async def close(self) -> None:
        await trio.lowlevel.checkpoint()
        self.finish()

    async def reset(self) -> None:
        self.abort()
        await trio.lowlevel.checkpoint()

    def set_deadline(self, ttl: int) -> None:
        raise NotImplementedError("use trio.fail_after")

    def get_remote_address(self) -> tuple[str, int] | None:
        address: tuple[str, int] | None = self.session.get_remote_address()
        return address

    async def __aenter__(self) -> "Stream":
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self.close()


class StreamTunnel:
    """A stream as a tunnel (`sockets.Tunnel`): another connection runs inside it, end to end."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """b"" at the end. Raises: trio.BrokenResourceError if the stream was reset or its connection lost."""
        try:
            return await self.stream.read(max_bytes)
        except MuxedStreamEOF:
            return b""
        except MuxedStreamReset as error:
            raise trio.BrokenResourceError(str(error)) from error

    async def send_all(self, data: bytes) -> None:
        """Raises: trio.BrokenResourceError, trio.ClosedResourceError."""
        try:
            await self.stream.write(data)
        except MuxedStreamClosed as error:
            raise trio.ClosedResourceError(str(error)) from error
        except MuxedStreamReset as error:
            raise trio.BrokenResourceError(str(error)) from error

    async def send_eof(self) -> None:
        self.stream.finish()
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        self.stream.leave()
        await trio.lowlevel.checkpoint()
