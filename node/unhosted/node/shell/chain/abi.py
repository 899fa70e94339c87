"""Calls, answers, errors and logs as bytes, from the ABI that is checked in beside the contracts.

Addresses are 20 bytes on our side and structs are plain tuples; both ways. The types come from the ABI, so a
changed contract changes the encoding here without anybody writing it down twice.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unhosted.contracts import artifact
from unhosted.market.eip712 import keccak256

SELECTOR_BYTES = 4


class AbiError(ValueError):
    """Bytes that are not what the ABI says. From an endpoint it means that the endpoint is broken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A function, error or event. `types` are canonical (`(address,uint32)[]`); for a function of inputs."""

    name: str
    names: tuple[str, ...]
    types: tuple[str, ...]
    outputs: tuple[str, ...] = ()
    indexed: tuple[bool, ...] = ()

    @property
    def signature(self) -> str:
        return f"{self.name}({','.join(self.types)})"


class Abi:
    """One contract's words."""

    def __init__(self, parts: Sequence[Mapping[str, Any]]) -> None:
        entries = [(part["type"], _entry(part)) for part in parts if part["type"] in _KINDS]
        self.functions = {entry.name: entry for kind, entry in entries if kind == "function"}
        self._function_by_selector = {selector(entry): entry for entry in self.functions.values()}
        self._error_by_selector = {selector(entry): entry for kind, entry in entries if kind == "error"}
        self._event_by_topic = {
            keccak256(entry.signature.encode()): entry for kind, entry in entries if kind == "event"
        }

    def encode_call(self, name: str, *arguments: object) -> bytes:
        function = self.functions[name]
        return selector(function) + encode(function.types, arguments)

    def decode_call(self, data: bytes) -> tuple[str, dict[str, Any]]:
        """Name and arguments by name. Raises: AbiError for another contract's call."""
        function = self._function_by_selector.get(data[:SELECTOR_BYTES])
        if function is None:
            raise AbiError(f"0x{data[:SELECTOR_BYTES].hex()} is no function of this contract")
        values = decode(function.types, data[SELECTOR_BYTES:])
        return function.name, dict(zip(function.names, values, strict=True))

    def decode_result(self, name: str, data: bytes) -> tuple[Any, ...]:
        return decode(self.functions[name].outputs, data)

    def decode_error(self, data: bytes) -> tuple[str, dict[str, object]] | None:
        """Name and values by name, or None for what is no error of this contract."""
        error = self._error_by_selector.get(data[:SELECTOR_BYTES])
        if error is None:
            return None
        try:
            values = decode(error.types, data[SELECTOR_BYTES:])
        except AbiError:
            return None
        return error.name, dict(zip(error.names, values, strict=True))

    def decode_log(self, topics: Sequence[bytes], data: bytes) -> tuple[str, dict[str, object]] | None:
        """Name and values by name, or None for an event that this contract does not have.

        Raises: AbiError for one that it has, with other bytes.
        """
        event = self._event_by_topic.get(topics[0]) if topics else None
        if event is None:
            return None
        if len(topics) != 1 + sum(event.indexed):
            raise AbiError(f"{event.name} has {sum(event.indexed)} topics, the log has {len(topics) - 1}")
        parts = list(zip(event.types, event.indexed, strict=True))
        in_topics = iter([kind for kind, indexed in parts if indexed])
        found = iter([decode((kind,), topic)[0] for kind, topic in zip(in_topics, topics[1:], strict=True)])
        rest = iter(decode(tuple(kind for kind, indexed in parts if not indexed), data))
        values = (next(found) if indexed else next(rest) for indexed in event.indexed)
        return event.name, dict(zip(event.names, values, strict=True))


_KINDS = {"function", "error", "event"}


@functools.cache
def channels_abi() -> Abi:
    return Abi(artifact("Channels").abi)


def selector(entry: Entry) -> bytes:
    return keccak256(entry.signature.encode())[:SELECTOR_BYTES]


def encode(types: Sequence[str], values: Sequence[object]) -> bytes:
    """Raises: AbiError for a value outside its type: what was checked before does not get here."""
    from eth_abi.abi import encode as eth_encode
    from eth_abi.exceptions import EncodingError

    try:
        return bytes(eth_encode(types, values))
    except (EncodingError, OverflowError) as error:
        raise AbiError(f"({','.join(types)}): {error}") from None


def decode(types: Sequence[str], data: bytes) -> tuple[Any, ...]:
    """Raises: AbiError for too few bytes, padding that is not zero, or text that is none."""
    from eth_abi.abi import decode as eth_decode
    from eth_abi.exceptions import DecodingError

    try:
        values = eth_decode(types, data)
    except (DecodingError, UnicodeDecodeError, OverflowError) as error:
        raise AbiError(f"({','.join(types)}) in {len(data)} bytes: {error}") from None
    return tuple(_plain(kind, value) for kind, value in zip(types, values, strict=True))


def function_call(signature: str, *arguments: object) -> bytes:
    """Calldata of a function by its signature, for the few of other people's contracts (the token's)."""
    types = split_types(signature.partition("(")[2].removesuffix(")"))
    return keccak256(signature.encode())[:SELECTOR_BYTES] + encode(types, arguments)


def split_types(text: str) -> tuple[str, ...]:
    """`address,(uint8,bool)[]` in its parts."""
    parts, depth, start = [], 0, 0
    for at, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth == 0:
            parts.append(text[start:at])
            start = at + 1
    return (*parts, text[start:]) if text else ()


def _plain(kind: str, value: Any) -> Any:
    """eth_abi gives addresses as text, at any depth."""
    if kind.endswith("]"):
        inner = kind[: kind.rindex("[")]
        return tuple(_plain(inner, item) for item in value)
    if kind.startswith("("):
        return tuple(_plain(part, item) for part, item in zip(split_types(kind[1:-1]), value, strict=True))
    return bytes.fromhex(value[2:]) if kind == "address" else value


def _entry(part: Mapping[str, Any]) -> Entry:
    inputs = part.get("inputs", ())
    return Entry(
        name=part["name"],
        names=tuple(one["name"] for one in inputs),
        types=tuple(_canonical(one) for one in inputs),
        outputs=tuple(_canonical(one) for one in part.get("outputs", ())),
        indexed=tuple(bool(one.get("indexed")) for one in inputs) if part["type"] == "event" else (),
    )


def _canonical(part: Mapping[str, Any]) -> str:
    kind: str = part["type"]
    if not kind.startswith("tuple"):
        return kind
    return "(" + ",".join(_canonical(one) for one in part["components"]) + ")" + kind[len("tuple") :]
