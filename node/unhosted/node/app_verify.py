"""Evidence for the command line: checked against itself, then run again on this machine, offline."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from unhosted.market.ids import address_text
from unhosted.node.config import Config
from unhosted.node.core.calibrations import table_id
from unhosted.node.core.errors import Refused
from unhosted.node.core.evidence import Evidence
from unhosted.node.core.evidence_checks import Chain, chain_of
from unhosted.node.core.evidence_verdict import Appeal, Judgement, ReadAnswer, judge, judge_appeal
from unhosted.node.core.evidence_wire import evidence_hash
from unhosted.node.core.service import ModelEntry
from unhosted.node.shell.evidence.files import read_evidence
from unhosted.node.shell.evidence.signatures import faults_of
from unhosted.node.shell.evidence.tables import table_for

if TYPE_CHECKING:  # the engine's side takes a while to import, and a faulty file never gets that far
    from unhosted.node.shell.engine.manager import EngineManager
    from unhosted.node.shell.evidence.rerun import Progress, WorstToken
    from unhosted.node.shell.models.store import InstalledModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A file that was read. faults: what does not agree in it; a file with any proves nothing.

    accused: address of the key that signed the answers. chain: None where there are faults.
    """

    path: Path
    size_bytes: int
    hash: str
    evidence: Evidence
    faults: tuple[str, ...]
    accused: str
    seller: str
    buyer: str
    model: str
    chain: Chain | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rerun:
    """What this machine found. model: its name here. library: of this machine's engine.

    is_calibration_known: whether the table that the maker of the file reports is one of this machine's.
    """

    model: str
    library: str
    device: str
    read: tuple[ReadAnswer, ...]
    judgement: Judgement
    worst: tuple[WorstToken, ...]
    appeal: Appeal | None
    is_calibration_known: bool


def open_evidence(path: Path) -> Opened:
    """Read a file and check it against itself, signatures included; no model runs yet. Raises: Refused."""
    evidence, data = read_evidence(path)
    faults = tuple(map(str, faults_of(evidence)))
    request = None if faults else evidence.answers[0].asked
    return Opened(
        path=path,
        size_bytes=len(data),
        hash=evidence_hash(data).hex(),
        evidence=evidence,
        faults=faults,
        accused=address_text(evidence.accused),
        seller="" if request is None else request.seller,
        buyer="" if request is None else request.buyer,
        model="" if request is None else request.model.hex(),
        chain=None if faults else chain_of(evidence),
    )


async def rerun(
    config: Config,
    opened: Opened,
    *,
    model: str | None = None,
    with_appeal: bool = False,
    worst_count: int = 0,
    picture: Path | None = None,
    progress: Progress = lambda done, total: None,
) -> Rerun:
    """Run the tokens again. model: a file or a name, where the store should not be asked for the hash.

    worst_count: how many tokens to look at closely. picture: where to draw a PNG. Raises: Refused, also for a
    file with faults, and where the model is not here or is another one. OSError.
    """
    from unhosted.node.app_calibrate import calibration_store
    from unhosted.node.shell.evidence import rerun as engine_side
    from unhosted.node.shell.evidence.picture import draw_picture

    if opened.faults:
        raise Refused("invalid_request", f"{opened.path} contradicts itself: {opened.faults[0]}")
    installed = await trio.to_thread.run_sync(_find_model, config, opened.model, model)
    tables = await trio.to_thread.run_sync(calibration_store, config)
    evidence = opened.evidence
    find_table = partial(table_for, tables, bytes.fromhex(opened.model))
    async with _engines(config, installed) as engines:
        name = installed.name
        own = await engines.facts(name)
        read = await engine_side.read_again(evidence, engines, name, find_table=find_table, progress=progress)
        judgement = await trio.to_thread.run_sync(judge, evidence, read)
        appeal = None
        if with_appeal:
            again = await engine_side.read_again(
                evidence, engines, name, find_table=find_table, is_appeal=True, progress=progress
            )
            appeal = await trio.to_thread.run_sync(judge_appeal, evidence, again)
        worst = await engine_side.look_closely(evidence, read, engines, name, count=worst_count)
    if picture is not None:
        title = f"{opened.path.name}: {judgement.verdict}, log10 E {judgement.log10_e_milli / 1_000:.1f}"
        draw = partial(draw_picture, picture, read, judgement, title=title)
        await trio.to_thread.run_sync(draw)
    report = evidence.report
    return Rerun(
        model=name,
        library=own.library,
        device=own.device,
        read=read,
        judgement=judgement,
        worst=worst,
        appeal=appeal,
        is_calibration_known=report is not None and tables.knows(table_id(report.table)),
    )


@asynccontextmanager
async def _engines(config: Config, installed: InstalledModel) -> AsyncIterator[EngineManager]:
    from unhosted.node.app_facts import engine_settings
    from unhosted.node.shell.engine.manager import EngineManager
    from unhosted.node.shell.nurseries import plain_nursery

    engines = EngineManager(engine_settings(config), lambda name: installed)
    async with plain_nursery() as nursery:
        await nursery.start(engines.run)
        yield engines
        nursery.cancel_scope.cancel()


def _find_model(config: Config, wanted: str, given: str | None) -> InstalledModel:
    """The model with this BLAKE3 (hex). Blocking: a file that is given is hashed."""
    from unhosted.node import app

    if given is not None and Path(given).is_file():
        installed = _from_file(Path(given))
    else:
        try:
            installed = app.model_store(config).resolve(given or f"b3:{wanted}")
        except Refused as refused:
            raise Refused(
                "model_not_found",
                f"the evidence is of the model b3:{wanted}, and it cannot be run again without it"
                f" ({refused.message}); get it, or name its file with --model",
            ) from None
    if installed.entry.blake3 != wanted:
        raise Refused(
            "digest_mismatch",
            f"the evidence is of the model b3:{wanted}, and {given} is b3:{installed.entry.blake3}: another"
            " file proves nothing about it",
        )
    return installed


def _from_file(path: Path) -> InstalledModel:
    from unhosted.node.shell.models.files import hash_file
    from unhosted.node.shell.models.gguf import GgufError, read_header
    from unhosted.node.shell.models.store import InstalledModel

    try:
        header = read_header(path)
    except GgufError as error:
        raise Refused("invalid_request", f"{path} is no model that can be read: {error}") from None
    entry = ModelEntry(
        name=path.name,
        aliases=(),
        size_bytes=path.stat().st_size,
        blake3=hash_file(path).blake3,
        architecture=header.architecture,
        parameters=None,
        quantization="",
        context_tokens=0,
        licence=None,
        source=str(path),
        created_unix_s=0,
    )
    return InstalledModel(name=path.name, path=path, entry=entry, header=header)
