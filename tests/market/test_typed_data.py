"""Our hand-made digests against eth-account's, and our channel ids against eth_abi's."""

import json
from typing import Any

import pytest
from eth_abi.abi import encode as abi_encode
from eth_account import Account
from hypothesis import given
from hypothesis import strategies as st

from tests.market.typed_data import TYPES, VECTORS, make_vectors, wallet_digest
from unhosted.market import eip712, receipts
from unhosted.market.channels import ChainId, ChannelConfig, Deployment, Voucher, channel_id
from unhosted.market.eip712 import TokenDomain
from unhosted.market.ids import Address, ChannelId, Digest, ModelHash, RequestId
from unhosted.market.money import Micros
from unhosted.market.receipts import Receipt, ResponseHash, receipt_digest, verdict_digest
from unhosted.market.requests import RequestHash

VECTOR_LIST: list[dict[str, Any]] = json.loads(VECTORS.read_text("utf-8"))
_PREIMAGES = {
    "Voucher": eip712.VOUCHER_TYPE,
    "Allocate": eip712.ALLOCATE_TYPE,
    "Close": eip712.CLOSE_TYPE,
    "RequestClose": eip712.REQUEST_CLOSE_TYPE,
    "ReceiveWithAuthorization": eip712.RECEIVE_TYPE,
    "Permit": eip712.PERMIT_TYPE,
    "Receipt": receipts.RECEIPT_TYPE,
    "Verdict": receipts.VERDICT_TYPE,
}


def our_digest(kind: str, domain: dict[str, Any], message: dict[str, Any]) -> Digest:
    """What our code signs for the values of a typed-data message."""
    contract = Address(bytes.fromhex(domain["verifyingContract"][2:]))
    deployment = Deployment(chain_id=ChainId(domain["chainId"]), contract=contract)
    token = TokenDomain(
        name=domain["name"], version=domain["version"], chain_id=deployment.chain_id, contract=contract
    )
    values: dict[str, Any] = {
        name: bytes.fromhex(value[2:]) if isinstance(value, str) else value for name, value in message.items()
    }
    channels, bonds = eip712.channels_separator(deployment), eip712.bonds_separator(deployment)
    match kind:
        case "Voucher":
            voucher = Voucher(channel_id=values["channelId"], amount_micros=values["amount"])
            return eip712.voucher_digest(channels, voucher)
        case "Allocate":
            return eip712.allocate_digest(
                channels,
                values["channelId"],
                total_micros=values["total"],
                valid_before_unix_s=values["validBefore"],
            )
        case "Close":
            return eip712.close_digest(channels, values["channelId"], amount_micros=values["amount"])
        case "RequestClose":
            return eip712.request_close_digest(
                channels, values["channelId"], valid_before_unix_s=values["validBefore"]
            )
        case "ReceiveWithAuthorization":
            return eip712.receive_digest(
                token,
                payer=values["from"],
                payee=values["to"],
                value_micros=values["value"],
                valid_after_unix_s=values["validAfter"],
                valid_before_unix_s=values["validBefore"],
                nonce=values["nonce"],
            )
        case "Permit":
            return eip712.permit_digest(
                token,
                owner=values["owner"],
                spender=values["spender"],
                value_micros=values["value"],
                nonce=values["nonce"],
                deadline_unix_s=values["deadline"],
            )
        case "Receipt":
            return receipt_digest(bonds, receipt_of(values))
        case _:
            return verdict_digest(
                bonds, values["receipt"], slash_micros=values["slash"], is_on_appeal=values["onAppeal"]
            )


def receipt_of(values: dict[str, Any]) -> Receipt:
    return Receipt(
        request_id=RequestId(values["requestId"]),
        channel_id=ChannelId(values["channelId"]),
        model=ModelHash(values["modelId"]),
        request_hash=RequestHash(values["requestHash"]),
        response_hash=ResponseHash(values["responseHash"]),
        tokens_in=values["inTokens"],
        tokens_out=values["outTokens"],
        amount_micros=Micros(values["amount"]),
    )


def test_every_vector_is_what_we_would_sign() -> None:
    assert {vector["type"] for vector in VECTOR_LIST} == set(TYPES)
    for vector in VECTOR_LIST:
        digest = our_digest(vector["type"], vector["domain"], vector["message"])
        assert "0x" + digest.hex() == vector["digest"], vector


def test_the_vectors_are_those_that_eth_account_makes() -> None:
    assert make_vectors() == VECTOR_LIST


def test_the_vectors_signatures_are_by_their_signers() -> None:
    for vector in VECTOR_LIST[::7]:
        recovered = Account._recover_hash(vector["digest"], signature=vector["signature"])
        assert recovered == vector["signer"]
        signature = bytes.fromhex(vector["signature"][2:])
        assert len(signature) == 65 and signature[64] in (27, 28)


@pytest.mark.parametrize("kind", TYPES)
def test_a_preimage_names_the_fields_of_the_wallets_form(kind: str) -> None:
    assert _PREIMAGES[kind] == f"{kind}({TYPES[kind]})"


_WORD = st.binary(min_size=32, max_size=32)
_ADDRESS = st.binary(min_size=20, max_size=20).filter(any)
_DEPLOYMENT = st.builds(
    Deployment, chain_id=st.integers(1, (1 << 256) - 1).map(ChainId), contract=_ADDRESS.map(Address)
)
_CONFIG = st.builds(
    ChannelConfig,
    payer=_ADDRESS.map(Address),
    signer=_ADDRESS.map(Address),
    payee=_ADDRESS.map(Address),
    delay_s=st.integers(3_600, 30 * 86_400),
    salt=_WORD,
)


@given(deployment=_DEPLOYMENT, config=_CONFIG)
def test_a_channel_id_is_the_hash_of_its_abi_encoding(deployment: Deployment, config: ChannelConfig) -> None:
    encoded = abi_encode(
        ["uint256", "address", "(address,address,address,uint32,bytes32)"],
        [
            deployment.chain_id,
            deployment.contract,
            (config.payer, config.signer, config.payee, config.delay_s, config.salt),
        ],
    )
    assert channel_id(deployment, config) == eip712.keccak256(encoded)


@given(operator=_ADDRESS, limit_micros=st.integers(0, (1 << 96) - 1), salt=_WORD)
def test_a_deposits_nonce_binds_operator_limit_and_salt(
    operator: bytes, limit_micros: int, salt: bytes
) -> None:
    encoded = abi_encode(["address", "uint96", "bytes32"], [operator, limit_micros, salt])
    assert eip712.deposit_nonce(Address(operator), limit_micros=limit_micros, salt=salt) == eip712.keccak256(
        encoded
    )


@given(
    chain_id=st.integers(1, (1 << 53) - 1),
    contract=_ADDRESS,
    channel=_WORD,
    amount_micros=st.integers(0, (1 << 96) - 1),
)
def test_a_vouchers_digest_is_the_wallets_for_any_value(
    chain_id: int, contract: bytes, channel: bytes, amount_micros: int
) -> None:
    domain = {
        "name": "UnhostedChannels",
        "version": "1",
        "chainId": chain_id,
        "verifyingContract": "0x" + contract.hex(),
    }
    message = {"channelId": "0x" + channel.hex(), "amount": amount_micros}
    assert our_digest("Voucher", domain, message) == wallet_digest("Voucher", domain, message)


def test_a_time_that_the_contract_cannot_hold_is_not_signed() -> None:
    with pytest.raises(ValueError, match="time 1099511627776 s is outside"):
        eip712.request_close_digest(bytes(32), ChannelId(bytes(32)), valid_before_unix_s=1 << 40)
