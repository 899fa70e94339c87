"""What `core.peering.Network` promises, of the real network on loopback and of everybody's fake one."""

from collections.abc import Awaitable, Callable

import pytest
import trio

from tests.node.peers.harness import ECHO, ECHO_BYTES_MAX, Two, echoes, two_networks, until_connections
from unhosted.node.core.peering import Channel, ChannelBroken, PeerUnreachable

OTHER = "/test/other/1"


@pytest.fixture(params=["libp2p", "fake"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def run(kind: str, test: Callable[[Two], Awaitable[None]]) -> None:
    async def main() -> None:
        async with two_networks(kind) as two:
            await test(two)

    trio.run(main)


def other(two: Two, handler: Callable[[Channel], Awaitable[None]], message_bytes_max: int = 1024) -> None:
    two.far.serve(OTHER, handler, access="paired", message_bytes_max=message_bytes_max)


def test_both_sides_see_the_connection(kind: str) -> None:
    async def test(two: Two) -> None:
        made = await two.connect()
        assert (made.peer, made.path, made.is_outbound) == (two.far.peer, "lan", True)
        (seen,) = await until_connections(two.far, 1)
        assert (seen.peer, seen.is_outbound) == (two.near.peer, False)
        assert (await two.connect()).remote_address == made.remote_address, "a live connection is kept"
        assert len(two.near.connections()) == 1

    run(kind, test)


def test_messages_of_all_sizes_come_whole_and_in_order(kind: str) -> None:
    sizes = (1, 3, 4, 5, 1000, 32 * 1024, 65_503, 65_504, 65_507, 65_508, 300_000, 1_500_000, 2)

    async def test(two: Two) -> None:
        await two.connect()
        async with two.near.open_channel(
            two.far.peer, ECHO, message_bytes_max=ECHO_BYTES_MAX, timeout_s=5.0
        ) as channel:
            sent = [bytes([index]) * size for index, size in enumerate(sizes)]

            async def send_all() -> None:
                for message in sent:
                    await channel.send(message)
                await channel.end()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_all)
                received = []
                while (message := await channel.receive()) is not None:
                    received.append(message)
            assert received == sent
            assert await channel.receive() is None, "the end stays the end"

    run(kind, test)


def test_receiving_goes_on_after_the_own_end(kind: str) -> None:
    async def late(channel: Channel) -> None:
        assert await channel.receive() is None
        await channel.send(b"after your end")
        await channel.end()

    async def test(two: Two) -> None:
        other(two, late)
        await two.connect()
        async with two.near.open_channel(
            two.far.peer, OTHER, message_bytes_max=1024, timeout_s=5.0
        ) as channel:
            await channel.end()
            assert await channel.receive() == b"after your end"
            assert await channel.receive() is None
            with pytest.raises(ChannelBroken):
                await channel.send(b"more")

    run(kind, test)


def test_leaving_without_the_end_breaks_the_other_side_after_what_was_sent(kind: str) -> None:
    async def leaves(channel: Channel) -> None:
        await channel.send(b"one")
        await channel.send(b"two")

    async def test(two: Two) -> None:
        other(two, leaves)
        await two.connect()
        async with two.near.open_channel(
            two.far.peer, OTHER, message_bytes_max=1024, timeout_s=5.0
        ) as channel:
            assert [await channel.receive(), await channel.receive()] == [b"one", b"two"]
            with pytest.raises(ChannelBroken):
                await channel.receive()
        assert await echoes(two.near, two.far.peer), "the connection stands"

    run(kind, test)


def test_a_refusal_is_heard_by_a_sender_that_was_cut_off(kind: str) -> None:
    async def refuses(channel: Channel) -> None:
        await channel.receive()
        await channel.send(b"no")
        await channel.end()

    async def test(two: Two) -> None:
        other(two, refuses)
        await two.connect()
        async with two.near.open_channel(
            two.far.peer, OTHER, message_bytes_max=1024, timeout_s=5.0
        ) as channel:
            with pytest.raises(ChannelBroken):
                while True:
                    await channel.send(bytes(1024))
                    await trio.lowlevel.checkpoint()
            assert await channel.receive() == b"no"

    run(kind, test)


def test_a_message_over_the_limit_breaks_the_channel_alone(kind: str) -> None:
    broken = trio.Event()

    async def careful(channel: Channel) -> None:
        with pytest.raises(ChannelBroken, match="at most 1024"):
            await channel.receive()
        broken.set()

    async def test(two: Two) -> None:
        other(two, careful)
        await two.connect()
        async with two.near.open_channel(
            two.far.peer, OTHER, message_bytes_max=4096, timeout_s=5.0
        ) as channel:
            await channel.send(bytes(1025))
            await broken.wait()
            with pytest.raises(ChannelBroken):
                await channel.receive()
        assert await echoes(two.near, two.far.peer)

    run(kind, test)


def test_a_message_that_the_protocol_does_not_have_is_not_sent(kind: str) -> None:
    async def test(two: Two) -> None:
        await two.connect()
        async with two.near.open_channel(two.far.peer, ECHO, message_bytes_max=10, timeout_s=5.0) as channel:
            for size in (0, 11):
                with pytest.raises(ValueError, match=f"{size} bytes"):
                    await channel.send(bytes(size))
            await channel.send(b"right")
            assert await channel.receive() == b"right"

    run(kind, test)


def test_strangers_reach_what_is_open_to_anyone_and_nothing_else(kind: str) -> None:
    async def hello(channel: Channel) -> None:
        await channel.send(channel.peer.encode())
        await channel.end()

    async def test(two: Two) -> None:
        two.far.serve(OTHER, hello, access="anyone", message_bytes_max=1024)
        two.far_paired.clear()
        await two.connect()
        with pytest.raises(PeerUnreachable, match=ECHO):
            await echoes(two.near, two.far.peer)
        async with two.near.open_channel(
            two.far.peer, OTHER, message_bytes_max=1024, timeout_s=5.0
        ) as channel:
            assert await channel.receive() == two.near.peer.encode(), "the handler is told who it is"
        two.far_paired.add(two.near.peer)
        assert await echoes(two.near, two.far.peer), "pairing acts at the next opening"
        two.far_paired.clear()
        with pytest.raises(PeerUnreachable):
            await echoes(two.near, two.far.peer)

    run(kind, test)


def test_a_raising_handler_costs_its_own_channel_alone(kind: str) -> None:
    async def raises(channel: Channel) -> None:
        await channel.receive()
        raise RuntimeError("a defect")

    async def test(two: Two) -> None:
        other(two, raises)
        await two.connect()
        async with two.near.open_channel(
            two.far.peer, ECHO, message_bytes_max=1024, timeout_s=5.0
        ) as unharmed:
            async with two.near.open_channel(
                two.far.peer, OTHER, message_bytes_max=1024, timeout_s=5.0
            ) as channel:
                await channel.send(b"go")
                with pytest.raises(ChannelBroken):
                    await channel.receive()
            await unharmed.send(b"still there")
            assert await unharmed.receive() == b"still there"

    run(kind, test)


def test_a_cancelled_receive_loses_nothing(kind: str) -> None:
    async def test(two: Two) -> None:
        await two.connect()
        async with two.near.open_channel(
            two.far.peer, ECHO, message_bytes_max=ECHO_BYTES_MAX, timeout_s=5.0
        ) as channel:
            with trio.move_on_after(0):
                await channel.receive()
            for size in (10, 700_000, 3):
                await channel.send(bytes(size))
            received: list[int] = []
            while len(received) < 3:
                with trio.move_on_after(0.0005):
                    message = await channel.receive()
                    assert message is not None
                    received.append(len(message))
            assert received == [10, 700_000, 3]

    run(kind, test)


def test_a_cancelled_send_breaks_the_channel_and_not_the_connection(kind: str) -> None:
    async def deaf(channel: Channel) -> None:
        await trio.sleep_forever()

    async def test(two: Two) -> None:
        other(two, deaf, message_bytes_max=ECHO_BYTES_MAX)
        await two.connect()
        async with two.near.open_channel(
            two.far.peer, OTHER, message_bytes_max=ECHO_BYTES_MAX, timeout_s=5.0
        ) as channel:
            with trio.move_on_after(0.05) as scope:
                while True:
                    await channel.send(bytes(100_000))
            assert scope.cancelled_caught
            with pytest.raises(ChannelBroken):
                await channel.send(b"more")
        assert await echoes(two.near, two.far.peer)

    run(kind, test)


def test_disconnecting_ends_the_channels_of_both_sides(kind: str) -> None:
    ended = trio.Event()

    async def waits(channel: Channel) -> None:
        with pytest.raises(ChannelBroken):
            await channel.receive()
        ended.set()

    async def test(two: Two) -> None:
        other(two, waits)
        await two.connect()
        await until_connections(two.far, 1)
        async with two.near.open_channel(
            two.far.peer, OTHER, message_bytes_max=1024, timeout_s=5.0
        ) as channel:
            await two.far.disconnect(two.near.peer)
            assert two.far.connections() == ()
            with pytest.raises(ChannelBroken):
                await channel.receive()
        await until_connections(two.near, 0)
        await ended.wait()
        assert (await two.connect()).peer == two.far.peer, "and it may connect again"
        assert await echoes(two.near, two.far.peer)

    run(kind, test)


def test_what_cannot_be_reached_says_why(kind: str) -> None:
    async def test(two: Two) -> None:
        with pytest.raises(PeerUnreachable, match="no connection"):
            await echoes(two.near, two.far.peer)
        with pytest.raises(PeerUnreachable, match=r"nothing .*(/tcp/|:)9\b"):
            await two.near.connect(two.far.peer, ("/ip4/127.0.0.1/tcp/9",), timeout_s=2.0)
        with pytest.raises(PeerUnreachable, match="no address"):
            await two.near.connect(two.far.peer, (), timeout_s=2.0)
        with pytest.raises(PeerUnreachable, match="this machine itself"):
            await two.near.connect(two.near.peer, two.near.addresses(), timeout_s=2.0)
        await two.connect()
        with pytest.raises(PeerUnreachable, match="/test/unknown/1"):
            async with two.near.open_channel(
                two.far.peer, "/test/unknown/1", message_bytes_max=10, timeout_s=5.0
            ):
                pass

    run(kind, test)


def test_many_channels_at_once_do_not_mix(kind: str) -> None:
    async def test(two: Two) -> None:
        await two.connect()
        answers: list[bool] = []

        async def one(index: int) -> None:
            answers.append(await echoes(two.near, two.far.peer, b"%d" % index * 5000))

        async with trio.open_nursery() as nursery:
            for index in range(100):
                nursery.start_soon(one, index)
        assert answers == [True] * 100

    run(kind, test)
