"""One script over a chain's whole life, as plain values: two engines that run it must give the same list.

A deposit by a buyer without ETH, a channel, a claim, a close, a withdrawal; calls that the contracts refuse;
transactions that a node refuses; logs, fees and estimates. Block times are fixed, so nothing may differ but
hashes.
"""

from typing import Any

from tests.devchain import DevChain
from unhosted.market.channels import ChannelConfig, SignedVoucher, Voucher, channel_id
from unhosted.market.eip712 import (
    allocate_digest,
    channels_separator,
    deposit_nonce,
    receive_digest,
    voucher_digest,
)
from unhosted.market.ids import Address, address_text
from unhosted.market.money import Micros
from unhosted.node.core.chain import Call, ClaimRow
from unhosted.node.shell.chain import calls
from unhosted.node.shell.devnet.accounts import CHAIN_ID
from unhosted.node.shell.devnet.contracts import selector
from unhosted.node.shell.devnet.machine import ESTIMATE_STEP_GAS
from unhosted.node.shell.devnet.rpc import RpcFault
from unhosted.node.shell.keys.signer import KeySigner

START_UNIX_S = 2_000_000_000
FOREVER_UNIX_S = 1 << 39
SALT = b"\7" * 32
LIMIT_MICROS = 5_000_000
MAX_FEE_WEI = 10**11

RECEIPT_FIELDS = ("type", "status", "gasUsed", "cumulativeGasUsed", "effectiveGasPrice", "from", "to")
BLOCK_FIELDS = ("number", "timestamp", "gasUsed", "gasLimit", "baseFeePerGas", "logsBloom", "difficulty")
TRANSACTION_FIELDS = (
    *("type", "chainId", "nonce", "gas", "to", "value", "input", "r", "s", "hash", "from"),
    *("maxFeePerGas", "maxPriorityFeePerGas", "gasPrice", "accessList", "yParity"),
)
LOG_FIELDS = ("address", "topics", "data", "blockNumber", "transactionIndex", "logIndex", "removed")


class Life:
    """What happened, line by line."""

    def __init__(self, chain: DevChain) -> None:
        self.chain = chain
        self.lines: list[tuple[str, object]] = []
        self._clock = START_UNIX_S
        self.buyer, self.operator, self.seller, self.wallet = (
            KeySigner(chain.account(name).key) for name in ("buyer", "operator", "seller", "wallet")
        )

    def note(self, label: str, value: object) -> None:
        self.lines.append((label, value))

    def ask(self, label: str, method: str, *params: object) -> Any:
        """A call's result, or its error with code, words and data."""
        try:
            value = self.chain.rpc.call(method, *params)
        except RpcFault as fault:
            value = (fault.code, fault.message, fault.data)
        self.note(label, value)
        return value

    def sign(self, signer: KeySigner, *, to: Address | None, data: bytes, **changed: object) -> str:
        count = self.chain.rpc.call("eth_getTransactionCount", address_text(signer.address), "latest")
        fields: dict[str, object] = {
            "type": 2,
            "chainId": CHAIN_ID,
            "nonce": int(count, 16),
            "maxFeePerGas": MAX_FEE_WEI,
            "maxPriorityFeePerGas": 10**9,
            "gas": 1_000_000,
            "value": 0,
            "data": data,
        }
        if to is not None:
            fields["to"] = address_text(to)
        return "0x" + signer.sign_transaction(fields | changed).hex()

    def send(self, label: str, signer: KeySigner, call: Call) -> None:
        """Send it in a block at the next second; note its estimate, receipt, logs and the block."""
        rpc = self.chain.rpc
        self._clock += 1
        rpc.call("evm_setNextBlockTimestamp", self._clock)
        sent = rpc.call("eth_sendRawTransaction", self.sign(signer, to=call.to, data=call.data))
        receipt = None
        while receipt is None:
            receipt = rpc.call("eth_getTransactionReceipt", sent)
        self.note(f"{label}: receipt", {name: receipt[name] for name in RECEIPT_FIELDS})
        self.note(f"{label}: logs", [_some(log, LOG_FIELDS) for log in receipt["logs"]])
        block = rpc.call("eth_getBlockByNumber", receipt["blockNumber"], True)
        self.note(f"{label}: block", _some(block, BLOCK_FIELDS))
        self.note(f"{label}: in it", [_some(one, TRANSACTION_FIELDS) for one in block["transactions"]])
        transaction = rpc.call("eth_getTransactionByHash", sent)
        self.note(f"{label}: transaction", _some(transaction, TRANSACTION_FIELDS))

    def try_call(self, label: str, signer: KeySigner, call: Call) -> None:
        """What a call would do, and what it would take: both as answers or as errors."""
        fields = {"from": address_text(signer.address), "to": address_text(call.to), "data": _hex(call.data)}
        self.ask(f"{label}: call", "eth_call", fields, "latest")
        estimate = self.ask(f"{label}: estimate", "eth_estimateGas", fields)
        if isinstance(estimate, str):
            # Engines stop their search at different distances; what counts is that it is enough, and close.
            self.lines[-1] = (f"{label}: estimate", round(int(estimate, 16) / (4 * ESTIMATE_STEP_GAS)))


