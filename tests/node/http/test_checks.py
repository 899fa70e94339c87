"""What was paid for and what checking found, over HTTP."""

import httpx
import pytest

from tests.fakes import FakeNode

SELLER = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"


@pytest.fixture
def bought(node: FakeNode) -> FakeNode:
    node.checks.lines = [
        {"number": number, "receipt": f"{number:064x}", "seller": SELLER} for number in (3, 2, 1)
    ]
    node.checks.pairs = [{"seller": SELLER, "stage": "watch"}]
    node.checks.checked.clear()
    return node


def test_receipts_come_newest_first_and_go_on_from_a_number(client: httpx.Client, bought: FakeNode) -> None:
    first = client.get("/api/receipts", params={"limit": 2})
    assert [one["number"] for one in first.json()["receipts"]] == [3, 2]
    assert first.headers["cache-control"] == "no-store"
    rest = client.get("/api/receipts", params={"before": 2}).json()["receipts"]
    assert [one["number"] for one in rest] == [1]
    assert client.get("/api/receipts", params={"seller": "somebody"}).json() == {"receipts": []}


def test_one_receipt_is_found_by_its_start(client: httpx.Client, bought: FakeNode) -> None:
    assert client.get(f"/api/receipts/{3:064x}").json()["receipt"]["number"] == 3
    missing = client.get("/api/receipts/ffff")
    assert missing.status_code == 400
    assert missing.json()["error"]["param"] == "receipt"


@pytest.mark.parametrize(
    ("query", "field"),
    [("limit=0", "limit"), ("limit=1001", "limit"), ("limit=2&limit=3", "limit"), ("before=x", "before"),
     ("sellr=x", "sellr"), ("seller=" + "a" * 65, "seller"), ("before=-1", "before")],
)  # fmt: skip
def test_a_wrong_query_is_refused_by_name(client: httpx.Client, query: str, field: str) -> None:
    answer = client.get(f"/api/receipts?{query}")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == field


def test_checks_are_shown_started_and_begun_anew(client: httpx.Client, bought: FakeNode) -> None:
    assert client.get("/api/checks").json()["sellers"] == [{"seller": SELLER, "stage": "watch"}]
    started = client.post("/api/checks", json={"seller": SELLER, "wait": True})
    assert started.json() == {"asked": 3, "sellers": [{"seller": SELLER, "stage": "watch"}]}
    assert bought.checks.checked == [(SELLER, True)]
    client.post("/api/checks", json={})
    assert bought.checks.checked[-1] == (None, False)
    assert client.post("/api/checks", json={"seller": "a" * 65}).json()["error"]["param"] == "seller"
    gone = client.delete(f"/api/checks/{SELLER}")
    assert gone.json() == {"forgiven": {"seller": SELLER, "models": 1}}
    assert client.get("/api/checks").json() == {"sellers": []}
