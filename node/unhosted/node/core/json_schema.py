"""JSON schemas as grammars: whatever the grammar lets through is JSON that the schema accepts.

Two rules shape it:
- A keyword is enforced, or an annotation, or refused with its path. None is silently ignored.
- Where JSON leaves a choice the grammar takes the narrow one: declared properties only, in their declared
  order, no duplicate keys, no lone surrogates. The schema may accept more than the grammar writes.

Of `oneOf` the grammar enforces that a branch matches, not that no second one does. A `format` other than
date, time, date-time and uuid is an annotation, as JSON Schema 2020-12 has it.
"""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from unhosted.node.core.errors import Refused
from unhosted.node.core.json_grammar import (
    NODES_MAX,
    REPEATS_MAX,
    REPEATS_TOTAL_MAX,
    STRING_FORMATS,
    JsonGrammar,
    literal,
)
from unhosted.node.core.number_grammar import DIGITS_MAX, integer_between, number_between

DEPTH_MAX = 48
"""Levels of one schema; the compiler recurses, and so does llama.cpp over the rules it is given."""

_ANNOTATIONS = frozenset(
    """
    $schema $id $anchor $comment $defs definitions title description default examples example deprecated
    readOnly writeOnly contentEncoding contentMediaType discriminator
    """.split()  # noqa: SIM905 - a list of names reads better than a list of strings
)
_KEYWORDS_OF_TYPE = {
    "string": frozenset({"minLength", "maxLength", "format"}),
    "integer": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "format"}),
    "number": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "format"}),
    "array": frozenset({"items", "prefixItems", "minItems", "maxItems", "uniqueItems"}),
    "object": frozenset({"properties", "required", "additionalProperties"}),
    "boolean": frozenset[str](),
    "null": frozenset[str](),
}
_TYPE_KEYWORDS = frozenset().union(*_KEYWORDS_OF_TYPE.values())
_KNOWN = _TYPE_KEYWORDS | _ANNOTATIONS | {"type", "$ref", "anyOf", "oneOf", "allOf", "enum", "const"}


def schema_to_gbnf(schema: Mapping[str, Any] | bool, *, field: str = "response_format") -> str:
    """A grammar, root rule included, whose every text is JSON that the schema accepts.

    Raises: Refused (invalid_request, `field`) naming the path of what cannot be enforced.
    """
    grammar = JsonGrammar()
    return grammar.text(add_schema(grammar, schema, field=field))


def add_schema(grammar: JsonGrammar, schema: Mapping[str, Any] | bool, *, field: str) -> str:
    """The name of a new rule of the grammar for this schema. Raises: Refused, as `schema_to_gbnf`."""
    return _Compiler(grammar, schema, field).rule(schema, "", 0)


