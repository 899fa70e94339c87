"""`unhosted check`: read paid answers again now, and say what that means."""

from collections.abc import Mapping
from typing import Any

import click

from unhosted.node.cli.common import json_option, load_config, offline_option
from unhosted.node.cli.output import Column, note, printable, write_json, write_table
from unhosted.node.cli.receipts import PEER_SHOWN, log10_words, model_words
from unhosted.node.config import Config

WAIT_S = 24 * 3_600.0
"""Of a running node: it reads when it has nothing else to do, and Ctrl-C leaves it at it."""

STAGE_WORDS = {
    "clear": "clear",
    "watch": "watched: checked more",
    "hold": "held: no more pay, others preferred",
    "convict": "convicted",
}


@click.command()
@click.argument("seller", required=False)
@click.option("--show", "only_shows", is_flag=True, help="Read nothing, say what is known.")
@click.option("--forgive", is_flag=True, help="Start again with SELLER, as if nothing was known of it.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port of the node.")
@offline_option
@json_option
def check(
    seller: str | None,
    only_shows: bool,
    forgive: bool,
    port: int | None,
    offline: bool | None,
    as_json: bool,
) -> None:
    """Read paid answers again that were not checked yet, drawn or not, and show what is known of sellers.

    SELLER: a peer id, or enough of its start or end; without one, all. The running node does it, or else this
    command, when the engine has nothing else to do. Prompts stay on this machine.
    """
    if forgive and seller is None:
        raise click.UsageError("--forgive needs a SELLER")
    config = load_config(offline=offline, port=port)
    if forgive:
        found = _forgive(config, str(seller))
    elif only_shows:
        found = _show(config, seller)
    else:
        found = _check(config, seller)
    if as_json:
        write_json(found)
        return
    if forgive:
        note(f"what was known of {found['seller']} is forgotten, for {found['models']} models")
        return
    _write(found)


def _check(config: Config, seller: str | None) -> Mapping[str, Any]:
    from unhosted.node.cli.remote import fetch, find_server

    server = find_server(config)
    if server is not None:
        asked = {"wait": True} if seller is None else {"wait": True, "seller": seller}
        found: Mapping[str, Any] = fetch(server, "/api/checks", method="POST", value=asked, timeout_s=WAIT_S)
        return found
    import trio

    from unhosted.node import app_checks

    async def main() -> Mapping[str, Any]:
        async with app_checks.open_desk(config) as desk:
            return await desk.check(seller, wait=True)

    return trio.run(main)


def _show(config: Config, seller: str | None) -> Mapping[str, Any]:
    import trio

    from unhosted.node import app_checks

    return {"asked": 0, "sellers": trio.run(lambda: app_checks.CheckDesk(config).sellers(seller))}


def _forgive(config: Config, seller: str) -> Mapping[str, Any]:
    from urllib.parse import quote

    from unhosted.node.cli.remote import fetch, find_server

    server = find_server(config)
    if server is not None:
        path = f"/api/checks/{quote(seller, safe='')}"
        forgiven: Mapping[str, Any] = fetch(server, path, method="DELETE")["forgiven"]
        return forgiven
    import trio

    from unhosted.node import app_checks

    async def main() -> Mapping[str, Any]:
        async with app_checks.open_desk(config) as desk:
            return await desk.forgive(seller)

    return trio.run(main)


def _write(found: Mapping[str, Any]) -> None:
    sellers = found["sellers"]
    if not sellers:
        note("nothing was bought yet that could be checked")
        return
    columns: list[Column] = [
        ("SELLER", "left"),
        ("MODEL", "left"),
        ("ANSWERS", "right"),
        ("TOKENS", "right"),
        ("DIFFER", "right"),
        ("LOG10 E", "right"),
        ("VERDICT", "left"),
    ]
    write_table(columns, [_row(one) for one in sellers])
    for one in sellers:
        click.echo("")
        click.echo(printable(f"…{one['seller'][-PEER_SHOWN:]}, {model_words(one)}: {one['meaning']}"))
        if one["waiting"]:
            click.echo(f"  {one['waiting']} answers wait to be read")
        if one["next"]:
            click.echo(printable(f"  next: {one['next']}"))


def _row(one: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        f"…{one['seller'][-PEER_SHOWN:]}",
        model_words(one),
        f"{one['answers_checked']} of {one['receipts']}",
        f"{one['tokens_checked']:,}",
        f"{one['mismatches']:,}",
        log10_words(one["log10_e_milli"]),
        STAGE_WORDS[one["stage"]],
    )
