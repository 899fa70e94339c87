"""Prompts from templates: the shapes in use, and what a template may not do."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from unhosted.node.core.errors import Refused
from unhosted.node.core.service import Message, Tool, ToolCall
from unhosted.node.shell.chat_template import CHATML, PROMPT_CHARS_MAX, adds_special, render, uses_tools
from unhosted.node.shell.models.gguf import read_header

HELLO = (Message(role="user", content="Hello"),)
SEARCH = Tool(name="search", description="Search", parameters={"type": "object", "properties": {}})

# The shapes below follow those of common model families; the wording is ours.
BRACKETS = """\
{%- set system = '' -%}
{{- bos_token -}}
{%- for message in messages -%}
    {%- if message['role'] == 'system' -%}
        {%- if not loop.first -%}{{ raise_exception('the system message must come first') }}{%- endif -%}
        {%- set system = message['content'] -%}
        {%- continue -%}
    {%- endif -%}
    {%- if message['role'] == 'user' -%}
        [Q] {{ message['content'] | trim }} [/Q]
    {%- else -%}
        {% generation %}{{ message['content'] }}{{ eos_token }}{% endgeneration %}
    {%- endif -%}
{%- endfor -%}
"""

WITH_TOOLS = """\
{%- if tools %}
{{- '<|im_start|>system\\nTools:\\n' }}
{%- for tool in tools %}
    {{- tool | tojson + '\\n' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.tool_calls %}
        {{- '<|im_start|>assistant' }}
        {%- for call in message.tool_calls %}
            {{- '\\n<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
            {{- call.function.arguments | tojson + '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
"""

CALLED = (
    *HELLO,
    Message(role="assistant", tool_calls=(ToolCall(call_id="c1", name="search", arguments='{"q": "é"}'),)),
    Message(role="tool", content="found", call_id="c1"),
)


@pytest.fixture(scope="module")
def smollm_template(smollm2_model: Path) -> str:
    return read_header(smollm2_model).chat_template or ""


def test_smollm2_gets_its_default_system_message_and_tools_in_words(smollm_template: str) -> None:
    assert render(smollm_template, HELLO, bos="<|im_start|>", eos="<|im_end|>") == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    )
    given = (Message(role="developer", content="Be brief."), *HELLO)
    assert render(smollm_template, given, add_generation_prompt=False) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
    )
    assert not uses_tools(smollm_template)
    prompt = render(smollm_template, CALLED, (SEARCH,))
    assert '{"name": "search", "description": "Search"' in prompt
    assert '<tool_call>\n{"name": "search", "arguments": {"q": "é"}}\n</tool_call><|im_end|>' in prompt
    assert "<|im_start|>user\n<tool_response>\nfound\n</tool_response><|im_end|>" in prompt


@pytest.mark.parametrize("template", [None, "", CHATML])
def test_a_model_without_a_template_gets_chatml(template: str | None) -> None:
    assert render(template, HELLO) == "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    assert render(template, HELLO, add_generation_prompt=False) == "<|im_start|>user\nHello<|im_end|>\n"


def test_tools_are_given_to_a_template_that_knows_them() -> None:
    assert uses_tools(WITH_TOOLS)
    prompt = render(WITH_TOOLS, CALLED, (SEARCH,))
    first = prompt.split("\n")[2]
    assert json.loads(first)["function"]["name"] == "search"
    assert '<tool_call>\n{"name": "search", "arguments": {"q": "é"}}\n</tool_call>' in prompt
    assert "<|im_start|>tool\nfound<|im_end|>" in prompt
    assert "Tools" not in render(WITH_TOOLS, HELLO)


def test_arguments_that_are_no_object_stay_text() -> None:
    call = ToolCall(call_id="c", name="search", arguments="{broken")
    assert '"arguments": "{broken"' in render(WITH_TOOLS, (Message(role="assistant", tool_calls=(call,)),))


def test_loops_trims_and_generation_marks_work_and_the_role_of_a_developer_is_system() -> None:
    turns = (
        Message(role="developer", content="x"),
        *HELLO,
        Message(role="assistant", content="Hi"),
        Message(role="user", content=" again "),
    )
    assert render(BRACKETS, turns, bos="<s>", eos="</s>") == "<s>[Q] Hello [/Q]Hi</s>[Q] again [/Q]"


def test_a_bos_that_stands_twice_is_written_once() -> None:
    doubled = "{{ bos_token }}{{ bos_token }}{{ messages[0].content }}"
    assert render(doubled, HELLO, bos="<s>") == "<s>Hello"
    assert not adds_special("<s>Hello", "<s>")
    assert adds_special("Hello", "<s>")
    assert adds_special("Hello", "")


def test_the_date_is_an_argument() -> None:
    template = "{{ strftime_now('%d %b %Y') }}"
    assert render(template, HELLO, now=datetime(2026, 3, 1, tzinfo=UTC)) == "01 Mar 2026"
    with pytest.raises(Refused, match="date"):
        render(template, HELLO)


def test_the_requests_own_variables_reach_the_template_but_replace_nothing() -> None:
    template = "{{ enable_thinking }}{{ messages | length }}{{ add_generation_prompt }}"
    extra = {"enable_thinking": False, "messages": [], "add_generation_prompt": 7}
    assert render(template, HELLO, extra=extra) == "False1True"


def test_a_template_that_refuses_names_the_messages() -> None:
    with pytest.raises(Refused, match="system message must come first") as caught:
        render(BRACKETS, (*HELLO, Message(role="system", content="late")))
    assert (caught.value.code, caught.value.field) == ("invalid_request", "messages")


@pytest.mark.parametrize(
    "template",
    [
        "{% for",
        "{{ 1 / 0 }}",
        "{{ missing.field.deeper }}",
        "{{ messages[99].content }}",
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ raise_exception.__globals__['json'] }}",
        "{{ messages.append(1) }}",
        "{% include 'x' %}",
        "{{ 'x' * 100000000000 }}",
        "{{ 100000000000 * [1] }}",
        "{{ 9 ** 9 ** 9 }}",
        "{% for i in range(100000000) %}x{% endfor %}",
        "{% for i in range(20) %}{{ 'x' * 1000000 }}{% endfor %}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
        "x" * 300_000,
    ],
    ids=lambda v: v[:40],
)
def test_what_a_template_may_not_do_is_refused(template: str) -> None:
    assert PROMPT_CHARS_MAX < 20_000_000
    with pytest.raises(Refused, match="chat template"):
        render(template, HELLO)
