"""Completions, embeddings, Anthropic messages, Responses and models: shapes and what reaches the node."""

import base64
import json
import struct
from typing import Any

import httpx

from tests.fake_peers import FACTS
from tests.fakes import CACHED_TOKENS, DYING, MODEL, MODELS, PROMPT_TOKENS, WORDS, FakeNode
from unhosted.node.core.service import ChatRequest, CompletionRequest, Message, ToolCall

HI = [{"role": "user", "content": "Hi"}]
WEATHER = {"name": "weather", "input_schema": {"type": "object"}}


def named_events(text: str) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for block in text.strip().split("\n\n"):
        name, data = block.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def chat_asked(node: FakeNode) -> ChatRequest:
    request = node.asked[-1]
    assert isinstance(request, ChatRequest)
    return request


def test_prompts_and_samples_get_indices_in_order(client: httpx.Client, node: FakeNode) -> None:
    body = client.post(
        "/v1/completions", json={"model": MODEL, "prompt": ["a", "b"], "n": 2, "max_tokens": 3}
    ).json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
    assert {choice["finish_reason"] for choice in body["choices"]} == {"length"}
    assert body["usage"]["prompt_tokens"] == 2 * PROMPT_TOKENS
    assert body["usage"]["completion_tokens"] == 4 * 3
    prompts = [request.prompt for request in node.asked if isinstance(request, CompletionRequest)]
    assert prompts == ["a", "b"]


def test_token_ids_reach_the_node_as_they_are(client: httpx.Client, node: FakeNode) -> None:
    client.post("/v1/completions", json={"model": MODEL, "prompt": [1, 2, 3]})
    client.post("/v1/completions", json={"model": MODEL, "prompt": [[4], [5, 6]]})
    prompts = [request.prompt for request in node.asked if isinstance(request, CompletionRequest)]
    assert prompts == [(1, 2, 3), (4,), (5, 6)]


def test_streamed_prompts_are_told_apart(client: httpx.Client) -> None:
    ask = {"model": MODEL, "prompt": ["a", "b"], "stream": True, "stream_options": {"include_usage": True}}
    lines = client.post("/v1/completions", json=ask).text.strip().split("\n\n")
    assert lines.pop() == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines]
    assert chunks[-1]["usage"]["completion_tokens"] == 2 * len(WORDS)
    assert chunks[-1]["unhosted"]["ring"] == "local"
    for index in (0, 1):
        choices = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
        assert "".join(choice["text"] for choice in choices) == "".join(WORDS)
        assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["stop"]


def test_completion_logprobs_are_parallel_lists(client: httpx.Client) -> None:
    ask = {"model": MODEL, "prompt": "a", "logprobs": 2}
    whole = client.post("/v1/completions", json=ask).json()["choices"][0]["logprobs"]
    assert whole["tokens"] == list(WORDS)
    assert whole["text_offset"] == [len("".join(WORDS[:at])) for at in range(len(WORDS))]
    lines = client.post("/v1/completions", json=ask | {"stream": True}).text.split("\n\n")[:-2]
    parts = [json.loads(line.removeprefix("data: "))["choices"][0]["logprobs"] for line in lines]
    assert [offset for part in parts if part for offset in part["text_offset"]] == whole["text_offset"]


