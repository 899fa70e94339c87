"""A conversation as the prompt its model was trained on: the GGUF's Jinja template, rendered.

A template is code that came with the model file. It runs in Jinja's immutable sandbox: no attributes that
start with an underscore, nothing it is given can be changed, nothing outside is reachable. Its source, its
output, and what it can multiply are bounded. How long it runs is not.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from unhosted.node.core.errors import Refused
from unhosted.node.core.service import Message, Tool
from unhosted.node.core.tools import TOOL_CALL_OPEN, spell_out_tools

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""For models without a template: the most common form, and one that base models cope with."""

TEMPLATE_CHARS_MAX = 256 * 1024
"""The longest templates in use have about 20,000 characters."""

TEMPLATES_KEPT = 16
"""A compiled template takes about 200 KB; compiling takes 2 to 20 ms, rendering 25 us to 1 ms."""

PROMPT_CHARS_MAX = 16 * 1024 * 1024
"""Four million tokens: above every context, below what would trouble the node."""


def render(
    template: str | None,
    messages: Sequence[Message],
    tools: Sequence[Tool] = (),
    *,
    add_generation_prompt: bool = True,
    bos: str = "",
    eos: str = "",
    extra: Mapping[str, Any] | None = None,
    now: datetime | None = None,
) -> str:
    """The prompt. A model without a template (None or empty) gets ChatML.

    bos, eos: those tokens' text. extra: the request's own template variables; they cannot replace the
    conversation. now: what `strftime_now` tells the template; without it the call is refused, so that a
    prompt depends on its arguments alone. A bos that is written twice is written once: see
    `adds_special`.
    Raises: Refused (invalid_request) if the template fails or refuses the conversation.
    """
    source = template or CHATML
    if not uses_tools(source):
        messages, tools = spell_out_tools(messages, tools), ()
    variables: dict[str, Any] = {
        **(extra or {}),
        "messages": _message_values(messages, knows_developer="developer" in source),
        "tools": [_tool_value(tool) for tool in tools] or None,
        "add_generation_prompt": add_generation_prompt,
        "bos_token": bos,
        "eos_token": eos,
        "strftime_now": _clock(now),
    }
    parts: list[str] = []
    chars = 0
    try:
        for part in _compiled(source).generate(variables):
            chars += len(part)
            if chars > PROMPT_CHARS_MAX:
                raise _refused(f"gives more than {PROMPT_CHARS_MAX} characters: shorten the conversation")
            parts.append(part)
    except TemplateError as fault:
        raise _refused(f"refuses this conversation: {fault}") from fault
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError) as fault:
        # A template is a program, and these are its faults, not ours: most expect turns to alternate.
        raise _refused(f"fails on this conversation: {type(fault).__name__}: {fault}") from fault
    prompt = "".join(parts)
    if bos and prompt.startswith(bos + bos):
        prompt = prompt[len(bos) :]
    return prompt


def adds_special(prompt: str, bos: str) -> bool:
    """Whether the tokenizer is to add its own first token: not if the template has written it."""
    return not (bos and prompt.startswith(bos))


def uses_tools(template: str | None) -> bool:
    """Whether the template itself tells the model of tools, in the form that `core.tools` understands."""
    return bool(template) and "tools" in str(template) and TOOL_CALL_OPEN in str(template)


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, without products and powers that would fill the memory."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" and (abs(left) > 1e6 or abs(right) > 64):
            raise SecurityError("a power is too great")
        if operator == "*":
            for one, times in ((left, right), (right, left)):
                if hasattr(one, "__len__") and len(one) * times > PROMPT_CHARS_MAX:
                    raise SecurityError("a repetition is too long")
        return super().call_binop(context, operator, left, right)


class _Generation(Extension):
    """`{% generation %}` marks the assistant's part for training; here it is what it holds."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@lru_cache(maxsize=1)
def _environment() -> _Environment:
    environment = _Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    return environment


@lru_cache(maxsize=TEMPLATES_KEPT)
def _compiled(source: str) -> Any:
    if len(source) > TEMPLATE_CHARS_MAX:
        raise _refused(f"has {len(source)} characters, at most {TEMPLATE_CHARS_MAX}: use another build")
    return _environment().from_string(source)


def _refused(fault: str) -> Refused:
    return Refused("invalid_request", f"the model's chat template {fault}", field="messages")


def _raise_exception(message: object) -> None:
    raise TemplateError(str(message))


def _to_json(value: Any, indent: int | None = None, **options: Any) -> str:
    """As templates expect it: plain JSON, not escaped for HTML as Jinja's own."""
    options.setdefault("ensure_ascii", False)
    return json.dumps(value, indent=indent, **options)


def _clock(now: datetime | None) -> Callable[[str], str]:
    def strftime_now(form: str) -> str:
        if now is None:
            raise TemplateError("it asks for the date, which was not given")
        return now.strftime(form)

    return strftime_now


def _message_values(messages: Sequence[Message], *, knows_developer: bool) -> list[dict[str, Any]]:
    values = []
    for message in messages:
        role = "system" if message.role == "developer" and not knows_developer else message.role
        # Never None: templates join it to text, and test it for truth where they allow none.
        value: dict[str, Any] = {"role": role, "content": message.content}
        if message.name is not None:
            value["name"] = message.name
        if message.call_id is not None:
            value["tool_call_id"] = message.call_id
        if message.tool_calls:
            value["tool_calls"] = [
                {
                    "id": call.call_id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": _arguments(call.arguments)},
                }
                for call in message.tool_calls
            ]
        values.append(value)
    return values


def _arguments(text: str) -> Any:
    """Templates write arguments with `tojson`, which would quote a string once more."""
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict) else text


def _tool_value(tool: Tool) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {
            "name": tool.name,
            "description": tool.description,
            "parameters": dict(tool.parameters),
        },
    }
