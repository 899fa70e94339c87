"""Three machines in a network of their own: they find each other, are paired, and answer for each other."""

import contextlib
import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest

from tests.netns.lab import Lab
from tests.netns.node import PORT
from tests.netns.ring import Ring, long_answer, slow_model, wait
from tests.tiny import write_tiny

pytestmark = pytest.mark.slow

DAY_FORMAT = "%H:%M"
ONLY_DESKTOP = {"provider": {"allow": ["desktop"]}}


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ring]:
    """A laptop without models, and a desktop and a server with one that is slow.

    Both are paired with the laptop, and not with one another.
    """
    folder = tmp_path_factory.mktemp("trusted")
    slow, quick = slow_model(folder / "slow.gguf"), write_tiny(folder / "quick.gguf", seed=1)
    with Lab() as lab:
        made = Ring(lab, folder)
        made.add("laptop")
        made.add("desktop", models={"slow": slow, "quick": quick})
        made.add("server", models={"slow": slow})
        made.start("laptop", "desktop", "server")
        for name in ("desktop", "server"):
            made.wait_seen("laptop", name)
            assert made.line("laptop", name)["state"] == "seen"
            made.pair(name, "laptop")
        made.wait_known("laptop", "desktop", "server")
        yield made


def test_a_paired_machine_is_shown_with_its_models_path_and_round_trip(ring: Ring) -> None:
    shown = ring.nodes["laptop"].cli("peers")
    desktop = next(one for one in shown if one["name"] == "desktop")
    assert desktop["state"] == "paired"
    assert desktop["path"] == "lan"
    assert {one["name"] for one in desktop["facts"]["models"]} == {"slow", "quick"}
    assert 0 < wait("a round trip", lambda: ring.line("laptop", "desktop")["round_trip_s"]) < 5
    [other] = [one for one in ring.nodes["server"].cli("peers") if one["name"] == "desktop"]
    assert other["state"] == "seen", "two machines are not paired because both are with a third one"


def test_a_model_that_is_only_there_is_answered_from_there_and_the_answer_says_so(ring: Ring) -> None:
    body = {"model": "quick", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8}
    answer = ring.nodes["laptop"].open("POST", "/v1/chat/completions", body)
    said = json.loads(answer.read())
    assert answer.status == 200, said
    assert (answer.headers["x-unhosted-ring"], answer.headers["x-unhosted-served-by"]) == (
        "trusted",
        "desktop",
    )
    assert answer.headers["x-unhosted-cost-micros"] == "0"
    told = said["unhosted"]
    assert (told["ring"], told["served_by"], told["resumed_on"]) == ("trusted", "desktop", [])
    assert any(line.startswith("laptop: does not have quick") for line in told["passed_over"]), told
    assert any(line.startswith("server: does not have quick") for line in told["passed_over"]), told
    assert said["usage"]["completion_tokens"] > 0


def test_the_openai_client_streams_from_the_other_machine(ring: Ring) -> None:
    laptop = ring.nodes["laptop"]
    talk = laptop.host.python(OPENAI_CLIENT, f"http://127.0.0.1:{PORT}/v1")
    said = talk.hear()
    assert said["models"] == ["quick", "slow"]
    assert said["text"] and said["finish"] in ("stop", "length")
    assert said["served_by"] == "desktop"


def test_the_command_line_asks_the_other_machine(ring: Ring) -> None:
    said = ring.nodes["laptop"].cli("run", "quick", "hello", "--max-tokens", "8")
    assert said["unhosted"]["served_by"] == "desktop"


def test_a_request_that_may_not_leave_this_machine_is_refused_here(ring: Ring) -> None:
    body = {"model": "quick", "prompt": "hello", "max_tokens": 4, "unhosted": {"radius": "local"}}
    refused = ring.nodes["laptop"].call("POST", "/v1/completions", body, status=None)
    assert refused["error"]["code"] == "model_not_found", refused


def test_what_a_peer_may_not_do_is_refused_there_and_told_here(ring: Ring) -> None:
    try:
        for changes, words in (
            ({"may_ask": False}, "--ask"),
            ({"may_ask": True, "models": ["slow"]}, "quick"),
            ({"models": None, "tokens_per_day": 0}, "tokens"),
        ):
            allow(ring, "desktop", changes)
            message = refusal(ring, "quick")["message"]
            assert message.startswith("desktop: ") and words in message
    finally:
        allow(ring, "desktop", {"may_ask": True, "models": None, "tokens_per_day": None})
    assert ask(ring, "quick")["unhosted"]["served_by"] == "desktop"


