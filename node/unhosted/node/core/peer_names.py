"""Names that machines give themselves: claims, shown to people, so nothing in them may deceive the eye."""

import unicodedata
from collections.abc import Iterable

NAME_CHARS_MAX = 48
"""What a table's column and a dialog hold; the rest of the book's 64 is for a suffix."""

NAMELESS = "unnamed"
RESERVED_NAMES = frozenset({"local"})
"""Words that mean something else where a peer may be named."""

MARKS_IN_A_ROW_MAX = 2
"""Some scripts put two marks on a letter; a pile of them hides the lines above."""

_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Control and direction marks, halves of surrogate pairs, private and unassigned characters, line ends."""


def clean_name(text: str) -> str:
    """The name without what cannot be seen or reorders what can, one space at most in a row, bounded."""
    kept: list[str] = []
    marks = 0
    for character in unicodedata.normalize("NFKC", text[: 4 * NAME_CHARS_MAX]):
        category = unicodedata.category(character)
        marks = marks + 1 if category in {"Mn", "Me"} else 0
        if character.isspace():
            kept.append(" ")
        elif category not in _INVISIBLE and marks <= MARKS_IN_A_ROW_MAX:
            kept.append(character)
    # Once more: without what stood between them, a letter and its mark can become one.
    composed = unicodedata.normalize("NFKC", " ".join("".join(kept).split()))
    name = composed[:NAME_CHARS_MAX].strip()
    return name if name and name.isprintable() else NAMELESS


def distinct_name(name: str, taken: Iterable[str]) -> str:
    """The name, or the name with the lowest number from 2 on that nobody else has, whatever the case."""
    others = {other.casefold() for other in taken} | RESERVED_NAMES
    if name.casefold() not in others:
        return name
    numbers = range(2, len(others) + 3)
    return next(f"{name}-{n}" for n in numbers if f"{name}-{n}".casefold() not in others)
