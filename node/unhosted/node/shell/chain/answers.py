"""What endpoints say, as values; and what they do wrong, as faults.

An endpoint is a stranger: each field is checked for its type and range before anything is made of it. What is
wrong becomes an `EndpointFault`, which says something about the endpoint and never about funds.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from unhosted.market.ids import Address
from unhosted.node.core.chain import ChainEvent
from unhosted.node.shell.chain.abi import AbiError, channels_abi

FaultKind = Literal["dead", "limited", "broken", "lagging", "lying", "wrong_chain", "denied"]

NUMBER_MAX = (1 << 62) - 1
"""Of blocks, times, nonces, gas and prices in wei: what a database column holds, with room to multiply."""
WEI_MAX = (1 << 256) - 1
WORD_TEXT_MAX = 200
"""Letters of an endpoint's own message that are shown: enough to search for, too few to flood a log."""
_QUANTITY = re.compile(r"0x[0-9a-fA-F]{1,64}")
_LIMITED = re.compile(
    r"rate.?limit|too many requests|request (count|rate)|compute units|quota|throughput"
    r"|capacity (exceeded|limit)|exceeded .{0,40}(capacity|requests|credits)|(?<!gas )limit exceeded"
    r"|try again (later|in)",
    re.IGNORECASE,
)
_RANGE = re.compile(
    r"block range|range (is )?too|limited to .{0,20}(range|blocks)"
    r"|too (large|wide|many (results|logs|blocks))|more than \d+ (results|logs)"
    r"|response size|query (returned|timeout)|up to a? ?\d|max(imum)? .{0,20}(range|blocks|results)",
    re.IGNORECASE,
)


