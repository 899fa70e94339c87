"""Sending for somebody without gas: what a file from elsewhere may have this node's key send.

The contract asks who sends a call, too, and this node's key may itself be a payer or an operator. So only
calls go out whose effect was signed by somebody else: a file must not make this node allocate, withdraw or
close what is its own.
"""

from collections.abc import Mapping
from typing import Any

from unhosted.market.eip712 import keccak256
from unhosted.market.ids import ADDRESS_BYTES, Address, address_text, parse_address
from unhosted.node.core.chain import Call, Chain
from unhosted.node.core.errors import Refused
from unhosted.node.shell.wallet.funding import RELAY_FORMAT

GAS_MAX = 1_000_000
"""A relayed call needs a fifth of it. What the file says is not believed."""

_CONFIG = "(address,address,address,uint32,bytes32)"
_DEPOSIT = "depositWithAuthorization(address,uint256,uint256,uint256,address,uint96,bytes32,bytes)"
_FINALIZE, _REQUEST = f"finalizeClose({_CONFIG})", f"requestClose({_CONFIG},uint40,bytes)"
_NAME_BY_SELECTOR = {keccak256(name.encode())[:4]: name for name in (_DEPOSIT, _FINALIZE, _REQUEST)}


def read_relayed(told: Mapping[str, Any], *, source: str) -> tuple[int, Call]:
    """Chain id and call of a file for relaying. Raises: Refused for anything else."""
    try:
        to, data = parse_address(str(told["to"])), bytes.fromhex(str(told["data"]).removeprefix("0x"))
        chain_id = int(told["chain_id"])
    except (KeyError, ValueError, TypeError):
        told = {}
    if told.get("format") != RELAY_FORMAT:
        raise Refused("invalid_request", f"{source} is no file for relaying, as `wallet fund` writes them")
    return chain_id, Call(to=to, data=data, purpose="relay", gas_max=GAS_MAX)


async def check_relayed(chain: Chain, chain_id: int, call: Call, *, sender: Address, source: str) -> None:
    """Raises: Refused unless the call does the same whoever sends it; ChainUnavailable."""
    facts = chain.facts
    if chain_id != facts.chain_id or call.to != facts.channels.contract:
        raise Refused(
            "chain_mismatch",
            f"{source} is for chain {chain_id} and contract {address_text(call.to)}; this node's are "
            f"{facts.chain_id} and {address_text(facts.channels.contract)}: choose the chain with --chain",
        )
    name = _NAME_BY_SELECTOR.get(call.data[:4])
    if name is None:
        raise Refused(
            "not_supported",
            f"{source} calls 0x{call.data[:4].hex()}, which this node does not send for others; it sends "
            "deposits, requests to close and the ends of closes",
        )
    if name == _REQUEST:
        payer = Address(call.data[36 - ADDRESS_BYTES : 36])
        if sender in (payer, (await chain.account(payer)).operator):
            raise Refused(
                "not_supported",
                f"{source} would close a channel of this node's own, {address_text(payer)}: if that is "
                "wanted, `unhosted wallet close`",
            )