def test_embeddings_as_floats_and_as_base64(client: httpx.Client, node: FakeNode) -> None:
    ask = {"model": MODEL, "input": ["four", [1, 2]]}
    floats = client.post("/v1/embeddings", json={"model": MODEL, "input": "four"}).json()
    assert floats["data"][0]["embedding"] == [4.0, 0.5, -0.25]
    assert floats["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    assert client.post("/v1/embeddings", json=ask).status_code == 400
    coded = client.post("/v1/embeddings", json={"model": MODEL, "input": "four", "encoding_format": "base64"})
    raw = base64.b64decode(coded.json()["data"][0]["embedding"])
    assert struct.unpack("<3f", raw) == (4.0, 0.5, -0.25)


def test_anthropic_message_with_blocks_and_results(client: httpx.Client, node: FakeNode) -> None:
    use = {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Oslo"}}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "rain"}]}
    failed = {"type": "tool_result", "tool_use_id": "t2", "content": "no such city", "is_error": True}
    body = client.post(
        "/v1/messages",
        json={
            "model": MODEL,
            "max_tokens": 100,
            "system": [{"type": "text", "text": "Be brief", "cache_control": {"type": "ephemeral"}}],
            "messages": [
                {"role": "user", "content": "Weather?"},
                {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}, use]},
                {"role": "user", "content": [result, failed, {"type": "text", "text": "And?"}]},
            ],
            "tools": [WEATHER],
            "thinking": {"type": "disabled"},
        },
    ).json()
    assert chat_asked(node).messages == (
        Message(role="system", content="Be brief"),
        Message(role="user", content="Weather?"),
        Message(
            role="assistant",
            tool_calls=(ToolCall(call_id="t1", name="weather", arguments='{"city": "Oslo"}'),),
        ),
        Message(role="tool", content="rain", call_id="t1"),
        Message(role="tool", content="Error: no such city", call_id="t2"),
        Message(role="user", content="And?"),
    )
    assert body["content"] == [{"type": "text", "text": "".join(WORDS)}]
    assert body["stop_reason"] == "end_turn"
    assert body["usage"]["input_tokens"] == PROMPT_TOKENS - CACHED_TOKENS
    assert body["usage"]["cache_read_input_tokens"] == CACHED_TOKENS
    assert body["unhosted"]["ring"] == "local"


def test_anthropic_stop_reasons(client: httpx.Client) -> None:
    def stop(**fields: Any) -> tuple[str, str | None]:
        ask = {"model": MODEL, "max_tokens": 100, "messages": HI} | fields
        body = client.post("/v1/messages", json=ask).json()
        return body["stop_reason"], body["stop_sequence"]

    assert stop(max_tokens=2) == ("max_tokens", None)
    assert stop(stop_sequences=[" node"]) == ("stop_sequence", " node")
    assert stop(tools=[WEATHER], tool_choice={"type": "any"}) == ("tool_use", None)


def test_anthropic_stream_opens_and_closes_each_block(client: httpx.Client) -> None:
    ask = {"model": MODEL, "max_tokens": 100, "messages": HI, "stream": True}
    found = named_events(client.post("/v1/messages", json=ask).text)
    assert all(name == data["type"] for name, data in found)
    assert [name for name, _ in found] == [
        "message_start",
        "ping",
        "content_block_start",
        *["content_block_delta"] * len(WORDS),
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert found[-2][1]["usage"]["output_tokens"] == len(WORDS)


def test_anthropic_streamed_tool_gives_its_input_in_parts(client: httpx.Client) -> None:
    ask = {"model": MODEL, "max_tokens": 100, "messages": HI, "stream": True, "tools": [WEATHER]}
    choice = {"type": "tool", "name": "weather"}
    found = named_events(client.post("/v1/messages", json=ask | {"tool_choice": choice}).text)
    start = next(data for name, data in found if name == "content_block_start")
    assert start["content_block"] == {"type": "tool_use", "id": "call_1", "name": "weather", "input": {}}
    parts = [data["delta"]["partial_json"] for name, data in found if name == "content_block_delta"]
    assert json.loads("".join(parts)) == {"city": "Oslo"}
    assert found[-2][1]["delta"]["stop_reason"] == "tool_use"


def test_anthropic_stream_that_fails_says_so(client: httpx.Client) -> None:
    ask = {"model": DYING, "max_tokens": 100, "messages": HI, "stream": True}
    name, data = named_events(client.post("/v1/messages", json=ask).text)[-1]
    assert (name, data["error"]["type"]) == ("error", "api_error")


def test_tokens_are_counted_without_an_answer(client: httpx.Client) -> None:
    ask = {"model": MODEL, "messages": [{"role": "user", "content": "one two three"}]}
    response = client.post("/v1/messages/count_tokens", json=ask)
    assert response.json() == {"input_tokens": 3}


def test_responses_input_items_reach_the_node(client: httpx.Client, node: FakeNode) -> None:
    call = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"}
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
        {"type": "reasoning", "summary": []},
        call,
        call | {"call_id": "c2"},
        {"type": "function_call_output", "call_id": "c1", "output": "rain"},
    ]
    ask = {"model": MODEL, "input": items, "instructions": "Be brief", "max_output_tokens": 50}
    assert client.post("/v1/responses", json=ask).status_code == 200
    calls = tuple(ToolCall(call_id=call_id, name="weather", arguments="{}") for call_id in ("c1", "c2"))
    assert chat_asked(node).messages == (
        Message(role="system", content="Be brief"),
        Message(role="user", content="Weather?"),
        Message(role="assistant", tool_calls=calls),
        Message(role="tool", content="rain", call_id="c1"),
    )
    assert chat_asked(node).options.max_tokens == 50


