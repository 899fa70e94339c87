"""TestUSDC, Channels and Bonds on a local chain: at the same addresses on every fresh one.

TestUSDC is the deployer's first transaction, so that its address follows from the deployer alone; the others
go through the deployment proxy as they do on a real chain.
"""

import time
from dataclasses import dataclass

from unhosted.contracts import artifact
from unhosted.market.eip712 import keccak256
from unhosted.market.ids import Address, address_text, parse_address
from unhosted.node.core.errors import Refused
from unhosted.node.shell.chain.addresses import (
    DEPLOYMENT_PROXY,
    BondsTerms,
    bonds_init_code,
    channels_init_code,
    create2_address,
    create_address,
    deployment_data,
)
from unhosted.node.shell.devnet.accounts import ACCOUNT_BY_NAME, ACCOUNTS, VERIFIERS, DevAccount
from unhosted.node.shell.devnet.rpc import LocalRpc

TOKEN_NAME = "USD Coin"
"""The EIP-712 name of the genuine token on Base and most other chains; its version is 2."""

SINK = parse_address("0x000000000000000000000000000000000000dEaD")
"""Where slashed test money goes: nobody's."""

BONDS_TERMS = BondsTerms(
    sink=SINK,
    verifiers=VERIFIERS,
    quorum=4,
    appeal_quorum=6,
    slash_max_micros=100_000_000,
    appeal_window_s=3 * 86_400,
    unbond_s=7 * 86_400,
)

DEPLOY_GAS = 6_000_000
"""Above the largest of the three (2.5 million, measured), below what one transaction may take anywhere."""

CALL_GAS = 200_000

TRANSFER_DIVISOR = 100
"""Accounts beyond the engine's own get this part of what those have: the deployer pays it."""

MINED_S = 20.0
"""An engine takes milliseconds from a transaction to its block."""

PAUSE_S = 0.001


@dataclass(frozen=True, slots=True, kw_only=True)
class DevContracts:
    token: Address
    channels: Address
    bonds: Address


def dev_contracts() -> DevContracts:
    """The addresses, without a chain."""
    token = create_address(ACCOUNT_BY_NAME["deployer"].address, nonce=0)
    return DevContracts(
        token=token,
        channels=create2_address(channels_init_code(token)),
        bonds=create2_address(bonds_init_code(token, BONDS_TERMS)),
    )


def deploy(rpc: LocalRpc, *, mines_at_once: bool = True) -> DevContracts:
    """Bring the contracts and the test money onto the chain; what is there already stays.

    mines_at_once: whether the engine makes a block for each transaction by itself.

    Raises: Refused when something else stands at one of the addresses, or a deployment fails.
    """
    contracts = dev_contracts()
    deployer = ACCOUNT_BY_NAME["deployer"].address
    if not _has_code(rpc, contracts.token):
        nonce = int(rpc.call("eth_getTransactionCount", address_text(deployer), "latest"), 16)
        if nonce != 0:
            raise Refused(
                "chain_mismatch",
                f"the deployer {address_text(deployer)} has sent {nonce} transactions on this chain and"
                f" TestUSDC is not at {address_text(contracts.token)}; start it anew with --reset",
            )
        init_code = artifact("TestUSDC").creation_code + _string_argument(TOKEN_NAME)
        send(rpc, sender=deployer, to=None, data=init_code, gas=DEPLOY_GAS, mines_at_once=mines_at_once)
    for init_code in (channels_init_code(contracts.token), bonds_init_code(contracts.token, BONDS_TERMS)):
        if not _has_code(rpc, create2_address(init_code)):
            data = deployment_data(init_code)
            send(
                rpc,
                sender=deployer,
                to=DEPLOYMENT_PROXY,
                data=data,
                gas=DEPLOY_GAS,
                mines_at_once=mines_at_once,
            )
    for address in (contracts.token, contracts.channels, contracts.bonds):
        if not _has_code(rpc, address):
            raise Refused(
                "chain_mismatch", f"no contract at {address_text(address)} after its deployment; try --reset"
            )
    _fund(rpc, contracts.token, mines_at_once)
    return contracts


