"""The trial's second half: what was bought is read again, and a seller that begins to cheat is found out.

The cheat sells answers that were drawn with a seed of its own instead of the buyer's: as a seller would that
sells one stored answer to many. Everything else about it is honest: the model, the receipts, the prices.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import trio

from unhosted.node.app_checks import CheckDesk
from unhosted.node.app_selling import engine_work
from unhosted.node.app_verify import open_evidence, rerun
from unhosted.node.config import Config
from unhosted.node.core.asks import Answering, Ask
from unhosted.node.core.inference import Delta, Embeddings, Engines
from unhosted.node.shell.money.paid_jobs import Piece
from unhosted.node.shell.money.paid_wire import WorkAsked
from unhosted.verify.params import SEED_BYTES
from unhosted.verify.verdicts import Stage

RECEIPTS_MAX = 100
OTHER_SEED = bytes([7]) * SEED_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What reading again showed of the seller so far. log10_e_milli: the peak, thousandths of a decade."""

    answers: int = 0
    tokens: int = 0
    mismatches: int = 0
    log10_e_milli: int = 0
    stage: Stage = Stage.CLEAR


class TurningSeller:
    """Honest until `turn`; afterwards it draws with a seed of its own."""

    def __init__(self, answering: Answering) -> None:
        self._honest = engine_work(answering)
        self._cheating = engine_work(_OwnSeed(answering))
        self._is_cheating = False

    def turn(self) -> None:
        self._is_cheating = True

    def work(self, asked: WorkAsked) -> AbstractAsyncContextManager[AsyncIterator[Piece]]:
        return (self._cheating if self._is_cheating else self._honest)(asked)


class _OwnSeed:
    """Answers as another one does, whatever seed was asked for."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering

    def open_ask(self, ask: Ask) -> AbstractAsyncContextManager[AsyncIterator[Delta]]:
        return self._answering.open_ask(replace(ask, sampling=replace(ask.sampling, seed=OTHER_SEED)))

    async def count_tokens(self, ask: Ask) -> int:
        return await self._answering.count_tokens(ask)

    async def embed(self, model: str, inputs: Sequence[str | tuple[int, ...]]) -> Embeddings:
        return await self._answering.embed(model, inputs)


class TrialChecks:
    """The buyer's checks, with their files under `folder`."""

    def __init__(self, config: Config, engines: Engines, folder: Path) -> None:
        self._config = config
        paths = replace(config.paths, data_dir=folder, state_dir=folder)
        self._own = replace(config, paths=paths)
        self.kept_file = paths.kept_file
        self._desk = CheckDesk(self._own, engines)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["TrialChecks"]:
        async with self._desk.open_service() as service, trio.open_nursery() as nursery:
            await nursery.start(service.run)
            yield self
            nursery.cancel_scope.cancel()

    async def read(self) -> Found:
        """Have everything read that was bought so far."""
        await self._desk.check(wait=True)
        sellers = await self._desk.sellers()
        if not sellers:
            return Found()
        one = sellers[0]
        return Found(
            answers=int(str(one["answers_checked"])),
            tokens=int(str(one["tokens_judged"])),
            mismatches=int(str(one["mismatches"])),
            log10_e_milli=int(str(one["peak_log10_e_milli"])),
            stage=Stage[str(one["stage"]).upper()],
        )

    async def verdict(self) -> str:
        """What an outsider finds in evidence that opens all answers: its file alone is read, and the model
        run. Raises: Refused.

        The file that the conviction wrote may be too light for others: it charges for the choice of answers.
        """
        path = self._own.paths.evidence_dir / "all.cbor"
        receipts = await self._desk.receipts(limit=RECEIPTS_MAX)
        await self._desk.export([str(one["receipt"]) for one in receipts], path)
        opened = await trio.to_thread.run_sync(open_evidence, path)
        found = await rerun(self._config, opened)
        return found.judgement.verdict
