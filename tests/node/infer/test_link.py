"""A link to a serving peer, both real, over a network in memory."""

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from tests.node.infer.fake_engine import MODEL
from tests.node.infer.pair import DESKTOP, LAPTOP, Pair, ask, pair
from unhosted.node.core.errors import Refused
from unhosted.node.core.inference import Delta, TokenLogprob, Usage
from unhosted.node.core.peering import Capabilities, ChannelBroken, PeerUnreachable
from unhosted.node.shell.trusted.link_stream import WAITING_CHARS_MAX, LinkStream
from unhosted.node.shell.trusted.wire_fields import WireError

Scene = Callable[[Pair], Awaitable[None]]


def play(scene: Scene) -> None:
    async def main() -> None:
        async with pair() as made:
            await scene(made)

    trio.run(main)


def test_an_ask_is_answered_and_ends() -> None:
    async def scene(made: Pair) -> None:
        deltas = [
            Delta(
                token_ids=(5,),
                text="Hel",
                logprobs=(TokenLogprob(5, b"Hel", -0.25, (TokenLogprob(6, b"\xff", -1.5),)),),
            ),
            Delta(token_ids=(6, 7), text=""),
            Delta(
                token_ids=(2,),
                text="lo 🙂",
                finish="stop",
                stop_text="\n\n",
                usage=Usage(prompt_tokens=7, cached_tokens=4, completion_tokens=4),
            ),
        ]
        async with made.link.open_ask(ask()) as stream:
            for delta in deltas:
                made.engine.step(delta)
            assert [delta async for delta in stream] == deltas
        await made.engine.wait_running(0)
        assert made.link.in_flight == 0

    play(scene)


async def _collect(made: Pair, name: str, tokens: int) -> None:
    async with made.link.open_ask(ask(name)) as stream:
        token_ids = [token async for delta in stream for token in delta.token_ids]
    assert token_ids == list(range(tokens))


def test_leaving_a_request_frees_its_place_there_and_hurts_no_other() -> None:
    async def scene(made: Pair) -> None:
        async with made.link.open_ask(ask("stays")) as stays:
            async with made.link.open_ask(ask("left")) as left:
                await made.engine.wait_running(2)
                made.engine.step(Delta(token_ids=(1,), text="a"))
                assert (await anext(left)).text == "a"
            await made.engine.wait_running(1)
            made.engine.finish()
            assert [delta.text async for delta in stays] == ["a", ""]

    play(scene)


def test_a_request_left_before_it_is_accepted_is_cancelled_there() -> None:
    async def scene(made: Pair) -> None:
        made.engine.accepts = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_collect, made, "left", 0)
            while not made.engine.asks:
                await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        while made.serving.requests_under_way:
            await trio.testing.wait_all_tasks_blocked()

    play(scene)


def test_a_refusal_keeps_all_that_it_says() -> None:
    async def scene(made: Pair) -> None:
        made.engine.refuse = Refused(
            "context_length_exceeded",
            "9000 tokens, at most 4096",
            field="messages",
            retry_after_s=9,
            details={"prompt_tokens": 9000, "context_tokens": 4096},
        )
        with pytest.raises(Refused) as caught:
            async with made.link.open_ask(ask()):
                pass
        refusal, expected = caught.value, made.engine.refuse
        assert (refusal.code, refusal.message, refusal.field) == (
            expected.code,
            expected.message,
            expected.field,
        )
        assert (refusal.retry_after_s, refusal.details) == (expected.retry_after_s, expected.details)
        with pytest.raises(Refused, match="9000"):
            await made.link.count_tokens(ask())

    play(scene)


def test_a_fault_under_one_request_hurts_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fault(_: object) -> int:
        raise OSError(24, "Too many open files")

    async def scene(made: Pair) -> None:
        monkeypatch.setattr(made.engine, "count_tokens", fault)
        async with made.link.open_ask(ask("good")) as stream:
            with pytest.raises(Refused) as refused:
                await made.link.count_tokens(ask("bad"))
            assert refused.value.code == "engine_failed"
            made.engine.step(Delta(token_ids=(5,), text="Hel"))
            assert (await anext(stream)).text == "Hel"

    play(scene)


def test_a_refusal_in_mid_stream_comes_after_the_deltas() -> None:
    async def scene(made: Pair) -> None:
        async with made.link.open_ask(ask()) as stream:
            made.engine.step(Delta(token_ids=(1,), text="a"))
            made.engine.fail(Refused("engine_failed", "it died twice"))
            assert (await anext(stream)).text == "a"
            with pytest.raises(Refused, match="died twice"):
                await anext(stream)

    play(scene)


def test_questions_are_answered() -> None:
    async def scene(made: Pair) -> None:
        assert await made.link.count_tokens(ask(prompt="four")) == 4
        inputs: list[str | tuple[int, ...]] = ["a", (1, 2, 3), *["more"] * 40]
        embeddings = await made.link.embed(MODEL, inputs)
        assert made.engine.embedded == inputs
        assert embeddings.vectors[:2] == ((1.0, 0.5, -0.25), (3.0, 0.5, -0.25))
        assert len(embeddings.vectors) == 42 and embeddings.prompt_tokens == 84

    play(scene)


def test_a_peer_that_dies_in_mid_stream_breaks_all_its_requests() -> None:
    async def scene(made: Pair) -> None:
        async def one(name: str) -> None:
            with pytest.raises(ChannelBroken):
                async with made.link.open_ask(ask(name)) as stream:
                    made.engine.step(Delta(token_ids=(1,), text="a"))
                    async for _ in stream:
                        pass

        async with trio.open_nursery() as nursery:
            for index in range(4):
                nursery.start_soon(one, f"r{index}")
            await made.engine.wait_running(4)
            made.fabric.reset(LAPTOP, DESKTOP)
        await made.engine.wait_running(0)
        assert made.heard[-1][0] is False

    play(scene)


