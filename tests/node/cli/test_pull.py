"""`pull`: what is reported while it runs, and how it ends."""

import io
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.node.cli.conftest import Unhosted
from unhosted.node import app
from unhosted.node.app_facts import PullProgress
from unhosted.node.cli.pull import Progress, progress_line, pull_with_progress
from unhosted.node.config import Config, load
from unhosted.node.core.errors import Refused
from unhosted.node.core.service import ModelEntry

ENTRY = ModelEntry(
    name="m:1b",
    aliases=(),
    size_bytes=2_000_000,
    blake3="00",
    architecture="llama",
    parameters=1,
    quantization="Q4_0",
    context_tokens=1,
    licence=None,
    source="m:1b",
    created_unix_s=0,
)
Report = Callable[[PullProgress], None]


class Installed:
    entry = ENTRY


def reports() -> list[PullProgress]:
    half = PullProgress(
        stage="downloading",
        name="m:1b",
        done_bytes=1_000_000,
        total_bytes=2_000_000,
        resumed_bytes=500_000,
        rate_bytes_per_s=250_000.0,
        eta_s=4.0,
    )
    return [
        PullProgress(stage="resolving", name="m:1b"),
        PullProgress(stage="downloading", name="m:1b", total_bytes=2_000_000, resumed_bytes=500_000),
        half,
        PullProgress(stage="done", name="m:1b", done_bytes=2_000_000, total_bytes=2_000_000),
    ]


def pulling(monkeypatch: pytest.MonkeyPatch, ends: BaseException | None = None) -> None:
    async def pull(config: Config, ref: str, progress: Report, name: str | None) -> Installed:
        for report in reports():
            progress(report)
        if ends is not None:
            raise ends
        return Installed()

    monkeypatch.setattr(app, "pull", pull)


def test_in_a_log_each_stage_is_a_line_and_not_each_report(
    unhosted: Unhosted, monkeypatch: pytest.MonkeyPatch
) -> None:
    pulling(monkeypatch)
    result = unhosted("pull", "m:1b")
    assert (result.code, result.out) == (0, "")
    assert result.err.splitlines() == [
        "resolving m:1b",
        "downloading m:1b, 0 B of 2.0 MB (0 %)",
        "done m:1b, 2.0 MB of 2.0 MB (100 %)",
        "m:1b is here: 2.0 MB, Q4_0",
    ]


def test_a_line_has_share_rate_and_time_left() -> None:
    line = "downloading m:1b, 1.0 MB of 2.0 MB (50 %), 250 kB/s, 4 s left"
    assert progress_line(reports()[2]) == line


def test_on_a_terminal_a_bar_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    with Progress() as progress:
        for report in reports():
            progress.show(report)
    assert "downloading m:1b" in screen.getvalue()


@pytest.mark.parametrize("kind", ["plain", "grouped"])
def test_ctrl_c_says_that_the_parts_are_kept(
    unhosted: Unhosted, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    stop = KeyboardInterrupt()
    pulling(monkeypatch, stop if kind == "plain" else BaseExceptionGroup("", [stop]))
    result = unhosted("pull", "m:1b")
    assert result.code == 130
    assert "the same command goes on from there" in result.err


@pytest.mark.parametrize("kind", ["plain", "grouped"])
def test_a_refused_pull_is_one_line(unhosted: Unhosted, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    refused = Refused("disk_full", "needs 2000000 bytes, 5 are free; unhosted rm MODEL")
    pulling(monkeypatch, refused if kind == "plain" else ExceptionGroup("", [refused]))
    result = unhosted("pull", "m:1b")
    assert result.code == 1
    assert result.err.splitlines()[-1] == "error: needs 2000000 bytes, 5 are free; unhosted rm MODEL"
    assert "goes on" not in result.err


def test_a_model_that_is_here_needs_no_network(unhosted: Unhosted, tiny_model: Path) -> None:
    assert unhosted("pull", str(tiny_model), "--name", "mine").code == 0
    # Not by the flag: its guard would stay in this process.
    offline = replace(load(), offline=True)
    assert pull_with_progress(offline, "mine").name == "mine"
    with pytest.raises(Refused, match="offline is on"):
        pull_with_progress(offline, "smollm2:135m")
