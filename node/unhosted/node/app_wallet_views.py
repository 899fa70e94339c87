"""What `wallet show` tells: what the chain says, where it answers, and always what the node's books say."""

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import trio

from unhosted.market.ids import Address, address_text, parse_address
from unhosted.market.months import Month, month_text
from unhosted.node import app_wallet
from unhosted.node.app_wallet_records import in_channels_micros, ledger_view
from unhosted.node.config import Config
from unhosted.node.core.chain import Chain
from unhosted.node.core.errors import Refused

if TYPE_CHECKING:
    from unhosted.node.shell.keys.sources import Prompt
    from unhosted.node.shell.money.ledger_words import KnownChannel, LedgerView

CHANNELS_ASKED_MAX = 64
"""Channels that the chain is asked about, the open ones first: each costs a question or two."""

CHAIN_TIMEOUT_S = 30.0
"""After that the books' part is shown alone."""


async def show(config: Config, *, prompt: "Prompt | None") -> dict[str, Any]:
    """JSON-ready. `chain.problem` says why there is nothing from the chain; then `chain_says` is None.

    Raises: Refused for settings and books that are wrong, never for a chain that is away.
    """
    entry = app_wallet.chain_entry(config)
    keys = app_wallet.WalletKeys(config=config, chain_id=entry.chain_id, prompt=prompt)
    operator, operator_problem = None, ""
    try:
        operator = await keys.operator_address()
    except Refused as refused:
        operator_problem = refused.message
    view = await ledger_view(config)
    said, problem = await _ask(config, operator, view)
    waiting = await _waiting(config)
    return {
        "chain": {
            "name": entry.name,
            "title": entry.title,
            "chain_id": int(entry.chain_id),
            "is_test": entry.is_test,
            "problem": problem,
        },
        "operator": None if operator is None else address_text(operator),
        "operator_problem": operator_problem,
        "owner": config.wallet_owner or None,
        "payee": config.wallet_payee or None,
        "chain_says": said,
        "month": _month(config, view),
        "channels": _channels(view, {} if said is None else said.pop("channel_by_id")),
        "deposits_waiting": waiting,
    }


async def _ask(
    config: Config, operator: Address | None, view: "LedgerView | None"
) -> tuple[dict[str, Any] | None, str]:
    """What the chain says, or why it says nothing."""
    if config.offline:
        return None, "the chain is outside this machine and --offline forbids it"
    from unhosted.node.shell.wallet.funding import settle_sent

    try:
        with trio.move_on_after(CHAIN_TIMEOUT_S) as timeout:
            async with app_wallet.wallet_chain(config) as chain:
                await settle_sent(chain, app_wallet.deposit_files(config))
                return await _chain_says(chain, config, operator, view), ""
    except Refused as refused:
        return None, refused.message
    assert timeout.cancelled_caught
    return None, f"no endpoint answered within {CHAIN_TIMEOUT_S:.0f} s; see chain.rpc-urls"


async def _chain_says(
    chain: Chain, config: Config, operator: Address | None, view: "LedgerView | None"
) -> dict[str, Any]:
    owner = app_wallet.owner_address(config) if config.wallet_owner else None
    payee = parse_address(config.wallet_payee) if config.wallet_payee else None
    account = None if owner is None else await chain.account(owner)
    asked = sorted(() if view is None else view.channels, key=lambda one: one.row.is_closed)
    facts = {
        one.row.channel_id: asdict(await chain.channel(one.row.channel_id))
        for one in asked[:CHANNELS_ASKED_MAX]
        if one.deployment == chain.facts.channels
    }
    head = await chain.head()
    return {
        "contract": address_text(chain.facts.channels.contract),
        "usdc": address_text(chain.facts.token.contract),
        "block": head.number,
        "operator_gas_wei": None if operator is None else str(await chain.gas_balance(operator)),
        "owner_usdc_micros": None if owner is None else await chain.usdc_balance(owner),
        "payee_usdc_micros": None if payee is None else await chain.usdc_balance(payee),
        "payee_credit_micros": None if payee is None else await chain.credit(payee),
        "account": None
        if account is None
        else {
            "free_micros": account.free_micros,
            "operator": address_text(account.operator),
            "limit_micros": account.limit_micros,
            "used_micros": account.used_micros,
            "month": month_text(Month(account.month)) if account.month else None,
            "is_our_operator": operator == account.operator,
        },
        "channel_by_id": facts,
    }


def _month(config: Config, view: "LedgerView | None") -> dict[str, Any]:
    """cap: of the settings. month: None while nothing was ever bought."""
    cap = config.max_micros_per_month
    spent = 0 if view is None else view.book.spent_micros
    reserved = 0 if view is None else view.book.reserved_micros
    return {
        "month": None if view is None or view.book.month < 0 else month_text(view.book.month),
        "cap_micros": cap,
        "spent_micros": spent,
        "reserved_micros": reserved,
        "left_micros": max(0, cap - spent - reserved),
        "in_channels_micros": in_channels_micros(view),
        "must_reread": view is not None and view.book.must_reread,
        "spent_by_month": {}
        if view is None
        else {month_text(month): micros for month, micros in view.by_month.items()},
    }


def _channels(view: "LedgerView | None", facts: dict[bytes, Any]) -> list[dict[str, Any]]:
    """By the ledger, with what the chain says beside it where it does."""
    channels = () if view is None else view.channels
    return [_channel(one, facts.get(one.row.channel_id)) for one in channels]


def _channel(one: "KnownChannel", facts: dict[str, Any] | None) -> dict[str, Any]:
    row = one.row
    return {
        "channel": "0x" + row.channel_id.hex(),
        "payee": address_text(row.payee),
        "chain_id": int(one.deployment.chain_id),
        "delay_s": one.config.delay_s,
        "deposit_micros": row.deposit_micros,
        "authorised_micros": row.authorised_micros,
        "is_closed": row.is_closed,
        "on_chain": facts,
    }


async def _waiting(config: Config) -> list[dict[str, Any]]:
    from unhosted.node.app_wallet_funding import page_url
    from unhosted.node.shell.wallet.times import utc_text

    waiting = await trio.to_thread.run_sync(
        lambda: app_wallet.deposit_files(config).waiting(now_unix_s=int(time.time()))
    )
    return [
        {
            "id": one.deposit_id,
            "amount_micros": int(one.amount_micros),
            "owner": address_text(one.owner),
            "is_signed": one.signature is not None,
            "valid_until": utc_text(one.valid_before_unix_s),
            "page": page_url(config, one.deposit_id),
        }
        for one in waiting
    ]


def time_text(unix_s: int) -> str:
    """An instant as people read it, in UTC."""
    from unhosted.node.shell.wallet.times import utc_text

    return utc_text(unix_s)
