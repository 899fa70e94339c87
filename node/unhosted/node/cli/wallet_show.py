"""`unhosted wallet show`, `history` and `export`: what there is, and what there was."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from unhosted.market.money import format_usd
from unhosted.node.cli.common import json_option
from unhosted.node.cli.output import Column, note, printable, write_facts, write_json, write_table
from unhosted.node.cli.wallet import chain_option, password_prompt, wallet_config

WEI_PER_COIN = 10**18


@click.command()
@chain_option
@json_option
def show(chain: str | None, as_json: bool) -> None:
    """Show addresses, balances, channels and the month's cap. Where the chain does not answer, it says so and
    shows what this node's own books have."""
    import trio

    from unhosted.node import app_wallet_views

    config = wallet_config(chain)
    shown = trio.run(lambda: app_wallet_views.show(config, prompt=password_prompt()))
    if as_json:
        write_json(shown)
        return
    write_facts([*_who(shown), *_month(shown["month"]), *_account(shown)])
    if shown["channels"]:
        click.echo("")
        columns: list[Column] = [
            ("CHANNEL", "left"),
            ("SELLER", "left"),
            ("DEPOSIT", "right"),
            ("PAID", "right"),
            ("CLAIMED", "right"),
            ("STATE", "left"),
        ]
        write_table(columns, [_channel(one) for one in shown["channels"]])
    for line in _notes(shown):
        note(printable(line))


def _who(shown: Mapping[str, Any]) -> list[tuple[str, str]]:
    chain, said = shown["chain"], shown["chain_says"]
    kind = ", test money" if chain["is_test"] else ""
    lines = [("chain", f"{chain['title']} (chain {chain['chain_id']}{kind})")]
    if said is not None:
        lines.append(("contract", said["contract"]))
    lines.append(("this node", shown["operator"] or "no key yet"))
    if said is not None and said["operator_gas_wei"] is not None:
        lines.append(("its gas", f"{_coins(int(said['operator_gas_wei']))} of the chain's coin"))
    lines.append(("owner", shown["owner"] or "not set: unhosted config set wallet.owner 0x…"))
    if said is not None and said["owner_usdc_micros"] is not None:
        lines.append(("owner has", f"USD {format_usd(said['owner_usdc_micros'])} in USDC"))
    if shown["payee"]:
        lines.append(("earnings to", shown["payee"]))
        if said is not None:
            has, credit = format_usd(said["payee_usdc_micros"]), format_usd(said["payee_credit_micros"])
            lines.append(("earned", f"USD {credit} to pay out; USD {has} in USDC there"))
    return lines


def _month(month: Mapping[str, Any]) -> list[tuple[str, str]]:
    spent, reserved = format_usd(month["spent_micros"]), format_usd(month["reserved_micros"])
    cap, left = format_usd(month["cap_micros"]), format_usd(month["left_micros"])
    when = f"{month['month']}, UTC" if month["month"] else "nothing was ever bought"
    return [("this month", f"USD {spent} spent, {reserved} reserved, {left} left of {cap} ({when})")]


def _account(shown: Mapping[str, Any]) -> list[tuple[str, str]]:
    account = None if shown["chain_says"] is None else shown["chain_says"]["account"]
    if account is None:
        return []
    limit, used = format_usd(account["limit_micros"]), format_usd(account["used_micros"])
    return [
        ("deposited", f"USD {format_usd(account['free_micros'])} free in the contract"),
        (
            "may commit",
            f"USD {limit} a month by the contract; {used} {_used_when(account)}",
        ),
    ]


def _used_when(account: Mapping[str, Any]) -> str:
    return f"were in {account['month']}" if account["month"] else "so far"


