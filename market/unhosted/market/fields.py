"""Typed, bounded reading of a message: each field is checked once, here, and named when it is wrong.

A message is one deterministic CBOR map with its version under `v`. Unknown fields are ignored, so that fields
may be added; an unknown version is refused, so that meanings may change. Whatever the bytes are, the only
error is `RemoteFault` with the reason MALFORMED or WRONG_VERSION.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from unhosted.market.cbor import CborError, decode
from unhosted.market.faults import Reason, RemoteFault
from unhosted.market.ids import ADDRESS_BYTES, ID_BYTES, Address
from unhosted.market.money import Micros

DEPTH_MAX = 4
"""message > receipt > response > list: nothing of the market is deeper."""

ITEMS_MAX = 4_096
"""CBOR values in one message of the market, keys included: lists of theirs have at most 1,024 entries."""

SHOWN_CHARS_MAX = 40
"""Of a peer's text in an error: enough to recognise it, too little to flood a log."""

WIRE_MICROS_MAX = (1 << 63) - 1
"""What SQLite holds as an integer, and a hundred times all USDC there is."""

T = TypeVar("T")


class Fields:
    """A map from a peer. Keys that nobody reads are ignored; a missing one reads like null."""

    def __init__(self, value: object, path: str = "") -> None:
        if type(value) is not dict:
            raise malformed(f"{path or 'message'}: a {type(value).__name__}, must be a map")
        self._values: dict[str, Any] = value
        self._path = f"{path}." if path else ""

    def has(self, key: str) -> bool:
        return self._values.get(key) is not None

    def uint(self, key: str, *, most: int, least: int = 0) -> int:
        value: int = self._get(key, int)
        if not least <= value <= most:
            raise self.wrong(key, f"{value} is outside {least} to {most}")
        return value

    def number(self, key: str) -> float:
        value: float = self._get(key, float)
        return value

    def micros(self, key: str) -> Micros:
        return Micros(self.uint(key, most=WIRE_MICROS_MAX))

    def text(self, key: str, *, chars_max: int) -> str:
        """Printable, so that it can be shown as it is."""
        value: str = self._get(key, str)
        if len(value) > chars_max or not value.isprintable():
            raise self.wrong(key, f"must be at most {chars_max} printable characters, not {len(value)}")
        return value

    def word(self, key: str, *, among: tuple[str, ...]) -> str:
        value: str = self._get(key, str)
        if value not in among:
            raise self.wrong(key, f"{value[:SHOWN_CHARS_MAX]!r} is none of {', '.join(among)}")
        return value

    def data(self, key: str, *, bytes_max: int) -> bytes:
        value: bytes = self._get(key, bytes)
        if len(value) > bytes_max:
            raise self.wrong(key, f"{len(value)} bytes, at most {bytes_max}")
        return value

    def exactly(self, key: str, *, size_bytes: int = ID_BYTES) -> bytes:
        """Bytes of one length: a hash, an id, a key, a signature."""
        value: bytes = self._get(key, bytes)
        if len(value) != size_bytes:
            raise self.wrong(key, f"{len(value)} bytes, must be {size_bytes}")
        return value

    def address(self, key: str) -> Address:
        return Address(self.exactly(key, size_bytes=ADDRESS_BYTES))

    def flag(self, key: str) -> bool:
        value: bool = self._get(key, bool)
        return value

    def items(self, key: str, *, most: int) -> list[Any]:
        """The list at `key`, empty if there is none."""
        if not self.has(key):
            return []
        value: list[Any] = self._get(key, list)
        if len(value) > most:
            raise self.wrong(key, f"{len(value)} entries, at most {most}")
        return value

    def map(self, key: str) -> "Fields":
        return Fields(self._values.get(key), f"{self._path}{key}")

    def wrong(self, key: str, rule: str) -> RemoteFault:
        return malformed(f"{self._path}{key}: {rule}")

    def _get(self, key: str, kind: type) -> Any:
        value = self._values.get(key)
        if type(value) is not kind:
            raise self.wrong(key, f"a {type(value).__name__}, must be a {kind.__name__}")
        return value


def read_message(data: bytes, *, bytes_max: int, version: int, unpack: Callable[[Fields], T]) -> T:
    """The frozen value that `unpack` makes of the message; its own ValueErrors become the one error too.

    Raises: RemoteFault.
    """
    try:
        value = decode(data, bytes_max=bytes_max, depth_max=DEPTH_MAX, items_max=ITEMS_MAX)
    except CborError as error:
        raise malformed(str(error)) from None
    fields = Fields(value)
    found = fields.uint("v", most=(1 << 32) - 1)
    if found != version:
        raise RemoteFault(Reason.WRONG_VERSION, f"version {found}: this program speaks version {version}")
    return built(lambda: unpack(fields))


def built(make: Callable[[], T]) -> T:
    """The value, where its own rules (ValueError) are a peer's fault."""
    try:
        return make()
    except ValueError as error:
        raise malformed(str(error)) from None


def malformed(message: str) -> RemoteFault:
    return RemoteFault(Reason.MALFORMED, message)
