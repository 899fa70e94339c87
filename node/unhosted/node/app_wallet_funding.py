"""Deposits, withdrawals and closes, from what the user typed to what the user is told."""

import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from unhosted.market.ids import address_text
from unhosted.node import app_wallet
from unhosted.node.app_wallet_records import in_channels_micros, ledger_view, unspent_micros
from unhosted.node.config import Config
from unhosted.node.core.chain import Chain, Receipt
from unhosted.node.core.errors import Refused
from unhosted.node.core.funding import DepositRequest, signature_of, to_json

if TYPE_CHECKING:
    from unhosted.node.app_wallet import WalletKeys
    from unhosted.node.shell.keys.sources import Prompt
    from unhosted.node.shell.money.ledger_words import KnownChannel


@dataclass(frozen=True, slots=True, kw_only=True)
class FundOutcome:
    """state: waiting (for the owner's signature; file says where), signed (not sent yet), relay (file is
    for somebody with gas), sent."""

    state: str
    deposit_id: str
    request: dict[str, Any]
    file: str | None = None
    page: str | None = None
    transaction: str | None = None
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A deposit as it was typed. limit_micros: None for the cap. owner: None for the setting. out: None for a
    file in this folder."""

    amount_micros: int
    limit_micros: int | None = None
    owner: str | None = None
    out: Path | None = None


async def fund(config: Config, ask: Ask, *, prompt: "Prompt | None") -> FundOutcome:
    """Ask for a deposit. On the local chain, with the owner's key in a variable, also sign and send it."""
    from unhosted.node.shell.keys.signer import KeySigner
    from unhosted.node.shell.wallet import funding

    app_wallet.check_acknowledged(config)
    entry = app_wallet.chain_entry(config)
    keys = app_wallet.WalletKeys(config=config, chain_id=entry.chain_id, prompt=prompt)
    developer: KeySigner | None = keys.development_owner()
    owner = ask.owner
    if developer is not None and owner is None and not config.wallet_owner:
        owner = address_text(developer.address)
    wish = funding.Wish(
        owner=app_wallet.owner_address(config, owner),
        operator=await keys.operator_address(),
        amount_micros=ask.amount_micros,
        limit_micros=ask.limit_micros,
    )
    view = await ledger_view(config)
    spending = funding.Spending(
        cap_micros=config.max_micros_per_month,
        spent_micros=0 if view is None else view.book.spent_micros,
        reserved_micros=0 if view is None else view.book.reserved_micros,
        in_channels_micros=in_channels_micros(view),
        unspent_in_channels_micros=unspent_micros(view),
    )
    files = app_wallet.deposit_files(config)
    async with app_wallet.wallet_chain(config) as chain:
        request = await funding.propose(
            chain,
            files,
            wish,
            spending,
            title=entry.title,
            deposited_max_micros=config.wallet_max_total_deposit_micros,
        )
        if developer is not None and developer.address == request.owner:
            signature = developer.sign(request.digest)
            signed = await funding.accept_signature(
                lambda: nullcontext(chain), files, request.deposit_id, signature
            )
            return await _send(config, chain, keys, signed)
    file = ask.out or Path(f"unhosted-deposit-{request.deposit_id}.json")
    shown = _shown(request)
    await _write(file, shown)
    return FundOutcome(
        state="waiting",
        deposit_id=request.deposit_id,
        request=shown,
        file=str(file),
        page=page_url(config, request.deposit_id),
    )


async def fund_signed(config: Config, source: Path, *, prompt: "Prompt | None") -> FundOutcome:
    """Take a signed request back, and send it with this node's gas or leave it for somebody who has some."""
    from unhosted.node.shell.wallet import funding
    from unhosted.node.shell.wallet.deposits import read_json

    app_wallet.check_acknowledged(config)
    deposit_id, signature = signature_of(read_json(source))
    async with app_wallet.wallet_chain(config) as chain:
        files = app_wallet.deposit_files(config)
        signed = await funding.accept_signature(lambda: nullcontext(chain), files, deposit_id, signature)
        return await _send(config, chain, _keys(config, chain, prompt), signed)


