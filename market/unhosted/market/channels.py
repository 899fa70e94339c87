"""What a payment channel is, in the words of the contract `Channels`.

A channel belongs to one buyer (`payer`), one seller (`payee`) and one key that signs vouchers (`signer`). A
voucher is cumulative: it says how much of the deposit is the seller's in all, so a lost, repeated or late one
does no harm. The id binds the chain and the contract, so that no voucher means anything elsewhere.
"""

from dataclasses import dataclass
from typing import NewType

from unhosted.market.ids import ADDRESS_BYTES, ID_BYTES, ZERO_ADDRESS, Address, ChannelId, Signature
from unhosted.market.money import AMOUNT_MICROS_MAX, Micros

DELAY_S_MIN = 3_600
DELAY_S_MAX = 30 * 86_400
"""Both are the contract's own limits."""
DELAY_S_DEFAULT = 24 * 3_600
"""Time a seller has to claim after the buyer asked to close. Sellers at home sleep."""
DELAY_S_SELLER_MIN = 12 * 3_600
"""A seller refuses a channel with less: it could miss the close in one night."""

ChainId = NewType("ChainId", int)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """Where a contract stands: EIP-155 chain id and address."""

    chain_id: ChainId
    contract: Address


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelConfig:
    """What fixes a channel for its whole life. `salt` (32 bytes) tells apart channels of the same pair."""

    payer: Address
    signer: Address
    payee: Address
    delay_s: int
    salt: bytes

    def __post_init__(self) -> None:
        for name in ("payer", "signer", "payee"):
            value: bytes = getattr(self, name)
            if len(value) != ADDRESS_BYTES or value == ZERO_ADDRESS:
                raise ValueError(
                    f"{name} 0x{value.hex()} is not an address of {ADDRESS_BYTES} bytes, not all zero"
                )
        if not DELAY_S_MIN <= self.delay_s <= DELAY_S_MAX:
            raise ValueError(f"delay {self.delay_s} s is outside {DELAY_S_MIN} to {DELAY_S_MAX}")
        if len(self.salt) != ID_BYTES:
            raise ValueError(f"salt of {len(self.salt)} bytes: {ID_BYTES} are needed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Voucher:
    """The buyer's word that `amount_micros` of the deposit is the seller's: in all, since it was opened."""

    channel_id: ChannelId
    amount_micros: Micros

    def __post_init__(self) -> None:
        if not 0 <= self.amount_micros <= AMOUNT_MICROS_MAX:
            raise ValueError(
                f"voucher over {self.amount_micros} micro-USDC is outside 0 to {AMOUNT_MICROS_MAX}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedVoucher:
    voucher: Voucher
    signature: Signature


def channel_id(deployment: Deployment, config: ChannelConfig) -> ChannelId:
    """keccak256(abi.encode(chainId, contract, Config)), as the contract's `channelId` gives it."""
    from eth_hash.auto import keccak

    words = (
        deployment.chain_id.to_bytes(32, "big"),
        deployment.contract.rjust(32, b"\0"),
        config.payer.rjust(32, b"\0"),
        config.signer.rjust(32, b"\0"),
        config.payee.rjust(32, b"\0"),
        config.delay_s.to_bytes(32, "big"),
        config.salt,
    )
    return ChannelId(keccak(b"".join(words)))
