"""Several models on one machine: loaded on first use, within a budget, unloaded when idle."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.node.engine.harness import TEST_TIMEOUT_S, request
from tests.tiny import write_tiny
from unhosted.node.core.errors import Refused
from unhosted.node.shell.engine.fit import EngineSettings
from unhosted.node.shell.engine.manager import EngineManager
from unhosted.node.shell.models.store import ModelStore
from unhosted.verify.params import SamplingParams

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    directory = tmp_path_factory.mktemp("store")
    store = ModelStore(directory / "models")
    for seed in range(3):
        store.adopt(write_tiny(directory / f"m{seed}.gguf", seed=seed), f"m{seed}")
    return store


@asynccontextmanager
async def running(
    store: ModelStore, *, available: int = 1 << 34, **settings: float
) -> AsyncIterator[EngineManager]:
    chosen = {"slots": 2, "context_tokens": 512, "batch_tokens": 128, "threads": 1, **settings}
    engines = EngineManager(EngineSettings(**chosen), store.resolve, memory_available=lambda: available)  # type: ignore[arg-type]
    with trio.fail_after(TEST_TIMEOUT_S):
        async with trio.open_nursery() as nursery:
            await nursery.start(engines.run)
            yield engines
            nursery.cancel_scope.cancel()


async def answer(engines: EngineManager, model: str, name: str = "r") -> tuple[int, ...]:
    ids: list[int] = []
    async with engines.open_stream(model, request(name, max_tokens=4)) as stream:
        async for delta in stream:
            ids += delta.token_ids
    return tuple(ids)


def names(engines: EngineManager) -> set[str]:
    return {one.model for one in engines.loaded()}


def test_a_quantized_model_goes_on_with_an_output_as_if_it_had_not_been_interrupted(
    smollm2_model: Path, tmp_path: Path
) -> None:
    store = ModelStore(tmp_path / "models")
    store.adopt(smollm2_model, "smollm2")
    prompt = "Once upon a time in a land far away there lived a king. " * 4

    async def main() -> None:
        async with running(store, batch_tokens=512) as engines:

            async def ids(name: str, resume_ids: tuple[int, ...] = ()) -> tuple[int, ...]:
                asked = request(
                    name,
                    prompt,
                    max_tokens=180,
                    ignore_eos=True,
                    use_prefix_cache=False,
                    sampling=SamplingParams(temperature=0.8, seed=bytes([3]) * 32),
                    resume_ids=resume_ids,
                )
                drawn = list(resume_ids)
                async with engines.open_stream("smollm2", asked) as stream:
                    async for delta in stream:
                        drawn += delta.token_ids
                return tuple(drawn)

            whole = await ids("whole")
            for cut in (40, 90, 150):
                assert await ids(f"from {cut}", whole[:cut]) == whole

    trio.run(main)


def test_a_model_loads_at_its_first_request_and_once_for_many(store: ModelStore) -> None:
    async def main() -> None:
        async with running(store) as engines:
            assert names(engines) == set()
            answers = []

            async def one(index: int) -> None:
                answers.append(await answer(engines, "m0", f"r{index}"))

            async with trio.open_nursery() as nursery:
                for index in range(4):
                    nursery.start_soon(one, index)
            assert len(set(answers)) == 1 and len(answers) == 4
            (loaded,) = engines.loaded()
            assert (loaded.model, loaded.state, loaded.restarts) == ("m0", "ready", 0)
            assert await answer(engines, "m1") != answers[0]
            assert names(engines) == {"m0", "m1"}

    trio.run(main)


def test_a_model_that_cannot_fit_is_refused_before_it_loads_with_both_numbers(store: ModelStore) -> None:
    async def main() -> None:
        async with running(store, available=1_000_000) as engines:
            with pytest.raises(Refused) as refused:
                await answer(engines, "m0")
            assert refused.value.code == "model_too_large"
            needed, present = refused.value.details["bytes_needed"], refused.value.details["bytes_present"]
            assert str(needed) in refused.value.message and str(present) in refused.value.message
            assert isinstance(needed, int) and needed > 800_000 == present
            assert names(engines) == set()

    trio.run(main)


def test_an_idle_model_makes_room_and_a_busy_one_stays(store: ModelStore) -> None:
    async def main() -> None:
        async with running(store) as engines:
            needed = (await engines.load("m0")).bytes_estimated
        async with running(store, memory_budget_bytes=2 * needed) as engines:
            await answer(engines, "m0")
            await answer(engines, "m1")
            await answer(engines, "m0")
            await answer(engines, "m2")
            assert names(engines) == {"m0", "m2"}, "the one idle for longest goes"
            async with engines.open_stream("m0", request("busy", max_tokens=400)) as first:
                await anext(first)
                async with engines.open_stream("m2", request("busy too", max_tokens=400)) as second:
                    await anext(second)
                    with pytest.raises(Refused) as refused:
                        await answer(engines, "m1")
                    assert (refused.value.code, refused.value.retry_after_s) == ("overloaded", 5)
            assert len(await answer(engines, "m1")) == 4

    trio.run(main)


def test_an_idle_model_is_unloaded_and_its_process_is_gone(store: ModelStore) -> None:
    async def main() -> None:
        async with running(store, idle_unload_s=0.01) as engines:
            pid = (await engines.load("m0")).pid
            while names(engines):
                await trio.sleep(0.05)
            while Path(f"/proc/{pid}").exists():
                await trio.sleep(0.05)
            assert len(await answer(engines, "m0")) == 4

    trio.run(main)


def test_unloading_tells_and_an_unknown_model_says_what_to_do(store: ModelStore) -> None:
    async def main() -> None:
        async with running(store) as engines:
            assert await engines.unload("m0") is False
            await engines.load("m0")
            assert await engines.unload("m0") is True
            with pytest.raises(Refused) as refused:
                await engines.load("nothing-like-it")
            assert refused.value.code == "model_not_found"

    trio.run(main)


def test_an_encoder_embeds_and_is_not_asked_to_write(store: ModelStore, tmp_path: Path) -> None:
    store.adopt(write_tiny(tmp_path / "encoder.gguf", seed=5, causal=False, pooling=1), "encoder")

    async def main() -> None:
        async with running(store) as engines:
            embedded = await engines.embed("encoder", ["the hen", tuple([7] * 700)])
            assert len(embedded.vectors) == 2
            with pytest.raises(Refused) as refused:
                await answer(engines, "encoder")
            assert (refused.value.code, refused.value.field) == ("not_supported", "model")

    trio.run(main)


def test_memory_that_a_loading_model_will_take_is_not_given_twice(store: ModelStore) -> None:
    async def main() -> None:
        async with running(store) as engines:
            needed = (await engines.load("m0")).bytes_estimated
        # Room for one and a half: two that start together do not fit, one after the other makes room.
        async with running(store, available=int(needed * 1.5 / 0.8)) as engines:
            outcomes: list[str] = []

            async def load(model: str) -> None:
                try:
                    await engines.load(model)
                    outcomes.append("loaded")
                except Refused as refused:
                    outcomes.append(refused.code)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(load, "m0")
                nursery.start_soon(load, "m1")
            assert sorted(outcomes) == ["loaded", "overloaded"]

    trio.run(main)


def test_a_damaged_model_is_refused_every_time_and_others_still_load(
    store: ModelStore, tmp_path: Path
) -> None:
    path = write_tiny(tmp_path / "damaged.gguf", seed=9)
    store.adopt(path, "damaged")
    # The header stays whole, the tensors are cut: only the engine itself can find that out.
    installed = store.resolve("damaged")

    async def main() -> None:
        async with running(store) as engines:
            engines._resolve = lambda name: installed if name == "damaged" else store.resolve(name)
            with open(path, "r+b") as file:
                file.truncate(path.stat().st_size - 100_000)
            for _ in range(2):
                with pytest.raises(Refused) as refused:
                    await answer(engines, "damaged")
                assert refused.value.code == "engine_failed"
            assert len(await answer(engines, "m0")) == 4

    trio.run(main)
