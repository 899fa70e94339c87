"""`unhosted ps`: what the running node has loaded."""

import click

from unhosted.node.cli.common import json_option, load_config
from unhosted.node.cli.output import Column, human_duration, human_size, note, write_json, write_table
from unhosted.node.cli.remote import fetch, running_server


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), help="Port of the node.")
@json_option
def ps(port: int | None, as_json: bool) -> None:
    """Show the models that the running node has loaded."""
    config = load_config(port=port)
    server = running_server(config)
    loaded = fetch(server, "/api/models")["loaded"]
    if as_json:
        write_json(loaded)
        return
    columns: list[Column] = [
        ("NAME", "left"),
        ("STATE", "left"),
        ("BUSY", "right"),
        ("QUEUED", "right"),
        ("CONTEXT", "right"),
        ("MEMORY", "right"),
        ("IDLE", "right"),
        ("RESTARTS", "right"),
        ("PID", "right"),
        ("NETWORK", "left"),
    ]
    rows = [
        (
            model["model"],
            model["state"],
            f"{model['slots_busy']}/{model['slots']}",
            str(model["queued"]),
            str(model["context_tokens"]),
            human_size(model["bytes_estimated"]),
            "-" if model["slots_busy"] else human_duration(model["idle_s"]),
            str(model["restarts"]),
            str(model["pid"]),
            {"network-namespace": "none", "audit-hook": "refused"}.get(model["sandbox"], model["sandbox"]),
        )
        for model in loaded
    ]
    if rows:
        write_table(columns, rows)
    else:
        note(f"the node at {server.url} has no model loaded; the first request loads one")
