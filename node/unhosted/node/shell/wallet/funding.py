"""A deposit's way: asked for, signed elsewhere, checked here, sent by whoever has the gas."""

import os
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import trio

from unhosted.market.ids import Address, address_text
from unhosted.market.money import Micros, format_usd
from unhosted.node.core.chain import Call, CallReverted, Chain, Signer
from unhosted.node.core.chain import Receipt as ChainReceipt
from unhosted.node.core.errors import Refused
from unhosted.node.core.funding import (
    VALID_S,
    DepositRequest,
    DepositRoom,
    check_deposit,
    with_signature,
)
from unhosted.node.shell.chain.adapter import WebChain
from unhosted.node.shell.chain.calls import DepositAuthorization, deposit_with_authorization
from unhosted.node.shell.keys.signer import recover
from unhosted.node.shell.wallet.deposits import DepositFiles

RELAY_FORMAT = "unhosted/relay/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the user asks for. limit_micros: None for the whole cap."""

    owner: Address
    operator: Address
    amount_micros: int
    limit_micros: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """This month by the node's own ledger, and what it has in channels that are not closed; unspent: of that,
    what no voucher has promised to a seller."""

    cap_micros: int
    spent_micros: int
    reserved_micros: int
    in_channels_micros: int
    unspent_in_channels_micros: int


async def propose(
    chain: Chain,
    files: DepositFiles,
    wish: Wish,
    spending: Spending,
    *,
    title: str,
    deposited_max_micros: int,
    now: Callable[[], float] = time.time,
) -> DepositRequest:
    """Check the bounds and keep the request. Raises: Refused; ChainUnavailable."""
    if wish.owner == wish.operator:
        raise Refused(
            "key_refused",
            f"{address_text(wish.owner)} is this node's own key: who takes the node could withdraw it all, "
            "whatever the limit; deposit from an address whose key is elsewhere (wallet.owner)",
            field="owner",
        )
    account = await chain.account(wish.owner)
    signed_micros = await _signed_micros(chain, files, wish.owner, now_unix_s=int(now()))
    limit_micros = spending.cap_micros if wish.limit_micros is None else wish.limit_micros
    room = DepositRoom(
        cap_micros=spending.cap_micros,
        spent_micros=spending.spent_micros,
        reserved_micros=spending.reserved_micros,
        in_contract_micros=account.free_micros + signed_micros + spending.in_channels_micros,
        unspent_micros=account.free_micros + signed_micros + spending.unspent_in_channels_micros,
        deposited_max_micros=deposited_max_micros,
    )
    check_deposit(room, amount_micros=wish.amount_micros, limit_micros=limit_micros)
    balance_micros = await chain.usdc_balance(wish.owner)
    if balance_micros < wish.amount_micros:
        raise Refused(
            "no_funds",
            f"{address_text(wish.owner)} has USD {format_usd(balance_micros)} in USDC on {title} and the "
            f"deposit is USD {format_usd(wish.amount_micros)}: send USDC there first, or deposit less",
            details={"balance_micros": balance_micros, "amount_micros": wish.amount_micros},
        )
    facts = chain.facts
    # The chain judges by its own clock, which on a development chain runs ahead.
    now_unix_s = max(int(now()), (await chain.head()).timestamp_unix_s)
    request = DepositRequest(
        chain_name=facts.name,
        title=title,
        token=facts.token,
        channels=facts.channels,
        owner=wish.owner,
        operator=wish.operator,
        amount_micros=Micros(wish.amount_micros),
        limit_micros=Micros(limit_micros),
        valid_after_unix_s=0,
        valid_before_unix_s=now_unix_s + VALID_S,
        salt=os.urandom(32),
    )
    await trio.to_thread.run_sync(lambda: files.save(request, now_unix_s=int(now())))
    return request


