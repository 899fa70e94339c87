"""Identifiers of the market: bytes inside, text only at the edges, and one cannot be passed for another."""

import re
from typing import NewType

Address = NewType("Address", bytes)
"""A chain account, 20 bytes."""

ChannelId = NewType("ChannelId", bytes)
"""A payment channel, 32 bytes: binds chain, contract and the channel's config (`channels.channel_id`)."""

RequestId = NewType("RequestId", bytes)
"""One paid request, 32 bytes, drawn by the buyer. A seller signs exactly one receipt for it."""

Digest = NewType("Digest", bytes)
"""32 bytes: a keccak-256 that a key signs or a contract knows."""

Signature = NewType("Signature", bytes)
"""secp256k1, 65 bytes: r, s in the lower half, v as 27 or 28."""

ModelHash = NewType("ModelHash", bytes)
"""BLAKE3 of a model's GGUF file, 32 bytes: what `b3:` references spell in hex."""

PeerText = NewType("PeerText", str)
"""A peer id as libp2p writes it: it holds the Ed25519 public key that checks the peer's signatures."""

ADDRESS_BYTES = 20
ID_BYTES = 32
SIGNATURE_BYTES = 65
ZERO_ADDRESS = Address(bytes(ADDRESS_BYTES))

PEER_SIGNATURE_BYTES = 64
"""Ed25519."""

_PEER = re.compile(r"12D3KooW[1-9A-HJ-NP-Za-km-z]{44}")
_HEX_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")


def address_text(address: Address) -> str:
    """`0x` and 40 hex digits with the capitals of EIP-55, as wallets and explorers show it."""
    from eth_hash.auto import keccak

    digits = address.hex()
    marks = keccak(digits.encode()).hex()
    return "0x" + "".join(
        digit.upper() if int(mark, 16) >= 8 else digit for digit, mark in zip(digits, marks, strict=False)
    )


def parse_address(text: str) -> Address:
    """The address that `text` names.

    Raises: ValueError, with the rule, unless it is 0x and 40 hex digits; mixed case must be right by EIP-55,
    since that is what catches a mistyped digit.
    """
    if _HEX_ADDRESS.fullmatch(text) is None:
        raise ValueError(f"{text[:60]!r} is not an address: 0x and 40 hex digits are needed")
    address = Address(bytes.fromhex(text[2:]))
    digits = text[2:]
    if digits not in {digits.lower(), digits.upper()} and address_text(address) != text:
        raise ValueError(f"{text} has a wrong checksum (EIP-55): one of its digits is mistyped")
    return address


def parse_peer(text: str) -> PeerText:
    """The peer id that `text` is, by its form; whether it is a key shows when a signature is checked.

    Raises: ValueError.
    """
    if _PEER.fullmatch(text) is None:
        raise ValueError(f"{text[:60]!r} is not a peer id: 52 characters that begin with 12D3KooW")
    return PeerText(text)
