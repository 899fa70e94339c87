"""Sellers who cheat, each in one way, on prompts that are held out; all but two know the seed.

Whoever serves a cheaper model draws from it with the very noise that the buyer will check with: that is what
a seller who reads this program would do. Sampling is T 0.7, top_k 40, top_p 0.95, as in earlier measurements,
so that figures compare. The sellers' engines are such as the exact class needs: one set of answers serves
both classes.
"""

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import count
from typing import TypeVar, cast

import trio

from bench.verify.corpus import Kept, Served
from bench.verify.models import GEMMA, SOLD, model_path
from unhosted.node.core.gguf_facts import GgufHeader
from unhosted.node.core.inference import FinishReason, GenerateRequest
from unhosted.node.core.service import Message
from unhosted.node.shell.calibrating.answers import Answer, Ask, prompt_text, running_engine
from unhosted.node.shell.calibrating.prompts import Prompt, PromptKind, prompts
from unhosted.node.shell.calibrating.settings import Setting
from unhosted.node.shell.engine.host import EngineHost
from unhosted.node.shell.models.gguf import read_header
from unhosted.verify.params import SamplingParams

Item = TypeVar("Item")
_NUMBERS = count(1)

SERVED = Setting(name="served", slots=8, threads=1, kv_type="f16/bf16")
COUNTING = Setting(name="counting", slots=1, threads=1)
DRAW = 7
ANSWER_TOKENS = 200
CONTEXT_TOKENS = 1024
PROMPTS_EACH = 42
KINDS: tuple[PromptKind, ...] = ("chat", "code", "multilingual")
SAMPLING = SamplingParams(temperature=0.7, top_k=40, top_p=0.95, min_p=0.0)
USUAL_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
"""What SmolLM2's template says where a conversation has no system message."""

HIDDEN_SYSTEM = "Answer briefly. You are a pirate."
FULL_STOP = "."
HEAD_SHARE = 0.8
TRUNCATED_AT = 60
PADDED_EVERY = 20
"""Output tokens between two words that are re-split."""

WORD_CHARS_MIN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Cheat:
    """title: as the tables say it. served, sold: names in `models`. goal_tokens: of the statistical class.

    temperature, system: what is used in place of what was asked for; a system of `.` adds one full stop.
    made_of: the name of other answers, which need no engine (`replayed`, `truncated`) or are gone on from.
    """

    name: str
    title: str
    goal_tokens: int | None = None
    served: str = SOLD
    sold: str = SOLD
    setting: Setting = SERVED
    temperature: float | None = None
    system: str = ""
    is_other_seed: bool = False
    made_of: str = ""


HONEST = "control"
CHEATS = (
    Cheat(name=HONEST, title="none: an honest seller under the same settings"),
    Cheat(
        name="gemma",
        title="another model (Gemma 3 270M, its text re-tokenized)",
        goal_tokens=30,
        served=GEMMA,
    ),
    Cheat(name="seed", title="wrong seed", goal_tokens=30, is_other_seed=True),
    Cheat(name="pruned", title="4 of 30 layers left out", goal_tokens=30, served="pruned"),
    Cheat(name="q2_k", title="Q2_K served as Q4_1", goal_tokens=100, served="q2_k"),
    Cheat(name="q3_k_m", title="Q3_K_M served as Q4_1", goal_tokens=100, served="q3_k_m"),
    Cheat(name="q4_0", title="Q4_0 served as Q4_1", goal_tokens=100, served="q4_0"),
    Cheat(name="q4_0-as-q8_0", title="Q4_0 served as Q8_0", goal_tokens=100, sold="q8_0", made_of="q4_0"),
    Cheat(name="t10", title="T 1.0 for 0.7", goal_tokens=300, temperature=1.0),
    Cheat(name="kv-q4_0", title="cache q4_0", goal_tokens=300, setting=replace(SERVED, kv_type="q4_0")),
    Cheat(name="system", title="hidden system prompt", goal_tokens=300, system=HIDDEN_SYSTEM),
    Cheat(name="replayed", title="replayed answer of another seed", goal_tokens=30, made_of=HONEST),
    Cheat(name="tail-q2_k", title="last 20 % by Q2_K", goal_tokens=1_500, served="q2_k", made_of=HONEST),
    Cheat(name="tail-q4_0", title="last 20 % by Q4_0", goal_tokens=1_500, served="q4_0", made_of=HONEST),
    Cheat(name="truncated", title="cut at 60 tokens with a forged end", made_of=HONEST),
    Cheat(name="padded", title="one word in 20 split into more tokens"),
    Cheat(name="q8_0", title="Q8_0 made from the Q4_1, served as Q4_1", served="q8_0"),
    Cheat(name="full-stop", title="one full stop more in the system prompt", system=FULL_STOP),
    Cheat(name="kv-q8_0", title="cache q8_0 stated as f16", setting=replace(SERVED, kv_type="q8_0")),
)
BY_NAME = {cheat.name: cheat for cheat in CHEATS}


