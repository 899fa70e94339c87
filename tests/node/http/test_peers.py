"""Paired machines over HTTP: list, pair, allow, drain, pull, events, and what a request may ask of them."""

import json
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import trio

from tests.fake_peers import ADDRESS_CODE, CODE, DESKTOP, FACTS, LAPTOP, OTHER, STRANGER
from tests.fakes import ELSEWHERE, MODEL, FakeNode, served, served_in_thread
from unhosted.node.core.errors import Refused
from unhosted.node.core.service import ANY_PROVIDER, Provenance, ProviderChoice
from unhosted.node.http import events
from unhosted.node.http.exchange import joint_provenance
from unhosted.node.http.server import BoundAddress
from unhosted.node.http.settings import HttpSettings

CHAT: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture
def fresh() -> Iterator[tuple[FakeNode, httpx.Client]]:
    """A node that nothing was done to, for tests that change its peers."""
    node = FakeNode()
    with served_in_thread(node) as address, httpx.Client(base_url=address.url, trust_env=False) as client:
        yield node, client


def error_of(response: httpx.Response) -> tuple[int, str, str | None]:
    error = response.json()["error"]
    return response.status_code, error["code"], error["param"]


def test_peers_are_listed_with_all_that_is_known(client: httpx.Client) -> None:
    listed = client.get("/api/peers").json()["peers"]
    assert [one["name"] for one in listed] == ["desktop", "laptop", "attic"]
    assert listed[0] == {
        "peer": DESKTOP.peer,
        "name": "desktop",
        "state": "paired",
        "reachable": True,
        "why_not": "",
        "path": "lan",
        "addresses": ["/ip4/192.0.2.20/tcp/8643"],
        "round_trip_s": 0.0012,
        "last_seen_unix_s": 1_700_000_000,
        "capabilities": {
            "may_ask": True,
            "may_fetch": True,
            "may_pool": False,
            "models": None,
            "tokens_per_day": None,
            "concurrency": 32,
        },
        "tokens_today": 1234,
        "facts": listed[0]["facts"],
    }
    assert listed[0]["facts"]["models"][0]["name"] == FACTS.name
    assert listed[1]["why_not"] == LAPTOP.why_not and listed[1]["facts"] is None


def test_unpairing_by_name_removes_that_one(fresh: tuple[FakeNode, httpx.Client]) -> None:
    node, client = fresh
    assert client.delete("/api/peers/desktop").json()["removed"]["peer"] == DESKTOP.peer
    assert node.statuses == [LAPTOP, STRANGER]
    assert error_of(client.delete("/api/peers/desktop")) == (403, "not_paired", None)


def test_capabilities_change_field_by_field(fresh: tuple[FakeNode, httpx.Client]) -> None:
    node, client = fresh
    changes = {"may_pool": True, "models": ["a:1b"], "tokens_per_day": 0}
    shown = client.post(f"/api/peers/{DESKTOP.peer[:20]}/allow", json=changes).json()["peer"]["capabilities"]
    assert (shown["may_pool"], shown["models"], shown["tokens_per_day"]) == (True, ["a:1b"], 0)
    assert shown["may_ask"] is True
    client.post("/api/peers/desktop/allow", json={"models": None, "tokens_per_day": None})
    assert node.allowed[-1] == {"models": None, "tokens_per_day": None}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"may_pol": True}, "may_pol"),
        ({"may_ask": "yes"}, "may_ask"),
        ({"may_ask": None}, "may_ask"),
        ({"concurrency": 0}, "concurrency"),
        ({"tokens_per_day": -1}, "tokens_per_day"),
        ({"models": [1]}, "models.0"),
        ({"models": ["m"] * 513}, "models"),
        ({}, "body"),
    ],
)
def test_a_wrong_capability_is_named(client: httpx.Client, body: object, field: str) -> None:
    assert error_of(client.post("/api/peers/desktop/allow", json=body)) == (400, "invalid_request", field)


def test_a_pairing_is_offered_confirmed_and_told(fresh: tuple[FakeNode, httpx.Client]) -> None:
    node, client = fresh
    offered = client.post("/api/pair", json={})
    view = offered.json()
    assert offered.headers["cache-control"] == "no-store"
    assert view == {
        "pairing_id": "pairing0",
        "state": "waiting",
        "code": CODE,
        "address_code": ADDRESS_CODE,
        "expires_in_s": 600,
        "tries_left": 3,
        "other_peer": None,
        "other_name": None,
        "reason": "",
    }
    node.advance("pairing0", state="confirm", other_peer=OTHER, other_name="attic")
    assert client.get("/api/pair/pairing0").json()["other_name"] == "attic"
    done = client.post("/api/pair/pairing0/confirm", json={"accept": True}).json()
    assert (done["state"], node.answers) == ("paired", [True])


