"""`unhosted version`."""

import platform

import click

from unhosted.node.cli.common import json_option
from unhosted.node.cli.output import write_json
from unhosted.node.version import installed_version


@click.command()
@json_option
def version(as_json: bool = False) -> None:
    """Print the version."""
    if as_json:
        write_json({"version": installed_version(), "python": platform.python_version()})
    else:
        click.echo(f"unhosted {installed_version()}")
