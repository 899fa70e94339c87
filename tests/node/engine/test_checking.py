"""Checking through a model's process and through the manager: who goes first, who makes room, who fails."""

import os
import signal
from pathlib import Path

import pytest
import trio

from tests.node.engine.aborting_child import POISON_ID
from tests.node.engine.harness import collect, request, running_host
from tests.node.engine.test_manager import answer, names, running
from tests.tiny import write_tiny
from unhosted.node.core.engine_facts import Replay
from unhosted.node.core.errors import Refused
from unhosted.node.core.inference import CheckedAnswer, CheckRequest
from unhosted.node.shell.engine.host import EngineHost
from unhosted.node.shell.models.store import ModelStore
from unhosted.verify.params import SamplingParams

pytestmark = pytest.mark.slow

CELLS = 4096
SAMPLED = SamplingParams(temperature=0.9, seed=bytes([3]) * 32)
LONG = [
    CheckRequest(
        prompt_ids=(5, 6, index),
        output_ids=tuple(range(10, 400)),
        sampling=SamplingParams(temperature=2.0),
        replay=Replay(ubatch_tokens=64),
    )
    for index in range(64)
]
"""Minutes of work beside what a test waits for; none of them ends by itself."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    directory = tmp_path_factory.mktemp("store")
    made = ModelStore(directory / "models")
    for seed in range(2):
        made.adopt(write_tiny(directory / f"m{seed}.gguf", seed=seed), f"m{seed}")
    return made


async def honest(host: EngineHost) -> CheckRequest:
    prompt = tuple(range(20, 60))
    generated = await collect(host, request("honest", prompt, sampling=SAMPLED, max_tokens=80))
    return CheckRequest(prompt_ids=prompt, output_ids=generated.token_ids, sampling=SAMPLED, ignore_eos=True)


def test_an_honest_answer_is_cleared_and_another_seed_is_not(tiny_model: Path) -> None:
    async def main() -> None:
        async with running_host(tiny_model) as host:
            asked = await honest(host)
            other = CheckRequest(
                prompt_ids=asked.prompt_ids,
                output_ids=asked.output_ids,
                sampling=SamplingParams(temperature=0.9, seed=bytes([4]) * 32),
            )
            good, bad = await host.check([asked, other], CELLS)
            assert good.seen.tokens == bad.seen.tokens == 80
            assert max(good.seen.margin_mlogit) < 20 and sum(bad.seen.margin_mlogit) > 10_000
            assert bad.seen.gap_mlogit != good.seen.gap_mlogit
            assert host.facts.slots == 4 and host.facts.ubatch_tokens == 256

    trio.run(main)


def test_a_user_goes_first_and_a_check_that_nobody_awaits_any_more_ends(tiny_model: Path) -> None:
    async def main() -> None:
        async with running_host(tiny_model) as host:
            calm = await collect(host, request("calm", sampling=SAMPLED))
            asked = await honest(host)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(host.check, LONG, CELLS)
                while not host.is_checking:
                    await trio.sleep(0)
                for name in ("first", "second"):
                    during = await collect(host, request(name, sampling=SAMPLED))
                    assert during.token_ids == calm.token_ids
                assert host.is_checking and not host.is_busy
                nursery.cancel_scope.cancel()
            (checked,) = await host.check([asked], CELLS)
            assert max(checked.seen.margin_mlogit) < 20 and host.restarts == 0

    trio.run(main)


def test_a_killed_engine_checks_again_what_it_was_asked(tiny_model: Path) -> None:
    async def main() -> None:
        async with running_host(tiny_model) as host:
            asked = [await honest(host)] * 16
            before = await host.check(asked, CELLS)
            answers: list[tuple[CheckedAnswer, ...]] = []

            async def check() -> None:
                answers.append(await host.check(asked, CELLS))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(check)
                while not host.is_checking:
                    await trio.sleep(0)
                os.kill(host.pid, signal.SIGKILL)
            assert answers == [before] and host.restarts == 1

    trio.run(main)


def test_a_check_that_kills_the_engine_fails_and_users_are_served(tiny_model: Path) -> None:
    async def main() -> None:
        async with running_host(tiny_model, module="tests.node.engine.aborting_child") as host:
            calm = await collect(host, request("calm", sampling=SAMPLED))
            poison = CheckRequest(prompt_ids=(5, POISON_ID), output_ids=(6, 7), sampling=SAMPLED)
            with pytest.raises(Refused) as refused:
                await host.check([poison], CELLS)
            assert refused.value.code == "engine_failed"
            after = await collect(host, request("after", sampling=SAMPLED))
            assert after.token_ids == calm.token_ids

    trio.run(main)


def test_an_answer_too_long_to_check_is_refused_with_numbers(tiny_model: Path) -> None:
    async def main() -> None:
        async with running_host(tiny_model) as host:
            with pytest.raises(Refused, match=r"393 tokens.* 256 can be checked") as refused:
                await host.check(LONG[:1], 256)
            assert refused.value.details == {"prompt_tokens": 393, "context_tokens": 256}
            with pytest.raises(Refused, match="another model"):
                strange = CheckRequest(prompt_ids=(5, 600), output_ids=(6,), sampling=SAMPLED)
                await host.check([strange], CELLS)

    trio.run(main)


def test_a_model_is_loaded_to_check_and_to_tell_its_facts(store: ModelStore) -> None:
    async def main() -> None:
        async with running(store) as engines:
            (checked,) = await engines.check("m0", LONG[:1])
            assert checked.seen.tokens == 390 and checked.out_of_range is None
            assert (await engines.facts("m1")).kv_type == "f16"
            assert names(engines) == {"m0", "m1"}
            assert await engines.check("m0", []) == ()
            with pytest.raises(Refused, match="65 answers"):
                await engines.check("m0", [*LONG, LONG[0]])

    trio.run(main)


def test_a_check_displaces_no_model_and_says_what_it_lacks(store: ModelStore) -> None:
    async def main() -> None:
        async with running(store) as engines:
            needed = (await engines.load("m0")).bytes_estimated
        async with running(store, memory_budget_bytes=needed + 1000) as engines:
            await answer(engines, "m0")
            with pytest.raises(Refused, match="are loading or loaded") as refused:
                await engines.check("m1", LONG[:1])
            assert refused.value.code == "overloaded"
            with pytest.raises(Refused, match="shorter prefix") as refused:
                await engines.check("m0", LONG[:1])
            assert refused.value.details["bytes_present"] == 1000
            assert names(engines) == {"m0"}

    trio.run(main)


def test_a_check_gives_its_memory_to_whoever_needs_it(store: ModelStore) -> None:
    async def main() -> None:
        async with running(store) as engines:
            needed = (await engines.load("m0")).bytes_estimated
        async with running(store, memory_budget_bytes=2 * needed + 1000) as engines:
            await answer(engines, "m0")
            refusals = []

            async def check() -> None:
                with pytest.raises(Refused) as refused:
                    await engines.check("m0", LONG)
                refusals.append((refused.value.code, refused.value.message))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(check)
                while not any(one.host.is_checking for one in engines._entries.values()):
                    await trio.sleep(0)
                assert len(await answer(engines, "m1")) == 4
            ((code, message),) = refusals
            assert code == "overloaded" and "memory went to m1" in message
            assert names(engines) == {"m0", "m1"}
            assert len(await answer(engines, "m0")) == 4

    trio.run(main)
