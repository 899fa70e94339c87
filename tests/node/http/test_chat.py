"""/v1/chat/completions: what reaches the node, and what comes back."""

import json
from typing import Any

import httpx
import pytest

from tests.fakes import CACHED_TOKENS, DYING, MODEL, PROMPT_TOKENS, WORDS, FakeNode
from unhosted.node.core.inference import Constraint
from unhosted.node.core.service import AnswerDelta, ChatRequest, Message, Provenance, ToolCall, ToolCallDelta
from unhosted.node.http.chat import ChatReply

ASK = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "description": "of a city", "parameters": {"type": "object"}},
}


def ask(client: httpx.Client, **fields: Any) -> httpx.Response:
    return client.post("/v1/chat/completions", json=ASK | fields)


def events(text: str) -> list[dict[str, Any]]:
    """The JSON of each event; a stream must end with [DONE]."""
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def asked(node: FakeNode) -> ChatRequest:
    request = node.asked[-1]
    assert isinstance(request, ChatRequest)
    return request


def test_whole_answer_has_text_usage_and_provenance(client: httpx.Client) -> None:
    response = ask(client)
    body = response.json()
    assert response.status_code == 200
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "".join(WORDS)}
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"]["prompt_tokens"] == PROMPT_TOKENS
    assert body["usage"]["prompt_tokens_details"] == {"cached_tokens": CACHED_TOKENS}
    assert body["usage"]["total_tokens"] == PROMPT_TOKENS + len(WORDS)
    assert body["unhosted"]["ring"] == "local"
    assert response.headers["x-unhosted-ring"] == "local"
    assert response.headers["x-unhosted-served-by"] == "fake"
    assert response.headers["x-unhosted-cost-micros"] == "0"


def test_stream_ends_with_finish_and_provenance_in_one_chunk(client: httpx.Client) -> None:
    response = ask(client, stream=True)
    chunks = events(response.text)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert text == "".join(WORDS)
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["unhosted"]["served_by"] == "fake"
    assert not any("usage" in chunk for chunk in chunks)


def test_stream_with_usage_ends_with_a_chunk_without_choices(client: httpx.Client) -> None:
    chunks = events(ask(client, stream=True, stream_options={"include_usage": True}).text)
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == len(WORDS)
    assert chunks[-1]["unhosted"]["ring"] == "local"
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert "unhosted" not in chunks[-2]


def test_samples_share_one_prompt_in_the_usage(client: httpx.Client) -> None:
    body = ask(client, n=3).json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert body["usage"]["prompt_tokens"] == PROMPT_TOKENS
    assert body["usage"]["completion_tokens"] == 3 * len(WORDS)


def test_each_sample_of_a_stream_finishes_once(client: httpx.Client) -> None:
    chunks = events(ask(client, n=2, stream=True).text)
    finished = [choice["index"] for chunk in chunks for choice in chunk["choices"] if choice["finish_reason"]]
    assert finished == [0, 1]


def test_logprobs_carry_exact_bytes(client: httpx.Client) -> None:
    content = ask(client, logprobs=True, top_logprobs=2).json()["choices"][0]["logprobs"]["content"]
    assert [bytes(one["bytes"]).decode() for one in content] == list(WORDS)
    assert [len(one["top_logprobs"]) for one in content] == [2] * len(WORDS)
    assert content[0]["top_logprobs"][1]["token"] == "�"


def test_streamed_logprobs_come_with_their_text(client: httpx.Client) -> None:
    chunks = events(ask(client, logprobs=True, stream=True).text)
    tokens = [
        one["token"]
        for chunk in chunks
        if chunk["choices"][0]["logprobs"]
        for one in chunk["choices"][0]["logprobs"]["content"]
    ]
    assert tokens == list(WORDS)


def test_forced_tool_reaches_the_node_and_comes_back_as_a_call(client: httpx.Client, node: FakeNode) -> None:
    choice = {"type": "function", "function": {"name": "weather"}}
    body = ask(client, tools=[WEATHER], tool_choice=choice).json()
    request = asked(node)
    assert (request.tool_choice, request.forced_tool) == ("required", "weather")
    assert not request.parallel_tool_calls
    message = body["choices"][0]["message"]
    assert message["content"] is None
    assert message["tool_calls"][0]["function"]["name"] == "weather"
    assert json.loads(message["tool_calls"][0]["function"]["arguments"]) == {"city": "Oslo"}
    assert body["choices"][0]["finish_reason"] == "tool_calls"


def test_parallel_calls_are_allowed_unless_one_tool_is_forced(client: httpx.Client, node: FakeNode) -> None:
    forced = {"type": "function", "function": {"name": "weather"}}
    for fields in (
        {},
        {"tool_choice": "required"},
        {"tool_choice": forced},
        {"tool_choice": forced, "parallel_tool_calls": True},
        {"parallel_tool_calls": False},
    ):
        ask(client, tools=[WEATHER], **fields)
    requests = [request for request in node.asked if isinstance(request, ChatRequest)]
    assert [request.parallel_tool_calls for request in requests] == [True, True, False, True, False]


def test_streamed_call_names_itself_once(client: httpx.Client) -> None:
    chunks = events(ask(client, tools=[WEATHER], tool_choice="required", stream=True).text)
    parts = [call for chunk in chunks for call in chunk["choices"][0]["delta"].get("tool_calls", ())]
    assert [part.get("id") for part in parts] == ["call_1", None, None, None]
    assert json.loads("".join(part["function"]["arguments"] for part in parts)) == {"city": "Oslo"}


