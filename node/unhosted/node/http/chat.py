"""/v1/chat/completions."""

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from unhosted.node.core.errors import Refused
from unhosted.node.core.inference import Usage
from unhosted.node.core.service import (
    AnswerDelta,
    ChatRequest,
    Message,
    Provenance,
    Tool,
    ToolCall,
    ToolCallDelta,
    ToolChoice,
)
from unhosted.node.http.answering import answer
from unhosted.node.http.collected import Choice, event, openai_usage, token_logprobs, total_usage
from unhosted.node.http.errors import error_body, fault_of
from unhosted.node.http.exchange import Exchange, provenance_body
from unhosted.node.http.fields import (
    LOGPROBS_MAX,
    SAMPLES_MAX,
    MaxTokens,
    SamplingBody,
    StopStrings,
    allows_parallel,
    check_tools,
    model_and_radius,
    options,
    output_constraint,
    text_of,
    tool,
)
from unhosted.node.http.parsing import Body, invalid, not_supported, parse

Objects = list[dict[str, Any]]

_ROLES = ("system", "developer", "user", "assistant", "tool")


class CalledFunction(Body):
    name: str
    arguments: str


class CalledTool(Body):
    id: str
    function: CalledFunction


class ChatMessage(Body):
    role: str
    content: str | Objects | None = None
    name: str | None = None
    tool_calls: list[CalledTool] | None = None
    tool_call_id: str | None = None


class StreamOptions(Body):
    include_usage: bool | None = None


class ChatBody(SamplingBody):
    """OpenAI's chat request, with llama-server's grammar, json_schema and chat_template_kwargs."""

    model: str
    messages: list[ChatMessage] = Field(min_length=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: MaxTokens = None
    max_completion_tokens: MaxTokens = None
    n: int | None = Field(default=None, ge=1, le=SAMPLES_MAX)
    stop: StopStrings = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=LOGPROBS_MAX)
    response_format: dict[str, Any] | None = None
    grammar: str | None = None
    json_schema: dict[str, Any] | None = None
    tools: Objects | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: str | None = None


async def chat_completions(exchange: Exchange) -> None:
    body = parse(ChatBody, exchange.body)
    request = chat_request(body)
    reply = ChatReply(
        samples=request.options.n,
        has_logprobs=request.options.logprobs is not None,
        has_usage=bool(body.stream_options and body.stream_options.include_usage),
    )
    await answer(exchange, [exchange.node.open_chat(request)], reply, streaming=bool(body.stream))


def chat_request(body: ChatBody) -> ChatRequest:
    """Raises: Refused (invalid_request, not_supported) naming the field."""
    model, radius = model_and_radius(body.model, body.unhosted)
    tools = tuple(_tool(one, f"tools.{index}") for index, one in enumerate(body.tools or ()))
    choice, forced = _tool_choice(body.tool_choice)
    check_tools(tools, forced, "tool_choice.function.name")
    if choice == "required" and not tools:
        raise invalid("tool_choice", "required needs at least one tool in tools")
    template_kwargs = dict(body.chat_template_kwargs or {})
    if body.reasoning_effort is not None:
        template_kwargs["reasoning_effort"] = body.reasoning_effort
    limit = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    return ChatRequest(
        model=model,
        messages=tuple(_message(one, f"messages.{index}") for index, one in enumerate(body.messages)),
        tools=tools,
        tool_choice=choice,
        forced_tool=forced,
        parallel_tool_calls=allows_parallel(body.parallel_tool_calls, forced),
        template_kwargs=template_kwargs,
        options=options(
            body,
            radius=radius,
            max_tokens=limit,
            stop=body.stop,
            logprobs=_logprobs(body),
            n=body.n or 1,
            constraint=output_constraint(body.response_format, body.json_schema, body.grammar),
        ),
    )


def _logprobs(body: ChatBody) -> int | None:
    if body.logprobs:
        return body.top_logprobs or 0
    if body.top_logprobs:
        raise invalid("top_logprobs", "needs logprobs to be true")
    return None


def _message(message: ChatMessage, field: str) -> Message:
    if message.role not in _ROLES:
        raise invalid(f"{field}.role", f"{message.role!r} is not one of {', '.join(_ROLES)}")
    if message.role == "tool" and message.tool_call_id is None:
        raise invalid(f"{field}.tool_call_id", "a tool's message must name the call that it answers")
    return Message(
        role=message.role,
        content=text_of(message.content, f"{field}.content"),
        name=message.name,
        tool_calls=tuple(
            ToolCall(call_id=call.id, name=call.function.name, arguments=call.function.arguments)
            for call in message.tool_calls or ()
        ),
        call_id=message.tool_call_id,
    )


def _tool(given: Mapping[str, Any], field: str) -> Tool:
    kind, function = given.get("type", "function"), given.get("function")
    if kind != "function":
        raise not_supported(f"{field}.type", f"{kind!r} is no kind of tool here; describe it as a function")
    if not isinstance(function, dict):
        raise invalid(f"{field}.function", "must be an object with name, description and parameters")
    return tool(
        name=function.get("name"),
        description=function.get("description"),
        parameters=function.get("parameters"),
        field=f"{field}.function",
        parameters_field="parameters",
    )


def _tool_choice(given: str | dict[str, Any] | None) -> tuple[ToolChoice, str | None]:
    match given:
        case None | "auto":
            return "auto", None
        case "none":
            return "none", None
        case "required":
            return "required", None
        case {"type": "function", "function": {"name": str(name)}}:
            return "required", name
        case _:
            raise invalid(
                "tool_choice",
                'must be auto, none, required or {"type": "function", "function": {"name": …}}',
            )


