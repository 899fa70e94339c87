"""The messages of the infer protocol: what is sent comes back, and what is wrong is named."""

import json
import math
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.node.infer.fake_engine import FACTS, MODEL
from unhosted.market.cbor import decode, encode
from unhosted.node.core.asks import Ask, ChatPrompt
from unhosted.node.core.errors import Refused
from unhosted.node.core.inference import Constraint, Delta, Embeddings, TokenLogprob, Usage
from unhosted.node.core.peering import PeerFacts
from unhosted.node.core.service import Message, Tool, ToolCall
from unhosted.node.shell.trusted import wire, wire_replies
from unhosted.node.shell.trusted.wire_fields import WireError
from unhosted.node.shell.trusted.wire_messages import (
    Accepted,
    AskRequest,
    CancelRequest,
    ComingRequest,
    Counted,
    CountRequest,
    Deltas,
    Embedded,
    EmbedRequest,
    Hello,
    RefusedReply,
    WrongRequest,
    WrongVersion,
)
from unhosted.verify.params import SamplingParams

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
token_ids = st.lists(st.integers(0, (1 << 31) - 1), max_size=5).map(tuple)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)
json_objects = st.dictionaries(words, json_values, max_size=4)
calls = st.builds(ToolCall, call_id=words, name=words, arguments=texts)
messages = st.builds(
    Message,
    role=st.sampled_from(["system", "user", "assistant", "tool"]),
    content=texts,
    name=st.none() | words,
    tool_calls=st.lists(calls, max_size=2).map(tuple),
    call_id=st.none() | words,
)
tools = st.builds(Tool, name=words, description=texts, parameters=json_objects)
chats = st.builds(
    ChatPrompt,
    messages=st.lists(messages, max_size=3).map(tuple),
    tools=st.lists(tools, max_size=2).map(tuple),
    template_kwargs=json_objects,
    date=st.sampled_from(["", "2026-11-22T18:00:00"]),
)
samplings = st.builds(
    SamplingParams,
    temperature=st.floats(0, 5),
    top_k=st.integers(0, 1024),
    top_p=st.floats(0, 1),
    min_p=st.floats(0, 1),
    repeat_penalty=st.floats(0.1, 10),
    repeat_last_tokens=st.integers(0, 4096),
    frequency_penalty=st.floats(-2, 2),
    presence_penalty=st.floats(-2, 2),
    logit_bias=st.dictionaries(st.integers(0, 1 << 20), st.floats(-100, 100), max_size=3).map(
        lambda pairs: tuple(sorted(pairs.items()))
    ),
    seed=st.binary(min_size=32, max_size=32),
)
constraints = st.builds(
    Constraint,
    kind=st.sampled_from(["json_schema", "json_object", "gbnf"]),
    source=texts,
    trigger=st.none() | words,
)
asks = st.builds(
    Ask,
    ask_id=words,
    model=st.just(MODEL),
    prompt=chats | texts | token_ids,
    sampling=samplings,
    max_tokens=st.none() | st.integers(0, 1 << 20),
    stop=st.lists(words, max_size=3).map(tuple),
    constraint=st.none() | constraints,
    logprobs=st.none() | st.integers(0, 20),
    ignore_eos=st.booleans(),
    use_prefix_cache=st.booleans(),
    flow=words,
    resume_ids=token_ids,
)
scores = st.builds(
    lambda token_id, text, score, top: TokenLogprob(
        token_id, text, score, tuple(TokenLogprob(*t) for t in top)
    ),
    st.integers(0, 1 << 20),
    st.binary(max_size=8),
    st.floats(max_value=0, allow_nan=False),
    st.lists(st.tuples(st.integers(0, 9), st.binary(max_size=4), st.floats(-50, 0)), max_size=3),
)
usages = st.builds(
    Usage,
    prompt_tokens=st.integers(0, 1 << 20),
    cached_tokens=st.integers(0, 1 << 20),
    completion_tokens=st.integers(0, 1 << 20),
)
endings = st.builds(
    Delta,
    token_ids=token_ids,
    text=texts,
    logprobs=st.lists(scores, max_size=2).map(tuple),
    finish=st.sampled_from(["stop", "length", "cancelled"]),
    stop_text=st.none() | words,
    usage=usages,
)
deltas = endings | st.builds(
    Delta, token_ids=token_ids, text=texts, logprobs=st.lists(scores, max_size=2).map(tuple)
)


VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "infer_1.json").read_text("utf-8"))["messages"]


@pytest.mark.parametrize(("sender", "message", "data"), VECTORS, ids=lambda one: str(one)[:30])
def test_a_message_has_the_bytes_of_its_vector(sender: str, message: dict[str, Any], data: str) -> None:
    assert encode(message).hex() == data
    raw = bytes.fromhex(data)
    decoded = wire.decode_request(raw) if sender == "asker" else wire_replies.decode_reply(raw)
    match decoded:
        case Hello() as hello:
            assert wire.encode_hello(hello) == raw
        case PeerFacts() as facts:
            assert wire_replies.encode_facts(facts) == raw
        case Accepted(request_id=request_id):
            assert wire_replies.encode_accepted(request_id) == raw
        case Deltas(entries=entries):
            assert wire_replies.encode_deltas(entries) == raw
        case RefusedReply(request_id=request_id, refusal=refusal):
            assert wire_replies.encode_refused(request_id, refusal) == raw
        case CancelRequest(request_id=request_id):
            assert wire.encode_cancel(request_id) == raw
        case AskRequest(ask=ask):
            assert (ask.prompt, ask.max_tokens) == ("Once", 2)
        case WrongRequest() as wrong:
            assert (wrong.field, wrong.rule) == ("logprobs", "21 is outside 0 to 20")
        case _:
            assert raw == wire_replies.ALIVE


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.integers(1, wire.REQUEST_ID_MAX), asks)
def test_an_ask_crosses_unchanged(request_id: int, ask: Ask) -> None:
    received = wire.decode_request(wire.encode_ask(request_id, ask))
    assert received == AskRequest(request_id=request_id, ask=ask)
    assert isinstance(received, AskRequest) and repr(received.ask) == repr(ask)  # the order of keys, too
    assert wire.decode_request(wire.encode_count(request_id, ask)) == CountRequest(
        request_id=request_id, ask=ask
    )


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(1, 1 << 40), deltas), max_size=20))
def test_deltas_cross_unchanged(entries: list[tuple[int, Delta]]) -> None:
    assert wire_replies.decode_reply(wire_replies.encode_deltas(entries)) == Deltas(entries)


def test_other_requests_cross_unchanged() -> None:
    inputs = ("a", (1, 2), "")
    for data, expected in (
        (wire.encode_hello(Hello(name="n", version="1")), Hello(name="n", version="1")),
        (wire.encode_cancel(3), CancelRequest(request_id=3)),
        (wire.encode_coming(3), ComingRequest(request_id=3)),
        (wire.encode_embed(4, MODEL, inputs), EmbedRequest(request_id=4, model=MODEL, inputs=inputs)),
        (encode({"k": "of a later version", "x": [1]}), None),
    ):
        assert wire.decode_request(data) == expected


def test_other_replies_cross_unchanged() -> None:
    embeddings = Embeddings(vectors=((0.5, -0.25, 0.0), (1.0, 2.0, 3.0)), prompt_tokens=9)
    for data, expected in (
        (wire.encode_hello(Hello(name="n", version="1")), Hello(name="n", version="1")),
        (wire_replies.encode_facts(FACTS), FACTS),
        (wire_replies.encode_accepted(3), Accepted(request_id=3)),
        (wire_replies.encode_counted(3, 12), Counted(request_id=3, tokens=12)),
        (wire_replies.encode_embedded(3, embeddings), Embedded(request_id=3, embeddings=embeddings)),
        (wire_replies.ALIVE, None),
        (encode({"k": "of a later version"}), None),
    ):
        assert wire_replies.decode_reply(data) == expected


def test_a_refusal_crosses_unchanged() -> None:
    refusal = Refused(
        "overloaded", "full", field="model", retry_after_s=7, details={"queue": [1, {"deep": 0.5}]}
    )
    reply = wire_replies.decode_reply(wire_replies.encode_refused(5, refusal))
    assert isinstance(reply, RefusedReply) and reply.request_id == 5
    assert _all_of(reply.refusal) == _all_of(refusal)


def test_details_that_cannot_cross_are_left_out_and_the_rest_is_said() -> None:
    refusal = Refused("overloaded", "half a pair: \ud800", details={"loop": object()})
    reply = wire_replies.decode_reply(wire_replies.encode_refused(5, refusal))
    assert isinstance(reply, RefusedReply)
    assert (reply.refusal.message, reply.refusal.details) == ("half a pair: ?", {})


