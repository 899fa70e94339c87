"""The JSON-RPC methods of the embedded chain: what web3, wallets in browsers and our own adapter call.

Names, shapes, error codes and words are anvil's, so that nobody has to know which engine runs; a test runs
the same script on both. A method that is not here is answered as unknown, never with an empty result.
"""

import inspect
from collections.abc import Callable
from typing import Any

from unhosted.node.shell.devnet.accounts import ACCOUNTS, CHAIN_ID
from unhosted.node.shell.devnet.machine import BLOCK_GAS_MAX, ENGINE_ACCOUNTS, Machine
from unhosted.node.shell.devnet.machine_params import address_of, bad, bytes_of, call_fields, number_of
from unhosted.node.shell.devnet.machine_pool import Pool, RpcError
from unhosted.node.shell.devnet.machine_reading import Reader
from unhosted.node.shell.devnet.machine_shapes import data, quantity

TIP_WEI = 1_000_000_000
"""What anvil suggests."""

SNAPSHOTS_MAX = 64
"""Each holds the whole database by reference; tests use a handful."""

MINE_MAX = 4096
"""Blocks of one anvil_mine: half a minute of work."""

METHOD_NOT_FOUND = -32601


class Methods:
    """A chain behind `handle`. Blocking, and for one thread at a time."""

    def __init__(self, machine: Machine, *, mines_at_once: bool, epoch_slots: int) -> None:
        self._machine = machine
        self._pool = Pool()
        self._mines_at_once = mines_at_once
        self._reader = Reader(machine, epoch_slots=epoch_slots)
        self._snapshots: dict[int, tuple[dict[bytes, bytes], Pool]] = {}
        self._snapshots_taken = 0
        self._table = self._methods()

    def handle(self, method: str, params: list[Any]) -> object:
        """Raises: RpcError."""
        function = self._table.get(method)
        if function is None:
            raise RpcError(METHOD_NOT_FOUND, "Method not found")
        try:
            inspect.signature(function).bind(*params)
        except TypeError:
            raise bad(f"{method}: {len(params)} parameters do not fit") from None
        return function(*params)

    def mine(self) -> None:
        """A block of what is ready; empty when nothing is."""
        for transaction in self._machine.mine(self._ready()):
            head = self._machine.head
            if not head.gas_used or transaction.gas <= BLOCK_GAS_MAX - int(head.gas_used):
                self._pool.drop(transaction)  # not for lack of room: it can never be mined
        self._pool.drop_mined(self._reader.nonce)

    def _mine_what_waits(self) -> None:
        while self._ready():
            waiting = len(self._pool)
            self.mine()
            if len(self._pool) == waiting:
                break

    def _ready(self) -> list[Any]:
        return self._pool.ready(self._reader.nonce, base_fee_wei=self._reader.next_base_fee())

    def _methods(self) -> dict[str, Callable[..., object]]:
        anvil_and_evm: dict[str, Callable[..., object]] = {
            "setNextBlockTimestamp": self._set_next_timestamp,
            "increaseTime": lambda seconds: self._machine.move_clock(number_of(seconds)),
            "snapshot": self._snapshot,
            "revert": self._revert,
            "setAutomine": self._set_automine,
            "setBalance": self._set_balance,
        }
        table: dict[str, Callable[..., object]] = {
            "web3_clientVersion": lambda: "unhosted-devnet/py-evm",
            "net_version": lambda: str(CHAIN_ID),
            "net_listening": lambda: True,
            "eth_chainId": lambda: quantity(CHAIN_ID),
            "eth_syncing": lambda: False,
            "eth_accounts": lambda: [data(one.address) for one in ACCOUNTS[:ENGINE_ACCOUNTS]],
            "eth_blockNumber": lambda: quantity(self._machine.head.block_number),
            "eth_getBlockByNumber": self._reader.block_by_number,
            "eth_getBlockByHash": self._reader.block_by_hash,
            "eth_getBlockReceipts": self._reader.block_receipts,
            "eth_getTransactionByHash": lambda one: self._reader.transaction(self._pool, one),
            "eth_getTransactionReceipt": self._reader.receipt,
            "eth_getTransactionCount": lambda who, tag="latest": self._reader.count(self._pool, who, tag),
            "eth_getBalance": lambda who, tag="latest": quantity(
                self._reader.state(tag).get_balance(address_of(who))
            ),
            "eth_getCode": lambda who, tag="latest": data(self._reader.state(tag).get_code(address_of(who))),
            "eth_getStorageAt": self._reader.storage,
            "eth_call": self._reader.call,
            "eth_estimateGas": self._reader.estimate,
            "eth_gasPrice": lambda: quantity(self._reader.next_base_fee() + TIP_WEI),
            "eth_maxPriorityFeePerGas": lambda: quantity(TIP_WEI),
            "eth_blobBaseFee": lambda: "0x1",
            "eth_feeHistory": self._reader.fee_history,
            "eth_sendRawTransaction": lambda raw: self._take(self._decode(bytes_of(raw))),
            "eth_sendTransaction": self._send,
            "eth_getLogs": self._reader.logs,
            "evm_mine": self._evm_mine,
            "anvil_mine": self._anvil_mine,
        }
        for name, function in anvil_and_evm.items():
            table[f"evm_{name}"] = table[f"anvil_{name}"] = function
        return table

    def _decode(self, raw: bytes) -> Any:
        try:
            return self._machine.decode(raw)
        except ValueError as error:
            raise bad(str(error)) from None

    def _send(self, fields: object) -> object:
        call = call_fields(fields)
        nonce = self._pool.next_nonce(call.sender, self._reader.nonce(call.sender))
        tip = TIP_WEI if call.tip_wei is None else call.tip_wei
        signed = self._machine.sign(
            call.sender,
            {
                "nonce": nonce if call.nonce is None else call.nonce,
                "max_fee_per_gas": call.max_fee_wei or 2 * self._reader.next_base_fee() + tip,
                "max_priority_fee_per_gas": min(tip, call.max_fee_wei or tip),
                "gas": call.gas or self._reader.estimated(call, self._machine.pending_header()),
                "to": call.to,
                "value": call.value_wei,
                "data": call.data,
            },
        )
        if signed is None:
            raise RpcError(-32602, "No Signer available")
        return self._take(signed)

    def _take(self, transaction: Any) -> str:
        state = self._machine.state(self._machine.head)
        self._pool.add(
            transaction,
            nonce=int(state.get_nonce(transaction.sender)),
            balance_wei=int(state.get_balance(transaction.sender)),
            base_fee_wei=self._reader.next_base_fee(),
            gas_max=BLOCK_GAS_MAX,
        )
        if self._mines_at_once:
            self._mine_what_waits()
        return data(transaction.hash)

    def _evm_mine(self, options: Any = None) -> object:
        stamp = options.get("timestamp") if isinstance(options, dict) else options
        if stamp is not None:
            self._set_next_timestamp(stamp)
        self.mine()
        return "0x0"

    def _anvil_mine(self, count: object = "0x1", interval_s: object = None) -> object:
        blocks = number_of(count)
        if blocks > MINE_MAX:
            raise bad(f"{blocks} blocks at once: this engine makes at most {MINE_MAX}")
        for number in range(blocks):
            if number and interval_s is not None:
                self._machine.set_next_timestamp(int(self._machine.head.timestamp) + number_of(interval_s))
            self.mine()
        return None

    def _set_next_timestamp(self, unix_s: object) -> object:
        try:
            self._machine.set_next_timestamp(number_of(unix_s))
        except ValueError as error:
            raise bad(str(error)) from None
        return None

    def _set_automine(self, is_on: object) -> object:
        self._mines_at_once = bool(is_on)
        if self._mines_at_once:
            self._mine_what_waits()
        return None

    def _set_balance(self, who: object, balance_wei: object) -> object:
        self._machine.set_balance(address_of(who), number_of(balance_wei))
        return None

    def _snapshot(self) -> object:
        if len(self._snapshots) >= SNAPSHOTS_MAX:
            raise bad(f"{SNAPSHOTS_MAX} snapshots are kept; revert to one of them first")
        number = self._snapshots_taken
        self._snapshots_taken += 1
        self._snapshots[number] = (self._machine.snapshot(), self._pool.copy())
        return quantity(number)

    def _revert(self, snapshot: object) -> object:
        """Back to it; it and the later ones are used up."""
        number = number_of(snapshot)
        kept = self._snapshots.get(number)
        if kept is None:
            return False
        self._machine.revert(kept[0])
        self._pool = kept[1]
        self._snapshots = {key: one for key, one in self._snapshots.items() if key < number}
        return True