class ChatReply:
    """Chunks of `chat.completion.chunk`, or one `chat.completion`."""

    silence = b": waiting for the next token\n\n"

    def __init__(self, *, samples: int, has_logprobs: bool, has_usage: bool) -> None:
        self._choices = [Choice() for _ in range(samples)]
        self._id = f"chatcmpl-{secrets.token_hex(12)}"
        self._created_unix_s = int(time.time())
        self._has_logprobs = has_logprobs
        self._has_usage = has_usage
        self._unfinished = samples
        self._last: tuple[int, str] | None = None
        self._is_whole = True
        self._head = ""
        self._texts: list[str] = []

    def begin(self, model: str, provenance: Provenance) -> bytes:
        self._is_whole = False
        usage = ',"usage":null' if self._has_usage else ""
        self._head = (
            f'{{"id":"{self._id}","object":"chat.completion.chunk","created":{self._created_unix_s},'
            f'"model":{json.dumps(model)}{usage},"choices":['
        )
        # What precedes the text of each choice's chunk, made once: per token only the text is encoded.
        self._texts = [
            f'data: {self._head}{{"index":{index},"delta":{{"content":' for index in range(len(self._choices))
        ]
        starts = (
            self._chunk(index, {"role": "assistant", "content": ""}) for index in range(len(self._choices))
        )
        return b"".join(starts)

    def delta(self, source: int, delta: AnswerDelta) -> bytes:
        if self._is_whole:
            self._choices[delta.choice].add(delta)
            return b""
        if delta.text and not (delta.logprobs or delta.tool_calls or delta.finish):
            text = json.dumps(delta.text)
            head = self._texts[delta.choice]
            return f'{head}{text}}},"logprobs":null,"finish_reason":null}}]}}\n\n'.encode()
        return self._uncommon(delta)

    def _uncommon(self, delta: AnswerDelta) -> bytes:
        said: dict[str, object] = {}
        if delta.text or delta.logprobs:
            said["content"] = delta.text
        if delta.tool_calls:
            said["tool_calls"] = _call_deltas(delta.tool_calls)
        logprobs = {"content": token_logprobs(delta.logprobs)} if delta.logprobs else None
        data = self._chunk(delta.choice, said, logprobs=logprobs) if said else b""
        if delta.finish is not None:
            self._choices[delta.choice].usage = delta.usage
            self._unfinished -= 1
            if self._unfinished == 0:
                # Held back to the end of the stream: the last chunk carries what is known only then.
                self._last = (delta.choice, delta.finish)
            else:
                data += self._chunk(delta.choice, {}, finish=delta.finish)
        return data

    def end(self, provenance: Provenance) -> bytes:
        unhosted = {"unhosted": provenance_body(provenance)}
        parts: list[bytes] = []
        if self._last is not None:
            choice, finish = self._last
            parts.append(self._chunk(choice, {}, finish=finish, extra={} if self._has_usage else unhosted))
        if self._has_usage:
            usage = {"usage": openai_usage(self._usage()), **unhosted}
            head = json.loads(self._head + "]}")
            parts.append(event(head | usage))
        return b"".join([*parts, b"data: [DONE]\n\n"])

    def fault(self, refused: Refused) -> bytes:
        return event(error_body(fault_of(refused), "openai"))

    def whole(self, model: str, provenance: Provenance) -> dict[str, object]:
        return {
            "id": self._id,
            "object": "chat.completion",
            "created": self._created_unix_s,
            "model": model,
            "choices": [self._choice(index, choice) for index, choice in enumerate(self._choices)],
            "usage": openai_usage(self._usage()),
            "unhosted": provenance_body(provenance),
        }

    def _choice(self, index: int, choice: Choice) -> dict[str, object]:
        calls = [_call(call) for call in choice.tool_calls]
        message: dict[str, object] = {"role": "assistant", "content": choice.text}
        if calls:
            message |= {"content": choice.text or None, "tool_calls": calls}
        logprobs = {"content": token_logprobs(choice.logprobs)} if self._has_logprobs else None
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": choice.finish}

    def _chunk(
        self,
        choice: int,
        said: Mapping[str, object],
        *,
        logprobs: object = None,
        finish: str | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> bytes:
        body = {"index": choice, "delta": said, "logprobs": logprobs, "finish_reason": finish}
        tail = "]" + "".join(
            f",{json.dumps(name)}:{json.dumps(value)}" for name, value in (extra or {}).items()
        )
        return f"data: {self._head}{json.dumps(body, separators=(',', ':'))}{tail}}}\n\n".encode()

    def _usage(self) -> Usage:
        return total_usage([[choice.usage for choice in self._choices]])


def _call_deltas(parts: Sequence[ToolCallDelta]) -> list[dict[str, object]]:
    """One entry for each call: the SDK keeps only one of several with the same index in its first chunk."""
    entries: dict[int, dict[str, object]] = {}
    functions: dict[int, dict[str, str]] = {}
    for part in parts:
        function = functions.setdefault(part.index, {})
        entry = entries.setdefault(part.index, {"index": part.index, "function": function})
        if part.call_id is not None:
            entry |= {"id": part.call_id, "type": "function"}
        if part.name is not None:
            function["name"] = part.name
        function["arguments"] = function.get("arguments", "") + part.arguments
    return list(entries.values())


def _call(call: ToolCall) -> dict[str, object]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.call_id, "type": "function", "function": function}
