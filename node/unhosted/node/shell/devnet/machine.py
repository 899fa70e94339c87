"""An Ethereum chain in this process, on py-evm: blocks, state, calls and time. The only file that imports it.

It is for machines without anvil: a transaction takes 17 ms of a core. The rules of execution are py-evm's and
those of anvil's hard fork here (`prague`), so gas and reverts are the same; base fees follow the same formula
from the same start.
"""

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from eth.chains.base import MiningChain
from eth.db.atomic import AtomicDB
from eth.exceptions import HeaderNotFound, Revert, TransactionNotFound
from eth.vm.forks.prague import PragueVM
from eth.vm.spoof import SpoofTransaction
from eth_keys.datatypes import PrivateKey
from eth_utils.exceptions import ValidationError

from unhosted.market.ids import Address
from unhosted.node.shell.chain.addresses import DEPLOYMENT_PROXY, DEPLOYMENT_PROXY_CODE
from unhosted.node.shell.devnet.accounts import ACCOUNTS, CHAIN_ID
from unhosted.node.shell.devnet.machine_store import MachineStore

BLOCK_GAS_MAX = 30_000_000
"""As on anvil; a batch of 100 claims takes 1.8 million."""

GENESIS_BASE_FEE_WEI = 1_142_857_142
"""The first block then has 1 gwei, as anvil's has."""

ENGINE_ACCOUNTS = 10
"""anvil has ETH and keys for the first ten accounts of the mnemonic; so has this one."""

ESTIMATE_STEP_GAS = 500
"""How close an estimate comes; a step costs one execution of up to a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a call did without leaving a trace. fault: py-evm's words where it failed without revert data."""

    is_ok: bool
    output: bytes
    gas_used: int
    fault: str
    is_revert: bool


class _Chain(MiningChain):
    chain_id = CHAIN_ID
    vm_configuration = ((0, PragueVM),)  # type: ignore[assignment]


