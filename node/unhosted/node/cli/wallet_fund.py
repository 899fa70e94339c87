"""`unhosted wallet fund`, `relay`, `withdraw` and `close`: where money moves."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unhosted.market.money import format_usd, parse_usd
from unhosted.node.cli.common import json_option
from unhosted.node.cli.output import is_terminal, note, printable, write_facts, write_json
from unhosted.node.cli.pair import qr_lines
from unhosted.node.cli.wallet import chain_option, password_prompt, wallet_config
from unhosted.node.config import set_value

if TYPE_CHECKING:
    from unhosted.node.app_wallet_funding import CloseOutcome, FundOutcome

QR_BYTES_MAX = 2_900
"""A QR code holds 2,953 bytes; a request has about 900."""


class Usd(click.ParamType):  # type: ignore[type-arg]  # older click has no arguments here
    """An amount in dollars, as micro-USDC."""

    name = "USD"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return int(parse_usd(str(value)))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class UsdOrAll(Usd):
    """None for `all`; click keeps no None of a converter, so it is -1."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        return ALL if value == "all" else super().convert(value, param, ctx)


ALL = -1


@click.command()
@click.argument("amount", type=Usd(), required=False)
@click.option("--limit", type=Usd(), help="Most that this node may commit in a month; else the cap.")
@click.option("--owner", metavar="0x…", help="Address whose USDC pays; else the setting wallet.owner.")
@click.option("--signed", type=click.Path(path_type=Path, dir_okay=False), help="A request that came back.")
@click.option("--send", "send_id", metavar="ID", help="Send a deposit that was signed on the wallet page.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="File for the request.")
@click.option("--qr/--no-qr", default=None, help="Show the request as a picture; by default on a terminal.")
@chain_option
@json_option
def fund(
    amount: int | None,
    limit: int | None,
    owner: str | None,
    signed: Path | None,
    send_id: str | None,
    out: Path | None,
    qr: bool | None,
    chain: str | None,
    as_json: bool,
) -> None:
    """Deposit AMOUNT in USDC. The owner's key signs elsewhere: the request is a file, a QR picture, and a
    page for a browser wallet. Bring it back with --signed FILE.

    The signature names this node's key and the most that it may commit in a month, and nobody can change
    either. The owner needs no gas.
    """
    import trio

    from unhosted.node import app_wallet_funding as funding

    if sum(one is not None for one in (amount, signed, send_id)) != 1:
        raise click.UsageError("either an AMOUNT to ask for, or --signed FILE, or --send ID")
    config = wallet_config(chain)
    prompt = password_prompt()
    if amount is not None:
        ask = funding.Ask(amount_micros=amount, limit_micros=limit, owner=owner, out=out)
        outcome = trio.run(lambda: funding.fund(config, ask, prompt=prompt))
        if owner is not None and not config.wallet_owner:
            set_value(config.paths, "wallet.owner", owner)
            note(f"wallet.owner is {owner} from now on")
    elif signed is not None:
        outcome = trio.run(lambda: funding.fund_signed(config, signed, prompt=prompt))
    else:
        outcome = trio.run(lambda: funding.fund_waiting(config, str(send_id), prompt=prompt))
    if as_json:
        write_json(dataclasses.asdict(outcome))
    else:
        _tell_fund(outcome, wants_qr=is_terminal() if qr is None else qr)


def _tell_fund(outcome: "FundOutcome", *, wants_qr: bool) -> None:
    for line in outcome.request["what"]:
        click.echo(printable(line))
    click.echo("")
    if outcome.state == "sent":
        click.echo(f"Deposited, in transaction {outcome.transaction}")
        note("next: unhosted wallet show")
        return
    if outcome.state == "relay":
        note(outcome.why)
        click.echo(f"Signed. Somebody with gas has to send it: {outcome.file}")
        note(f"there: unhosted wallet relay {outcome.file}; or send gas to this node's key and repeat")
        return
    data = json.dumps(outcome.request["typed_data"], separators=(",", ":"))
    if wants_qr and len(data) <= QR_BYTES_MAX:
        click.echo(qr_lines(data, in_colour=is_terminal()))
    write_facts([("to sign", str(outcome.file)), ("or on", f"{outcome.page} while `unhosted serve` runs")])
    note(f"then: unhosted wallet fund --signed {outcome.file}")
    note(f"if it was signed on the page: unhosted wallet fund --send {outcome.deposit_id}")


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@chain_option
@json_option
def relay(file: Path, chain: str | None, as_json: bool) -> None:
    """Send what FILE holds, signed by somebody without gas; this node's key pays the fee."""
    import trio

    from unhosted.node import app_wallet_funding as funding

    config = wallet_config(chain)
    receipt = trio.run(lambda: funding.relay(config, file, prompt=password_prompt()))
    shown = {"transaction": "0x" + receipt.transaction.hex(), "fee_wei": str(receipt.fee_wei)}
    if as_json:
        write_json(shown)
    else:
        click.echo(f"Sent, in transaction {shown['transaction']}; the fee was {shown['fee_wei']} wei")


@click.command()
@click.argument("amount", type=UsdOrAll(), metavar="AMOUNT|all")
@click.option("--owner", metavar="0x…", help="Address whose deposit it is; else the setting wallet.owner.")
@chain_option
@json_option
def withdraw(amount: int, owner: str | None, chain: str | None, as_json: bool) -> None:
    """Show the transaction that takes AMOUNT back to the owner. Only the owner's own wallet can send it."""
    import trio

    from unhosted.node import app_wallet_funding as funding

    config = wallet_config(chain)
    wanted = None if amount == ALL else amount
    shown = trio.run(lambda: funding.withdraw(config, wanted, owner=owner, prompt=password_prompt()))
    if as_json:
        write_json(shown)
        return
    if shown["transaction"]:
        click.echo(
            f"Withdrew USD {format_usd(shown['amount_micros'])}, in transaction {shown['transaction']}"
        )
        return
    call: Mapping[str, Any] = shown["call"]
    click.echo(f"Send this from {shown['owner']}, the owner's wallet; USDC goes back to the same address:")
    click.echo("")
    write_facts([(name, str(call[name])) for name in ("chain", "chain_id", "from", "to", "value", "data")])
    write_facts([("gas", f"about {call['gas']}")])
    note(f"it takes back USD {format_usd(shown['amount_micros'])}")


@click.command()
@click.argument("channels", nargs=-1, metavar="[CHANNEL]…")
@click.option("--all", "wants_all", is_flag=True, help="All channels that are open on this chain.")
@chain_option
@json_option
def close(channels: tuple[str, ...], wants_all: bool, chain: str | None, as_json: bool) -> None:
    """Close CHANNELs, by the beginnings of their ids: ask first, and after the delay finish with the same
    command. Until then a seller can claim what it was promised."""
    import trio

    from unhosted.node import app_wallet_funding as funding

    if bool(channels) == wants_all:
        raise click.UsageError("name channels, or --all")
    config = wallet_config(chain)
    outcomes: list[CloseOutcome] = []

    def tell(outcome: "CloseOutcome") -> None:
        outcomes.append(outcome)
        if not as_json:
            click.echo(f"{outcome.channel[:18]}…  {_close_words(outcome)}")

    trio.run(lambda: funding.close(config, list(channels), prompt=password_prompt(), tell=tell))
    if as_json:
        write_json([dataclasses.asdict(outcome) for outcome in outcomes])
    elif not outcomes:
        note("no channel is open")


def _close_words(outcome: "CloseOutcome") -> str:
    from unhosted.node.app_wallet_views import time_text

    refund, when = format_usd(outcome.refund_micros), time_text(outcome.ready_unix_s)
    return {
        "requested": f"asked to close; up to USD {refund} come back after {when}, with this command again",
        "waiting": f"is closing; up to USD {refund} come back after {when}, with this command again",
        "finalized": f"closed; USD {refund} are free to withdraw",
        "closed": "was closed before",
        "absent": "is not on this chain",
        "relay": f"this node's key has no gas; somebody with gas: unhosted wallet relay {outcome.file}",
    }[outcome.state]
