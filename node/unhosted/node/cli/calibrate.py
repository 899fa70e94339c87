"""`unhosted calibrate`: measures what honest engines differ by on a model, for the checks of sellers."""

import sys
import time
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import click

from unhosted.node.cli.common import json_option, load_config, model_argument, offline_option
from unhosted.node.cli.output import (
    Column,
    human_duration,
    is_error_terminal,
    note,
    printable,
    write_json,
    write_table,
)
from unhosted.node.core.calibrations import Row, Sheet, table_id

if TYPE_CHECKING:
    from unhosted.node.app_calibrate import Calibrated, Progress, Tables

LOG_EVERY_NS = 10_000_000_000
"""A log that is read later needs no bar; every ten seconds shows that it moves."""

COLUMNS: list[Column] = [
    ("SELLER'S SETTINGS", "left"),
    ("RULE", "left"),
    ("TOKENS", "right"),
    ("DIFFER", "right"),
    ("MEAN X", "right"),
    ("GROWTH", "right"),
    ("TO A MILLION", "left"),
    ("USABLE", "left"),
]


@click.command()
@model_argument(required=False)
@click.option("--quick", is_flag=True, help="Measure a quarter of the tokens; weak cheats then take longer.")
@click.option("--tokens", type=int, help="Measure so many for each kind of seller's engine.")
@click.option(
    "--library",
    "libraries",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    help="Another build of llama.cpp that sellers may use; those that are installed are measured anyway.",
)
@click.option(
    "--publish",
    "publish_dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write the sheet to this folder, to come with the program, and not among this node's own.",
)
@click.option(
    "--list", "wants_list", is_flag=True, help="Show the tables that are here, and measure nothing."
)
@json_option
@offline_option
def calibrate(
    model: str | None,
    quick: bool,
    tokens: int | None,
    libraries: tuple[Path, ...],
    publish_dir: Path | None,
    wants_list: bool,
    as_json: bool,
    offline: bool | None,
) -> int:
    """Measure how far honest engines differ on MODEL, so that sellers of it can be checked on this machine.

    Answers are made under every setting that this machine's engines have, and read again as a check would.
    The result is a signed table for each kind of seller's engine. Without one, only gross cheats are seen.
    An interrupted calibration goes on where it was.
    """
    from unhosted.node import app_calibrate

    config = load_config(offline=offline)
    if wants_list:
        _show_tables(app_calibrate.tables(config), as_json)
        return 0
    if model is None:
        raise click.UsageError("MODEL is missing: see `unhosted list`, or `unhosted calibrate --list`")
    if quick and tokens is not None:
        raise click.UsageError("--quick and --tokens exclude each other")
    usual = app_calibrate.TOKENS_QUICK if quick else app_calibrate.TOKENS_USUAL
    planned = app_calibrate.plan(config, model, tokens=tokens or usual, libraries=libraries)
    note(
        f"{printable(planned.model.name)}: {len(planned.sellers)} settings, {planned.tokens} tokens for each "
        f"kind; about {human_duration(planned.estimate_s)} on an idle machine"
    )
    import trio

    with _Bar() as bar:
        try:
            run = partial(app_calibrate.calibrate, config, planned, bar.show, publish_dir=publish_dir)
            done = trio.run(run)
        except* KeyboardInterrupt:
            note("\nstopped; what was measured is kept, the same command goes on from there")
            raise
    if as_json:
        write_json(_calibrated_json(done))
    else:
        _show(done)
    return 0 if done.path else 1


def _show(done: "Calibrated") -> None:
    write_table(
        COLUMNS,
        [
            *(_cells(row) for row in done.rows),
            *(
                [", ".join(one.settings), one.rule, str(one.tokens), "", "", "", "", "no"]
                for one in done.refused
            ),
        ],
    )
    for one in done.refused:
        note(f"no table for {', '.join(one.settings)} ({one.rule}): {one.why}")
    for name, why in done.skipped:
        note(f"left out {name}: {printable(why)}")
    for row in done.rows:
        blind = [control.name for control in row.controls if control.needed is None]
        if blind:
            note(f"{', '.join(row.settings)} ({row.table.rule}): it did not catch {', '.join(blind)}")
    if done.path is None:
        note("no table is usable, so none was written: only gross cheats can be seen")
    else:
        note(f"written to {done.path}, its hash is {done.id}")