async def fund_waiting(config: Config, deposit_id: str, *, prompt: "Prompt | None") -> FundOutcome:
    """Send a deposit that was signed on the wallet page."""
    app_wallet.check_acknowledged(config)
    request = app_wallet.deposit_files(config).load(deposit_id)
    if request.signature is None:
        page = page_url(config, deposit_id)
        raise Refused(
            "invalid_request",
            f"deposit {deposit_id} is not signed yet: open {page} while `unhosted serve` runs, or bring the "
            "signed file with --signed FILE",
        )
    async with app_wallet.wallet_chain(config) as chain:
        return await _send(config, chain, _keys(config, chain, prompt), request)


async def relay(config: Config, source: Path, *, prompt: "Prompt | None") -> Receipt:
    """Send what somebody without gas prepared; the fee is this node's. Raises: Refused."""
    import hashlib

    from unhosted.node.core.chain import CallReverted
    from unhosted.node.shell.wallet.deposits import read_json
    from unhosted.node.shell.wallet.relaying import check_relayed, read_relayed

    chain_id, call = read_relayed(read_json(source), source=str(source))
    async with app_wallet.wallet_chain(config) as chain:
        signer = await _keys(config, chain, prompt).operator()
        await check_relayed(chain, chain_id, call, sender=signer.address, source=str(source))
        try:
            return await chain.send(call, signer, key=f"relay:{hashlib.sha256(call.data).hexdigest()}")
        except CallReverted as reverted:
            raise Refused("invalid_request", f"the chain does not take {source}: {reverted}") from None


