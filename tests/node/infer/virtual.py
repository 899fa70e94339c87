"""Scenes between the pair in virtual time, and a client that speaks the protocol by hand."""

from collections.abc import Awaitable, Callable

import trio
import trio.testing

from tests.fake_network import FakeChannel
from tests.node.infer.pair import Pair, pair
from unhosted.market.cbor import decode
from unhosted.node.core.peering import Channel
from unhosted.node.shell.trusted.wire import encode_hello
from unhosted.node.shell.trusted.wire_messages import Hello
from unhosted.node.shell.trusted.wire_replies import REPLY_BYTES_MAX

Scene = Callable[[Pair], Awaitable[None]]
HELLO = encode_hello(Hello(name="n", version="1"))


def play_virtually(scene: Scene) -> None:
    """In virtual time, which jumps on while a thread is at work, too: the limit is far away."""

    async def main() -> None:
        async with pair(limit_s=20_000) as made:
            await scene(made)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.001))


async def receive(channel: Channel) -> dict[str, object]:
    data = await channel.receive()
    assert data is not None
    value: dict[str, object] = decode(data, bytes_max=REPLY_BYTES_MAX)
    return value


async def greeted(channel: FakeChannel) -> None:
    await channel.send(HELLO)
    assert (await receive(channel))["k"] == "hello"
    assert (await receive(channel))["k"] == "facts"
