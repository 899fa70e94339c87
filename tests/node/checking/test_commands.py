"""`unhosted receipts` and `unhosted check` over real books and a real engine, with a tiny random model."""

import json
from pathlib import Path

import pytest

from tests.node.checking.kept_world import CHEAT, SELLER, answer_of
from tests.node.checking.sold import keep, sell
from tests.node.cli.conftest import Unhosted
from unhosted.node import config
from unhosted.node.shell.evidence.files import read_evidence


@pytest.mark.slow
def test_an_honest_seller_stays_clear_and_one_of_another_seed_is_convicted(
    unhosted: Unhosted, model: str
) -> None:
    sell(model, ["auto", "auto", "never"], cheats=4)
    before = json.loads(unhosted("receipts", "--seller", SELLER[-8:], "--json").out)
    assert [one["check"]["status"] for one in before] == ["waiting"] * 3
    checked = unhosted("check", "--offline", "--json")
    assert checked.code == 0, checked.err
    cheat, honest = json.loads(checked.out)["sellers"]
    assert (honest["seller"], honest["stage"], honest["answers_checked"]) == (SELLER, "clear", 3)
    assert honest["tokens_checked"] == sum(one["tokens_out"] for one in before)
    assert honest["log10_e_milli"] < 1_000
    assert honest["next"] == f"unhosted calibrate {model}"
    after = json.loads(unhosted("receipts", "--seller", SELLER[-8:], "--json").out)
    assert [one["check"]["status"] for one in after] == ["checked"] * 3
    assert [one["check"]["how"] for one in after] == ["asked", "probation", "probation"]
    assert after[0]["model_name"] == model
    assert "you asked for it afterwards" in unhosted("receipts", after[0]["receipt"][:8]).out

    assert (cheat["seller"], cheat["stage"]) == (CHEAT, "convict")
    assert cheat["holds_pay"] and cheat["is_avoided"]
    assert cheat["mismatches"] > 0.5 * cheat["tokens_checked"]
    (path,) = cheat["evidence"]
    assert cheat["next"] == f"unhosted verify {path}"
    evidence, _ = read_evidence(Path(path))
    assert {one.asked.seller for one in evidence.answers} == {CHEAT}
    shown = unhosted("check", CHEAT[-8:], "--show")
    assert "convicted" in shown.out
    assert "evidence that others can run again was made" in shown.out

    again = unhosted("check", SELLER[-8:], "--offline", "--json")
    assert again.code == 0, again.err
    assert json.loads(again.out) == {"asked": 0, "sellers": [honest]}, "nothing is counted twice"
    forgiven = unhosted("check", CHEAT[-8:], "--forgive", "--offline")
    assert forgiven.code == 0, forgiven.err
    (anew,) = json.loads(unhosted("check", CHEAT[-8:], "--show", "--json").out)["sellers"]
    assert (anew["stage"], anew["tokens_checked"]) == ("clear", 0)


def test_a_model_that_is_not_here_is_said_and_nobody_is_blamed(unhosted: Unhosted, home: Path) -> None:
    keep(config.load({}).paths.kept_file, [answer_of(0)])
    found = json.loads(unhosted("check", "--offline", "--json").out)
    (seller,) = found["sellers"]
    assert (seller["stage"], seller["answers_checked"]) == ("clear", 0)
    (line,) = json.loads(unhosted("receipts", "--json").out)
    assert line["check"]["status"] == "not_checked"
    assert "unhosted pull" in line["check"]["why"] or "not" in line["check"]["why"]


def test_evidence_of_chosen_receipts_opens_no_more_than_was_said(
    unhosted: Unhosted, home: Path, tmp_path: Path
) -> None:
    answers = [answer_of(number, output_ids=tuple(range(300))) for number in range(3)]
    keep(config.load({}).paths.kept_file, answers)
    hashes = [answer.receipt_hash.hex() for answer in answers if answer.receipt_hash is not None]
    path = tmp_path / "one.cbor"
    made = unhosted("receipts", hashes[0], hashes[2][:10], "--evidence", str(path), "--prefix", "64")
    assert made.code == 0, made.err
    assert "give it only to whom may read them" in made.err
    evidence, _ = read_evidence(path)
    assert [one.asked.channel_sequence for one in evidence.answers] == [1, 3]
    assert all(64 <= len(one.output.ids) < 300 for one in evidence.answers)
    assert len(evidence.others) == 1
    assert path.stat().st_mode & 0o077 == 0
    shown = unhosted("receipts", hashes[0][:8], hashes[1][:8])
    assert shown.out.count("waits for a check") == 2
    assert "--evidence needs receipts" in unhosted("receipts", "--evidence", str(path)).err


def test_with_nothing_bought_there_is_nothing_to_show_and_no_file(unhosted: Unhosted, home: Path) -> None:
    assert unhosted("receipts", "--json").out == "[]\n"
    assert json.loads(unhosted("check", "--offline", "--json").out) == {"asked": 0, "sellers": []}
    assert "nothing was bought yet" in unhosted("receipts").err
    assert not config.load({}).paths.kept_file.exists()
    assert not config.load({}).paths.checks_file.exists()


def test_texts_that_name_nothing_are_refused_with_where_to_look(unhosted: Unhosted, home: Path) -> None:
    keep(config.load({}).paths.kept_file, [answer_of(0), answer_of(1)])
    for arguments, words in (
        (("receipts", "zz"), "6 hex digits"),
        (("receipts", "abcdef"), "begins none"),
        (("receipts", "--seller", "12D3KooWnobody"), "no seller that anything was bought of"),
        (("check", "--forgive"), "--forgive needs a SELLER"),
    ):
        result = unhosted(*arguments)
        assert result.code != 0
        assert words in result.err
    listed = unhosted("receipts", "--seller", SELLER[-8:])
    assert listed.out.count("waits for a check") == 2
    assert SELLER[-8:] in listed.out