def _channel(one: Mapping[str, Any]) -> tuple[str, ...]:
    facts = one["on_chain"]
    if one["is_closed"] or (facts is not None and facts["is_closed"]):
        state = "closed"
    elif facts is None:
        state = "open by our books"
    elif facts["close_at_unix_s"]:
        from unhosted.node.app_wallet_views import time_text

        state = f"closing until {time_text(facts['close_at_unix_s'])}"
    else:
        state = "open" if facts["deposit_micros"] else "not on the chain yet"
    return (
        one["channel"][:18] + "…",
        one["payee"],
        format_usd(one["deposit_micros"]),
        format_usd(one["authorised_micros"]),
        "?" if facts is None else format_usd(facts["claimed_micros"]),
        state,
    )


def _notes(shown: Mapping[str, Any]) -> list[str]:
    lines = []
    if shown["chain"]["problem"]:
        lines.append(f"from this node's own books alone: {shown['chain']['problem']}")
    if shown["operator_problem"]:
        lines.append(shown["operator_problem"])
    if shown["month"]["must_reread"]:
        lines.append("the ledger lost history: nothing is paid until channels were read from the chain again")
    account = (shown["chain_says"] or {}).get("account")
    if account is not None and account["free_micros"] and not account["is_our_operator"]:
        lines.append(f"the owner named another operator, {account['operator']}: this node can commit nothing")
    for one in shown["deposits_waiting"]:
        state = f"unhosted wallet fund --send {one['id']}" if one["is_signed"] else f"sign it: {one['page']}"
        amount = format_usd(one["amount_micros"])
        lines.append(f"deposit {one['id']} of USD {amount} waits until {one['valid_until']}; {state}")
    return lines


def _coins(wei: int) -> str:
    """Exact to nine decimals, cut and not rounded: never more than there is."""
    whole, part = divmod(wei, WEI_PER_COIN)
    return f"{whole}.{part // 10**9:09d}"


year_option = click.option("--year", type=click.IntRange(2024, 2200), help="A calendar year (UTC); else all.")
day_option = click.option("--by-day", is_flag=True, help="Put the requests of a day and seller together.")


@click.command()
@year_option
@day_option
@json_option
def history(year: int | None, by_day: bool, as_json: bool) -> None:
    """Show everything that was paid, earned and moved, oldest first."""
    shown = _rows(year, by_day=by_day)
    if as_json:
        write_json(shown)
        return
    columns: list[Column] = [
        ("TIME (UTC)", "left"),
        ("WHAT", "left"),
        ("AMOUNT", "right"),
        ("SPENT", "right"),
        ("EARNED", "right"),
        ("WITH", "left"),
        ("TRANSACTION", "left"),
    ]
    if not shown:
        note("nothing was paid, earned or moved yet")
        return
    write_table(columns, [_history_row(row) for row in shown])


@click.command()
@click.option("--csv", "as_csv", is_flag=True, help="Comma-separated values, for spreadsheets (the default).")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="File to write; else stdout.")
@year_option
@day_option
@json_option
def export(as_csv: bool, out: Path | None, year: int | None, by_day: bool, as_json: bool) -> None:
    """Write the history: UTC times, exact amounts, transactions, counterparties, fees."""
    from unhosted.node import app_wallet_records

    if as_csv and as_json:
        raise click.UsageError("either --csv or --json")
    rows = _rows(year, by_day=by_day)
    text = json.dumps(rows, indent=2) + "\n" if as_json else app_wallet_records.csv_text(rows)
    if out is None:
        click.echo(text, nl=False)
        return
    app_wallet_records.write_private_text(out, text)
    note(f"{len(rows)} rows in {out}")


def _rows(year: int | None, *, by_day: bool) -> list[dict[str, str]]:
    import trio

    from unhosted.node import app_wallet_records

    config = wallet_config()
    return trio.run(lambda: app_wallet_records.history_cells(config, year=year, wants_days=by_day))


def _history_row(row: Mapping[str, str]) -> tuple[str, ...]:
    return (
        row["time_utc"].replace("T", " ").removesuffix("Z"),
        f"{row['side']}: {row['kind']}",
        row["amount_usdc"],
        row["spent_usdc"],
        row["earned_usdc"],
        row["counterparty"],
        row["transaction"],
    )