def test_joining_with_a_wrong_code_says_so(client: httpx.Client) -> None:
    assert client.post("/api/pair", json={"code": CODE.lower()}).json()["state"] == "confirm"
    assert error_of(client.post("/api/pair", json={"code": "AAA"})) == (409, "pairing_failed", None)
    assert error_of(client.post("/api/pair", json={"code": "A" * 1025})) == (400, "invalid_request", "code")
    assert error_of(client.get("/api/pair/none"))[:2] == (409, "pairing_failed")


def test_a_cancelled_pairing_is_gone(fresh: tuple[FakeNode, httpx.Client]) -> None:
    node, client = fresh
    client.post("/api/pair")
    assert client.delete("/api/pair/pairing0").json() == {"cancelled": True}
    assert node.pairings == {}


def test_the_code_is_a_picture_for_this_page_alone(fresh: tuple[FakeNode, httpx.Client]) -> None:
    _, client = fresh
    client.post("/api/pair", json={})
    picture = client.get("/api/pair/pairing0/qr.svg")
    assert picture.headers["content-type"] == "image/svg+xml"
    assert picture.headers["cross-origin-resource-policy"] == "same-origin"
    assert ElementTree.fromstring(picture.text).tag == "{http://www.w3.org/2000/svg}svg"
    client.post("/api/pair", json={"code": CODE})
    assert error_of(client.get("/api/pair/pairing1/qr.svg"))[1] == "pairing_failed"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "/api/peers/desktop"),
        ("POST", "/api/peers/desktop/allow"),
        ("POST", "/api/pair"),
        ("POST", "/api/pair/pairing0/confirm"),
        ("DELETE", "/api/pair/pairing0"),
        ("POST", "/api/drain"),
        ("POST", "/api/pull"),
    ],
)
def test_a_page_without_its_token_changes_nothing(client: httpx.Client, method: str, path: str) -> None:
    own = {"origin": str(client.base_url).rstrip("/")}
    refused = client.request(method, path, headers=own, json={})
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "page_token_missing")
    other = {"origin": "https://elsewhere.example", "x-unhosted-page-token": "x"}
    assert client.request(method, path, headers=other, json={}).json()["error"]["code"] == "origin_refused"


def test_draining_is_switched(fresh: tuple[FakeNode, httpx.Client]) -> None:
    node, client = fresh
    assert client.post("/api/drain", json={"draining": True}).json() == {"draining": True}
    assert client.post("/api/drain", json={"draining": False}).status_code == 200
    assert node.drained == [True, False]
    assert error_of(client.post("/api/drain", json={})) == (400, "invalid_request", "draining")


def test_a_pull_tells_its_progress_line_by_line(fresh: tuple[FakeNode, httpx.Client]) -> None:
    node, client = fresh
    response = client.post("/api/pull", json={"model": "m:1b", "name": "mine"})
    lines = [json.loads(line) for line in response.text.splitlines()]
    assert response.headers["content-type"].startswith("application/x-ndjson")
    assert lines[-1]["model"]["name"] == "mine" and node.pulled == [("m:1b", "mine")]
    # The newest of those that came meanwhile.
    assert lines[-2]["progress"]["done_bytes"] == 75


def test_a_pull_that_fails_is_an_error_before_and_after_it_began(
    fresh: tuple[FakeNode, httpx.Client],
) -> None:
    node, client = fresh
    node.pull_refusal = Refused("digest_mismatch", "the file is not the one that was asked for")
    late = client.post("/api/pull", json={"model": "m:1b"})
    assert late.status_code == 200
    assert json.loads(late.text.splitlines()[-1])["error"]["code"] == "digest_mismatch"
    node.pull_reports = []
    assert error_of(client.post("/api/pull", json={"model": "m:1b"})) == (502, "digest_mismatch", None)
    assert error_of(client.post("/api/pull", json={"model": " "})) == (400, "invalid_request", "model")


def test_a_reader_that_leaves_stops_the_pull(fresh: tuple[FakeNode, httpx.Client]) -> None:
    node, client = fresh
    with client.stream("POST", "/api/pull", json={"model": "endless"}) as response:
        next(response.iter_lines())
    deadline_s = time.monotonic() + 20
    while not node.pull_left:  # as soon as the node has seen the connection close
        assert time.monotonic() < deadline_s, "the pull goes on"
        client.get("/health")
    assert node.pull_left == 1


def read_event(lines: Iterator[str]) -> dict[str, Any]:
    for line in lines:
        if line.startswith("data: "):
            found: dict[str, Any] = json.loads(line[6:])
            return found
    raise AssertionError("the stream ended")


def test_events_tell_changes_as_they_come(fresh: tuple[FakeNode, httpx.Client]) -> None:
    _node, client = fresh
    with client.stream("GET", "/api/events") as response:
        lines = response.iter_lines()
        first = read_event(lines)
        assert [one["name"] for one in first["peers"]] == ["desktop", "laptop", "attic"]
        httpx.delete(f"{client.base_url}/api/peers/laptop", trust_env=False)
        second = read_event(lines)
        assert [one["name"] for one in second["peers"]] == ["desktop", "attic"]
        assert second["change"] > first["change"]


