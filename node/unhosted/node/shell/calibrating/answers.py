"""Answers of an honest engine: prompts of all kinds, temperatures and seeds, as a seller would make them.

Everything is drawn from one number, so that an interrupted calibration goes on where it was, and two
machines measure on the same requests.
"""

import hashlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import trio

from unhosted.node.core.errors import Refused
from unhosted.node.core.gguf_facts import GgufHeader
from unhosted.node.core.inference import FinishReason, GenerateRequest
from unhosted.node.shell.calibrating.prompts import (
    HELD_OUT_OF_TEN,
    KINDS,
    PARTS,
    Part,
    Prompt,
    PromptKind,
    prompts,
)
from unhosted.node.shell.calibrating.settings import Setting
from unhosted.node.shell.chat_template import adds_special, render
from unhosted.node.shell.engine.host import EngineHost
from unhosted.node.shell.nurseries import plain_nursery
from unhosted.verify.params import SamplingParams

TEMPERATURES = (0.0, 0.3, 0.8, 1.2)
FILTERS: tuple[dict[str, float], ...] = ({}, {"top_k": 0, "top_p": 1.0, "min_p": 0.02})
"""The usual ones, and few: noise shows where many candidates are close."""

ANSWER_TOKENS = 192
BLOCK_ASKS = 12
"""After so many each short kind has met each temperature."""

LONG_EVERY = 2 * BLOCK_ASKS
"""One ask in so many has a long context: reading it costs as much as writing a thousand tokens."""

PROMPTS_EACH = 40
"""Of each kind and part; after them the same prompts come again with other seeds."""

CONTEXT_TOKENS_SHORT = 1024
CONTEXT_TOKENS_LONG = 8192
SLOTS_LONG_MAX = 2
"""Long contexts reserve memory in every slot."""

CHARS_PER_TOKEN = 2
"""At least, in the long documents, with tokenizers that split more than most."""