class Machine:
    """A chain and its clock. Blocking, and for one thread at a time."""

    def __init__(self, store: MachineStore) -> None:
        self._store = store
        database = AtomicDB(store)  # type: ignore[arg-type]  # a mapping of bytes is all it needs
        if len(store) == 0:
            state: Any = _genesis_state()
            self._chain: Any = _Chain.from_genesis(database, _genesis(), state)
            store.facts["offset_s"] = 0
            store.commit()
        else:
            self._chain = _Chain(database)
        self._database = database
        self._next_timestamp_s: int | None = None

    # Blocks and state, as py-evm's own values.

    @property
    def head(self) -> Any:
        """The header of the latest block."""
        return self._chain.get_canonical_head()

    def header(self, number: int) -> Any | None:
        try:
            return self._chain.get_canonical_block_header_by_number(number)
        except HeaderNotFound:
            return None

    def header_by_hash(self, block_hash: bytes) -> Any | None:
        try:
            header = self._chain.get_block_header_by_hash(block_hash)
        except HeaderNotFound:
            return None
        canonical = self.header(header.block_number)
        return header if canonical is not None and canonical.hash == block_hash else None

    def block(self, header: Any) -> Any:
        return self._chain.get_block_by_header(header)

    def receipts(self, block: Any) -> Sequence[Any]:
        """Of a block's transactions, in order; gas is cumulative."""
        receipts: Sequence[Any] = block.get_receipts(self._chain.chaindb)
        return receipts

    def place(self, transaction_hash: bytes) -> tuple[int, int] | None:
        """Block number and index of a mined transaction."""
        try:
            number, index = self._chain.chaindb.get_transaction_index(transaction_hash)
        except TransactionNotFound:
            return None
        return int(number), int(index)

    def state(self, header: Any) -> Any:
        return self._chain.get_vm(header).state

    def pending_header(self) -> Any:
        """The header that the next block would have now."""
        header = self._chain.create_header_from_parent(self.head, gas_limit=BLOCK_GAS_MAX)
        return header.copy(timestamp=self.next_timestamp_s())

    # Execution.

    def decode(self, raw: bytes) -> Any:
        """A signed transaction. Raises: ValueError when it is none."""
        try:
            transaction = self._chain.get_vm().get_transaction_builder().decode(raw)
            transaction.validate()
            transaction.check_signature_validity()
            transaction.sender  # noqa: B018 - recovers it now, and fails now
        except Exception as error:  # py-evm, rlp and eth_keys each have their own
            raise ValueError("Failed to decode transaction") from error
        return transaction

    def sign(self, sender: Address, fields: dict[str, Any]) -> Any | None:
        """A transaction by one of the engine's accounts; None when the sender is not one of them."""
        account = next((one for one in ACCOUNTS[:ENGINE_ACCOUNTS] if one.address == sender), None)
        if account is None:
            return None
        builder = self._chain.get_vm().get_transaction_builder()
        unsigned = builder.new_unsigned_dynamic_fee_transaction(chain_id=CHAIN_ID, access_list=(), **fields)
        return unsigned.as_signed_transaction(PrivateKey(account.key))

    def call(
        self, header: Any, *, sender: Address, to: bytes, data: bytes, value_wei: int, gas: int
    ) -> Outcome:
        """Run a call on top of a block's state; nothing stays, and nobody pays for the gas."""
        vm = self._chain.get_vm(header.copy(base_fee_per_gas=0))
        state = vm.state
        unsigned = self._chain.create_unsigned_transaction(
            nonce=state.get_nonce(sender), gas_price=0, gas=gas, to=to, value=value_wei, data=data
        )
        transaction = SpoofTransaction(unsigned, from_=sender)
        try:
            computation = state.apply_transaction(transaction)
        except ValidationError as error:  # too little gas to begin, or no ETH for the value
            return Outcome(is_ok=False, output=b"", gas_used=gas, fault=str(error), is_revert=False)
        used = vm.finalize_gas_used(transaction, computation)
        if not computation.is_error:
            return Outcome(is_ok=True, output=computation.output, gas_used=used, fault="", is_revert=False)
        failure = computation.error
        is_revert = isinstance(failure, Revert)
        return Outcome(
            is_ok=False,
            output=computation.output if is_revert else b"",
            gas_used=used,
            fault=type(failure).__name__,
            is_revert=is_revert,
        )

    def estimate(
        self, header: Any, *, sender: Address, to: bytes, data: bytes, value_wei: int, gas: int
    ) -> Outcome:
        """The least gas that the call needs, within ESTIMATE_STEP_GAS, as `gas_used`; or its failure."""

        def run(limit: int) -> Outcome:
            return self.call(header, sender=sender, to=to, data=data, value_wei=value_wei, gas=limit)

        outcome = run(gas)
        # What it used is what it needs, unless it got some back or kept a reserve for calls of its own.
        low = outcome.gas_used
        if not outcome.is_ok or run(low).is_ok:
            return outcome
        high = gas
        while high - low > ESTIMATE_STEP_GAS:
            middle = min((low + high) // 2, low * 2)
            low, high = (low, middle) if run(middle).is_ok else (middle, high)
        return Outcome(is_ok=True, output=outcome.output, gas_used=high, fault="", is_revert=False)

    def mine(self, transactions: Iterable[Any]) -> list[Any]:
        """Make a block of them, in order, and make it durable; those that cannot be in it are given back."""
        header = self.pending_header()
        vm = self._chain.get_vm(header)
        done, receipts, left = [], [], []
        for transaction in transactions:
            snapshot = vm.state.snapshot()
            try:
                receipt, _ = vm.apply_transaction(header, transaction)
            except ValidationError:
                vm.state.revert(snapshot)
                left.append(transaction)
                continue
            header = vm.increment_blob_gas_used(vm.add_receipt_to_header(header, receipt), transaction)
            done.append(transaction)
            receipts.append(receipt)
        self._finish(vm, header, done, receipts)
        if self._next_timestamp_s is not None:
            self._next_timestamp_s = None
            self._store.facts["offset_s"] = header.timestamp - math.floor(time.time())
        self._store.commit()
        return left

    # Time, and going back in it.

    def next_timestamp_s(self) -> int:
        if self._next_timestamp_s is not None:
            return self._next_timestamp_s
        now: int = math.floor(time.time()) + self._store.facts["offset_s"]
        return max(now, int(self.head.timestamp))

    def move_clock(self, seconds: int) -> int:
        """Chain time from now on is so much later; the whole distance to the machine's clock is given."""
        self._store.facts["offset_s"] += seconds
        self._store.commit()
        return self._store.facts["offset_s"]

    def set_next_timestamp(self, unix_s: int) -> None:
        """Raises: ValueError when time would go back."""
        if unix_s < self.head.timestamp:
            raise ValueError(f"Timestamp error: {unix_s} is lower than previous block's timestamp")
        self._next_timestamp_s = unix_s

    def set_balance(self, address: Address, balance_wei: int) -> None:
        """From the next block on: py-evm has no state between blocks, so a block is made."""
        header = self.pending_header()
        vm = self._chain.get_vm(header)
        vm.state.set_balance(address, balance_wei)
        self._finish(vm, header, (), ())
        self._store.commit()

    def _finish(self, vm: Any, header: Any, transactions: Sequence[Any], receipts: Sequence[Any]) -> None:
        """Without py-evm's check of the header: it wants a later second for each block, and anvil, like
        several chains that we settle on, makes more than one in a second."""
        filled = vm.set_block_transactions_and_withdrawals(vm.get_block(), header, transactions, receipts)
        block = vm.finalize_block(vm.pack_block(filled)).block
        self._chain.chaindb.persist_block(block)
        self._chain.header = self._chain.create_header_from_parent(block.header)

    def snapshot(self) -> dict[bytes, bytes]:
        return dict(self._store.pairs)

    def revert(self, snapshot: dict[bytes, bytes]) -> None:
        self._store.replace(snapshot)
        self._chain = _Chain(self._database)
        self._store.commit()


def _genesis() -> dict[str, Any]:
    return {
        "difficulty": 0,
        "gas_limit": BLOCK_GAS_MAX,
        "timestamp": math.floor(time.time()),
        "extra_data": b"",
        "coinbase": bytes(20),
        "nonce": bytes(8),
        "mix_hash": bytes(32),
        "base_fee_per_gas": GENESIS_BASE_FEE_WEI,
    }


def _genesis_state() -> dict[Address, dict[str, Any]]:
    state = {
        account.address: {"balance": account.eth_wei, "nonce": 0, "code": b"", "storage": {}}
        for account in ACCOUNTS[:ENGINE_ACCOUNTS]
    }
    state[DEPLOYMENT_PROXY] = {"balance": 0, "nonce": 1, "code": DEPLOYMENT_PROXY_CODE, "storage": {}}
    return state
