"""Tools: their limits, their words, and calls understood from text cut anywhere."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unhosted.node.core.errors import Refused
from unhosted.node.core.inference import Constraint
from unhosted.node.core.service import Message, Tool, ToolCall, ToolCallDelta
from unhosted.node.core.tool_parser import HELD_CHARS_MAX, ToolCallParser
from unhosted.node.core.tools import (
    TOOLS_MAX,
    call_id,
    call_text,
    check_tools,
    spell_out_tools,
    tool_constraint,
)

SEARCH = Tool(name="search", description="Search", parameters={"type": "object", "properties": {}})
OPEN, CLOSE = "<tool_call>", "</tool_call>"


def parsed(pieces: list[str]) -> tuple[str, list[tuple[str, str]]]:
    """All text, and each call's name and arguments, put together as a client does it."""
    parser = ToolCallParser("request")
    text = ""
    names: list[str] = []
    arguments: list[str] = []

    def take(step: tuple[str, tuple[ToolCallDelta, ...]]) -> None:
        nonlocal text
        text += step[0]
        for delta in step[1]:
            if delta.name is not None:
                assert delta.index == len(names)
                assert delta.call_id == call_id("request", delta.index)
                names.append(delta.name)
                arguments.append("")
            arguments[delta.index] += delta.arguments

    for piece in pieces:
        take(parser.push(piece))
    take(parser.finish())
    assert parser.calls_made == len(names)
    return text, list(zip(names, arguments, strict=True))


@pytest.mark.parametrize(
    ("written", "text", "calls"),
    [
        ("Hello <b>you</b> \n", "Hello <b>you</b> \n", []),
        (call_text("f", '{"a": "}{\\" </tool_call>"}'), "", [("f", '{"a": "}{\\" </tool_call>"}')]),
        ("Let me.\n\n" + call_text("f", "{}"), "Let me.", [("f", "{}")]),
        (call_text("f", "{}") + "\n" + call_text("g", '{"x": [1, {}]}') + "\n", "",
         [("f", "{}"), ("g", '{"x": [1, {}]}')]),
        (call_text("f", "{}") + " and so on", " and so on", [("f", "{}")]),
        (OPEN + "not JSON" + CLOSE + "x", OPEN + "not JSON" + CLOSE + "x", []),
        (OPEN + '{"name": "f", "arg', OPEN + '{"name": "f", "arg', []),
        (OPEN + '{"name": "f", "arguments": {"a": 1', "", [("f", '{"a": 1')]),
        (OPEN + '{"arguments": {"a": 1}, "name": "f"}' + CLOSE, "", [("f", '{"a": 1}')]),
        (OPEN + '{"name": "f", "arguments": "{\\"a\\": 1}"}' + CLOSE, "", [("f", '{"a": 1}')]),
        (OPEN + '{"name": "f", "parameters": {"a": 1}}' + CLOSE, "", [("f", '{"a": 1}')]),
        (OPEN + '{"name": "", "arguments": {}}' + CLOSE, OPEN + '{"name": "", "arguments": {}}' + CLOSE, []),
        (OPEN + '{"name": "f", "arguments": {}} oops' + CLOSE, "oops" + CLOSE, [("f", "{}")]),
        (OPEN + OPEN + CLOSE, OPEN + OPEN + CLOSE, []),
        ("<tool_" + "call", "<tool_call", []),
        (OPEN + "[" * 5000 + CLOSE, OPEN + "[" * 5000 + CLOSE, []),
    ],
    ids=lambda v: str(v)[:30],
)  # fmt: skip
def test_calls_and_text_are_told_apart(written: str, text: str, calls: list[tuple[str, str]]) -> None:
    assert parsed([written]) == (text, calls)
    assert parsed(list(written)) == (text, calls)


PARTS = st.sampled_from(
    (
        OPEN,
        CLOSE,
        '{"name": "f", "arguments": ',
        '{"a": [1]}',
        '{"b": "\\"}"}',
        "}",
        "\n",
        " ",
        "x",
        "<tool",
        '"',
    )
)


@given(parts=st.lists(PARTS, max_size=12), cuts=st.lists(st.integers(0, 300)))
def test_any_cut_of_anything_gives_the_same(parts: list[str], cuts: list[int]) -> None:
    written = "".join(parts)
    edges = sorted({0, len(written), *(cut % (len(written) + 1) for cut in cuts)})
    pieces = [written[a:b] for a, b in pairwise(edges)]
    assert parsed(pieces) == parsed([written])


