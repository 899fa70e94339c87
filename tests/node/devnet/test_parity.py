"""Nobody has to know which engine runs: the same script gives the same answers, gas and errors on both."""

import http.client
import json
from typing import Any

import pytest

from tests.devchain import Engine, dev_chain
from tests.node.devnet import life


@pytest.mark.slow
def test_both_engines_live_the_same_life() -> None:
    told = {}
    engines: tuple[Engine, ...] = ("anvil", "python")
    for engine in engines:
        with dev_chain(engine) as chain:
            told[engine] = life.run(chain)
    assert [label for label, _ in told["python"]] == [label for label, _ in told["anvil"]]
    for (label, embedded), (_, real) in zip(told["python"], told["anvil"], strict=True):
        assert embedded == real, label
    assert len(told["anvil"]) > 100


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["anvil", "python"])
def test_requests_are_answered_as_json_rpc_has_it(engine: Engine) -> None:
    call = {"jsonrpc": "2.0", "method": "eth_chainId", "params": []}
    with dev_chain(engine) as chain:
        port = chain.rpc.port
        batch = [call | {"id": 1}, {"jsonrpc": "2.0", "id": "b", "method": "eth_noSuch", "params": []}]
        status, _, answers = post(port, json.dumps(batch))
        assert status == 200
        assert answers[0] == {"jsonrpc": "2.0", "id": 1, "result": "0x7a69"}
        assert (answers[1]["id"], answers[1]["error"]["code"]) == ("b", -32601)
        for broken in ("{", "[]", '{"id": 1}'):
            assert post(port, broken)[2]["error"]["code"] in {-32600, -32602}, broken
        assert post(port, json.dumps(call))[0] == 204
        assert (
            post(port, json.dumps(call | {"id": 2}), origin="https://wallet.example")[1][
                "access-control-allow-origin"
            ]
            == "*"
        )


def post(port: int, body: str, *, origin: str | None = None, host: str | None = None) -> tuple[int, Any, Any]:
    headers = {"content-type": "application/json"}
    headers |= {} if origin is None else {"origin": origin}
    headers |= {} if host is None else {"host": host}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("POST", "/", body, headers)
        response = connection.getresponse()
        raw = response.read()
        return response.status, {key.lower(): value for key, value in response.getheaders()}, _json(raw)
    finally:
        connection.close()


def _json(raw: bytes) -> Any:
    return json.loads(raw) if raw else None
