"""What Python computes for the contracts is what the contracts compute and accept, on a running chain."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from eth_abi.abi import decode as abi_decode
from eth_abi.abi import encode as abi_encode

from tests.devchain import DevChain, dev_chain
from tests.market.test_typed_data import receipt_of
from unhosted.market import eip712
from unhosted.market.channels import ChannelConfig, Deployment, Voucher, channel_id
from unhosted.market.eip712 import keccak256
from unhosted.market.ids import Address
from unhosted.market.money import Micros
from unhosted.market.months import month_of
from unhosted.market.receipts import receipt_digest
from unhosted.node.shell.keys.signer import KeySigner

pytestmark = pytest.mark.slow

CONFIG = "(address,address,address,uint32,bytes32)"
LATER_UNIX_S = (1 << 40) - 1


@pytest.fixture(scope="module")
def chain() -> Iterator[DevChain]:
    with dev_chain("anvil") as running:
        yield running


def _data(signature: str, *values: Any) -> bytes:
    types = _types(signature)
    return keccak256(signature.encode())[:4] + abi_encode(types, list(values))


def _types(signature: str) -> list[str]:
    inner, parts, depth, word = signature[signature.index("(") + 1 : -1], [], 0, ""
    for letter in inner + ",":
        if letter == "," and depth == 0:
            parts.append(word)
            word = ""
        else:
            depth += (letter == "(") - (letter == ")")
            word += letter
    return parts if inner else []


def _ask(chain: DevChain, to: Address, signature: str, returns: str, *values: Any) -> Any:
    return abi_decode([returns], chain.call(to, _data(signature, *values)))[0]


def _words(config: ChannelConfig) -> tuple[Any, ...]:
    return (config.payer, config.signer, config.payee, config.delay_s, config.salt)


def _config(chain: DevChain, *, salt: bytes = bytes(32)) -> ChannelConfig:
    return ChannelConfig(
        payer=chain.account("deployer").address,
        signer=chain.account("operator").address,
        payee=chain.account("seller").address,
        delay_s=86_400,
        salt=salt,
    )


def _signer(chain: DevChain, name: str) -> KeySigner:
    return KeySigner(chain.account(name).key)


def test_channel_ids_are_the_contracts(chain: DevChain) -> None:
    for number in range(20):
        config = _config(chain, salt=keccak256(bytes([number])))
        found = _ask(chain, chain.channels.contract, f"channelId({CONFIG})", "bytes32", _words(config))
        assert found == channel_id(chain.channels, config)
    elsewhere = Deployment(chain_id=chain.channels.chain_id, contract=chain.bonds.contract)
    assert channel_id(elsewhere, config) != found


def test_months_are_the_contracts(chain: DevChain) -> None:
    moments = [0, 951_782_399, 951_782_400, 4_107_542_399, 4_107_542_400, 253_402_300_799]
    for year in (1970, 1972, 1999, 2000, 2024, 2026, 2100, 2101, 2400):
        for month in (1, 2, 3, 12):
            start_unix_s = int(datetime(year, month, 1, tzinfo=UTC).timestamp())
            moments += [start_unix_s, max(0, start_unix_s - 1)]
    for unix_s in moments:
        found = _ask(chain, chain.channels.contract, "monthOf(uint256)", "uint32", unix_s)
        assert found == month_of(unix_s), unix_s


def test_domain_separators_are_the_contracts(chain: DevChain) -> None:
    separator = _ask(chain, chain.channels.contract, "domainSeparator()", "bytes32")
    assert separator == eip712.channels_separator(chain.channels)
    token = _ask(chain, chain.token.contract, "DOMAIN_SEPARATOR()", "bytes32")
    assert token == eip712.token_separator(chain.token)


def test_a_receipts_digest_is_the_contracts(chain: DevChain) -> None:
    words = [bytes([number]) * 32 for number in range(1, 6)]
    receipt = receipt_of(
        dict(zip(("requestId", "channelId", "modelId", "requestHash", "responseHash"), words, strict=True))
        | {"inTokens": 70, "outTokens": 130, "amount": 55}
    )
    found = _ask(
        chain,
        chain.bonds.contract,
        "receiptHash((bytes32,bytes32,bytes32,bytes32,bytes32,uint32,uint32,uint96))",
        "bytes32",
        (*words, 70, 130, 55),
    )
    assert found == receipt_digest(eip712.bonds_separator(chain.bonds), receipt)


def test_the_contracts_take_what_our_digests_sign_for_a_whole_life(chain: DevChain) -> None:
    """Deposit by EIP-3009 and by permit, allocate, claim, close by the payee, and a close by request."""
    payer, operator, payee = (_signer(chain, name) for name in ("deployer", "operator", "seller"))
    separator = eip712.channels_separator(chain.channels)
    relayer = chain.account("deployer").address
    chain.mint(payer.address, 10_000_000)

    def send(signature: str, *values: Any, sender: Address = relayer) -> None:
        chain.send(sender=sender, to=chain.channels.contract, data=_data(signature, *values))

    salt = keccak256(b"salt")
    nonce = eip712.deposit_nonce(operator.address, limit_micros=5_000_000, salt=salt)
    receive = eip712.receive_digest(
        chain.token,
        payer=payer.address,
        payee=chain.channels.contract,
        value_micros=4_000_000,
        valid_after_unix_s=0,
        valid_before_unix_s=LATER_UNIX_S,
        nonce=nonce,
    )
    send(
        "depositWithAuthorization(address,uint256,uint256,uint256,address,uint96,bytes32,bytes)",
        *(payer.address, 4_000_000, 0, LATER_UNIX_S, operator.address, 5_000_000, salt),
        payer.sign(receive),
    )
    permit = eip712.permit_digest(
        chain.token,
        owner=payer.address,
        spender=chain.channels.contract,
        value_micros=1_000_000,
        nonce=0,
        deadline_unix_s=LATER_UNIX_S,
    )
    permitted = (1_000_000, LATER_UNIX_S, payer.sign(permit))
    send("depositWithPermit(uint256,uint256,bytes)", *permitted, sender=payer.address)

    first, second = _config(chain, salt=keccak256(b"1")), _config(chain, salt=keccak256(b"2"))
    for config in (first, second):
        allocate = eip712.allocate_digest(
            separator,
            channel_id(chain.channels, config),
            total_micros=2_000_000,
            valid_before_unix_s=LATER_UNIX_S,
        )
        send(
            f"allocate({CONFIG},uint96,uint40,bytes)",
            *(_words(config), 2_000_000, LATER_UNIX_S, operator.sign(allocate)),
        )
    voucher = Voucher(channel_id=channel_id(chain.channels, first), amount_micros=Micros(1_500_000))
    signature = operator.sign(eip712.voucher_digest(separator, voucher))
    row = (_words(first), 600_000, operator.sign(_voucher_digest(separator, voucher, 600_000)))
    send(f"claim(address,({CONFIG},uint96,bytes)[],bool)", payee.address, [row], False)
    close = eip712.close_digest(separator, voucher.channel_id, amount_micros=1_500_000)
    send(f"close({CONFIG},uint96,bytes,bytes)", _words(first), 1_500_000, signature, payee.sign(close))
    assert _ask(chain, chain.channels.contract, "credit(address)", "uint256", payee.address) == 1_500_000
    request = eip712.request_close_digest(
        separator, channel_id(chain.channels, second), valid_before_unix_s=LATER_UNIX_S
    )
    send(f"requestClose({CONFIG},uint40,bytes)", _words(second), LATER_UNIX_S, operator.sign(request))


def _voucher_digest(separator: bytes, voucher: Voucher, amount_micros: int) -> Any:
    smaller = Voucher(channel_id=voucher.channel_id, amount_micros=Micros(amount_micros))
    return eip712.voucher_digest(separator, smaller)
