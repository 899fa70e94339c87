"""One channel of `/unhosted/pair/1` at work: what comes in goes to `on_message`, what goes out waits here."""

import logging
from collections.abc import Awaitable, Callable

import trio

from unhosted.node.core.pairing_words import Decline, PairingMessage
from unhosted.node.core.peering import Channel, ChannelBroken, PeerId
from unhosted.node.shell.trusted import pairing_wire
from unhosted.node.shell.trusted.wire_fields import WireError

log = logging.getLogger(__name__)

OUTBOX_MAX = 8
"""Messages that wait to be sent: a whole pairing has four each way. A peer that does not read is left."""

MESSAGES_MAX = 16
"""Messages that a peer may send on one channel; the same reason."""

FIRST_MESSAGE_S = 10.0
"""How long a channel may stay silent after it was opened."""

LINGER_S = 5.0
"""How long to wait for the other side's end after ours; leaving at once could lose our last message."""


class Line:
    """A channel with a number, by which `core.pairing` knows it."""

    def __init__(self, number: int, channel: Channel) -> None:
        self.number = number
        self._channel = channel
        self._outbox, self._waiting = trio.open_memory_channel[PairingMessage | None](OUTBOX_MAX)
        self._scope = trio.CancelScope()

    @property
    def peer(self) -> PeerId:
        return self._channel.peer

    @property
    def is_hung_up(self) -> bool:
        return self._scope.cancel_called

    def hang_up(self) -> None:
        self._scope.cancel()

    def send(self, message: PairingMessage) -> None:
        self._put(message)

    def end(self) -> None:
        self._put(None)

    async def run(self, on_message: Callable[["Line", PairingMessage], Awaitable[None]]) -> None:
        """Until both sides have said that they are done, or the channel breaks, or the peer breaks a rule."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write)
                await self._read(on_message)
                nursery.cancel_scope.deadline = trio.current_time() + LINGER_S

    def _put(self, message: PairingMessage | None) -> None:
        try:
            self._outbox.send_nowait(message)
        except trio.WouldBlock:
            log.warning("pairing.line.full peer=%s", self.peer[-8:])
            self._scope.cancel()

    async def _write(self) -> None:
        try:
            async for message in self._waiting:
                if message is None:
                    await self._channel.end()
                    self._scope.deadline = trio.current_time() + LINGER_S
                    return
                await self._channel.send(pairing_wire.encode(message))
        except ChannelBroken:
            self._scope.cancel()

    async def _read(self, on_message: Callable[["Line", PairingMessage], Awaitable[None]]) -> None:
        try:
            for count in range(MESSAGES_MAX):
                with trio.move_on_after(FIRST_MESSAGE_S if count == 0 else float("inf")) as limit:
                    data = await self._channel.receive()
                if limit.cancelled_caught:
                    break
                if data is None:
                    return
                await on_message(self, pairing_wire.decode(data))
        except ChannelBroken:
            pass
        except pairing_wire.VersionUnknown as error:
            log.info("pairing.version peer=%s error=%s", self.peer[-8:], error)
            self.send(Decline(why="version"))
            self.end()
            return
        except WireError as error:
            log.warning("pairing.message.bad peer=%s error=%s", self.peer[-8:], error)
        self._scope.cancel()
