"""A network of peers in one process: what `shell.peers` does over libp2p, over memory channels instead.

It passes the same contract tests as the real one. Cables can be pulled: `Fabric.cut` makes two peers silent
to each other, as a machine that lost its power is; `Fabric.reset` breaks their connection, as a killed
process does.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from unhosted.node.core.peering import (
    Access,
    ChannelBroken,
    ChannelHandler,
    Connection,
    PeerId,
    PeerUnreachable,
)

QUEUE_MESSAGES = 64
"""Messages on their way in one direction: the window of the real one, in messages."""


@dataclass(eq=False, kw_only=True)
class FakeChannel:
    """One side of a channel. broken is shared by both sides; `reset` is what a lost connection does."""

    peer: PeerId
    owner: PeerId
    fabric: "Fabric"
    outgoing: "trio.MemorySendChannel[bytes | None]"
    incoming: "trio.MemoryReceiveChannel[bytes | None]"
    message_bytes_max: int
    broken: trio.Event
    ended: bool = False
    done: bool = False

    async def send(self, message: bytes) -> None:
        if self.ended:
            raise ChannelBroken(f"the channel to {self.peer} was ended")
        await self._put(bytes(message))

    async def end(self) -> None:
        if not self.ended:
            self.ended = True
            await self._put(None)

    async def receive(self) -> bytes | None:
        if self.done:
            await trio.lowlevel.checkpoint()
            return None
        message: bytes | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._cancel_when_broken, nursery.cancel_scope)
            try:
                message = await self.incoming.receive()
            except trio.EndOfChannel:
                self.broken.set()
            nursery.cancel_scope.cancel()
        if self.broken.is_set() and message is None and not self._said_end():
            raise ChannelBroken(f"the channel to {self.peer} broke")
        if message is None:
            self.done = True
            return None
        if len(message) > self.message_bytes_max:
            self.broken.set()
            raise ChannelBroken(f"a message of {len(message)} bytes, at most {self.message_bytes_max}")
        return message

    def _said_end(self) -> bool:
        return not self.broken.is_set()

    async def _put(self, message: bytes | None) -> None:
        if self.fabric.is_cut(self.owner, self.peer):
            await trio.lowlevel.checkpoint()
            return  # a pulled cable: the sender notices nothing
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._cancel_when_broken, nursery.cancel_scope)
            try:
                await self.outgoing.send(message)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self.broken.set()
            nursery.cancel_scope.cancel()
        if self.broken.is_set():
            raise ChannelBroken(f"the channel to {self.peer} broke")

    async def _cancel_when_broken(self, scope: trio.CancelScope) -> None:
        await self.broken.wait()
        scope.cancel()


@dataclass(eq=False)
class Fabric:
    """Where the fake peers meet."""

    networks: "dict[PeerId, FakeNetwork]" = field(default_factory=dict)
    channels: list[FakeChannel] = field(default_factory=list)
    _cuts: set[frozenset[PeerId]] = field(default_factory=set)

    def cut(self, one: PeerId, other: PeerId) -> None:
        self._cuts.add(frozenset({one, other}))

    def heal(self, one: PeerId, other: PeerId) -> None:
        self._cuts.discard(frozenset({one, other}))

    def is_cut(self, one: PeerId, other: PeerId) -> bool:
        return frozenset({one, other}) in self._cuts

    def reset(self, one: PeerId, other: PeerId) -> None:
        for channel in self.channels:
            if {channel.owner, channel.peer} == {one, other}:
                channel.broken.set()
        for a, b in ((one, other), (other, one)):
            if a in self.networks:
                self.networks[a].live.pop(b, None)


class FakeNetwork:
    """Implements `core.peering.Network`. `run` answers the other peers' channels."""

    def __init__(self, fabric: Fabric, peer: PeerId, *, paired: set[PeerId] | None = None) -> None:
        self.fabric = fabric
        self.peer = peer
        self.paired: set[PeerId] = set() if paired is None else paired
        self.live: dict[PeerId, Connection] = {}
        self._protocols: dict[str, tuple[ChannelHandler, Access, int]] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        self.fabric.networks[self.peer] = self
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None
            self.fabric.networks.pop(self.peer, None)
            for other in list(self.live):
                self.fabric.reset(self.peer, other)

    def addresses(self) -> tuple[str, ...]:
        return (f"/memory/{self.peer}",)

    def connections(self) -> tuple[Connection, ...]:
        return tuple(self.live.values())

    def serve(
        self, protocol: str, handler: ChannelHandler, *, access: Access, message_bytes_max: int
    ) -> None:
        self._protocols[protocol] = (handler, access, message_bytes_max)

    async def connect(self, peer: PeerId, addresses: Sequence[str], *, timeout_s: float) -> Connection:
        await trio.lowlevel.checkpoint()
        if peer in self.live:
            return self.live[peer]
        other = self.fabric.networks.get(peer)
        if self.fabric.is_cut(self.peer, peer):
            await trio.sleep(timeout_s)
            raise PeerUnreachable(f"{peer}: {', '.join(addresses)} did not answer within {timeout_s} s")
        if other is None or not set(addresses) & set(other.addresses()):
            raise PeerUnreachable(f"{peer}: nothing at {', '.join(addresses) or 'no address'}")
        self.live[peer] = _connection(peer, outbound=True)
        other.live[self.peer] = _connection(self.peer, outbound=False)
        return self.live[peer]

    @asynccontextmanager
    async def open_channel(
        self, peer: PeerId, protocol: str, *, message_bytes_max: int, timeout_s: float
    ) -> AsyncIterator[FakeChannel]:
        await trio.lowlevel.checkpoint()
        other = self.fabric.networks.get(peer)
        if peer not in self.live:
            raise PeerUnreachable(f"{peer}: there is no connection")
        if self.fabric.is_cut(self.peer, peer):
            await trio.sleep(timeout_s)
            raise PeerUnreachable(f"{peer}: no answer within {timeout_s} s")
        if other is None or other._nursery is None or not other.admits(self.peer, protocol):
            raise PeerUnreachable(f"{peer} refuses {protocol}")
        handler, _, their_max = other._protocols[protocol]
        to_them, from_us = trio.open_memory_channel[bytes | None](QUEUE_MESSAGES)
        to_us, from_them = trio.open_memory_channel[bytes | None](QUEUE_MESSAGES)
        broken = trio.Event()
        ours = FakeChannel(
            peer=peer,
            owner=self.peer,
            fabric=self.fabric,
            outgoing=to_them,
            incoming=from_them,
            message_bytes_max=message_bytes_max,
            broken=broken,
        )
        theirs = FakeChannel(
            peer=self.peer,
            owner=peer,
            fabric=self.fabric,
            outgoing=to_us,
            incoming=from_us,
            message_bytes_max=their_max,
            broken=broken,
        )
        self.fabric.channels += [ours, theirs]
        other._nursery.start_soon(_answer, handler, theirs)
        try:
            yield ours
        finally:
            if not ours.ended:
                ours.broken.set()
            self.fabric.channels.remove(ours)

    def admits(self, peer: PeerId, protocol: str) -> bool:
        known = self._protocols.get(protocol)
        return known is not None and (known[1] == "anyone" or peer in self.paired)

    async def disconnect(self, peer: PeerId) -> None:
        await trio.lowlevel.checkpoint()
        self.fabric.reset(self.peer, peer)


def _connection(peer: PeerId, *, outbound: bool) -> Connection:
    return Connection(
        peer=peer,
        path="lan",
        remote_address=f"/memory/{peer}",
        is_outbound=outbound,
        round_trip_s=0.0001,
    )


async def _answer(handler: ChannelHandler, channel: FakeChannel) -> None:
    try:
        await handler(channel)
    except Exception:  # what the real one does: that channel is reset, the node serves on
        channel.broken.set()
    finally:
        if not channel.ended:
            channel.broken.set()
        channel.fabric.channels.remove(channel)
