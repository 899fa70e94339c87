"""What an interrupted calibration leaves: whole lines are used again, a cut one is made anew."""

from itertools import islice
from pathlib import Path

from unhosted.node.core.engine_facts import EngineFacts
from unhosted.node.shell.calibrating.answers import Answer, asks
from unhosted.node.shell.calibrating.kept import Kept, kept_name
from unhosted.node.shell.calibrating.settings import Setting
from unhosted.verify.observations import Observations

ASKS = tuple(islice(asks(1, context_tokens=512), 12))
SEEN = Observations(
    gap_mlogit=(5, 7), margin_mlogit=(0, 9), is_match=(True, False), logprob_mnat=(-1, -2), rank=(0, 1)
)


def answer(number: int) -> Answer:
    ask = ASKS[number]
    return Answer(
        number=number,
        setting="usual",
        kind=ask.prompt.kind,
        part=ask.prompt.part,
        prompt_name=ask.prompt.name,
        prompt_ids=(1, 2),
        output_ids=(3, 4),
        sampling=ask.sampling,
        finish="stop",
    )


def test_answers_and_readings_are_there_again(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "k", ASKS)
    kept.add_answer(answer(0))
    kept.add_answer(answer(5))
    kept.add_seen(("usual", 5, "usual/honest"), SEEN)
    again = Kept(tmp_path / "k", ASKS)
    assert again.answers == {("usual", 0): answer(0), ("usual", 5): answer(5)}
    assert again.seen == {("usual", 5, "usual/honest"): SEEN}
    again.remove()
    assert not (tmp_path / "k").exists()


def test_a_line_that_a_crash_cut_short_is_dropped_and_the_next_one_stands_alone(tmp_path: Path) -> None:
    kept = Kept(tmp_path, ASKS)
    kept.add_answer(answer(0))
    kept.add_answer(answer(1))
    file = tmp_path / "answers.jsonl"
    file.write_bytes(file.read_bytes()[:-9])
    again = Kept(tmp_path, ASKS)
    assert list(again.answers) == [("usual", 0)]
    again.add_answer(answer(2))
    assert list(Kept(tmp_path, ASKS).answers) == [("usual", 0), ("usual", 2)]


def test_nobody_else_reads_what_is_kept(tmp_path: Path) -> None:
    Kept(tmp_path / "k", ASKS).add_answer(answer(0))
    assert (tmp_path / "k").stat().st_mode & 0o077 == 0
    assert (tmp_path / "k" / "answers.jsonl").stat().st_mode & 0o077 == 0


def test_another_build_or_setting_begins_anew() -> None:
    facts = EngineFacts(library="l", build="b", device="d", weights="w")
    other = EngineFacts(library="l", build="c", device="d", weights="w")
    settings = (Setting(name="usual"),)
    names = {
        kept_name(bytes(32), facts, settings, 1),
        kept_name(bytes(32), other, settings, 1),
        kept_name(bytes(32), facts, (Setting(name="usual", slots=9),), 1),
        kept_name(b"\1" * 32, facts, settings, 1),
        kept_name(bytes(32), facts, settings, 2),
    }
    assert len(names) == 5
