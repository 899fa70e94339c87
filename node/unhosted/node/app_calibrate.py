"""Calibration for the command line: what will be measured, the run, and the tables that are believed here."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from unhosted.node.config import Config
from unhosted.node.core.calibrations import Row, Sheet, encode_sheet, sheet_id
from unhosted.node.core.errors import Refused

if TYPE_CHECKING:  # the engine's side takes a while to import, and a list of tables does without
    from unhosted.node.shell.calibrating.fits import RefusedRow
    from unhosted.node.shell.calibrating.run import Progress as Progress  # also for the command line
    from unhosted.node.shell.calibrating.settings import Setting
    from unhosted.node.shell.calibrating.store import CalibrationStore, Passed
    from unhosted.node.shell.models.store import InstalledModel

TOKENS_USUAL = 8_000
"""For each class of sellers; with six of them nearly 50,000 in all."""

TOKENS_QUICK = 2_000
"""Enough to fit by, with wider bounds: weak cheats then need more tokens."""

TOKENS_MIN, TOKENS_MAX = 1_500, 1_000_000

SELLER_CLASSES_USUAL = 6
"""Caches of three kinds, unified, without flash attention, another library."""

PASSES = 2.5
"""Each token is written once and read once or twice, with its prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a calibration of the model would do. estimate_s: about, on an idle machine."""

    model: InstalledModel
    checker: Setting
    sellers: tuple[Setting, ...]
    tokens: int
    estimate_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """path: of the signed sheet; None if no pair has a usable table, and then nothing was written. id: the
    sheet's hash, hex.

    skipped: settings that this model or machine cannot be run with, and the engine's word on it.
    """

    model: str
    sheet: Sheet | None
    path: Path | None
    id: str
    rows: tuple[Row, ...]
    refused: tuple[RefusedRow, ...]
    skipped: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """sheets: those that are believed here. passed_over: files that are not, and why."""

    sheets: tuple[Sheet, ...]
    passed_over: tuple[Passed, ...]


def calibration_store(config: Config) -> CalibrationStore:
    """The tables to judge by. Blocking: it reads this node's identity, and makes none."""
    from unhosted.node.shell.calibrating.store import CalibrationStore
    from unhosted.node.shell.keys.identity import load_identity, public_key

    path = config.paths.identity_file
    keys = (public_key(load_identity(path).peer),) if path.exists() else ()
    return CalibrationStore(config.paths.calibration_dir, own_keys=keys)


def tables(config: Config) -> Tables:
    store = calibration_store(config)
    return Tables(sheets=store.sheets(), passed_over=store.passed_over())


def plan(config: Config, name: str, *, tokens: int, libraries: Sequence[Path] = ()) -> Plan:
    """libraries: other builds of llama.cpp to measure as sellers', besides those that are installed.

    Raises: Refused if the model is not here, writes no text or is too large.
    """
    from unhosted.node import app
    from unhosted.node.app_facts import engine_settings, outlook
    from unhosted.node.shell.calibrating.settings import seller_settings, setting_of
    from unhosted.node.shell.engine.library import LibraryError, other_libraries

    if not TOKENS_MIN <= tokens <= TOKENS_MAX:
        raise Refused(
            "invalid_request", f"{tokens} tokens: {TOKENS_MIN} to {TOKENS_MAX} are possible", field="tokens"
        )
    model = app.model_store(config).resolve(name)
    if not model.header.causal:
        raise Refused("not_supported", f"{model.name} embeds texts and writes none: nobody sells its tokens")
    expected = outlook(config, model)
    if not expected.fits_now:
        raise Refused(
            "model_too_large",
            f"{model.name} needs {expected.needed_bytes} bytes of memory, {expected.available_bytes} are "
            "free: calibrate it on a larger machine, or choose a smaller build",
        )
    try:
        others = [library.path for library in other_libraries()]
    except LibraryError as error:
        raise Refused("engine_failed", str(error)) from None
    checker = setting_of(engine_settings(config))
    known = {path.resolve() for path in others}
    others += [path for path in libraries if path.resolve() not in known]
    return Plan(
        model=model,
        checker=checker,
        sellers=seller_settings(others, usual=checker),
        tokens=tokens,
        estimate_s=tokens * SELLER_CLASSES_USUAL * PASSES / expected.decode_tokens_per_s,
    )


async def calibrate(
    config: Config, planned: Plan, report: Callable[[Progress], None], *, publish_dir: Path | None = None
) -> Calibrated:
    """Measure, fit, sign and write. Stopped, it goes on from where it was.

    publish_dir: write there instead, for a sheet that is to come with the program. Raises: Refused; OSError.
    """
    import trio

    from unhosted.node.shell.calibrating.prompts import PROMPTS_REVISION
    from unhosted.node.shell.calibrating.run import CalibrationRun, Wanted
    from unhosted.node.shell.calibrating.tables import sign_sheet, write_file
    from unhosted.node.shell.keys.identity import load_identity, public_key

    identity = await trio.to_thread.run_sync(load_identity, config.paths.identity_file)
    store = await trio.to_thread.run_sync(calibration_store, config)
    model = planned.model
    wanted = Wanted(
        path=model.path,
        header=model.header,
        model=bytes.fromhex(model.entry.blake3),
        checker=planned.checker,
        sellers=planned.sellers,
        tokens=planned.tokens,
    )
    run = CalibrationRun(wanted, config.paths.calibration_dir / "unfinished", report)
    found = await run.run()
    sheet, path, sheet_hash = None, None, ""
    if found.rows:
        sheet = Sheet(
            model=wanted.model,
            signer=public_key(identity.peer),
            library=found.checker.library,
            build=found.checker.build,
            device=found.checker.device,
            made_unix_s=int(time.time()),
            prompts_revision=PROMPTS_REVISION,
            rows=found.rows,
        )
        path = store.path_for(wanted.model, found.checker.build)
        if publish_dir is not None:
            path = publish_dir / path.name
        sheet_hash = sheet_id(encode_sheet(sheet)).hex()
        await trio.to_thread.run_sync(write_file, path, sign_sheet(sheet, identity))
    await trio.to_thread.run_sync(run.forget)
    return Calibrated(
        model=model.name,
        sheet=sheet,
        path=path,
        id=sheet_hash,
        rows=found.rows,
        refused=found.refused,
        skipped=found.skipped,
    )
