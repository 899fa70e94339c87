"""Every refusal has its status, its code and the name of its field, in the dialect of its path."""

import logging
from typing import Any

import httpx
import pytest

from tests.fakes import BROKEN, MODEL, OVERLOADED, SECRET, SMALL, FakeNode

HI = [{"role": "user", "content": "Hi"}]
CHAT = {"model": MODEL, "messages": HI}
IMAGE = {"type": "image_url", "image_url": {"url": "data:,"}}
TOOL = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"model": None}, "model"),
        ({"model": " "}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": [{"content": "Hi"}]}, "messages.0.role"),
        ({"messages": [*HI, {"role": "robot", "content": "Hi"}]}, "messages.1.role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.tool_call_id"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 9}, "temperature"),
        ({"top_p": -1}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"repeat_last_n": 5000}, "repeat_last_n"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"logit_bias": {"-5": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 101}}, "logit_bias[5]"),
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"stop": [""]}, "stop"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stop": "x" * 257}, "stop"),
        ({"stop": 5}, "stop"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.schema"),
        ({"response_format": {"type": "json_object"}, "grammar": "root ::= [a]"}, "grammar"),
        ({"tools": [{"type": "function"}]}, "tools.0.function"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name"),
        ({"tools": [TOOL, TOOL]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "always"}, "tool_choice"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
            "tool_choice.function.name",
        ),
        ({"unhosted": {"radius": "moon"}}, "unhosted.radius"),
        ({"model": f"{MODEL}@local", "unhosted": {"radius": "public"}}, "unhosted.radius"),
    ],
)
def test_a_bad_field_is_named(client: httpx.Client, fields: dict[str, Any], field: str) -> None:
    body = {name: value for name, value in (CHAT | fields).items() if value is not None}
    response = client.post("/v1/chat/completions", json=body)
    error = response.json()["error"]
    assert response.status_code == 400
    assert error["param"] == field
    assert error["message"].startswith(f"{field}: ")
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_request")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, "messages.0.content.0.type"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"store": True}, "store"),
        ({"mirostat": 2}, "mirostat"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools.0.type"),
    ],
)
def test_what_would_change_the_answer_is_not_ignored(
    client: httpx.Client, fields: dict[str, Any], field: str
) -> None:
    response = client.post("/v1/chat/completions", json=CHAT | fields)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "not_supported"
    assert response.json()["error"]["param"] == field


def test_other_unknown_fields_are_ignored(client: httpx.Client) -> None:
    fields = {"user": "u", "metadata": {}, "service_tier": "auto", "mirostat": 0, "no_such_field": [1]}
    assert client.post("/v1/chat/completions", json=CHAT | fields).status_code == 200


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"text"', b"\xff\xfe", b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_refused(client: httpx.Client, body: bytes) -> None:
    response = client.post("/v1/chat/completions", content=body)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "invalid_request"


def test_unknown_model_is_404(client: httpx.Client) -> None:
    for path, body in (
        ("/v1/chat/completions", CHAT),
        ("/v1/completions", {"prompt": "x"}),
        ("/v1/embeddings", {"input": "x"}),
        ("/v1/responses", {"input": "x"}),
    ):
        response = client.post(path, json=body | {"model": "no:such"})
        assert (path, response.status_code) == (path, 404)
        assert response.json()["error"]["code"] == "model_not_found"


def test_overload_says_when_to_come_back(client: httpx.Client) -> None:
    response = client.post("/v1/chat/completions", json=CHAT | {"model": OVERLOADED})
    assert response.status_code == 503
    assert response.headers["retry-after"] == "7"
    assert response.json()["error"]["code"] == "overloaded"


def test_context_overflow_gives_both_numbers(client: httpx.Client) -> None:
    response = client.post("/v1/chat/completions", json=CHAT | {"model": SMALL, "stream": True})
    error = response.json()["error"]
    assert response.status_code == 400
    assert error["code"] == "context_length_exceeded"
    assert error["details"] == {"prompt_tokens": 9000, "context_tokens": 4096}


def test_anthropic_errors_have_their_own_shape(client: httpx.Client) -> None:
    def ask(**fields: Any) -> httpx.Response:
        body = {"model": MODEL, "max_tokens": 5, "messages": HI} | fields
        return client.post("/v1/messages", json=body)

    kinds = {
        (response.status_code, response.json()["type"], response.json()["error"]["type"])
        for response in (ask(max_tokens=0), ask(model="no:such"), ask(model=OVERLOADED))
    }
    assert kinds == {
        (400, "error", "invalid_request_error"),
        (404, "error", "not_found_error"),
        (503, "error", "overloaded_error"),
    }


def test_a_fault_of_ours_is_a_500_that_quotes_nothing(
    client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        response = client.post("/v1/chat/completions", json=CHAT | {"model": BROKEN})
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal_error"
    assert "RuntimeError" in caplog.text
    assert SECRET not in caplog.text + response.text


def test_unknown_path_and_wrong_method_are_json_too(client: httpx.Client) -> None:
    missing, wrong = client.get("/v1/nothing"), client.get("/v1/chat/completions")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/completions", {"prompt": []}, "prompt"),
        ("/v1/completions", {"prompt": ["x"] * 33}, "prompt"),
        ("/v1/completions", {"prompt": "x", "echo": True}, "echo"),
        ("/v1/completions", {"prompt": "x", "suffix": "y"}, "suffix"),
        ("/v1/completions", {"prompt": [-1]}, "prompt.0"),
        ("/v1/embeddings", {"input": "x", "dimensions": 5}, "dimensions"),
        ("/v1/embeddings", {"input": "x", "encoding_format": "hex"}, "encoding_format"),
        ("/v1/responses", {"input": "x", "previous_response_id": "resp_1"}, "previous_response_id"),
        ("/v1/responses", {"input": "x", "store": True}, "store"),
        ("/v1/responses", {"input": "x", "background": True}, "background"),
        ("/v1/responses", {"input": "x", "tools": [{"type": "web_search"}]}, "tools.0.type"),
        ("/v1/responses", {"input": [{"type": "item_reference", "id": "x"}]}, "input.0.type"),
        ("/v1/responses", {"input": []}, "input"),
        ("/v1/responses", {"input": "x", "prompt": {"id": "p"}}, "prompt"),
    ],
)
def test_other_paths_name_the_field_too(
    client: httpx.Client, node: FakeNode, path: str, body: dict[str, Any], field: str
) -> None:
    response = client.post(path, json={"model": MODEL} | body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == field
    assert not node.asked


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages.0.content.0.type"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools.0.type"),
        ({"tools": [{"name": "f", "input_schema": 5}]}, "tools.0.input_schema"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice"),
        ({"stop_sequences": ["" for _ in range(2)]}, "stop_sequences"),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]},
            "messages.0.content.0.tool_use_id",
        ),
    ],
)
def test_messages_name_the_field_too(client: httpx.Client, fields: dict[str, Any], field: str) -> None:
    body = {"model": MODEL, "max_tokens": 5, "messages": HI} | fields
    response = client.post(
        "/v1/messages", json={name: value for name, value in body.items() if value is not None}
    )
    assert response.status_code == 400
    assert response.json()["error"]["param"] == field