def run(chain: DevChain) -> list[tuple[str, object]]:
    life = Life(chain)
    chain.warp_to(START_UNIX_S)
    config = ChannelConfig(
        payer=life.buyer.address,
        signer=life.operator.address,
        payee=life.seller.address,
        delay_s=86_400,
        salt=SALT,
    )
    _open(life, config)
    _earn(life, config)
    _end(life, config)
    _ask_around(life)
    _be_refused(life)  # last: anvil may make an empty block of its own when a gap is filled
    return life.lines


def _open(life: Life, config: ChannelConfig) -> None:
    at, token = life.chain.channels, life.chain.token
    nonce = deposit_nonce(life.operator.address, limit_micros=LIMIT_MICROS, salt=SALT)
    signature = life.buyer.sign(
        receive_digest(
            token,
            payer=life.buyer.address,
            payee=at.contract,
            value_micros=LIMIT_MICROS,
            valid_after_unix_s=0,
            valid_before_unix_s=FOREVER_UNIX_S,
            nonce=nonce,
        )
    )
    deposit = calls.deposit_with_authorization(
        at,
        calls.DepositAuthorization(
            payer=life.buyer.address,
            value_micros=LIMIT_MICROS,
            valid_after_unix_s=0,
            valid_before_unix_s=FOREVER_UNIX_S,
            operator=life.operator.address,
            limit_micros=LIMIT_MICROS,
            salt=SALT,
            signature=signature,
        ),
    )
    allocate = _allocate(life, config, total_micros=1_000_000)
    both = calls.multicall(at, [deposit, allocate], purpose="open")
    life.try_call("gasless deposit", life.seller, both)
    life.send("gasless deposit", life.seller, both)
    life.try_call("the same again", life.seller, both)
    life.send("approve", life.wallet, calls.approve(token, at.contract, value_micros=7))
    life.send("deposit", life.wallet, calls.deposit(at, value_micros=7))
    life.send("top-up", life.seller, _allocate(life, config, total_micros=1_500_000))


def _allocate(life: Life, config: ChannelConfig, *, total_micros: int) -> Call:
    at = life.chain.channels
    signed = allocate_digest(
        channels_separator(at),
        channel_id(at, config),
        total_micros=total_micros,
        valid_before_unix_s=FOREVER_UNIX_S,
    )
    return calls.allocate(
        at,
        config,
        total_micros=total_micros,
        valid_before_unix_s=FOREVER_UNIX_S,
        signature=life.operator.sign(signed),
    )


def _row(life: Life, config: ChannelConfig, amount_micros: int) -> ClaimRow:
    at = life.chain.channels
    voucher = Voucher(channel_id=channel_id(at, config), amount_micros=Micros(amount_micros))
    signature = life.operator.sign(voucher_digest(channels_separator(at), voucher))
    return ClaimRow(config=config, voucher=SignedVoucher(voucher=voucher, signature=signature))


def _earn(life: Life, config: ChannelConfig) -> None:
    at, payee = life.chain.channels, life.seller.address
    claim = calls.claim(at, payee, [_row(life, config, 300_000)], payout=False)
    life.try_call("claim", life.wallet, claim)
    life.send("claim", life.wallet, claim)
    life.send("claim that is stale", life.wallet, claim)
    too_much = calls.claim(at, payee, [_row(life, config, 9_000_000)], payout=True)
    life.try_call("claim above the deposit", life.wallet, too_much)
    life.send("claim above the deposit", life.wallet, too_much)
    life.send(
        "claim with payout",
        life.wallet,
        calls.claim(at, payee, [_row(life, config, 400_000)], payout=True),
    )


def _end(life: Life, config: ChannelConfig) -> None:
    at = life.chain.channels
    row = _row(life, config, 450_000)
    close = calls.close(at, config, amount_micros=450_000, voucher=row.voucher.signature)
    life.try_call("close by a stranger", life.wallet, close)
    life.send("close", life.seller, close)
    life.try_call("close again", life.seller, close)
    life.send("withdraw", life.wallet, calls.withdraw(at, value_micros=7))
    life.try_call("withdraw more", life.wallet, calls.withdraw(at, value_micros=8))
    life.note("paid", life.chain.usdc_balance(life.seller.address))


