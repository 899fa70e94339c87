"""Reads the header of a GGUF file: fast (a 49,000-word vocabulary in about 10 ms) and wary.

A model file is foreign data. Every count, length, type and offset is checked before it is used, arrays are
stepped over instead of stored, and whatever is wrong becomes one `GgufError` with the place, the value and
the rule. The file is read, not mapped: a mapped file that shrinks under us would kill the process.

Not checked: the weights themselves. That is what the digests of the store are for.
"""

import os
import struct
from pathlib import Path
from typing import BinaryIO, NoReturn

from unhosted.node.core.gguf_facts import (
    ARRAY_TYPE,
    SCALAR_FORMATS,
    STRING_TYPE,
    TENSOR_TYPES,
    GgufHeader,
)
from unhosted.node.shell.models.gguf_fields import SkippedStrings, TensorInfo, Value, build_header

READ_FIRST_BYTES = 16 << 20
"""Holds the header of nearly every model in one read; the largest vocabularies take a second one."""

HEADER_BYTES_MAX = 256 << 20
"""Ten times the header of a 262,000-word vocabulary with merges and scores."""

METADATA_COUNT_MAX = 4096
TENSOR_COUNT_MAX = 65_536
"""The largest mixtures of experts have a few thousand."""

KEY_BYTES_MAX = 1024
STRING_BYTES_MAX = 4 << 20
"""Chat templates are the longest strings met: tens of kilobytes."""

TENSOR_NAME_BYTES_MAX = 1024
DIMENSIONS_MAX = 4
ELEMENTS_MAX = 1 << 48
ALIGNMENT_MAX = 1 << 20
KEPT_NUMBERS_MAX = 4096
"""Numeric arrays up to this length are kept: per-block head counts; vocabulary scores are not."""

KEPT_STRINGS_MAX = 64
STRING_BLOCK = 1024
"""The start of every 1,024th string of an array is remembered, so one token's text is found quickly."""

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_SCALARS = {kind: struct.Struct("<" + code) for kind, code in SCALAR_FORMATS.items()}


class GgufError(ValueError):
    """The file is no readable GGUF model; the message gives the byte offset, the value and the rule."""


class _MoreNeeded(Exception):
    """The buffer ends before the header does, though the file goes on."""


def read_header(path: str | Path) -> GgufHeader:
    """The header of the file at `path`. Raises: GgufError; OSError if it cannot be read."""
    with open(path, "rb") as file:
        return read_header_file(file)


def read_header_file(file: BinaryIO) -> GgufHeader:
    """The header of an open file, wherever it stands. Raises: GgufError; OSError."""
    size_bytes = os.fstat(file.fileno()).st_size
    for limit in (READ_FIRST_BYTES, HEADER_BYTES_MAX):
        file.seek(0)
        data = file.read(min(limit, size_bytes))
        if len(data) < min(limit, size_bytes):
            raise GgufError(f"the file shrank from {size_bytes} bytes while it was read")
        try:
            return parse_header(data, size_bytes)
        except _MoreNeeded:
            continue
    raise GgufError(f"the metadata goes on past {HEADER_BYTES_MAX} bytes, the most that is read")


