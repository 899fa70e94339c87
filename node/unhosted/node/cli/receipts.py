"""`unhosted receipts`: what was paid for, and whether it was checked."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from unhosted.market.money import format_usd
from unhosted.node.cli.common import json_option, load_config, offline_option
from unhosted.node.cli.output import Column, human_size, note, write_facts, write_json, write_table

COUNT_USUAL = 30
COUNT_MAX = 1_000
HASH_SHOWN = 12
PEER_SHOWN = 8

STATUS_WORDS = {
    "waiting": "waits for a check",
    "not_drawn": "not drawn",
    "not_checked": "not checked",
    "checked": "checked",
    "faulty": "faulty",
}


@click.command()
@click.argument("receipts", nargs=-1, metavar="[RECEIPT]...")
@click.option("--seller", help="Of this seller alone: its peer id, or enough of its start or end.")
@click.option("--count", type=click.IntRange(1, COUNT_MAX), default=COUNT_USUAL, help="How many, at most.")
@click.option(
    "--evidence",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a file that opens the answers of these receipts, for `unhosted verify`.",
)
@click.option("--prefix", type=click.IntRange(1), help="Open no more tokens of each answer than this.")
@offline_option
@json_option
def receipts(
    receipts: tuple[str, ...],
    seller: str | None,
    count: int,
    evidence: Path | None,
    prefix: int | None,
    offline: bool | None,
    as_json: bool,
) -> None:
    """List receipts of what was paid for, the newest first; or show those named by the start of their hash.

    It reads this machine's own books, whether a node is running or not.
    """
    import trio

    from unhosted.node import app_checks

    if evidence is not None and not receipts:
        raise click.UsageError("--evidence needs receipts: name those whose answers it is to open")
    desk = app_checks.CheckDesk(load_config(offline=offline))
    if evidence is not None:
        size_bytes = trio.run(lambda: desk.export(receipts, evidence, prefix_tokens=prefix))
        _write_exported(evidence, size_bytes, as_json=as_json)
        return
    if receipts:
        _write_named([trio.run(desk.receipt, one) for one in receipts], as_json=as_json)
        return
    found = trio.run(lambda: desk.receipts(limit=count, seller=seller))
    if as_json:
        write_json(found)
        return
    if not found:
        note("nothing was bought yet" if seller is None else "nothing was bought of this seller")
        return
    columns: list[Column] = [
        ("RECEIPT", "left"),
        ("WHEN", "left"),
        ("SELLER", "left"),
        ("MODEL", "left"),
        ("IN", "right"),
        ("OUT", "right"),
        ("USD", "right"),
        ("CHECK", "left"),
        ("LOG10 E", "right"),
    ]
    write_table(columns, [_row(one) for one in found])
    note("one of them: unhosted receipts RECEIPT; what the checks found: unhosted check")


def _write_named(shown: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    if as_json:
        write_json(shown[0] if len(shown) == 1 else shown)
        return
    for index, one in enumerate(shown):
        if index:
            click.echo("")
        write_facts(_facts(one))


def _write_exported(path: Path, size_bytes: int, *, as_json: bool) -> None:
    if as_json:
        write_json({"path": str(path), "size_bytes": size_bytes})
    else:
        write_facts([("evidence", str(path)), ("size", human_size(size_bytes))])
    note("it holds prompts and answers as they are: give it only to whom may read them")
    note(f"to run it again: unhosted verify {path}")


def model_words(shown: Mapping[str, Any]) -> str:
    """Its name here, or the start of its hash where it is not here."""
    return str(shown["model_name"] or f"{shown['model'][: 3 + HASH_SHOWN]}…")


def log10_words(milli: int) -> str:
    return f"{milli / 1_000:.1f}"


def _row(one: Mapping[str, Any]) -> tuple[str, ...]:
    check = one["check"]
    return (
        one["receipt"][:HASH_SHOWN],
        _when(one["came_unix_s"]),
        f"…{one['seller'][-PEER_SHOWN:]}" if one["seller"] else "?",
        model_words(one),
        str(one["tokens_in"]),
        str(one["tokens_out"]),
        format_usd(one["cost_micros"]),
        _check_words(check),
        log10_words(check["log10_e_milli"]) if check["status"] in ("checked", "faulty") else "",
    )


def _check_words(check: Mapping[str, Any]) -> str:
    words = STATUS_WORDS[check["status"]]
    if check["status"] == "checked":
        return f"{words}: {check['mismatches']} of {check['tokens']} differ"
    return words


def _facts(one: Mapping[str, Any]) -> list[tuple[str, str]]:
    check = one["check"]
    facts = [
        ("receipt", one["receipt"]),
        ("request", one["request"]),
        ("when", _when(one["came_unix_s"])),
        ("seller", one["seller"] or "unknown"),
        ("model", f"{one['model_name'] or 'not on this machine'} ({one['model']})"),
        ("tokens", f"{one['tokens_in']} in, {one['tokens_out']} out"),
        ("cost", f"USD {format_usd(one['cost_micros'])}"),
        ("end", one["finish"]),
        ("check", _check_words(check)),
    ]
    if check["why"]:
        facts.append(("why", check["why"]))
    if check.get("how"):
        facts.append(("chosen", _how_words(check)))
    if check["status"] in ("checked", "faulty"):
        facts.append(
            ("log10 E", f"{log10_words(check['log10_e_milli'])}, of this seller and model, after it")
        )
    if one["is_gap"]:
        facts.append(("gap", "it does not follow the receipt before it on its channel: one is missing"))
    return facts


def _how_words(check: Mapping[str, Any]) -> str:
    words = {
        "probation": "every answer of a new seller is checked",
        "always": "you asked for it with the request",
        "asked": "you asked for it afterwards",
    }
    return words.get(check["how"], f"by chance, at {check['chance_ppm'] / 10_000:.1f} %")


def _when(unix_s: int) -> str:
    from datetime import datetime

    return datetime.fromtimestamp(unix_s).strftime("%Y-%m-%d %H:%M")
