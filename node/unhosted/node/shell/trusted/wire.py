"""`/unhosted/infer/1`, from the asking side: its messages and their limits; docs/protocol.md says the same.

A message is one deterministic CBOR map; `k` is its kind. Requests carry an id that the asker chooses, so a
channel carries many at once. Unknown fields are ignored; an unknown kind too, so that kinds may be added.
The replies are in `wire_replies`.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal, cast

from unhosted.market.cbor import CborError, decode, encode
from unhosted.node.core.asks import Ask, ChatPrompt
from unhosted.node.core.errors import Refused
from unhosted.node.core.inference import Constraint
from unhosted.node.core.service import Message, Tool, ToolCall
from unhosted.node.shell.trusted.wire_fields import (
    TOKEN_ID_MAX,
    FieldError,
    Fields,
    WireError,
    is_token_ids,
    json_text,
)
from unhosted.node.shell.trusted.wire_messages import (
    AskRequest,
    CancelRequest,
    ComingRequest,
    CountRequest,
    EmbedRequest,
    Hello,
    Request,
    WrongRequest,
    WrongVersion,
)
from unhosted.verify.params import LOGIT_BIAS_ENTRIES_MAX, SEED_BYTES, ParameterError, SamplingParams

PROTOCOL = "/unhosted/infer/1"
VERSION = 1

REQUEST_BYTES_MAX = 18 << 20
"""The HTTP surface takes bodies of 16 MiB, and an ask that goes on elsewhere carries its output's ids."""

MESSAGE_BYTES_MAX = REQUEST_BYTES_MAX
"""What a channel carries, either way; replies have a tighter limit of their own."""

TOKENS_MAX = 262_144
"""Token ids in one field: the longest contexts that home machines hold."""

TOKEN_COUNT_MAX = (1 << 31) - 1
"""Counts of tokens: the engine cuts max_tokens to its context; what it counts in holds no more."""

ITEMS_MAX = TOKENS_MAX * 2 + 131_072
"""CBOR values in one message: a prompt and an output of ids, and a long chat beside them."""

DEPTH_MAX = 8
"""message > chat > messages > message > calls > call; schemas cross as JSON text."""

REQUEST_ID_MAX = (1 << 53) - 1
"""Integers that JavaScript holds exactly."""

NAME_CHARS_MAX = 64
VERSION_CHARS_MAX = 32
ASK_ID_CHARS_MAX = 128
FLOW_CHARS_MAX = 64
"""As the HTTP surface has it; the answerer puts all flows of a peer into one of its own."""

MESSAGES_MAX = 16_384
ROLE_CHARS_MAX = 32
WORD_CHARS_MAX = 256
"""Names of tools and speakers, ids of calls, stop texts, triggers."""

TOOLS_MAX = 128
CALLS_MAX = 128
STOPS_MAX = 32
SOURCE_CHARS_MAX = 1 << 20
"""A grammar, a schema, a tool's parameters: real ones are a thousand times shorter."""

DATE_CHARS_MAX = 64
LOGPROBS_MAX = 20
EMBED_INPUTS_MAX = 16
"""Inputs of one embed request: an engine's step; 16 vectors of 8,192 floats are 512 KiB."""

_HASH_CHARS = 64
_HEX = frozenset("0123456789abcdef")


def encode_hello(hello: Hello) -> bytes:
    name, version = hello.name[:NAME_CHARS_MAX], hello.version[:VERSION_CHARS_MAX]
    return encode({"k": "hello", "v": VERSION, "name": name, "version": version})


def encode_ask(request_id: int, ask: Ask) -> bytes:
    """Raises: Refused (invalid_request) for what cannot cross."""
    return _encode({"k": "ask", "id": request_id, **_pack_ask(ask)})


def encode_count(request_id: int, ask: Ask) -> bytes:
    """Raises: Refused (invalid_request)."""
    return _encode({"k": "count", "id": request_id, **_pack_ask(ask)})


def encode_embed(request_id: int, model: str, inputs: Sequence[str | tuple[int, ...]]) -> bytes:
    """Raises: Refused (invalid_request)."""
    return _encode({"k": "embed", "id": request_id, "model": model, "inputs": list(inputs)})


def encode_cancel(request_id: int) -> bytes:
    return encode({"k": "cancel", "id": request_id})


def encode_coming(request_id: int) -> bytes:
    return encode({"k": "coming", "id": request_id})


def decode_request(data: bytes) -> Request:
    """Raises: WireError for what is no message, or has no id that could be answered."""
    try:
        value = decode(data, bytes_max=REQUEST_BYTES_MAX, depth_max=DEPTH_MAX, items_max=ITEMS_MAX)
        fields = Fields(value)
        kind = fields.text("k", chars_max=WORD_CHARS_MAX)
        if kind == "hello":
            return unpack_hello(fields)
        if kind not in _UNPACK:
            return None
        request_id = fields.uint("id", least=1, most=REQUEST_ID_MAX)
    except (CborError, FieldError) as error:
        raise WireError(str(error)) from None
    try:
        return _UNPACK[kind](request_id, fields)
    except FieldError as error:
        return WrongRequest(request_id=request_id, field=error.field, rule=error.rule)
    except ParameterError as error:
        return WrongRequest(request_id=request_id, field=f"sampling.{error.field}", rule=error.rule)