def test_parts_of_one_call_in_one_step_are_one_entry() -> None:
    reply = ChatReply(samples=1, has_logprobs=False, has_usage=False)
    reply.begin(MODEL, Provenance(ring="local", served_by="fake", reason="it is here"))
    parts = (
        ToolCallDelta(index=0, call_id="c1", name="weather"),
        ToolCallDelta(index=0, arguments="{"),
        ToolCallDelta(index=0, arguments="}"),
    )
    chunk = json.loads(reply.delta(0, AnswerDelta(tool_calls=parts)).decode().removeprefix("data: "))
    # The openai SDK keeps only one of two entries with the same index in a call's first chunk.
    assert chunk["choices"][0]["delta"]["tool_calls"] == [
        {
            "index": 0,
            "id": "c1",
            "type": "function",
            "function": {"name": "weather", "arguments": "{}"},
        }
    ]


def test_a_conversation_with_calls_reaches_the_node_whole(client: httpx.Client, node: FakeNode) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    ask(
        client,
        messages=[
            {"role": "system", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "rain"},
        ],
    )
    assert asked(node).messages == (
        Message(role="system", content="a\nb"),
        Message(role="assistant", tool_calls=(ToolCall(call_id="c1", name="weather", arguments="{}"),)),
        Message(role="tool", content="rain", call_id="c1"),
    )


def test_sampling_fields_reach_the_node(client: httpx.Client, node: FakeNode) -> None:
    ask(
        client,
        temperature=0.5,
        top_k=-1,
        top_p=0.9,
        min_p=0,
        repeat_penalty=1.1,
        repeat_last_n=16,
        frequency_penalty=-1,
        presence_penalty=1,
        logit_bias={"7": 2, "3": -100},
        ignore_eos=True,
        cache_prompt=False,
        max_tokens=9,
        max_completion_tokens=3,
        stop="x",
        reasoning_effort="low",
        chat_template_kwargs={"enable_thinking": False},
    )
    request = asked(node)
    sampling = request.options.sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p) == (0.5, 0, 0.9, 0.0)
    assert (sampling.repeat_penalty, sampling.repeat_last_tokens) == (1.1, 16)
    assert (sampling.frequency_penalty, sampling.presence_penalty) == (-1.0, 1.0)
    assert sampling.logit_bias == ((3, -100.0), (7, 2.0))
    assert (request.options.ignore_eos, request.options.use_prefix_cache) == (True, False)
    assert (request.options.max_tokens, request.options.stop) == (3, ("x",))
    assert request.template_kwargs == {"reasoning_effort": "low", "enable_thinking": False}


def test_a_seed_names_one_draw_for_ever(client: httpx.Client, node: FakeNode) -> None:
    ask(client, seed=42)
    # The bytes are part of the surface: an answer with a seed must repeat in every version.
    expected = "de1b693435342f53b66aa144de4205b07531f392613320b1db22d0cdae2b3c6e"
    assert asked(node).options.sampling.seed.hex() == expected


def test_without_a_seed_each_draw_is_fresh(client: httpx.Client, node: FakeNode) -> None:
    ask(client)
    ask(client, seed=-1)
    first, second = (request.options.sampling.seed for request in node.asked)
    assert first != second


@pytest.mark.parametrize(
    ("fields", "constraint"),
    [
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, Constraint(kind="json_object")),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"a": 1}}}},
            Constraint(kind="json_schema", source='{"a": 1}'),
        ),
        (
            {"response_format": {"type": "json_object", "schema": {"a": 1}}},
            Constraint(kind="json_schema", source='{"a": 1}'),
        ),
        ({"json_schema": {"a": 1}}, Constraint(kind="json_schema", source='{"a": 1}')),
        ({"grammar": 'root ::= "a"'}, Constraint(kind="gbnf", source='root ::= "a"')),
    ],
)
def test_output_rules_reach_the_node(
    client: httpx.Client, node: FakeNode, fields: dict[str, Any], constraint: Constraint | None
) -> None:
    assert ask(client, **fields).status_code == 200
    assert asked(node).options.constraint == constraint


def test_radius_comes_from_suffix_or_body(client: httpx.Client, node: FakeNode) -> None:
    ask(client)
    ask(client, unhosted={"radius": "local", "max_cost_usd": 0.01})
    ask(client, model=f"{MODEL}@public")
    assert [request.options.radius for request in node.asked] == [None, "local", "public"]
    assert {request.model for request in node.asked} == {MODEL}


def test_stop_string_and_length_are_told_apart(client: httpx.Client) -> None:
    assert ask(client, stop=[" node"]).json()["choices"][0]["finish_reason"] == "stop"
    assert ask(client, max_tokens=2).json()["choices"][0]["finish_reason"] == "length"


def test_an_error_after_the_start_is_an_event(client: httpx.Client) -> None:
    response = ask(client, model=DYING, stream=True)
    assert response.status_code == 200
    last = json.loads(response.text.strip().split("\n\n")[-1].removeprefix("data: "))
    assert last["error"]["code"] == "engine_failed"
    assert "[DONE]" not in response.text


def test_an_error_before_the_end_of_a_whole_answer_is_a_status(client: httpx.Client) -> None:
    response = ask(client, model=DYING)
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "engine_failed"
