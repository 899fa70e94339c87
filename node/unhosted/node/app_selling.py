"""A machine's own engines as what a seller's paid streams sell."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from unhosted.node.core.asks import Answering, Ask
from unhosted.node.core.inference import Delta
from unhosted.node.shell.money.paid_asks import sampling_of
from unhosted.node.shell.money.paid_jobs import Piece, Work
from unhosted.node.shell.money.paid_wire import WorkAsked


def engine_work(answering: Answering) -> Work:
    """Work that is done as the request says: by its model, prompt, sampler and seed."""

    @asynccontextmanager
    async def work(asked: WorkAsked) -> AsyncIterator[AsyncIterator[Piece]]:
        sampling = sampling_of(asked)
        ask = Ask(
            ask_id=asked.terms.request_id.hex(),
            model=asked.request.model.hex(),
            prompt=asked.prompt_ids,
            sampling=sampling.params,
            max_tokens=asked.terms.tokens_out_max,
            stop=sampling.stop,
            constraint=sampling.constraint,
            ignore_eos=sampling.ignore_eos,
        )
        async with answering.open_ask(ask) as deltas:
            yield _pieces(deltas)

    return work


async def _pieces(deltas: AsyncIterator[Delta]) -> AsyncIterator[Piece]:
    async for delta in deltas:
        # A cancelled generation is no end of an answer: the buyer did not ask for it.
        finish = None if delta.finish == "cancelled" else delta.finish
        if delta.token_ids or finish is not None:
            yield Piece(delta.token_ids, finish)