def test_more_requests_than_a_peer_allows_at_once_go_to_the_next_one(ring: Ring) -> None:
    allow(ring, "desktop", {"concurrency": 1})
    allow(ring, "server", {"concurrency": 1})
    try:
        with contextlib.ExitStack() as stack:
            served_by = set()
            for seed in (1, 2):
                answer = stack.enter_context(
                    contextlib.closing(ring.stream("laptop", long_answer(seed=seed)))
                )
                served_by.add(next(answer).served_by)
            assert served_by == {"desktop", "server"}
    finally:
        allow(ring, "desktop", {"concurrency": 32})
        allow(ring, "server", {"concurrency": 32})


def test_a_draining_machine_ends_what_it_began_and_takes_nothing_new(ring: Ring) -> None:
    under_way = ring.stream("laptop", long_answer(unhosted=ONLY_DESKTOP))
    first = next(under_way)
    assert first.served_by == "desktop"
    ring.nodes["desktop"].cli("drain")
    try:
        wait("word of it", lambda: not ring.line("laptop", "desktop")["facts"]["accepting"])
        assert "drain" in ring.line("laptop", "desktop")["facts"]["why_not"]
        told = ask(ring, "slow")["unhosted"]
        assert told["served_by"] == "server"
        assert any(line.startswith("desktop: ") and "drain" in line for line in told["passed_over"]), told
        *_, last = under_way
        assert (last.finish, last.unhosted["resumed_on"]) == ("length", [])
    finally:
        ring.nodes["desktop"].cli("drain", "--off")
    wait("word of it", lambda: ring.line("laptop", "desktop")["facts"]["accepting"])


def test_quiet_hours_are_told_to_the_others(ring: Ring) -> None:
    now = datetime.now()
    hours = f"{now - timedelta(hours=2):{DAY_FORMAT}}-{now + timedelta(hours=2):{DAY_FORMAT}}"
    server = ring.nodes["server"]
    assert server.stop() == 0
    server.env["UNHOSTED_PEERS_QUIET_HOURS"] = hours
    ring.start("server")
    wait("word of it", lambda: ring.line("laptop", "server")["facts"]["why_not"])
    facts = ring.line("laptop", "server")["facts"]
    assert not facts["accepting"] and "quiet hours" in facts["why_not"]
    told = ask(ring, "slow")["unhosted"]
    assert told["served_by"] == "desktop"
    assert any("quiet hours" in line for line in told["passed_over"]), told


def test_unpairing_ends_an_answer_under_way_and_both_sides_forget(ring: Ring) -> None:
    answer = ring.stream("laptop", long_answer(tokens=1500, unhosted=ONLY_DESKTOP))
    next(answer)
    ring.nodes["desktop"].cli("peers", "rm", "laptop")
    *_, last = answer
    assert last.error, f"it went on to {last.finish}"
    assert "desktop: " in last.error["message"] and "not paired" in last.error["message"], last.error
    for at, of in (("laptop", "desktop"), ("desktop", "laptop")):
        wait(f"{at} to forget", partial(is_forgotten, ring, at, of))
    assert "quick" not in [one["id"] for one in ring.nodes["laptop"].get("/v1/models")["data"]]
    error = refusal(ring, "quick")
    assert "quick" in error["message"], error


def is_forgotten(ring: Ring, at: str, of: str) -> bool:
    return ring.line(at, of).get("state") != "paired"


def allow(ring: Ring, at: str, changes: dict[str, Any]) -> None:
    """What the laptop may do on that machine."""
    ring.nodes[at].post(f"/api/peers/{ring.peers['laptop']}/allow", changes)


def ask(ring: Ring, model: str) -> Any:
    body = {"model": model, "prompt": "hello", "max_tokens": 4, "ignore_eos": True}
    return ring.nodes["laptop"].post("/v1/completions", body)


def refusal(ring: Ring, model: str) -> Any:
    body = {"model": model, "prompt": "hello", "max_tokens": 4}
    said = ring.nodes["laptop"].call("POST", "/v1/completions", body, status=None)
    assert "error" in said, said
    return said["error"]


OPENAI_CLIENT = """
import json, sys
from openai import OpenAI

client = OpenAI(base_url=sys.argv[1], api_key="any", max_retries=0)
chunks = client.chat.completions.create(
    model="quick", messages=[{"role": "user", "content": "hello"}], max_tokens=16, stream=True
)
text, finish, served_by = "", None, None
for chunk in chunks:
    served_by = (chunk.model_extra or {}).get("unhosted", {}).get("served_by", served_by)
    for choice in chunk.choices:
        text += choice.delta.content or ""
        finish = choice.finish_reason or finish
models = sorted(model.id for model in client.models.list())
print(json.dumps({"models": models, "text": text, "finish": finish, "served_by": served_by}), flush=True)
"""
