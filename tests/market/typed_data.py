"""What our keys sign, as wallets spell it: typed data for eth-account, and the vectors made of it.

`python -m tests.market.typed_data` writes tests/vectors/eip712.json anew. Nothing of ours computes a digest
or a signature in it: eth-account does both, so the file is a second opinion. The keys are made from numbers
that everybody can see; they are worth nothing.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eth_account import Account
from eth_account.messages import _hash_eip191_message, encode_typed_data
from eth_utils.conversions import to_hex

VECTORS = Path(__file__).resolve().parent.parent / "vectors" / "eip712.json"

KEYS = (1, 0xB0B, 0x5E11E5, (1 << 255) + 12345)
CHAINS = (1, 8453, 31337, (1 << 53) - 1)
CONTRACTS = ("0x" + "c1" * 20, "0x00000000000000000000000000000000000000ff")
AMOUNTS = (0, 1, 250_000_000, (1 << 96) - 1)
TIMES = (0, 1_700_000_000, (1 << 40) - 1)
TOKENS = (("USD Coin", "2"), ("USDC", "2"))

_DOMAIN = [
    {"name": "name", "type": "string"},
    {"name": "version", "type": "string"},
    {"name": "chainId", "type": "uint256"},
    {"name": "verifyingContract", "type": "address"},
]

TYPES: dict[str, str] = {
    "Voucher": "bytes32 channelId,uint96 amount",
    "Allocate": "bytes32 channelId,uint96 total,uint40 validBefore",
    "Close": "bytes32 channelId,uint96 amount",
    "RequestClose": "bytes32 channelId,uint40 validBefore",
    "ReceiveWithAuthorization": (
        "address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce"
    ),
    "Permit": "address owner,address spender,uint256 value,uint256 nonce,uint256 deadline",
    "Receipt": (
        "bytes32 requestId,bytes32 channelId,bytes32 modelId,bytes32 requestHash,bytes32 responseHash,"
        "uint32 inTokens,uint32 outTokens,uint96 amount"
    ),
    "Verdict": "bytes32 receipt,uint96 slash,bool onAppeal",
}
DOMAIN_NAMES = {"Receipt": "UnhostedBonds", "Verdict": "UnhostedBonds"}


def typed_data(kind: str, domain: dict[str, Any], message: dict[str, Any]) -> dict[str, Any]:
    fields = [field.split(" ") for field in TYPES[kind].split(",")]
    return {
        "types": {"EIP712Domain": _DOMAIN, kind: [{"name": name, "type": type_} for type_, name in fields]},
        "primaryType": kind,
        "domain": domain,
        "message": message,
    }


def wallet_digest(kind: str, domain: dict[str, Any], message: dict[str, Any]) -> bytes:
    """The digest as eth-account makes it."""
    return bytes(_hash_eip191_message(encode_typed_data(full_message=typed_data(kind, domain, message))))


def _cases() -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    index = 0
    for kind in TYPES:
        for chain in CHAINS:
            for amount in AMOUNTS:
                name, version = DOMAIN_NAMES.get(kind, "UnhostedChannels"), "1"
                if kind in ("ReceiveWithAuthorization", "Permit"):
                    name, version = TOKENS[index % len(TOKENS)]
                domain = {
                    "name": name,
                    "version": version,
                    "chainId": chain,
                    "verifyingContract": CONTRACTS[index % len(CONTRACTS)],
                }
                yield kind, domain, _message(kind, amount, index)
                index += 1


def _message(kind: str, amount: int, index: int) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for place, field in enumerate(TYPES[kind].split(",")):
        type_, name = field.split(" ")
        if type_ == "bytes32":
            values[name] = "0x" + bytes((index * 7 + place * 31 + at) % 256 for at in range(32)).hex()
        elif type_ == "address":
            values[name] = "0x" + bytes((index + place * 101 + at) % 256 for at in range(20)).hex()
        elif type_ == "bool":
            values[name] = index % 2 == 1
        elif type_ == "uint40" or name in ("validAfter", "validBefore", "deadline"):
            values[name] = TIMES[(index + place) % len(TIMES)]
        elif type_ == "uint32":
            values[name] = (index * 65_537 + place) % (1 << 20)
        elif kind == "Receipt":
            values[name] = min(amount, (1 << 63) - 1)  # as far as our receipts go
        else:
            values[name] = amount
    return values


def make_vectors() -> list[dict[str, Any]]:
    vectors = []
    for index, (kind, domain, message) in enumerate(_cases()):
        account = Account.from_key(KEYS[index % len(KEYS)].to_bytes(32, "big"))
        signed = account.sign_message(encode_typed_data(full_message=typed_data(kind, domain, message)))
        vectors.append(
            {
                "type": kind,
                "domain": domain,
                "message": message,
                "digest": to_hex(signed.message_hash),
                "signer": account.address,
                "signature": to_hex(signed.signature),
            }
        )
    return vectors


if __name__ == "__main__":
    lines = ",\n".join(json.dumps(vector, sort_keys=True) for vector in make_vectors())
    VECTORS.write_text(f"[\n{lines}\n]\n", "utf-8")
