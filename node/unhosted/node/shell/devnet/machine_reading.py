"""What the embedded chain is asked without being changed: blocks, logs, fees, calls."""

from typing import Any

from unhosted.market.ids import Address
from unhosted.node.shell.devnet.machine import BLOCK_GAS_MAX, Machine, Outcome
from unhosted.node.shell.devnet.machine_params import (
    CallFields,
    address_of,
    bad,
    bytes_of,
    call_fields,
    log_filter,
    number_of,
)
from unhosted.node.shell.devnet.machine_pool import Pool, RpcError
from unhosted.node.shell.devnet.machine_shapes import (
    block_shape,
    data,
    effective_gas_price,
    log_shapes,
    quantity,
    receipt_shape,
    transaction_shape,
)

HISTORY_MAX = 1024
"""Blocks of one eth_feeHistory, as nodes have it."""

ERROR_SELECTOR = bytes.fromhex("08c379a0")
WORDS_BYTES_MAX = 1024
REVERTED = 3


class Reader:
    """epoch_slots: `safe` is so many blocks behind `latest`. Blocking, and for one thread at a time."""

    def __init__(self, machine: Machine, *, epoch_slots: int) -> None:
        self._machine = machine
        self._epoch_slots = epoch_slots

    def header(self, tag: object) -> Any:
        """Raises: RpcError when there is no such block."""
        header = self.header_or_none(tag)
        if header is None:
            head = int(self._machine.head.block_number)
            raise bad(f"BlockOutOfRangeError: block height is {head} but requested was {tag}")
        return header

    def header_or_none(self, tag: object) -> Any | None:
        machine = self._machine
        if isinstance(tag, dict):
            if "blockHash" in tag:
                return machine.header_by_hash(bytes_of(tag["blockHash"], length=32))
            tag = tag.get("blockNumber", "latest")
        if tag == "latest":
            return machine.head
        if tag in {"safe", "finalized"}:
            epochs = 1 if tag == "safe" else 2
            return machine.header(max(0, int(machine.head.block_number) - epochs * self._epoch_slots))
        if tag == "pending":
            return machine.pending_header()
        return machine.header(0 if tag == "earliest" else number_of(tag))

    def state(self, tag: object) -> Any:
        return self._machine.state(self.header(tag))

    def nonce(self, who: Address) -> int:
        return int(self._machine.state(self._machine.head).get_nonce(who))

    def next_base_fee(self) -> int:
        return int(self._machine.pending_header().base_fee_per_gas)

    def block_by_number(self, tag: object, full: bool = False) -> object:
        header = self.header_or_none(tag)
        return None if header is None else block_shape(self._machine.block(header), full=full)

    def block_by_hash(self, block_hash: object, full: bool = False) -> object:
        header = self._machine.header_by_hash(bytes_of(block_hash, length=32))
        return None if header is None else block_shape(self._machine.block(header), full=full)

    def block_receipts(self, tag: object) -> object:
        header = self.header_or_none(tag)
        if header is None:
            return None
        block = self._machine.block(header)
        receipts = self._machine.receipts(block)
        return [receipt_shape(block, receipts, index) for index in range(len(receipts))]

    def transaction(self, pool: Pool, transaction_hash: object) -> object:
        wanted = bytes_of(transaction_hash, length=32)
        place = self._machine.place(wanted)
        if place is None:
            waiting = pool.find(wanted)
            return None if waiting is None else transaction_shape(waiting, header=None, index=None)
        header = self._machine.header(place[0])
        block = self._machine.block(header)
        return transaction_shape(block.transactions[place[1]], header=header, index=place[1])

    def receipt(self, transaction_hash: object) -> object:
        place = self._machine.place(bytes_of(transaction_hash, length=32))
        if place is None:
            return None
        block = self._machine.block(self._machine.header(place[0]))
        return receipt_shape(block, self._machine.receipts(block), place[1])

    def count(self, pool: Pool, who: object, tag: object = "latest") -> object:
        address = address_of(who)
        if tag == "pending":
            return quantity(pool.next_nonce(address, self.nonce(address)))
        return quantity(self.state(tag).get_nonce(address))

    def storage(self, who: object, slot: object, tag: object = "latest") -> object:
        value = self.state(tag).get_storage(address_of(who), number_of(slot))
        return data(int(value).to_bytes(32, "big"))

    def logs(self, wanted: Any) -> object:
        if not isinstance(wanted, dict):
            raise bad("a filter object is needed")
        chosen = log_filter(wanted)
        head = int(self._machine.head.block_number)
        if "blockHash" in wanted:
            first = last = int(self.header({"blockHash": wanted["blockHash"]}).block_number)
        else:
            first = int(self.header(wanted.get("fromBlock") or "latest").block_number)
            end = wanted.get("toBlock") or "latest"
            is_beyond = isinstance(end, str) and end[:2] == "0x" and number_of(end) > head
            last = head if is_beyond else int(self.header(end).block_number)
        found: list[object] = []
        for number in range(first, min(last, head) + 1):
            header = self._machine.header(number)
            if header is not None and header.bloom:
                block = self._machine.block(header)
                found += [
                    log for log in log_shapes(block, self._machine.receipts(block)) if chosen.takes(log)
                ]
        return found

    def fee_history(self, count: object, newest: object, percentiles: Any = None) -> object:
        last = int(self.header(newest).block_number)
        first = max(0, last + 1 - min(number_of(count), HISTORY_MAX))
        headers: list[Any] = [self._machine.header(number) for number in range(first, last + 1)]
        following = self._machine.header(last + 1) or self._machine.pending_header()
        history: dict[str, object] = {
            "oldestBlock": quantity(first),
            "baseFeePerGas": [quantity(one.base_fee_per_gas) for one in (*headers, following)],
            "gasUsedRatio": [one.gas_used / one.gas_limit for one in headers],
        }
        if percentiles:
            history["reward"] = [self._rewards(one, len(percentiles)) for one in headers]
        return history

    def _rewards(self, header: Any, count: int) -> list[str]:
        """The lowest tip of the block stands for every percentile: most blocks here hold one transaction."""
        tips = [
            effective_gas_price(one, header) - int(header.base_fee_per_gas)
            for one in self._machine.block(header).transactions
        ]
        return [quantity(min(tips, default=0))] * count

    def call(self, fields: object, tag: object = "latest", *overrides: object) -> object:
        if any(overrides):
            raise bad("state overrides are not supported by this engine; anvil has them")
        call = call_fields(fields)
        outcome = self._machine.call(
            self.header(tag),
            sender=call.sender,
            to=call.to,
            data=call.data,
            value_wei=call.value_wei,
            gas=BLOCK_GAS_MAX if call.gas is None else min(call.gas, BLOCK_GAS_MAX),
        )
        return data(output_of(outcome))

    def estimate(self, fields: object, tag: object = "latest", *overrides: object) -> object:
        return quantity(self.estimated(call_fields(fields), self.header(tag)))

    def estimated(self, call: CallFields, header: Any) -> int:
        outcome = self._machine.estimate(
            header,
            sender=call.sender,
            to=call.to,
            data=call.data,
            value_wei=call.value_wei,
            gas=BLOCK_GAS_MAX if call.gas is None else min(call.gas, BLOCK_GAS_MAX),
        )
        output_of(outcome)
        return outcome.gas_used


def output_of(outcome: Outcome) -> bytes:
    """What the call returned. Raises: RpcError with the revert data as anvil gives it."""
    if outcome.is_ok:
        return outcome.output
    if not outcome.is_revert:
        raise RpcError(-32603, f"EVM error {outcome.fault}")
    raise RpcError(REVERTED, _revert_words(outcome.output), data(outcome.output))


def _revert_words(output: bytes) -> str:
    if output[:4] == ERROR_SELECTOR and len(output) >= 68:
        length = int.from_bytes(output[36:68], "big")
        return "execution reverted: " + output[68 : 68 + min(length, WORDS_BYTES_MAX)].decode(
            errors="replace"
        )
    if len(output) >= 4:
        try:
            rest = output[4:].decode()  # as text wherever it can be read as such: so does anvil
        except UnicodeDecodeError:
            rest = output[4:].hex()
        return f"execution reverted: custom error 0x{output[:4].hex()}" + (f": {rest}" if rest else "")
    return "execution reverted"
