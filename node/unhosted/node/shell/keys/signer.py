"""secp256k1 by libsecp256k1: what the node signs, and who signed what it is shown.

The library directly and not through a wallet's classes: a voucher is signed for every window of tokens, and
each layer above the library costs as much again as the signature itself.
"""

from typing import NoReturn

from coincurve import PrivateKey, PublicKey

from unhosted.market.eip712 import keccak256
from unhosted.market.ids import ID_BYTES, SIGNATURE_BYTES, Address, Digest, Signature
from unhosted.node.shell.recursion import keep_recursion_limit

CURVE_ORDER = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141
"""Of secp256k1: a secret is a number from 1 to one less than this."""

_LOW_S_MAX = (CURVE_ORDER // 2).to_bytes(32, "big")
_V_27, _V_28 = b"\x1b", b"\x1c"


class KeySigner:
    """`core.chain.Signer` over one secret key, which stays inside: no repr, vars, copy or pickle shows it."""

    __slots__ = ("_address", "_key")

    def __init__(self, secret: bytes) -> None:
        """secret: 32 bytes. Raises: ValueError, without the secret in it, if they are no key."""
        if len(secret) != ID_BYTES or not 0 < int.from_bytes(secret, "big") < CURVE_ORDER:
            raise ValueError("not a secp256k1 key: 32 bytes, not zero and below the curve's order")
        self._key = PrivateKey(secret)
        self._address = _address_of(self._key.public_key)

    @property
    def address(self) -> Address:
        return self._address

    def sign(self, digest: Digest) -> Signature:
        """r, s in the lower half, v as 27 or 28; deterministic (RFC 6979)."""
        made = self._key.sign_recoverable(digest, hasher=None)
        return Signature(made[:64] + (_V_28 if made[64] else _V_27))

    def sign_transaction(self, fields: dict[str, object]) -> bytes:
        """The raw signed transaction. Takes a second the first time: the encoder is loaded for it."""
        from eth_account import Account

        keep_recursion_limit()
        return bytes(Account.sign_transaction(fields, self._key.secret).raw_transaction)

    def __repr__(self) -> str:
        return f"KeySigner(0x{self._address.hex()})"

    def __reduce__(self) -> NoReturn:
        # Also what copy.copy and copy.deepcopy would use.
        raise TypeError("a key is not pickled or copied")


def recover(digest: Digest, signature: bytes) -> Address | None:
    """Who signed `digest`; None for what the contracts would not take either.

    Strict: 65 bytes, v 27 or 28, s in the lower half. Two signatures for one digest would be two names of
    one voucher.
    """
    if len(signature) != SIGNATURE_BYTES or len(digest) != ID_BYTES:
        return None
    v = signature[64]
    if v not in (27, 28) or signature[32:64] > _LOW_S_MAX:
        return None
    try:
        found = PublicKey.from_signature_and_message(
            signature[:64] + (b"\x01" if v == 28 else b"\x00"), digest, hasher=None
        )
    except ValueError:
        return None  # r or s is zero or too large, or r is no point of the curve
    return _address_of(found)


def _address_of(public: PublicKey) -> Address:
    return Address(keccak256(public.format(compressed=False)[1:])[12:])