DATE = datetime(2026, 1, 1, 12)
"""For templates that tell the date: the same on every machine and day."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request of a calibration. number: its place; all else follows from it and the draw."""

    number: int
    prompt: Prompt
    sampling: SamplingParams
    tokens_max: int = ANSWER_TOKENS

    @property
    def is_long(self) -> bool:
        return self.prompt.kind == "long"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What an engine made of an ask. setting: of the engine, by its name."""

    number: int
    setting: str
    kind: PromptKind
    part: Part
    prompt_name: str
    prompt_ids: tuple[int, ...]
    output_ids: tuple[int, ...]
    sampling: SamplingParams
    finish: FinishReason


def asks(draw: int, *, context_tokens: int = CONTEXT_TOKENS_LONG) -> Iterator[Ask]:
    """Requests without end: kinds and temperatures in turn, 30 % of them on prompts that are held out.

    context_tokens: of the model; its long documents are cut to fit.
    """
    room = min(context_tokens, CONTEXT_TOKENS_LONG) - 2 * ANSWER_TOKENS
    chars_max = max(CHARS_PER_TOKEN * room, 200)
    pool = {
        (kind, part): prompts(kind, part, PROMPTS_EACH, draw, chars_max=chars_max)
        for kind in KINDS
        for part in PARTS
    }
    short = KINDS[:-1]
    used: dict[tuple[PromptKind, Part], int] = dict.fromkeys(pool, 0)
    number = 0
    while True:
        kind = KINDS[-1] if number % LONG_EVERY == LONG_EVERY - 1 else short[number % len(short)]
        part: Part = "held-out" if number % 10 in HELD_OUT_OF_TEN else "fit"
        place = used[kind, part]
        used[kind, part] = place + 1
        # In turns that share no period, so that every kind meets every temperature with every filter.
        block = number // BLOCK_ASKS
        sampling = SamplingParams(
            temperature=TEMPERATURES[(number // len(short) + block + block // 2) % len(TEMPERATURES)],
            seed=hashlib.blake2b(f"unhosted/calibration/{draw}/{number}".encode(), digest_size=32).digest(),
            **FILTERS[(number + block // 8) % len(FILTERS)],  # type: ignore[arg-type]
        )
        yield Ask(number=number, prompt=pool[kind, part][place % PROMPTS_EACH], sampling=sampling)
        number += 1


@asynccontextmanager
async def running_engine(model: Path, setting: Setting, *, context_tokens: int) -> AsyncIterator[EngineHost]:
    """An engine of the model under the setting, for as long as the context lasts. Raises: Refused."""
    order = setting.order(model, context_tokens=context_tokens)
    host = EngineHost(model.stem, order, environment=setting.environment())
    async with plain_nursery() as nursery:
        await nursery.start(host.run)
        try:
            yield host
        finally:
            host.close()


async def make_answers(
    model: Path,
    header: GgufHeader,
    setting: Setting,
    wanted: Sequence[Ask],
    made: Callable[[Answer], None],
) -> None:
    """Answer the asks under the setting; `made` gets each as it ends, in any order. Raises: Refused.

    Short and long ones run in engines of their own, whose slots have the context that they need.
    """
    short, long = (min(header.context_tokens, size) for size in (CONTEXT_TOKENS_SHORT, CONTEXT_TOKENS_LONG))
    for context in sorted({short, long}):
        group = [ask for ask in wanted if (long if ask.is_long else short) == context]
        if not group:
            continue
        is_large = context > CONTEXT_TOKENS_SHORT
        engine = replace(setting, slots=min(setting.slots, SLOTS_LONG_MAX)) if is_large else setting
        async with running_engine(model, engine, context_tokens=context) as host:
            await _answer_all(host, header, setting, group, made)


async def _answer_all(
    host: EngineHost,
    header: GgufHeader,
    setting: Setting,
    wanted: Sequence[Ask],
    made: Callable[[Answer], None],
) -> None:
    waiting = iter(wanted)
    failures: list[Refused] = []

    async def work(nursery: trio.Nursery) -> None:
        try:
            for ask in waiting:
                made(await _answer(host, header, setting, ask))
        except Refused as refusal:
            failures.append(refusal)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        # One more than there are slots: a slot that ends finds the next request in the queue.
        for _ in range(host.order.slots + 1):
            nursery.start_soon(work, nursery)
    if failures:
        raise failures[0]


async def _answer(host: EngineHost, header: GgufHeader, setting: Setting, ask: Ask) -> Answer:
    text, add_special = prompt_text(header, ask.prompt)
    prompt_ids = tuple(await host.call("tokenize", text, add_special))
    context = host.order.context_tokens
    tokens_max = min(ask.tokens_max, context // 2)
    # A tokenizer that splits more than others: the end of the document is as good a prompt as the whole.
    prompt_ids = prompt_ids[-(context - tokens_max - 1) :]
    request = GenerateRequest(
        request_id=f"calibrate-{ask.number}",
        prompt=prompt_ids,
        max_tokens=tokens_max,
        sampling=ask.sampling,
        use_prefix_cache=setting.warms_prefix,
    )
    if setting.warms_prefix:
        warm = GenerateRequest(
            request_id=f"{request.request_id}-warm", prompt=prompt_ids, max_tokens=1, sampling=ask.sampling
        )
        await _collect(host, warm)
    output_ids, finish = await _collect(host, request)
    return Answer(
        number=ask.number,
        setting=setting.name,
        kind=ask.prompt.kind,
        part=ask.prompt.part,
        prompt_name=ask.prompt.name,
        prompt_ids=prompt_ids,
        output_ids=output_ids,
        sampling=ask.sampling,
        finish=finish,
    )


def prompt_text(header: GgufHeader, prompt: Prompt) -> tuple[str, bool]:
    """The prompt in the model's own template, and whether the tokenizer adds the model's beginning."""
    bos = header.bos.text if header.bos else ""
    eos = header.eos.text if header.eos else ""
    text = render(header.chat_template, prompt.messages, bos=bos, eos=eos, now=DATE)
    return text, adds_special(text, bos)


async def _collect(host: EngineHost, request: GenerateRequest) -> tuple[tuple[int, ...], FinishReason]:
    ids: list[int] = []
    finish: FinishReason = "cancelled"
    async with host.open_stream(request) as stream:
        async for delta in stream:
            ids += delta.token_ids
            finish = delta.finish or finish
    return tuple(ids), finish
