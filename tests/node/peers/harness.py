"""Networks on loopback, the real one and the fake one, and what tests do with them."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import trio

from tests.fake_network import Fabric, FakeNetwork
from unhosted.node.core.peering import Channel, Connection, Network, PeerId
from unhosted.node.shell.peers.identity import new_identity
from unhosted.node.shell.peers.limits import Limits
from unhosted.node.shell.peers.network import LibP2PNetwork

ECHO = "/test/echo/1"
ECHO_BYTES_MAX = 8 * 1024 * 1024
WITHIN_S = 30.0
"""A test that takes longer hangs."""


class Watched(Network, Protocol):
    """The contract, and what both implementations add to it."""

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None: ...

    async def changed(self, seen: int) -> tuple[int, tuple[Connection, ...]]: ...


@dataclass(slots=True, kw_only=True)
class Two:
    """near dials far. paired: whom each of them takes for paired; near is paired with far at first."""

    near: Watched
    far: Watched
    near_paired: set[PeerId]
    far_paired: set[PeerId]

    async def connect(self) -> Connection:
        return await self.near.connect(self.far.peer, self.far.addresses(), timeout_s=5.0)


async def echo(channel: Channel) -> None:
    while (message := await channel.receive()) is not None:
        await channel.send(message)
    await channel.end()


@asynccontextmanager
async def two_networks(kind: str, limits: Limits | None = None) -> AsyncIterator[Two]:
    """Both run, and answer ECHO to paired peers. kind: libp2p or fake."""
    with trio.fail_after(WITHIN_S):
        async with trio.open_nursery() as nursery:
            two = _real_two(limits) if kind == "libp2p" else _fake_two()
            for network in (two.near, two.far):
                network.serve(ECHO, echo, access="paired", message_bytes_max=ECHO_BYTES_MAX)
                await nursery.start(network.run)
            two.near_paired.add(two.far.peer)
            two.far_paired.add(two.near.peer)
            yield two
            nursery.cancel_scope.cancel()


def _fake_two() -> Two:
    fabric, near_paired, far_paired = Fabric(), set[PeerId](), set[PeerId]()
    near = FakeNetwork(fabric, "near", paired=near_paired)
    far = FakeNetwork(fabric, "far", paired=far_paired)
    return Two(near=near, far=far, near_paired=near_paired, far_paired=far_paired)


def _real_two(limits: Limits | None) -> Two:
    near_paired, far_paired = set[PeerId](), set[PeerId]()
    near = real_network(near_paired)
    far = real_network(far_paired, limits)
    return Two(near=near, far=far, near_paired=near_paired, far_paired=far_paired)


def real_network(
    paired: set[PeerId],
    limits: Limits | None = None,
    listen: Sequence[tuple[str, int]] = (("127.0.0.1", 0),),
) -> LibP2PNetwork:
    return LibP2PNetwork(
        new_identity(),
        listen=listen,
        is_paired=paired.__contains__,
        limits=limits,
        agent="unhosted/0.test",
    )


async def until_connections(network: Watched, count: int) -> tuple[Connection, ...]:
    version, connections = await network.changed(-1)
    while len(connections) != count:
        version, connections = await network.changed(version)
    return connections


async def echoes(network: Network, peer: PeerId, message: bytes = b"are you there?") -> bool:
    """Whether the peer answers on a new channel; raises what the channel raises."""
    async with network.open_channel(peer, ECHO, message_bytes_max=ECHO_BYTES_MAX, timeout_s=5.0) as channel:
        await channel.send(message)
        answer = await channel.receive()
        await channel.end()
        return answer == message and await channel.receive() is None
