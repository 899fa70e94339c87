"""Addresses that are known before anything is deployed."""

import pytest
import rlp  # type: ignore[import-untyped]
from eth_account import Account

from unhosted.market.eip712 import keccak256
from unhosted.market.ids import ZERO_ADDRESS, Address, parse_address
from unhosted.node.shell.chain.addresses import (
    BondsTerms,
    bonds_address,
    channels_address,
    create2_address,
    create_address,
)
from unhosted.node.shell.devnet.accounts import ACCOUNTS, MNEMONIC
from unhosted.node.shell.devnet.contracts import BONDS_TERMS, dev_contracts

DEADBEEF = parse_address("0xdeadbeef00000000000000000000000000000000")


@pytest.mark.parametrize(
    ("deployer", "salt", "init_code", "expected"),
    [
        (ZERO_ADDRESS, bytes(32), b"\0", "0x4D1A2e2bB4F88F0250f26Ffff098B0b30B26BF38"),
        (DEADBEEF, bytes(32), b"\0", "0xB928f69Bb1D91Cd65274e3c79d8986362984fDA3"),
        (
            parse_address("0x00000000000000000000000000000000deadbeef"),
            bytes.fromhex("cafebabe").rjust(32, b"\0"),
            bytes.fromhex("deadbeef"),
            "0x60f3f640a8508fC6a86d45DF051962668E1e8AC7",
        ),
    ],
)
def test_create2_is_as_eip_1014_has_it(
    deployer: Address, salt: bytes, init_code: bytes, expected: str
) -> None:
    assert create2_address(init_code, salt=salt, deployer=deployer) == parse_address(expected)


@pytest.mark.parametrize("nonce", [0, 1, 0x7F, 0x80, 0xFF, 0x100, 1 << 40])
def test_a_deployment_of_an_account_is_found_by_its_nonce(nonce: int) -> None:
    expected = keccak256(rlp.encode([DEADBEEF, nonce]))[12:]
    assert create_address(DEADBEEF, nonce=nonce) == expected


def test_the_order_of_verifiers_does_not_move_the_bonds() -> None:
    token = dev_contracts().token
    backwards = BondsTerms(
        sink=BONDS_TERMS.sink,
        verifiers=tuple(reversed(BONDS_TERMS.verifiers)),
        quorum=BONDS_TERMS.quorum,
        appeal_quorum=BONDS_TERMS.appeal_quorum,
        slash_max_micros=BONDS_TERMS.slash_max_micros,
        appeal_window_s=BONDS_TERMS.appeal_window_s,
        unbond_s=BONDS_TERMS.unbond_s,
    )
    assert bonds_address(token, backwards) == bonds_address(token, BONDS_TERMS)


def test_another_token_moves_the_channels() -> None:
    assert channels_address(dev_contracts().token) != channels_address(DEADBEEF)


def test_the_accounts_are_those_of_the_mnemonic() -> None:
    Account.enable_unaudited_hdwallet_features()
    for index in (0, 9, 10, 12):
        derived = Account.from_mnemonic(MNEMONIC, account_path=f"m/44'/60'/0'/0/{index}")
        assert (ACCOUNTS[index].key, ACCOUNTS[index].address) == (
            bytes(derived.key),
            parse_address(derived.address),
        )


def test_every_account_has_the_key_of_its_address() -> None:
    for account in ACCOUNTS:
        assert parse_address(Account.from_key(account.key).address) == account.address
