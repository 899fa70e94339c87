"""How many messages an answer takes: one for a step of all requests, and no more than the eye can follow."""

import trio
import trio.testing

from tests.node.infer.pair import DESKTOP, Pair, ask
from tests.node.infer.virtual import play_virtually
from unhosted.market.cbor import decode
from unhosted.node.core.inference import Delta
from unhosted.node.shell.trusted.serving_channel import PACE_S
from unhosted.node.shell.trusted.wire_replies import REPLY_BYTES_MAX


def count_deltas(made: Pair) -> list[int]:
    """How many entries each message with deltas has, from now on."""
    counts: list[int] = []
    channel = next(one for one in made.fabric.channels if one.owner == DESKTOP)
    send = channel.send

    async def counted(message: bytes) -> None:
        value = decode(message, bytes_max=REPLY_BYTES_MAX)
        if value["k"] == "deltas":
            counts.append(len(value["d"]))
        await send(message)

    channel.send = counted  # type: ignore[method-assign]
    return counts


async def collect(made: Pair, name: str, tokens: int) -> None:
    async with made.link.open_ask(ask(name)) as stream:
        token_ids = [token async for delta in stream for token in delta.token_ids]
    assert token_ids == list(range(tokens))


def test_an_engine_step_of_many_requests_is_one_message() -> None:
    async def scene(made: Pair) -> None:
        async with trio.open_nursery() as nursery:
            for index in range(16):
                nursery.start_soon(collect, made, f"r{index}", 3)
            await made.engine.wait_running(16)
            counts = count_deltas(made)
            for token in range(3):
                made.engine.step(Delta(token_ids=(token,), text="x"))
                await trio.sleep(2 * PACE_S)
            assert counts == [16, 16, 16]
            made.engine.finish()

    play_virtually(scene)


def test_middles_of_fast_answers_share_messages_and_beginnings_and_ends_do_not_wait() -> None:
    async def scene(made: Pair) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(collect, made, "fast", 12)
            await made.engine.wait_running(1)
            counts = count_deltas(made)
            began = trio.current_time()
            made.engine.step(Delta(token_ids=(0,), text="x"))
            while not counts:
                await trio.lowlevel.checkpoint()
            assert trio.current_time() == began
            for token in range(1, 12):
                made.engine.step(Delta(token_ids=(token,), text="x"))
                await trio.sleep(PACE_S / 4)
            assert sum(counts) < 12 and 3 <= len(counts) <= 5
            ended = trio.current_time()
            made.engine.finish()
        assert trio.current_time() < ended + PACE_S
        assert sum(counts) == 13

    play_virtually(scene)