def parse_header(data: bytes, size_bytes: int) -> GgufHeader:
    """The header of a file of `size_bytes` that begins with `data`. Raises: GgufError."""
    reader = _Reader(data, size_bytes)
    try:
        version = _check_magic(reader)
        tensor_count = reader.count("tensors", TENSOR_COUNT_MAX)
        metadata_count = reader.count("metadata entries", METADATA_COUNT_MAX)
        values = _read_metadata(reader, metadata_count)
        tensors = _read_tensors(reader, tensor_count)
    except struct.error:
        reader.short()
    alignment = values.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 8 <= alignment <= ALIGNMENT_MAX or alignment & (alignment - 1):
        raise GgufError(
            f"general.alignment is {alignment!r}, must be a power of two from 8 to {ALIGNMENT_MAX}"
        )
    data_offset = -(-reader.at // alignment) * alignment
    _check_layout(tensors, data_offset, alignment, size_bytes)
    try:
        return build_header(
            values, tensors, data_offset_bytes=data_offset, size_bytes=size_bytes, token_text=reader.string_of
        )
    except ValueError as error:
        raise GgufError(f"version {version} metadata: {error}") from error


class _Reader:
    """A cursor over the start of the file."""

    __slots__ = ("at", "data", "size_bytes")

    def __init__(self, data: bytes, size_bytes: int) -> None:
        self.data = data
        self.size_bytes = size_bytes
        self.at = 0

    def fail(self, message: str) -> NoReturn:
        raise GgufError(f"at byte {self.at}: {message}")

    def short(self) -> NoReturn:
        if len(self.data) < self.size_bytes:
            raise _MoreNeeded
        self.fail(f"the file ends at byte {self.size_bytes}, inside its header: it is truncated")

    def u32(self) -> int:
        (value,) = _U32.unpack_from(self.data, self.at)
        self.at += 4
        return int(value)

    def u64(self) -> int:
        (value,) = _U64.unpack_from(self.data, self.at)
        self.at += 8
        return int(value)

    def count(self, what: str, most: int) -> int:
        value = self.u64()
        if value > most:
            self.fail(f"{value} {what}, at most {most}")
        return value

    def string(self, most: int) -> str:
        length = self.u64()
        if length > most:
            self.fail(f"a string of {length} bytes, at most {most}")
        end = self.at + length
        if end > len(self.data):
            self.short()
        value = self.data[self.at : end].decode("utf-8", "replace")
        self.at = end
        return value

    def room(self, needed: int, what: str) -> None:
        """Check a claimed length against the file before walking it."""
        if needed > self.size_bytes - self.at:
            self.fail(f"{what} needs {needed} bytes, the file has {self.size_bytes - self.at} more")
        if needed > len(self.data) - self.at:
            self.short()

    def skip_strings(self, count: int) -> SkippedStrings:
        data, unpack, at = self.data, _U64.unpack_from, self.at
        starts = []
        for index in range(count):
            if not index % STRING_BLOCK:
                starts.append(at)
            (length,) = unpack(data, at)
            if length > STRING_BYTES_MAX:
                self.at = at
                self.fail(f"string {index} of an array has {length} bytes, at most {STRING_BYTES_MAX}")
            at += 8 + length
        if at > len(data):
            self.short()
        self.at = at
        return SkippedStrings(count, tuple(starts))

    def string_of(self, strings: Value, index: int) -> str | None:
        """One string of an array, or None where there is no such index."""
        if isinstance(strings, tuple):
            text = strings[index] if 0 <= index < len(strings) else None
            return text if isinstance(text, str) else None
        if not isinstance(strings, SkippedStrings) or not 0 <= index < strings.count:
            return None
        at = strings.starts[index // STRING_BLOCK]
        for _ in range(index % STRING_BLOCK):
            at += 8 + int(_U64.unpack_from(self.data, at)[0])
        self.at = at
        return self.string(STRING_BYTES_MAX)


def _check_magic(reader: _Reader) -> int:
    if reader.data[:4] != b"GGUF":
        reader.fail(f"the file begins with {reader.data[:4]!r}, not b'GGUF': it is no GGUF file")
    reader.at = 4
    version = reader.u32()
    if version not in (2, 3):
        hint = " (a big-endian file)" if version in (2 << 24, 3 << 24) else ""
        reader.fail(f"format version {version}{hint}, only 2 and 3 are read")
    return version


def _read_metadata(reader: _Reader, count: int) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for _ in range(count):
        key = reader.string(KEY_BYTES_MAX)
        if key in values:
            reader.fail(f"the key {key!r} stands twice")
        values[key] = _read_value(reader, key, reader.u32())
    return values


def _read_value(reader: _Reader, key: str, kind: int) -> Value:
    if kind == STRING_TYPE:
        return reader.string(STRING_BYTES_MAX)
    if kind == ARRAY_TYPE:
        return _read_array(reader, key)
    scalar = _SCALARS.get(kind)
    if scalar is None:
        reader.fail(f"{key!r} has value type {kind}, which does not exist")
    value: int | float | bool
    (value,) = scalar.unpack_from(reader.data, reader.at)
    reader.at += scalar.size
    return value


def _read_array(reader: _Reader, key: str) -> Value:
    kind, count = reader.u32(), reader.u64()
    if kind == STRING_TYPE:
        reader.room(8 * count, f"the array {key!r} of {count} strings")
        if count > KEPT_STRINGS_MAX:
            return reader.skip_strings(count)
        return tuple(reader.string(STRING_BYTES_MAX) for _ in range(count))
    if kind == ARRAY_TYPE:
        reader.fail(f"{key!r} is an array of arrays, which no model needs")
    scalar = _SCALARS.get(kind)
    if scalar is None:
        reader.fail(f"{key!r} is an array of value type {kind}, which does not exist")
    reader.room(scalar.size * count, f"the array {key!r} of {count} numbers")
    start, reader.at = reader.at, reader.at + scalar.size * count
    if count > KEPT_NUMBERS_MAX:
        return None
    return struct.unpack_from(f"<{count}{SCALAR_FORMATS[kind]}", reader.data, start)


def _read_tensors(reader: _Reader, count: int) -> list[TensorInfo]:
    # A tensor takes at least 36 bytes here; a claimed count that cannot fit fails before the walk.
    reader.room(36 * count, f"the list of {count} tensors")
    tensors, names = [], set()
    for _ in range(count):
        tensor = _read_tensor(reader)
        if tensor.name in names:
            reader.fail(f"the tensor {tensor.name!r} stands twice")
        names.add(tensor.name)
        tensors.append(tensor)
    return tensors


def _read_tensor(reader: _Reader) -> TensorInfo:
    name = reader.string(TENSOR_NAME_BYTES_MAX)
    dimensions = reader.u32()
    if not 1 <= dimensions <= DIMENSIONS_MAX:
        reader.fail(f"the tensor {name!r} has {dimensions} dimensions, must be 1 to {DIMENSIONS_MAX}")
    shape = [reader.u64() for _ in range(dimensions)]
    elements = 1
    for length in shape:
        elements *= length
        if not 1 <= elements <= ELEMENTS_MAX:
            reader.fail(f"the tensor {name!r} has shape {shape}, must hold 1 to {ELEMENTS_MAX} elements")
    kind, offset = reader.u32(), reader.u64()
    if kind not in TENSOR_TYPES:
        reader.fail(f"the tensor {name!r} has type {kind}, which is not known here")
    type_name, block, block_bytes = TENSOR_TYPES[kind]
    if shape[0] % block:
        reader.fail(f"the tensor {name!r} has rows of {shape[0]}, no multiple of {type_name}'s block {block}")
    return TensorInfo(
        name=name,
        dimensions=dimensions,
        elements=elements,
        type_name=type_name,
        offset_bytes=offset,
        size_bytes=elements // block * block_bytes,
    )


def _check_layout(tensors: list[TensorInfo], data_offset: int, alignment: int, size_bytes: int) -> None:
    """Every tensor inside the file, aligned, and none over another."""
    end_before = 0
    for tensor in sorted(tensors, key=lambda tensor: tensor.offset_bytes):
        where = f"the tensor {tensor.name!r} at data offset {tensor.offset_bytes}"
        if tensor.offset_bytes % alignment:
            raise GgufError(f"{where} is not aligned to {alignment}")
        if tensor.offset_bytes < end_before:
            raise GgufError(f"{where} overlaps the one before it, which ends at {end_before}")
        end_before = tensor.offset_bytes + tensor.size_bytes
        if data_offset + end_before > size_bytes:
            missing = data_offset + end_before - size_bytes
            raise GgufError(f"{where} ends {missing} bytes past the end of the file: it is truncated")
