"""Blocks, transactions, receipts and logs of the embedded chain, as JSON-RPC shows them (and anvil does)."""

from collections.abc import Sequence
from typing import Any

from unhosted.market.ids import Address
from unhosted.node.shell.chain.addresses import create_address

LEGACY_TYPE = 0


def quantity(value: int) -> str:
    return hex(value)


def data(value: bytes) -> str:
    return "0x" + value.hex()


def block_shape(block: Any, *, full: bool) -> dict[str, object]:
    header = block.header
    hashes = [data(one.hash) for one in block.transactions]
    transactions: Sequence[object] = hashes
    if full:
        transactions = [
            transaction_shape(one, header=header, index=index) for index, one in enumerate(block.transactions)
        ]
    return {
        "hash": data(header.hash),
        "parentHash": data(header.parent_hash),
        "sha3Uncles": data(header.uncles_hash),
        "miner": data(header.coinbase),
        "stateRoot": data(header.state_root),
        "transactionsRoot": data(header.transaction_root),
        "receiptsRoot": data(header.receipt_root),
        "logsBloom": data(header.bloom.to_bytes(256, "big")),
        "difficulty": quantity(header.difficulty),
        "totalDifficulty": "0x0",
        "number": quantity(header.block_number),
        "gasLimit": quantity(header.gas_limit),
        "gasUsed": quantity(header.gas_used),
        "timestamp": quantity(header.timestamp),
        "extraData": data(header.extra_data),
        "mixHash": data(header.mix_hash),
        "nonce": data(header.nonce),
        "baseFeePerGas": quantity(header.base_fee_per_gas),
        "withdrawalsRoot": data(header.withdrawals_root),
        "withdrawals": [],
        "blobGasUsed": quantity(header.blob_gas_used),
        "excessBlobGas": quantity(header.excess_blob_gas),
        "parentBeaconBlockRoot": data(header.parent_beacon_block_root),
        "requestsHash": data(header.requests_hash),
        "uncles": [],
        "transactions": transactions,
    }


def transaction_shape(transaction: Any, *, header: Any | None, index: int | None) -> dict[str, object]:
    """header and index: None while it waits for a block."""
    kind = transaction.type_id or LEGACY_TYPE
    shape: dict[str, object] = {
        "type": quantity(kind),
        "chainId": None if transaction.chain_id is None else quantity(transaction.chain_id),
        "nonce": quantity(transaction.nonce),
        "gas": quantity(transaction.gas),
        "to": data(transaction.to) if transaction.to else None,
        "value": quantity(transaction.value),
        "input": data(transaction.data),
        "r": quantity(transaction.r),
        "s": quantity(transaction.s),
        "v": quantity(transaction.y_parity if kind else transaction.v),
        "hash": data(transaction.hash),
        "from": data(transaction.sender),
        "blockHash": None if header is None else data(header.hash),
        "blockNumber": None if header is None else quantity(header.block_number),
        "transactionIndex": None if index is None else quantity(index),
        "gasPrice": quantity(effective_gas_price(transaction, header)),
    }
    if kind:
        shape["yParity"] = quantity(transaction.y_parity)
        shape["accessList"] = [
            {"address": data(account), "storageKeys": [data(key.to_bytes(32, "big")) for key in keys]}
            for account, keys in transaction.access_list
        ]
    if kind > 1:
        shape["maxFeePerGas"] = quantity(transaction.max_fee_per_gas)
        shape["maxPriorityFeePerGas"] = quantity(transaction.max_priority_fee_per_gas)
    return shape


def effective_gas_price(transaction: Any, header: Any | None) -> int:
    """What it paid; while it waits, the most it would."""
    most = int(transaction.max_fee_per_gas)
    if header is None:
        return most
    return min(most, int(header.base_fee_per_gas) + int(transaction.max_priority_fee_per_gas))


def receipt_shape(block: Any, receipts: Sequence[Any], index: int) -> dict[str, object]:
    header, transaction, receipt = block.header, block.transactions[index], receipts[index]
    before = receipts[index - 1].gas_used if index else 0
    created = None
    if not transaction.to:
        created = data(create_address(Address(transaction.sender), nonce=transaction.nonce))
    return {
        "type": quantity(transaction.type_id or LEGACY_TYPE),
        "status": "0x1" if receipt.state_root == b"\x01" else "0x0",
        "cumulativeGasUsed": quantity(receipt.gas_used),
        "gasUsed": quantity(receipt.gas_used - before),
        "effectiveGasPrice": quantity(effective_gas_price(transaction, header)),
        "blobGasPrice": "0x1",
        "logs": [log for log in log_shapes(block, receipts) if log["transactionIndex"] == quantity(index)],
        "logsBloom": data(receipt.bloom.to_bytes(256, "big")),
        "transactionHash": data(transaction.hash),
        "transactionIndex": quantity(index),
        "blockHash": data(header.hash),
        "blockNumber": quantity(header.block_number),
        "from": data(transaction.sender),
        "to": data(transaction.to) if transaction.to else None,
        "contractAddress": created,
    }


def log_shapes(block: Any, receipts: Sequence[Any]) -> list[dict[str, Any]]:
    """All logs of a block; their index counts through the block."""
    shapes: list[dict[str, Any]] = []
    for index, receipt in enumerate(receipts):
        for log in receipt.logs:
            shapes.append(
                {
                    "address": data(log.address),
                    "topics": [data(topic.to_bytes(32, "big")) for topic in log.topics],
                    "data": data(log.data),
                    "blockHash": data(block.header.hash),
                    "blockNumber": quantity(block.header.block_number),
                    "blockTimestamp": quantity(block.header.timestamp),
                    "transactionHash": data(block.transactions[index].hash),
                    "transactionIndex": quantity(index),
                    "logIndex": quantity(len(shapes)),
                    "removed": False,
                }
            )
    return shapes
