"""/v1/responses: requests of OpenAI's newer API, without its stored state. Answers: `responses_reply`."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from unhosted.node.core.service import ChatRequest, Message, Tool, ToolCall, ToolChoice
from unhosted.node.http.answering import answer
from unhosted.node.http.exchange import Exchange
from unhosted.node.http.fields import (
    LOGPROBS_MAX,
    MaxTokens,
    SamplingBody,
    allows_parallel,
    check_tools,
    format_constraint,
    model_and_radius,
    options,
    text_of,
    tool,
)
from unhosted.node.http.parsing import Body, invalid, not_supported, parse
from unhosted.node.http.responses_reply import ResponseReply

Objects = list[dict[str, Any]]

_LOGPROBS_INCLUDED = "message.output_text.logprobs"


class TextBody(Body):
    format: dict[str, Any] | None = None


class Reasoning(Body):
    effort: str | None = None


class ResponseBody(SamplingBody):
    model: str
    input: str | Objects
    instructions: str | None = None
    stream: bool | None = None
    max_output_tokens: MaxTokens = None
    text: TextBody | None = None
    tools: Objects | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    include: list[str] | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=LOGPROBS_MAX)
    reasoning: Reasoning | None = None
    metadata: dict[str, str] | None = None
    prompt: dict[str, Any] | None = None


async def responses(exchange: Exchange) -> None:
    body = parse(ResponseBody, exchange.body)
    request = response_request(body)
    reply = ResponseReply(_echo(body, request))
    await answer(exchange, [exchange.node.open_chat(request)], reply, streaming=bool(body.stream))


def response_request(body: ResponseBody) -> ChatRequest:
    """Raises: Refused (invalid_request, not_supported) naming the field."""
    if body.prompt is not None:
        raise not_supported("prompt", "no prompt templates are stored here; send instructions and input")
    model, radius = model_and_radius(body.model, body.unhosted)
    tools = tuple(_tool(one, f"tools.{index}") for index, one in enumerate(body.tools or ()))
    choice, forced = _tool_choice(body.tool_choice)
    check_tools(tools, forced, "tool_choice.name")
    if choice == "required" and not tools:
        raise invalid("tool_choice", "required needs at least one tool in tools")
    effort = body.reasoning.effort if body.reasoning else None
    wants_logprobs = _LOGPROBS_INCLUDED in (body.include or ()) or bool(body.top_logprobs)
    return ChatRequest(
        model=model,
        messages=_turns(body),
        tools=tools,
        tool_choice=choice,
        forced_tool=forced,
        parallel_tool_calls=allows_parallel(body.parallel_tool_calls, forced),
        template_kwargs={} if effort is None else {"reasoning_effort": effort},
        options=options(
            body,
            radius=radius,
            max_tokens=body.max_output_tokens,
            stop=None,
            logprobs=(body.top_logprobs or 0) if wants_logprobs else None,
            constraint=format_constraint(body.text.format if body.text else None, "text.format"),
        ),
    )


def _turns(body: ResponseBody) -> tuple[Message, ...]:
    turns: list[Message] = []
    if body.instructions:
        turns.append(Message(role="system", content=body.instructions))
    if isinstance(body.input, str):
        turns.append(Message(role="user", content=body.input))
        return tuple(turns)
    if not body.input:
        raise invalid("input", "must not be empty")
    for index, item in enumerate(body.input):
        _add_item(turns, item, f"input.{index}")
    return tuple(turns)


def _add_item(turns: list[Message], item: Mapping[str, Any], field: str) -> None:
    """Append one input item; calls that follow one another are one assistant turn, as a model made them."""
    match item.get("type", "message"):
        case "message":
            role = item.get("role")
            if role not in ("system", "developer", "user", "assistant"):
                raise invalid(f"{field}.role", f"{role!r} is not system, developer, user or assistant")
            turns.append(Message(role=role, content=text_of(item.get("content"), f"{field}.content")))
        case "function_call":
            call = _call(item, field)
            if turns and turns[-1].role == "assistant":
                last = turns.pop()
                turns.append(
                    Message(role="assistant", content=last.content, tool_calls=(*last.tool_calls, call))
                )
            else:
                turns.append(Message(role="assistant", tool_calls=(call,)))
        case "function_call_output":
            call_id = item.get("call_id")
            if not isinstance(call_id, str):
                raise invalid(f"{field}.call_id", "must be the id of the call that it answers")
            text = text_of(item.get("output"), f"{field}.output")
            turns.append(Message(role="tool", content=text, call_id=call_id))
        case "reasoning":
            # Earlier reasoning is not part of the next prompt; OpenAI's models do not see it either.
            return
        case kind:
            raise not_supported(
                f"{field}.type", f"{kind!r} is no kind of input here; send messages and calls"
            )


def _call(item: Mapping[str, Any], field: str) -> ToolCall:
    call_id, name, arguments = item.get("call_id"), item.get("name"), item.get("arguments")
    if not isinstance(call_id, str) or not isinstance(name, str) or not isinstance(arguments, str):
        raise invalid(field, "a function_call needs call_id, name and arguments, all strings")
    return ToolCall(call_id=call_id, name=name, arguments=arguments)


def _tool(given: Mapping[str, Any], field: str) -> Tool:
    kind = given.get("type")
    if kind != "function":
        raise not_supported(f"{field}.type", f"{kind!r} is no kind of tool here; describe it as a function")
    return tool(
        name=given.get("name"),
        description=given.get("description"),
        parameters=given.get("parameters"),
        field=field,
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
        case {"type": "function", "name": str(name)}:
            return "required", name
        case _:
            raise invalid("tool_choice", 'must be auto, none, required or {"type": "function", "name": …}')


def _echo(body: ResponseBody, request: ChatRequest) -> dict[str, object]:
    """The part of a response object that repeats the request."""
    sampling = request.options.sampling
    return {
        "instructions": body.instructions,
        "max_output_tokens": request.options.max_tokens,
        "metadata": body.metadata or {},
        "parallel_tool_calls": request.parallel_tool_calls,
        "previous_response_id": None,
        "store": False,
        "temperature": sampling.temperature,
        "text": {"format": (body.text.format if body.text else None) or {"type": "text"}},
        "tool_choice": body.tool_choice or "auto",
        "tools": body.tools or [],
        "top_p": sampling.top_p,
        "truncation": "disabled",
    }
