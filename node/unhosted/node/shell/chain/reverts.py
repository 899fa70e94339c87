"""Why a contract said no, in words that its user understands, from the bytes that it said it with."""

from collections.abc import Mapping

from unhosted.market.ids import ADDRESS_BYTES, Address, address_text
from unhosted.market.money import format_usd
from unhosted.node.core.chain import CallReverted
from unhosted.node.shell.chain.abi import SELECTOR_BYTES, AbiError, channels_abi, decode
from unhosted.node.shell.chain.answers import RpcError, shown

REASON_CHARS_MAX = 200
_ERROR, _PANIC = bytes.fromhex("08c379a0"), bytes.fromhex("4e487b71")
_MONEY = {"amount", "deposit", "value", "left", "free", "total", "maximum", "arrived"}

WORDS: Mapping[str, str] = {
    "BadSig": "the signature is not of the key that must sign this",
    "BadConfig": "the channel's config breaks a rule: no address may be zero, the delay is 1 hour to 30 days",
    "Expired": "the signature's time is over: ask for a new one",
    "ChannelIsClosed": "the channel is closed for good: open a new one with another salt",
    "ChannelIsClosing": "somebody asked to close the channel, so no money can be added: open a new one",
    "ChannelIsNotOpen": "no such channel is open",
    "NotIncreasing": "a channel's deposit can only be raised",
    "OverDeposit": "the voucher is above the channel's deposit",
    "OverLimit": "the operator's monthly limit has no room for it: the owner can raise the limit, or wait "
    "for the next month (UTC)",
    "OverFree": "the account's free money is less: deposit more with `unhosted wallet fund`",
    "OverMaximum": "the account would hold more than the contract can count",
    "NotReady": "the channel cannot be closed yet: its delay is not over, or nobody asked for it",
    "NotAllowed": "a voucher in the batch is for another seller",
    "Short": "the token moved less than it was told to",
    "TransferRefused": "the token refused the transfer",
    "Locked": "the token called back into the contract",
}
"""By the contract's own errors."""

TOKEN_WORDS: Mapping[str, str] = {
    "Blacklistable: account is blacklisted": "Circle has blacklisted an address: its USDC cannot move",
    "Pausable: paused": "Circle has paused USDC: it cannot move now; claims and closes still work",
    "ERC20: transfer amount exceeds balance": "the paying address holds less USDC than that",
    "ERC20: transfer amount exceeds allowance": "the contract was not allowed to take that much USDC",
    "FiatTokenV2: authorization is used or canceled": "this deposit was made already, or cancelled",
    "FiatTokenV2: authorization is expired": "the owner's signature is too old: sign a new request",
    "FiatTokenV2: authorization is not yet valid": "the owner's signature is not valid yet",
    "FiatTokenV2: invalid signature": "the owner's signature does not fit this deposit",
    "FiatTokenV2: permit is expired": "the owner's permit is too old: sign a new one",
    "EIP2612: invalid signature": "the owner's permit does not fit this deposit",
    "ECRecover: invalid signature": "the signature is damaged",
    "ECRecover: invalid signature length": "the signature is not 65 bytes long",
    "ECRecover: invalid signature 's' value": "the signature is in a form that tokens refuse (high s)",
    "ECRecover: invalid signature 'v' value": "the signature's last byte is not 27 or 28",
}
"""By the revert strings of the genuine USDC."""


def reverted(failure: RpcError, *, purpose: str) -> CallReverted:
    """What `CallReverted` says of a call that an endpoint says is reverted."""
    if failure.data:
        return reverted_by(failure.data, purpose=purpose)
    for reason in sorted(TOKEN_WORDS, key=len, reverse=True):  # endpoints that give words alone
        if reason in failure.message:
            return _by_reason(reason, purpose)
    return CallReverted("unknown", {}, f"{purpose} was reverted: {failure.message or 'no reason was given'}")


def reverted_by(data: bytes, *, purpose: str) -> CallReverted:
    """The same from the bytes of the revert; empty ones too."""
    try:
        if data[:SELECTOR_BYTES] == _ERROR:
            return _by_reason(str(decode(("string",), data[SELECTOR_BYTES:])[0]), purpose)
        if data[:SELECTOR_BYTES] == _PANIC:
            code = decode(("uint256",), data[SELECTOR_BYTES:])[0]
            message = f"{purpose} was reverted by a fault inside the contract (panic 0x{code:02x})"
            return CallReverted("Panic", {"code": code}, message)
    except AbiError:
        pass  # it only looked like one of them
    found = channels_abi().decode_error(data)
    if found is None:
        said = f"0x{data[:36].hex()}" if data else "nothing"
        return CallReverted("unknown", {"data": data}, f"{purpose} was reverted, the contract said {said}")
    name, values = found
    details = ", ".join(f"{key} {_shown(key, value)}" for key, value in values.items())
    words = WORDS.get(name, "the contract refused it")
    return CallReverted(
        name, values, f"{purpose} was refused: {words} ({name}{': ' if details else ''}{details})"
    )


def _by_reason(reason: str, purpose: str) -> CallReverted:
    reason = shown(reason)[:REASON_CHARS_MAX]
    words = TOKEN_WORDS.get(reason)
    message = f"{purpose} was refused: {words} ({reason})" if words else f"{purpose} was refused: {reason}"
    return CallReverted("Error", {"reason": reason}, message)


def _shown(name: str, value: object) -> str:
    if isinstance(value, bytes):
        return address_text(Address(value)) if len(value) == ADDRESS_BYTES else f"0x{value.hex()}"
    if isinstance(value, tuple):
        return "(" + ", ".join(_shown("", item) for item in value) + ")"
    if name in _MONEY and isinstance(value, int):
        return f"{format_usd(value)} USDC"
    return str(value)