def _cells(row: Row) -> list[str]:
    table = row.table
    controls = (f"{one.name} {one.needed or f'not in {one.tokens}'}" for one in row.controls)
    return [
        ", ".join(row.settings),
        table.rule,
        str(row.tokens),
        f"{100 * row.mismatches / max(1, row.tokens):.2f} %",
        f"{row.mean_x_ppb / 1e9:.5f}",
        f"{table.held_out_growth_nnat / 1e9:.5f}",
        "; ".join(controls),
        "yes",
    ]


def _show_tables(found: "Tables", as_json: bool) -> None:
    if as_json:
        passed = [{"file": str(one.path), "why": one.why} for one in found.passed_over]
        write_json({"sheets": [_sheet_json(sheet) for sheet in found.sheets], "passed_over": passed})
        return
    columns: list[Column] = [("MODEL", "left"), ("LIBRARY", "left"), ("MADE", "left"), ("PAIRS", "right")]
    write_table(
        columns,
        [
            (
                f"b3:{sheet.model.hex()[:12]}",
                sheet.library,
                time.strftime("%Y-%m-%d", time.gmtime(sheet.made_unix_s)),
                str(len(sheet.rows)),
            )
            for sheet in found.sheets
        ],
    )
    for one in found.passed_over:
        note(f"not used: {one.path}: {one.why}")


def _calibrated_json(done: "Calibrated") -> dict[str, Any]:
    return {
        "model": done.model,
        "path": str(done.path) if done.path else None,
        "id": done.id or None,
        "sheet": _sheet_json(done.sheet) if done.sheet else None,
        "refused": [
            {"settings": one.settings, "rule": one.rule, "tokens": one.tokens, "why": one.why}
            for one in done.refused
        ],
        "skipped": [{"setting": name, "why": why} for name, why in done.skipped],
    }


def _sheet_json(sheet: Sheet) -> dict[str, Any]:
    return {
        "model": sheet.model.hex(),
        "library": sheet.library,
        "build": sheet.build,
        "device": sheet.device,
        "made_unix_s": sheet.made_unix_s,
        "signer": sheet.signer.hex(),
        "rows": [
            {
                "table": table_id(row.table).hex(),
                "rule": row.table.rule,
                "seller_class": row.table.seller_class,
                "checker_class": row.table.checker_class,
                "settings": row.settings,
                "tokens": row.tokens,
                "mismatches": row.mismatches,
                "mean_x": row.mean_x_ppb / 1e9,
                "clip_mlogit": row.table.clip_mlogit,
                "held_out_growth_nnat": row.table.held_out_growth_nnat,
                "controls": [
                    {"cheat": one.name, "tokens": one.tokens, "tokens_to_a_million": one.needed}
                    for one in row.controls
                ],
            }
            for row in sheet.rows
        ],
    }


class _Bar:
    """Shows a calibration's progress on stderr: a bar on a terminal, lines in a log."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None
        self._stage = ""
        self._said_at_ns = 0

    def __enter__(self) -> Self:
        if is_error_terminal():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TextColumn("{task.completed:.0f} of about {task.total:.0f} tokens", markup=False),
                TimeRemainingColumn(),
                console=Console(file=sys.stderr, markup=False),
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task("", total=1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, progress: "Progress") -> None:
        if self._bar is not None:
            total = progress.total_tokens or 1
            self._bar.update(
                self._task, description=progress.stage, completed=progress.done_tokens, total=total
            )
        elif progress.stage != self._stage or time.monotonic_ns() - self._said_at_ns >= LOG_EVERY_NS:
            self._said_at_ns = time.monotonic_ns()
            of = f" of about {progress.total_tokens}" if progress.total_tokens else ""
            note(f"{progress.stage}: {progress.done_tokens}{of} tokens")
        self._stage = progress.stage
