"""`unhosted config`: settings as they are in force, and where each comes from."""

import click

from unhosted.node import config as settings
from unhosted.node.cli.common import json_option
from unhosted.node.cli.output import note, write_json, write_table


def _complete_keys(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    return [key.name for key in settings.KEYS if key.name.startswith(incomplete)]


@click.group()
def config() -> None:
    """Read and change settings.

    Flags win over UNHOSTED_* environment variables, these over the file. Changes go to the file.
    """


@config.command("list")
@json_option
def list_settings(as_json: bool) -> None:
    """Show every setting, its value and where that comes from."""
    loaded = settings.load()
    if as_json:
        values = {key.name: settings.show_value(loaded, key) for key in settings.KEYS}
        origins = {key.name: loaded.origins.get(key.field, "default") for key in settings.KEYS}
        write_json({"file": str(loaded.paths.config_file), "values": values, "origins": origins})
        return
    rows = [
        (key.name, _shown(loaded, key), loaded.origins.get(key.field, "default"), key.help)
        for key in settings.KEYS
    ]
    write_table([("KEY", "left"), ("VALUE", "left"), ("FROM", "left"), ("MEANING", "left")], rows)
    note(f"file: {loaded.paths.config_file}")


@config.command("get")
@click.argument("key", shell_complete=_complete_keys)
@json_option
def get_setting(key: str, as_json: bool) -> None:
    """Print the value of KEY."""
    found = settings.find_key(key, source="config")
    loaded = settings.load()
    if as_json:
        origin = loaded.origins.get(found.field, "default")
        write_json({"key": found.name, "value": settings.show_value(loaded, found), "origin": origin})
    else:
        click.echo(_shown(loaded, found))


@config.command("set")
@click.argument("key", shell_complete=_complete_keys)
@click.argument("value")
@json_option
def set_setting(key: str, value: str, as_json: bool) -> None:
    """Write VALUE for KEY to the file, whose comments are kept."""
    paths = settings.locate()
    found = settings.set_value(paths, key, value)
    loaded = settings.load()
    origin = loaded.origins.get(found.field, "default")
    if as_json:
        write_json({"key": found.name, "value": settings.show_value(loaded, found), "origin": origin})
    if origin == "environment":
        note(f"{found.variable} is set and wins over the file")


def _shown(loaded: settings.Config, key: settings.Key) -> str:
    value = settings.show_value(loaded, key)
    if isinstance(value, bool):
        return "true" if value else "false"
    return ",".join(value) if isinstance(value, list) else str(value)
