"""The grammar of JSON itself, in GBNF, llama.cpp's grammar language, and a place to add rules to it.

Nothing in it can go on for ever but strings and lists: between two tokens of JSON stands at most one blank
or one line break with up to 16 blanks, numbers have at most 16 digits a part, and nothing follows the last
bracket. A small model that falls into a loop of blanks would otherwise fill its context with them.
"""

from unhosted.node.core.number_grammar import DIGITS_MAX

NODES_MAX = 1_000
"""Subschemas, properties and enum values of one request. llama.cpp tries all that may come next one by one
and compares them in pairs: asking for one token takes 10 ms at 1,000 optional properties, 100 ms at 3,500."""

REPEATS_MAX = 2_000
"""llama.cpp drops a greater upper bound without a word, so a greater one is refused here."""

REPEATS_TOTAL_MAX = 40_000
"""llama.cpp makes a rule of every repetition; this many take about 20 MB."""

_HEX = "[0-9a-fA-F]"
_DATE = '[0-9]{4} "-" ("0" [1-9] | "1" [0-2]) "-" ("0" [1-9] | [12] [0-9] | "3" [01])'
_TIME = (
    '([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9] ":" [0-5] [0-9] ("." [0-9]{1,9})? '
    '("Z" | [+-] ([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9])'
)
_BUILTIN = {
    "ws": '| " " | "\\n" " "{0,16}',
    "char": '[^"\\\\\\x00-\\x1F\\x7F] | "\\\\" (["\\\\/bfnrt] | "u" unit)',
    # A \\u escape never spells half a surrogate pair; such a character is written as itself.
    "unit": f"[0-9a-cA-CeEfF] {_HEX}{{3}} | [dD] [0-7] {_HEX}{{2}}",
    "string": '"\\"" char* "\\""',
    "integer": f'"-"? ("0" | [1-9] [0-9]{{0,{DIGITS_MAX - 1}}})',
    "number": f'integer ("." [0-9]{{1,{DIGITS_MAX}}})? ([eE] [+-]? [0-9]{{1,3}})?',
    "boolean": '"true" | "false"',
    "null": '"null"',
    "value": "object | array | string | number | boolean | null",
    "object": '"{" ws (member (ws "," ws member)* ws)? "}"',
    "member": 'string ws ":" ws value',
    "array": '"[" ws (value (ws "," ws value)* ws)? "]"',
}
STRING_FORMATS = {
    "date": f'"\\"" {_DATE} "\\""',
    "time": f'"\\"" {_TIME} "\\""',
    "date-time": f'"\\"" {_DATE} "T" {_TIME} "\\""',
    "uuid": f'"\\"" {_HEX}{{8}} ("-" {_HEX}{{4}}){{3}} "-" {_HEX}{{12}} "\\""',
}


def any_object_gbnf() -> str:
    """A grammar for any JSON object."""
    return JsonGrammar().text("object")


def literal(text: str) -> str:
    """A GBNF literal of exactly this text."""
    out = []
    for char in text:
        if char in '"\\':
            out.append("\\" + char)
        elif char < " " or char == "\x7f":
            out.append(f"\\x{ord(char):02X}")
        else:
            out.append(char)
    return '"' + "".join(out) + '"'


class JsonGrammar:
    """A set of GBNF rules that grows with each schema; bounded by NODES_MAX and REPEATS_TOTAL_MAX."""

    def __init__(self) -> None:
        self._rules = dict(_BUILTIN)
        self._nodes = 0
        self._repeats = 0

    def text(self, root: str) -> str:
        """The grammar with `root` (an expression over its rules) as the start."""
        # Root comes last: llama.cpp counts a name that it meets for the first time inside a repetition
        # as if its rule were repeated too.
        rules = {**self._rules, "root": root}
        return "\n".join(f"{name} ::= {body}" for name, body in rules.items()) + "\n"

    def add(self, body: str) -> str:
        """The name of a new rule."""
        name = f"r{len(self._rules)}"
        self._rules[name] = body
        return name

    def reserve(self, name: str, body: str) -> None:
        """Fill in a rule that `add` named before its body was known."""
        self._rules[name] = body

    def count_node(self) -> bool:
        """Count one more subschema; False when there are too many."""
        self._nodes += 1
        return self._nodes <= NODES_MAX

    def count_repeats(self, count: int) -> bool:
        """Count repetitions; False when there are too many."""
        self._repeats += count
        return self._repeats <= REPEATS_TOTAL_MAX