def _encode(message: dict[str, object]) -> bytes:
    try:
        data = encode(message)
    except CborError as error:
        raise Refused("invalid_request", f"the request cannot be sent to a peer: {error}") from None
    if len(data) > REQUEST_BYTES_MAX:
        raise Refused(
            "invalid_request",
            f"the request has {len(data)} bytes, at most {REQUEST_BYTES_MAX} go to a peer; send less text",
        )
    return data


def _pack_ask(ask: Ask) -> dict[str, object]:
    packed: dict[str, object] = {
        "ask": ask.ask_id,
        "model": ask.model,
        "sampling": _pack_sampling(ask.sampling),
    }
    match ask.prompt:
        case ChatPrompt() as chat:
            packed["chat"] = _pack_chat(chat)
        case str() as text:
            packed["text"] = text
        case ids:
            packed["ids"] = ids
    if ask.constraint is not None:
        constraint = ask.constraint
        packed["constraint"] = _given(
            kind=constraint.kind, source=constraint.source or None, trigger=constraint.trigger
        )
    return packed | _given(
        max=ask.max_tokens,
        stop=ask.stop or None,
        logprobs=ask.logprobs,
        ignore_eos=ask.ignore_eos or None,
        cache=None if ask.use_prefix_cache else False,
        flow=ask.flow or None,
        resume=ask.resume_ids or None,
    )


def _pack_sampling(sampling: SamplingParams) -> dict[str, object]:
    return {name: getattr(sampling, name) for name in _NUMBERS} | {
        "top_k": sampling.top_k,
        "repeat_last_tokens": sampling.repeat_last_tokens,
        "logit_bias": sampling.logit_bias,
        "seed": sampling.seed,
    }


def _pack_chat(chat: ChatPrompt) -> dict[str, object]:
    return {"messages": [_pack_message(message) for message in chat.messages]} | _given(
        tools=[
            {
                "name": tool.name,
                "description": tool.description,
                "parameters": json_text(tool.parameters, "tools"),
            }
            for tool in chat.tools
        ]
        or None,
        template=json_text(chat.template_kwargs, "chat_template_kwargs") if chat.template_kwargs else None,
        date=chat.date or None,
    )


def _pack_message(message: Message) -> dict[str, object]:
    return {"role": message.role, "content": message.content} | _given(
        name=message.name,
        calls=[
            {"id": call.call_id, "name": call.name, "arguments": call.arguments}
            for call in message.tool_calls
        ]
        or None,
        call_id=message.call_id,
    )


def _given(**values: object) -> dict[str, object]:
    """What is set; the rest has the default that docs/protocol.md gives it."""
    return {key: value for key, value in values.items() if value is not None}


def unpack_hello(fields: Fields) -> Hello | WrongVersion:
    """Raises: FieldError."""
    version = fields.uint("v", most=REQUEST_ID_MAX)
    if version != VERSION:
        return WrongVersion(version=version)
    return Hello(
        name=fields.text_or_empty("name", chars_max=NAME_CHARS_MAX),
        version=fields.text_or_empty("version", chars_max=VERSION_CHARS_MAX),
    )


def _unpack_ask(fields: Fields) -> Ask:
    return Ask(
        ask_id=fields.text_or_empty("ask", chars_max=ASK_ID_CHARS_MAX),
        model=unpack_blake3(fields, "model"),
        prompt=_unpack_prompt(fields),
        sampling=_unpack_sampling(fields.map("sampling")) if fields.has("sampling") else SamplingParams(),
        max_tokens=fields.uint_or_none("max", most=TOKEN_COUNT_MAX),
        stop=fields.texts("stop", most=STOPS_MAX, chars_max=WORD_CHARS_MAX),
        constraint=_unpack_constraint(fields.map("constraint")) if fields.has("constraint") else None,
        logprobs=fields.uint_or_none("logprobs", most=LOGPROBS_MAX),
        ignore_eos=fields.flag("ignore_eos", default=False),
        use_prefix_cache=fields.flag("cache", default=True),
        flow=fields.text_or_empty("flow", chars_max=FLOW_CHARS_MAX),
        resume_ids=fields.token_ids("resume", most=TOKENS_MAX),
    )


def unpack_blake3(fields: Fields, key: str) -> str:
    """Raises: FieldError."""
    model = fields.text(key, chars_max=_HASH_CHARS)
    if len(model) != _HASH_CHARS or not _HEX.issuperset(model):
        raise fields.wrong(key, "must be the BLAKE3 of the model's file, 64 hex digits in lower case")
    return model


def _unpack_prompt(fields: Fields) -> ChatPrompt | str | tuple[int, ...]:
    if fields.has("chat"):
        return _unpack_chat(fields.map("chat"))
    if fields.has("ids"):
        return fields.token_ids("ids", most=TOKENS_MAX)
    if fields.has("text"):
        return fields.text("text", chars_max=REQUEST_BYTES_MAX)
    raise fields.wrong("chat", "one of chat, text and ids must be there")


