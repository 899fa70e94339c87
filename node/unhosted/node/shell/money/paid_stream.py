"""A peer's channel as messages of the paid stream, whole and in order, sent from any task."""

from collections.abc import Awaitable, Callable

import trio

from unhosted.node.core.peering import Channel as Stream
from unhosted.node.core.peering import ChannelBroken
from unhosted.node.shell.money.paid_wire import StreamMessage, decode_stream, encode_stream

SEND_WAIT_S = 30.0
"""A peer that takes nothing for so long, with its window full, holds up the whole channel, and at a seller a
slot of the engine: the stream ends, as it would with a pulled cable."""

Hear = Callable[[StreamMessage], Awaitable[None]]


class PaidStream:
    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._sending = trio.Lock()
        self._broken = trio.CancelScope()

    @property
    def peer(self) -> str:
        return self._stream.peer

    async def send(self, message: StreamMessage) -> None:
        """Nothing happens once the stream is broken: what matters is on the disk."""
        async with self._sending:
            if self._broken.cancel_called:
                return
            try:
                with trio.move_on_after(SEND_WAIT_S) as waiting:
                    await self._stream.send(encode_stream(message))
            except ChannelBroken:
                self.break_off()
            else:
                if waiting.cancelled_caught:
                    self.break_off()

    def break_off(self) -> None:
        """End `read`: the two ends no longer count alike, or one of them breaks the rules."""
        self._broken.cancel()

    async def read(self, hear: Hear) -> None:
        """Hear each message until the peer's end, or the break. Unknown kinds are left out.

        Raises: RemoteFault for what is no message; ChannelBroken.
        """
        with self._broken:
            while (data := await self._stream.receive()) is not None:
                message = decode_stream(data)
                if message is not None:
                    await hear(message)
