"""Taking money back: what the owner withdraws, and what the operator closes."""

from dataclasses import dataclass
from typing import Literal

from unhosted.market.channels import ChannelConfig, Deployment, channel_id
from unhosted.market.eip712 import channels_separator, request_close_digest
from unhosted.market.ids import Address, address_text
from unhosted.market.money import format_usd
from unhosted.node.core.chain import Call, CallReverted, Chain, Signer
from unhosted.node.core.errors import Refused
from unhosted.node.shell.chain import calls

CLOSE_VALID_S = 86_400
"""A request to close that somebody else is to send must be sent within a day: plans change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawal:
    """What the owner is to send from its own wallet. gas: what it would use now."""

    owner: Address
    amount_micros: int
    left_micros: int
    call: Call
    gas: int


async def plan_withdrawal(chain: Chain, owner: Address, amount_micros: int | None) -> Withdrawal:
    """amount_micros: None for all that is free. Raises: Refused (no_funds); ChainUnavailable."""
    free_micros = (await chain.account(owner)).free_micros
    amount = free_micros if amount_micros is None else amount_micros
    if amount == 0 or amount > free_micros:
        raise Refused(
            "no_funds",
            f"USD {format_usd(amount)} cannot be withdrawn: USD {format_usd(free_micros)} of "
            f"{address_text(owner)} are free in the contract. What lies in channels comes back when they are "
            "closed: `unhosted wallet close --all`",
            details={"free_micros": free_micros, "amount_micros": amount},
        )
    call = calls.withdraw(chain.facts.channels, value_micros=amount)
    try:
        gas = await chain.check(call, sender=owner)
    except CallReverted as reverted:
        raise Refused("invalid_request", f"the chain does not take the withdrawal: {reverted}") from None
    return Withdrawal(owner=owner, amount_micros=amount, left_micros=free_micros - amount, call=call, gas=gas)


CloseStep = Literal["request", "wait", "finalize", "closed", "absent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosePlan:
    """The next step of one channel's end. refund_micros: what comes back if the seller claims no more.

    call: for the operator to send, in the steps request and finalize.
    """

    step: CloseStep
    refund_micros: int
    ready_unix_s: int
    call: Call | None = None


async def plan_close(chain: Chain, at: Deployment, config: ChannelConfig) -> ClosePlan:
    """Raises: Refused if the channel is on another chain or contract; ChainUnavailable."""
    if at != chain.facts.channels:
        raise Refused(
            "chain_mismatch",
            f"that channel is on chain {at.chain_id} in {address_text(at.contract)}, and the settings name "
            f"chain {chain.facts.chain_id} and {address_text(chain.facts.channels.contract)}: set chain.name",
        )
    facts = await chain.channel(channel_id(at, config))
    refund_micros = facts.deposit_micros - facts.claimed_micros
    if facts.is_closed:
        return ClosePlan(step="closed", refund_micros=0, ready_unix_s=0)
    if facts.deposit_micros == 0:
        return ClosePlan(step="absent", refund_micros=0, ready_unix_s=0)
    if facts.close_at_unix_s == 0:
        now_unix_s = (await chain.head()).timestamp_unix_s
        call = calls.request_close(at, config)
        return ClosePlan(
            step="request", refund_micros=refund_micros, ready_unix_s=now_unix_s + config.delay_s, call=call
        )
    ready_unix_s = facts.close_at_unix_s
    if (await chain.head()).timestamp_unix_s < ready_unix_s:
        return ClosePlan(step="wait", refund_micros=refund_micros, ready_unix_s=ready_unix_s)
    call = calls.finalize_close(at, config)
    return ClosePlan(step="finalize", refund_micros=refund_micros, ready_unix_s=ready_unix_s, call=call)


async def check_closer(chain: Chain, config: ChannelConfig, signer: Address) -> None:
    """Raises: Refused unless the contract lets this key ask for the close; ChainUnavailable."""
    operator = (await chain.account(config.payer)).operator
    if signer not in (config.payer, operator):
        raise Refused(
            "key_refused",
            f"this node's key {address_text(signer)} may not close channels of {address_text(config.payer)}, "
            f"whose operator is {address_text(operator)}: use that key, or let the owner name this one with "
            "another deposit, `unhosted wallet fund AMOUNT`",
        )


async def relayed_close(chain: Chain, at: Deployment, config: ChannelConfig, signer: Signer) -> Call:
    """The request to close, signed by the operator, for whoever has the gas to send it."""
    valid_before_unix_s = (await chain.head()).timestamp_unix_s + CLOSE_VALID_S
    digest = request_close_digest(
        channels_separator(at), channel_id(at, config), valid_before_unix_s=valid_before_unix_s
    )
    return calls.request_close(
        at, config, valid_before_unix_s=valid_before_unix_s, signature=signer.sign(digest)
    )