async def _signed_micros(chain: Chain, files: DepositFiles, owner: Address, *, now_unix_s: int) -> int:
    """Deposits that are signed and not sent, as far as is known here: whoever has the file may send them."""
    waiting = await trio.to_thread.run_sync(partial(files.waiting, now_unix_s=now_unix_s))
    return sum(
        one.amount_micros
        for one in waiting
        if one.signature is not None and (one.owner, one.channels) == (owner, chain.facts.channels)
    )


async def accept_signature(
    open_chain: Callable[[], AbstractAsyncContextManager[Chain]],
    files: DepositFiles,
    deposit_id: str,
    signature: bytes,
    *,
    now: Callable[[], float] = time.time,
) -> DepositRequest:
    """The waiting request with its signature, kept, once it is right.

    A key's signature is checked here, without the chain. What no key of the owner made may still be a
    contract wallet's, which only the chain can say: then the whole deposit is tried there and not sent.
    Raises: Refused; ChainUnavailable.
    """
    request = await trio.to_thread.run_sync(files.load, deposit_id)
    signed = with_signature(request, signature)
    found = recover(request.digest, signature)
    if found != request.owner:
        try:
            async with open_chain() as chain:
                await chain.check(deposit_call(signed), sender=request.operator)
        except CallReverted as reverted:
            by = "no key" if found is None else f"the key of {address_text(found)}"
            raise Refused(
                "invalid_request",
                f"the signature is by {by} and not by the owner {address_text(request.owner)}, and the chain "
                f"does not take it either ({reverted}): sign with the owner's key on chain "
                f"{request.channels.chain_id}, exactly what was asked",
                field="signature",
            ) from None
    await trio.to_thread.run_sync(lambda: files.save(signed, now_unix_s=int(now())))
    return signed


async def submit(chain: Chain, files: DepositFiles, request: DepositRequest, signer: Signer) -> ChainReceipt:
    """Send a signed deposit with the operator's gas, and forget the request.

    Raises: Refused (no_gas: `relay_file` is for that); ChainUnavailable.
    """
    call = deposit_call(request)
    try:
        receipt = await chain.send(call, signer, key=f"deposit:{request.salt.hex()}")
    except CallReverted as reverted:
        raise Refused(
            "invalid_request",
            f"the chain does not take the deposit: {reverted}; if it was sent already, "
            "`unhosted wallet show` has it, else ask again with `unhosted wallet fund AMOUNT`",
        ) from None
    await trio.to_thread.run_sync(files.remove, request.deposit_id)
    return receipt


def deposit_call(request: DepositRequest) -> Call:
    """Raises: Refused if it is not signed."""
    if request.signature is None:
        raise Refused("invalid_request", f"deposit {request.deposit_id} is not signed yet", field="signature")
    return deposit_with_authorization(
        request.channels,
        DepositAuthorization(
            payer=request.owner,
            value_micros=request.amount_micros,
            valid_after_unix_s=request.valid_after_unix_s,
            valid_before_unix_s=request.valid_before_unix_s,
            operator=request.operator,
            limit_micros=request.limit_micros,
            salt=request.salt,
            signature=request.signature,
        ),
    )


def relay_file(call: Call, *, chain_id: int, what: str) -> dict[str, Any]:
    """A transaction that anybody with gas may send: all it can do is what was signed."""
    return {
        "format": RELAY_FORMAT,
        "what": what,
        "how": "Anybody may send this with a fee of their own: unhosted wallet relay FILE, or any wallet.",
        "chain_id": chain_id,
        "to": address_text(call.to),
        "value": "0",
        "data": "0x" + call.data.hex(),
    }


async def settle_sent(chain: WebChain, files: DepositFiles, *, now: Callable[[], float] = time.time) -> None:
    """Put away deposits that somebody else has sent meanwhile. Raises: ChainUnavailable."""
    waiting = await trio.to_thread.run_sync(lambda: files.waiting(now_unix_s=int(now())))
    for request in waiting:
        is_here = request.channels == chain.facts.channels
        if is_here and await chain.is_authorization_used(request.owner, request.nonce):
            settle = partial(files.settle, request, seen_unix_s=int(now()))
            await trio.to_thread.run_sync(settle)
