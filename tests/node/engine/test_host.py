"""One model's process on a real, tiny model: what it answers, and what happens when it dies."""

import os
import signal
from pathlib import Path

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.node.engine.aborting_child import POISON_ID, POISON_TEXT
from tests.node.engine.harness import TEST_TIMEOUT_S, Answer, collect, load_order, request, running_host
from unhosted.node.core.errors import Refused
from unhosted.node.core.inference import Constraint
from unhosted.node.shell.engine.environment import child_environment
from unhosted.node.shell.engine.host import EngineHost
from unhosted.verify.params import SamplingParams

pytestmark = pytest.mark.slow


def sampled(seed: int) -> SamplingParams:
    return SamplingParams(temperature=0.9, seed=bytes([seed]) * 32)


async def together(host: EngineHost, count: int, **fields: object) -> list[Answer]:
    answers: dict[int, Answer] = {}

    async def one(index: int) -> None:
        asked = request(f"r{index}", f"the hen {index}", sampling=sampled(index), **fields)
        answers[index] = await collect(host, asked)

    async with trio.open_nursery() as nursery:
        for index in range(count):
            nursery.start_soon(one, index)
    return [answers[index] for index in range(count)]


def test_what_else_runs_does_not_change_an_answer(tiny_model: Path) -> None:
    async def main() -> None:
        async with running_host(tiny_model) as host:
            crowd = await together(host, 8)
            for index, answer in enumerate(crowd):
                asked = request("alone", f"the hen {index}", sampling=sampled(index))
                assert (await collect(host, asked)).token_ids == answer.token_ids
            assert len({answer.token_ids for answer in crowd}) == 8

    trio.run(main)


def test_kill_9_costs_running_requests_nothing_but_time(tiny_model: Path) -> None:
    async def main() -> None:
        async with running_host(tiny_model) as host:
            calm = await together(host, 6, max_tokens=300)
            pids = []

            async def killer() -> None:
                for _ in range(2):
                    while host.state != "ready" or host.slots_busy < 4:
                        await trio.sleep(0.001)
                    pids.append(host.pid)
                    os.kill(host.pid, signal.SIGKILL)
                    while host.state == "ready":
                        await trio.sleep(0.001)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(killer)
                stormy = await together(host, 6, max_tokens=300)
            assert [a.token_ids for a in stormy] == [a.token_ids for a in calm]
            assert [a.text for a in stormy] == [a.text for a in calm]
            assert [a.usage.completion_tokens for a in stormy] == [300] * 6
            assert host.restarts == 2 and len(set(pids)) == 2

    trio.run(main)


def test_an_abort_in_the_library_fails_the_request_that_causes_it_and_no_other(tiny_model: Path) -> None:
    async def main() -> None:
        async with running_host(tiny_model, module="tests.node.engine.aborting_child") as host:
            calm = await together(host, 3, max_tokens=120)
            refusals = []

            async def poison() -> None:
                with pytest.raises(Refused) as refused:
                    await collect(host, request("poison", (5, POISON_ID, 6)))
                refusals.append(refused.value)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(poison)
                beside = await together(host, 3, max_tokens=120)
            assert [a.token_ids for a in beside] == [a.token_ids for a in calm]
            assert refusals[0].code == "engine_failed" and "under no other" in refusals[0].message
            again = await together(host, 3, max_tokens=120)
            assert [a.token_ids for a in again] == [a.token_ids for a in calm]

    trio.run(main)


def test_a_request_that_kills_whoever_reads_it_fails_and_no_other(tiny_model: Path) -> None:
    async def main() -> None:
        async with running_host(tiny_model, module="tests.node.engine.aborting_child") as host:
            calm = await together(host, 3, max_tokens=120)
            refusals = []

            async def poison() -> None:
                with pytest.raises(Refused) as refused:
                    await collect(host, request("poison", POISON_TEXT))
                refusals.append(refused.value.code)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(poison)
                beside = await together(host, 3, max_tokens=120)
            assert refusals == ["engine_failed"] and host.restarts == 2
            assert [a.token_ids for a in beside] == [a.token_ids for a in calm]

    trio.run(main)


def test_text_that_is_not_unicode_is_refused_and_leaves_nothing_behind(tiny_model: Path) -> None:
    async def main() -> None:
        async with running_host(tiny_model) as host:
            for asked in (request("prompt", "a\ud800b"), request("stop", stop=("\udc00",))):
                with pytest.raises(Refused) as refused:
                    await collect(host, asked)
                assert refused.value.code == "invalid_request" and "surrogate" in refused.value.message
            with pytest.raises(Refused):
                await host.call("tokenize", "\ud800", False)
            assert not host.is_busy

    trio.run(main)


