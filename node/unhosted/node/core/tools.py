"""Tool calls in text: how a model is told of its tools, held to their form, and understood.

The form is the one most open models were trained on: JSON with `name` and `arguments` between
`<tool_call>` and `</tool_call>`. Models whose template knows it get their tools from the template; to the
others the same words are said in the system message. What a model writes that is not a call is text.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b

from unhosted.node.core.errors import Refused
from unhosted.node.core.inference import Constraint
from unhosted.node.core.json_grammar import JsonGrammar, literal
from unhosted.node.core.json_schema import add_schema
from unhosted.node.core.service import Message, Tool, ToolChoice

TOOL_CALL_OPEN = "<tool_call>"
TOOL_CALL_CLOSE = "</tool_call>"

TOOLS_MAX = 128
"""OpenAI's limit; every tool is also part of the prompt."""

PARALLEL_CALLS_MAX = 32
"""A small model that repeats itself would otherwise call until its context is full."""

_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,64}")


def check_tools(tools: Sequence[Tool]) -> None:
    """Raises: Refused if there are too many tools, or a name is malformed or stands twice."""
    if len(tools) > TOOLS_MAX:
        raise Refused(
            "invalid_request", f"{len(tools)} tools, at most {TOOLS_MAX}: send fewer", field="tools"
        )
    seen: set[str] = set()
    for index, tool in enumerate(tools):
        if not _NAME.fullmatch(tool.name):
            rule = "is not 1 to 64 letters, digits, dots, colons, dashes or underscores: rename it"
        elif tool.name in seen:
            rule = "stands twice: rename one"
        else:
            seen.add(tool.name)
            continue
        raise Refused(
            "invalid_request", f"tool name {tool.name!r} {rule}", field=f"tools[{index}].function.name"
        )


def tool_constraint(
    tools: Sequence[Tool],
    choice: ToolChoice,
    *,
    forced_tool: str | None,
    parallel: bool,
    answer: Constraint | None = None,
) -> Constraint | None:
    """What the output must keep to, given the tools; None if it is free.

    auto: any text until a call begins, or, if `answer` constrains the text, either that or calls.
    required: calls only. forced_tool: calls of that tool only. A tool whose schema cannot be enforced is
    held to some JSON object as its arguments. Raises: Refused.
    """
    if forced_tool is not None:
        tools = [tool for tool in tools if tool.name == forced_tool]
        if not tools:
            raise Refused(
                "invalid_request",
                f"tool_choice names {forced_tool!r}, which is not among tools",
                field="tool_choice",
            )
    elif choice == "none" or (choice == "auto" and not tools):
        return answer
    check_tools(tools)
    if not tools:
        raise Refused(
            "invalid_request", "tool_choice is required and there are no tools", field="tool_choice"
        )
    grammar = JsonGrammar()
    calls = [_call_rule(grammar, tool) for tool in tools]
    call = grammar.add(" | ".join(calls))
    root = f'{call} ("\\n" {call}){{0,{PARALLEL_CALLS_MAX - 1}}}' if parallel else call
    if choice == "required" or forced_tool is not None:
        return Constraint(kind="gbnf", source=grammar.text(root))
    if answer is None:
        return Constraint(kind="gbnf", source=grammar.text(root), trigger=TOOL_CALL_OPEN)
    match answer.kind:
        case "json_object":
            other = "object"
        case "json_schema":
            other = add_schema(grammar, json.loads(answer.source), field="response_format")
        case "gbnf":
            raise Refused(
                "not_supported", "a grammar cannot be combined with tools: drop one", field="grammar"
            )
    return Constraint(kind="gbnf", source=grammar.text(f"{other} | {grammar.add(root)}"))


def tool_system_text(tools: Sequence[Tool]) -> str:
    """How a model whose template knows no tools is told of them."""
    described = "\n".join(
        json.dumps(
            {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)},
            ensure_ascii=False,
        )
        for tool in tools
    )
    example = '{"name": "NAME", "arguments": {ARGUMENTS}}'
    return (
        "You can call these functions. Each line describes one, its parameters as a JSON schema:\n"
        f"<tools>\n{described}\n</tools>\n"
        f"To call one, write exactly this, with its name and arguments, and then stop:\n"
        f"{TOOL_CALL_OPEN}\n{example}\n{TOOL_CALL_CLOSE}\n"
        "The result comes back between <tool_response> and </tool_response>. "
        "If no function helps, answer as usual."
    )


def spell_out_tools(messages: Sequence[Message], tools: Sequence[Tool]) -> tuple[Message, ...]:
    """The same conversation for a template that knows no tools: calls and results become text."""
    out: list[Message] = []
    for message in messages:
        if message.role == "tool":
            result = f"<tool_response>\n{message.content}\n</tool_response>"
            if out and out[-1].role == "user" and out[-1].content.endswith("</tool_response>"):
                out[-1] = replace(out[-1], content=f"{out[-1].content}\n{result}")
            else:
                out.append(Message(role="user", content=result))
        elif message.tool_calls:
            parts = [message.content] if message.content else []
            parts += [call_text(call.name, call.arguments) for call in message.tool_calls]
            out.append(Message(role=message.role, content="\n".join(parts), name=message.name))
        else:
            out.append(message)
    if not tools:
        return tuple(out)
    text = tool_system_text(tools)
    if out and out[0].role in ("system", "developer"):
        return (replace(out[0], content=f"{out[0].content}\n\n{text}"), *out[1:])
    return (Message(role="system", content=text), *out)


def call_text(name: str, arguments: str) -> str:
    """A call as the model would have written it."""
    call = f'{{"name": {json.dumps(name)}, "arguments": {arguments or "{}"}}}'
    return f"{TOOL_CALL_OPEN}\n{call}\n{TOOL_CALL_CLOSE}"


def call_id(request_id: str, index: int) -> str:
    """The id of a request's call: the same on every run of the request."""
    return "call_" + blake2b(f"{request_id}/{index}".encode(), digest_size=12).hexdigest()


def _invalid(field: str, message: str) -> Refused:
    return Refused("invalid_request", message, field=field)


def _call_rule(grammar: JsonGrammar, tool: Tool) -> str:
    try:
        arguments = add_schema(grammar, {"type": "object", **tool.parameters}, field="tools")
    except Refused:
        # A schema here is a hint to the model; clients check the arguments they get, as they must anyway.
        arguments = "object"
    before, after = call_text(tool.name, "\0").split("\0")
    return grammar.add(f"{literal(before)} {arguments} {literal(after)}")
