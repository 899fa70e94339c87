"""The same link and serving peer over encrypted connections on loopback."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from tests.node.infer.fake_engine import FACTS, FakeBook, FakeEngine
from tests.node.infer.pair import ask
from tests.node.peers.harness import Two, two_networks
from unhosted.market.cbor import encode
from unhosted.node.core.errors import Refused
from unhosted.node.core.inference import Delta
from unhosted.node.core.peering import Capabilities, ChannelBroken, Connection, PeerId, PeerUnreachable
from unhosted.node.shell.trusted.link import PeerLink
from unhosted.node.shell.trusted.links import Links
from unhosted.node.shell.trusted.serving import Serving
from unhosted.node.shell.trusted.wire import MESSAGE_BYTES_MAX, PROTOCOL, encode_ask, encode_hello
from unhosted.node.shell.trusted.wire_messages import Hello


class Joined:
    """The near machine asks, the far one answers."""

    def __init__(self, two: Two) -> None:
        self.two = two
        self.engine = FakeEngine()
        self.book = FakeBook({two.near.peer: Capabilities()})
        self.serving = Serving(
            two.far,
            answering=self.engine,
            book=self.book,
            facts=lambda: FACTS,
            accepting=lambda: (True, ""),
        )
        self.links = Links(
            two.near,
            paired=lambda: two.near_paired,
            ensure=self._ensure,
            hello=Hello(name="laptop", version="1.2"),
        )

    def link(self) -> PeerLink:
        return self.links.link(self.two.far.peer)

    async def _ensure(self, peer: PeerId, timeout_s: float) -> Connection:
        return await self.two.near.connect(peer, self.two.far.addresses(), timeout_s=timeout_s)


@asynccontextmanager
async def joined() -> AsyncIterator[Joined]:
    async with two_networks("libp2p") as two, trio.open_nursery() as nursery:
        made = Joined(two)
        await nursery.start(made.serving.run)
        await nursery.start(made.links.run)
        yield made
        nursery.cancel_scope.cancel()


def play(scene: Callable[[Joined], Awaitable[None]]) -> None:
    async def main() -> None:
        async with joined() as made:
            await scene(made)

    trio.run(main)


def test_many_requests_share_a_channel() -> None:
    async def scene(made: Joined) -> None:
        results: dict[str, list[int]] = {}

        async def one(name: str) -> None:
            async with made.link().open_ask(ask(name)) as stream:
                results[name] = [token async for delta in stream for token in delta.token_ids]

        async with trio.open_nursery() as nursery:
            names = [f"r{index}" for index in range(32)]
            for name in names:
                nursery.start_soon(one, name)
            await made.engine.wait_running(32)
            for token in range(20):
                made.engine.step(Delta(token_ids=(token,), text="x"))
                await trio.lowlevel.checkpoint()
            made.engine.finish()
        assert results == {name: list(range(20)) for name in names}

    play(scene)


def test_a_long_ask_and_a_refusal_cross() -> None:
    async def scene(made: Joined) -> None:
        assert await made.link().count_tokens(ask(prompt="x" * 9_000_000)) == 9_000_000
        made.engine.refuse = Refused(
            "model_too_large", "no", field="model", details={"bytes_needed": 1 << 40}
        )
        with pytest.raises(Refused) as caught:
            async with made.link().open_ask(ask()):
                pass
        assert caught.value.details == {"bytes_needed": 1 << 40}

    play(scene)


def test_facts_come_with_the_connection() -> None:
    async def scene(made: Joined) -> None:
        await made.two.connect()
        made.links.look_now()
        while made.links.facts(made.two.far.peer) is None:
            await trio.sleep(0.002)
        assert made.links.facts(made.two.far.peer) == FACTS

    play(scene)


def test_a_lost_connection_ends_the_requests_on_both_sides() -> None:
    async def scene(made: Joined) -> None:
        with pytest.raises(ChannelBroken):
            async with made.link().open_ask(ask()) as stream:
                await made.engine.wait_running(1)
                await made.two.far.disconnect(made.two.near.peer)
                await anext(stream)
        await made.engine.wait_running(0)
        assert await made.link().count_tokens(ask(prompt="four")) == 4

    play(scene)


def test_leaving_a_request_cancels_it_there() -> None:
    async def scene(made: Joined) -> None:
        async with made.link().open_ask(ask()):
            await made.engine.wait_running(1)
        await made.engine.wait_running(0)

    play(scene)


def test_who_is_not_paired_is_refused() -> None:
    async def scene(made: Joined) -> None:
        made.two.far_paired.clear()
        with pytest.raises(PeerUnreachable):
            await made.link().count_tokens(ask())

    play(scene)


def test_nonsense_resets_its_channel_alone() -> None:
    async def scene(made: Joined) -> None:
        far = made.two.far.peer
        async with made.link().open_ask(ask("kept")) as stream:
            async with made.two.near.open_channel(
                far, PROTOCOL, message_bytes_max=MESSAGE_BYTES_MAX, timeout_s=2
            ) as channel:
                await channel.send(encode_hello(Hello(name="n", version="1")))
                await channel.send(encode_ask(1, ask("other")))
                await made.engine.wait_running(2)
                await channel.send(encode({"k": "ask", "id": -1}))
                with pytest.raises(ChannelBroken):
                    while await channel.receive() is not None:
                        pass
            await made.engine.wait_running(1)
            made.engine.finish()
            assert [delta.finish async for delta in stream] == ["stop"]

    play(scene)
