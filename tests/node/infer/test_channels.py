"""What a channel of the infer protocol bears: peers that are slow, silent, hostile or of another version."""

import random

import pytest
import trio
import trio.testing

from tests.node.infer.fake_engine import MODEL
from tests.node.infer.pair import Pair, ask
from tests.node.infer.virtual import HELLO, greeted, play_virtually, receive
from unhosted.market.cbor import decode, encode
from unhosted.node.core.errors import Refused
from unhosted.node.core.inference import Delta
from unhosted.node.core.peering import Channel, ChannelBroken
from unhosted.node.shell.trusted import serving_channel
from unhosted.node.shell.trusted.serving import REQUESTS_PER_PEER_MAX
from unhosted.node.shell.trusted.wire import (
    PROTOCOL,
    REQUEST_BYTES_MAX,
    encode_ask,
    encode_cancel,
)
from unhosted.node.shell.trusted.wire_replies import REPLY_BYTES_MAX, encode_accepted, encode_deltas


def test_a_stranger_can_ask_with_one_request_per_channel() -> None:
    """As docs/protocol.md has it: all said at once, the end too, then read to the end."""

    async def scene(made: Pair) -> None:
        async with made.raw_channel() as channel:
            await channel.send(encode({"k": "hello", "v": 1}))
            await channel.send(encode({"k": "ask", "id": 1, "model": MODEL, "text": "Once", "max": 3}))
            await channel.end()
            await made.engine.wait_running(1)
            made.engine.step(Delta(token_ids=(1,), text="a"))
            made.engine.finish(Delta(token_ids=(2,), text="b"))
            kinds, rows = [], []
            while (data := await channel.receive()) is not None:
                message = decode(data, bytes_max=REPLY_BYTES_MAX)
                kinds += [message["k"]] if message["k"] != "alive" else []
                rows += message.get("d", [])
            assert kinds == ["hello", "facts", "accepted", "deltas"]
            assert rows == [[1, [1], "a"], [1, [2], "b", None, "stop", None, [7, 3, 1]]]

    play_virtually(scene)


def test_a_long_request_is_announced_and_a_short_one_is_not() -> None:
    async def scene(made: Pair) -> None:
        kinds: list[object] = []

        async def listens(channel: Channel) -> None:
            await channel.receive()
            await channel.send(HELLO)
            while (data := await channel.receive()) is not None:
                kinds.append(decode(data, bytes_max=REQUEST_BYTES_MAX)["k"])

        made.desktop.serve(PROTOCOL, listens, access="paired", message_bytes_max=REQUEST_BYTES_MAX)
        for prompt in ("short", "x" * 300_000):
            with trio.move_on_after(0.1):
                await made.link.count_tokens(ask(prompt=prompt))
        await trio.testing.wait_all_tasks_blocked()
        assert kinds == ["count", "cancel", "coming", "count", "cancel"]

    play_virtually(scene)


def test_requests_that_a_peer_does_not_take_are_bounded() -> None:
    async def scene(made: Pair) -> None:
        async def greets_and_stops(channel: Channel) -> None:
            await channel.receive()
            await channel.send(HELLO)
            await trio.sleep_forever()

        made.desktop.serve(PROTOCOL, greets_and_stops, access="paired", message_bytes_max=REQUEST_BYTES_MAX)
        link, long = made.link, ask(prompt="x" * 9_000_000)
        with pytest.raises(Refused, match="takes them slowly"):
            for _ in range(100):
                with trio.move_on_after(0.01):
                    await link.count_tokens(long)

    play_virtually(scene)


def test_a_peer_that_does_not_read_is_cut_off_and_its_requests_end() -> None:
    async def scene(made: Pair) -> None:
        async with made.raw_channel() as channel:
            await greeted(channel)
            await channel.send(encode_ask(1, ask()))
            await made.engine.wait_running(1)
            with trio.fail_after(serving_channel.SEND_TIMEOUT_S + 5):
                while made.engine.running:
                    made.engine.step(Delta(token_ids=(1,), text="x"))
                    await trio.sleep(0.02)
            with pytest.raises(ChannelBroken):
                while await channel.receive() is not None:
                    pass

    play_virtually(scene)