@pytest.mark.parametrize("value", [b"\x00", [math.inf], {"deep": [b""]}])
def test_details_that_are_no_json_do_not_reach_the_client(value: object) -> None:
    data = encode({"k": "refused", "id": 1, "code": "overloaded", "message": "m", "details": {"a": value}})
    reply = wire_replies.decode_reply(data)
    assert isinstance(reply, RefusedReply)
    assert (reply.refusal.message, dict(reply.refusal.details)) == ("m", {})


def test_a_code_of_a_later_version_means_that_the_peer_does_not_answer() -> None:
    data = encode({"k": "refused", "id": 1, "code": "on_strike", "message": "no\x1b[2J"})
    reply = wire_replies.decode_reply(data)
    assert isinstance(reply, RefusedReply)
    assert (reply.refusal.code, reply.refusal.message) == ("engine_failed", "no [2J")


def _all_of(refusal: Refused) -> tuple[object, ...]:
    return refusal.code, refusal.message, refusal.field, refusal.retry_after_s, refusal.details


def test_unknown_fields_are_ignored_and_missing_ones_have_their_default() -> None:
    data = encode({"k": "ask", "id": 1, "model": MODEL, "text": "hi", "later": {"x": 1}})
    assert wire.decode_request(data) == AskRequest(request_id=1, ask=Ask(ask_id="", model=MODEL, prompt="hi"))


def test_another_version_is_recognised() -> None:
    assert wire.decode_request(encode({"k": "hello", "v": 2})) == WrongVersion(version=2)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"model": "AB" * 32}, "model"),
        ({"model": "ab"}, "model"),
        ({"text": None}, "chat"),
        ({"text": 5}, "text"),
        ({"text": None, "ids": [1, -1]}, "ids"),
        ({"text": None, "ids": [1, True]}, "ids"),
        ({"text": None, "chat": []}, "chat"),
        ({"text": None, "chat": {"messages": [{"role": 1}]}}, "chat.messages[0].role"),
        ({"text": None, "chat": {"messages": [], "tools": [{"name": "f", "parameters": "{"}]}},
         "chat.tools[0].parameters"),
        ({"text": None, "chat": {"messages": [], "tools": [{"name": "f", "parameters": "[" * 100_000}]}},
         "chat.tools[0].parameters"),
        ({"text": None, "chat": {"messages": [], "template": "NaN"}}, "chat.template"),
        ({"text": None, "chat": {"messages": [], "template": "[]"}}, "chat.template"),
        ({"sampling": {"temperature": 9.0}}, "sampling.temperature"),
        ({"sampling": {"temperature": math.inf}}, "sampling.temperature"),
        ({"sampling": {"temperature": "hot"}}, "sampling.temperature"),
        ({"sampling": {"seed": b"short"}}, "sampling.seed"),
        ({"sampling": {"logit_bias": [[2, 1.0], [1, 1.0]]}}, "sampling.logit_bias"),
        ({"sampling": {"logit_bias": [[2, "x"]]}}, "sampling.logit_bias"),
        ({"stop": ["x"] * 33}, "stop"),
        ({"stop": ["x" * 257]}, "stop"),
        ({"max": -1}, "max"),
        ({"logprobs": 21}, "logprobs"),
        ({"ignore_eos": 1}, "ignore_eos"),
        ({"constraint": {"kind": "regex"}}, "constraint.kind"),
        ({"resume": [1.5]}, "resume"),
        ({"flow": "x" * 65}, "flow"),
    ],
)  # fmt: skip
def test_a_field_that_breaks_its_rule_is_named(changes: dict[str, object], field: str) -> None:
    message = {"k": "ask", "id": 9, "model": MODEL, "text": "hi"} | changes
    received = wire.decode_request(encode(message))
    assert isinstance(received, WrongRequest), received
    assert (received.request_id, received.field) == (9, field)


@pytest.mark.parametrize(
    "message",
    [
        7,
        [],
        {},
        {"k": 1},
        {"k": "ask"},
        {"k": "ask", "id": -1},
        {"k": "cancel", "id": 1 << 53},
        {"k": "hello"},
    ],
    ids=repr,
)
def test_a_message_that_nobody_could_be_answered_for_is_none(message: object) -> None:
    with pytest.raises(WireError):
        wire.decode_request(encode(message))


