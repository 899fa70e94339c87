"""Starts engine hosts and managers on tiny models for the tests beside this file."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from unhosted.node.core.inference import Delta, GenerateRequest, Usage
from unhosted.node.shell.engine.child import LoadOrder
from unhosted.node.shell.engine.environment import child_environment
from unhosted.node.shell.engine.host import CHILD_MODULE, EngineHost
from unhosted.verify.params import SamplingParams

TEST_TIMEOUT_S = 60
"""No test waits this long: it is for a hang, which must fail and not block the suite."""


def load_order(path: Path, *, slots: int = 4, context_tokens: int = 512, queue_max: int = 64) -> LoadOrder:
    return LoadOrder(
        path=str(path),
        slots=slots,
        context_tokens=context_tokens,
        batch_tokens=256,
        ubatch_tokens=256,
        threads=1,
        kv_type="f16",
        gpu_layers=0,
        queue_max=queue_max,
    )


@asynccontextmanager
async def running_host(path: Path, *, module: str = CHILD_MODULE, **order: int) -> AsyncIterator[EngineHost]:
    host = EngineHost("tiny", load_order(path, **order), environment=child_environment(), module=module)
    with trio.fail_after(TEST_TIMEOUT_S):
        async with trio.open_nursery() as nursery:
            await nursery.start(host.run)
            yield host
            host.close()


def request(name: str, prompt: str | tuple[int, ...] = "the hen", **fields: object) -> GenerateRequest:
    """A greedy request for 24 tokens that ends at nothing else, unless `fields` say otherwise."""
    settings: dict[str, object] = {
        "max_tokens": 24,
        "ignore_eos": True,
        "sampling": SamplingParams(temperature=0.0),
    }
    return GenerateRequest(request_id=name, prompt=prompt, **{**settings, **fields})  # type: ignore[arg-type]


@dataclass(frozen=True)
class Answer:
    token_ids: tuple[int, ...]
    text: str
    last: Delta

    @property
    def usage(self) -> Usage:
        assert self.last.usage is not None
        return self.last.usage


async def collect(host: EngineHost, asked: GenerateRequest) -> Answer:
    ids: list[int] = []
    text = ""
    last = Delta()
    async with host.open_stream(asked) as stream:
        async for delta in stream:
            ids += delta.token_ids
            text += delta.text
            last = delta
    return Answer(tuple(ids), text, last)
