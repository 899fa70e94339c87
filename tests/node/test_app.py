"""The node put together: it stops without cutting answers, and counts how requests end."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import trio

from unhosted.node import app
from unhosted.node.app_answers import Answer, open_answer
from unhosted.node.config import Config, Paths
from unhosted.node.core.errors import Refused
from unhosted.node.core.inference import Delta, GenerateRequest
from unhosted.node.core.service import Provenance
from unhosted.node.shell.metrics import Metrics

TEST_TIMEOUT_S = 60
TOKENS = 300


@pytest.mark.slow
def test_told_to_stop_it_ends_the_answers_under_way_first(tiny_model: Path, tmp_path: Path) -> None:
    config = Config(
        paths=Paths(config_dir=tmp_path, data_dir=tmp_path, state_dir=tmp_path), port=0, threads=1
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

    trio.run(main)


def test_a_refusal_in_mid_answer_is_counted_even_if_the_reader_keeps_it_to_itself() -> None:
    class Broken:
        def __aiter__(self) -> "Broken":
            return self

        async def __anext__(self) -> tuple[int, Delta]:
            raise Refused("engine_failed", "the engine died again and again")

    async def main() -> None:
        metrics = Metrics(loaded=tuple, counters=dict, refused_connections=int)
        answer = Answer(
            model="tiny",
            provenance=Provenance(ring="local", served_by="here", reason="test"),
            source=Broken(),
            samples=1,
            make_parser=None,
            metrics=metrics,
        )
        with pytest.raises(Refused):
            await anext(answer)
        answer.record()
        assert 'outcome="engine_failed"' in metrics.render()

    trio.run(main)


def test_a_request_that_is_not_accepted_is_counted_by_its_reason() -> None:
    class Full:
        @asynccontextmanager
        async def open_stream(self, model: str, request: GenerateRequest) -> AsyncIterator[None]:
            raise Refused("overloaded", "256 requests are waiting", retry_after_s=1)
            yield

    async def main() -> None:
        metrics = Metrics(loaded=tuple, counters=dict, refused_connections=int)
        provenance = Provenance(ring="local", served_by="here", reason="test")
        with pytest.raises(Refused):
            async with open_answer(
                Full(),  # type: ignore[arg-type]  # nothing else of the engines is asked
                [GenerateRequest(request_id="r", prompt="x")],
                model="tiny",
                provenance=provenance,
                make_parser=None,
                metrics=metrics,
            ):
                raise AssertionError("it was entered")
        assert 'outcome="overloaded"' in metrics.render()

    trio.run(main)
