"""The exact class on real engines: what was decoded comes again bit for bit when it is read at once."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trio
from numpy.typing import NDArray

from tests.node.engine.harness import collect, load_order, request
from tests.tiny import write_tiny
from unhosted.node.core.engine_facts import (
    EXACT_CACHE,
    KERNELS_PLAIN,
    EngineFacts,
    exact_class,
    replay_for,
)
from unhosted.node.core.inference import CheckedAnswer, CheckRequest
from unhosted.node.shell.engine.child import LoadOrder
from unhosted.node.shell.engine.environment import child_environment
from unhosted.node.shell.engine.facts import weights_of
from unhosted.node.shell.engine.host import EngineHost
from unhosted.node.shell.engine.library import load_library
from unhosted.node.shell.engine.llama import Context, Model
from unhosted.node.shell.engine.rowwise import is_rowwise, settle
from unhosted.verify.params import SamplingParams

pytestmark = pytest.mark.slow

TIMEOUT_S = 240
CELLS_MAX = 4096
TEXT = "The ferry leaves at nine, and the captain counts the bicycles twice before he goes. " * 20
PROMPT_TOKENS = 230
OUTPUT_TOKENS = 40
CELLS_BEFORE_SPLIT = 256
"""With more, a lone row of an f16 cache is split between threads."""


@pytest.fixture(scope="module")
def eight_bits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """Random weights of a kind that is rowwise."""
    L = load_library()
    L.llama_backend_init()
    path = write_tiny(
        tmp_path_factory.mktemp("exact") / "eight-bits.gguf", eight_bits=True, heads=2, heads_kv=1
    )
    assert weights_of(str(path)) == "q8_0"
    loaded = Model(L, str(path), gpu_layers=0)
    yield loaded
    loaded.close()


def logits(
    model: Model, ids: Sequence[int], *, kv_type: str, ubatch_tokens: int = 512, prompt_tokens: int
) -> NDArray[np.uint32]:
    """(positions from the prompt's last one on, n_vocab) bits: the prompt at once, then one by one.

    prompt_tokens: 0 reads all ids at once.
    """
    context = Context(
        model,
        context_tokens=1024,
        sequences=1,
        batch_tokens=512,
        ubatch_tokens=ubatch_tokens,
        threads=2,
        kv_type=kv_type,
    )
    first = prompt_tokens or len(ids)
    rows = []
    for start, stop in [(0, first), *((at, at + 1) for at in range(first, len(ids)))]:
        count = stop - start
        batch = context.batch
        batch.token[:count] = ids[start:stop]
        batch.position[:count] = np.arange(start, stop)
        batch.sequence[:count] = 0
        wanted = count - PROMPT_TOKENS + 1 if not prompt_tokens else 1
        batch.output[:count] = 0
        batch.output[count - wanted : count] = 1
        assert context.decode(count) == 0
        rows.append(context.logits(wanted).copy())
    context.close()
    return np.concatenate(rows).view(np.uint32)


def differing(one: NDArray[np.uint32], other: NDArray[np.uint32]) -> NDArray[np.bool_]:
    assert one.shape == other.shape
    return np.asarray((one != other).any(axis=1))


@pytest.fixture(scope="module")
def ids(eight_bits: Model) -> list[int]:
    return eight_bits.tokenize(TEXT, add_special=False)[: PROMPT_TOKENS + OUTPUT_TOKENS]


@pytest.mark.parametrize("kv_type", [EXACT_CACHE, "q8_0"])
def test_decoding_and_reading_give_the_same_bits_past_256_cells(
    eight_bits: Model, ids: list[int], kv_type: str
) -> None:
    decoded = logits(eight_bits, ids, kv_type=kv_type, prompt_tokens=PROMPT_TOKENS)
    read = logits(eight_bits, ids, kv_type=kv_type, prompt_tokens=0)
    assert len(decoded) == OUTPUT_TOKENS + 1
    assert not differing(decoded, read).any()


def test_usual_cache_differs_past_256_cells_and_in_prompts_read_by_tiles(
    eight_bits: Model, ids: list[int]
) -> None:
    decoded = logits(eight_bits, ids, kv_type="f16", prompt_tokens=PROMPT_TOKENS, ubatch_tokens=63)
    below_tiles = differing(
        decoded, logits(eight_bits, ids, kv_type="f16", prompt_tokens=0, ubatch_tokens=63)
    )
    split_from = CELLS_BEFORE_SPLIT - PROMPT_TOKENS + 1
    assert not below_tiles[:split_from].any()
    assert below_tiles[split_from:].all()
    assert differing(decoded, logits(eight_bits, ids, kv_type="f16", prompt_tokens=0)).all()


def test_engine_tries_itself(eight_bits: Model, tiny_model: Path) -> None:
    exact = replace(load_order(tiny_model), kv_type=EXACT_CACHE)
    assert is_rowwise(eight_bits, exact, 1)
    halves = Model(eight_bits.L, str(tiny_model), gpu_layers=0)
    assert not is_rowwise(halves, exact, 1)  # f16 weights: one row and many have kernels of their own
    halves.close()


def test_wish_for_exactness_takes_the_cache_and_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GGML_CPU_TILED_MM", raising=False)
    L = load_library()
    usual = load_order(Path("model.gguf"))
    assert settle(L, usual, frozenset({"q4_k"})) == usual
    wished = replace(usual, is_exact=True)
    simple, mixed = settle(L, wished, frozenset({"q4_0"})), settle(L, wished, frozenset({"q4_k", "q6_k"}))
    assert (simple.kv_type, simple.repacks) == (EXACT_CACHE, True)
    assert (mixed.kv_type, mixed.repacks) == (EXACT_CACHE, False)
    assert settle(L, replace(wished, kv_type="q8_0"), frozenset({"q4_0"})).kv_type == "q8_0"


def test_weights_are_named_by_their_matrices(tiny_model: Path, tmp_path: Path) -> None:
    assert weights_of(str(tiny_model)) == "f16"
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(64))
    assert weights_of(str(broken)) == ""


def order(model: Path, **changes: object) -> LoadOrder:
    usual = replace(load_order(model, slots=2, context_tokens=1024), batch_tokens=512, ubatch_tokens=512)
    return replace(usual, threads=2, **changes)  # type: ignore[arg-type]


@asynccontextmanager
async def running(made: LoadOrder) -> AsyncIterator[EngineHost]:
    host = EngineHost("model", made, environment=child_environment())
    async with trio.open_nursery() as nursery:
        await nursery.start(host.run)
        yield host
        host.close()


async def ask(host: EngineHost, prompt: tuple[int, ...], made: list[CheckRequest]) -> None:
    seed = len(prompt).to_bytes(32, "big")
    sampling = SamplingParams(temperature=0.9, top_k=0, top_p=1.0, min_p=0.0, seed=seed)
    asked = request(f"of {len(prompt)}", prompt, sampling=sampling, max_tokens=OUTPUT_TOKENS)
    answer = await collect(host, asked)
    made.append(
        CheckRequest(prompt_ids=prompt, output_ids=answer.token_ids, sampling=sampling, ignore_eos=True)
    )


def test_an_exact_sellers_answers_come_again_to_the_last_token(smollm2_model: Path) -> None:
    facts: list[EngineFacts] = []
    checked: list[CheckedAnswer] = []

    async def serve(made: list[CheckRequest]) -> None:
        async with running(order(smollm2_model, is_exact=True)) as seller:
            facts.append(seller.facts)
            ids = tuple(await seller.call("tokenize", TEXT, False))
            # Of three, two at once: the third is read beside what is decoded, and decoded alone at the end.
            async with trio.open_nursery() as nursery:
                for length in (PROMPT_TOKENS, 20, 70):
                    nursery.start_soon(ask, seller, ids[:length], made)

    async def main() -> None:
        made: list[CheckRequest] = []
        with trio.fail_after(TIMEOUT_S):
            await serve(made)
            async with running(order(smollm2_model)) as own:
                facts.append(own.facts)
                check, replay = replay_for(facts[0], facts[1])
                assert check == "exact"
                checked.extend(await own.check([replace(one, replay=replay) for one in made], CELLS_MAX))

    trio.run(main)
    seller_facts, own_facts = facts
    assert (seller_facts.kernels, seller_facts.kv_type) == (KERNELS_PLAIN, EXACT_CACHE)
    assert seller_facts.weights == "q4_1,q8_0"
    assert seller_facts.build == own_facts.build
    assert exact_class(own_facts) is None  # an f16 cache serves, and is no exact one
    assert [one.seen.tokens for one in checked] == [OUTPUT_TOKENS] * 3
    assert sum(one.seen.mismatches for one in checked) == 0
    assert not any(margin for one in checked for margin in one.seen.margin_mlogit)
