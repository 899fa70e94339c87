"""Typed, bounded reading of what a peer sent: each field is checked here, and named when it is wrong."""

import json
from typing import Any

from unhosted.node.core.errors import Refused


class WireError(Exception):
    """What came is no message of the protocol: the channel is reset."""


class FieldError(Exception):
    """A field of a message breaks its rule. field: its name on the wire, with the path to it."""

    def __init__(self, field: str, rule: str) -> None:
        super().__init__(f"{field}: {rule}")
        self.field = field
        self.rule = rule


class Fields:
    """A map from a peer. Keys that nobody reads are ignored; a missing one reads like null."""

    def __init__(self, value: object, path: str = "") -> None:
        if type(value) is not dict:
            raise FieldError(path or "message", f"a {type(value).__name__}, must be a map")
        self._values: dict[str, Any] = value
        self._path = f"{path}." if path else ""

    def has(self, key: str) -> bool:
        return self._values.get(key) is not None

    def text(self, key: str, *, chars_max: int) -> str:
        value = self._get(key, str)
        if len(value) > chars_max:
            raise self.wrong(key, f"{len(value)} characters, at most {chars_max}")
        return str(value)

    def text_or_none(self, key: str, *, chars_max: int) -> str | None:
        return self.text(key, chars_max=chars_max) if self.has(key) else None

    def text_or_empty(self, key: str, *, chars_max: int) -> str:
        return self.text(key, chars_max=chars_max) if self.has(key) else ""

    def data(self, key: str, *, bytes_max: int) -> bytes:
        value = self._get(key, bytes)
        if len(value) > bytes_max:
            raise self.wrong(key, f"{len(value)} bytes, at most {bytes_max}")
        return bytes(value)

    def uint(self, key: str, *, most: int, least: int = 0) -> int:
        value = self._get(key, int)
        if not least <= value <= most:
            raise self.wrong(key, f"{value} is outside {least} to {most}")
        return int(value)

    def uint_or_none(self, key: str, *, most: int) -> int | None:
        return self.uint(key, most=most) if self.has(key) else None

    def number(self, key: str) -> float:
        value = self._values.get(key)
        if type(value) is not float and type(value) is not int:
            raise self.wrong(key, f"a {type(value).__name__}, must be a number")
        try:
            return float(value)
        except OverflowError:
            raise self.wrong(key, "the number is too large") from None

    def flag(self, key: str, *, default: bool) -> bool:
        return bool(self._get(key, bool)) if self.has(key) else default

    def items(self, key: str, *, most: int) -> list[Any]:
        """The list at `key`, empty if there is none."""
        if not self.has(key):
            return []
        value: list[Any] = self._get(key, list)
        if len(value) > most:
            raise self.wrong(key, f"{len(value)} entries, at most {most}")
        return value

    def texts(self, key: str, *, most: int, chars_max: int) -> tuple[str, ...]:
        values = self.items(key, most=most)
        for value in values:
            if type(value) is not str or len(value) > chars_max:
                raise self.wrong(key, f"every entry must be a text of at most {chars_max} characters")
        return tuple(values)

    def token_ids(self, key: str, *, most: int) -> tuple[int, ...]:
        values = self.items(key, most=most)
        if not is_token_ids(values):
            raise self.wrong(key, f"every entry must be a token id, 0 to {TOKEN_ID_MAX}")
        return tuple(values)

    def json(self, key: str, *, chars_max: int) -> Any:
        """The value that the JSON text at `key` spells."""
        text = self.text(key, chars_max=chars_max)
        try:
            return json.loads(text, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            raise self.wrong(key, "no JSON text, or one that is nested too deeply") from None

    def map(self, key: str) -> "Fields":
        return Fields(self._values.get(key), f"{self._path}{key}")

    def maps(self, key: str, *, most: int) -> "list[Fields]":
        return [
            Fields(value, f"{self._path}{key}[{index}]")
            for index, value in enumerate(self.items(key, most=most))
        ]

    def values(self) -> dict[str, Any]:
        return self._values

    def wrong(self, key: str, rule: str) -> FieldError:
        return FieldError(f"{self._path}{key}", rule)

    def _get(self, key: str, kind: type) -> Any:
        value = self._values.get(key)
        if type(value) is not kind:
            raise self.wrong(key, f"a {type(value).__name__}, must be a {kind.__name__}")
        return value


TOKEN_ID_MAX = (1 << 31) - 1
"""Vocabularies index with 32-bit signed integers."""


def is_token_ids(values: list[Any]) -> bool:
    if not values:
        return True
    return set(map(type, values)) == {int} and min(values) >= 0 and max(values) <= TOKEN_ID_MAX


def printable(text: str) -> str:
    """A peer's words as they may be shown: what moves the cursor or reorders a line becomes a space."""
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)


def json_text(value: object, field: str) -> str:
    """Values whose order of keys counts cross as JSON text: a template writes a tool's schema as it stands.

    Raises: Refused (invalid_request).
    """
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise Refused("invalid_request", f"{field} is no JSON value: {error}", field=field) from None


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON")
