"""What a call would do and cost, asked before it is sent, so that a refusal costs nothing."""

from unhosted.market.ids import Address, address_text
from unhosted.node.core.chain import Call, ChainUnavailable
from unhosted.node.core.errors import Refused
from unhosted.node.shell.chain.answers import WEI_MAX, EndpointFault, RpcError, data, quantity
from unhosted.node.shell.chain.chains import WEI_PER_GWEI, ChainEntry
from unhosted.node.shell.chain.fees import TIP_WEI_UNKNOWN, Fees, Market, market, offered
from unhosted.node.shell.chain.pool import Endpoint, NotYet, Pool
from unhosted.node.shell.chain.reverts import reverted

GAS_MAX = 16_000_000
"""Below 2^24, the most that one transaction may use on the chains of the table."""
GAS_MARGIN_DIVISOR = 4
"""A quarter more than was estimated: state moves until the block. Gas that is not used is not paid."""


async def estimate(pool: Pool, call: Call, *, sender: Address) -> int:
    """Gas that the call would use now: the most that any endpoint says.

    One endpoint that is a block behind reverts what another takes, so that a revert counts only where all
    agree. Raises: CallReverted; ChainUnavailable.
    """
    fields = {"from": "0x" + sender.hex(), "to": "0x" + call.to.hex(), "data": "0x" + call.data.hex()}

    async def ask(endpoint: Endpoint) -> int:
        # The call first: some endpoints give no revert data when they estimate.
        await pool.ask_at(endpoint, "eth_call", fields, "latest", parse=_bytes)
        return await pool.ask_at(endpoint, "eth_estimateGas", fields, "latest", parse=_gas)

    async def round_() -> int:
        answers = await pool.gather([view.endpoint for view in await pool.survey()], ask)
        estimates = [answer for _, answer in answers if isinstance(answer, int)]
        if estimates:
            return max(estimates)
        failures = [(endpoint, answer) for endpoint, answer in answers if isinstance(answer, RpcError)]
        for endpoint, failure in failures:
            if failure.is_revert:
                raise reverted(failure, purpose=call.purpose)
            pool.note(
                endpoint, EndpointFault("broken", f"it could not run {call.purpose} ({failure.message})")
            )
        raise NotYet

    return await pool.insist(round_)


def gas_limit(call: Call, estimate_gas: int) -> int:
    """Raises: Refused(price_too_high) above the call's own limit."""
    if call.gas_max is not None and estimate_gas > call.gas_max:
        raise Refused(
            "price_too_high",
            f"{call.purpose} needs {estimate_gas} gas, at most {call.gas_max} was allowed for it",
            details={"gas": estimate_gas, "gas_max": call.gas_max},
        )
    wanted = estimate_gas + estimate_gas // GAS_MARGIN_DIVISOR
    return min(wanted, GAS_MAX if call.gas_max is None else call.gas_max)


async def market_now(pool: Pool, entry: ChainEntry) -> Market:
    """What gas costs now: the highest base fee that an endpoint tells. Raises: ChainUnavailable."""
    base_fee_wei = max(view.head.base_fee_wei for view in await pool.survey())
    try:
        tip_wei = await pool.ask("eth_maxPriorityFeePerGas", parse=_tip)
    except (RpcError, ChainUnavailable):  # a node that does not suggest one
        tip_wei = TIP_WEI_UNKNOWN
    return market(base_fee_wei=base_fee_wei, tip_wei=tip_wei, ceiling_wei=entry.fee_per_gas_wei_max)


def fees_for(now: Market, entry: ChainEntry, *, purpose: str) -> Fees:
    """Raises: Refused(price_too_high) while gas costs more than the chain's ceiling."""
    fees = offered(now, ceiling_wei=entry.fee_per_gas_wei_max)
    if fees is None:
        price, most = (_gwei(wei) for wei in (now.price_wei, entry.fee_per_gas_wei_max))
        raise Refused(
            "price_too_high",
            f"gas on {entry.title} costs {price} gwei now, at most {most} gwei is paid: nothing was sent for "
            f"{purpose}. Try again when the chain is quieter",
            details={"price_wei": now.price_wei, "price_wei_max": entry.fee_per_gas_wei_max},
        )
    return fees


def no_gas(entry: ChainEntry, *, purpose: str, sender: Address, needed_wei: int, balance_wei: int) -> Refused:
    who, coin = address_text(sender), entry.coin
    return Refused(
        "no_gas",
        f"{purpose} costs up to {_coins(needed_wei)} {coin} of gas, {who} holds {_coins(balance_wei)} {coin} "
        f"on {entry.title}: send some there, or let another party submit it",
        details={"needed_wei": needed_wei, "balance_wei": balance_wei, "address": who},
    )


def _coins(wei: int) -> str:
    whole, part = divmod(wei, 10**18)
    return f"{whole}.{part:018d}".rstrip("0").rstrip(".")


def _gwei(wei: int) -> str:
    whole, part = divmod(wei, WEI_PER_GWEI)
    return f"{whole}.{part:09d}".rstrip("0").rstrip(".")


def _bytes(value: object) -> bytes:
    return data(value, "a call's result")


def _gas(value: object) -> int:
    return quantity(value, "an estimate of gas", maximum=GAS_MAX)


def _tip(value: object) -> int:
    return quantity(value, "a tip", maximum=WEI_MAX)