def _unpack_chat(fields: Fields) -> ChatPrompt:
    template_kwargs = fields.json("template", chars_max=SOURCE_CHARS_MAX) if fields.has("template") else {}
    if not isinstance(template_kwargs, dict):
        raise fields.wrong("template", "must be the JSON text of an object")
    return ChatPrompt(
        messages=tuple(_unpack_message(one) for one in fields.maps("messages", most=MESSAGES_MAX)),
        tools=tuple(_unpack_tool(one) for one in fields.maps("tools", most=TOOLS_MAX)),
        template_kwargs=template_kwargs,
        date=fields.text_or_empty("date", chars_max=DATE_CHARS_MAX),
    )


def _unpack_message(fields: Fields) -> Message:
    return Message(
        role=fields.text("role", chars_max=ROLE_CHARS_MAX),
        content=fields.text_or_empty("content", chars_max=REQUEST_BYTES_MAX),
        name=fields.text_or_none("name", chars_max=WORD_CHARS_MAX),
        tool_calls=tuple(
            ToolCall(
                call_id=call.text("id", chars_max=WORD_CHARS_MAX),
                name=call.text("name", chars_max=WORD_CHARS_MAX),
                arguments=call.text("arguments", chars_max=REQUEST_BYTES_MAX),
            )
            for call in fields.maps("calls", most=CALLS_MAX)
        ),
        call_id=fields.text_or_none("call_id", chars_max=WORD_CHARS_MAX),
    )


def _unpack_tool(fields: Fields) -> Tool:
    parameters = fields.json("parameters", chars_max=SOURCE_CHARS_MAX)
    if not isinstance(parameters, dict):
        raise fields.wrong("parameters", "must be the JSON text of an object")
    return Tool(
        name=fields.text("name", chars_max=WORD_CHARS_MAX),
        description=fields.text_or_empty("description", chars_max=SOURCE_CHARS_MAX),
        parameters=parameters,
    )


_NUMBERS = (
    "temperature", "top_p", "min_p", "repeat_penalty", "frequency_penalty", "presence_penalty",
)  # fmt: skip


def _unpack_sampling(fields: Fields) -> SamplingParams:
    given: dict[str, Any] = {name: fields.number(name) for name in _NUMBERS if fields.has(name)}
    for name in ("top_k", "repeat_last_tokens"):
        if fields.has(name):
            given[name] = fields.uint(name, most=TOKEN_COUNT_MAX)
    if fields.has("seed"):
        given["seed"] = fields.data("seed", bytes_max=SEED_BYTES)
    pairs = fields.items("logit_bias", most=LOGIT_BIAS_ENTRIES_MAX)
    for pair in pairs:
        if type(pair) is not list or len(pair) != 2 or type(pair[1]) not in (int, float):
            raise fields.wrong("logit_bias", "must be pairs of token id and number")
    token_ids = [pair[0] for pair in pairs]
    if not is_token_ids(token_ids) or any(one >= other for one, other in pairwise(token_ids)):
        raise fields.wrong("logit_bias", f"token ids must ascend, 0 to {TOKEN_ID_MAX}")
    return SamplingParams(**given, logit_bias=tuple((token_id, float(bias)) for token_id, bias in pairs))


def _unpack_constraint(fields: Fields) -> Constraint:
    kind = fields.text("kind", chars_max=WORD_CHARS_MAX)
    if kind not in ("json_schema", "json_object", "gbnf"):
        raise fields.wrong("kind", f"{kind[:32]!r} is none of json_schema, json_object and gbnf")
    return Constraint(
        kind=cast(Literal["json_schema", "json_object", "gbnf"], kind),
        source=fields.text_or_empty("source", chars_max=SOURCE_CHARS_MAX),
        trigger=fields.text_or_none("trigger", chars_max=WORD_CHARS_MAX),
    )


def _unpack_embed(request_id: int, fields: Fields) -> EmbedRequest:
    inputs: list[str | tuple[int, ...]] = []
    for index, one in enumerate(fields.items("inputs", most=EMBED_INPUTS_MAX)):
        inputs.append(
            one
            if type(one) is str
            else Fields({f"inputs[{index}]": one}).token_ids(f"inputs[{index}]", most=TOKENS_MAX)
        )
    return EmbedRequest(request_id=request_id, model=unpack_blake3(fields, "model"), inputs=tuple(inputs))


_UNPACK: dict[str, Callable[[int, Fields], Request]] = {
    "ask": lambda request_id, fields: AskRequest(request_id=request_id, ask=_unpack_ask(fields)),
    "count": lambda request_id, fields: CountRequest(request_id=request_id, ask=_unpack_ask(fields)),
    "embed": _unpack_embed,
    "coming": lambda request_id, fields: ComingRequest(request_id=request_id),
    "cancel": lambda request_id, fields: CancelRequest(request_id=request_id),
}
