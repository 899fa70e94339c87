"""Understanding what a model wrote: text and tool calls, as they arrive.

A call's name is passed on once it is complete and its arguments as they are written. Until then the call
is held back, and if it turns out not to be one it becomes the text it is. Nothing the model writes raises.
Where the text was cut into pieces changes nothing in the sum of what is given.
"""

import json
import re
from typing import Any

from unhosted.node.core.service import ToolCallDelta
from unhosted.node.core.tools import TOOL_CALL_CLOSE, TOOL_CALL_OPEN, call_id

HELD_CHARS_MAX = 64 * 1024
"""A call that has not shown its name, or is not closed, within this is text."""

_HEADER = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*(?=\{)', re.DOTALL)
_HEADER_CHARS_MAX = 1024
_BLANKS = " \t\r\n"


class ToolCallParser:
    """Parses one answer. Blanks around calls are dropped; all else that is not a call is given as text."""

    def __init__(self, request_id: str) -> None:
        self._request_id = request_id
        self._buffer = ""
        self._state = self._in_text
        self._calls: list[ToolCallDelta] = []
        self._text: list[str] = []
        self._index = -1
        self._depth = 0
        self._in_string = False
        self._escaped = False

    @property
    def calls_made(self) -> int:
        return self._index + 1

    def push(self, text: str) -> tuple[str, tuple[ToolCallDelta, ...]]:
        """The text and the parts of calls that are certain now."""
        self._buffer += text
        while self._state():
            pass
        return self._take()

    def finish(self) -> tuple[str, tuple[ToolCallDelta, ...]]:
        """What was held back, at the end. A call without its name was none: it is text."""
        if self._state == self._in_header:
            self._text.append(TOOL_CALL_OPEN + self._buffer)
        elif self._state == self._in_text and (self._buffer.strip(_BLANKS) or self._index < 0):
            self._text.append(self._buffer)
        self._buffer, self._state = "", self._in_text
        return self._take()

    def _take(self) -> tuple[str, tuple[ToolCallDelta, ...]]:
        text, calls = "".join(self._text), tuple(self._calls)
        self._text.clear()
        self._calls.clear()
        return text, calls

    # Each state takes what it can from the buffer and says whether there may be more to take.

    def _in_text(self) -> bool:
        start = self._buffer.find(TOOL_CALL_OPEN)
        if start >= 0:
            self._text.append(self._buffer[:start].rstrip(_BLANKS))
            self._buffer = self._buffer[start + len(TOOL_CALL_OPEN) :]
            self._state = self._in_header
            return True
        end = len(self._buffer) - _overlap(self._buffer, TOOL_CALL_OPEN)
        end = len(self._buffer[:end].rstrip(_BLANKS))
        if len(self._buffer) - end > HELD_CHARS_MAX:
            end = len(self._buffer)
        self._text.append(self._buffer[:end])
        self._buffer = self._buffer[end:]
        return False

    def _in_header(self) -> bool:
        header = _HEADER.match(self._buffer[:_HEADER_CHARS_MAX])
        name = _string(header[1]) if header else None
        if header and name:
            self._begin(name)
            self._buffer = self._buffer[header.end() :]
            self._depth, self._in_string, self._escaped = 0, False, False
            self._state = self._in_arguments
            return True
        end = self._buffer.find(TOOL_CALL_CLOSE)
        if end < 0 and len(self._buffer) <= HELD_CHARS_MAX:
            return False
        body, rest = (self._buffer, "") if end < 0 else (self._buffer[:end], self._buffer[end:])
        self._buffer = rest.removeprefix(TOOL_CALL_CLOSE)
        self._state = self._in_text
        whole = _whole_call(body)
        if whole is None:
            self._text.append(TOOL_CALL_OPEN + body + (TOOL_CALL_CLOSE if rest else ""))
        else:
            self._begin(whole[0])
            self._calls.append(ToolCallDelta(index=self._index, arguments=whole[1]))
        return bool(self._buffer)

    def _in_arguments(self) -> bool:
        """Pass on characters until the braces balance."""
        for position, char in enumerate(self._buffer):
            if self._escaped:
                self._escaped = False
            elif self._in_string:
                self._escaped = char == "\\"
                self._in_string = char != '"'
            elif char == '"':
                self._in_string = True
            elif char in "{[":
                self._depth += 1
            elif char in "}]":
                self._depth -= 1
                if self._depth == 0:
                    self._pass_on(position + 1)
                    self._state = self._in_tail
                    return True
        self._pass_on(len(self._buffer))
        return False

    def _in_tail(self) -> bool:
        """After the arguments: a brace and the closing tag, with blanks; anything else is text again."""
        rest = self._buffer.lstrip(_BLANKS)
        if rest.startswith("}"):
            rest = rest[1:].lstrip(_BLANKS)
        if rest.startswith(TOOL_CALL_CLOSE):
            self._buffer, self._state = rest[len(TOOL_CALL_CLOSE) :], self._in_text
            return True
        if TOOL_CALL_CLOSE.startswith(rest) and len(self._buffer) <= HELD_CHARS_MAX:
            return False
        self._buffer, self._state = rest, self._in_text
        return True

    def _begin(self, name: str) -> None:
        self._index += 1
        self._calls.append(
            ToolCallDelta(index=self._index, call_id=call_id(self._request_id, self._index), name=name)
        )

    def _pass_on(self, count: int) -> None:
        if count:
            self._calls.append(ToolCallDelta(index=self._index, arguments=self._buffer[:count]))
            self._buffer = self._buffer[count:]


def _overlap(text: str, tag: str) -> int:
    """How many characters at the end of the text are the beginning of the tag."""
    for length in range(min(len(text), len(tag) - 1), 0, -1):
        if text.endswith(tag[:length]):
            return length
    return 0


def _string(text: str) -> str | None:
    try:
        value: Any = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, str) else None


def _whole_call(body: str) -> tuple[str, str] | None:
    """Name and arguments of a call that is JSON but in another order or dress than usual."""
    try:
        value: Any = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not value["name"]:
        return None
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):
        return value["name"], arguments
    return value["name"], json.dumps(arguments, ensure_ascii=False)
