"""Signatures as the contracts take them, the same as a wallet's, and a secret that does not come out."""

import copy
import os
import pickle

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data
from hypothesis import given, settings
from hypothesis import strategies as st

from unhosted.market.channels import ChainId, Deployment, Voucher
from unhosted.market.eip712 import channels_separator, voucher_digest
from unhosted.market.ids import Address, ChannelId, Digest, address_text
from unhosted.market.money import Micros
from unhosted.node.shell.keys.signer import CURVE_ORDER, KeySigner, recover

SECRET = bytes(range(1, 33))
DIGEST = Digest(bytes(range(32)))
WHERE = Deployment(chain_id=ChainId(8453), contract=Address(b"\x11" * 20))


def test_a_voucher_is_signed_as_a_wallet_would_sign_it() -> None:
    channel, amount = ChannelId(os.urandom(32)), Micros(1_234_567)
    signer, account = KeySigner(SECRET), Account.from_key(SECRET)
    digest = voucher_digest(channels_separator(WHERE), Voucher(channel_id=channel, amount_micros=amount))
    message = encode_typed_data(
        {
            "name": "UnhostedChannels",
            "version": "1",
            "chainId": 8453,
            "verifyingContract": address_text(WHERE.contract),
        },
        {"Voucher": [{"name": "channelId", "type": "bytes32"}, {"name": "amount", "type": "uint96"}]},
        {"channelId": channel, "amount": amount},
    )
    assert address_text(signer.address) == account.address
    assert signer.sign(digest) == account.sign_message(message).signature
    assert recover(digest, signer.sign(digest)) == signer.address


@settings(max_examples=50, deadline=None)
@given(secret=st.integers(1, CURVE_ORDER - 1), digest=st.binary(min_size=32, max_size=32))
def test_signatures_are_strict_and_repeat_themselves(secret: int, digest: bytes) -> None:
    signer = KeySigner(secret.to_bytes(32, "big"))
    signature = signer.sign(Digest(digest))
    assert len(signature) == 65 and signature[64] in (27, 28)
    assert int.from_bytes(signature[32:64], "big") <= CURVE_ORDER // 2
    assert signer.sign(Digest(digest)) == signature
    assert recover(Digest(digest), signature) == signer.address


def test_what_the_contracts_would_not_take_has_no_signer() -> None:
    signature = KeySigner(SECRET).sign(DIGEST)
    r, s, v = signature[:32], signature[32:64], signature[64]
    high_s = (CURVE_ORDER - int.from_bytes(s, "big")).to_bytes(32, "big")
    bad = {
        "short": signature[:64],
        "long": signature + b"\0",
        "v of 0 or 1": r + s + bytes([v - 27]),
        "v of 29": r + s + b"\x1d",
        "high s": r + high_s + bytes([55 - v]),
        "zero r": bytes(32) + s + bytes([v]),
        "zero s": r + bytes(32) + bytes([v]),
        "r beyond the order": b"\xff" * 32 + s + bytes([v]),
        "empty": b"",
    }
    assert {name: recover(DIGEST, one) for name, one in bad.items()} == dict.fromkeys(bad)
    assert recover(Digest(DIGEST[:31]), signature) is None


def test_another_digest_or_a_flipped_bit_gives_somebody_else_or_nobody() -> None:
    signer = KeySigner(SECRET)
    signature = signer.sign(DIGEST)
    assert recover(Digest(os.urandom(32)), signature) != signer.address
    for bit in range(8 * 64):
        flipped = bytearray(signature)
        flipped[bit // 8] ^= 1 << bit % 8
        assert recover(DIGEST, bytes(flipped)) != signer.address


@pytest.mark.parametrize(
    "secret", [b"", bytes(31), bytes(32), b"\xff" * 32, CURVE_ORDER.to_bytes(32, "big")], ids=len
)
def test_what_is_no_key_is_refused_without_being_quoted(secret: bytes) -> None:
    with pytest.raises(ValueError, match="not a secp256k1 key") as caught:
        KeySigner(secret)
    assert secret.hex() not in str(caught.value) or not secret


def test_a_transaction_is_signed_by_the_same_key() -> None:
    signer = KeySigner(SECRET)
    raw = signer.sign_transaction(
        {
            "type": 2,
            "chainId": 31337,
            "nonce": 3,
            "to": "0x" + "11" * 20,
            "value": 0,
            "data": "0x",
            "gas": 21_000,
            "maxFeePerGas": 10**9,
            "maxPriorityFeePerGas": 1,
        }
    )
    assert Account.recover_transaction(raw) == address_text(signer.address)


def test_the_secret_shows_in_no_form_of_the_object() -> None:
    signer = KeySigner(SECRET)
    shown = f"{signer} {signer!r} {[signer]} {signer.__class__.__dict__}"
    for form in (SECRET.hex(), str(int.from_bytes(SECRET, "big")), repr(SECRET)[2:-1]):
        assert form not in shown
    with pytest.raises(TypeError):
        vars(signer)
    for escape in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="not pickled or copied"):
            escape(signer)
