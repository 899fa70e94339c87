"""Messages on a stream: four bytes of length, big-endian, then the message. A length of 0 is the end.

A stream that ends without it broke: a reset, a lost connection and a relay that is full all look like an end.
"""

import trio
from libp2p.stream_muxer.exceptions import MuxedStreamError

from unhosted.node.core.peering import ChannelBroken, PeerId
from unhosted.node.shell.peers.overrides.stream import Stream

LENGTH_BYTES = 4
END = b"\0" * LENGTH_BYTES

TURNS_MAX = 32
"""Messages that a reader takes from its buffer before other tasks get their turn."""


class FramedChannel:
    """Implements `core.peering.Channel`.

    A cancelled `receive` loses nothing: the next one goes on where it stopped. A cancelled `send` breaks the
    channel, since the peer may have half a message.
    """

    def __init__(self, stream: Stream, peer: PeerId, message_bytes_max: int) -> None:
        self.peer = peer
        self._stream = stream
        self._message_bytes_max = message_bytes_max
        self._sending = trio.Lock()
        self._partial = bytearray()
        self._wanted_bytes: int | None = None
        self._turns = 0
        self._broken = ""
        self._ended = self._done = False

    async def send(self, message: bytes) -> None:
        """Raises: ChannelBroken; ValueError for an empty message, or one that the protocol does not allow."""
        if not 0 < len(message) <= self._message_bytes_max:
            raise ValueError(
                f"a message of {len(message)} bytes; this protocol has 1 to {self._message_bytes_max}"
            )
        await self._send(len(message).to_bytes(LENGTH_BYTES, "big"), message)

    async def end(self) -> None:
        if not self._ended:
            self._ended = True
            await self._send(END, b"", is_end=True)

    async def _send(self, length: bytes, message: bytes, *, is_end: bool = False) -> None:
        if self._broken:
            raise ChannelBroken(self._broken)
        if self._ended and not is_end:
            raise ChannelBroken(f"the channel to {self.peer} was ended here")
        try:
            async with self._sending:
                # One write for both parts of a message that fits a frame, none copied of one that does not.
                if len(message) < 32 * 1024:
                    await self._stream.write(length + message)
                else:
                    await self._stream.write(length)
                    await self._stream.write(message)
        except MuxedStreamError as error:
            # What the peer said before it went can still be received: why it refuses, for example.
            raise ChannelBroken(f"the channel to {self.peer} broke: {error}") from error
        except trio.Cancelled:
            self._break("a message was cancelled while it was sent")
            raise

    async def receive(self) -> bytes | None:
        """The next message; None once the peer has ended. Raises: ChannelBroken."""
        if self._done:
            await trio.lowlevel.checkpoint()
            return None
        if self._broken:
            raise ChannelBroken(self._broken)
        self._turns = (self._turns + 1) % TURNS_MAX
        if self._turns == 0:
            await trio.lowlevel.checkpoint()
        try:
            if self._wanted_bytes is None:
                await self._stream.wait_buffered(LENGTH_BYTES)
                if not self._begin(int.from_bytes(self._stream.take(LENGTH_BYTES), "big")):
                    return None
            return await self._body(self._wanted_bytes or 0)
        except MuxedStreamError as error:
            raise self._break(str(error)) from error

    def _begin(self, length: int) -> bool:
        """Whether a message follows. A length beyond the limit breaks the channel before anything is kept."""
        if length == 0:
            self._done = True
            return False
        if length > self._message_bytes_max:
            raise self._break(f"a message of {length} bytes, at most {self._message_bytes_max} are allowed")
        self._wanted_bytes = length
        return True

    async def _body(self, length: int) -> bytes:
        stream = self._stream
        if not self._partial and len(stream.buffered) >= length:
            self._wanted_bytes = None
            return stream.take(length)
        while len(self._partial) < length:
            await stream.wait_buffered(1)
            size = min(len(stream.buffered), length - len(self._partial))
            self._partial += stream.take(size, keep_counted=True)
        message = bytes(self._partial)
        self._drop_partial()
        self._wanted_bytes = None
        return message

    def _drop_partial(self) -> None:
        self._stream.session.count_read(len(self._partial))
        self._partial.clear()

    def _break(self, why: str) -> ChannelBroken:
        if not self._broken:
            self._broken = f"the channel to {self.peer} broke: {why}"
            self._drop_partial()
            self._stream.abort()
        return ChannelBroken(self._broken)

    def close(self) -> None:
        """Whoever had the channel leaves: cleanly if the end was said here, otherwise with a reset."""
        if self._ended and not self._broken:
            self._broken = f"the channel to {self.peer} was left"
            self._drop_partial()
            self._stream.finish()
            self._stream.leave()
        else:
            self._break("it was left without its end")
