"""The node put together: it stops without cutting answers, and counts how requests end."""

import gc
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import trio

from unhosted.node import app
from unhosted.node.app_answers import open_answer
from unhosted.node.config import Config, Paths
from unhosted.node.core.errors import Refused
from unhosted.node.core.inference import Delta
from unhosted.node.core.service import Provenance
from unhosted.node.shell.metrics import Metrics

TEST_TIMEOUT_S = 60
TOKENS = 300


@pytest.mark.slow
def test_told_to_stop_it_ends_the_answers_under_way_first(tiny_model: Path, tmp_path: Path) -> None:
    config = Config(
        paths=Paths(config_dir=tmp_path, data_dir=tmp_path, state_dir=tmp_path),
        port=0,
        threads=1,
        radius="local",
    )
    app.model_store(config).adopt(tiny_model, "tiny")

    async def main() -> None:
        told, started = [], trio.Event()
        serving = trio.CancelScope()

        def on_started(info: app.ServeInfo) -> None:
            told.append(info)
            started.set()

        async def serve() -> None:
            with serving:
                await app.serve(config, on_started=on_started)

        with trio.fail_after(TEST_TIMEOUT_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve)
                await started.wait()
                url = f"http://{told[0].host}:{told[0].port}/v1/completions"
                asked = {
                    "model": "tiny",
                    "prompt": "the hen",
                    "max_tokens": TOKENS,
                    "stream": True,
                    "stream_options": {"include_usage": True},
                    "ignore_eos": True,
                }
                lines: list[str] = []
                async with (
                    httpx.AsyncClient(trust_env=False) as client,
                    client.stream("POST", url, json=asked) as reply,
                ):
                    async for line in reply.aiter_lines():
                        serving.cancel()
                        lines += [line] if line else []
        assert lines[-1] == "data: [DONE]"
        usages = [json.loads(line[6:]).get("usage") for line in lines[:-1]]
        assert usages[-1]["completion_tokens"] == TOKENS

    try:
        trio.run(main)
    finally:
        gc.unfreeze()  # what the server did for its own life must not outlast it in this process


class Broken:
    """A sample whose engine dies at once."""

    provenance = Provenance(ring="local", served_by="here", reason="test")

    def __aiter__(self) -> "Broken":
        return self

    async def __anext__(self) -> Delta:
        raise Refused("engine_failed", "the engine died again and again")


@asynccontextmanager
async def opened(served: Broken) -> AsyncIterator[Broken]:
    yield served


@asynccontextmanager
async def full() -> AsyncIterator[Broken]:
    raise Refused("overloaded", "256 requests are waiting", retry_after_s=1)
    yield


def test_a_refusal_in_mid_answer_is_counted_even_if_the_reader_keeps_it_to_itself() -> None:
    async def main() -> None:
        metrics = Metrics(loaded=tuple, counters=dict, refused_connections=int)
        async with open_answer([opened(Broken())], model="tiny", make_parser=None, metrics=metrics) as answer:
            with pytest.raises(Refused):
                await anext(answer)
        assert 'outcome="engine_failed"' in metrics.render()

    trio.run(main)


def test_a_request_that_is_not_accepted_is_counted_by_its_reason() -> None:
    async def main() -> None:
        metrics = Metrics(loaded=tuple, counters=dict, refused_connections=int)
        with pytest.raises(Refused):
            async with open_answer([full()], model="tiny", make_parser=None, metrics=metrics):
                raise AssertionError("it was entered")
        assert 'outcome="overloaded"' in metrics.render()

    trio.run(main)


def test_who_went_on_with_any_sample_is_told_of_the_whole_answer() -> None:
    class Resumed(Broken):
        def __init__(self, *names: str) -> None:
            self.provenance = replace(Broken.provenance, resumed_on=names)

    async def main() -> None:
        metrics = Metrics(loaded=tuple, counters=dict, refused_connections=int)
        openings = [opened(Resumed("desk")), opened(Resumed()), opened(Resumed("attic", "desk"))]
        async with open_answer(openings, model="tiny", make_parser=None, metrics=metrics) as answer:
            assert answer.provenance.resumed_on == ("desk", "attic")

    trio.run(main)
