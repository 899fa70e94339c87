"""`unhosted wallet` over a real chain, with the owner's signature made as a wallet makes it."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from eth_account import Account
from eth_account.messages import encode_typed_data

from tests.devchain import DevChain
from tests.node.wallet.conftest import Unhosted
from unhosted.market.channels import ChainId, ChannelConfig, Deployment, channel_id
from unhosted.market.eip712 import allocate_digest, channels_separator
from unhosted.market.ids import Address, address_text
from unhosted.node import config as settings
from unhosted.node.shell.chain import calls
from unhosted.node.shell.keys.signer import KeySigner
from unhosted.node.shell.money.ledger import open_ledger

pytestmark = pytest.mark.slow

USD = 1_000_000
RECEIPT_LOOKS = 250


def buyer(chain: DevChain) -> str:
    return address_text(chain.account("buyer").address)


def sign(request: dict[str, Any], key: bytes, file: Path) -> Path:
    """As a wallet: from the typed data alone."""
    message = encode_typed_data(full_message=request["typed_data"])
    signature = Account.from_key(key).sign_message(message).signature
    file.write_text(json.dumps(request | {"signature": "0x" + bytes(signature).hex()}))
    return file


def ask(unhosted: Unhosted, chain: DevChain, amount: str = "4") -> dict[str, Any]:
    asked = unhosted("wallet", "fund", amount, "--owner", buyer(chain), "--json")
    assert asked.code == 0, asked.err
    assert asked.json["state"] == "waiting"
    request: dict[str, Any] = json.loads(Path(asked.json["file"]).read_text())
    return request


def test_a_buyer_without_gas_deposits_and_somebody_else_sends_it(
    unhosted: Unhosted, home: Path, key_file: str, on_chain: DevChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = ask(unhosted, on_chain)
    signed = sign(request, on_chain.account("buyer").key, home / "signed.json")
    outcome = unhosted("wallet", "fund", "--signed", str(signed), "--json").json
    assert outcome["state"] == "relay"
    monkeypatch.setenv("UNHOSTED_HOME", str(home / "seller"))
    monkeypatch.delenv("UNHOSTED_KEYSTORE")
    monkeypatch.setenv("UNHOSTED_PRIVATE_KEY", on_chain.account("seller").key.hex())
    assert unhosted("wallet", "relay", outcome["file"]).code == 0
    monkeypatch.setenv("UNHOSTED_HOME", str(home / "home"))
    monkeypatch.setenv("UNHOSTED_KEYSTORE", str(home / "key.json"))
    shown = unhosted("wallet", "show", "--json").json
    account = shown["chain_says"]["account"]
    assert (account["free_micros"], account["limit_micros"]) == (4 * USD, 5 * USD)
    assert account["is_our_operator"] and account["operator"] == key_file
    assert shown["deposits_waiting"] == []
    assert shown["owner"] == buyer(on_chain)  # kept from `fund --owner`
    rows = unhosted("wallet", "export", "--json").json
    assert [(row["kind"], row["amount_usdc"]) for row in rows] == [("deposit sent by another", "4.00")]


def test_with_gas_the_node_sends_it_itself_and_only_once(
    unhosted: Unhosted, home: Path, key_file: str, on_chain: DevChain
) -> None:
    on_chain.give_eth(Address(bytes.fromhex(key_file[2:])), 10**18)
    request = ask(unhosted, on_chain)
    signed = sign(request, on_chain.account("buyer").key, home / "signed.json")
    outcome = unhosted("wallet", "fund", "--signed", str(signed), "--json").json
    assert outcome["state"] == "sent"
    again = unhosted("wallet", "fund", "--signed", str(signed))
    assert again.code == 1 and "was sent or has expired" in again.err
    rows = unhosted("wallet", "export", "--json").json
    assert [(row["kind"], row["amount_usdc"], row["transaction"]) for row in rows] == [
        ("deposit", "4.00", outcome["transaction"])
    ]
    assert int(rows[0]["fee_wei"]) > 0


def test_a_file_that_came_back_changed_deposits_what_was_asked_or_nothing(
    unhosted: Unhosted, home: Path, key_file: str, on_chain: DevChain
) -> None:
    on_chain.give_eth(Address(bytes.fromhex(key_file[2:])), 10**18)
    request = ask(unhosted, on_chain)
    forged = json.loads(json.dumps(request))
    forged["typed_data"]["message"]["value"] = str(900 * USD)
    signed = sign(forged, on_chain.account("buyer").key, home / "forged.json")
    refused = unhosted("wallet", "fund", "--signed", str(signed))
    assert refused.code == 1
    assert f"and not by the owner {buyer(on_chain)}" in refused.err
    by_another = sign(request, on_chain.account("seller").key, home / "other.json")
    refused = unhosted("wallet", "fund", "--signed", str(by_another))
    assert f"by the key of {address_text(on_chain.account('seller').address)}" in refused.err
    signed = sign(request, on_chain.account("buyer").key, home / "signed.json")
    changed = json.loads(signed.read_text()) | {"amount_micros": "1", "operator": buyer(on_chain)}
    signed.write_text(json.dumps(changed))
    assert unhosted("wallet", "fund", "--signed", str(signed)).code == 0
    account = unhosted("wallet", "show", "--json").json["chain_says"]["account"]
    assert (account["free_micros"], account["operator"]) == (4 * USD, key_file)


def test_no_more_is_deposited_than_there_is_or_than_may_lie_there(
    unhosted: Unhosted, key_file: str, on_chain: DevChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    poor = address_text(on_chain.account("operator").address)
    refused = unhosted("wallet", "fund", "1", "--owner", poor)
    assert "has USD 0.00 in USDC" in refused.err and "the deposit is USD 1.00" in refused.err
    monkeypatch.setenv("UNHOSTED_WALLET_MAX_TOTAL_DEPOSIT_USD", "3")
    refused = unhosted("wallet", "fund", "4", "--owner", buyer(on_chain))
    assert "above the limit of USD 3.00" in refused.err
    refused = unhosted("wallet", "fund", "5.01", "--owner", buyer(on_chain))
    assert "may still be spent this month" in refused.err
    assert unhosted("wallet", "show", "--json").json["deposits_waiting"] == []


def test_on_the_local_chain_an_owner_key_in_a_variable_signs_and_withdraws(
    unhosted: Unhosted, key_file: str, on_chain: DevChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_chain.give_eth(Address(bytes.fromhex(key_file[2:])), 10**18)
    wallet = on_chain.account("wallet")
    before = on_chain.usdc_balance(wallet.address)
    monkeypatch.setenv("UNHOSTED_OWNER_KEY", wallet.key.hex())
    assert unhosted("wallet", "fund", "4", "--limit", "2", "--json").json["state"] == "sent"
    assert on_chain.usdc_balance(wallet.address) == before - 4 * USD
    monkeypatch.setenv("UNHOSTED_OWNER_KEY", wallet.key.hex())
    assert unhosted("wallet", "withdraw", "1.5", "--json").json["free_after_micros"] == 2_500_000
    monkeypatch.setenv("UNHOSTED_OWNER_KEY", wallet.key.hex())
    assert unhosted("wallet", "withdraw", "all", "--json").json["free_after_micros"] == 0
    assert on_chain.usdc_balance(wallet.address) == before


def test_elsewhere_a_withdrawal_is_only_shown_for_the_owner_to_send(
    unhosted: Unhosted, home: Path, key_file: str, on_chain: DevChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_chain.give_eth(Address(bytes.fromhex(key_file[2:])), 10**18)
    owner = on_chain.account("wallet")
    monkeypatch.setenv("UNHOSTED_OWNER_KEY", owner.key.hex())
    unhosted("wallet", "fund", "4")
    call = unhosted("wallet", "withdraw", "1", "--owner", address_text(owner.address), "--json").json["call"]
    before = on_chain.usdc_balance(owner.address)
    fields = {name: call[name] for name in ("to", "data", "gas")}
    more = {"chainId": call["chain_id"], "value": 0, "nonce": 0, "maxFeePerGas": 10**10}
    nonce = on_chain.rpc.call("eth_getTransactionCount", address_text(owner.address), "latest")
    signed = Account.sign_transaction(fields | more | {"nonce": nonce, "maxPriorityFeePerGas": 1}, owner.key)
    sent = on_chain.rpc.call("eth_sendRawTransaction", "0x" + bytes(signed.raw_transaction).hex())
    receipt = _receipt(on_chain, sent)
    assert receipt["status"] == "0x1", (receipt, fields)
    assert on_chain.usdc_balance(owner.address) == before + USD
    refused = unhosted("wallet", "withdraw", "3.5", "--owner", address_text(owner.address))
    assert refused.code == 1 and "USD 3.00 of" in refused.err


def _receipt(chain: DevChain, transaction: str) -> dict[str, Any]:
    """A node answers when it has a transaction, and mines it a moment later."""
    for _ in range(RECEIPT_LOOKS):
        receipt: dict[str, Any] | None = chain.rpc.call("eth_getTransactionReceipt", transaction)
        if receipt is not None:
            return receipt
        time.sleep(0.02)
    raise AssertionError(f"{transaction} was not mined")


def open_channel(chain: DevChain, operator: KeySigner) -> str:
    """A channel of the buyer's with a deposit of one dollar, which the ledger knows."""
    payer, seller = chain.account("wallet").address, chain.account("seller").address
    config = ChannelConfig(
        payer=payer, signer=operator.address, payee=seller, delay_s=3600, salt=b"\x05" * 32
    )
    of = channel_id(chain.channels, config)
    signature = operator.sign(
        allocate_digest(channels_separator(chain.channels), of, total_micros=USD, valid_before_unix_s=1 << 39)
    )
    call = calls.allocate(
        chain.channels, config, total_micros=USD, valid_before_unix_s=1 << 39, signature=signature
    )
    chain.send(sender=seller, to=call.to, data=call.data)
    paths = settings.load().paths

    async def note() -> None:
        async with open_ledger(paths.ledger_file, paths.ledger_seal_file, cap_micros=5 * USD) as ledger:
            await ledger.note_chain_time(chain.head()[1])
            await ledger.note_channel(chain.channels, config, USD)

    trio.run(note)
    return "0x" + of.hex()


