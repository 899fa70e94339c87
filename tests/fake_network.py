"""A network of peers in one process: what `shell.peers` does over libp2p, over lists instead.

It passes the same contract tests as the real one (tests/node/peers/test_contract.py). Cables can be pulled:
`Fabric.cut` makes two peers silent to each other, as a machine that lost its power is, and after DEAD_AFTER_S
both notice; `Fabric.heal` before that delivers what was under way; `Fabric.reset` breaks their connection, as
a killed process does.
"""

from collections import deque
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

DEAD_AFTER_S = 5.0
"""When the real one notices that a silent peer is dead."""


@dataclass(eq=False, kw_only=True)
class FakeChannel:
    """One side of a channel. inbox: what this side has not received yet; None is the other's end."""

    peer: PeerId
    owner: PeerId
    fabric: "Fabric"
    message_bytes_max: int
    inbox: "deque[bytes | None]" = field(default_factory=deque)
    limbo: "deque[bytes | None]" = field(default_factory=deque)
    changed: trio.lowlevel.ParkingLot = field(default_factory=trio.lowlevel.ParkingLot)
    other: "FakeChannel | None" = None
    broken: str = ""
    ended: bool = False
    done: bool = False
    left: bool = False

    async def send(self, message: bytes) -> None:
        if not 0 < len(message) <= self.message_bytes_max:
            raise ValueError(
                f"a message of {len(message)} bytes; this protocol has 1 to {self.message_bytes_max}"
            )
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.ended:
            raise ChannelBroken(f"the channel to {self.peer} was ended here")
        await self._put(bytes(message))

    async def end(self) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self.ended:
            self.ended = True
            await self._put(None)

    async def receive(self) -> bytes | None:
        if self.done:
            await trio.lowlevel.checkpoint()
            return None
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self.inbox:
            if self.broken:
                raise ChannelBroken(f"the channel to {self.peer} broke: {self.broken}")
            await self.changed.park()
        message = self.inbox.popleft()
        self.changed.unpark_all()
        if self.other is not None:
            self.other.changed.unpark_all()
        if message is None:
            self.done = True
        elif len(message) > self.message_bytes_max:
            self.break_both(
                f"a message of {len(message)} bytes, at most {self.message_bytes_max} are allowed"
            )
            self.inbox.clear()
            raise ChannelBroken(f"the channel to {self.peer} broke: {self.broken}")
        return message

    async def _put(self, message: bytes | None) -> None:
        other = self.other
        assert other is not None
        try:
            while not self.broken and len(other.inbox) + len(other.limbo) >= QUEUE_MESSAGES:
                await self.changed.park()
        except trio.Cancelled:
            self.break_both("a message was cancelled while it was sent")
            raise
        if not self.broken and other.left and message is not None:
            self.broken = "the peer reset the stream"  # nobody reads there any more
        if self.broken:
            raise ChannelBroken(f"the channel to {self.peer} broke: {self.broken}")
        if self.fabric.is_cut(self.owner, self.peer):
            other.limbo.append(message)  # the sender of a pulled cable notices nothing
        else:
            other.inbox.append(message)
            other.changed.unpark_all()

    def break_both(self, why: str) -> None:
        """Both sides notice; across a pulled cable the other one does when it finds this one dead."""
        for side in (self, self.other):
            if side is None or (side is not self and self.fabric.is_cut(self.owner, self.peer)):
                continue
            side.broken = side.broken or why
            side.changed.unpark_all()

    def leave(self) -> None:
        """Cleanly if our end was said, otherwise with a reset."""
        if not self.ended:
            self.break_both("it was left without its end")
        self.left = True
        self.broken = self.broken or "it was left"
        if self in self.fabric.channels:
            self.fabric.channels.remove(self)

    def deliver_limbo(self) -> None:
        self.inbox.extend(self.limbo)
        self.limbo.clear()
        self.changed.unpark_all()


@dataclass(eq=False)
class Fabric:
    """Where the fake peers meet."""

    networks: "dict[PeerId, FakeNetwork]" = field(default_factory=dict)
    channels: list[FakeChannel] = field(default_factory=list)
    _cuts: dict[frozenset[PeerId], int] = field(default_factory=dict)
    _cut_count: int = 0

    def cut(self, one: PeerId, other: PeerId) -> None:
        pair = frozenset({one, other})
        self._cut_count += 1
        self._cuts[pair] = self._cut_count
        for name in (one, other):
            network = self.networks.get(name)
            if network is not None and network.nursery is not None:
                network.nursery.start_soon(self._notice_death, one, other, self._cut_count)
                return

    def heal(self, one: PeerId, other: PeerId) -> None:
        self._cuts.pop(frozenset({one, other}), None)
        for channel in self.channels:
            if {channel.owner, channel.peer} == {one, other}:
                channel.deliver_limbo()

    def is_cut(self, one: PeerId, other: PeerId) -> bool:
        return frozenset({one, other}) in self._cuts

    def reset(self, one: PeerId, other: PeerId, why: str = "the connection was lost") -> None:
        for channel in tuple(self.channels):
            if {channel.owner, channel.peer} == {one, other}:
                channel.broken = channel.broken or why
                channel.limbo.clear()
                channel.changed.unpark_all()
        for a, b in ((one, other), (other, one)):
            if a in self.networks:
                self.networks[a].disconnected(b)

    async def _notice_death(self, one: PeerId, other: PeerId, cut: int) -> None:
        await trio.sleep(DEAD_AFTER_S)
        if self._cuts.get(frozenset({one, other})) == cut:
            self.reset(one, other, f"nothing was heard of the peer for {DEAD_AFTER_S:.0f} s")