@pytest.mark.parametrize(
    "row",
    [
        7,
        [1, []],
        ["1", [], ""],
        [1, [-1], ""],
        [1, ["x"], ""],
        [1, [], 5],
        [1, [], "x" * 65_537],
        [1, [0] * 1025, ""],
        [1, [], "", 5],
        [1, [], "", [[1, b"", 0.5]]],
        [1, [], "", [[1, "text", 0.5, []]]],
        [1, [], "", [[1, b"", "x", []]]],
        [1, [], "", [[1, b"", 0.5, [[1, b"", 0.5]] * 21]]],
        [1, [], "", None, "why"],
        [1, [], "", None, []],
        [1, [], "", None, None, 5],
        [1, [], "", None, None, None, [1, 2]],
        [1, [], "", None, None, None, [1, 2, -3]],
    ],
    ids=lambda row: repr(row)[:40],
)
def test_a_delta_of_another_shape_is_no_message(row: object) -> None:
    with pytest.raises(WireError):
        wire_replies.decode_reply(encode({"k": "deltas", "d": [row]}))


def test_what_a_peer_says_of_itself_cannot_move_the_cursor() -> None:
    message = decode(wire_replies.encode_facts(FACTS), bytes_max=10_000)
    message["name"] = "desk\x1b[31mtop"
    message["why_not"] = "quiet\nhours\u202e"
    message["models"][0]["name"] = "tiny\r\n:1b"
    facts = wire_replies.decode_reply(encode(message))
    assert isinstance(facts, PeerFacts)
    assert (facts.name, facts.why_not, facts.models[0].name) == ("desk [31mtop", "quiet hours ", "tiny  :1b")


@pytest.mark.parametrize("speed", [-1.0, math.inf, "fast"])
def test_a_speed_that_is_none_is_refused(speed: object) -> None:
    message = decode(wire_replies.encode_facts(FACTS), bytes_max=10_000)
    message["models"][0]["decode_tokens_per_s"] = speed
    with pytest.raises(WireError):
        wire_replies.decode_reply(encode(message))


def test_what_cannot_cross_is_refused_before_it_is_sent() -> None:
    ask = Ask(ask_id="a", model=MODEL, prompt="half a pair \ud800")
    with pytest.raises(Refused, match="surrogate"):
        wire.encode_ask(1, ask)
    tool = Tool(name="f", description="", parameters={"x": math.nan})
    with pytest.raises(Refused, match="tools"):
        wire.encode_ask(1, replace(ask, prompt=ChatPrompt(messages=(), tools=(tool,))))
    with pytest.raises(Refused, match="at most"):
        wire.encode_ask(1, replace(ask, prompt="x" * wire.REQUEST_BYTES_MAX))


def test_the_order_of_a_schemas_keys_is_kept() -> None:
    schema = json.loads('{"type":"object","properties":{"zebra":{},"ant":{}},"a":1}')
    tool = Tool(name="f", description="", parameters=schema)
    ask = Ask(ask_id="a", model=MODEL, prompt=ChatPrompt(messages=(), tools=(tool,)))
    received = wire.decode_request(wire.encode_ask(1, ask))
    assert isinstance(received, AskRequest) and isinstance(received.ask.prompt, ChatPrompt)
    assert json.dumps(received.ask.prompt.tools[0].parameters) == json.dumps(schema)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.binary(max_size=80) | st.builds(encode, st.dictionaries(st.sampled_from(
    ["k", "id", "v", "d", "model", "text", "chat", "models", "code", "message", "vectors", "inputs"]
), st.sampled_from(["hello", "ask", "deltas", "facts", "refused", "embedded", "embed", "cancel", MODEL])
    | st.integers(-2, 9) | json_objects.filter(lambda value: "\ud800" not in str(value) and _is_small(value))
    | st.lists(st.integers(0, 9)), max_size=6)))  # fmt: skip
def test_any_bytes_are_a_message_or_an_error(data: bytes) -> None:
    for decode_one in (wire.decode_request, wire_replies.decode_reply):
        with suppress(WireError):
            decode_one(data)


def _is_small(value: Any) -> bool:
    """Whether CBOR has an encoding for it: integers up to 64 bits."""
    try:
        encode(value)
    except ValueError:
        return False
    return True
