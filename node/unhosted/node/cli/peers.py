"""`unhosted peers` and `unhosted drain`: the machines that belong together, and what each may do here."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import click

from unhosted.node.cli.common import json_option, load_config
from unhosted.node.cli.output import Column, note, printable, write_facts, write_json, write_table
from unhosted.node.cli.pair import tail
from unhosted.node.cli.remote import Server, fetch, running_server

MODELS_SHOWN = 3
"""A table's cell holds so many names; `--json` has all."""

_STATES = {"pending": "not yet confirmed by both sides", "seen": "not paired", "paired": ""}

Peer = Mapping[str, Any]


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def peers(context: click.Context, as_json: bool) -> None:
    """Show the paired machines, and those that were seen on this network."""
    if context.invoked_subcommand is not None:
        return
    server = _server()
    found = fetch(server, "/api/peers")["peers"]
    if as_json:
        write_json(found)
        return
    status = fetch(server, "/api/status")
    columns: list[Column] = [
        ("NAME", "left"),
        ("ID", "left"),
        ("REACHABLE", "left"),
        ("PATH", "left"),
        ("ROUND TRIP", "right"),
        ("MODELS", "left"),
        ("LOAD", "left"),
        ("NOTE", "left"),
    ]
    if found:
        write_table(columns, [_row(peer) for peer in found])
    else:
        note("no other machine is paired or seen; on both machines: unhosted pair")
    for line in _notes(status):
        note(printable(line))


@peers.command("rm")
@click.argument("peer", metavar="ID")
@json_option
def remove(peer: str, as_json: bool) -> None:
    """End the pairing with ID: a name, or the beginning of an id. It ends there too."""
    removed = fetch(_server(), f"/api/peers/{quote(peer, safe='')}", method="DELETE")["removed"]
    if as_json:
        write_json(removed)
    else:
        note(f"{_named(removed)} is no longer paired")


@peers.command("allow")
@click.argument("peer", metavar="ID")
@click.option("--models", metavar="A,B|all", help="Models it may use here, by name or b3: hash.")
@click.option("--tokens-per-day", metavar="N|none", help="Tokens that it may have made here in a day (UTC).")
@click.option("--concurrency", type=click.IntRange(min=1), help="Requests of it that may run at once.")
@click.option("--ask/--no-ask", "may_ask", default=None, help="It may have prompts answered here.")
@click.option("--fetch/--no-fetch", "may_fetch", default=None, help="It may copy models from here.")
@click.option("--pool/--no-pool", "may_pool", default=None, help="It may run parts of models here.")
@json_option
def allow(peer: str, models: str | None, tokens_per_day: str | None, as_json: bool, **given: Any) -> None:
    """Say what the paired machine ID may do here; what is left out stays. Without options: show it."""
    changes = {name: value for name, value in given.items() if value is not None}
    if models is not None:
        changes["models"] = None if models == "all" else [name for name in models.split(",") if name]
    if tokens_per_day is not None:
        changes["tokens_per_day"] = _tokens(tokens_per_day)
    server = _server()
    if changes:
        path = f"/api/peers/{quote(peer, safe='')}/allow"
        changed = fetch(server, path, method="POST", value=changes)["peer"]
    else:
        changed = _find(server, peer)
    if as_json:
        write_json(changed)
        return
    allowed = changed["capabilities"] or {}
    limit = allowed.get("tokens_per_day")
    only = allowed.get("models")
    write_facts(
        [
            ("peer", _named(changed)),
            ("may ask", _yes(allowed.get("may_ask"))),
            ("may fetch models", _yes(allowed.get("may_fetch"))),
            ("may pool", _yes(allowed.get("may_pool"))),
            ("models", "all" if only is None else ", ".join(only) or "none"),
            ("tokens a day", f"{'no limit' if limit is None else limit}; {changed['tokens_today']} today"),
            ("at once", f"{allowed.get('concurrency')} requests"),
        ]
    )


@click.command()
@click.option("--off", is_flag=True, help="Take requests of paired machines again.")
@json_option
def drain(off: bool, as_json: bool) -> None:
    """Finish what paired machines asked for, and take nothing new from them."""
    drained = fetch(_server(), "/api/drain", method="POST", value={"draining": not off})
    if as_json:
        write_json(drained)
    else:
        note("requests of paired machines are taken again" if off else "no new requests of paired machines")


def _notes(status: Mapping[str, Any]) -> list[str]:
    """What keeps this machine from the others, and what happened to pairings while nobody looked."""
    ring, own = str(status["rings"].get("trusted")), status.get("peers") or {}
    notes = [] if ring == "on" else [f"the trusted ring is {ring}"]
    if not own.get("accepting", True):
        notes.append(f"this machine takes nothing from others now: {own.get('why_not')}")
    return [*notes, *map(str, own.get("problems", ())), *map(str, own.get("notices", ()))]


def _server() -> Server:
    return running_server(load_config())


def _find(server: Server, text: str) -> Peer:
    """The one peer of that name or beginning of an id. Raises: click.UsageError."""
    found = [
        peer
        for peer in fetch(server, "/api/peers")["peers"]
        if peer["state"] != "seen" and (peer["name"] == text or peer["peer"].startswith(text))
    ]
    if len(found) != 1:
        several = ", ".join(f"{peer['name']} {tail(peer['peer'])}" for peer in found)
        raise click.UsageError(f"{text!r} is {f'one of {several}' if found else 'no paired machine'}")
    one: Peer = found[0]
    return one


def _tokens(text: str) -> int | None:
    if text == "none":
        return None
    if not text.isdecimal():
        raise click.BadParameter("a number of tokens, or none", param_hint="--tokens-per-day")
    return int(text)


def _named(peer: Peer) -> str:
    return f"{printable(peer['name'])} ({tail(peer['peer'])})"


def _yes(value: object) -> str:
    return "yes" if value else "no"


def _row(peer: Peer) -> tuple[str, ...]:
    facts = peer["facts"]
    round_trip_s = peer["round_trip_s"]
    return (
        peer["name"],
        tail(peer["peer"]),
        "yes" if peer["reachable"] else "no",
        peer["path"] or "-",
        "-" if round_trip_s is None else f"{1000 * round_trip_s:.1f} ms",
        _models(facts["models"]) if facts else "-",
        _load(facts) if facts and peer["reachable"] else "-",
        peer["why_not"] or (facts["why_not"] if facts else "") or _STATES[peer["state"]],
    )


def _models(models: list[Mapping[str, Any]]) -> str:
    names = [str(model["name"]) for model in models]
    more = f" +{len(names) - MODELS_SHOWN}" if len(names) > MODELS_SHOWN else ""
    return (", ".join(names[:MODELS_SHOWN]) + more) or "none"


def _load(facts: Mapping[str, Any]) -> str:
    """Of what it has in memory: busy slots of all, and what waits."""
    if not facts["accepting"]:
        return "takes nothing"
    loaded = [model for model in facts["models"] if model["is_loaded"]]
    if not loaded:
        return "idle"
    slots = sum(model["slots"] for model in loaded)
    busy = slots - sum(model["slots_free"] for model in loaded)
    queued = sum(model["queued"] for model in loaded)
    return f"{busy}/{slots} busy" + (f", {queued} waiting" if queued else "")
