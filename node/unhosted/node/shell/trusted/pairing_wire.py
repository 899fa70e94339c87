"""The messages of `/unhosted/pair/1` as bytes: deterministic CBOR maps with text keys, `k` names the kind.

Read here and nowhere else; docs/protocol.md says the same in prose. Unknown keys are ignored.
"""

from typing import Any, assert_never, get_args

from unhosted.market import cbor
from unhosted.node.core.addresses import ADDRESS_CHARS_MAX, parse_address
from unhosted.node.core.pairing_proof import MAC_BYTES
from unhosted.node.core.pairing_words import (
    Accept,
    Answer,
    Commit,
    Decline,
    Introduction,
    PairingMessage,
    Proof,
    Resolve,
    Resolved,
    Standing,
    Start,
    Unpaired,
    Why,
)
from unhosted.node.shell.trusted.wire_fields import FieldError, Fields, WireError

PROTOCOL = "/unhosted/pair/1"
VERSION = 1
MESSAGE_BYTES_MAX = 4096
"""An introduction with the longest name and addresses has 3 kB; nothing else comes near."""

PAKE_BYTES = 33
"""SPAKE2's side letter and one point of its curve."""

NAME_CHARS_MAX = 64
ADDRESSES_MAX = 8
"""Addresses in one introduction; a machine with more is reached at the first ones."""

TRIES_MAX = 255
_DEPTH_MAX, _ITEMS_MAX = 3, 64
_WHYS = frozenset(get_args(Why))
_STANDINGS = frozenset(get_args(Standing))


class VersionUnknown(WireError):
    """The other side speaks a version of this protocol that we do not."""


def encode(message: PairingMessage) -> bytes:
    match message:
        case Start(pake=pake):
            fields: dict[str, Any] = {"k": "start", "v": VERSION, "pake": pake}
        case Answer(pake=pake):
            fields = {"k": "answer", "pake": pake}
        case Proof(mac=mac):
            fields = {"k": "proof", "mac": mac}
        case Introduction(mac=mac, name=name, addresses=addresses):
            fields = {"k": "introduction", "mac": mac, "name": name, "addresses": list(addresses)}
        case Accept():
            fields = {"k": "accept"}
        case Commit():
            fields = {"k": "commit"}
        case Decline(why=why, tries_left=tries_left):
            fields = {"k": "decline", "why": why, "tries": tries_left}
        case Resolve(standing=standing):
            fields = {"k": "resolve", "v": VERSION, "standing": standing}
        case Resolved(standing=standing):
            fields = {"k": "resolved", "standing": standing}
        case Unpaired():
            fields = {"k": "unpaired", "v": VERSION}
        case _:
            assert_never(message)
    return cbor.encode(fields)


def decode(data: bytes) -> PairingMessage:
    """Raises: VersionUnknown; WireError for all that is no message of this protocol."""
    try:
        value = cbor.decode(data, bytes_max=MESSAGE_BYTES_MAX, depth_max=_DEPTH_MAX, items_max=_ITEMS_MAX)
        return _message(Fields(value))
    except (cbor.CborError, FieldError) as error:
        raise WireError(f"no message of {PROTOCOL}: {error}") from error


def sayable_addresses(addresses: tuple[str, ...]) -> tuple[str, ...]:
    """Those of our addresses that mean something on another machine, as many as one message holds."""
    told = [text for text in addresses if (endpoint := parse_address(text)) and not endpoint.zone]
    return tuple(dict.fromkeys(told))[:ADDRESSES_MAX]


def _message(fields: Fields) -> PairingMessage:
    match fields.text("k", chars_max=16):
        case "start":
            _check_version(fields)
            return Start(pake=_bytes(fields, "pake", PAKE_BYTES))
        case "answer":
            return Answer(pake=_bytes(fields, "pake", PAKE_BYTES))
        case "proof":
            return Proof(mac=_bytes(fields, "mac", MAC_BYTES))
        case "introduction":
            return Introduction(
                mac=_bytes(fields, "mac", MAC_BYTES),
                name=fields.text("name", chars_max=NAME_CHARS_MAX),
                addresses=_addresses(fields),
            )
        case "accept":
            return Accept()
        case "commit":
            return Commit()
        case "decline":
            return Decline(why=_why(fields), tries_left=fields.uint("tries", most=TRIES_MAX))
        case "resolve":
            _check_version(fields)
            return Resolve(standing=_standing(fields))
        case "resolved":
            return Resolved(standing=_standing(fields))
        case "unpaired":
            _check_version(fields)
            return Unpaired()
        case kind:
            raise WireError(f"{PROTOCOL} has no message {kind!r}")


def _check_version(fields: Fields) -> None:
    version = fields.uint("v", most=1 << 32)
    if version != VERSION:
        raise VersionUnknown(f"version {version} of {PROTOCOL}, this is version {VERSION}")


def _bytes(fields: Fields, key: str, length: int) -> bytes:
    value = fields.data(key, bytes_max=length)
    if len(value) != length:
        raise fields.wrong(key, f"{len(value)} bytes, must be {length}")
    return value


def _addresses(fields: Fields) -> tuple[str, ...]:
    """As they came, since the proof is over them; what this program cannot dial is left out when noted."""
    return fields.texts("addresses", most=ADDRESSES_MAX, chars_max=ADDRESS_CHARS_MAX)


def _why(fields: Fields) -> Why:
    why = fields.text("why", chars_max=32)
    return why if why in _WHYS else "failed"  # type: ignore[return-value]  # narrowed by the set


def _standing(fields: Fields) -> Standing:
    standing = fields.text("standing", chars_max=16)
    if standing not in _STANDINGS:
        raise fields.wrong("standing", f"{standing!r} is none of {', '.join(sorted(_STANDINGS))}")
    return standing  # type: ignore[return-value]  # narrowed by the set
