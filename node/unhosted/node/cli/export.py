"""`unhosted export`: a model as a file, for a stick or another machine."""

import dataclasses
from pathlib import Path

import click

from unhosted.node.cli.common import complete_models, json_option, load_config
from unhosted.node.cli.output import human_size, note, write_json
from unhosted.node.cli.pull import Progress


@click.command()
@click.argument("model", shell_complete=complete_models)
@click.argument("path", type=click.Path(path_type=Path))
@json_option
def export(model: str, path: Path, as_json: bool) -> None:
    """Copy MODEL to PATH, a folder or a new file, with its digests beside it.

    On the other machine: `unhosted pull PATH --copy`. What is read is checked while it is copied.
    """
    import trio

    from unhosted.node import app_copying

    config = load_config()
    with Progress() as progress:
        exported = trio.run(app_copying.export, config, model, path, progress.show)
    if as_json:
        write_json(dataclasses.asdict(exported))
        return
    note(f"{exported.path}: {human_size(exported.size_bytes)}; its digests are in {exported.sidecar}")
    note(f"on the other machine: unhosted pull {exported.path.name} --copy")
