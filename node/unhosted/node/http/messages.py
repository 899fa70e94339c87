"""/v1/messages and /v1/messages/count_tokens: Anthropic's requests. The answers are in `messages_reply`."""

import json
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

from pydantic import Field

from unhosted.node.core.service import ChatRequest, Message, Tool, ToolCall, ToolChoice
from unhosted.node.http.answering import answer, unless_gone
from unhosted.node.http.exchange import Exchange, send_json
from unhosted.node.http.fields import (
    SamplingBody,
    allows_parallel,
    check_tools,
    format_constraint,
    model_and_radius,
    options,
    part_text,
    text_of,
    tool,
)
from unhosted.node.http.messages_reply import MessageReply
from unhosted.node.http.parsing import Body, invalid, not_supported, parse

Objects = list[dict[str, Any]]

_THINKING = ("thinking", "redacted_thinking")
"""Blocks of an earlier turn that Anthropic's API drops as well: they are not part of the next prompt."""


class Turn(Body):
    role: str
    content: str | Objects


class CountBody(SamplingBody):
    """What decides the prompt, and so its length."""

    model: str
    messages: list[Turn] = Field(min_length=1)
    system: str | Objects | None = None
    tools: Objects | None = None
    tool_choice: dict[str, Any] | None = None


class MessageBody(CountBody):
    max_tokens: Annotated[int, Field(ge=1)]
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    output_config: dict[str, Any] | None = None


async def messages(exchange: Exchange) -> None:
    body = parse(MessageBody, exchange.body)
    request = _request(
        body,
        max_tokens=body.max_tokens,
        stop=body.stop_sequences,
        form=(body.output_config or {}).get("format"),
    )
    await answer(exchange, [exchange.node.open_chat(request)], MessageReply(), streaming=bool(body.stream))


async def count_tokens(exchange: Exchange) -> None:
    body = parse(CountBody, exchange.body)
    request = _request(body, max_tokens=None, stop=None, form=None)
    count = await unless_gone(exchange, partial(exchange.node.count_tokens, request))
    if count is not None:
        await send_json(exchange.send, {"input_tokens": count})


def _request(body: CountBody, *, max_tokens: int | None, stop: list[str] | None, form: object) -> ChatRequest:
    """Raises: Refused (invalid_request, not_supported) naming the field."""
    if not isinstance(form, dict | None):
        raise invalid("output_config.format", "must be an object with a type")
    model, radius = model_and_radius(body.model, body.unhosted)
    tools = tuple(_tool(one, f"tools.{index}") for index, one in enumerate(body.tools or ()))
    choice, forced, is_parallel = _tool_choice(body.tool_choice)
    check_tools(tools, forced, "tool_choice.name")
    if choice == "required" and not tools:
        raise invalid("tool_choice", "any needs at least one tool in tools")
    turns: list[Message] = []
    if body.system is not None:
        turns.append(Message(role="system", content=text_of(body.system, "system")))
    for index, turn in enumerate(body.messages):
        turns.extend(_turn(turn, f"messages.{index}"))
    return ChatRequest(
        model=model,
        messages=tuple(turns),
        tools=tools,
        tool_choice=choice,
        forced_tool=forced,
        parallel_tool_calls=is_parallel,
        options=options(
            body,
            radius=radius,
            max_tokens=max_tokens,
            stop=stop,
            stop_field="stop_sequences",
            constraint=format_constraint(form, "output_config.format"),
        ),
    )


def _turn(turn: Turn, field: str) -> list[Message]:
    """One turn as one message, or several when it answers tool calls: each result is a message of its own."""
    if turn.role not in ("user", "assistant", "system"):
        raise invalid(f"{field}.role", f"{turn.role!r} is not user or assistant")
    if isinstance(turn.content, str):
        return [Message(role=turn.role, content=turn.content)]
    results: list[Message] = []
    calls: list[ToolCall] = []
    texts: list[str] = []
    for index, block in enumerate(turn.content):
        where = f"{field}.content.{index}"
        kind = block.get("type")
        if kind == "tool_result" and turn.role == "user":
            results.append(_tool_result(block, where))
        elif kind == "tool_use" and turn.role == "assistant":
            calls.append(_tool_use(block, where))
        elif kind in _THINKING and turn.role == "assistant":
            continue
        else:
            texts.append(part_text(block, where))
    if texts or calls or not results:
        results.append(Message(role=turn.role, content="\n".join(texts), tool_calls=tuple(calls)))
    return results


def _tool_result(block: Mapping[str, Any], field: str) -> Message:
    call_id = block.get("tool_use_id")
    if not isinstance(call_id, str):
        raise invalid(f"{field}.tool_use_id", "must be the id of the tool_use block that it answers")
    text = text_of(block.get("content"), f"{field}.content")
    if block.get("is_error"):
        text = f"Error: {text}"
    return Message(role="tool", content=text, call_id=call_id)


def _tool_use(block: Mapping[str, Any], field: str) -> ToolCall:
    call_id, name, given = block.get("id"), block.get("name"), block.get("input")
    if not isinstance(call_id, str) or not isinstance(name, str):
        raise invalid(field, "a tool_use block needs id and name, both strings")
    if not isinstance(given, dict):
        raise invalid(f"{field}.input", "must be an object")
    return ToolCall(call_id=call_id, name=name, arguments=json.dumps(given, ensure_ascii=False))


def _tool(given: Mapping[str, Any], field: str) -> Tool:
    kind = given.get("type", "custom")
    if kind not in (None, "custom"):
        raise not_supported(
            f"{field}.type", f"{kind!r} runs on Anthropic's servers; describe a tool of yours"
        )
    return tool(
        name=given.get("name"),
        description=given.get("description"),
        parameters=given.get("input_schema"),
        field=field,
        parameters_field="input_schema",
    )


def _tool_choice(given: dict[str, Any] | None) -> tuple[ToolChoice, str | None, bool]:
    """The choice, the forced tool's name, and whether several calls at once are allowed."""
    if given is None:
        return "auto", None, True
    choice: ToolChoice
    forced: str | None = None
    match given:
        case {"type": "auto"}:
            choice = "auto"
        case {"type": "none"}:
            choice = "none"
        case {"type": "any"}:
            choice = "required"
        case {"type": "tool", "name": str(name)}:
            choice, forced = "required", name
        case _:
            raise invalid("tool_choice", "must have type auto, any, none, or tool with a name")
    is_disabled = given.get("disable_parallel_tool_use")
    asked = None if is_disabled is None else is_disabled is not True
    return choice, forced, allows_parallel(asked, forced)