def test_output_that_waits_is_bounded() -> None:
    async def scene(made: Pair) -> None:
        async with made.raw_channel() as channel:
            await greeted(channel)
            await channel.send(encode_ask(1, ask()))
            await made.engine.wait_running(1)
            given = 0
            while made.engine.running:
                made.engine.step(Delta(token_ids=(1,), text="x" * 10_000))
                given += 40_000
                await trio.testing.wait_all_tasks_blocked()
            queued = 64 * serving_channel.MESSAGE_BYTES_AIM
            assert given <= serving_channel.WAITING_BYTES_MAX + queued + 200_000

    play_virtually(scene)


def test_what_waited_comes_in_messages_below_the_limit_and_in_order() -> None:
    async def scene(made: Pair) -> None:
        async with made.link.open_ask(ask()) as stream:
            for token in range(3000):
                made.engine.step(Delta(token_ids=(token,), text="x" * 200))
            made.engine.finish()
            token_ids = [token async for delta in stream for token in delta.token_ids]
        assert token_ids == list(range(3000))

    play_virtually(scene)


@pytest.mark.parametrize(
    "first",
    [b"\xff", encode({"k": "ask", "id": 1}), encode({"k": "hello"}), encode({"k": "hello", "v": "1"})],
    ids=repr,
)
def test_who_does_not_say_hello_is_cut_off(first: bytes) -> None:
    async def scene(made: Pair) -> None:
        async with made.raw_channel() as channel:
            await channel.send(first)
            with pytest.raises(ChannelBroken):
                await channel.receive()
        assert await made.link.count_tokens(ask(prompt="four")) == 4

    play_virtually(scene)


def test_who_says_nothing_is_cut_off() -> None:
    async def scene(made: Pair) -> None:
        async with made.raw_channel() as channel:
            with pytest.raises(ChannelBroken):
                await channel.receive()

    play_virtually(scene)


def test_another_version_is_refused_with_a_reason() -> None:
    async def scene(made: Pair) -> None:
        async with made.raw_channel() as channel:
            await channel.send(encode({"k": "hello", "v": 2}))
            message = await receive(channel)
            assert (message["k"], message["id"], message["code"]) == ("refused", 0, "not_supported")
            assert "version 2" in str(message["message"])
            assert await channel.receive() is None

    play_virtually(scene)


@pytest.mark.parametrize(
    "greeting", [{"k": "hello", "v": 2}, {"k": "refused", "id": 0, "code": "not_supported"}]
)
def test_a_link_says_that_the_other_side_has_another_version(greeting: dict[str, object]) -> None:
    async def scene(made: Pair) -> None:
        async def other(channel: Channel) -> None:
            await channel.receive()
            await channel.send(encode(greeting))
            await channel.receive()

        made.desktop.serve(PROTOCOL, other, access="paired", message_bytes_max=REQUEST_BYTES_MAX)
        with pytest.raises(Refused, match="same release") as caught:
            await made.link.count_tokens(ask())
        assert caught.value.code == "not_supported"

    play_virtually(scene)


@pytest.mark.parametrize(
    "bad",
    [
        b"no message",
        encode([]),
        encode({"k": "ask"}),
        encode_ask(1, ask("again")),  # an id that is in use
        encode({"k": "ask", "id": -1, "model": MODEL, "text": "x"}),
    ],
    ids=lambda bad: repr(bad)[:30],
)
def test_nonsense_resets_its_channel_and_the_node_serves_on(bad: bytes) -> None:
    async def scene(made: Pair) -> None:
        async with made.link.open_ask(ask("kept")) as stream:
            async with made.raw_channel() as channel:
                await greeted(channel)
                await channel.send(encode_ask(1, ask("other")))
                await made.engine.wait_running(2)
                await channel.send(bad)
                with pytest.raises(ChannelBroken):
                    while await channel.receive() is not None:
                        pass
            await made.engine.wait_running(1)
            made.engine.finish()
            assert [delta.finish async for delta in stream] == ["stop"]

    play_virtually(scene)


