"""Options that several commands share, and the settings they add up to."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from unhosted.node import config as settings
from unhosted.node.config import Config

F = TypeVar("F", bound=Callable[..., Any])


def json_option(command: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def offline_option(command: F) -> F:
    text = "Make no connection outside this machine, and refuse whatever tries."
    return click.option("--offline", is_flag=True, default=None, help=text)(command)


def model_argument(*, required: bool = True, many: bool = False) -> Callable[[F], F]:
    return click.argument(
        "models" if many else "model",
        nargs=-1 if many else 1,
        required=required,
        shell_complete=complete_models,
    )


def load_config(**flags: object) -> Config:
    """Settings with the flags of this call on top. Offline is enforced from here on, before other imports."""
    config = settings.load(flags)
    if config.offline:
        from unhosted.node import app_offline

        app_offline.install(True)
    return config


def complete_models(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Names in the store that begin with what is typed. A completion never fails: it stays silent."""
    try:
        from unhosted.node import app

        entries = app.model_store(settings.load()).entries()
        names = {name for entry in entries for name in (entry.name, *entry.aliases)}
    except Exception:
        return []
    return sorted(name for name in names if name.startswith(incomplete))
