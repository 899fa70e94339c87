"""Parameters of JSON-RPC calls, read once; what is wrong is said in the code for it (-32602)."""

from dataclasses import dataclass
from typing import Any

from unhosted.market.ids import ADDRESS_BYTES, ZERO_ADDRESS, Address
from unhosted.node.shell.devnet.machine_pool import RpcError

INVALID_PARAMS = -32602

DATA_BYTES_MAX = 1 << 20
"""No block holds a transaction with more calldata than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFields:
    """The transaction object of eth_call and its like. gas: None where it was left out."""

    sender: Address
    to: bytes
    data: bytes
    value_wei: int
    gas: int | None
    nonce: int | None
    max_fee_wei: int | None
    tip_wei: int | None


def bad(message: str) -> RpcError:
    return RpcError(INVALID_PARAMS, message)


def number_of(value: object) -> int:
    """A quantity: hex text, or a JSON number as some clients send."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and value[:2] == "0x" and len(value) <= 66:
        try:
            return int(value, 16) if len(value) > 2 else 0
        except ValueError:
            pass
    raise bad(f"{str(value)[:80]!r} is not a quantity")


def bytes_of(value: object, *, length: int | None = None) -> bytes:
    if not isinstance(value, str) or value[:2] != "0x" or len(value) > 2 * DATA_BYTES_MAX:
        raise bad(f"{str(value)[:80]!r} is not hex data")
    try:
        raw = bytes.fromhex(value[2:])
    except ValueError:
        raise bad(f"{value[:80]!r} is not hex data") from None
    if length is not None and len(raw) != length:
        raise bad(f"{value[:80]!r} has {len(raw)} bytes, {length} are needed")
    return raw


def address_of(value: object) -> Address:
    return Address(bytes_of(value, length=ADDRESS_BYTES))


def call_fields(value: object) -> CallFields:
    if not isinstance(value, dict):
        raise bad("a transaction object is needed")

    def number(name: str) -> int | None:
        return None if value.get(name) is None else number_of(value[name])

    raw: Any = value.get("input", value.get("data"))
    to = value.get("to")
    max_fee = number("maxFeePerGas")
    return CallFields(
        sender=ZERO_ADDRESS if value.get("from") is None else address_of(value["from"]),
        to=b"" if to is None else address_of(to),
        data=b"" if raw is None else bytes_of(raw),
        value_wei=number("value") or 0,
        gas=number("gas"),
        nonce=number("nonce"),
        max_fee_wei=number("gasPrice") if max_fee is None else max_fee,
        tip_wei=number("maxPriorityFeePerGas"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFilter:
    """Which logs. topics: for each place the ones that will do, or None for any."""

    addresses: frozenset[str]
    topics: tuple[frozenset[str] | None, ...]

    def takes(self, log: dict[str, Any]) -> bool:
        if self.addresses and log["address"] not in self.addresses:
            return False
        if len(log["topics"]) < len(self.topics):
            return False
        pairs = zip(self.topics, log["topics"], strict=False)
        return all(wanted is None or topic in wanted for wanted, topic in pairs)


def log_filter(value: dict[str, Any]) -> LogFilter:
    topics = value.get("topics") or []
    if not isinstance(topics, list) or len(topics) > 4:
        raise bad("topics are a list of at most 4")
    places: list[frozenset[str] | None] = []
    for one in topics:
        if one is None or one == []:
            places.append(None)
        else:
            choices = one if isinstance(one, list) else [one]
            places.append(frozenset("0x" + bytes_of(choice, length=32).hex() for choice in choices))
    addresses = value.get("address") or []
    listed = addresses if isinstance(addresses, list) else [addresses]
    return LogFilter(
        addresses=frozenset("0x" + address_of(one).hex() for one in listed), topics=tuple(places)
    )