def _be_refused(life: Life) -> None:
    seller, away = life.seller, Address(b"\x11" * 20)

    def refused(label: str, signer: KeySigner = seller, **changed: object) -> None:
        raw = life.sign(signer, to=away, data=b"", **changed)
        life.ask(f"refused: {label}", "eth_sendRawTransaction", raw)

    nonce = int(life.chain.rpc.call("eth_getTransactionCount", address_text(seller.address), "latest"), 16)
    refused("no ETH", life.operator)
    refused("another chain", chainId=1)
    refused("too little gas to begin", gas=20_000)
    refused("more gas than a block", gas=31_000_000)
    refused("below the base fee", maxFeePerGas=5, maxPriorityFeePerGas=1)
    refused("an old nonce", nonce=nonce - 1)
    life.ask("refused: no transaction", "eth_sendRawTransaction", "0x1234")
    # A gap in the nonces waits; what fills it brings both into one block.
    rpc, who = life.chain.rpc, address_text(seller.address)
    sent = life.ask("a gap", "eth_sendRawTransaction", life.sign(seller, to=away, data=b"", nonce=nonce + 1))
    life.ask("a gap: again", "eth_sendRawTransaction", life.sign(seller, to=away, data=b"", nonce=nonce + 1))
    refused("a replacement that pays no more", nonce=nonce + 1, value=3)
    life.ask("a gap: count", "eth_getTransactionCount", who, "pending")
    life.note("a gap: waits", rpc.call("eth_getTransactionByHash", sent)["blockNumber"])
    better = life.sign(seller, to=away, data=b"", nonce=nonce + 1, value=4, maxFeePerGas=2 * MAX_FEE_WEI)
    life.ask("a gap: replaced", "eth_sendRawTransaction", better)
    life.send("what fills the gap", seller, Call(to=away, data=b"", purpose="nothing"))
    life.ask("after the gap: count", "eth_getTransactionCount", who, "latest")
    life.ask("after the gap: balance", "eth_getBalance", address_text(away), "latest")
    # Without automatic blocks, the same two wait for one that is asked for.
    rpc.call("evm_setAutomine", False)
    life.ask("not yet", "eth_sendRawTransaction", life.sign(seller, to=away, data=b""))
    life.ask("not yet: count", "eth_getTransactionCount", who, "latest")
    life.ask("not yet: pending", "eth_getTransactionCount", who, "pending")
    rpc.call("evm_setAutomine", True)
    life.chain.warp_to(START_UNIX_S + 10_000)
    life.ask("then: count", "eth_getTransactionCount", who, "latest")


def _ask_around(life: Life) -> None:
    chain, token = life.chain, address_text(life.chain.contracts.token)
    head = chain.head()[0]
    seller = "0x" + life.seller.address.rjust(32, b"\0").hex()
    transfer = "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"
    channels = address_text(chain.contracts.channels)
    filters: tuple[dict[str, object], ...] = (
        {"fromBlock": "0x0", "toBlock": "latest", "address": token},
        {"fromBlock": "0x0", "toBlock": "latest", "topics": [transfer, None, seller]},
        {"fromBlock": "0x0", "toBlock": hex(head + 5), "address": [token, channels], "topics": [[transfer]]},
        {"fromBlock": "0x5", "toBlock": "0x2"},
        {"fromBlock": "0x0", "toBlock": "safe", "topics": ["0x" + "11" * 32]},
    )
    for number, one in enumerate(filters):
        logs = life.ask("", "eth_getLogs", one)
        life.lines[-1] = (f"logs {number}", [_some(log, LOG_FIELDS) for log in logs])
    fees = life.ask("", "eth_feeHistory", "0x5", "latest", [50])
    life.lines[-1] = ("fees", {name: fees[name] for name in ("oldestBlock", "baseFeePerGas", "gasUsedRatio")})
    for method in ("eth_chainId", "net_version", "eth_blockNumber", "eth_syncing", "eth_accounts"):
        life.ask(method, method)
    for method in ("eth_gasPrice", "eth_maxPriorityFeePerGas", "eth_noSuchMethod"):
        life.ask(method, method)
    nowhere = "0x" + "00" * 31 + "01"
    for method in ("eth_getTransactionByHash", "eth_getTransactionReceipt"):
        life.ask(method, method, nowhere)
    life.ask("no such block", "eth_getBlockByNumber", hex(head + 100), False)
    life.ask("no such hash", "eth_getBlockByHash", nowhere, False)
    life.ask("code", "eth_getCode", channels, "latest")
    life.ask("code of nobody", "eth_getCode", address_text(Address(b"\x11" * 20)), "latest")
    life.ask("storage", "eth_getStorageAt", token, "0x0", "latest")
    life.ask("time in a call", "eth_call", {"data": "0x425f5260205ff3"}, "latest")
    life.ask("an earlier state", "eth_call", {"to": token, "data": _hex(selector("totalSupply()"))}, "0x2")
    life.ask("no such function", "eth_call", {"to": channels, "data": "0x12345678"}, "latest")
    life.ask("back in time", "evm_setNextBlockTimestamp", 5)
    life.ask("back to nothing", "evm_revert", "0x77")


def _some(value: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value[name] for name in names}


def _hex(data: bytes) -> str:
    return "0x" + data.hex()
