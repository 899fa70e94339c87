"""The two short talks of `/unhosted/pair/1`: what does your book say of me, and I have removed you."""

import logging
from contextlib import AbstractAsyncContextManager

import trio

from unhosted.node.core.pairing_words import PairingMessage, Resolve, Resolved, Standing, Unpaired
from unhosted.node.core.peering import Channel, ChannelBroken, Network, PeerId, PeerUnreachable
from unhosted.node.shell.trusted import pairing_wire
from unhosted.node.shell.trusted.wire_fields import WireError

log = logging.getLogger(__name__)

OPEN_TIMEOUT_S = 10.0
RESOLVE_TIMEOUT_S = 5.0
FAREWELL_TIMEOUT_S = 1.0
"""A removed peer that does not listen is disconnected unheard: it learns at its next contact."""


def open_channel(network: Network, peer: PeerId) -> AbstractAsyncContextManager[Channel]:
    """A channel of the protocol over the live connection. Raises: PeerUnreachable."""
    return network.open_channel(
        peer,
        pairing_wire.PROTOCOL,
        message_bytes_max=pairing_wire.MESSAGE_BYTES_MAX,
        timeout_s=OPEN_TIMEOUT_S,
    )


async def ask_standing(network: Network, peer: PeerId, ours: Standing) -> Standing | None:
    """What a connected peer's book says of us; None if it gave no answer."""
    answer: PairingMessage | None = None
    try:
        with trio.fail_after(RESOLVE_TIMEOUT_S):
            async with open_channel(network, peer) as channel:
                await channel.send(pairing_wire.encode(Resolve(standing=ours)))
                data = await channel.receive()
                answer = None if data is None else pairing_wire.decode(data)
                await _part(channel)
    except (PeerUnreachable, ChannelBroken, WireError, trio.TooSlowError) as error:
        log.info("pairing.resolve.failed peer=%s error=%s", peer[-8:], error)
    return answer.standing if isinstance(answer, Resolved) else None


async def say_farewell(network: Network, peer: PeerId) -> None:
    """Tell a peer that it was removed, and hang up, whether it listens or not."""
    try:
        with trio.move_on_after(FAREWELL_TIMEOUT_S):
            async with open_channel(network, peer) as channel:
                await channel.send(pairing_wire.encode(Unpaired()))
                await _part(channel)
    except (PeerUnreachable, ChannelBroken) as error:
        log.info("pairing.farewell.unheard peer=%s error=%s", peer[-8:], error)
    await network.disconnect(peer)


async def _part(channel: Channel) -> None:
    """Say that we are done and hear the other say it. What was said before stands without that, too."""
    try:
        await channel.end()
        await channel.receive()
    except ChannelBroken:
        log.debug("pairing.part.broken peer=%s", channel.peer[-8:])