def cheat_asks() -> Iterator[Ask]:
    pools = [prompts(kind, "held-out", PROMPTS_EACH, DRAW) for kind in KINDS]
    for number in range(PROMPTS_EACH * len(pools)):
        seed = hashlib.blake2b(f"bench/cheats/{number}".encode(), digest_size=32).digest()
        yield Ask(
            number=number,
            prompt=pools[number % len(pools)][number // len(pools)],
            sampling=replace(SAMPLING, seed=seed),
            tokens_max=ANSWER_TOKENS,
        )


def cheat_answers(cheat: Cheat, tokens: int) -> Served:
    """At least `tokens` of them, as the buyer sees them: prompt and sampling are those that it asked for."""
    kept = Kept(f"cheat-{cheat.name}")
    made_of = cheat_answers(BY_NAME[cheat.made_of], tokens) if cheat.made_of else None
    if made_of is not None and cheat.served == SOLD:
        answers = tuple(_changed(cheat, answer) for answer in made_of.answers)
        return Served(name=kept.name, setting=cheat.setting, sold=cheat.sold, answers=answers)
    if made_of is not None:
        done = {answer.number for answer in kept.answers()}
        trio.run(_make_tails, cheat, [one for one in made_of.answers if one.number not in done], kept)
    else:
        kept.fill(cheat_asks, lambda wanted: _make(cheat, wanted, kept), tokens)
    return Served(name=kept.name, setting=cheat.setting, sold=cheat.sold, answers=kept.answers())


def _changed(cheat: Cheat, answer: Answer) -> Answer:
    if cheat.name == "replayed":
        return replace(answer, sampling=_other_seed(answer.sampling))
    if cheat.name == "truncated":
        end = read_header(model_path(SOLD)).eos
        assert end is not None
        return replace(answer, output_ids=(*answer.output_ids[:TRUNCATED_AT], end.token_id), finish="stop")
    return answer


def _other_seed(sampling: SamplingParams) -> SamplingParams:
    return replace(sampling, seed=hashlib.blake2b(sampling.seed, digest_size=32).digest())


async def _make(cheat: Cheat, wanted: Sequence[Ask], kept: Kept) -> None:
    async with _running(cheat) as (buyer, seller):

        async def serve(ask: Ask) -> None:
            sold, served = read_header(model_path(cheat.sold)), read_header(model_path(cheat.served))
            asked_ids = await _prompt_ids(buyer, sold, ask.prompt)
            prompt_ids = await _prompt_ids(seller, served, _with_system(ask.prompt, cheat.system))
            sampling = ask.sampling
            if cheat.temperature is not None:
                sampling = replace(sampling, temperature=cheat.temperature)
            if cheat.is_other_seed:
                sampling = _other_seed(sampling)
            if cheat.name == "padded":
                output = await _padded(seller, prompt_ids, sampling)
            else:
                output = await _generated(seller, prompt_ids, sampling, ANSWER_TOKENS)
            ids = output.ids
            if cheat.served == GEMMA:
                ids = tuple(await buyer.call("tokenize", output.text, False))
            kept.add(
                Answer(
                    number=ask.number,
                    setting=cheat.setting.name,
                    kind=ask.prompt.kind,
                    part=ask.prompt.part,
                    prompt_name=ask.prompt.name,
                    prompt_ids=asked_ids,
                    output_ids=ids[:ANSWER_TOKENS],
                    sampling=ask.sampling,
                    finish=output.finish,
                )
            )

        await _each(wanted, serve)


async def _make_tails(cheat: Cheat, honest: Sequence[Answer], kept: Kept) -> None:
    async with _running(cheat) as (_, seller):

        async def go_on(answer: Answer) -> None:
            head = answer.output_ids[: int(HEAD_SHARE * len(answer.output_ids))]
            rest = len(answer.output_ids) - len(head)
            tail = await _generated(seller, answer.prompt_ids, answer.sampling, len(head) + rest, head)
            kept.add(replace(answer, output_ids=(*head, *tail.ids), finish=tail.finish))

        await _each(honest, go_on)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Output:
    """pieces: the bytes of each id."""

    ids: tuple[int, ...]
    pieces: tuple[bytes, ...]
    text: str
    finish: FinishReason


async def _generated(
    host: EngineHost,
    prompt_ids: tuple[int, ...],
    sampling: SamplingParams,
    tokens_max: int,
    resume_ids: tuple[int, ...] = (),
) -> _Output:
    ids: list[int] = []
    pieces: list[bytes] = []
    text, finish = "", "cancelled"
    request = GenerateRequest(
        request_id=f"cheat-{next(_NUMBERS)}",
        prompt=prompt_ids,
        max_tokens=tokens_max,
        sampling=sampling,
        logprobs=0,
        resume_ids=resume_ids,
    )
    async with host.open_stream(request) as stream:
        async for delta in stream:
            ids += delta.token_ids
            pieces += [one.text for one in delta.logprobs]
            text += delta.text
            finish = delta.finish or finish
    return _Output(ids=tuple(ids), pieces=tuple(pieces), text=text, finish=cast(FinishReason, finish))


async def _padded(host: EngineHost, prompt_ids: tuple[int, ...], sampling: SamplingParams) -> _Output:
    """Every so often a word is split into tokens that spell the same, and the answer goes on honestly."""
    ids: tuple[int, ...] = ()
    while True:
        tokens_max = min(len(ids) + PADDED_EVERY, ANSWER_TOKENS)
        output = await _generated(host, prompt_ids, sampling, tokens_max, ids)
        ids += output.ids
        for back, piece in enumerate(reversed(output.pieces), 1):
            split = await _split(host, piece)
            if len(split) > 1 and output.finish == "length":
                ids = (*ids[: len(ids) - back], *split)
                break
        if output.finish != "length" or len(ids) >= ANSWER_TOKENS:
            return replace(output, ids=ids)


async def _split(host: EngineHost, piece: bytes) -> tuple[int, ...]:
    word = piece.decode("utf-8", "ignore")
    if len(word) < WORD_CHARS_MIN or word.encode() != piece or not word.strip().isalpha():
        return ()
    middle = len(word) // 2
    halves = [await host.call("tokenize", half, False) for half in (word[:middle], word[middle:])]
    return tuple(halves[0] + halves[1])


async def _prompt_ids(host: EngineHost, header: GgufHeader, prompt: Prompt) -> tuple[int, ...]:
    text, add_special = prompt_text(header, prompt)
    return tuple(await host.call("tokenize", text, add_special))


def _with_system(prompt: Prompt, system: str) -> Prompt:
    if not system:
        return prompt
    own = next((message.content for message in prompt.messages if message.role == "system"), USUAL_SYSTEM)
    text = f"{own}{system}" if system == FULL_STOP else system
    rest = tuple(message for message in prompt.messages if message.role != "system")
    return replace(prompt, messages=(Message(role="system", content=text), *rest))


@asynccontextmanager
async def _running(cheat: Cheat) -> AsyncIterator[tuple[EngineHost, EngineHost]]:
    """The buyer's engine, which only counts tokens, and the seller's."""
    async with (
        running_engine(model_path(cheat.sold), COUNTING, context_tokens=CONTEXT_TOKENS) as buyer,
        running_engine(model_path(cheat.served), cheat.setting, context_tokens=CONTEXT_TOKENS) as seller,
    ):
        yield buyer, seller


async def _each(items: Sequence[Item], work: Callable[[Item], Awaitable[None]]) -> None:
    waiting = iter(items)

    async def one_after_another() -> None:
        for item in waiting:
            await work(item)

    async with trio.open_nursery() as nursery:
        for _ in range(SERVED.slots + 1):
            nursery.start_soon(one_after_another)
