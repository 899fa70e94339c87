"""Heartbeats, silence and pulled cables; and facts, which come without being asked for."""

from dataclasses import replace

import pytest
import trio
import trio.testing

from tests.node.infer.pair import DESKTOP, LAPTOP, Pair, ask
from tests.node.infer.virtual import greeted, play_virtually, receive
from unhosted.market.cbor import encode
from unhosted.node.core.inference import Delta
from unhosted.node.core.peering import ChannelBroken, PeerUnreachable
from unhosted.node.shell.trusted.link import OPEN_TIMEOUT_S
from unhosted.node.shell.trusted.link_channel import SILENCE_MAX_S, SILENCE_MIN_S, silence_s
from unhosted.node.shell.trusted.link_stream import FIRST_DELTA_S, STALL_S
from unhosted.node.shell.trusted.serving import FACTS_PERIOD_S
from unhosted.node.shell.trusted.wire import (
    encode_ask,
    encode_cancel,
)
from unhosted.node.shell.trusted.wire_replies import ALIVE


def test_a_heartbeat_comes_while_a_request_is_under_way_and_only_then() -> None:
    async def scene(made: Pair) -> None:
        async with made.raw_channel() as channel:
            await greeted(channel)
            with trio.move_on_after(30) as idle:
                await channel.receive()
            assert idle.cancelled_caught
            await channel.send(encode_ask(1, ask()))
            assert (await receive(channel))["k"] == "accepted"
            last = trio.current_time()
            for _ in range(5):
                assert await receive(channel) == {"k": "alive"}
                assert trio.current_time() - last <= 0.5
                last = trio.current_time()
            await channel.send(encode_cancel(1))
            with trio.move_on_after(30) as idle:
                while True:
                    assert await channel.receive() == ALIVE
            assert idle.cancelled_caught and trio.current_time() - last < 31

    play_virtually(scene)


def test_a_heartbeat_comes_while_a_long_request_is_on_its_way() -> None:
    async def scene(made: Pair) -> None:
        async with made.raw_channel() as channel:
            await greeted(channel)
            await channel.send(encode({"k": "coming", "id": 1}))
            assert await receive(channel) == {"k": "alive"}
            await channel.send(encode_cancel(1))
            with trio.move_on_after(30) as idle:
                while True:
                    assert await channel.receive() == ALIVE
            assert idle.cancelled_caught

    play_virtually(scene)


def test_a_pulled_cable_ends_all_requests_within_the_limit_of_silence() -> None:
    async def scene(made: Pair) -> None:
        async def one(name: str) -> None:
            with pytest.raises(ChannelBroken, match="nothing was heard"):
                async with made.link.open_ask(ask(name)) as stream:
                    async for _ in stream:
                        pass
            assert SILENCE_MIN_S - 0.5 <= trio.current_time() - pulled_at <= SILENCE_MIN_S + 0.01

        async with trio.open_nursery() as nursery:
            nursery.start_soon(one, "r1")
            nursery.start_soon(one, "r2")
            await made.engine.wait_running(2)
            await trio.sleep(5)  # heartbeats keep it
            assert made.link.in_flight == 2
            pulled_at = trio.current_time()
            made.fabric.cut(LAPTOP, DESKTOP)
        assert DESKTOP not in made.laptop.live  # the connection was dropped, too

    play_virtually(scene)


def test_a_request_to_a_peer_whose_cable_is_pulled_costs_the_time_of_silence() -> None:
    async def scene(made: Pair) -> None:
        await made.link.count_tokens(ask())
        await trio.sleep(60)
        made.fabric.cut(LAPTOP, DESKTOP)
        began = trio.current_time()
        with pytest.raises(ChannelBroken):
            async with made.link.open_ask(ask()):
                pass
        assert trio.current_time() - began <= SILENCE_MIN_S + 0.01
        began = trio.current_time()
        with pytest.raises(PeerUnreachable):
            async with made.link.open_ask(ask()):
                pass
        assert trio.current_time() - began <= OPEN_TIMEOUT_S + 0.01

    play_virtually(scene)


def test_what_this_machine_slept_over_is_not_the_peers_silence() -> None:
    async def scene(made: Pair) -> None:
        async with made.link.open_ask(ask()) as stream:
            for _ in range(3):
                await trio.sleep(0.7)
                _clock().jump(30)
            made.engine.finish()
            assert [delta.finish async for delta in stream] == ["stop"]

    play_virtually(scene)


def _clock() -> trio.testing.MockClock:
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, trio.testing.MockClock)
    return clock


def test_facts_come_before_any_request_and_whenever_they_change() -> None:
    async def scene(made: Pair) -> None:
        await made.laptop.connect(DESKTOP, made.desktop.addresses(), timeout_s=1)
        made.links.look_now()
        while made.links.facts(DESKTOP) is None:
            await trio.sleep(0.01)
        assert made.links.facts(DESKTOP) == made.facts
        made.facts = replace(made.facts, models=(replace(made.facts.models[0], queued=3, slots_free=0),))
        with trio.fail_after(FACTS_PERIOD_S + 0.1):
            while made.links.facts(DESKTOP) != made.facts:
                await trio.sleep(0.01)

    play_virtually(scene)


def test_a_connection_that_carries_nothing_is_dropped_when_a_channel_cannot_be_opened() -> None:
    async def scene(made: Pair) -> None:
        await made.laptop.connect(DESKTOP, made.desktop.addresses(), timeout_s=1)
        made.fabric.cut(LAPTOP, DESKTOP)
        with pytest.raises(PeerUnreachable):
            await made.link.count_tokens(ask())
        await trio.testing.wait_all_tasks_blocked()
        assert DESKTOP not in made.laptop.live

    play_virtually(scene)


@pytest.mark.parametrize("tokens", [0, 1])
def test_a_peer_that_is_there_and_gives_no_token_is_left_in_the_end(tokens: int) -> None:
    async def scene(made: Pair) -> None:
        began = trio.current_time()
        async with made.link.open_ask(ask()) as stream:
            for _ in range(tokens):
                made.engine.step(Delta(token_ids=(5,), text="a"))
                await anext(stream)
            with pytest.raises(ChannelBroken, match="gave no token"):
                await anext(stream)
        waited_s = trio.current_time() - began
        patience_s = STALL_S if tokens else FIRST_DELTA_S
        assert patience_s <= waited_s < patience_s + 5

    play_virtually(scene)


def test_silence_is_feared_later_on_a_slow_way() -> None:
    assert [silence_s(rtt) for rtt in (None, 0.001, 0.2, 9.0)] == [1.5, 1.5, 1.8, SILENCE_MAX_S]
