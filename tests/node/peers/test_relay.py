"""What a relay may say to whoever reserves there; whole circuits: tests/netns."""

import time

import trio

from tests.node.peers.harness import Two, two_networks
from unhosted.node.core.peering import PeerId
from unhosted.node.shell.peers.overrides.stream import Stream, StreamTunnel
from unhosted.node.shell.peers.relay import DEFAULT_LIMITS, Relay
from unhosted.node.shell.peers.relay_messages import HOP, RelayMessage, encode, read_message


def test_a_relay_whose_clock_is_years_ahead_is_renewed_at_all_the_same() -> None:
    """Or ours is years behind. The relay forgets us after an hour of its own; we must ask before that."""

    async def main() -> None:
        asked = trio.Event()

        async def grant(stream: Stream, peer: PeerId) -> None:
            tunnel = StreamTunnel(stream)
            await read_message(tunnel.receive_some, HOP)
            ends = int(time.time()) + 10 * 365 * 86_400
            await tunnel.send_all(encode(RelayMessage(kind="STATUS", status="OK", expires_unix_s=ends), HOP))
            await tunnel.send_eof()
            asked.set()

        async with two_networks("libp2p") as two, trio.open_nursery() as nursery:
            await reserve(two, nursery, grant, asked)
            nursery.cancel_scope.cancel()

    async def reserve(two: Two, nursery: trio.Nursery, grant: object, asked: trio.Event) -> None:
        two.far.serve_stream(HOP, grant, access="paired")  # type: ignore[attr-defined]
        relay = Relay(two.near, is_paired=two.near_paired.__contains__)  # type: ignore[arg-type]
        await nursery.start(relay.run)
        await two.connect()
        await asked.wait()
        while two.far.peer not in relay._reserved:
            await trio.lowlevel.checkpoint()
        again_s = relay._reserved[two.far.peer] - trio.current_time()
        assert again_s <= DEFAULT_LIMITS.reservation_s / 2

    trio.run(main)
