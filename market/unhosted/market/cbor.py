"""Deterministic CBOR (RFC 8949, section 4.2.1) with limits: one value has one encoding, no bytes are a bomb.

Values are None, bool, int, float, str, bytes, lists (tuples on the way in) and maps with text keys. Heads and
floats stand in the shortest form that keeps the value, map keys in the order of their encoded bytes.
Refused, both ways: NaN (it equals nothing, itself included), integers beyond 64 bits, tags, simple values,
half surrogate pairs. Refused on the way in, too: indefinite lengths, longer heads than needed, keys that
repeat or stand out of order, bytes after the value. Infinities and -0.0 are values like others.

It decodes in one pass, and checks each length against what is left and against the limits before it makes
anything of it: what it allocates is bounded by the message's own size and by `items_max`.
"""

from collections.abc import Callable, Sequence
from struct import Struct
from struct import error as StructError
from typing import Any

DEPTH_MAX = 16
"""Containers inside each other. Messages of ours use six; a peer's must not exhaust the stack."""

ITEMS_MAX = 65_536
"""Values in one message, keys included: an empty list costs one byte on the wire and 64 in memory."""

_HALF, _SINGLE, _DOUBLE = Struct(">e"), Struct(">f"), Struct(">d")
_TWO, _FOUR, _EIGHT = Struct(">BH"), Struct(">BI"), Struct(">BQ")
_SMALL = tuple(bytes([n]) if n < 24 else bytes([24, n]) for n in range(256))
"""The integers that stand most often: token ids of bytes, counts, flags."""
_LONGER = "a number stands in a longer form than it needs"
_LEAST = (24, 1 << 8, 1 << 16, 1 << 32)
"""What a head of one, two, four or eight more bytes is for; less stands in a shorter one."""


class CborError(ValueError):
    """The bytes are no message of these rules, or the value cannot stand in one; the text says why."""


def encode(value: object) -> bytes:
    """The one encoding of `value`. Raises: CborError for what these rules have no encoding for."""
    parts: list[bytes] = []
    try:
        _encode_items((value,), parts.append)
    except UnicodeEncodeError as fault:
        raise CborError(f"half a surrogate pair at character {fault.start} of a text") from None
    except RecursionError:
        raise CborError("containers are nested too deeply, or hold themselves") from None
    return b"".join(parts)


def decode(data: bytes, *, bytes_max: int, depth_max: int = DEPTH_MAX, items_max: int = ITEMS_MAX) -> Any:
    """The value that `data` is the one encoding of.

    Raises: CborError for anything else, and above a limit; nothing else, whatever the bytes are.
    """
    if len(data) > bytes_max:
        raise CborError(f"{len(data)} bytes, at most {bytes_max}")
    try:
        values, end = _decode_items(data, 0, 1, depth_max, [items_max])
    except IndexError:
        raise CborError("the message ends inside a value") from None
    except UnicodeDecodeError:
        raise CborError("a text is not UTF-8") from None
    if end != len(data):
        raise CborError(f"{len(data) - end} bytes follow the value")
    return values[0]


def _encode_items(items: Sequence[Any], append: Callable[[bytes], object]) -> None:
    # One loop for all kinds instead of a function for each: half the time on a message of small values.
    for item in items:
        kind = type(item)
        if item is None:
            append(b"\xf6")
        elif kind is int:
            if 0 <= item < 256:
                append(_SMALL[item])
            else:
                append(_integer(item))
        elif kind is str:
            text = item.encode()
            append(_head(0x60, len(text)) + text)
        elif kind is list or kind is tuple:
            append(_head(0x80, len(item)))
            _encode_items(item, append)
        elif kind is bool:
            append(b"\xf5" if item else b"\xf4")
        elif kind is float:
            append(_float(item))
        elif kind is dict:
            _encode_map(item, append)
        elif kind is bytes:
            append(_head(0x40, len(item)) + item)
        else:
            raise CborError(f"a {kind.__name__} has no encoding")


def _encode_map(value: dict[Any, Any], append: Callable[[bytes], object]) -> None:
    append(_head(0xA0, len(value)))
    pairs = []
    for key, item in value.items():
        if type(key) is not str:
            raise CborError(f"a map's key is a {type(key).__name__}, must be text")
        text = key.encode()
        pairs.append((_head(0x60, len(text)) + text, item))
    pairs.sort(key=lambda pair: pair[0])
    for head, item in pairs:
        append(head)
        _encode_items((item,), append)