def test_the_end_of_the_node_ends_the_events() -> None:
    settings = HttpSettings(port=0, graceful_s=600)

    def listen(address: BoundAddress) -> list[str]:
        with httpx.stream("GET", f"{address.url}/api/events", trust_env=False) as response:
            lines = response.iter_lines()
            read_event(lines)
            trio.from_thread.run_sync(listening.set)
            return list(lines)

    async def main() -> None:
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery, served(FakeNode(), settings) as address:
                nursery.start_soon(trio.to_thread.run_sync, listen, address)
                await listening.wait()

    listening = trio.Event()
    trio.run(main)


def test_windows_that_listen_are_bounded(
    fresh: tuple[FakeNode, httpx.Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "SUBSCRIBERS_MAX", 1)
    _, client = fresh
    with client.stream("GET", "/api/events") as response:
        lines = response.iter_lines()  # which closes the response when it is let go
        read_event(lines)
        assert error_of(client.get("/api/events")) == (503, "overloaded", None)
    is_free = False
    deadline_s = time.monotonic() + 20
    while not is_free:  # as soon as the node has seen that the window is closed
        assert time.monotonic() < deadline_s, "a closed window counts for ever"
        with client.stream("GET", "/api/events") as response:
            is_free = response.status_code == 200


def test_who_may_answer_reaches_the_node_from_every_dialect(client: httpx.Client, node: FakeNode) -> None:
    extension = {"radius": "trusted", "provider": {"order": ["desktop"], "ignore": ["attic"]}}
    asks = [
        ("/v1/chat/completions", CHAT),
        ("/v1/completions", {"model": MODEL, "prompt": "Hi"}),
        ("/v1/messages", CHAT | {"max_tokens": 5}),
        ("/v1/responses", {"model": MODEL, "input": "Hi"}),
    ]
    for path, body in asks:
        assert client.post(path, json=body | {"unhosted": extension}).status_code == 200, path
    expected = ProviderChoice(order=("desktop",), ignore=("attic",))
    assert [one.options.provider for one in node.asked] == [expected] * len(asks)
    assert [one.options.radius for one in node.asked] == ["trusted"] * len(asks)
    client.post("/v1/embeddings", json={"model": MODEL, "input": "x", "unhosted": extension})
    assert node.embedded_within == ("trusted", expected)
    client.post("/v1/embeddings", json={"model": f"{MODEL}@local", "input": "x"})
    assert node.embedded_within == ("local", ANY_PROVIDER)


@pytest.mark.parametrize(
    ("provider", "field"),
    [
        ({"order": "desktop"}, "unhosted.provider.order"),
        ({"allow": [""]}, "unhosted.provider.allow.0"),
        ({"ignore": ["x" * 129]}, "unhosted.provider.ignore.0"),
        ({"order": ["a"] * 65}, "unhosted.provider.order"),
        ({"allow": []}, "unhosted.provider.allow"),
        ({"allow": ["a"], "ignore": ["a"]}, "unhosted.provider.allow"),
    ],
)
def test_a_wrong_choice_of_machines_is_named(client: httpx.Client, provider: object, field: str) -> None:
    response = client.post("/v1/chat/completions", json=CHAT | {"unhosted": {"provider": provider}})
    assert error_of(response) == (400, "invalid_request", field)


def last_unhosted(text: str) -> Any:
    chunks = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    inner = [chunk.get("response", chunk) for chunk in chunks]
    return next(one["unhosted"] for one in reversed(inner) if "unhosted" in one)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", CHAT | {"model": ELSEWHERE}),
        ("/v1/completions", {"model": ELSEWHERE, "prompt": "Hi"}),
        ("/v1/messages", CHAT | {"model": ELSEWHERE, "max_tokens": 50}),
        ("/v1/responses", {"model": ELSEWHERE, "input": "Hi"}),
    ],
)
def test_the_answer_ends_with_who_was_passed_over_and_who_went_on(
    client: httpx.Client, path: str, body: dict[str, Any]
) -> None:
    whole = client.post(path, json=body)
    assert whole.headers["x-unhosted-served-by"] == "desktop"
    streamed = client.post(path, json=body | {"stream": True})
    for found in (whole.json()["unhosted"], last_unhosted(streamed.text)):
        assert found["ring"] == "trusted" and found["served_by"] == "desktop"
        assert found["reason"] == "desktop is expected to be done in 2.1 s"
        assert found["passed_over"] == ["laptop: no answer for 2 h"]
        assert found["resumed_on"] == ["attic"]


def test_prompts_served_by_several_machines_name_them_all() -> None:
    near = Provenance(ring="local", served_by="here", reason="a slot is free")
    far = Provenance(ring="trusted", served_by="desktop", reason="no slot is free here", cost_micros=3)
    joint = joint_provenance([near, far, near])
    assert (joint.ring, joint.served_by, joint.cost_micros) == ("trusted", "here, desktop", 3)
    assert joint.reason == "a slot is free, no slot is free here"
    assert joint_provenance([near]) is near
