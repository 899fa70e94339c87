"""Evidence of a real engine: honest answers of a tiny model, and the same prompts answered otherwise."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import cast

import pytest
import trio

from tests.node.cli.conftest import home, unhosted  # noqa: F401 - fixtures
from tests.node.engine.harness import collect, request, running_host
from tests.node.evidence.stage import FACTS, SEED, Channel
from tests.tiny import IM_END_ID, write_tiny
from unhosted.node.core.calibrations import table_id
from unhosted.node.core.engine_facts import EngineFacts, Replay
from unhosted.node.core.evidence import Evidence, Report, Reported
from unhosted.node.core.evidence_verdict import ReadAnswer, gross_table
from unhosted.node.core.inference import CheckedAnswer, CheckRequest, Engines
from unhosted.node.shell.engine.host import EngineHost
from unhosted.node.shell.evidence.files import write_evidence
from unhosted.node.shell.evidence.making import make_evidence
from unhosted.node.shell.evidence.rerun import read_again
from unhosted.node.shell.evidence.tables import table_for
from unhosted.node.shell.models.files import hash_file
from unhosted.verify.params import SamplingParams

PROMPTS = ("the hen and the ant", "in the end there are then", "here and there", "an ant near the inn")
TOKENS = 60
SAMPLING = SamplingParams(temperature=1.0, seed=SEED)


CELLS_MAX = 4_096


@dataclass(frozen=True)
class Files:
    """model: the one that was sold. Each other one is evidence on the same prompts under one signed seed.

    honest: with a report that says otherwise. cheap, ended: the same engine's readings of answers of another
    model, and of one that goes on after its end; ended_elsewhere: by a seller with another library.
    """

    model: Path
    another_model: Path
    honest: Path
    wrong_seed: Path
    cheap: tuple[Evidence, tuple[ReadAnswer, ...]]
    ended: tuple[Evidence, tuple[ReadAnswer, ...]]
    ended_elsewhere: tuple[Evidence, tuple[ReadAnswer, ...]]


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("evidence")
    model = write_tiny(folder / "sold.gguf")
    another = write_tiny(folder / "another.gguf", seed=1)
    return trio.run(_files, folder, model, another)


async def _files(folder: Path, model: Path, another: Path) -> Files:
    async with running_host(another) as host:
        _, cheap = await _answers(host, SEED)
    async with running_host(model) as host:
        prompts, honest = await _answers(host, SEED)
        _, reseeded = await _answers(host, b"\x09" * 32)
        model_hash = bytes.fromhex(hash_file(model).blake3)
        padded = (*honest[0][:20], IM_END_ID, *honest[0][20:30])
        ended, elsewhere = (
            Channel(model=model_hash, facts=facts).sell(
                prompts[0], padded, params=SAMPLING, finish="cancelled"
            )
            for facts in (host.facts, FACTS)
        )
        write_evidence(folder / "honest.evidence", _slandered(_evidence(model_hash, prompts, honest)))
        write_evidence(folder / "seed.evidence", _evidence(model_hash, prompts, reseeded))
        return Files(
            model=model,
            another_model=another,
            honest=folder / "honest.evidence",
            wrong_seed=folder / "seed.evidence",
            cheap=await _read(host, _evidence(model_hash, prompts, cheap)),
            ended=await _read(host, make_evidence([ended])),
            ended_elsewhere=await _read(host, make_evidence([elsewhere])),
        )


class HostEngines:
    """What reading needs of `Engines`, over one host."""

    def __init__(self, host: EngineHost) -> None:
        self._host = host

    async def facts(self, model: str) -> EngineFacts:
        return self._host.facts

    async def check(self, model: str, requests: Sequence[CheckRequest]) -> tuple[CheckedAnswer, ...]:
        return await self._host.check(requests, CELLS_MAX)


class NoTables:
    """Nothing was ever measured."""

    def find_table(self, *asked: object, **more: object) -> None:
        return None


async def _read(host: EngineHost, evidence: Evidence) -> tuple[Evidence, tuple[ReadAnswer, ...]]:
    find_table = partial(table_for, NoTables(), evidence.answers[0].asked.model)
    engines = cast(Engines, HostEngines(host))
    return evidence, await read_again(evidence, engines, "tiny", find_table=find_table)


def _evidence(model: bytes, prompts: list[tuple[int, ...]], outputs: list[tuple[int, ...]]) -> Evidence:
    channel = Channel(model=model)
    kept = [
        channel.sell(prompt, output, params=SAMPLING) for prompt, output in zip(prompts, outputs, strict=True)
    ]
    return make_evidence(kept, chain=channel.receipts)


def _slandered(evidence: Evidence) -> Evidence:
    """With a report of a checker that invents margins, a number, and a table by which anything convicts."""
    table = gross_table(evidence.answers[0].asked.model, seller_class="a", checker_class="b", library="c")
    harsh = replace(table, is_gross=False, mean_max_ppb=(1_000,) * len(table.mean_max_ppb))
    report = Report(
        engine=FACTS,
        check="statistical",
        replay=Replay(),
        calibration=table_id(harsh),
        table=harsh,
        log10_e_milli=99_000,
        made_unix_s=1_700_000_000,
    )
    answers = tuple(
        replace(
            answer,
            reported=Reported(
                gap_mlogit=(9_000,) * len(answer.output.ids),
                margin_mlogit=(9_000,) * len(answer.output.ids),
                is_match=(False,) * len(answer.output.ids),
            ),
        )
        for answer in evidence.answers
    )
    return replace(evidence, answers=answers, report=report)


async def _answers(host: EngineHost, seed: bytes) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    prompts, outputs = [], []
    for index, text in enumerate(PROMPTS):
        prompt = tuple(await host.call("tokenize", text, False))
        sampling = SamplingParams(temperature=1.0, seed=seed)
        asked = request(f"{seed[0]}.{index}", prompt, max_tokens=TOKENS, sampling=sampling)
        prompts.append(prompt)
        outputs.append((await collect(host, asked)).token_ids)
    return prompts, outputs
