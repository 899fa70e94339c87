"""`peers`, `drain`, `pull` through the running node, and who answered: over the real API of a fake node."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fake_peers import DESKTOP, FACTS, LAPTOP, STRANGER
from tests.fakes import ELSEWHERE, FakeNode, served_in_thread
from tests.node.cli.conftest import Unhosted
from tests.node.cli.fakes import FakeNode as LocalFake
from tests.tiny import write_tiny
from unhosted.node import app, config
from unhosted.node.cli import asking
from unhosted.node.core.errors import Refused
from unhosted.node.core.peering import PeerFacts, PeerStatus


@pytest.fixture
def node(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNode]:
    fake = FakeNode()
    with served_in_thread(fake) as address:
        monkeypatch.setenv("UNHOSTED_PORT", str(address.port))
        yield fake


def tail(peer: PeerStatus) -> str:
    return f"…{peer.peer[-6:]}"


def busy(**given: object) -> PeerFacts:
    models = (replace(FACTS, slots_free=1, queued=2), replace(FACTS, name="b:1b", is_loaded=False))
    facts = PeerFacts(name="desktop", version="1", accepting=True, why_not="", models=models)
    return replace(facts, **given)  # type: ignore[arg-type]


def test_the_table_says_who_is_reachable_and_why_not(unhosted: Unhosted, node: FakeNode) -> None:
    node.statuses[0] = replace(DESKTOP, facts=busy())
    assert [re.split("  +", line) for line in unhosted("peers").out.splitlines()] == [
        ["NAME", "ID", "REACHABLE", "PATH", "ROUND TRIP", "MODELS", "LOAD", "NOTE"],
        ["desktop", tail(DESKTOP), "yes", "lan", "1.2 ms", "llama3.1:8b, b:1b", "3/4 busy, 2 waiting"],
        ["laptop", tail(LAPTOP), "no", "-", "-", "-", "-", LAPTOP.why_not],
        ["attic", tail(STRANGER), "no", "-", "-", "-", "-", STRANGER.why_not],
    ]


def test_load_is_idle_busy_or_the_reason_for_taking_nothing(unhosted: Unhosted, node: FakeNode) -> None:
    node.statuses = [
        replace(DESKTOP, facts=busy(accepting=False, why_not="quiet hours until 07:00")),
        replace(
            LAPTOP, reachable=True, facts=busy(models=tuple(replace(FACTS, name=str(n)) for n in range(5)))
        ),
        replace(STRANGER, state="paired", reachable=True, facts=busy(models=())),
    ]
    first, second, third = (re.split("  +", line) for line in unhosted("peers").out.splitlines()[1:])
    assert first[-2:] == ["takes nothing", "quiet hours until 07:00"]
    assert second[5:7] == ["0, 1, 2 +2", "5/20 busy"]
    assert third[5:7] == ["none", "idle"]


def test_what_happened_meanwhile_is_said_beside_the_table(unhosted: Unhosted, node: FakeNode) -> None:
    node.own_place |= {
        "accepting": False,
        "why_not": "quiet hours until 07:00",
        "problems": ["mDNS: port 5353 is taken"],
        "notices": ["attic ended the pairing"],
    }
    assert unhosted("peers").err.splitlines() == [
        "this machine takes nothing from others now: quiet hours until 07:00",
        "mDNS: port 5353 is taken",
        "attic ended the pairing",
    ]
    node.statuses = [replace(DESKTOP, reachable=False, why_not="connecting")]
    assert re.split("  +", unhosted("peers").out.splitlines()[1])[5:] == ["llama3.1:8b", "-", "connecting"]


def test_json_is_the_nodes_own_list(unhosted: Unhosted, node: FakeNode) -> None:
    listed = json.loads(unhosted("peers", "--json").out)
    assert [one["peer"] for one in listed] == [DESKTOP.peer, LAPTOP.peer, STRANGER.peer]
    assert set(listed[0]) == {
        "peer",
        "name",
        "state",
        "reachable",
        "why_not",
        "path",
        "addresses",
        "round_trip_s",
        "last_seen_unix_s",
        "capabilities",
        "tokens_today",
        "facts",
    }


def test_without_any_peer_the_next_command_is_named(unhosted: Unhosted, node: FakeNode) -> None:
    node.statuses = []
    result = unhosted("peers")
    assert (result.code, result.out) == (0, "") and "unhosted pair" in result.err


@pytest.mark.parametrize("args", [("peers",), ("peers", "rm", "x"), ("peers", "allow", "x"), ("drain",)])
def test_without_a_node_the_command_says_how_to_start_one(unhosted: Unhosted, args: tuple[str, ...]) -> None:
    result = unhosted(*args)
    assert result.code == 1 and "start one with `unhosted serve`" in result.err


def test_rm_ends_the_pairing(unhosted: Unhosted, node: FakeNode) -> None:
    result = unhosted("peers", "rm", "laptop")
    assert (result.code, result.err) == (0, f"laptop (…{LAPTOP.peer[-6:]}) is no longer paired\n")
    assert node.statuses == [DESKTOP, STRANGER]
    again = unhosted("peers", "rm", "laptop", "--json")
    assert again.code == 1 and "error: no machine 'laptop' is paired" in again.err
    assert json.loads(unhosted("peers", "rm", "desktop", "--json").out)["peer"] == DESKTOP.peer


def test_allow_changes_what_is_named_and_shows_the_rest(unhosted: Unhosted, node: FakeNode) -> None:
    options = [
        "--models",
        "a:1b,b3:ff",
        "--tokens-per-day",
        "5000",
        "--concurrency",
        "2",
        "--pool",
        "--no-fetch",
    ]
    result = unhosted("peers", "allow", "desktop", *options)
    assert result.code == 0, result.err
    assert node.allowed == [
        {
            "may_fetch": False,
            "may_pool": True,
            "models": ("a:1b", "b3:ff"),
            "tokens_per_day": 5000,
            "concurrency": 2,
        }
    ]
    assert result.out.splitlines() == [
        f"peer              desktop (…{DESKTOP.peer[-6:]})",
        "may ask           yes",
        "may fetch models  no",
        "may pool          yes",
        "models            a:1b, b3:ff",
        "tokens a day      5000; 1234 today",
        "at once           2 requests",
    ]
    wide = json.loads(
        unhosted("peers", "allow", "desktop", "--models", "all", "--tokens-per-day", "none", "--json").out
    )
    assert (wide["capabilities"]["models"], wide["capabilities"]["tokens_per_day"]) == (None, None)
    assert wide["capabilities"]["may_pool"] is True


def test_allow_without_options_only_shows(unhosted: Unhosted, node: FakeNode) -> None:
    assert "may pool          no\n" in unhosted("peers", "allow", DESKTOP.peer[:20]).out
    assert node.allowed == []
    unknown = unhosted("peers", "allow", "nobody")
    assert unknown.code == 2 and "'nobody' is no paired machine" in unknown.err


@pytest.mark.parametrize(
    "options", [("--tokens-per-day", "-1"), ("--tokens-per-day", "many"), ("--concurrency", "0")]
)
def test_a_wrong_capability_is_wrong_usage(
    unhosted: Unhosted, node: FakeNode, options: tuple[str, ...]
) -> None:
    assert unhosted("peers", "allow", "desktop", *options).code == 2
    assert node.allowed == []


def test_drain_is_switched_on_and_off(unhosted: Unhosted, node: FakeNode) -> None:
    assert "no new requests" in unhosted("drain").err
    assert json.loads(unhosted("drain", "--off", "--json").out) == {"draining": False}
    assert node.drained == [True, False]


def test_a_pull_goes_through_the_node_that_has_peers(unhosted: Unhosted, node: FakeNode) -> None:
    result = unhosted("pull", "m:1b", "--name", "mine")
    assert result.code == 0, result.err
    assert node.pulled == [("m:1b", "mine")]
    assert result.err.splitlines()[-1] == "mine is here: 100 B, Q4_1"
    assert json.loads(unhosted("pull", "m:1b", "--json").out)["source"] == "peers"
    node.pull_refusal = Refused("disk_full", "1 byte short")
    assert unhosted("pull", "m:1b").err.splitlines()[-1] == "error: 1 byte short"


@pytest.mark.parametrize("why", ["nobody is reachable", "the radius is local"])
def test_a_pull_that_peers_cannot_help_with_is_made_here(
    unhosted: Unhosted, node: FakeNode, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    async def pull(*args: object) -> object:
        raise Refused("download_failed", "pulled in this process")

    monkeypatch.setattr(app, "pull", pull)
    if why == "the radius is local":
        monkeypatch.setenv("UNHOSTED_RADIUS", "local")
    else:
        node.statuses = [LAPTOP, STRANGER]
    assert "pulled in this process" in unhosted("pull", "m:1b").err
    assert node.pulled == []


@pytest.mark.parametrize("is_terminal", [True, False])
def test_run_says_who_answered_on_a_terminal(
    unhosted: Unhosted, node: FakeNode, monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    monkeypatch.setattr(asking, "is_error_terminal", lambda: is_terminal)
    result = unhosted("run", f"{ELSEWHERE}@trusted", "Hi")
    assert result.out == "Hello from the fake node, naïve 🙂.\n"
    line = (
        "[answered by desktop (trusted): desktop is expected to be done in 2.1 s;"
        " then attic went on with it]\n"
    )
    assert result.err == (line if is_terminal else "")
    assert node.asked[0].options.radius == "trusted"
    if is_terminal:
        chatted = unhosted("chat", ELSEWHERE, stdin="Hi\n")
        assert chatted.err == line
        assert unhosted("run", "fake:1b", "Hi").err == ""


def test_a_node_in_this_process_reaches_others_only_when_they_may_be_needed(
    unhosted: Unhosted, home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = LocalFake()
    monkeypatch.setattr(app, "open_node", fake.open_node)
    tiny = write_tiny(tmp_path / "tiny.gguf", context=512)
    assert unhosted("pull", str(tiny), "--name", "here:1").code == 0

    def is_reached(model: str, **settings: str) -> bool:
        with pytest.MonkeyPatch.context() as environ:
            for name, value in settings.items():
                environ.setenv(name, value)
            assert unhosted("run", model, "Hi").code == 0
        return fake.with_peers

    assert not is_reached("there:1b")  # nobody was ever paired
    book = config.locate().peers_file
    book.parent.mkdir(parents=True, exist_ok=True)
    book.touch()
    assert is_reached("there:1b")
    assert is_reached("here:1@trusted")
    assert not is_reached("here:1")
    assert not is_reached("there:1b@local")
    assert not is_reached("there:1b", UNHOSTED_RADIUS="local")


def test_json_of_an_answer_has_all_of_its_provenance(unhosted: Unhosted, node: FakeNode) -> None:
    shown = json.loads(unhosted("run", ELSEWHERE, "Hi", "--json").out)["unhosted"]
    assert shown == {
        "ring": "trusted",
        "served_by": "desktop",
        "reason": "desktop is expected to be done in 2.1 s",
        "cost_micros": 0,
        "receipt": None,
        "check": "not-needed",
        "passed_over": ["laptop: no answer for 2 h"],
        "resumed_on": ["attic"],
    }
