"""Who may ask: Host, Origin, key and page token; and how much: bodies, requests, sockets."""

import base64
import re
from collections.abc import Iterator

import httpx
import pytest

from tests.fakes import MODEL, FakeNode, served_in_thread
from unhosted.node.http.settings import HttpSettings

PAGE = "https://pages.example"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture(scope="module")
def open_elsewhere() -> Iterator[httpx.Client]:
    """A node on every address of the machine, with a key, reached over loopback."""
    settings = HttpSettings(
        host="0.0.0.0", port=0, token="key-1", hosts=("node.example",), origins=(PAGE,), body_bytes_max=4096
    )
    with (
        served_in_thread(FakeNode(), settings) as address,
        httpx.Client(base_url=f"http://127.0.0.1:{address.port}", trust_env=False, timeout=20) as client,
    ):
        yield client


def bearer(key: str = "key-1", **headers: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"} | headers


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:99", "127.0.0.1", "127.8.9.1:1", "[::1]:8642", "LocalHost"]
)
def test_loopback_names_are_ours(client: httpx.Client, host: str) -> None:
    assert client.get("/v1/models", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8642", "192.168.1.5", "127.0.0.1.evil.example", ""]
)
def test_a_rebound_name_is_refused(client: httpx.Client, host: str) -> None:
    response = client.get("/health", headers={"host": host})
    assert response.status_code == 403
    assert response.json()["error"]["code"] == "host_refused"


def test_elsewhere_addresses_and_configured_names_are_ours(open_elsewhere: httpx.Client) -> None:
    for host, status in (("192.168.1.5:8642", 200), ("node.example", 200), ("other.example", 403)):
        assert open_elsewhere.get("/v1/models", headers=bearer(host=host)).status_code == status


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1", "file://"])
def test_pages_of_others_are_refused(client: httpx.Client, origin: str) -> None:
    for response in (
        client.get("/v1/models", headers={"origin": origin}),
        client.post("/v1/chat/completions", json=CHAT, headers={"origin": origin}),
        client.options(
            "/v1/chat/completions", headers={"origin": origin, "access-control-request-method": "POST"}
        ),
    ):
        assert response.status_code == 403
        assert response.json()["error"]["code"] == "origin_refused"
        assert "access-control-allow-origin" not in response.headers


def test_own_page_may_call(client: httpx.Client) -> None:
    origin = str(client.base_url).rstrip("/")
    assert client.post("/v1/chat/completions", json=CHAT, headers={"origin": origin}).status_code == 200


def test_configured_page_gets_cors_and_its_preflight(open_elsewhere: httpx.Client) -> None:
    preflight = open_elsewhere.options(
        "/v1/chat/completions",
        headers={
            "origin": PAGE,
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization, content-type",
        },
    )
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == PAGE
    assert preflight.headers["access-control-allow-headers"] == "authorization, content-type"
    answer = open_elsewhere.post("/v1/chat/completions", json=CHAT, headers=bearer(origin=PAGE))
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert "x-unhosted-ring" in answer.headers["access-control-expose-headers"]


def test_elsewhere_everything_but_health_needs_the_key(open_elsewhere: httpx.Client) -> None:
    assert open_elsewhere.get("/health").status_code == 200
    for path in ("/", "/v1/models", "/metrics", "/health/ready", "/api/status", "/openapi.json", "/nothing"):
        refused = open_elsewhere.get(path)
        assert (path, refused.status_code) == (path, 401)
        assert refused.json()["error"]["code"] == "unauthorized"
        assert "www-authenticate" in refused.headers


def test_the_key_comes_as_bearer_api_key_or_password(open_elsewhere: httpx.Client) -> None:
    password = base64.b64encode(b"anyone:key-1").decode()
    for headers in (bearer(), {"x-api-key": "key-1"}, {"authorization": f"Basic {password}"}):
        assert open_elsewhere.get("/v1/models", headers=headers).status_code == 200
    for headers in (
        bearer("key-2"),
        {"x-api-key": ""},
        {"authorization": "Basic %%%"},
        {"authorization": "key-1"},
    ):
        assert open_elsewhere.get("/v1/models", headers=headers).status_code == 401


def test_state_changes_of_a_page_need_its_token(client: httpx.Client) -> None:
    origin = str(client.base_url).rstrip("/")
    page = client.get("/")
    found = re.search(r'name="page-token" content="([^"]+)"', page.text)
    assert found is not None
    ask = {"model": MODEL}
    for token, status in (("", 403), ("wrong", 403), (found[1], 200)):
        headers = {"origin": origin, "x-unhosted-page-token": token}
        assert client.post("/api/models/load", json=ask, headers=headers).status_code == status
    assert client.post("/api/models/load", json=ask).status_code == 200


def test_the_page_loads_nothing_from_elsewhere(client: httpx.Client) -> None:
    page = client.get("/")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert page.headers["cache-control"] == "no-store"
    linked = re.findall(r'(?:src|href)="([^"#][^"]*)"', page.text)
    assert sorted(linked) == ["/icon.svg", "/page.css", "/page.js", "/peers.js"]
    for path in linked:
        response = client.get(path)
        assert response.status_code == 200
        # The icon's namespace is a name; nothing is loaded from there.
        text = response.text.replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert "http://" not in text and "https://" not in text


def test_a_body_over_the_limit_is_413_and_the_next_request_is_served(open_elsewhere: httpx.Client) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(64):
            yield b"x" * 65536

    for content in (b"x" * 4097, b"x" * 3_000_000, chunks()):
        response = open_elsewhere.post("/v1/chat/completions", content=content, headers=bearer())
        assert response.status_code == 413
        assert response.json()["error"]["code"] == "body_too_large"
    assert open_elsewhere.get("/v1/models", headers=bearer()).status_code == 200


def test_a_refused_upload_does_not_block_its_answer(open_elsewhere: httpx.Client) -> None:
    response = open_elsewhere.post("/v1/chat/completions", content=b"x" * 3_000_000)
    assert response.status_code == 401


def test_requests_over_the_limit_come_back_later() -> None:
    with (
        served_in_thread(FakeNode(), HttpSettings(port=0, requests_max=0)) as address,
        httpx.Client(base_url=address.url, trust_env=False, timeout=20) as client,
    ):
        response = client.post("/v1/chat/completions", json=CHAT)
        assert response.status_code == 503
        assert response.headers["retry-after"] == "1"