class EndpointFault(Exception):
    """One endpoint did not do its work. `sentence` says what it did, without its address."""

    def __init__(self, kind: FaultKind, sentence: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(sentence)
        self.kind: FaultKind = kind
        self.sentence = sentence
        self.retry_after_s = retry_after_s


class RpcError(Exception):
    """A well-formed error of the method itself: a revert, a transaction that is not taken."""

    def __init__(self, code: int, message: str, data: bytes) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data

    @property
    def is_revert(self) -> bool:
        return bool(self.data) or self.code == 3 or "revert" in self.message.lower()

    @property
    def is_range(self) -> bool:
        """More logs or blocks were asked for than this endpoint gives at once."""
        return _RANGE.search(self.message) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    number: int
    hash: bytes
    timestamp_unix_s: int
    base_fee_wei: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Mined:
    """A transaction's receipt as an endpoint tells it. `l1_fee_wei`: what a rollup takes beside the gas."""

    transaction: bytes
    block_number: int
    block_hash: bytes
    gas_used: int
    gas_price_wei: int
    l1_fee_wei: int
    succeeded: bool

    @property
    def fee_wei(self) -> int:
        return self.gas_used * self.gas_price_wei + self.l1_fee_wei


def result_of(answer: object) -> Any:
    """The result of a JSON-RPC answer, null as None.

    Raises: RpcError; EndpointFault for what is no answer, and for a limit that came as an error.
    """
    if not isinstance(answer, Mapping):
        raise EndpointFault("broken", "its answer is not JSON-RPC")
    error = answer.get("error")
    if error is None:
        if "result" not in answer:
            raise EndpointFault("broken", "its answer has neither result nor error")
        return answer["result"]
    if not isinstance(error, Mapping):
        raise EndpointFault("broken", f"its error is not JSON-RPC: {shown(error)}")
    code, message = error.get("code"), shown(error.get("message"))
    code = code if isinstance(code, int) else 0
    failure = RpcError(code, message, _error_data(error.get("data")))
    if (
        not failure.is_range
        and not failure.data
        and (code in (-32005, -32029, 429) or _LIMITED.search(message))
    ):
        raise EndpointFault("limited", f"it limits requests ({message or code})")
    if code in (-32700, -32600) and not failure.is_range and not failure.data:
        raise EndpointFault("broken", f"it cannot read our requests ({message or code})")
    raise failure


def quantity(value: object, what: str, *, maximum: int = NUMBER_MAX) -> int:
    if not isinstance(value, str) or _QUANTITY.fullmatch(value) is None or int(value, 16) > maximum:
        raise EndpointFault("broken", f"{what} {shown(value)} is not a number in hex, or too large")
    return int(value, 16)


def data(value: object, what: str, *, size_bytes: int | None = None) -> bytes:
    try:
        if not isinstance(value, str) or not value.startswith("0x"):
            raise ValueError
        decoded = bytes.fromhex(value[2:])
        if any(letter.isspace() for letter in value):
            raise ValueError
    except ValueError:
        raise EndpointFault("broken", f"{what} {shown(value)} is not bytes in hex") from None
    if size_bytes is not None and len(decoded) != size_bytes:
        raise EndpointFault("broken", f"{what} has {len(decoded)} bytes, {size_bytes} are right")
    return decoded


def block(value: object) -> Block:
    fields = _fields(value, "a block")
    return Block(
        number=quantity(fields.get("number"), "a block's number"),
        hash=data(fields.get("hash"), "a block's hash", size_bytes=32),
        timestamp_unix_s=quantity(fields.get("timestamp"), "a block's time"),
        base_fee_wei=quantity(fields.get("baseFeePerGas", "0x0"), "a block's base fee"),
    )


def mined(value: object, transaction: bytes) -> Mined:
    """Raises: EndpointFault(lying) for the receipt of another transaction."""
    fields = _fields(value, "a receipt")
    if data(fields.get("transactionHash"), "a receipt's transaction", size_bytes=32) != transaction:
        raise EndpointFault("lying", "it gave the receipt of another transaction")
    status = quantity(fields.get("status"), "a receipt's status")
    if status > 1:
        raise EndpointFault("broken", f"a receipt's status is {status}")
    return Mined(
        transaction=transaction,
        block_number=quantity(fields.get("blockNumber"), "a receipt's block"),
        block_hash=data(fields.get("blockHash"), "a receipt's block hash", size_bytes=32),
        gas_used=quantity(fields.get("gasUsed"), "a receipt's gas"),
        gas_price_wei=quantity(fields.get("effectiveGasPrice", "0x0"), "a receipt's gas price"),
        l1_fee_wei=quantity(fields.get("l1Fee") or "0x0", "a receipt's L1 fee"),
        succeeded=status == 1,
    )


def event(value: object, *, contract: Address, first: int, last: int) -> ChainEvent | None:
    """A log of `contract` in blocks `first` to `last`; None for an event that the ABI does not have.

    Raises: EndpointFault for any other log.
    """
    fields = _fields(value, "a log")
    number = quantity(fields.get("blockNumber"), "a log's block")
    if data(fields.get("address"), "a log's address") != contract or not first <= number <= last:
        raise EndpointFault("lying", f"it gave a log that was not asked for, of block {number}")
    if fields.get("removed") is True:
        raise EndpointFault("lagging", f"it gave a removed log, of block {number}")
    topics = fields.get("topics")
    if not isinstance(topics, list) or len(topics) > 4:
        raise EndpointFault("broken", "a log's topics are not a list of at most 4")
    words = [data(topic, "a topic", size_bytes=32) for topic in topics]
    try:
        decoded = channels_abi().decode_log(words, data(fields.get("data"), "a log's data"))
    except AbiError as error:
        raise EndpointFault("broken", f"a log cannot be read: {error}") from None
    if decoded is None:
        return None
    return ChainEvent(
        name=decoded[0],
        values=decoded[1],
        block_number=number,
        block_hash=data(fields.get("blockHash"), "a log's block hash", size_bytes=32),
        transaction=data(fields.get("transactionHash"), "a log's transaction", size_bytes=32),
        log_index=quantity(fields.get("logIndex"), "a log's index"),
    )


def shown(value: object) -> str:
    """An endpoint's own word, safe to print: short, and without what could be an address with a key."""
    text = "".join(letter if letter.isprintable() else " " for letter in str(value)[: 4 * WORD_TEXT_MAX])
    return re.sub(r"\S*://\S+", "(address)", text)[:WORD_TEXT_MAX]


def _fields(value: object, what: str) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise EndpointFault("broken", f"{what} is {shown(value)}, not an object")
    return value


def _error_data(value: object) -> bytes:
    """Revert data: most give hex; some put it one level deeper, some behind a word (`Reverted 0x…`)."""
    if isinstance(value, Mapping):
        value = value.get("data") or value.get("result") or value.get("output")
    if not isinstance(value, str):
        return b""
    found = re.search(r"0x([0-9a-fA-F]{8,})", value)
    return bytes.fromhex(found[1][: len(found[1]) // 2 * 2]) if found else b""
