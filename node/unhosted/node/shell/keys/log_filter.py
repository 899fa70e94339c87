"""Keeps keys out of logs and of tracebacks on the terminal, whoever wrote the line.

Whatever looks like a key is replaced: 64 or more hex digits in a row, with 0x or without. That also takes
block and transaction hashes, which our own lines shorten anyway. Keys that were loaded are replaced in the
other forms as well that Python gives them: as bytes, as a number, in base64.
"""

import base64
import logging
import re
import sys
import traceback
from collections import deque
from collections.abc import Callable
from types import TracebackType

CONCEALED = "[concealed]"

KEYS_MAX = 16
"""Loaded keys whose other forms are looked for: a node has one or two, and each is a search in every line."""

FORM_CHARS_MIN = 16
"""A test key such as 1 has forms that stand in every line; they are no secret."""

_HEX = re.compile(r"(?:0[xX])?[0-9a-fA-F]{64,}")

# Of the process, as logging itself is. Functions and not texts: a list of texts would be what it hides.
_concealers: deque[Callable[[str], str]] = deque(maxlen=KEYS_MAX)


def conceal(secret: bytes) -> None:
    """From now on replace the forms of a loaded key that are not 64 hex digits."""
    number = int.from_bytes(secret, "big")
    as_bytes = repr(secret)[2:-1]
    forms = (
        as_bytes,
        repr(as_bytes)[1:-1],  # within a text within a list or dictionary
        str(number),
        f"{number:x}",
        base64.b64encode(secret).decode().rstrip("="),
        str(list(secret))[1:-1],
    )
    pattern = re.compile(
        "|".join(re.escape(form) for form in forms if len(form) >= FORM_CHARS_MIN), re.IGNORECASE
    )
    _concealers.append(lambda text: pattern.sub(CONCEALED, text))


def redact(text: str) -> str:
    """`text` without keys."""
    for concealer in _concealers:
        text = concealer(text)
    return _HEX.sub(CONCEALED, text)


class KeyFilter(logging.Filter):
    """Lets every record through, redacted: message, arguments, traceback and stack."""

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            message = record.getMessage()
        except Exception:
            # A wrong number of arguments: logging would print all of them to stderr.
            message = str(record.msg)
            record.args = None
        clean = redact(message)
        if clean != message or record.args is None:
            record.msg, record.args = clean, None
        if record.exc_info and not record.exc_text:
            record.exc_text = redact("".join(traceback.format_exception(*record.exc_info)).rstrip("\n"))
        if record.stack_info:
            record.stack_info = redact(record.stack_info)
        return True


def install() -> None:
    """Redact every log record of this process, and uncaught errors. Idempotent."""
    make = logging.getLogRecordFactory()
    if isinstance(make, _Factory):
        return
    logging.setLogRecordFactory(_Factory(make))
    sys.excepthook = _write_redacted


class _Factory:
    """Makes records and filters them. Not a filter on handlers: one added later would write unfiltered."""

    def __init__(self, make: Callable[..., logging.LogRecord]) -> None:
        self._make = make
        self._filter = KeyFilter()

    def __call__(self, *args: object, **kwargs: object) -> logging.LogRecord:
        record = self._make(*args, **kwargs)
        self._filter.filter(record)
        return record


def _write_redacted(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    sys.stderr.write(redact("".join(traceback.format_exception(kind, error, trace))))