async def withdraw(
    config: Config, amount_micros: int | None, *, owner: str | None, prompt: "Prompt | None"
) -> dict[str, Any]:
    """What the owner is to send, or, on the local chain with the owner's key in a variable, the sent one."""
    from unhosted.node.shell.wallet.actions import plan_withdrawal

    entry = app_wallet.chain_entry(config)
    keys = app_wallet.WalletKeys(config=config, chain_id=entry.chain_id, prompt=prompt)
    developer = keys.development_owner()
    if developer is not None and owner is None and not config.wallet_owner:
        owner = address_text(developer.address)
    address = app_wallet.owner_address(config, owner)
    async with app_wallet.wallet_chain(config) as chain:
        plan = await plan_withdrawal(chain, address, amount_micros)
        sent = None
        if developer is not None and developer.address == address:
            sent = await chain.send(plan.call, developer, key=f"withdraw:{os.urandom(16).hex()}")
        return {
            "owner": address_text(address),
            "amount_micros": plan.amount_micros,
            "free_after_micros": plan.left_micros,
            "transaction": None if sent is None else "0x" + sent.transaction.hex(),
            "call": {
                "chain_id": int(chain.facts.chain_id),
                "chain": entry.title,
                "from": address_text(address),
                "to": address_text(plan.call.to),
                "value": "0",
                "data": "0x" + plan.call.data.hex(),
                "gas": plan.gas,
            },
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseOutcome:
    """One channel's step: requested, waiting, finalized, closed, absent, or relay (file for somebody with
    gas). ready_unix_s: when the next step may be taken; 0 where there is none."""

    channel: str
    state: str
    refund_micros: int
    ready_unix_s: int = 0
    transaction: str | None = None
    file: str | None = None


_DONE = {"request": "requested", "finalize": "finalized"}


async def close(
    config: Config,
    channels: list[str],
    *,
    prompt: "Prompt | None",
    tell: Callable[[CloseOutcome], None],
) -> None:
    """Take the next step of each channel's end; channels: beginnings of ids, empty for all that are open on
    the chain of the settings."""
    view = await ledger_view(config)
    chosen = _chosen(() if view is None else view.channels, channels)
    async with app_wallet.wallet_chain(config) as chain:
        if not channels:
            chosen = [channel for channel in chosen if channel.deployment == chain.facts.channels]
        keys = _keys(config, chain, prompt)
        for channel in chosen:
            tell(await _close_one(chain, keys, channel))


async def _close_one(chain: Chain, keys: "WalletKeys", channel: "KnownChannel") -> CloseOutcome:
    from unhosted.node.shell.wallet import actions, funding

    shown = "0x" + channel.row.channel_id.hex()
    plan = await actions.plan_close(chain, channel.deployment, channel.config)
    if plan.call is None:
        state = "waiting" if plan.step == "wait" else plan.step
        return CloseOutcome(
            channel=shown, state=state, refund_micros=plan.refund_micros, ready_unix_s=plan.ready_unix_s
        )
    signer = await keys.operator()
    if plan.step == "request":
        await actions.check_closer(chain, channel.config, signer.address)
    outcome = CloseOutcome(
        channel=shown,
        state=_DONE[plan.step],
        refund_micros=plan.refund_micros,
        ready_unix_s=plan.ready_unix_s,
    )
    try:
        receipt = await chain.send(plan.call, signer, key=f"{plan.step}:{channel.row.channel_id.hex()}")
    except Refused as refused:
        if refused.code != "no_gas":
            raise
        call = plan.call
        if plan.step == "request":
            call = await actions.relayed_close(chain, channel.deployment, channel.config, signer)
        file = Path(f"unhosted-{plan.step}-close-{channel.row.channel_id.hex()[:16]}.json")
        what = f"{plan.step} the close of channel {shown}"
        value = funding.relay_file(call, chain_id=chain.facts.chain_id, what=what)
        await _write(file, value)
        return CloseOutcome(channel=shown, state="relay", refund_micros=plan.refund_micros, file=str(file))
    return CloseOutcome(
        channel=outcome.channel,
        state=outcome.state,
        refund_micros=outcome.refund_micros,
        ready_unix_s=outcome.ready_unix_s if plan.step == "request" else 0,
        transaction="0x" + receipt.transaction.hex(),
    )


def page_url(config: Config, deposit_id: str) -> str:
    """Of the wallet page on this machine, which works while the node runs."""
    host = "127.0.0.1" if config.host in ("0.0.0.0", "::", "localhost") else config.host
    return f"http://{f'[{host}]' if ':' in host else host}:{config.port}/wallet#{deposit_id}"


def _keys(config: Config, chain: Chain, prompt: "Prompt | None") -> "WalletKeys":
    return app_wallet.WalletKeys(config=config, chain_id=chain.facts.chain_id, prompt=prompt)


async def _send(config: Config, chain: Chain, keys: "WalletKeys", signed: DepositRequest) -> FundOutcome:
    from unhosted.node.shell.wallet import funding

    files = app_wallet.deposit_files(config)
    try:
        receipt = await funding.submit(chain, files, signed, await keys.operator())
    except Refused as refused:
        if refused.code != "no_gas":
            raise
        file = Path(f"unhosted-relay-{signed.deposit_id}.json")
        what = _shown(signed)["what"]
        call = funding.deposit_call(signed)
        value = funding.relay_file(call, chain_id=chain.facts.chain_id, what=" ".join(what))
        await _write(file, value)
        return FundOutcome(
            state="relay",
            deposit_id=signed.deposit_id,
            request=_shown(signed),
            file=str(file),
            why=refused.message,
        )
    return FundOutcome(
        state="sent",
        deposit_id=signed.deposit_id,
        request=_shown(signed),
        transaction="0x" + receipt.transaction.hex(),
    )


def _shown(request: DepositRequest) -> dict[str, Any]:
    from unhosted.node.shell.wallet.times import utc_text

    return to_json(request, valid_until=utc_text(request.valid_before_unix_s))


async def _write(path: Path, value: object) -> None:
    from unhosted.node.shell.wallet.deposits import write_private

    await trio.to_thread.run_sync(lambda: write_private(path.absolute(), value))


def _chosen(channels: tuple["KnownChannel", ...], named: list[str]) -> list["KnownChannel"]:
    """Raises: Refused for a beginning that fits none or several."""
    open_ones = [channel for channel in channels if not channel.row.is_closed]
    if not named:
        return open_ones
    chosen = []
    for text in named:
        start = text.lower().removeprefix("0x")
        found = [channel for channel in channels if channel.row.channel_id.hex().startswith(start)]
        if len(found) != 1:
            raise Refused(
                "invalid_request",
                f"{text[:70]!r} is the beginning of {len(found)} channels of this node; "
                "`unhosted wallet show` lists them",
            )
        chosen.append(found[0])
    return chosen