def _integer(value: int) -> bytes:
    return _head(0x00, value) if value >= 0 else _head(0x20, -1 - value)


def _head(major: int, number: int) -> bytes:
    if number < 24:
        return bytes((major | number,))
    if number < 0x100:
        return bytes((major | 24, number))
    if number < 0x1_0000:
        return _TWO.pack(major | 25, number)
    if number < 0x1_0000_0000:
        return _FOUR.pack(major | 26, number)
    if number < 0x1_0000_0000_0000_0000:
        return _EIGHT.pack(major | 27, number)
    raise CborError(f"an integer of {number.bit_length()} bits, at most 64")


def _float(value: float) -> bytes:
    for initial, layout in ((b"\xf9", _HALF), (b"\xfa", _SINGLE), (b"\xfb", _DOUBLE)):
        try:
            packed = layout.pack(value)
        except OverflowError:
            continue
        if layout.unpack(packed)[0] == value:
            return initial + packed
    raise CborError("a float is not a number")


def _decode_items(
    data: bytes, at: int, count: int, depth_left: int, items_left: list[int]
) -> tuple[list[Any], int]:
    """`count` values from `at` on, and where they end. Raises IndexError where the data does."""
    items_left[0] -= count  # before anything is made of the claim
    if items_left[0] < 0:
        raise CborError("more values than the limit")
    values: list[Any] = []
    append = values.append
    value: Any
    for _ in range(count):
        initial = data[at]
        at += 1
        number = initial & 31
        if number >= 24 and initial < 0xE0:
            if number == 25:  # most token ids; a call would double what they cost
                number = data[at] << 8 | data[at + 1]
                at += 2
                if number < 0x100:
                    raise CborError(_LONGER)
            else:
                number, at = _decode_number(data, at, number)
        if initial < 0x20:
            append(number)
        elif 0x40 <= initial < 0x80:
            end = at + number
            piece = data[at:end]
            if len(piece) != number:
                raise CborError(f"a text or byte string claims {number} bytes, {len(piece)} are left")
            append(piece.decode() if initial >= 0x60 else piece)
            at = end
        elif initial >= 0xE0:
            value, at = (None, at) if initial == 0xF6 else _decode_simple(data, at, initial)
            append(value)
        elif initial < 0x40:
            append(-1 - number)
        elif initial >= 0xC0:
            raise CborError(f"tag {number}: tags are not used")
        elif depth_left == 0:
            raise CborError("containers are nested deeper than the limit")
        else:
            decode_container = _decode_map if initial >= 0xA0 else _decode_items
            value, at = decode_container(data, at, number, depth_left - 1, items_left)
            append(value)
    return values, at


def _decode_number(data: bytes, at: int, width: int) -> tuple[int, int]:
    if width == 24:
        number, end = data[at], at + 1
    elif width > 27:
        raise CborError("an indefinite length" if width == 31 else f"reserved additional information {width}")
    else:
        end = at + (1 << (width - 24))
        if end > len(data):
            raise IndexError
        number = int.from_bytes(data[at:end], "big")
    if number < _LEAST[width - 24]:
        raise CborError(_LONGER)
    return number, end


def _decode_map(
    data: bytes, at: int, count: int, depth_left: int, items_left: list[int]
) -> tuple[dict[str, Any], int]:
    flat, at = _decode_items(data, at, 2 * count, depth_left, items_left)
    keys = flat[::2]
    last: tuple[int, bytes] = (-1, b"")
    for key in keys:
        if type(key) is not str:
            raise CborError(f"a map's key is a {type(key).__name__}, must be text")
        text = key.encode()
        place = (len(text), text)  # the head grows with the length: the order of the encoded bytes
        if place <= last:
            raise CborError("a map's keys repeat or stand out of order")
        last = place
    return dict(zip(keys, flat[1::2], strict=True)), at


def _decode_simple(data: bytes, at: int, initial: int) -> tuple[bool | float, int]:
    if initial == 0xF5 or initial == 0xF4:
        return initial == 0xF5, at
    layout = {0xF9: _HALF, 0xFA: _SINGLE, 0xFB: _DOUBLE}.get(initial)
    if layout is None:
        raise CborError(f"the simple value or break 0x{initial:02x} is not used")
    try:
        value: float = layout.unpack_from(data, at)[0]
    except StructError:
        raise IndexError from None
    end = at + layout.size
    if _float(value) != data[at - 1 : end]:
        raise CborError(_LONGER)
    return value, end
