"""Puts the parts together. The only door from the command line and HTTP to what lies in `shell`."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from unhosted.node.config import Config

if TYPE_CHECKING:  # each of these takes a while to import, and few commands need them all
    import trio

    from unhosted.node.app_node import AppNode
    from unhosted.node.http.server import BoundAddress
    from unhosted.node.shell.models.progress import PullProgress
    from unhosted.node.shell.models.store import InstalledModel, ModelStore

TOKEN_BYTES = 32
"""256 bits: guessing one is hopeless at any rate a network allows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeInfo:
    """What `serve` tells its user once it listens. token: the bearer key, when the bind needs one."""

    host: str
    port: int
    offline: bool
    token: str | None
    models: tuple[str, ...]
    library: str
    sandbox: str


def model_store(config: Config) -> ModelStore:
    """The models of this configuration; nothing is created before something is pulled."""
    from unhosted.node.shell.models.store import ModelStore

    return ModelStore(config.paths.models_dir)


@asynccontextmanager
async def open_node(config: Config, *, offline: bool | None = None) -> AsyncIterator[AppNode]:
    """A node with its engines, for as long as the context lasts. Models load at their first request."""
    from unhosted.node.app_facts import engine_settings
    from unhosted.node.app_node import AppNode
    from unhosted.node.shell.engine.manager import EngineManager
    from unhosted.node.shell.nurseries import plain_nursery

    if offline or config.offline:
        from unhosted.node.shell import offline as guard

        guard.install(True)
    store = model_store(config)
    engines = EngineManager(engine_settings(config), store.resolve)
    async with plain_nursery() as nursery:
        await nursery.start(engines.run)
        yield AppNode(config, store=store, engines=engines)


async def serve(config: Config, *, on_started: Callable[[ServeInfo], None]) -> None:
    """Run the node and its HTTP API until cancelled; then answers under way get a moment to end.

    Raises: Refused; OSError when the address cannot be bound.
    """
    import trio

    from unhosted.node.app_facts import library_facts, sandbox_level
    from unhosted.node.http.server import serve_http
    from unhosted.node.http.settings import HttpSettings, is_loopback_host

    token = None if is_loopback_host(config.host) else api_token(config)
    settings = HttpSettings(
        host=config.host,
        port=config.port,
        token=token,
        hosts=config.allowed_hosts,
        origins=config.allowed_origins,
    )
    library = await trio.to_thread.run_sync(library_facts)
    async with open_node(config) as node, trio.open_nursery() as nursery:
        shutdown = trio.Event()
        scope = trio.CancelScope(shield=True)

        async def run_http(*, task_status: trio.TaskStatus[BoundAddress]) -> None:
            # Shielded: being told to stop means to stop taking requests, not to cut those under way.
            with scope:
                await serve_http(node, settings, shutdown=shutdown, task_status=task_status)

        bound = await nursery.start(run_http)
        on_started(
            ServeInfo(
                host=bound.host,
                port=bound.port,
                offline=config.offline,
                token=token,
                models=tuple(entry.name for entry in node.models()),
                library=library.fault or f"{library.kind} {library.version}",
                sandbox=await trio.to_thread.run_sync(sandbox_level),
            )
        )
        try:
            await trio.sleep_forever()
        finally:
            shutdown.set()


async def pull(config: Config, ref: str, progress: Callable[[PullProgress], None]) -> InstalledModel:
    """Fetch a model into the store; see `shell.models.pull.pull`."""
    from unhosted.node.shell.models.pull import pull as fetch
    from unhosted.node.shell.models.settings import settings_from_environment
    from unhosted.node.version import installed_version

    settings = replace(
        settings_from_environment(os.environ, home=Path.home(), offline=config.offline),
        user_agent=f"unhosted/{installed_version()}",
    )
    return await fetch(model_store(config), ref, settings=settings, progress=progress)


def api_token(config: Config) -> str:
    """The bearer key of this node: made at first use, then read from its file (mode 0600)."""
    path = config.paths.api_token_file
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        token = secrets.token_urlsafe(TOKEN_BYTES)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(token + "\n")
        return token
