"""`pair`, over a running node's real API and over a node in this process; the node itself is a fake."""

import json
from collections.abc import Iterator
from contextlib import asynccontextmanager

import pytest

from tests.fake_peers import ADDRESS_CODE, CODE, LAST_WORD, OTHER
from tests.fakes import FakeNode, served_in_thread
from tests.node.cli.conftest import Unhosted
from unhosted.node import app
from unhosted.node.cli import pair
from unhosted.node.config import Config

JOINED = {"state": "confirm", "other_peer": OTHER, "other_name": "attic"}
TAIL = OTHER[-6:]


@pytest.fixture(params=["running node", "node in this process"])
def node(request: pytest.FixtureRequest, home: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNode]:
    """A node whose pairings do as the test's script says, reached in both ways."""
    monkeypatch.setattr(pair, "LOOK_EVERY_S", 0.001)
    fake = FakeNode()
    if request.param == "running node":
        with served_in_thread(fake) as address:
            monkeypatch.setenv("UNHOSTED_PORT", str(address.port))
            yield fake
        return

    @asynccontextmanager
    async def open_node(config: Config, **options: object):  # type: ignore[no-untyped-def]
        yield fake

    monkeypatch.setattr(app, "open_node", open_node)
    yield fake


@pytest.fixture
def keyboard(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A person who says yes once, and no to whatever is asked after that; gives the questions."""
    asked: list[str] = []

    def confirm(question: str, **options: object) -> bool:
        asked.append(question)
        return len(asked) == 1

    monkeypatch.setattr("unhosted.node.cli.pair.click.confirm", confirm)
    monkeypatch.setattr(pair, "can_ask", lambda: True)
    return asked


def test_a_code_is_shown_and_whoever_uses_it_is_paired_after_the_question(
    unhosted: Unhosted, node: FakeNode, keyboard: list[str]
) -> None:
    node.script = [{}, {"tries_left": 2}, JOINED]
    result = unhosted("pair")
    assert result.code == 0, result.err
    assert f"unhosted pair {CODE}\n" in result.out
    assert f"unhosted pair {ADDRESS_CODE}\n" in result.out
    assert "▄" not in result.out
    assert keyboard == [f"Pair with attic (…{TAIL})?"]
    assert result.out.endswith(f"Paired with attic (…{TAIL}).\n")
    assert "waiting for the other machine, at most 10 min 00 s\n" in result.err
    assert "a wrong code was tried; 2 tries are left" in result.err
    assert node.answers == [True]


def test_a_code_of_the_other_machine_needs_the_same_yes(
    unhosted: Unhosted, node: FakeNode, keyboard: list[str]
) -> None:
    result = unhosted("pair", CODE)
    assert result.code == 0 and keyboard == [f"Pair with attic (…{TAIL})?"]
    assert result.out == f"Paired with attic (…{TAIL}).\n"


def test_no_means_not_paired_and_failed(unhosted: Unhosted, node: FakeNode, keyboard: list[str]) -> None:
    node.script = [JOINED]
    keyboard.append("another question, so that the answer is no")
    result = unhosted("pair")
    assert result.code == 1 and "error: not paired: declined here" in result.err
    assert node.answers == [False]


def test_the_other_side_may_take_its_time_to_say_yes(
    unhosted: Unhosted, node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def confirmed(pairing_id: str, *, accept: bool) -> object:
        node.advance(pairing_id, state="confirmed")
        node.script = [{}, {"state": "paired", "reason": LAST_WORD}]
        return node.pairings[pairing_id]

    monkeypatch.setattr(node, "confirm_pairing", confirmed)
    result = unhosted("pair", CODE, "--yes")
    assert result.code == 0 and "waiting for attic to say yes" in result.err


def test_json_tells_each_step_as_a_line(unhosted: Unhosted, node: FakeNode) -> None:
    node.script = [{}, JOINED]
    result = unhosted("pair", "--yes", "--json")
    lines = [json.loads(line) for line in result.out.splitlines()]
    assert [line["state"] for line in lines] == ["waiting", "confirm", "paired"]
    assert list(lines[0]) == [
        "pairing_id",
        "state",
        "code",
        "address_code",
        "expires_in_s",
        "tries_left",
        "other_peer",
        "other_name",
        "reason",
    ]
    assert (lines[0]["code"], lines[1]["other_name"]) == (CODE, "attic")


def test_a_pairing_that_fails_says_why(unhosted: Unhosted, node: FakeNode) -> None:
    node.script = [{"state": "failed", "reason": "the code was not used within ten minutes"}]
    result = unhosted("pair", "--yes")
    assert result.code == 1
    assert "error: not paired: the code was not used within ten minutes\n" in result.err


def test_a_code_with_a_typing_error_is_refused(unhosted: Unhosted, node: FakeNode) -> None:
    result = unhosted("pair", "K7P-4QX-9TM3", "--yes")
    assert result.code == 1 and "is no code" in result.err and node.pairings == {}


def test_ctrl_c_cancels_the_pairing(
    unhosted: Unhosted, node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("unhosted.node.cli.pair.time.sleep", interrupt)
    result = unhosted("pair", "--yes")
    assert (result.code, node.pairings) == (130, {})


def test_without_a_person_or_a_yes_nothing_begins(unhosted: Unhosted, node: FakeNode) -> None:
    result = unhosted("pair")
    assert result.code == 2 and "--yes pairs with whoever knows the code" in result.err
    assert node.pairings == {}


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("UNHOSTED_OFFLINE", "1", "the node is offline"),
        ("UNHOSTED_PEERS_ENABLED", "0", "unhosted config set peers.enabled true"),
        ("UNHOSTED_RADIUS", "local", "unhosted config set radius trusted"),
    ],
)
def test_pairing_that_is_switched_off_names_the_switch(
    unhosted: Unhosted, monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setattr("unhosted.node.app_offline.install", lambda on: None)
    monkeypatch.setenv(name, value)
    result = unhosted("pair", "--yes")
    assert result.code == 1 and said in result.err


def test_the_picture_is_a_qr_code_of_the_address_code(unhosted: Unhosted, node: FakeNode) -> None:
    import segno

    node.script = [JOINED]
    result = unhosted("pair", "--yes", "--qr")
    matrix = segno.make(ADDRESS_CODE, error="l", micro=False).matrix
    drawn = [line for line in result.out.splitlines() if line and not set(line) - set(" ▀▄█")]
    # Half blocks are drawn where the code is light: two rows of it in a line, two columns and rows around.
    assert len(drawn) == (len(matrix) + 4 + 1) // 2
    upper = [character in " ▄" for character in drawn[1][2 : 2 + len(matrix)]]
    assert upper == [bool(module) for module in matrix[0]]


def test_in_colour_the_picture_is_black_on_white_in_every_terminal() -> None:
    lines = pair.qr_lines("x", in_colour=True).splitlines()
    assert all(line.startswith("\x1b[40;97m") and line.endswith("\x1b[0m") for line in lines)


def test_a_name_cannot_steer_the_terminal(unhosted: Unhosted, node: FakeNode) -> None:
    node.script = [JOINED | {"other_name": "good\x1b[2Kevil"}]
    result = unhosted("pair", "--yes")
    assert "\x1b" not in result.out and f"Paired with good�[2Kevil (…{TAIL})" in result.out
