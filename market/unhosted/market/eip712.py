"""What keys sign: EIP-712 digests from type hashes and domain separators that are computed once.

Building the typed-data dictionary for each voucher costs ten times the signature (0.3 ms against 0.03), so
the words are laid out by hand here. They are held equal to eth-account and to the contracts by tests/vectors.
Signing and recovering keys are the shell's: a core is told who signed.
"""

import functools
from dataclasses import dataclass

from unhosted.market.channels import ChainId, Deployment, Voucher
from unhosted.market.ids import Address, ChannelId, Digest
from unhosted.market.months import UNIX_S_MAX

CHANNELS_NAME = "UnhostedChannels"
BONDS_NAME = "UnhostedBonds"
CONTRACT_VERSION = "1"

# The preimages, letter by letter as in the contracts.
DOMAIN_TYPE = "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
VOUCHER_TYPE = "Voucher(bytes32 channelId,uint96 amount)"
ALLOCATE_TYPE = "Allocate(bytes32 channelId,uint96 total,uint40 validBefore)"
CLOSE_TYPE = "Close(bytes32 channelId,uint96 amount)"
REQUEST_CLOSE_TYPE = "RequestClose(bytes32 channelId,uint40 validBefore)"
HELLO_TYPE = "Hello(bytes32 channelId,bytes16 contact)"  # of no contract: it opens a stream
RECEIVE_TYPE = (
    "ReceiveWithAuthorization(address from,address to,uint256 value,"
    "uint256 validAfter,uint256 validBefore,bytes32 nonce)"
)
PERMIT_TYPE = "Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenDomain:
    """The EIP-712 domain of the USDC of a chain; `name` differs between chains (`USD Coin`, `USDC`)."""

    name: str
    version: str
    chain_id: ChainId
    contract: Address


def keccak256(data: bytes) -> bytes:
    from eth_hash.auto import keccak

    return keccak(data)


@functools.cache
def type_hash(preimage: str) -> bytes:
    return keccak256(preimage.encode())


@functools.lru_cache(maxsize=64)
def domain_separator(name: str, version: str, chain_id: ChainId, contract: Address) -> bytes:
    """32 bytes. Bounded cache: a node knows a handful of deployments."""
    return keccak256(
        type_hash(DOMAIN_TYPE)
        + keccak256(name.encode())
        + keccak256(version.encode())
        + chain_id.to_bytes(32, "big")
        + contract.rjust(32, b"\0")
    )


def channels_separator(deployment: Deployment) -> bytes:
    return domain_separator(CHANNELS_NAME, CONTRACT_VERSION, deployment.chain_id, deployment.contract)


def bonds_separator(deployment: Deployment) -> bytes:
    return domain_separator(BONDS_NAME, CONTRACT_VERSION, deployment.chain_id, deployment.contract)


def token_separator(domain: TokenDomain) -> bytes:
    return domain_separator(domain.name, domain.version, domain.chain_id, domain.contract)


def digest(separator: bytes, struct_hash: bytes) -> Digest:
    return Digest(keccak256(b"\x19\x01" + separator + struct_hash))


def voucher_digest(separator: bytes, voucher: Voucher) -> Digest:
    """What the channel's signer signs; `separator` from `channels_separator`, kept by the caller."""
    return digest(
        separator,
        keccak256(type_hash(VOUCHER_TYPE) + voucher.channel_id + voucher.amount_micros.to_bytes(32, "big")),
    )


def allocate_digest(
    separator: bytes, channel_id: ChannelId, *, total_micros: int, valid_before_unix_s: int
) -> Digest:
    """What the payer or its operator signs to open or top up a channel to `total_micros`."""
    return digest(
        separator,
        keccak256(type_hash(ALLOCATE_TYPE) + channel_id + _word(total_micros) + _time(valid_before_unix_s)),
    )


def close_digest(separator: bytes, channel_id: ChannelId, *, amount_micros: int) -> Digest:
    """What the payee signs to close at once with `amount_micros` as its part."""
    return digest(separator, keccak256(type_hash(CLOSE_TYPE) + channel_id + _word(amount_micros)))


def request_close_digest(separator: bytes, channel_id: ChannelId, *, valid_before_unix_s: int) -> Digest:
    """What the payer or its operator signs to start the delay after which the channel is closed."""
    return digest(
        separator, keccak256(type_hash(REQUEST_CLOSE_TYPE) + channel_id + _time(valid_before_unix_s))
    )


def hello_digest(separator: bytes, channel_id: ChannelId, contact: bytes) -> Digest:
    """What the channel's signer signs to open a stream for it; `contact` are 16 fresh bytes."""
    return digest(separator, keccak256(type_hash(HELLO_TYPE) + channel_id + contact.ljust(32, b"\0")))


def deposit_nonce(operator: Address, *, limit_micros: int, salt: bytes) -> bytes:
    """EIP-3009 has no field for our own parameters: the nonce binds operator and monthly limit instead."""
    return keccak256(operator.rjust(32, b"\0") + _word(limit_micros) + salt)


def receive_digest(
    domain: TokenDomain,
    *,
    payer: Address,
    payee: Address,
    value_micros: int,
    valid_after_unix_s: int,
    valid_before_unix_s: int,
    nonce: bytes,
) -> Digest:
    """EIP-3009 ReceiveWithAuthorization: `payer` lets the contract `payee` fetch `value_micros`."""
    return digest(
        token_separator(domain),
        keccak256(
            type_hash(RECEIVE_TYPE)
            + payer.rjust(32, b"\0")
            + payee.rjust(32, b"\0")
            + _word(value_micros)
            + _time(valid_after_unix_s)
            + _time(valid_before_unix_s)
            + nonce
        ),
    )


def permit_digest(
    domain: TokenDomain,
    *,
    owner: Address,
    spender: Address,
    value_micros: int,
    nonce: int,
    deadline_unix_s: int,
) -> Digest:
    """EIP-2612 Permit; `nonce` is the token's next one for `owner`."""
    return digest(
        token_separator(domain),
        keccak256(
            type_hash(PERMIT_TYPE)
            + owner.rjust(32, b"\0")
            + spender.rjust(32, b"\0")
            + _word(value_micros)
            + _word(nonce)
            + _word(deadline_unix_s)
        ),
    )


def _word(value: int) -> bytes:
    return value.to_bytes(32, "big")


def _time(unix_s: int) -> bytes:
    if not 0 <= unix_s <= UNIX_S_MAX:
        raise ValueError(f"time {unix_s} s is outside 0 to {UNIX_S_MAX}")
    return unix_s.to_bytes(32, "big")