def test_a_name_comes_first_and_arguments_as_they_are_written() -> None:
    parser = ToolCallParser("r")
    assert parser.push('Hm. <tool_call>\n{"name": "f"') == ("Hm.", ())
    _, first = parser.push(', "arguments": {"city')
    assert first == (
        ToolCallDelta(index=0, call_id=call_id("r", 0), name="f"),
        ToolCallDelta(index=0, arguments='{"city'),
    )
    assert parser.push('": "Rome"}') == ("", (ToolCallDelta(index=0, arguments='": "Rome"}'),))
    assert parser.push("}\n</tool_call>") == ("", ())
    assert parser.finish() == ("", ())


def test_what_is_held_back_is_bounded() -> None:
    written = OPEN + "x" * (HELD_CHARS_MAX + 10)
    parser = ToolCallParser("r")
    assert parser.push(written) == (written, ())
    blanks = " " * (HELD_CHARS_MAX + 10)
    assert parser.push(blanks)[0] == blanks


def test_call_ids_repeat_with_the_request_and_differ_in_it() -> None:
    assert call_id("a", 0) == call_id("a", 0)
    assert len({call_id("a", 0), call_id("a", 1), call_id("b", 0)}) == 3


def test_what_was_called_is_told_in_words_to_a_model_without_a_form_for_it() -> None:
    call = ToolCall(call_id="c", name="search", arguments='{"q": 1}')
    told = spell_out_tools(
        (
            Message(role="user", content="Find"),
            Message(role="assistant", content="Yes.", tool_calls=(call, call)),
            Message(role="tool", content="one", call_id="c"),
            Message(role="tool", content="two", call_id="c"),
        ),
        (SEARCH,),
    )
    assert [message.role for message in told] == ["system", "user", "assistant", "user"]
    assert json.dumps(SEARCH.parameters) in told[0].content
    assert told[2].content == "Yes.\n" + "\n".join([call_text("search", '{"q": 1}')] * 2)
    assert told[3].content.count("<tool_response>") == 2
    assert spell_out_tools((Message(role="user", content="x"),), ()) == (Message(role="user", content="x"),)


def test_without_tools_or_with_none_chosen_the_answer_keeps_its_own_rule() -> None:
    answer = Constraint(kind="json_object")
    assert tool_constraint((), "auto", forced_tool=None, parallel=True, answer=answer) is answer
    assert tool_constraint((SEARCH,), "none", forced_tool=None, parallel=True) is None


def test_a_constrained_answer_and_calls_exclude_each_other() -> None:
    answer = Constraint(kind="json_schema", source='{"type": "integer"}')
    both = tool_constraint((SEARCH,), "auto", forced_tool=None, parallel=True, answer=answer)
    assert both is not None and both.trigger is None and "root ::= integer | " in both.source
    with pytest.raises(Refused, match="cannot be combined"):
        tool_constraint(
            (SEARCH,), "auto", forced_tool=None, parallel=True, answer=Constraint(kind="gbnf", source="x")
        )


def test_a_tool_whose_schema_cannot_be_enforced_takes_some_object() -> None:
    odd = Tool(name="odd", description="", parameters={"properties": {"a": {"pattern": "x"}}})
    made = tool_constraint((odd,), "required", forced_tool=None, parallel=False)
    assert made is not None and '\\"arguments\\": " object "}' in made.source


def test_limits_on_tools_name_the_field() -> None:
    many = tuple(Tool(name=f"t{i}", description="", parameters={}) for i in range(TOOLS_MAX + 1))
    cases = [(many, "tools"), ((SEARCH, SEARCH), "tools[1].function.name")]
    cases += [((Tool(name=n, description="", parameters={}),), "tools[0].function.name") for n in ("", "a b")]
    for tools, field in cases:
        with pytest.raises(Refused) as caught:
            check_tools(tools)
        assert caught.value.field == field
    for tools, choice, forced in (((), "required", None), ((SEARCH,), "auto", "other")):
        with pytest.raises(Refused) as caught:
            tool_constraint(tools, choice, forced_tool=forced, parallel=True)  # type: ignore[arg-type]
        assert caught.value.field == "tool_choice"