class _Compiler:
    """Compiles one schema document; `$ref` is resolved in it and nowhere else."""

    def __init__(self, grammar: JsonGrammar, document: Mapping[str, Any] | bool, field: str) -> None:
        self.grammar = grammar
        self.document = document
        self.field = field
        self.rule_by_ref: dict[str, str] = {}
        self.by_type: dict[str, Callable[[Mapping[str, Any], str, int], str]] = {
            "string": self._string,
            "integer": self._integer,
            "number": self._number,
            "array": self._array,
            "object": self._object,
            "boolean": lambda schema, path, depth: "boolean",
            "null": lambda schema, path, depth: "null",
        }

    def refuse(self, path: str, rule: str) -> Refused:
        return Refused("invalid_request", f"schema at {path or '/'}: {rule}", field=self.field)

    def rule(self, schema: object, path: str, depth: int) -> str:
        """The name of a rule for the subschema at a JSON pointer."""
        self._count(path)
        if depth > DEPTH_MAX:
            raise self.refuse(path, f"more than {DEPTH_MAX} levels deep: flatten it or use $ref")
        if schema is True:
            return "value"
        if not isinstance(schema, Mapping):
            raise self.refuse(path, "must be an object (or true), and one that some value can match")
        unknown = sorted(set(schema) - _KNOWN)
        if unknown:
            raise self.refuse(f"{path}/{unknown[0]}", "this keyword cannot be enforced: remove it")
        for keyword, compiled in (
            ("$ref", self._ref),
            ("anyOf", self._union),
            ("oneOf", self._union),
            ("allOf", self._all),
            ("const", self._constant),
            ("enum", self._constant),
        ):
            if keyword in schema:
                self._check_alone(schema, keyword, path)
                return compiled(schema[keyword], f"{path}/{keyword}", depth)
        return self._typed(schema, path, depth)

    def _check_alone(self, schema: Mapping[str, Any], keyword: str, path: str) -> None:
        """`$ref`, unions and constants stand alone, or beside a `type` that says no more than they do."""
        beside = [k for k in schema if k != keyword and k not in _ANNOTATIONS]
        if keyword in ("const", "enum") and beside == ["type"]:
            values = schema["enum"] if keyword == "enum" else [schema["const"]]
            types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
            if isinstance(values, list) and all(any(_is_of(v, t) for t in types) for v in values):
                return
            raise self.refuse(f"{path}/{keyword}", f"a value is not of type {schema['type']}: drop it")
        if beside:
            raise self.refuse(f"{path}/{beside[0]}", f"cannot be enforced beside {keyword}: move it inside")

    def _typed(self, schema: Mapping[str, Any], path: str, depth: int) -> str:
        present = set(schema) & _TYPE_KEYWORDS
        types = schema.get("type")
        if types is None:
            # Keywords tell which type is meant, as they do not apply to any other.
            types = [t for t in self.by_type if present & _KEYWORDS_OF_TYPE[t] - {"format"}] or (
                ["string"] if "format" in present else []
            )
            if not types:
                return "value"
            types = types[:1] if types[0] != "integer" else ["number"]
        names = [types] if isinstance(types, str) else types
        if not isinstance(names, list) or not names or not all(n in self.by_type for n in names):
            raise self.refuse(
                f"{path}/type", f"{json.dumps(types)} is not a JSON type: use {', '.join(self.by_type)}"
            )
        foreign = present - frozenset().union(*(_KEYWORDS_OF_TYPE[name] for name in names))
        if foreign:
            raise self.refuse(
                f"{path}/{min(foreign)}", f"has no effect on type {json.dumps(types)}: remove it"
            )
        rules = [self.by_type[name](schema, path, depth) for name in dict.fromkeys(names)]
        return rules[0] if len(rules) == 1 else self.grammar.add(" | ".join(rules))

    def _ref(self, ref: object, path: str, depth: int) -> str:
        if not isinstance(ref, str) or not (ref == "#" or ref.startswith("#/")):
            raise self.refuse(path, f"{json.dumps(ref)} is not in this document: use #/$defs/NAME")
        if ref not in self.rule_by_ref:
            target: Any = self.document
            for part in ref.split("/")[1:]:
                part = part.replace("~1", "/").replace("~0", "~")
                if isinstance(target, Mapping) and part in target:
                    target = target[part]
                elif isinstance(target, list) and part.isdecimal() and int(part) < len(target):
                    target = target[int(part)]
                else:
                    raise self.refuse(path, f"{json.dumps(ref)} points to nothing: define it")
            # Named before it is compiled, so that a schema may contain itself.
            self.rule_by_ref[ref] = name = self.grammar.add("")
            self.grammar.reserve(name, self.rule(target, ref[1:], depth + 1))
        return self.rule_by_ref[ref]

    def _union(self, branches: object, path: str, depth: int) -> str:
        if not isinstance(branches, list) or not branches:
            raise self.refuse(path, "must be a list of at least one schema")
        rules = [self.rule(branch, f"{path}/{i}", depth + 1) for i, branch in enumerate(branches)]
        return self.grammar.add(" | ".join(rules))

    def _all(self, parts: object, path: str, depth: int) -> str:
        if not isinstance(parts, list) or len(parts) != 1:
            raise self.refuse(path, "only one part can be enforced: merge the parts into one schema")
        return self.rule(parts[0], f"{path}/0", depth + 1)

    def _constant(self, values: object, path: str, depth: int) -> str:
        if path.endswith("/const"):
            values = [values]
        if not isinstance(values, list) or not values:
            raise self.refuse(path, "must be a list of at least one value")
        for _ in values:
            self._count(path)
        return self.grammar.add(" | ".join(literal(json.dumps(v, ensure_ascii=False)) for v in values))

    def _string(self, schema: Mapping[str, Any], path: str, depth: int) -> str:
        sized = "minLength" in schema or "maxLength" in schema
        if schema.get("format") in STRING_FORMATS:
            if sized:
                raise self.refuse(f"{path}/format", "cannot be enforced beside a length: remove one of them")
            return self.grammar.add(STRING_FORMATS[schema["format"]])
        if not sized:
            return "string"
        return self.grammar.add(f'"\\"" char{self._repeat(schema, path, "minLength", "maxLength")} "\\""')

    def _integer(self, schema: Mapping[str, Any], path: str, depth: int) -> str:
        low, low_excluded = self._bound(schema, path, "minimum", "exclusiveMinimum", 1)
        high, high_excluded = self._bound(schema, path, "maximum", "exclusiveMaximum", -1)
        if low is None and high is None:
            return "integer"
        least = None if low is None else math.floor(low) + 1 if low_excluded else math.ceil(low)
        most = None if high is None else math.ceil(high) - 1 if high_excluded else math.floor(high)
        return self._range(integer_between(least, most), path)

    def _number(self, schema: Mapping[str, Any], path: str, depth: int) -> str:
        low, low_excluded = self._bound(schema, path, "minimum", "exclusiveMinimum", 1)
        high, high_excluded = self._bound(schema, path, "maximum", "exclusiveMaximum", -1)
        if low is None and high is None:
            return "number"
        for bound in (low, high):
            if bound is not None and bound != int(bound):
                raise self.refuse(path, f"bound {bound} of a number is not whole: use a whole one")
        return self._range(
            number_between(
                None if low is None else int(low),
                None if high is None else int(high),
                low_excluded=low_excluded,
                high_excluded=high_excluded,
            ),
            path,
        )

    def _range(self, body: str | None, path: str) -> str:
        if body is None:
            raise self.refuse(path, f"no number of at most {DIGITS_MAX} digits lies in the range: widen it")
        return self.grammar.add(body)

    def _bound(
        self, schema: Mapping[str, Any], path: str, included: str, excluded: str, sign: int
    ) -> tuple[float | None, bool]:
        """The tighter of two bounds and whether it is the excluded one. sign: 1 for lower, -1 for upper."""
        bounds: list[tuple[float, bool]] = []
        for keyword in (included, excluded):
            value = schema.get(keyword)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise self.refuse(f"{path}/{keyword}", f"{json.dumps(value)} is not a number: send one")
            bounds.append((value * sign, keyword == excluded))
        if not bounds:
            return None, False
        value, is_excluded = max(bounds)
        return value * sign, is_excluded

    def _array(self, schema: Mapping[str, Any], path: str, depth: int) -> str:
        if schema.get("uniqueItems"):
            raise self.refuse(f"{path}/uniqueItems", "cannot be enforced: remove it")
        if "prefixItems" in schema:
            return self._tuple(schema, path, depth)
        item = self.rule(schema.get("items", True), f"{path}/items", depth + 1)
        least, most = self._limits(schema, path, "minItems", "maxItems")
        if most == 0:
            return self.grammar.add('"[" ws "]"')
        more = f"{{{max(least - 1, 0)},{'' if most is None else most - 1}}}"
        following = self.grammar.add(f'ws "," ws {item}')
        items = f"{item} {following}{more} ws"
        return self.grammar.add(f'"[" ws {items} "]"' if least else f'"[" ws ({items})? "]"')

    def _tuple(self, schema: Mapping[str, Any], path: str, depth: int) -> str:
        items = schema["prefixItems"]
        if not isinstance(items, list) or not items or schema.get("items", False) is not False:
            raise self.refuse(
                path, 'prefixItems is enforced as a whole: a list of schemas, with "items": false'
            )
        for keyword, fits in (("minItems", int.__le__), ("maxItems", int.__ge__)):
            if keyword in schema and not fits(schema[keyword], len(items)):
                raise self.refuse(
                    f"{path}/{keyword}", f"contradicts the {len(items)} prefixItems: correct it"
                )
        rules = [self.rule(item, f"{path}/prefixItems/{i}", depth + 1) for i, item in enumerate(items)]
        return self.grammar.add('"[" ws ' + ' ws "," ws '.join(rules) + ' ws "]"')

    def _object(self, schema: Mapping[str, Any], path: str, depth: int) -> str:
        properties = schema.get("properties", {})
        extra = schema.get("additionalProperties", not properties)
        required = schema.get("required", [])
        if not isinstance(properties, Mapping) or not isinstance(required, list):
            raise self.refuse(path, "properties must be an object and required a list")
        for name in required:
            if name not in properties:
                raise self.refuse(f"{path}/required", f"{json.dumps(name)} is not in properties: declare it")
        if not properties:
            if extra is False:
                return self.grammar.add('"{" ws "}"')
            value = self.rule(extra, f"{path}/additionalProperties", depth + 1)
            if value == "value":
                return "object"
            member = self.grammar.add(f'string ws ":" ws {value}')
            return self.grammar.add(f'"{{" ws ({member} (ws "," ws {member})* ws)? "}}"')
        if isinstance(extra, Mapping):
            raise self.refuse(
                f"{path}/additionalProperties",
                "cannot be enforced beside properties: use false or a map alone",
            )
        members = []
        for name, subschema in properties.items():
            value = self.rule(subschema, f"{path}/properties/{_pointer(name)}", depth + 1)
            key = literal(json.dumps(name, ensure_ascii=False))
            members.append((self.grammar.add(f'{key} ws ":" ws {value}'), name in required))
        return self.grammar.add(f'"{{" ws {self._members(members)} "}}"')

    def _members(self, members: list[tuple[str, bool]]) -> str:
        """The members in order, each optional one present or not, with commas only in between.

        Two rules per member, from the last to the first: what follows if nothing was written yet, and
        what follows if something was. So the grammar grows with the members, not with their subsets.
        """
        first, later = '""', "ws"
        for member, required in reversed(members):
            first_body = f"{member} {later}" + ("" if required else f" | {first}")
            later_body = f'ws "," ws {member} {later}' + ("" if required else f" | {later}")
            first, later = self.grammar.add(first_body), self.grammar.add(later_body)
        return first

    def _limits(self, schema: Mapping[str, Any], path: str, low: str, high: str) -> tuple[int, int | None]:
        values: list[int | None] = []
        for keyword in (low, high):
            value = schema.get(keyword)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
                raise self.refuse(f"{path}/{keyword}", f"{json.dumps(value)} is not a count: send one")
            if value is not None and value > REPEATS_MAX:
                raise self.refuse(
                    f"{path}/{keyword}", f"{value} is above {REPEATS_MAX}, the most that is enforced"
                )
            values.append(value)
        least, most = values[0] or 0, values[1]
        if most is not None and most < least:
            raise self.refuse(f"{path}/{high}", f"{most} is below {low} {least}: correct one of them")
        if not self.grammar.count_repeats(least if most is None else most):
            raise self.refuse(path, f"its lengths add up to more than {REPEATS_TOTAL_MAX}: lower them")
        return least, most

    def _repeat(self, schema: Mapping[str, Any], path: str, low: str, high: str) -> str:
        least, most = self._limits(schema, path, low, high)
        return f"{{{least},{'' if most is None else most}}}"

    def _count(self, path: str) -> None:
        if not self.grammar.count_node():
            raise self.refuse(path, f"more than {NODES_MAX} subschemas and values: make it smaller")


def _is_of(value: object, type_name: object) -> bool:
    if type_name in ("integer", "number") and isinstance(value, int | float) and not isinstance(value, bool):
        return type_name == "number" or value == int(value)
    kinds: dict[object, type] = {
        "string": str,
        "boolean": bool,
        "array": list,
        "object": dict,
        "null": type(None),
    }
    return type_name in kinds and isinstance(value, kinds[type_name])


def _pointer(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
