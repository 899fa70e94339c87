"""A whole calibration on a tiny model's real engines: stopped, gone on with, and from the command line."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from tests.node.cli.conftest import Unhosted, home, unhosted  # noqa: F401 - fixtures
from tests.tiny import write_tiny
from unhosted.node.core.engine_facts import engine_class
from unhosted.node.shell.calibrating import settings
from unhosted.node.shell.calibrating.run import CalibrationRun, Outcome, Progress, Wanted
from unhosted.node.shell.calibrating.settings import Setting
from unhosted.node.shell.models.gguf import read_header

pytestmark = pytest.mark.slow

USUAL = Setting(name="usual", threads=1, gpu_layers=0)
TIMEOUT_S = 120
TOKENS = 1_500


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("models") / "tiny.gguf", context=512)


def wanted(tiny: Path, *sellers: Setting) -> Wanted:
    return Wanted(
        path=tiny,
        header=read_header(tiny),
        model=bytes(32),
        checker=USUAL,
        sellers=sellers,
        tokens=TOKENS,
    )


def test_a_run_that_was_stopped_goes_on_and_asks_nothing_twice(tiny: Path, tmp_path: Path) -> None:
    broken = replace(USUAL, name="no such cache", kv_type="q8_0")  # its rows are too short for the blocks
    order = wanted(tiny, USUAL, broken)
    stages: list[str] = []

    async def run(*, stop_at: str | None) -> Outcome | None:
        with trio.fail_after(TIMEOUT_S), trio.CancelScope() as scope:

            def report(progress: Progress) -> None:
                stages.append(progress.stage)
                if progress.stage == stop_at and progress.done_tokens > TOKENS:
                    scope.cancel()

            one = CalibrationRun(order, tmp_path, report)
            outcome = await one.run()
            one.forget()
            return outcome
        return None

    assert trio.run(lambda: run(stop_at="reading again: usual")) is None
    (folder,) = tmp_path.iterdir()
    made = (folder / "answers.jsonl").read_bytes()
    assert made.count(b"\n") > 12
    stages.clear()
    outcome = trio.run(lambda: run(stop_at=None))
    assert outcome is not None and not outcome.refused, outcome
    assert [name for name, _ in outcome.skipped] == ["no such cache", "cache q4_0"]
    (row,) = outcome.rows
    assert row.table.checker_class == row.table.seller_class == engine_class(outcome.checker)
    assert row.tokens >= TOKENS and row.settings == ("usual",)
    assert row.table.held_out_growth_nnat < 0
    seeds = next(control for control in row.controls if control.name == "other seed")
    assert seeds.needed is not None and seeds.needed < 200
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_a_table_that_is_found_again_offline(
    unhosted: Unhosted,  # noqa: F811
    tiny: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(settings, "seller_settings", lambda libraries, *, usual: (usual,))
    name = json.loads(unhosted("pull", str(tiny), "--json").out)["name"]
    done = unhosted("calibrate", name, "--tokens", str(TOKENS), "--offline", "--json")
    assert done.code == 0, done.err
    assert "about" in done.err.splitlines()[0] and "reading again: usual" in done.err
    told = json.loads(done.out)
    assert [row["settings"] for row in told["sheet"]["rows"]] == [["usual"]]
    assert Path(told["path"]).is_file() and told["refused"] == []
    listed = json.loads(unhosted("calibrate", "--list", "--offline", "--json").out)
    assert told["sheet"] in listed["sheets"] and listed["passed_over"] == []
    Path(told["path"]).write_bytes(b"rubbish")
    spoiled = unhosted("calibrate", "--list")
    assert spoiled.code == 0 and "not used" in spoiled.err


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("calibrate",), 2, "MODEL is missing"),
        (("calibrate", "m", "--quick", "--tokens", "2000"), 2, "exclude each other"),
        (("calibrate", "m", "--tokens", "7"), 1, "1500 to 1000000 are possible"),
        (("calibrate", "nothing-here"), 1, "nothing-here"),
    ],
)
def test_wrong_words_are_refused_before_anything_is_measured(
    unhosted: Unhosted,  # noqa: F811
    args: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    result = unhosted(*args)
    assert result.code == code and said in result.err
