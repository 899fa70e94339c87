"""What can be asked of `Channels` and of the token, from the market's words to calldata.

Every function gives a `Call` that somebody may check, sign and send; none of them knows a key or an endpoint.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from unhosted.market.channels import ChannelConfig, Deployment
from unhosted.market.eip712 import TokenDomain
from unhosted.market.ids import Address, Signature
from unhosted.node.core.chain import Call, ClaimRow
from unhosted.node.shell.chain.abi import channels_abi, function_call

CLAIM_ROWS_MAX = 100
"""Rows of one claim: at 17,500 gas each they stay far below what chains allow one transaction (16.7 M)."""
CALLS_MAX = 16
"""Calls in one multicall: a deposit and some channels. More is a defect of the caller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DepositAuthorization:
    """An owner's EIP-3009 signature that brings USDC into its account and names its operator.

    `signature` is 65 bytes of a key, or what a contract wallet accepts (ERC-1271).
    """

    payer: Address
    value_micros: int
    valid_after_unix_s: int
    valid_before_unix_s: int
    operator: Address
    limit_micros: int
    salt: bytes
    signature: bytes


def approve(token: TokenDomain, spender: Address, *, value_micros: int) -> Call:
    data = function_call("approve(address,uint256)", spender, value_micros)
    return Call(to=token.contract, data=data, purpose="approve")


def deposit(at: Deployment, *, value_micros: int) -> Call:
    return _call(at, "deposit", value_micros, purpose="deposit")


def deposit_with_permit(at: Deployment, *, value_micros: int, deadline_unix_s: int, signature: bytes) -> Call:
    return _call(at, "depositWithPermit", value_micros, deadline_unix_s, signature, purpose="deposit")


def deposit_with_authorization(at: Deployment, authorization: DepositAuthorization) -> Call:
    """Anybody may send it: the buyer needs no gas."""
    return _call(
        at,
        "depositWithAuthorization",
        authorization.payer,
        authorization.value_micros,
        authorization.valid_after_unix_s,
        authorization.valid_before_unix_s,
        authorization.operator,
        authorization.limit_micros,
        authorization.salt,
        authorization.signature,
        purpose="deposit",
    )


def set_operator(at: Deployment, operator: Address, *, limit_micros: int) -> Call:
    return _call(at, "setOperator", operator, limit_micros, purpose="set operator")


def withdraw(at: Deployment, *, value_micros: int) -> Call:
    return _call(at, "withdraw", value_micros, purpose="withdraw")


def allocate(
    at: Deployment,
    config: ChannelConfig,
    *,
    total_micros: int,
    valid_before_unix_s: int = 0,
    signature: bytes = b"",
) -> Call:
    """Open a channel, or top it up, to `total_micros`. Without a signature the payer itself must send it."""
    values = (_config(config), total_micros, valid_before_unix_s, signature)
    return _call(at, "allocate", *values, purpose="allocate")


def claim(at: Deployment, payee: Address, rows: Sequence[ClaimRow], *, payout: bool) -> Call:
    """Anybody may send it: the money can go to `payee` alone.

    Raises: ValueError for no row, or more than CLAIM_ROWS_MAX.
    """
    if not 0 < len(rows) <= CLAIM_ROWS_MAX:
        raise ValueError(f"a claim of {len(rows)} rows: 1 to {CLAIM_ROWS_MAX} are possible")
    encoded = [
        (_config(row.config), row.voucher.voucher.amount_micros, row.voucher.signature) for row in rows
    ]
    return _call(at, "claim", payee, encoded, payout, purpose="claim")


def payout(at: Deployment, payee: Address) -> Call:
    return _call(at, "payout", payee, purpose="payout")


def close(
    at: Deployment,
    config: ChannelConfig,
    *,
    amount_micros: int,
    voucher: Signature | None,
    payee_signature: bytes = b"",
) -> Call:
    """Close at once with `amount_micros` for the payee, who sends it or signed it. No voucher for 0."""
    values = (_config(config), amount_micros, voucher or b"", payee_signature)
    return _call(at, "close", *values, purpose="close")


def request_close(
    at: Deployment, config: ChannelConfig, *, valid_before_unix_s: int = 0, signature: bytes = b""
) -> Call:
    """Start the delay; without a signature the payer or its operator must send it."""
    return _call(at, "requestClose", _config(config), valid_before_unix_s, signature, purpose="request close")


def finalize_close(at: Deployment, config: ChannelConfig) -> Call:
    return _call(at, "finalizeClose", _config(config), purpose="finalize close")


def multicall(at: Deployment, calls: Sequence[Call], *, purpose: str) -> Call:
    """Several calls to `Channels` in one transaction: all of them, or none.

    Raises: ValueError for none, more than CALLS_MAX, or one that goes elsewhere.
    """
    if not 0 < len(calls) <= CALLS_MAX or any(call.to != at.contract for call in calls):
        raise ValueError(f"{len(calls)} calls: 1 to {CALLS_MAX} are possible, all of them to Channels")
    return _call(at, "multicall", [call.data for call in calls], purpose=purpose)


def _call(at: Deployment, function: str, *arguments: object, purpose: str) -> Call:
    return Call(to=at.contract, data=channels_abi().encode_call(function, *arguments), purpose=purpose)


def _config(config: ChannelConfig) -> tuple[bytes, bytes, bytes, int, bytes]:
    return config.payer, config.signer, config.payee, config.delay_s, config.salt