def test_mangled_messages_never_stop_the_node() -> None:
    async def scene(made: Pair) -> None:
        draw = random.Random(5)
        good = encode_ask(1, ask(stop=("x",), logprobs=3))
        for _ in range(150):
            mangled = bytearray(good)
            for _ in range(draw.randint(1, 4)):
                mangled[draw.randrange(len(mangled))] = draw.randrange(256)
            async with made.raw_channel() as channel:
                await greeted(channel)
                try:
                    await channel.send(bytes(mangled))
                    await channel.send(encode_cancel(1))
                    await channel.end()
                    while await channel.receive() is not None:
                        pass
                except ChannelBroken:
                    pass
        assert await made.link.count_tokens(ask(prompt="four")) == 4
        await made.engine.wait_running(0)

    play_virtually(scene)


def test_a_wrong_field_is_refused_and_hurts_no_other_request() -> None:
    async def scene(made: Pair) -> None:
        async with made.raw_channel() as channel:
            await greeted(channel)
            await channel.send(encode_ask(1, ask()))
            await made.engine.wait_running(1)
            await channel.send(encode({"k": "ask", "id": 2, "model": MODEL, "text": "x", "logprobs": 99}))
            await channel.send(encode({"k": "not known here", "id": 2}))
            made.engine.finish()
            await channel.end()
            seen = {}
            while (data := await channel.receive()) is not None:
                message = decode(data, bytes_max=REPLY_BYTES_MAX)
                seen[message["k"]] = message
            assert (seen["refused"]["id"], seen["refused"]["field"]) == (2, "logprobs")
            assert seen["deltas"]["d"][0][0] == 1

    play_virtually(scene)


def test_requests_of_one_peer_are_bounded_over_all_its_channels() -> None:
    async def scene(made: Pair) -> None:
        stuck = trio.Event()

        async def count_tokens(ask: object) -> int:
            await stuck.wait()
            return 1

        made.engine.count_tokens = count_tokens  # type: ignore[method-assign]
        async with made.raw_channel() as channel, made.raw_channel() as other:
            refused = 0
            for one in (channel, other):
                await greeted(one)
                for request_id in range(1, REQUESTS_PER_PEER_MAX // 2 + 2):
                    await one.send(encode({"k": "count", "id": request_id, "model": MODEL, "text": "x"}))
                await trio.testing.wait_all_tasks_blocked()
            assert made.serving.requests_under_way == REQUESTS_PER_PEER_MAX
            for _ in range(2):
                message = await receive(other)
                refused += message["k"] == "refused" and message["code"] == "overloaded"
            assert refused == 2

    play_virtually(scene)


@pytest.mark.parametrize(
    ("lie", "why"),
    [
        (b"nonsense", "ends inside|claims"),
        (encode_deltas([(1, Delta(token_ids=(1, 2), text="x"))]), "more output"),
        (encode_deltas([(1, Delta(text="x" * 60_000))] * 70), "slow reader"),
        (encode({"k": "counted", "id": 1, "tokens": 4}), "not asked"),
    ],
    ids=["nonsense", "too many tokens", "too much text", "an answer to another question"],
)
def test_a_peer_that_lies_loses_its_channel(lie: bytes, why: str) -> None:
    async def scene(made: Pair) -> None:
        async def liar(channel: Channel) -> None:
            await channel.receive()
            await channel.send(HELLO)
            await channel.receive()
            await channel.send(encode_accepted(1))
            for _ in range(2):
                await channel.send(lie)
            await channel.receive()

        made.desktop.serve(PROTOCOL, liar, access="paired", message_bytes_max=REQUEST_BYTES_MAX)
        with pytest.raises(ChannelBroken, match=why):
            async with made.link.open_ask(ask(max_tokens=3)) as stream:
                await trio.testing.wait_all_tasks_blocked()
                async for _ in stream:
                    pass

    play_virtually(scene)
