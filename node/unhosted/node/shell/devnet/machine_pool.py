"""Transactions that wait for a block of the embedded chain, by the rules and in the words of anvil."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

from unhosted.market.ids import Address
from unhosted.node.shell.devnet.accounts import CHAIN_ID

POOL_MAX = 4096
"""Waiting transactions: more than a minute of work."""

REPLACEMENT_PERCENT = 110
"""A transaction gives way to one with the same nonce that pays a tenth more."""

BAD_TRANSACTION = -32003


class RpcError(Exception):
    """An error as JSON-RPC has it."""

    def __init__(self, code: int, message: str, data: object = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data


class Pool:
    """By sender and nonce. Holds py-evm's signed transactions."""

    def __init__(self) -> None:
        self._waiting: dict[Address, dict[int, Any]] = {}

    def __len__(self) -> int:
        return sum(len(by_nonce) for by_nonce in self._waiting.values())

    def copy(self) -> "Pool":
        twin = Pool()
        twin._waiting = {sender: dict(by_nonce) for sender, by_nonce in self._waiting.items()}
        return twin

    def find(self, transaction_hash: bytes) -> Any | None:
        return next((one for one in self._all() if one.hash == transaction_hash), None)

    def add(self, transaction: Any, *, nonce: int, balance_wei: int, base_fee_wei: int, gas_max: int) -> None:
        """Take it in. nonce, balance_wei: the sender's, in the latest block.

        Raises: RpcError with the reason why it can never be mined as things are.
        """
        sender = Address(transaction.sender)
        if transaction.chain_id not in {CHAIN_ID, None}:
            raise RpcError(BAD_TRANSACTION, "invalid chain id for signer")
        if transaction.nonce < nonce:
            raise RpcError(BAD_TRANSACTION, "nonce too low")
        if transaction.gas < transaction.intrinsic_gas:
            raise RpcError(-32000, "intrinsic gas too low")
        if transaction.gas > gas_max:
            raise RpcError(-32000, "intrinsic gas too high -- tx.gas_limit > env.block.gas_limit")
        if transaction.max_fee_per_gas < base_fee_wei:
            raise RpcError(BAD_TRANSACTION, "max fee per gas less than block base fee")
        if balance_wei < transaction.gas * transaction.max_fee_per_gas + transaction.value:
            raise RpcError(BAD_TRANSACTION, "Insufficient funds for gas * price + value")
        by_nonce = self._waiting.get(sender, {})
        rival = by_nonce.get(transaction.nonce)
        if rival is not None:
            if rival.hash == transaction.hash:
                raise RpcError(BAD_TRANSACTION, "transaction already imported")
            if transaction.max_fee_per_gas * 100 < rival.max_fee_per_gas * REPLACEMENT_PERCENT:
                raise RpcError(BAD_TRANSACTION, "replacement transaction underpriced")
        elif len(self) >= POOL_MAX:
            raise RpcError(BAD_TRANSACTION, f"the pool is full: {POOL_MAX} transactions wait")
        self._waiting.setdefault(sender, {})[transaction.nonce] = transaction

    def ready(self, nonce_of: Callable[[Address], int], *, base_fee_wei: int) -> list[Any]:
        """What a block may take now: each sender's in order of nonce without a gap, the best payers first."""
        ready: list[tuple[int, list[Any]]] = []
        for sender in self._waiting:
            line = list(
                itertools.takewhile(
                    lambda one: one.max_fee_per_gas >= base_fee_wei, self._chain_of(sender, nonce_of(sender))
                )
            )
            if line:
                ready.append((max(one.max_priority_fee_per_gas for one in line), line))
        ready.sort(key=lambda entry: -entry[0])
        return [one for _, line in ready for one in line]

    def next_nonce(self, sender: Address, nonce: int) -> int:
        """The one after those that wait without a gap."""
        return nonce + len(self._chain_of(sender, nonce))

    def drop_mined(self, nonce_of: Callable[[Address], int]) -> None:
        """Forget those whose nonce was used."""
        for sender in list(self._waiting):
            nonce = nonce_of(sender)
            kept = {key: one for key, one in self._waiting[sender].items() if key >= nonce}
            if kept:
                self._waiting[sender] = kept
            else:
                del self._waiting[sender]

    def drop(self, transaction: Any) -> None:
        self._waiting.get(Address(transaction.sender), {}).pop(transaction.nonce, None)

    def _chain_of(self, sender: Address, nonce: int) -> list[Any]:
        by_nonce = self._waiting.get(sender, {})
        found = []
        while nonce in by_nonce:
            found.append(by_nonce[nonce])
            nonce += 1
        return found

    def _all(self) -> Iterator[Any]:
        for by_nonce in self._waiting.values():
            yield from by_nonce.values()
