"""Answers that were really generated on this machine's engine, kept as a buyer keeps what it paid for."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import trio

from tests.node.checking.kept_world import CHEAT, SELLER, answer_of
from unhosted.node import app, config
from unhosted.node.app_facts import engine_settings
from unhosted.node.core.inference import FinishReason, GenerateRequest
from unhosted.node.core.sampling_words import Sampling
from unhosted.node.shell.engine.manager import EngineManager
from unhosted.node.shell.money.kept_answers import open_kept_answers
from unhosted.node.shell.money.kept_words import KeptAnswer
from unhosted.verify.params import SamplingParams
from unhosted.verify.selection import Wish

TOKENS = 40


def sell(model: str, honest: Sequence[Wish], *, cheats: int) -> None:
    """Generate and keep answers of an honest seller, one for each wish, and then some of a cheat, which takes
    another seed than it was asked for."""
    settings = config.load({})
    store = app.model_store(settings)
    blake3 = bytes.fromhex(store.resolve(model).entry.blake3)

    no_wish: list[Wish] = ["auto"]

    async def main() -> list[KeptAnswer]:
        engines = EngineManager(engine_settings(settings), store.resolve)
        answers: list[KeptAnswer] = []
        async with trio.open_nursery() as nursery:
            await nursery.start(engines.run)
            facts = await engines.facts(model)
            wishes: list[Wish] = [*honest, *no_wish * cheats]
            for number, wish in enumerate(wishes):
                is_honest = number < len(honest)
                seed = number.to_bytes(32, "big")
                params = SamplingParams(seed=seed, top_k=0, top_p=1.0, min_p=0.0)
                served = params if is_honest else replace(params, seed=b"\x5a" * 32)
                prompt_ids = await engines.tokenize(model, f"the hen number {number}")
                output_ids, finish = await _generate(engines, model, prompt_ids, served)
                answers.append(
                    answer_of(
                        number,
                        model=blake3,
                        prompt_ids=prompt_ids,
                        output_ids=output_ids,
                        sampling=Sampling(params=params),
                        facts=facts,
                        finish=finish,
                        tokens_out_max=TOKENS,
                        wish=wish,
                        seller=SELLER if is_honest else CHEAT,
                    )
                )
            nursery.cancel_scope.cancel()
        return answers

    keep(settings.paths.kept_file, trio.run(main))


async def _generate(
    engines: EngineManager, model: str, prompt_ids: tuple[int, ...], sampling: SamplingParams
) -> tuple[tuple[int, ...], FinishReason]:
    asked = GenerateRequest(request_id="sold", prompt=prompt_ids, max_tokens=TOKENS, sampling=sampling)
    ids: list[int] = []
    async with engines.open_stream(model, asked) as stream:
        async for delta in stream:
            ids += delta.token_ids
            if delta.finish is not None:
                return tuple(ids), delta.finish
    raise AssertionError("the stream ended without a finish")


def keep(path: Path, answers: list[KeptAnswer]) -> None:
    """As the buyer's side of a paid stream does: the receipt first, then the answer."""

    async def main() -> None:
        async with open_kept_answers(path) as kept:
            for answer in answers:
                assert answer.receipt is not None
                await kept.note_receipt(
                    answer.receipt, seller=answer.seller, payee=answer.payee, bonds=answer.bonds
                )
                await kept.keep(answer)

    trio.run(main)
