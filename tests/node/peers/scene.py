"""A node under attack, and a friend that is paired with it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from tests.node.peers.harness import ECHO, ECHO_BYTES_MAX, WITHIN_S, echo, echoes, real_network
from unhosted.node.core.peering import Channel, PeerId
from unhosted.node.shell.peers.limits import Limits
from unhosted.node.shell.peers.network import LibP2PNetwork
from unhosted.node.shell.peers.overrides.session import Session

OPEN = "/test/open/1"
"""Answered to anyone, by a handler that never reads."""


@dataclass(slots=True, kw_only=True)
class Scene:
    """victim: under attack. friend: paired with it, and connected."""

    victim: LibP2PNetwork
    friend: LibP2PNetwork
    paired: set[PeerId] = field(default_factory=set)

    async def victim_serves(self) -> None:
        """On the connection that stands, and to a friend who comes anew."""
        assert await echoes(self.friend, self.victim.peer)
        await self.friend.disconnect(self.victim.peer)
        await self.friend.connect(self.victim.peer, self.victim.addresses(), timeout_s=5.0)
        assert await echoes(self.friend, self.victim.peer)


@asynccontextmanager
async def scene(limits: Limits | None = None) -> AsyncIterator[Scene]:
    paired: set[PeerId] = set()
    victim, friend = real_network(paired, limits), real_network(set())
    paired.add(friend.peer)

    async def deaf(channel: Channel) -> None:
        await trio.sleep_forever()

    with trio.fail_after(WITHIN_S):
        async with trio.open_nursery() as nursery:
            victim.serve(ECHO, echo, access="paired", message_bytes_max=ECHO_BYTES_MAX)
            victim.serve(OPEN, deaf, access="anyone", message_bytes_max=ECHO_BYTES_MAX)
            await nursery.start(victim.run)
            await nursery.start(friend.run)
            await friend.connect(victim.peer, victim.addresses(), timeout_s=5.0)
            yield Scene(victim=victim, friend=friend, paired=paired)
            nursery.cancel_scope.cancel()


def under_attack(attack: Callable[[Scene], Awaitable[None]], limits: Limits | None = None) -> None:
    async def main() -> None:
        async with scene(limits) as at:
            await attack(at)
            await at.victim_serves()

    trio.run(main)


def held_bytes(network: LibP2PNetwork) -> int:
    return network._entrance.memory.held_bytes


async def session_with(network: LibP2PNetwork, peer: PeerId) -> Session:
    """The node's own end of its connection with an attacker, as soon as it stands."""
    version = -1
    while True:
        version, _ = await network.changed(version)
        for live in network._lives.of_peer(peer):
            return live.session