def test_a_link_opens_again_after_a_loss() -> None:
    async def scene(made: Pair) -> None:
        assert await made.link.count_tokens(ask(prompt="four")) == 4
        made.fabric.reset(LAPTOP, DESKTOP)
        while made.link.is_open:
            await trio.testing.wait_all_tasks_blocked()
        assert await made.link.count_tokens(ask(prompt="four")) == 4

    play(scene)


def test_a_peer_that_is_gone_is_unreachable() -> None:
    async def scene(made: Pair) -> None:
        made.fabric.networks.pop(DESKTOP)
        for _ in range(2):  # the second does not wait for a pause that the first began
            with pytest.raises(PeerUnreachable, match="nothing at"):
                async with made.link.open_ask(ask()):
                    pass
        assert made.heard[-1][0] is False

    play(scene)


def test_a_peer_that_refuses_the_protocol_is_unreachable() -> None:
    async def scene(made: Pair) -> None:
        made.desktop.paired.clear()
        with pytest.raises(PeerUnreachable, match="refuses"):
            await made.link.count_tokens(ask())

    play(scene)


def test_unpairing_closes_the_link_and_ends_what_runs() -> None:
    async def scene(made: Pair) -> None:
        link = made.link
        with pytest.raises(ChannelBroken):
            async with link.open_ask(ask()) as stream:
                made.paired.clear()
                made.links.look_now()
                await anext(stream)
        await made.engine.wait_running(0)
        with pytest.raises(Refused, match="not paired"):
            made.links.link(DESKTOP)
        with pytest.raises(PeerUnreachable, match="closed"):
            await link.count_tokens(ask())

    play(scene)


def test_capabilities_are_kept() -> None:
    async def scene(made: Pair) -> None:
        made.book.capabilities[LAPTOP] = Capabilities(models=("tiny",), tokens_per_day=100, concurrency=1)
        async with made.link.open_ask(ask("first", max_tokens=10)) as stream:
            with pytest.raises(Refused, match="at most 1") as caught:
                async with made.link.open_ask(ask("second")):
                    pass
            assert caught.value.code == "not_allowed"
            made.engine.finish(Delta(token_ids=(1, 2, 3), text="abc"))
            assert len([delta async for delta in stream]) == 1
        await made.engine.wait_running(0)
        while made.serving.requests_under_way:
            await trio.sleep(0.001)
        assert made.book.used == {LAPTOP: 10}  # a prompt of 7 and 3 given
        made.book.used[LAPTOP] = 98
        with pytest.raises(Refused, match="98 of 100 tokens per day"):
            async with made.link.open_ask(ask("third")):
                pass
        made.book.capabilities[LAPTOP] = Capabilities(models=("other",))
        with pytest.raises(Refused, match="may not use tiny:1b"):
            await made.link.embed(MODEL, ["x"])
        made.book.capabilities[LAPTOP] = Capabilities(may_ask=False)
        with pytest.raises(Refused, match="asking it is not allowed"):
            await made.link.count_tokens(ask())
        made.book.capabilities.clear()
        with pytest.raises(Refused) as caught:
            await made.link.count_tokens(ask())
        assert caught.value.code == "not_paired"

    play(scene)


def test_what_a_cancelled_request_used_is_counted() -> None:
    async def scene(made: Pair) -> None:
        async with made.link.open_ask(ask(prompt=(1, 2, 3, 4))) as stream:
            made.engine.step(Delta(token_ids=(9, 9), text="ab"))
            await anext(stream)
        while made.serving.requests_under_way:
            await trio.sleep(0.001)
        assert made.book.used == {LAPTOP: 6}

    play(scene)


def test_an_owner_who_needs_the_machine_is_told_to_the_asker() -> None:
    async def scene(made: Pair) -> None:
        made.presence = (False, "quiet hours until 07:00")
        with pytest.raises(
            Refused, match=r"desktop takes no requests now: quiet hours until 07:00"
        ) as caught:
            async with made.link.open_ask(ask()):
                pass
        assert caught.value.code == "overloaded"

    play(scene)


def test_all_flows_of_a_peer_are_one_flow_here() -> None:
    async def scene(made: Pair) -> None:
        for flow in ("alice", "bob"):
            async with made.link.open_ask(ask(flow, flow=flow)):
                pass
        flows = {one.flow for one in made.engine.asks}
        assert len(flows) == 1 and LAPTOP in flows.pop()

    play(scene)


def test_a_reader_that_keeps_up_may_read_more_than_may_wait() -> None:
    async def main() -> None:
        stream = LinkStream(ask())
        stream.accept()
        delta = Delta(token_ids=(1,), text="x" * 50_000, logprobs=(TokenLogprob(1, b"x", -0.5),))
        for _ in range(2 * WAITING_CHARS_MAX // 50_000):
            stream.push(delta)
            assert await anext(stream) == delta
        with pytest.raises(WireError, match="slow reader"):
            for _ in range(2 * WAITING_CHARS_MAX // 50_000):
                stream.push(delta)

    trio.run(main)


def test_a_delta_outside_of_its_request_is_refused() -> None:
    stream = LinkStream(ask())
    with pytest.raises(WireError, match="outside"):
        stream.push(Delta(token_ids=(1,)))
    stream.accept()
    stream.push(Delta(finish="stop"))
    with pytest.raises(WireError, match="outside"):
        stream.push(Delta(token_ids=(1,)))