def test_a_channel_is_closed_in_two_steps_and_what_is_left_comes_back(
    unhosted: Unhosted, home: Path, on_chain: DevChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator = on_chain.account("deployer")
    for key in ("first", "again"):
        monkeypatch.setenv("UNHOSTED_PRIVATE_KEY", operator.key.hex())
        monkeypatch.setenv("UNHOSTED_OWNER_KEY", on_chain.account("wallet").key.hex())
        if key == "first":
            assert unhosted("wallet", "fund", "4").code == 0
    of = open_channel(on_chain, KeySigner(operator.key))
    monkeypatch.setenv("UNHOSTED_WALLET_OWNER", address_text(on_chain.account("wallet").address))
    shown = unhosted("wallet", "show", "--json").json
    assert [(one["channel"], one["on_chain"]["deposit_micros"]) for one in shown["channels"]] == [(of, USD)]

    def close() -> str:
        monkeypatch.setenv("UNHOSTED_PRIVATE_KEY", operator.key.hex())
        (outcome,) = unhosted("wallet", "close", of[:12], "--json").json
        return str(outcome["state"])

    assert close() == "requested"
    assert close() == "waiting"
    assert "closing until" in unhosted("wallet", "show").out
    on_chain.warp(3600)
    assert close() == "finalized"
    assert close() == "closed"
    account = unhosted("wallet", "show", "--json").json["chain_says"]["account"]
    assert account["free_micros"] == 4 * USD


def test_a_close_without_gas_is_signed_for_somebody_else_to_send(
    unhosted: Unhosted, home: Path, key_file: str, on_chain: DevChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    wallet, seller = on_chain.account("wallet"), on_chain.account("seller")
    operator = on_chain.account("operator")  # has no gas
    monkeypatch.delenv("UNHOSTED_KEYSTORE")
    monkeypatch.setenv("UNHOSTED_WALLET_OWNER", address_text(wallet.address))
    monkeypatch.setenv("UNHOSTED_OWNER_KEY", wallet.key.hex())
    monkeypatch.setenv("UNHOSTED_PRIVATE_KEY", operator.key.hex())
    deposit = unhosted("wallet", "fund", "2", "--json").json
    monkeypatch.setenv("UNHOSTED_PRIVATE_KEY", seller.key.hex())
    assert unhosted("wallet", "relay", deposit["file"]).code == 0
    open_channel(on_chain, KeySigner(operator.key))
    monkeypatch.setenv("UNHOSTED_PRIVATE_KEY", operator.key.hex())
    (outcome,) = unhosted("wallet", "close", "--all", "--json").json
    assert outcome["state"] == "relay"
    monkeypatch.setenv("UNHOSTED_PRIVATE_KEY", seller.key.hex())
    assert unhosted("wallet", "relay", outcome["file"]).code == 0
    (channel,) = unhosted("wallet", "show", "--json").json["channels"]
    assert channel["on_chain"]["close_at_unix_s"] > 0


def test_a_file_from_elsewhere_cannot_use_this_nodes_own_rights(
    unhosted: Unhosted, home: Path, on_chain: DevChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator = on_chain.account("deployer")
    monkeypatch.setenv("UNHOSTED_OWNER_KEY", on_chain.account("wallet").key.hex())
    monkeypatch.setenv("UNHOSTED_PRIVATE_KEY", operator.key.hex())
    unhosted("wallet", "fund", "4")
    config = ChannelConfig(
        payer=on_chain.account("wallet").address,
        signer=operator.address,
        payee=on_chain.account("seller").address,
        delay_s=3600,
        salt=bytes(32),
    )
    own = replace(config, payer=operator.address)
    at = on_chain.channels
    traps = {
        "close": (calls.request_close(at, config).data, "of this node's own"),
        "close as payer": (calls.request_close(at, own).data, "of this node's own"),
        "withdraw": (calls.withdraw(at, value_micros=1).data, "does not send for others"),
        "operator": (calls.set_operator(at, operator.address, limit_micros=9).data, "does not send"),
        "multicall": (calls.multicall(at, [calls.withdraw(at, value_micros=1)], purpose="").data, "does not"),
    }
    for name, (data, told) in traps.items():
        file = home / f"{name}.json"
        file.write_text(
            json.dumps(
                {
                    "format": "unhosted/relay/1",
                    "chain_id": 31337,
                    "to": address_text(at.contract),
                    "data": "0x" + data.hex(),
                }
            )
        )
        monkeypatch.setenv("UNHOSTED_PRIVATE_KEY", operator.key.hex())
        refused = unhosted("wallet", "relay", str(file))
        assert refused.code == 1 and told in refused.err
    file.write_text(file.read_text().replace(address_text(at.contract), buyer(on_chain)))
    monkeypatch.setenv("UNHOSTED_PRIVATE_KEY", operator.key.hex())
    assert "choose the chain with --chain" in unhosted("wallet", "relay", str(file)).err


def test_a_dead_endpoint_is_no_lack_of_money(
    unhosted: Unhosted, key_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNHOSTED_CHAIN_NAME", "local")
    monkeypatch.setenv("UNHOSTED_CHAIN_RPC_URLS", "http://127.0.0.1:1/secret-key")
    shown = unhosted("wallet", "show")
    assert shown.code == 0
    assert key_file in shown.out and "USD 0.00 spent" in shown.out
    assert "from this node's own books alone" in shown.err and "says nothing about funds" in shown.err
    refused = unhosted("wallet", "fund", "1", "--owner", "0x" + "11" * 20)
    assert refused.code == 1 and "127.0.0.1:1" in refused.err
    assert "secret-key" not in shown.out + shown.err + refused.err


ACCEPTS_ALL = bytes.fromhex("7f1626ba7e" + "00" * 28 + "60005260206000f3")
"""A contract wallet's code: whatever is signed for it, it says the word of ERC-1271."""
ACCEPTS_NOTHING = bytes.fromhex("60206000f3")


@pytest.mark.parametrize("code", [ACCEPTS_ALL, ACCEPTS_NOTHING], ids=["accepts", "does not"])
def test_a_contract_wallet_signs_in_its_own_way(
    unhosted: Unhosted, home: Path, key_file: str, on_chain: DevChain, code: bytes
) -> None:
    on_chain.give_eth(Address(bytes.fromhex(key_file[2:])), 10**18)
    init = bytes([0x60, len(code), 0x80, 0x60, 0x0B, 0x60, 0x00, 0x39, 0x60, 0x00, 0xF3]) + code
    made = on_chain.send(sender=on_chain.account("deployer").address, to=None, data=init)
    owner = made["contractAddress"]
    on_chain.mint(Address(bytes.fromhex(owner[2:])), 9 * USD)
    asked = unhosted("wallet", "fund", "2", "--owner", owner, "--json").json
    signed = home / "signed.json"
    signed.write_text(json.dumps({"id": asked["deposit_id"], "signature": "0x" + "ab" * 130}))
    outcome = unhosted("wallet", "fund", "--signed", str(signed), "--json")
    if code == ACCEPTS_ALL:
        assert outcome.json["state"] == "sent"
        account = unhosted("wallet", "show", "--json").json["chain_says"]["account"]
        assert account["free_micros"] == 2 * USD
    else:
        assert outcome.code == 1 and "the chain does not take it either" in outcome.err


def test_a_second_deposit_counts_what_lies_there_unspent(
    unhosted: Unhosted, home: Path, key_file: str, on_chain: DevChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_chain.give_eth(Address(bytes.fromhex(key_file[2:])), 10**18)
    wallet = on_chain.account("wallet")
    monkeypatch.setenv("UNHOSTED_OWNER_KEY", wallet.key.hex())
    assert unhosted("wallet", "fund", "4", "--json").json["state"] == "sent"
    monkeypatch.setenv("UNHOSTED_OWNER_KEY", wallet.key.hex())
    refused = unhosted("wallet", "fund", "1.000001")
    assert refused.code == 1 and "unspent in the contract 4.00" in refused.err
    monkeypatch.setenv("UNHOSTED_OWNER_KEY", wallet.key.hex())
    assert unhosted("wallet", "fund", "1", "--json").json["state"] == "sent"


def test_a_close_by_a_key_that_may_not_is_told_in_words(
    unhosted: Unhosted, home: Path, on_chain: DevChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator, other = on_chain.account("deployer"), on_chain.account("seller")
    monkeypatch.setenv("UNHOSTED_PRIVATE_KEY", operator.key.hex())
    monkeypatch.setenv("UNHOSTED_OWNER_KEY", on_chain.account("wallet").key.hex())
    assert unhosted("wallet", "fund", "4").code == 0
    open_channel(on_chain, KeySigner(operator.key))
    monkeypatch.setenv("UNHOSTED_PRIVATE_KEY", other.key.hex())
    refused = unhosted("wallet", "close", "--all")
    assert refused.code == 1
    assert "may not close" in refused.err and address_text(operator.address) in refused.err


def test_all_channels_to_close_are_those_of_this_chain(
    unhosted: Unhosted, home: Path, on_chain: DevChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator = on_chain.account("deployer")
    monkeypatch.setenv("UNHOSTED_PRIVATE_KEY", operator.key.hex())
    monkeypatch.setenv("UNHOSTED_OWNER_KEY", on_chain.account("wallet").key.hex())
    assert unhosted("wallet", "fund", "4").code == 0
    of = open_channel(on_chain, KeySigner(operator.key))
    paths = settings.load().paths
    elsewhere = Deployment(chain_id=ChainId(8453), contract=on_chain.channels.contract)

    async def note() -> None:
        async with open_ledger(paths.ledger_file, paths.ledger_seal_file, cap_micros=5 * USD) as ledger:
            (known,) = (await ledger.view()).channels
            for salt in range(4):
                config = replace(known.config, salt=bytes((salt,)) * 32)
                await ledger.note_channel(elsewhere, config, USD // 4)

    trio.run(note)
    monkeypatch.setenv("UNHOSTED_PRIVATE_KEY", operator.key.hex())
    (outcome,) = unhosted("wallet", "close", "--all", "--json").json
    assert (outcome["channel"], outcome["state"]) == (of, "requested")


def test_the_nodes_own_key_is_no_owner(unhosted: Unhosted, key_file: str, on_chain: DevChain) -> None:
    refused = unhosted("wallet", "fund", "1", "--owner", key_file)
    assert refused.code == 1 and "this node's own key" in refused.err
