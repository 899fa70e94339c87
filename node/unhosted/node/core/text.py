"""From the bytes of tokens to the text that may be shown, one piece at a time.

Two things make text lag behind tokens: a character whose bytes are spread over tokens, and text that may
turn out to be the beginning of a stop string. Both are held back here. What is shown is a function of the
bytes alone, never of where they were cut: a run that is resumed elsewhere pushes the old pieces again,
ignores what they give, and goes on.
"""

import codecs

from unhosted.node.core.errors import Refused

STOPS_MAX = 16
"""OpenAI takes 4; some clients send their template's whole list. Each is searched for at every token."""

STOP_CHARS_MAX = 256
"""What may be a stop string's beginning is held back, so a stop string bounds how far text lags."""


class TextAssembler:
    """Gives the text of one output. It ends before the first stop string to be complete.

    If two are complete at the same character, the longer one counts.
    Raises: Refused if a stop string is empty or too long, or there are too many.
    """

    __slots__ = ("_decode", "_first_chars", "_held", "_stop", "_tail_chars", "stopped_by")

    def __init__(self, stop: tuple[str, ...] = ()) -> None:
        check_stop(stop)
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._stop = stop
        self._first_chars = frozenset(one[0] for one in stop)
        self._tail_chars = max(map(len, stop), default=0) - 1
        self._held = ""
        self.stopped_by: str | None = None

    def push(self, piece: bytes) -> str:
        """The text that is certain once these bytes have come; empty after a stop string."""
        text = self._decode(piece)
        if not self._stop:
            return text
        return self._search(text)

    def finish(self) -> str:
        """What was held back, at the end of the output. An unfinished character becomes U+FFFD."""
        text = self._search(self._decode(b"", True)) if self._stop else self._decode(b"", True)
        rest, self._held = self._held, ""
        return text + rest

    def _search(self, text: str) -> str:
        if self.stopped_by is not None:
            return ""
        text = self._held + text
        best: tuple[int, int, str] | None = None
        for stop in self._stop:
            start = text.find(stop)
            if start >= 0 and (best is None or (start + len(stop), start) < best[:2]):
                best = (start + len(stop), start, stop)
        if best is not None:
            self.stopped_by, self._held = best[2], ""
            return text[: best[1]]
        cut = len(text)
        for index in range(max(0, len(text) - self._tail_chars), len(text)):
            if text[index] in self._first_chars and any(s.startswith(text[index:]) for s in self._stop):
                cut = index
                break
        self._held = text[cut:]
        return text[:cut]


def check_stop(stop: tuple[str, ...]) -> None:
    """Raises: Refused if the stop strings of a request break a limit."""
    if len(stop) > STOPS_MAX:
        raise Refused(
            "invalid_request", f"stop has {len(stop)} strings, at most {STOPS_MAX}: send fewer", field="stop"
        )
    for one in stop:
        if not 1 <= len(one) <= STOP_CHARS_MAX:
            raise Refused(
                "invalid_request",
                f"a stop string has {len(one)} characters, not 1 to {STOP_CHARS_MAX}: shorten or drop it",
                field="stop",
            )
