"""Where our contracts stand on every chain: known before anybody deploys them.

CREATE2 through the deterministic deployment proxy makes an address from the code and its constructor's
arguments alone, so whoever deploys first deploys for all, nobody has to be trusted for it, and code other
than ours cannot be at that address. Offline: nothing here asks a chain.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from unhosted.contracts import artifact
from unhosted.market.eip712 import keccak256
from unhosted.market.ids import ADDRESS_BYTES, Address, parse_address

DEPLOYMENT_PROXY = parse_address("0x4e59b44847b379578588920cA78FbF26c0B4956C")
"""Takes a salt and init code as calldata and runs CREATE2 with them. The same on nearly every EVM chain."""

DEPLOYMENT_PROXY_CODE = bytes.fromhex(
    "7fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffe03601600081602082378035828234f5"
    "8015156039578182fd5b8082525050506014600cf3"
)

SALT = keccak256(b"unhosted/contracts/v1")
"""One salt for all: the init codes differ already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BondsTerms:
    """What `Bonds` is built with, for good. verifiers: ascending order is made here, so that the same set
    gives the same address."""

    sink: Address
    verifiers: tuple[Address, ...]
    quorum: int
    appeal_quorum: int
    slash_max_micros: int
    appeal_window_s: int
    unbond_s: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "verifiers", tuple(sorted(self.verifiers)))


def create2_address(init_code: bytes, *, salt: bytes = SALT, deployer: Address = DEPLOYMENT_PROXY) -> Address:
    """keccak256(0xff, deployer, salt, keccak256(init code)), its last 20 bytes (EIP-1014)."""
    return Address(keccak256(b"\xff" + deployer + salt + keccak256(init_code))[-ADDRESS_BYTES:])


def create_address(deployer: Address, *, nonce: int) -> Address:
    """Where an account's own deployment ends up: keccak256(rlp([deployer, nonce])), its last 20 bytes."""
    if not 0 <= nonce < 1 << 64:
        raise ValueError(f"nonce {nonce} is outside 0 to {(1 << 64) - 1}")
    digits = nonce.to_bytes((nonce.bit_length() + 7) // 8, "big")
    number = digits if len(digits) == 1 and nonce < 0x80 else bytes((0x80 + len(digits),)) + digits
    body = b"\x94" + deployer + number
    return Address(keccak256(bytes((0xC0 + len(body),)) + body)[-ADDRESS_BYTES:])


def deployment_data(init_code: bytes, *, salt: bytes = SALT) -> bytes:
    """Calldata for the deployment proxy."""
    return salt + init_code


@functools.lru_cache(maxsize=16)
def channels_init_code(token: Address) -> bytes:
    return artifact("Channels").creation_code + _word(token)


@functools.lru_cache(maxsize=16)
def bonds_init_code(token: Address, terms: BondsTerms) -> bytes:
    head_words = 8
    arguments = (
        _word(token),
        _word(terms.sink),
        _number(32 * head_words),  # where the list of verifiers begins
        _number(terms.quorum),
        _number(terms.appeal_quorum),
        _number(terms.slash_max_micros),
        _number(terms.appeal_window_s),
        _number(terms.unbond_s),
        _number(len(terms.verifiers)),
        *_words(terms.verifiers),
    )
    return artifact("Bonds").creation_code + b"".join(arguments)


def channels_address(token: Address) -> Address:
    """Where `Channels` for this token is, or will be, on any chain."""
    return create2_address(channels_init_code(token))


def bonds_address(token: Address, terms: BondsTerms) -> Address:
    return create2_address(bonds_init_code(token, terms))


def _word(address: Address) -> bytes:
    return address.rjust(32, b"\0")


def _words(addresses: Sequence[Address]) -> list[bytes]:
    return [_word(one) for one in addresses]


def _number(value: int) -> bytes:
    return value.to_bytes(32, "big")
