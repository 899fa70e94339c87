"""The store's record of one model: what a name stands for, as JSON on the disk."""

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any
from urllib.parse import quote

from unhosted.node.core.gguf_facts import GgufHeader

VERSION = 1
NAME_BYTES_MAX = 200
"""Percent-encoded and with its suffix a name must fit the 255 bytes of a file name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Digests:
    """Of one whole file, in lower-case hexadecimal. chunk_list: the BLAKE3 of each chunk (`core.chunks`), one
    after the other.
    """

    size_bytes: int
    sha256: str
    blake3: str
    chunk_list: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """adopted_path: where a file lives that is not ours; None for a blob of the store. mtime_ns: of the file
    when its digests were taken: as long as it and the size stand, the digests are taken to stand too.
    """

    name: str
    source: str
    size_bytes: int
    sha256: str
    blake3: str
    mtime_ns: int
    adopted_path: str | None
    created_unix_s: int
    architecture: str
    parameters: int
    quantization: str
    context_tokens: int
    licence: str | None


def file_name(name: str) -> str:
    """The file that holds the manifest of `name`. Raises: ValueError if the name is too long for one."""
    encoded = quote(name, safe="")
    if not encoded or len(encoded) > NAME_BYTES_MAX:
        raise ValueError(f"the name has {len(encoded)} bytes as a file name, must be 1 to {NAME_BYTES_MAX}")
    return f"{encoded}.json"


def make_manifest(
    *,
    name: str,
    source: str,
    digests: Digests,
    header: GgufHeader,
    mtime_ns: int,
    adopted_path: str | None,
    created_unix_s: int,
) -> Manifest:
    return Manifest(
        name=name,
        source=source,
        size_bytes=digests.size_bytes,
        sha256=digests.sha256,
        blake3=digests.blake3,
        mtime_ns=mtime_ns,
        adopted_path=adopted_path,
        created_unix_s=created_unix_s,
        architecture=header.architecture,
        parameters=header.parameters,
        quantization=header.quantization,
        context_tokens=header.context_tokens,
        licence=header.licence,
    )


def encode(manifest: Manifest) -> bytes:
    return (json.dumps({"version": VERSION, **asdict(manifest)}, indent=1) + "\n").encode()


_NULLABLE = ("adopted_path", "licence")
_NUMBERS = ("size_bytes", "mtime_ns", "created_unix_s", "parameters", "context_tokens")


def decode(data: bytes) -> Manifest:
    """Raises: ValueError if this is not a manifest of a version that is read here."""
    record = json.loads(data)
    if not isinstance(record, dict) or record.get("version") != VERSION:
        raise ValueError(f"the manifest is not of version {VERSION}")
    values: dict[str, Any] = {}
    for entry in fields(Manifest):
        value = record.get(entry.name)
        wanted = int if entry.name in _NUMBERS else str
        if not (isinstance(value, wanted) or (value is None and entry.name in _NULLABLE)):
            raise ValueError(f"the manifest's {entry.name} is {value!r}")
        values[entry.name] = value
    return Manifest(**values)