def _fund(rpc: LocalRpc, token: Address, mines_at_once: bool) -> None:
    """Each account's share, once: nobody who spent it is filled up again at a restart."""
    deployer = ACCOUNT_BY_NAME["deployer"].address
    if int(rpc.call("eth_call", {"to": address_text(token), "data": "0x18160ddd"}, "latest"), 16) == 0:
        for account in ACCOUNTS:
            if account.usdc_micros:
                mint(rpc, token, account.address, account.usdc_micros, mines_at_once=mines_at_once)
    # An engine gives ETH to its own accounts alone; the others get theirs by a transfer.
    for account in ACCOUNTS:
        if account.eth_wei and not _has_eth(rpc, account):
            amount_wei = account.eth_wei // TRANSFER_DIVISOR
            give_eth(rpc, account.address, amount_wei, sender=deployer, mines_at_once=mines_at_once)


def mint(
    rpc: LocalRpc, token: Address, to: Address, amount_micros: int, *, mines_at_once: bool = True
) -> None:
    """New test money for `to`."""
    data = selector("mint(address,uint256)") + to.rjust(32, b"\0") + amount_micros.to_bytes(32, "big")
    deployer = ACCOUNT_BY_NAME["deployer"].address
    send(rpc, sender=deployer, to=token, data=data, gas=CALL_GAS, mines_at_once=mines_at_once)


def give_eth(
    rpc: LocalRpc, to: Address, amount_wei: int, *, sender: Address, mines_at_once: bool = True
) -> None:
    send(
        rpc,
        sender=sender,
        to=to,
        data=b"",
        gas=21_000,
        value_wei=amount_wei,
        mines_at_once=mines_at_once,
    )


def send(
    rpc: LocalRpc,
    *,
    sender: Address,
    to: Address | None,
    data: bytes,
    gas: int,
    value_wei: int = 0,
    mines_at_once: bool = True,
) -> dict[str, object]:
    """A transaction that the engine signs with the sender's published key, and its receipt.

    mines_at_once: False makes a block for it; so does the engine itself otherwise.
    Raises: Refused when it fails.
    """
    fields: dict[str, object] = {
        "from": address_text(sender),
        "data": "0x" + data.hex(),
        "gas": hex(gas),
        "value": hex(value_wei),
    }
    if to is not None:
        fields["to"] = address_text(to)
    transaction = rpc.call("eth_sendTransaction", fields)
    if not mines_at_once:
        rpc.call("evm_mine")
    receipt = _receipt(rpc, transaction, MINED_S)
    if receipt is None or receipt["status"] != "0x1":
        raise Refused("chain_mismatch", f"transaction {transaction} failed on the local chain; try --reset")
    return receipt


def _receipt(rpc: LocalRpc, transaction: str, within_s: float) -> dict[str, object] | None:
    """anvil answers before the block is made."""
    deadline = time.monotonic() + within_s
    while True:
        receipt: dict[str, object] | None = rpc.call("eth_getTransactionReceipt", transaction)
        if receipt is not None or time.monotonic() > deadline:
            return receipt
        time.sleep(PAUSE_S)


def selector(signature: str) -> bytes:
    return keccak256(signature.encode())[:4]


def _has_code(rpc: LocalRpc, address: Address) -> bool:
    return bool(rpc.call("eth_getCode", address_text(address), "latest") not in {"0x", "0x0", None})


def _has_eth(rpc: LocalRpc, account: DevAccount) -> bool:
    """Whether it has any, or had: one that sent something was given its share before."""
    where = (address_text(account.address), "latest")
    balance = int(rpc.call("eth_getBalance", *where), 16)
    return balance > 0 or int(rpc.call("eth_getTransactionCount", *where), 16) > 0


def _string_argument(text: str) -> bytes:
    raw = text.encode()
    return (32).to_bytes(32, "big") + len(raw).to_bytes(32, "big") + raw.ljust(-(-len(raw) // 32) * 32, b"\0")
