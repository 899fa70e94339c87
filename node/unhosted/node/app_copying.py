"""Models as files: from a stick into the store and out of it, for the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unhosted.node.app import model_store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from unhosted.node.config import Config
    from unhosted.node.shell.models.copying import Exported
    from unhosted.node.shell.models.progress import PullProgress
    from unhosted.node.shell.models.store import InstalledModel


async def copy_in(
    config: Config, path: Path, name: str | None, progress: Callable[[PullProgress], None]
) -> InstalledModel:
    """Copy a file into the store, as `name` if one is given; see `shell.models.copying.copy_in`."""
    from unhosted.node.shell.models import copying

    return await copying.copy_in(model_store(config), path, name=name, progress=progress)


async def export(
    config: Config, model: str, target: Path, progress: Callable[[PullProgress], None]
) -> Exported:
    """Copy a model out of the store; see `shell.models.copying.export_model`."""
    from unhosted.node.shell.models import copying

    return await copying.export_model(model_store(config), model, target, progress=progress)


def is_elsewhere(config: Config, path: Path) -> bool:
    """Whether the file is on another disk than the store, and gone when that is unplugged."""
    from unhosted.node.shell.models import copying

    return copying.is_elsewhere(model_store(config), path)