def test_responses_stream_numbers_its_events(client: httpx.Client) -> None:
    found = named_events(
        client.post("/v1/responses", json={"model": MODEL, "input": "Hi", "stream": True}).text
    )
    assert [data["sequence_number"] for _, data in found] == list(range(len(found)))
    assert found[-1][0] == "response.completed"
    done = next(data for name, data in found if name == "response.output_text.done")
    assert done["text"] == "".join(WORDS)
    assert found[-1][1]["response"]["output"][0]["content"][0]["text"] == "".join(WORDS)


def test_responses_cut_short_is_incomplete(client: httpx.Client) -> None:
    ask = {"model": MODEL, "input": "Hi", "max_output_tokens": 2}
    body = client.post("/v1/responses", json=ask).json()
    assert (body["status"], body["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    found = named_events(client.post("/v1/responses", json=ask | {"stream": True}).text)
    assert found[-1][0] == "response.incomplete"


def test_responses_stream_that_fails_says_so(client: httpx.Client) -> None:
    found = named_events(
        client.post("/v1/responses", json={"model": DYING, "input": "x", "stream": True}).text
    )
    assert [name for name, _ in found[-2:]] == ["response.failed", "error"]


def test_models_are_listed_for_both_sdks(client: httpx.Client) -> None:
    plain = client.get("/v1/models").json()
    assert [model["id"] for model in plain["data"]] == [*MODELS, FACTS.name]
    assert {model["owned_by"] for model in plain["data"][:-1]} == {"local"}
    assert plain["data"][-1]["owned_by"] == "desktop"
    assert plain["data"][-1]["unhosted"]["peers"] == ["desktop"]
    anthropic = client.get("/v1/models", headers={"anthropic-version": "2023-06-01"}).json()
    assert anthropic["data"][0]["created_at"] == "2023-11-14T22:13:20Z"
    assert not anthropic["has_more"]


def test_a_model_is_found_by_name_alias_and_with_a_radius(client: httpx.Client) -> None:
    for name in (MODEL, f"{MODEL}-alias", f"{MODEL}@local"):
        assert client.get(f"/v1/models/{name}").json()["id"] == MODEL
    for name in (FACTS.name, "llama3.1", f"{FACTS.name}@trusted"):
        assert client.get(f"/v1/models/{name}").json()["id"] == FACTS.name
    missing = client.get("/v1/models/hf.co/org/repo:Q4")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


def test_models_are_loaded_and_unloaded(client: httpx.Client) -> None:
    assert client.post("/api/models/load", json={"model": MODEL}).json()["loaded"]["model"] == MODEL
    assert [one["model"] for one in client.get("/api/models").json()["loaded"]] == [MODEL]
    assert client.post("/api/models/unload", json={"model": MODEL}).json() == {"unloaded": True}
    assert client.post("/api/models/unload", json={"model": MODEL}).json() == {"unloaded": False}


def test_health_ready_metrics_and_status(client: httpx.Client, node: FakeNode) -> None:
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/health/ready").status_code == 200
    node.is_ready = False
    unready = client.get("/health/ready")
    node.is_ready = True
    assert (unready.status_code, unready.json()["reason"]) == (503, "no model is stored")
    assert client.get("/metrics").text.startswith("# TYPE")
    assert client.get("/api/status").json()["offline"] is True


def test_openapi_describes_every_path_and_resolves(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    assert {"/v1/chat/completions", "/v1/messages", "/v1/responses", "/health"} <= set(document["paths"])
    schemas = document["components"]["schemas"]
    references = [part.split('"')[0] for part in json.dumps(document).split('"#/components/schemas/')[1:]]
    assert references
    assert all(reference in schemas for reference in references)
