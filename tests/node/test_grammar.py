"""Constraints through llama.cpp's own grammar: what they let through, what they refuse, where they end."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.tiny import IM_END_ID, IM_START_ID, write_tiny
from unhosted.node.core.errors import Refused
from unhosted.node.core.inference import Constraint
from unhosted.node.core.number_grammar import integer_between, number_between
from unhosted.node.core.service import Tool
from unhosted.node.core.tools import TOOL_CALL_OPEN, tool_constraint
from unhosted.node.shell.engine.grammar import GrammarMask, build_mask
from unhosted.node.shell.engine.library import load_library
from unhosted.node.shell.engine.llama import Model


class Writer:
    """Writes given text, token by token, under a constraint."""

    def __init__(self, L: ModuleType, model: Model) -> None:
        self.L = L
        self.model = model

    def mask(self, constraint: Constraint) -> GrammarMask:
        return build_mask(self.L, self.model.vocab, self.model.n_vocab, constraint)

    def accepts(self, constraint: Constraint, text: str) -> bool:
        """Whether the text is allowed, and may end where it ends."""
        mask = self.mask(constraint)
        try:
            return self.walks(mask, text) and mask.allows(self.model_end)
        finally:
            mask.close()

    def walks(self, mask: GrammarMask, text: str) -> bool:
        for token_id in self.model.tokenize(text, add_special=False, parse_special=False):
            if not mask.allows(token_id):
                return False
            mask.accept(token_id)
        return True

    @property
    def model_end(self) -> int:
        return max(self.model.end_ids)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Writer]:
    L = load_library()
    path = write_tiny(tmp_path_factory.mktemp("grammar") / "tiny.gguf")
    model = Model(L, str(path), vocab_only=True)
    yield Writer(L, model)
    model.close()


@pytest.fixture(scope="module")
def smollm(smollm2_model: Path) -> Iterator[Writer]:
    L = load_library()
    model = Model(L, str(smollm2_model), vocab_only=True)
    yield Writer(L, model)
    model.close()


def schema(value: Any) -> Constraint:
    return Constraint(kind="json_schema", source=json.dumps(value))


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b c", 'q"\\\n']}, "maxItems": 2},
        "boss": {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
    },
    "required": ["name", "boss"],
    "additionalProperties": False,
}

CASES: list[tuple[Any, list[Any], list[Any]]] = [
    (
        PERSON,
        [
            {"name": "Zoë \U0001f600", "boss": None},
            {"name": "", "age": 0, "tags": [], "boss": {"name": "x", "boss": None}},
            {"name": 'a"\n', "age": 150, "tags": ["a", 'q"\\\n'], "boss": None},
            {"name": "x", "tags": ["b c"], "boss": None},
        ],
        [
            {"name": "x"},
            {"boss": None},
            {"name": "x", "age": 151, "boss": None},
            {"name": "x", "age": -1, "boss": None},
            {"name": "x", "tags": ["a", "a", "a"], "boss": None},
            {"name": "x", "tags": ["c"], "boss": None},
            {"name": "x", "boss": None, "extra": 1},
            [],
        ],
    ),
    ({}, [1, "a", None, {"a": [1, {"b": False}]}, []], []),
    ({"type": "object"}, [{}, {"a": 1, "b": [None]}], [1, []]),
    ({"type": ["string", "null"]}, ["x", None], [1, {}]),
    ({"const": {"a": [1, "é"]}}, [{"a": [1, "é"]}], [{"a": [1]}]),
    ({"enum": [1, 2.5, "x", None, True]}, [1, 2.5, "x", None, True], [2, "y", False]),
    (
        {"type": "array", "items": {"type": "boolean"}, "minItems": 2},
        [[True, False], [True] * 5],
        [[], [True]],
    ),
    ({"type": "array", "items": {}, "minItems": 1, "maxItems": 1}, [[1], [[]]], [[], [1, 2]]),
    ({"prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False}, [[1, "a"]], [[1], ["a", 1]]),
    ({"type": "string", "minLength": 2, "maxLength": 3}, ["ab", "é\U0001f600c"], ["a", "abcd"]),
    ({"type": "string", "format": "date"}, ["2026-02-28"], ["2026-13-01", "x"]),
    (
        {"type": "string", "format": "date-time"},
        ["2026-02-28T10:00:00Z", "2026-12-31T23:59:59.5+01:00"],
        ["10"],
    ),
    ({"type": "string", "format": "uuid"}, ["123e4567-e89b-12d3-a456-426614174000"], ["123e4567"]),
    ({"type": "string", "format": "uri"}, ["anything"], [1]),
    ({"type": "object", "additionalProperties": {"type": "integer"}}, [{}, {"a": 1, "b": 2}], [{"a": "x"}]),
    ({"type": "object", "properties": {}, "additionalProperties": False}, [{}], [{"a": 1}]),
    ({"type": "number", "minimum": 0, "maximum": 1}, [0, 1, 0.5, 0.999, 1.0], [-1, 1.5, 2]),
    ({"type": "number", "exclusiveMinimum": 0}, [0.001, 1, 17.25], [0, -0.5]),
    ({"type": "integer"}, [0, -5, 1234567890], [1.5, "1"]),
    ({"allOf": [{"$ref": "#/$defs/a~1b"}], "$defs": {"a/b": {"type": "null"}}}, [None], [1]),
    (
        {"oneOf": [{"type": "object", "properties": {"k": {"const": c}}, "required": ["k"]} for c in "ab"]},
        [{"k": "a"}, {"k": "b"}],
        [{"k": "c"}, {}],
    ),
]


@pytest.mark.parametrize(("document", "good", "bad"), CASES, ids=lambda v: json.dumps(v)[:30])
def test_schemas_let_through_what_they_describe_and_nothing_else(
    tiny: Writer, document: Any, good: list[Any], bad: list[Any]
) -> None:
    for value in good:
        for layout in ({}, {"indent": 2}, {"separators": (",", ":")}):
            text = json.dumps(value, ensure_ascii=False, **layout)
            if "const" not in document or not layout:
                assert tiny.accepts(schema(document), text), text
    for value in bad:
        assert not tiny.accepts(schema(document), json.dumps(value, ensure_ascii=False)), value


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ({"properties": {"a": {"type": "string", "pattern": "^x$"}}}, "/properties/a/pattern"),
        ({"type": "array", "uniqueItems": True}, "/uniqueItems"),
        ({"type": "number", "multipleOf": 2}, "/multipleOf"),
        ({"type": "number", "minimum": 0.5}, "/"),
        ({"type": "integer", "minimum": 5, "maximum": 4}, "/"),
        ({"$ref": "https://example.com/schema"}, "/$ref"),
        ({"$ref": "#/$defs/none"}, "/$ref"),
        ({"allOf": [{}, {}]}, "/allOf"),
        ({"anyOf": [{"type": "string"}], "properties": {}}, "/properties"),
        ({"not": {}}, "/not"),
        ({"type": "text"}, "/type"),
        ({"type": "string", "minimum": 3}, "/minimum"),
        ({"type": "string", "maxLength": 5000}, "/maxLength"),
        ({"type": "object", "required": ["a"]}, "/required"),
        ({"type": "integer", "enum": ["a"]}, "/enum"),
        ({"anyOf": [True, False]}, "/anyOf/1"),
        ({"properties": {"a/b": {"properties": {"c": 3}}}}, "/properties/a~1b/properties/c"),
        ({"properties": {"a": {}}, "additionalProperties": {"type": "string"}}, "/additionalProperties"),
        (
            {"properties": {str(i): {"maxLength": 2000} for i in range(30)}},
            "/properties/20",
        ),
        ({"enum": list(range(5000))}, "/enum"),
    ],
    ids=lambda v: json.dumps(v)[:40],
)
def test_what_cannot_be_enforced_is_refused_with_its_path(tiny: Writer, document: Any, path: str) -> None:
    with pytest.raises(Refused) as caught:
        tiny.mask(schema(document))
    assert caught.value.code == "invalid_request"
    assert f"schema at {path}:" in caught.value.message
    assert caught.value.field == "response_format"


def test_a_schema_that_is_too_deep_is_refused(tiny: Writer) -> None:
    document: dict[str, Any] = {}
    for _ in range(60):
        document = {"type": "array", "items": document}
    with pytest.raises(Refused, match="levels deep"):
        tiny.mask(schema(document))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bounds=st.tuples(st.integers(-1200, 1200), st.integers(-1200, 1200)), data=st.data())
def test_ranges_let_through_exactly_their_numbers(tiny: Writer, bounds: tuple[int, int], data: Any) -> None:
    low, high = min(bounds), max(bounds)
    integers = Constraint(kind="gbnf", source=f"root ::= {integer_between(low, high)}")
    numbers = Constraint(kind="gbnf", source=f"root ::= {number_between(low, high)}")
    for value in (
        low,
        high,
        data.draw(st.integers(low - 3, high + 3)),
        low - 1,
        high + 1,
        low * 10,
        high * 10,
    ):
        assert tiny.accepts(integers, str(value)) == (low <= value <= high)
        assert tiny.accepts(numbers, str(value)) == (low <= value <= high)
        for fraction in ("25", "0", "9999"):
            text = f"{value}.{fraction}"
            assert tiny.accepts(numbers, text) == (low <= float(text) <= high), text
            assert not tiny.accepts(integers, text)


def test_json_mode_gives_one_object_and_nothing_after_it(tiny: Writer) -> None:
    anything = Constraint(kind="json_object")
    assert tiny.accepts(anything, '{"a": [1, -2.5e10, {"b": "\\u00e9\\n"}], "c": {}}')
    for text in ("[]", "1", '{"a": 1} ', '{"a": 01}', '{"a": "\n"}', '{"a": "\\ud800"}', "{'a': 1}", '{"a"}'):
        assert not tiny.accepts(anything, text), text


def test_blanks_cannot_go_on_for_ever(tiny: Writer) -> None:
    mask = tiny.mask(Constraint(kind="json_object"))
    assert tiny.walks(mask, "{\n" + " " * 16)
    for blank in (" ", "\n", "\t"):
        assert not tiny.walks(mask, blank)
    mask.close()


def test_the_end_is_allowed_exactly_when_the_grammar_is_complete(tiny: Writer) -> None:
    mask = tiny.mask(schema({"enum": ["a", "abc"]}))
    for text, complete in (('"', False), ("a", False), ('"', True)):
        assert not mask.allows(IM_END_ID)
        assert tiny.walks(mask, text)
        assert mask.allows(IM_END_ID) == complete
    mask.accept(IM_END_ID)
    assert mask.allows(IM_END_ID)
    assert not tiny.walks(mask, " ")
    mask.close()


def test_control_tokens_cannot_stand_for_text(tiny: Writer) -> None:
    mask = tiny.mask(schema({"type": "string"}))
    assert tiny.walks(mask, '"x')
    assert not mask.allows(IM_START_ID)
    mask.close()


def test_a_refused_token_is_an_answer_not_an_abort(tiny: Writer) -> None:
    mask = tiny.mask(Constraint(kind="json_object"))
    for token_id in (tiny.model.tokenize("x", add_special=False)[0], IM_END_ID, -1, 10**6):
        with pytest.raises(Refused, match="breaks the request's grammar"):
            mask.accept(token_id)
    assert tiny.walks(mask, "{}")
    mask.close()


def test_masking_many_agrees_with_asking_for_each(tiny: Writer) -> None:
    mask = tiny.mask(schema(PERSON))
    assert tiny.walks(mask, '{"name"')
    ids = np.arange(tiny.model.n_vocab, dtype=np.int32)
    assert mask.mask_ids(ids).tolist() == [mask.allows(token_id) for token_id in ids.tolist()]
    mask.close()


def test_a_clone_walks_on_its_own_and_a_replay_gets_to_the_same_state(tiny: Writer) -> None:
    ids = np.arange(tiny.model.n_vocab, dtype=np.int32)
    mask = tiny.mask(schema(PERSON))
    assert tiny.walks(mask, '{"name": "x", ')
    clone, replay = mask.clone(), tiny.mask(schema(PERSON))
    assert tiny.walks(replay, '{"name": "x", ')
    assert tiny.walks(mask, '"age": 1')
    assert not tiny.walks(mask, '"boss"')
    assert clone.mask_ids(ids).tolist() == replay.mask_ids(ids).tolist()
    assert tiny.walks(clone, '"boss": null}')
    for one in (mask, clone, replay):
        one.close()
        one.close()


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ('start ::= "x"', "no rule named root"),
        ('root ::= "x', "unexpected end"),
        ("root ::= missing", "missing"),
        ('root ::= root "x"', "left-recursive"),
        ("root ::= " + "(" * 200 + '"x"' + ")" * 200, "nested 200 deep"),
        ('root ::= "x"\0', "root"),
        ('root ::= "\ud800"', "surrogate"),
        ('root ::= "' + "x" * 600_000 + '"', "at most"),
    ],
    ids=lambda v: ascii(v[:20]),
)
def test_a_grammar_that_is_none_is_refused_and_not_printed(
    tiny: Writer, capfd: pytest.CaptureFixture[str], source: str, fault: str
) -> None:
    with pytest.raises(Refused, match=fault) as caught:
        tiny.mask(Constraint(kind="gbnf", source=source))
    assert caught.value.field == "grammar"
    assert capfd.readouterr() == ("", "")


WEATHER = Tool(
    name="get_weather",
    description="Weather of a city",
    parameters={"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>'


@pytest.mark.parametrize("writer", ["tiny", "smollm"])
def test_tool_calls_may_be_made_and_are_then_well_formed(writer: str, request: pytest.FixtureRequest) -> None:
    this: Writer = request.getfixturevalue(writer)
    auto = tool_constraint((WEATHER,), "auto", forced_tool=None, parallel=True)
    assert auto is not None and auto.trigger == TOOL_CALL_OPEN
    for text in ("", "Hello < tool_call", "Let me look. " + CALL, CALL + "\n" + CALL, "a <tool" + CALL):
        assert this.accepts(auto, text), text
    for text in (CALL[:-3], CALL + " done", CALL.replace("get_", "set_"), CALL.replace('"Rome"', "1")):
        assert not this.accepts(auto, text), text


def test_a_token_that_holds_more_than_the_trigger_is_checked_for_the_rest(smollm: Writer) -> None:
    mask = smollm.mask(Constraint(kind="gbnf", source='root ::= "Answer: " ("yes" | "no")', trigger="Ans"))
    token_by_piece = {smollm.model.piece(i): i for i in range(smollm.model.n_vocab)}
    assert smollm.walks(mask, "Well: A")
    for allowed in (b"ns", b"a", b" Ans", b"Answer", b" Answer"):
        assert mask.allows(token_by_piece[allowed]), allowed
    assert not mask.allows(token_by_piece[b" Answers"])
    mask.accept(token_by_piece[b" Answer"])
    assert smollm.walks(mask, ": yes")
    assert mask.allows(smollm.model_end)
    assert not smollm.walks(mask, "!")
    mask.close()


def test_required_and_forced_tools_start_with_the_call(tiny: Writer) -> None:
    other = Tool(name="other", description="", parameters={})
    required = tool_constraint((WEATHER, other), "required", forced_tool=None, parallel=False)
    forced = tool_constraint((WEATHER, other), "required", forced_tool="other", parallel=True)
    assert required is not None and forced is not None
    other_call = '<tool_call>\n{"name": "other", "arguments": {}}\n</tool_call>'
    assert tiny.accepts(required, CALL) and tiny.accepts(required, other_call)
    assert not tiny.accepts(required, "Hello") and not tiny.accepts(required, "")
    assert not tiny.accepts(required, CALL + "\n" + other_call)
    assert tiny.accepts(forced, other_call) and not tiny.accepts(forced, CALL)