class FakeNetwork:
    """Implements `core.peering.Network`. `run` answers the other peers' channels."""

    def __init__(self, fabric: Fabric, peer: PeerId, *, paired: set[PeerId] | None = None) -> None:
        self.fabric = fabric
        self.peer = peer
        self.paired: set[PeerId] = set() if paired is None else paired
        self.live: dict[PeerId, Connection] = {}
        self.nursery: trio.Nursery | None = None
        self._protocols: dict[str, tuple[ChannelHandler, Access, int]] = {}
        self._version = 0
        self._changed = trio.lowlevel.ParkingLot()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        self.fabric.networks[self.peer] = self
        try:
            async with trio.open_nursery() as nursery:
                self.nursery = nursery
                task_status.started()
                await trio.sleep_forever()
        finally:
            self.nursery = None
            for other in list(self.live):
                self.fabric.reset(self.peer, other)
            self.fabric.networks.pop(self.peer, None)

    def addresses(self) -> tuple[str, ...]:
        return (f"/memory/{self.peer}",)

    def connections(self) -> tuple[Connection, ...]:
        return tuple(self.live.values())

    async def changed(self, seen: int) -> tuple[int, tuple[Connection, ...]]:
        await trio.lowlevel.checkpoint()
        while self._version == seen:
            await self._changed.park()
        return self._version, self.connections()

    def serve(
        self, protocol: str, handler: ChannelHandler, *, access: Access, message_bytes_max: int
    ) -> None:
        self._protocols[protocol] = (handler, access, message_bytes_max)

    async def connect(self, peer: PeerId, addresses: Sequence[str], *, timeout_s: float) -> Connection:
        await trio.lowlevel.checkpoint()
        if peer == self.peer:
            raise PeerUnreachable(f"{peer} is this machine itself")
        if peer in self.live:
            return self.live[peer]
        other = self.fabric.networks.get(peer)
        if self.fabric.is_cut(self.peer, peer):
            await trio.sleep(timeout_s)
            raise PeerUnreachable(f"{peer}: {', '.join(addresses)} did not answer within {timeout_s} s")
        if other is None or not set(addresses) & set(other.addresses()):
            raise PeerUnreachable(f"{peer}: nothing at {', '.join(addresses) or 'no address'}")
        self.connected(peer, outbound=True)
        other.connected(self.peer, outbound=False)
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
        if other is None or other.nursery is None or not other.admits(self.peer, protocol):
            raise PeerUnreachable(f"{peer} refuses {protocol}")
        handler, _, their_max = other._protocols[protocol]
        ours = FakeChannel(
            peer=peer, owner=self.peer, fabric=self.fabric, message_bytes_max=message_bytes_max
        )
        theirs = FakeChannel(peer=self.peer, owner=peer, fabric=self.fabric, message_bytes_max=their_max)
        ours.other, theirs.other = theirs, ours
        self.fabric.channels += [ours, theirs]
        other.nursery.start_soon(_answer, handler, theirs)
        try:
            yield ours
        finally:
            ours.leave()

    def admits(self, peer: PeerId, protocol: str) -> bool:
        known = self._protocols.get(protocol)
        return known is not None and (known[1] == "anyone" or peer in self.paired)

    async def disconnect(self, peer: PeerId) -> None:
        await trio.lowlevel.checkpoint()
        self.fabric.reset(self.peer, peer)

    def connected(self, peer: PeerId, *, outbound: bool) -> None:
        self.live[peer] = Connection(
            peer=peer,
            path="lan",
            remote_address=f"/memory/{peer}",
            is_outbound=outbound,
            round_trip_s=0.0001,
        )
        self._note_change()

    def disconnected(self, peer: PeerId) -> None:
        if self.live.pop(peer, None) is not None:
            self._note_change()

    def _note_change(self) -> None:
        self._version += 1
        self._changed.unpark_all()


async def _answer(handler: ChannelHandler, channel: FakeChannel) -> None:
    try:
        await handler(channel)
    except Exception:  # the real one logs it: that channel is reset unless it was ended, the node serves on
        return
    finally:
        channel.leave()
