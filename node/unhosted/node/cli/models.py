"""`unhosted list`, `show` and `rm`: the models of this machine."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from unhosted.node.cli.common import json_option, load_config, model_argument
from unhosted.node.cli.output import (
    Column,
    human_count,
    human_size,
    note,
    write_facts,
    write_json,
    write_table,
)
from unhosted.node.core.errors import Refused

if TYPE_CHECKING:
    from unhosted.node.app_facts import Offer


@click.command("list")
@click.option("--all", "wants_all", is_flag=True, help="Show what can be pulled, smallest first.")
@json_option
def list_models(wants_all: bool, as_json: bool) -> None:
    """List the models on this machine; with --all, those the catalogue knows."""
    from unhosted.node import app, app_facts

    store = app.model_store(load_config())
    if wants_all:
        _list_offers(app_facts.offers(store), as_json)
        return
    entries = store.entries()
    if as_json:
        write_json([dataclasses.asdict(entry) for entry in entries])
        return
    columns: list[Column] = [
        ("NAME", "left"),
        ("SIZE", "right"),
        ("PARAMETERS", "right"),
        ("QUANTIZATION", "left"),
        ("CONTEXT", "right"),
        ("LICENCE", "left"),
    ]
    rows = [
        (
            entry.name,
            human_size(entry.size_bytes),
            human_count(entry.parameters),
            entry.quantization,
            str(entry.context_tokens),
            entry.licence or "?",
        )
        for entry in entries
    ]
    if rows:
        write_table(columns, rows)
    else:
        note("no models here yet; `unhosted list --all` shows what there is to pull")
    for found in app_facts.foreign_models(store):
        note(
            f"{found.origin} holds {found.name} ({human_size(found.size_bytes)}): unhosted pull {found.path}"
        )


def _list_offers(offers: "Sequence[Offer]", as_json: bool) -> None:
    if as_json:
        write_json([dataclasses.asdict(offer) for offer in offers])
        return
    columns: list[Column] = [
        ("NAME", "left"),
        ("SIZE", "right"),
        ("PARAMETERS", "right"),
        ("QUANTIZATION", "left"),
        ("KIND", "left"),
        ("LICENCE", "left"),
        ("HERE", "left"),
    ]
    rows = [
        (
            offer.name,
            ("" if offer.size_exact else "about ") + human_size(offer.size_bytes),
            human_count(offer.parameters),
            offer.quantization,
            offer.kind,
            offer.licence,
            "yes" if offer.is_here else "",
        )
        for offer in offers
    ]
    write_table(columns, rows)


@click.command()
@model_argument()
@click.option("--verify", is_flag=True, help="Read the whole file again and compare its digest.")
@json_option
def show(model: str, verify: bool, as_json: bool) -> None:
    """Show MODEL: facts, licence, and whether and how fast it runs on this machine."""
    from unhosted.node import app, app_facts

    config = load_config()
    store = app.model_store(config)
    installed = app_facts.find_installed(store, model)
    if installed is None:
        offer = app_facts.find_offer(store, model)
        if offer is None:
            store.resolve(model)  # refuses, with a suggestion
            raise Refused("model_not_found", f"{model} is not on this machine")
        _show_offer(offer, as_json)
        return
    if verify:
        installed = store.verify(model)
    entry, outlook = installed.entry, app_facts.outlook(config, installed)
    if as_json:
        fit = dataclasses.asdict(outlook) | {"fits_now": outlook.fits_now}
        write_json(dataclasses.asdict(entry) | {"path": str(installed.path), "outlook": fit})
        return
    speed = f"{outlook.decode_tokens_per_s:.0f} tokens/s, prompts {outlook.prefill_tokens_per_s:.0f} tokens/s"
    verdict = "yes" if outlook.fits_now else "no"
    needs, free = human_size(outlook.needed_bytes), human_size(outlook.available_bytes)
    source = "measured here" if outlook.is_measured else "rough guess; `unhosted bench` measures"
    write_facts(
        [
            ("name", entry.name),
            ("aliases", ", ".join(entry.aliases) or "-"),
            ("architecture", entry.architecture),
            ("parameters", human_count(entry.parameters)),
            ("quantization", entry.quantization),
            ("context", f"{entry.context_tokens} tokens"),
            ("licence", entry.licence or "not stated in the file"),
            ("size", f"{human_size(entry.size_bytes)} ({entry.size_bytes} bytes)"),
            ("source", entry.source),
            ("file", str(installed.path)),
            ("blake3", entry.blake3),
            (
                "fits now",
                f"{verdict}: needs {needs} for {config.slots} requests of {outlook.context_tokens} tokens"
                f" at once, {free} free",
            ),
            ("speed", f"about {speed} ({source})"),
        ]
    )


def _show_offer(offer: "Offer", as_json: bool) -> None:
    from unhosted.node.app_facts import memory_bytes

    available, total = memory_bytes()
    if as_json:
        write_json(dataclasses.asdict(offer) | {"available_bytes": available, "total_bytes": total})
        return
    about = "" if offer.size_exact else "about "
    fits = "yes, as it looks" if offer.size_bytes * 6 // 5 <= available else "not beside what runs now"
    write_facts(
        [
            ("name", offer.name),
            ("model", offer.title),
            ("kind", offer.kind),
            ("parameters", human_count(offer.parameters)),
            ("quantization", offer.quantization),
            ("context", f"{offer.context_tokens} tokens"),
            ("licence", offer.licence),
            ("size", about + human_size(offer.size_bytes)),
            ("source", offer.ref),
            ("fits now", f"{fits}; {human_size(available)} free"),
            ("here", f"no: unhosted pull {offer.name}"),
        ]
    )


@click.command("rm")
@model_argument(required=False, many=True)
@click.option("--unfinished", is_flag=True, help="Also what pulls that never ended left behind.")
@json_option
def remove(models: tuple[str, ...], unfinished: bool, as_json: bool) -> None:
    """Remove MODELS and free their space. Files that other programs own stay where they are."""
    from unhosted.node import app

    if not models and not unfinished:
        raise click.UsageError("name a model (`unhosted list` shows them), or give --unfinished")
    store = app.model_store(load_config())
    removed = []
    try:
        if unfinished:
            removed.append({"name": "unfinished pulls", "freed_bytes": store.prune()})
        for model in models:
            removed.append({"name": model, "freed_bytes": store.remove(model)})
    finally:
        if as_json:
            write_json(removed)
        else:
            for done in removed:
                note(f"removed {done['name']}, {human_size(int(str(done['freed_bytes'])))} freed")
