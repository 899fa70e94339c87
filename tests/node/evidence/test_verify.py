"""`unhosted verify`, from a file on the disk to the exit code, on a real engine with a tiny model."""

import json
import os
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.node.cli.conftest import Unhosted
from tests.node.evidence.conftest import PROMPTS, TOKENS, Files
from unhosted.node.cli.verify_plot import LABEL_CHARS, ROWS, WIDTH_MAX, margin_plot
from unhosted.node.core.errors import Refused
from unhosted.node.core.evidence_verdict import Judgement, hard_faults, judge, judge_appeal
from unhosted.node.core.inference import CheckedAnswer
from unhosted.node.shell.evidence.picture import draw_picture
from unhosted.verify.eprocess import EvidenceState, add_answer, peak_log10_e_milli


@pytest.mark.slow
def test_honest_answers_do_not_convict_whatever_their_file_reports(home: Path, files: Files) -> None:
    command = [sys.executable, "-m", "unhosted.node", "verify", str(files.honest), "--offline", "--json"]
    done = subprocess.run(
        [*command, "--model", str(files.model), "--expect", "clear"],
        capture_output=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["verdict"] == "clear"
    assert said["tokens"] == len(PROMPTS) * TOKENS
    assert said["log10_e"] < 2
    assert said["is_gross"] and not said["is_calibration_known"]
    assert said["chain"] == {"requests": 4, "linked": 4, "is_from_start": True}


def test_what_another_model_wrote_convicts(files: Files) -> None:
    evidence, read = files.cheap
    judgement = judge(evidence, read)
    assert judgement.verdict == "convicts"
    assert judgement.is_gross, "nobody calibrated here"
    assert judgement.left_milli == judgement.log10_e_milli - judgement.cost_milli >= 6_000
    assert judgement.cost_milli == 699, "four of four: log10 5"
    assert [tokens for tokens, _ in judgement.trail] == sorted({tokens for tokens, _ in judgement.trail})


def test_one_answer_picked_out_of_many_needs_more_than_a_million(files: Files) -> None:
    evidence, read = files.cheap
    lone = replace(evidence, answers=evidence.answers[3:])
    parts = (read[3].seen.part(0, tokens) for tokens in range(1, TOKENS))
    million = next(
        seen
        for seen in parts
        if peak_log10_e_milli(add_answer(EvidenceState(), read[3].table, seen)) >= 6_000
    )
    judgement = judge(lone, [replace(read[3], seen=million)])
    assert judgement.cost_milli == 1_302, "one of four: log10 20"
    assert judgement.verdict == "clear"
    assert judge(lone, read[3:]).verdict == "convicts"


def test_a_prompt_that_is_bought_again_counts_once(files: Files) -> None:
    evidence, read = files.cheap
    first = evidence.answers[0]
    bought = replace(evidence, answers=(first, first, first, evidence.answers[3]))
    again = judge(bought, (read[0], read[0], read[0], read[3]))
    assert again.repeats == 2
    assert again.tokens == read[0].seen.tokens + read[3].seen.tokens
    assert judge_appeal(bought, (read[0], read[0], read[0], read[3])).tokens == again.tokens
    with pytest.raises(ValueError, match="the evidence has 4"):
        judge(bought, read[:1])


def test_tokens_after_the_end_are_proof_without_statistics(files: Files) -> None:
    judgement = judge(*files.ended)
    assert judgement.verdict == "convicts"
    assert "Token 20 ends the generation, and 10 more were sent after it" in judgement.proofs[0]
    assert judgement.left_milli < 6_000


def test_tokens_after_what_only_our_library_takes_for_an_end_convict_nobody(files: Files) -> None:
    evidence, read = files.ended_elsewhere
    assert "ids_after_end" in {fault.name for fault in read[0].faults}
    judgement = judge(evidence, read)
    assert (judgement.verdict, judgement.proofs) == ("clear", ())


@pytest.mark.parametrize(
    ("margins", "result"),
    [((0,) * 60, "exact"), ((0,) * 59 + (30,), "within noise"), ((4_000,) * 60, "not explained")],
)
def test_an_appeal_is_heard_by_the_same_measure(files: Files, margins: tuple[int, ...], result: str) -> None:
    evidence, read = files.cheap
    seen = replace(read[0].seen, margin_mlogit=margins, is_match=tuple(not margin for margin in margins))
    lone = replace(evidence, answers=evidence.answers[:1])
    measured = replace(read[0].table, is_gross=False)
    assert judge_appeal(lone, [replace(read[0], seen=seen, table=measured)]).result == result


def test_an_appeal_says_nothing_of_rounding_that_nobody_measured(files: Files) -> None:
    evidence, read = files.cheap
    seen = replace(read[0].seen, margin_mlogit=(30,) * 60, is_match=(False,) * 60)
    lone = replace(evidence, answers=evidence.answers[:1])
    assert judge_appeal(lone, [replace(read[0], seen=seen)]).result == "unknown"


def test_an_end_that_is_not_opened_is_not_judged(files: Files) -> None:
    evidence, read = files.cheap
    answer = evidence.answers[0]
    assert answer.finish == "length"
    short = replace(answer.output, ids=answer.output.ids[:9], count=9)
    checked = CheckedAnswer(seen=read[0].seen.part(0, 9), text="")
    named = {
        fault.name for fault in hard_faults(replace(answer, output=short), checked, is_same_library=True)
    }
    assert named == {"length_below_limit"}
    part = replace(answer.output, ids=answer.output.ids[:9])
    assert not hard_faults(replace(answer, output=part), checked, is_same_library=True)


@pytest.mark.slow
def test_the_report_for_people_and_the_picture(unhosted: Unhosted, files: Files, tmp_path: Path) -> None:
    picture = tmp_path / "margins.png"
    done = unhosted(
        "verify", str(files.wrong_seed), "--model", str(files.model), "--explain", "--appeal",
        "--plot", str(picture), "--expect", "clear",
    )  # fmt: skip
    assert done.code == 1, "another verdict than was expected"
    for words in (
        "CONVICTS 0x",
        "What was sold.",
        "What came.",
        "Is it chance?",
        "The seller's side.",
        "What it does not show.",
        "these settings do not explain the tokens either",
        "DRAWN HERE",
        "gross differences only",
    ):
        assert words in done.out
    lines = done.out.splitlines()
    assert all(len(line) <= 80 for line in lines if "┤" in line or "│" in line)
    data = picture.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", data[16:24]) == (1_000, 600)
    assert [one.name for one in tmp_path.iterdir() if one.name.startswith(".margins")] == []


def test_another_model_file_proves_nothing(unhosted: Unhosted, files: Files) -> None:
    done = unhosted("verify", str(files.honest), "--model", str(files.another_model))
    assert done.code == 1
    assert "another file proves nothing about it" in done.err


def test_without_the_model_it_says_which_one_is_needed(unhosted: Unhosted, files: Files) -> None:
    done = unhosted("verify", str(files.honest))
    assert done.code == 1
    assert "cannot be run again without it" in done.err
    assert "--model" in done.err


def test_a_file_that_contradicts_itself_is_said_to(unhosted: Unhosted, files: Files, tmp_path: Path) -> None:
    data = bytearray(files.honest.read_bytes())
    at = data.index(b"seed") + 10
    data[at] ^= 1
    place = tmp_path / "framed.evidence"
    place.write_bytes(data)
    done = unhosted("verify", str(place), "--model", str(files.model))
    assert done.code == 1
    assert "not signed by the buyer" in done.err
    assert "proves nothing about anybody" in done.err
    said = json.loads(unhosted("verify", str(place), "--json").out)
    assert said["verdict"] == "none" and said["faults"]


def test_a_picture_without_the_library_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    nothing = Judgement(
        verdict="clear", tokens=0, mismatches=0, log10_e_milli=0, now_milli=0, cost_milli=0, proofs=(),
        is_gross=False, repeats=0, trail=(),
    )  # fmt: skip
    with pytest.raises(Refused, match=r"unhosted\[plots\]"):
        draw_picture(tmp_path / "x.png", (), nothing, title="")


@pytest.mark.parametrize("width", [1, 20, 79, 80, 200, 5_000])
@pytest.mark.parametrize("tokens", [1, 7, 64, 3_000])
def test_a_plot_keeps_to_its_width(width: int, tokens: int) -> None:
    lines = margin_plot([0] * (tokens - 1) + [5_000], top_mlogit=1_000, width=width)
    assert len(lines) == ROWS + 1
    assert max(map(len, lines)) <= max(20, min(width, WIDTH_MAX))
    assert all(line.endswith("█") for line in lines[:ROWS]), "the last token is at the top"


def test_a_plot_shows_the_smallest_margin_and_hides_none() -> None:
    lines = margin_plot([0, 1, 0, 1_000], top_mlogit=1_000, width=80)
    assert lines[ROWS - 1][LABEL_CHARS:] == " ▁ █"
    assert margin_plot([], top_mlogit=1_000, width=80) == []