def test_nobody_waits_for_an_engine_that_ended_with_its_node(tiny_model: Path) -> None:
    async def main() -> None:
        host = EngineHost("tiny", load_order(tiny_model), environment=child_environment())
        node = trio.CancelScope()

        async def run(*, task_status: trio.TaskStatus[None]) -> None:
            with node:
                await host.run(task_status=task_status)

        with trio.fail_after(TEST_TIMEOUT_S):
            async with trio.open_nursery() as nursery:
                await nursery.start(run)
                with pytest.raises(Refused) as refused:
                    async with host.open_stream(request("long", max_tokens=400)) as stream:
                        async for _ in stream:
                            node.cancel()
            assert refused.value.code == "engine_failed"

    trio.run(main)


def test_a_process_that_cannot_be_started_is_a_refusal(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", "/nonexistent/python")

    async def main() -> None:
        host = EngineHost("tiny", load_order(tiny_model), environment=child_environment())
        with pytest.raises(Refused) as refused:
            await host.run()
        assert refused.value.code == "engine_failed" and "could not be started" in refused.value.message

    trio.run(main, clock=MockClock(autojump_threshold=0.01))


def test_a_cancelled_request_frees_its_slot_for_the_next(tiny_model: Path) -> None:
    async def main() -> None:
        async with running_host(tiny_model, slots=1) as host:
            async with host.open_stream(request("long", max_tokens=400)) as stream:
                await anext(stream)
                assert (host.slots_busy, host.queued) == (1, 0)
            answer = await collect(host, request("next", max_tokens=3))
            assert answer.usage.completion_tokens == 3

    trio.run(main)


def test_resuming_from_any_token_gives_the_same_rest(tiny_model: Path) -> None:
    async def main() -> None:
        async with running_host(tiny_model) as host:
            whole = await collect(host, request("whole", sampling=sampled(3)))
            for cut in (1, 7, 23):
                rest = await collect(
                    host, request(f"cut{cut}", sampling=sampled(3), resume_ids=whole.token_ids[:cut])
                )
                assert whole.token_ids[:cut] + rest.token_ids == whole.token_ids
                assert rest.usage.completion_tokens == 24

    trio.run(main)


def test_samples_of_one_prompt_share_its_prefill(tiny_model: Path) -> None:
    async def main() -> None:
        async with running_host(tiny_model) as host:
            prompt = tuple(range(3, 203))
            before = host.counters["tokens_in"]
            answers: list[Answer] = []

            async def one(index: int) -> None:
                asked = request(f"s{index}", prompt, sampling=sampled(index), max_tokens=4)
                answers.append(await collect(host, asked))

            async with trio.open_nursery() as nursery:
                for index in range(4):
                    nursery.start_soon(one, index)
            fed = host.counters["tokens_in"] - before
            assert fed <= 200 + 3 * 1 + 4 * 4
            assert sorted(a.usage.cached_tokens for a in answers) == [0, 199, 199, 199]

    trio.run(main)


def test_a_prefix_computed_in_one_slot_serves_another_and_the_answer_stays(tiny_model: Path) -> None:
    async def main() -> None:
        async with running_host(tiny_model, slots=2) as host:
            prefix = tuple(range(3, 150))
            cold = await collect(host, request("cold", (*prefix, 40), use_prefix_cache=False))
            async with host.open_stream(request("busy", prefix, max_tokens=300)) as stream:
                await anext(stream)
                warm = await collect(host, request("warm", (*prefix, 40)))
            assert warm.usage.cached_tokens == len(prefix)
            assert warm.token_ids == cold.token_ids

    trio.run(main)


def test_a_prompt_over_the_context_is_refused_with_both_numbers(tiny_model: Path) -> None:
    async def main() -> None:
        async with running_host(tiny_model, context_tokens=256) as host:
            with pytest.raises(Refused) as refused:
                await collect(host, request("big", tuple([5] * 300)))
            assert refused.value.code == "context_length_exceeded"
            assert refused.value.details == {"prompt_tokens": 300, "context_tokens": 256}
            answer = await collect(host, request("fits", tuple([5] * 250), max_tokens=100))
            assert (answer.last.finish, answer.usage.completion_tokens) == ("length", 6)

    trio.run(main)


def test_a_full_queue_refuses_with_a_time_to_come_back(tiny_model: Path) -> None:
    async def main() -> None:
        async with running_host(tiny_model, slots=1, queue_max=1) as host:
            async with host.open_stream(request("runs", max_tokens=500)) as first:
                await anext(first)
                async with host.open_stream(request("waits")):
                    with pytest.raises(Refused) as refused:
                        await collect(host, request("too many"))
            assert refused.value.code == "overloaded"
            assert refused.value.retry_after_s is not None

    trio.run(main)


def test_stop_strings_end_the_answer_before_them(tiny_model: Path) -> None:
    async def main() -> None:
        async with running_host(tiny_model) as host:
            whole = await collect(host, request("whole", max_tokens=60))
            stop = whole.text[8:11]
            answer = await collect(host, request("stopped", max_tokens=60, stop=(stop,)))
            assert answer.text == whole.text[: whole.text.index(stop)]
            assert (answer.last.finish, answer.last.stop_text) == ("stop", stop)

    trio.run(main)


def test_logprobs_are_of_the_softmax_and_the_drawn_token_is_greedy(tiny_model: Path) -> None:
    async def main() -> None:
        async with running_host(tiny_model) as host:
            ids: list[int] = []
            async with host.open_stream(request("scored", logprobs=512, max_tokens=5)) as stream:
                async for delta in stream:
                    (score,) = delta.logprobs
                    ids += delta.token_ids
                    assert sum(2.718281828459045**top.logprob for top in score.top) == pytest.approx(
                        1, abs=1e-3
                    )
                    assert score.token_id == delta.token_ids[0] == score.top[0].token_id
            assert len(ids) == 5

    trio.run(main)


def test_a_grammar_rules_even_a_random_model(tiny_model: Path) -> None:
    async def main() -> None:
        async with running_host(tiny_model) as host:
            choice = Constraint(kind="gbnf", source='root ::= "the hen" | "the end"')
            for seed in range(4):
                asked = request(f"g{seed}", sampling=sampled(seed), constraint=choice)
                answer = await collect(host, asked)
                assert answer.text in {"the hen", "the end"} and answer.last.finish == "stop"

    trio.run(main)


def test_embeddings_are_unit_vectors_and_texts_do_not_disturb_each_other(tiny_model: Path) -> None:
    async def main() -> None:
        async with running_host(tiny_model) as host:
            both, tokens = await host.call("embed", ["the hen", "an ending of it all"])
            (alone,), _ = await host.call("embed", ["an ending of it all"])
            assert both[1] == pytest.approx(alone, abs=1e-4)
            assert both[0] != pytest.approx(both[1], abs=1e-2)
            assert sum(x * x for x in both[0]) == pytest.approx(1, abs=1e-5)
            assert tokens == len(await host.call("tokenize", "the hen", True)) + len(
                await host.call("tokenize", "an ending of it all", True)
            )

    trio.run(main)


def test_embeddings_and_answers_take_turns(tiny_model: Path) -> None:
    async def main() -> None:
        async with running_host(tiny_model) as host:
            done: list[str] = []

            async def embed() -> None:
                await host.call("embed", ["the hen"] * 1000)
                done.append("embeddings")

            async with trio.open_nursery() as nursery:
                nursery.start_soon(embed)
                await collect(host, request("short", max_tokens=2))
                done.append("answer")
            assert done == ["answer", "embeddings"]

    trio.run(main)


def test_a_cancelled_embedding_is_given_up_and_the_next_one_is_right(tiny_model: Path) -> None:
    async def main() -> None:
        async with running_host(tiny_model) as host:
            (alone,), _ = await host.call("embed", ["an ending of it all"])
            async with trio.open_nursery() as nursery:
                nursery.start_soon(host.call, "embed", ["the hen"] * 2000)
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
            (again,), _ = await host.call("embed", ["an ending of it all"])
            assert again == pytest.approx(alone, abs=1e-5) and not host.is_busy

    trio.run(main)


def test_a_text_longer_than_a_batch_is_embedded_whole(tiny_model: Path) -> None:
    async def main() -> None:
        async with running_host(tiny_model) as host:
            long = [3 + index % 250 for index in range(600)]
            (alone,), _ = await host.call("embed", [long])
            (beside, other, cut), tokens = await host.call("embed", [long, [5, 6, 7], long[:256]])
            assert beside == pytest.approx(alone, abs=1e-3) and tokens == 600 + 3 + 256
            assert cut != pytest.approx(alone, abs=1e-2) and other != pytest.approx(alone, abs=1e-2)

    trio.run(main)


def test_a_file_that_is_no_model_is_refused_with_a_reason(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(100))

    async def main() -> None:
        host = EngineHost("broken", load_order(broken), environment=child_environment())
        with trio.fail_after(TEST_TIMEOUT_S), pytest.raises(Refused) as refused:
            await host.run()
        assert refused.value.code == "engine_failed" and "broken.gguf" in refused.value.message

    trio.run(main)


def test_the_child_has_no_network_at_all(tiny_model: Path) -> None:
    async def main() -> None:
        async with running_host(tiny_model) as host:
            assert host.sandbox == "network-namespace"
            ours = os.readlink("/proc/self/ns/net")
            assert os.readlink(f"/proc/{host.pid}/ns/net") != ours
            devices = Path(f"/proc/{host.pid}/net/dev").read_text().splitlines()[2:]
            assert [line.split(":")[0].strip() for line in devices] == ["lo"]
            assert Path(f"/proc/{host.pid}/net/route").read_text().count("\n") <= 1

    trio.run(main)
