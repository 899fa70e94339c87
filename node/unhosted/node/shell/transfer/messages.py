"""The messages of `/unhosted/model/1`, decoded here and nowhere else. See docs/protocol.md.

Each is a map in deterministic CBOR whose `k` says what it is; unknown fields are ignored. After `chunk` the
chunk's bytes follow raw, in messages of their own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

from unhosted.market.cbor import CborError, decode, encode
from unhosted.node.core.chunks import CHUNK_BYTES, HASH_BYTES, MODEL_BYTES_MAX, chunk_count
from unhosted.node.core.errors import Code, Refused

PROTOCOL = "/unhosted/model/1"
VERSION = 1

PIECE_BYTES = 65_500
"""Raw bytes of a chunk in one message of a libp2p channel: with its length it is one frame there."""

MESSAGE_BYTES_MAX = 128 << 10
"""The largest is a page of hashes, about half of this."""

HASHES_PAGE_MAX = 2_000
"""Hashes in one message: the list of a 2 GB model is one page."""

NAME_CHARS_MAX = 200
TEXT_CHARS_MAX = 2_000
"""Of a refusal's message."""

TOKEN_BYTES = 16
SECRET_BYTES = 32


class WireError(Exception):
    """The peer's message breaks the protocol; the text says how."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Open:
    """Which file: by its BLAKE3, or by its SHA-256 where only that is known. 32 bytes."""

    blake3: bytes | None = None
    sha256: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Offered:
    """What the peer has. root: the BLAKE3 of its chunk list. name: what it calls the model, for people."""

    size_bytes: int
    blake3: bytes
    sha256: bytes
    root: bytes
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GetHashes:
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Hashes:
    at: int
    hashes: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class GetSideband:
    """Ask for a ticket."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """Where the bulk connection is awaited, once and soon; see `sideband.py`."""

    port: int
    token: bytes
    secret: bytes

    def __repr__(self) -> str:
        return f"Ticket(port={self.port})"  # neither the token nor the secret


@dataclass(frozen=True, slots=True, kw_only=True)
class GetChunk:
    chunk: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """`size_bytes` raw bytes follow."""

    chunk: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class No:
    """The peer refuses; nothing more follows."""

    code: Code
    message: str


_M = TypeVar("_M")
Request = Open | GetHashes | GetSideband | GetChunk
Reply = Offered | Hashes | Ticket | Chunk | No


def encode_message(message: Request | Reply) -> bytes:
    match message:
        case Open(blake3=blake3, sha256=sha256):
            digests = {"blake3": blake3} if blake3 else {"sha256": sha256}
            return encode({"k": "open", "v": VERSION, **digests})
        case Offered():
            return encode(
                {
                    "k": "model",
                    "v": VERSION,
                    "size": message.size_bytes,
                    "chunk": CHUNK_BYTES,
                    "blake3": message.blake3,
                    "sha256": message.sha256,
                    "root": message.root,
                    "name": message.name[:NAME_CHARS_MAX],
                }
            )
        case GetHashes(at=at):
            return encode({"k": "gethashes", "at": at})
        case Hashes(at=at, hashes=hashes):
            return encode({"k": "hashes", "at": at, "hashes": hashes})
        case GetSideband():
            return encode({"k": "sideband"})
        case Ticket(port=port, token=token, secret=secret):
            return encode({"k": "ticket", "port": port, "token": token, "secret": secret})
        case GetChunk(chunk=chunk):
            return encode({"k": "get", "chunk": chunk})
        case Chunk(chunk=chunk, size_bytes=size_bytes):
            return encode({"k": "chunk", "chunk": chunk, "size": size_bytes})
        case No(code=code, message=text):
            return encode({"k": "no", "code": code, "message": text[:TEXT_CHARS_MAX]})


def decode_request(data: bytes) -> Request:
    """Raises: WireError; Refused (not_supported) for another version of the protocol."""
    return _decode(data, _REQUESTS)


def decode_reply(data: bytes) -> Reply:
    """Raises: WireError; Refused (not_supported) for another version of the protocol."""
    return _decode(data, _REPLIES)


def _decode(data: bytes, kinds: "dict[str, Callable[[_Fields], _M]]") -> _M:
    try:
        record = decode(data, bytes_max=MESSAGE_BYTES_MAX, depth_max=4, items_max=64)
    except CborError as error:
        raise WireError(f"a message that is no CBOR of ours: {error}") from error
    if not isinstance(record, dict):
        raise WireError("a message that is no map")
    kind = record.get("k")
    read = kinds.get(kind) if isinstance(kind, str) else None
    if read is None:
        raise WireError("a message of an unknown kind")
    return read(_Fields(record))


@dataclass(frozen=True, slots=True)
class _Fields:
    record: dict[Any, Any]

    def number(self, key: str, low: int, high: int) -> int:
        value = self.record.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise WireError(f"{key} must be a number of {low} to {high}")
        return value

    def data(self, key: str, length: int) -> bytes:
        value = self.record.get(key)
        if not isinstance(value, bytes) or len(value) != length:
            raise WireError(f"{key} must be {length} bytes")
        return value

    def text(self, key: str, chars_max: int) -> str:
        value = self.record.get(key)
        if not isinstance(value, str) or len(value) > chars_max:
            raise WireError(f"{key} must be text of at most {chars_max} characters")
        return value

    def check_version(self) -> None:
        version = self.record.get("v")
        if version != VERSION:
            raise Refused(
                "not_supported",
                f"the peer speaks version {version!r:.20} of {PROTOCOL}, this one {VERSION}: update it.",
            )


CHUNKS_MAX = chunk_count(MODEL_BYTES_MAX)


def _open(fields: _Fields) -> Open:
    fields.check_version()
    if "blake3" in fields.record:
        return Open(blake3=fields.data("blake3", HASH_BYTES))
    return Open(sha256=fields.data("sha256", 32))


def _offered(fields: _Fields) -> Offered:
    fields.check_version()
    fields.number("chunk", CHUNK_BYTES, CHUNK_BYTES)
    return Offered(
        size_bytes=fields.number("size", 1, MODEL_BYTES_MAX),
        blake3=fields.data("blake3", HASH_BYTES),
        sha256=fields.data("sha256", 32),
        root=fields.data("root", HASH_BYTES),
        name=fields.text("name", NAME_CHARS_MAX),
    )


def _hashes(fields: _Fields) -> Hashes:
    found = fields.record.get("hashes")
    if not isinstance(found, bytes) or not found or len(found) % HASH_BYTES:
        raise WireError(f"hashes must be bytes, {HASH_BYTES} for each chunk")
    return Hashes(at=fields.number("at", 0, CHUNKS_MAX), hashes=found)


def _ticket(fields: _Fields) -> Ticket:
    return Ticket(
        port=fields.number("port", 1, 65_535),
        token=fields.data("token", TOKEN_BYTES),
        secret=fields.data("secret", SECRET_BYTES),
    )


def _chunk(fields: _Fields) -> Chunk:
    return Chunk(
        chunk=fields.number("chunk", 0, CHUNKS_MAX), size_bytes=fields.number("size", 1, CHUNK_BYTES)
    )


def _no(fields: _Fields) -> No:
    code = fields.text("code", 64)
    # A code of a later version still is a refusal.
    known: Code = next((known for known in get_args(Code) if known == code), "not_allowed")
    return No(code=known, message=fields.text("message", TEXT_CHARS_MAX))


_REQUESTS: dict[str, Callable[[_Fields], Request]] = {
    "open": _open,
    "gethashes": lambda fields: GetHashes(at=fields.number("at", 0, CHUNKS_MAX)),
    "sideband": lambda fields: GetSideband(),
    "get": lambda fields: GetChunk(chunk=fields.number("chunk", 0, CHUNKS_MAX)),
}
_REPLIES: dict[str, Callable[[_Fields], Reply]] = {
    "model": _offered,
    "hashes": _hashes,
    "ticket": _ticket,
    "chunk": _chunk,
    "no": _no,
}
