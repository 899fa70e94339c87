"""DNS messages (RFC 1035) as far as mDNS needs them: questions, and PTR, SRV, TXT and address records.

Decoding takes any bytes. A message that breaks the format anywhere is dropped as a whole; records of other
types are passed over. A compressed name may only point back, so that reading always ends.
"""

import ipaddress
import struct
from collections.abc import Sequence
from dataclasses import dataclass

A, PTR, TXT, AAAA, SRV, ANY = 1, 12, 16, 28, 33, 255
"""Types of records and questions."""

MESSAGE_BYTES_MAX = 9000
"""RFC 6762, 17."""

ENTRIES_MAX = 64
"""Questions, and records, that are read of one message; ours has fewer than twenty."""

POINTERS_MAX = 8
"""Of one compressed name; a writer needs one."""

NAME_BYTES_MAX = 255
LABEL_BYTES_MAX = 63

_CLASS_IN = 1
_UNIQUE = 0x8000  # in a record's class: whoever holds others of this name and type is to forget them
_RESPONSE = 0x8400  # a response that is authoritative
_HEADER = struct.Struct("!6H")
_FIXED = struct.Struct("!HHIH")  # type, class, TTL, length
_SHARED_TYPES = {PTR}

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Service:
    """The value of an SRV record."""

    port: int
    host: str


@dataclass(frozen=True, slots=True)
class Record:
    """value: a name for PTR, bytes for TXT. Names are lower case and end with a dot."""

    name: str
    type: int
    ttl_s: int
    value: "str | bytes | Service | Address"


@dataclass(frozen=True, slots=True)
class Message:
    """questions: (name, type)."""

    is_query: bool
    questions: tuple[tuple[str, int], ...] = ()
    records: tuple[Record, ...] = ()


def encode(message: Message) -> bytes:
    """Raises: ValueError for a name that is too long."""
    parts = [
        _HEADER.pack(
            0,
            0 if message.is_query else _RESPONSE,
            len(message.questions),
            len(message.records),
            0,
            0,
        )
    ]
    parts += [_encode_name(name) + struct.pack("!HH", kind, _CLASS_IN) for name, kind in message.questions]
    for record in message.records:
        value = _encode_value(record.value)
        record_class = _CLASS_IN if record.type in _SHARED_TYPES else _CLASS_IN | _UNIQUE
        parts.append(_encode_name(record.name))
        parts.append(_FIXED.pack(record.type, record_class, record.ttl_s, len(value)) + value)
    return b"".join(parts)


def decode(data: bytes) -> Message | None:
    """None for what is no DNS message."""
    if not _HEADER.size <= len(data) <= MESSAGE_BYTES_MAX:
        return None
    _, flags, questions_count, *counts = _HEADER.unpack_from(data)
    at = _HEADER.size
    questions: list[tuple[str, int]] = []
    records: list[Record] = []
    try:
        for _ in range(min(questions_count, ENTRIES_MAX)):
            name, at = _read_name(data, at)
            (kind,) = struct.unpack_from("!H", data, at)
            questions.append((name, kind))
            at += 4
        # With more questions than are read, what follows cannot be found; nobody honest asks so many.
        for _ in range(min(sum(counts), ENTRIES_MAX) if questions_count <= ENTRIES_MAX else 0):
            name, at = _read_name(data, at)
            kind, record_class, ttl_s, length = _FIXED.unpack_from(data, at)
            at += _FIXED.size
            if at + length > len(data):
                return None
            value = _read_value(data, at, length, kind)
            if value is not None and record_class & ~_UNIQUE == _CLASS_IN:
                records.append(Record(name, kind, ttl_s, value))
            at += length
    except (struct.error, IndexError, ValueError):
        return None
    return Message(flags & 0x8000 == 0, tuple(questions), tuple(records))


def encode_pairs(pairs: Sequence[tuple[str, str]]) -> bytes:
    """The value of a TXT record; a pair that is too long loses its end, between two characters."""
    texts = [f"{key}={value}".encode()[:255].decode(errors="ignore").encode() for key, value in pairs]
    return b"".join(bytes([len(text)]) + text for text in texts)


def decode_pairs(text: bytes) -> dict[str, str]:
    """The key=value strings of a TXT record; the first of a key counts (RFC 6763, 6.4)."""
    pairs: dict[str, str] = {}
    at = 0
    while at < len(text):
        entry = text[at + 1 : at + 1 + text[at]]
        at += 1 + text[at]
        key, equals, value = entry.partition(b"=")
        if equals:
            pairs.setdefault(key.decode("ascii", "replace").lower(), value.decode("utf-8", "replace"))
    return pairs


def _encode_name(name: str) -> bytes:
    labels = [label.encode() for label in name.rstrip(".").split(".")]
    encoded = (
        b"".join(bytes([len(label)]) + label for label in labels if len(label) <= LABEL_BYTES_MAX) + b"\0"
    )
    if len(encoded) != sum(len(label) + 1 for label in labels) + 1 or len(encoded) > NAME_BYTES_MAX:
        raise ValueError(f"{name!r} is no DNS name")
    return encoded


def _encode_value(value: "str | bytes | Service | Address") -> bytes:
    match value:
        case str():
            return _encode_name(value)
        case bytes():
            return value
        case Service(port=port, host=host):
            return struct.pack("!HHH", 0, 0, port) + _encode_name(host)
        case _:
            return value.packed


def _read_value(data: bytes, at: int, length: int, kind: int) -> "str | bytes | Service | Address | None":
    """None for a type that is not ours to read. Raises: ValueError, IndexError, struct.error if malformed."""
    if kind in (A, AAAA):
        if length != (4 if kind == A else 16):
            raise ValueError("an address of another length")
        return ipaddress.ip_address(data[at : at + length])
    if kind == TXT:
        return data[at : at + length]
    if kind == PTR:
        value, end = _read_name(data, at)
    elif kind == SRV:
        (port,) = struct.unpack_from("!H", data, at + 4)
        value, end = _read_name(data, at + 6)
    else:
        return None
    if end != at + length:
        raise ValueError("a name that does not fill its record")
    return Service(port, value) if kind == SRV else value


def _read_name(data: bytes, at: int) -> tuple[str, int]:
    """A name and where what follows it begins."""
    labels: list[str] = []
    name_bytes, pointers, end, earliest = 1, 0, -1, at
    while length := data[at]:
        if length >= 0xC0:
            target = (length & 0x3F) << 8 | data[at + 1]
            end = at + 2 if end < 0 else end
            pointers += 1
            if target >= earliest or pointers > POINTERS_MAX:
                raise ValueError("a name that points forward, or again and again")
            at = earliest = target
            continue
        name_bytes += length + 1
        if length > LABEL_BYTES_MAX or name_bytes > NAME_BYTES_MAX or at + length >= len(data):
            raise ValueError("a label or name that is too long")
        labels.append(data[at + 1 : at + 1 + length].decode("utf-8", "replace").lower())
        at += length + 1
    return ".".join(labels) + ".", at + 1 if end < 0 else end
