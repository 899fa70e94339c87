"""What a client may ask of the connection itself, and what a node that is full still says."""

import logging

import httpx
import pytest
import trio

from tests.fakes import MODEL, FakeNode, served, served_in_thread
from unhosted.node.core.model_ref import REF_CHARS_MAX
from unhosted.node.http.server import BoundAddress
from unhosted.node.http.settings import HttpSettings

LIMIT_S = 20.0
"""No test takes this long; one that hangs fails here instead of stopping the suite."""


def test_http2_is_not_spoken_even_when_asked_for() -> None:
    async def main() -> None:
        with trio.fail_after(LIMIT_S):
            async with served(FakeNode()) as address:
                await speak(address)

    async def speak(address: BoundAddress) -> None:
        client = await trio.open_tcp_stream(address.host, address.port)
        asks = b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n"
        await client.send_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n" + asks + b"\r\n")
        answer = await client.receive_some()
        assert answer.startswith(b"HTTP/1.1 200"), answer
        await client.aclose()
        client = await trio.open_tcp_stream(address.host, address.port)
        await client.send_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        answer = await client.receive_some()
        assert answer.startswith(b"HTTP/1.1 4"), answer
        await client.aclose()

    trio.run(main)


def test_a_full_node_is_still_alive() -> None:
    settings = HttpSettings(port=0, requests_max=0)
    with (
        served_in_thread(FakeNode(), settings) as address,
        httpx.Client(base_url=address.url, trust_env=False, timeout=20) as client,
    ):
        assert client.get("/v1/models").status_code == 503
        assert client.get("/health").status_code == 200


def test_a_refusal_names_the_setting_that_allows(client: httpx.Client) -> None:
    for headers, setting in (
        ({"host": "node.example"}, "allowed_hosts"),
        ({"origin": "https://page.example"}, "allowed_origins"),
    ):
        assert setting in client.get("/v1/models", headers=headers).json()["error"]["message"]


def test_an_overlong_model_name_is_not_echoed(client: httpx.Client) -> None:
    body = {"model": "m" * (REF_CHARS_MAX + 1), "messages": [{"role": "user", "content": "Hi"}]}
    response = client.post("/v1/chat/completions", json=body)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, "model")
    assert len(error["message"]) < 200


@pytest.mark.parametrize("other", [{"json_schema": {"type": "object"}}, {"grammar": 'root ::= "a"'}])
def test_a_completion_takes_one_rule_for_its_output(client: httpx.Client, other: dict[str, object]) -> None:
    body = {"model": MODEL, "prompt": "Hi", "response_format": {"type": "json_object"}, **other}
    response = client.post("/v1/completions", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == next(iter(other))


def test_a_path_cannot_forge_a_line_of_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(self: FakeNode) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(FakeNode, "models", broken)
    with (
        caplog.at_level(logging.INFO),
        served_in_thread(FakeNode()) as address,
        httpx.Client(base_url=address.url, trust_env=False, timeout=20) as client,
    ):
        assert client.get("/v1/models/x%0dFORGED").status_code == 500
    assert not any(line.startswith("FORGED") for line in caplog.text.splitlines())
