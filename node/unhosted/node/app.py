"""Puts the parts together. The only door from the command line and HTTP to what lies in `shell`."""

from __future__ import annotations

import os
import platform
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from unhosted.node.config import Config
from unhosted.node.core.errors import Refused

if TYPE_CHECKING:  # each of these takes a while to import, and few commands need them all
    import trio

    from unhosted.node.app_node import AppNode
    from unhosted.node.app_trusted import TrustedRing
    from unhosted.node.http.server import BoundAddress
    from unhosted.node.http.settings import HttpSettings
    from unhosted.node.shell.models.progress import PullProgress
    from unhosted.node.shell.models.store import InstalledModel, ModelStore
    from unhosted.node.shell.transfer.fetch import PeerModels

TOKEN_BYTES = 32
"""256 bits: guessing one is hopeless at any rate a network allows."""

TOKEN_CHARS_MIN = 16
"""An owner may write a key of their own; a file cut short by a full disk must not become an easy one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeInfo:
    """What `serve` tells its user once it listens. token: the bearer key, when the bind needs one.

    peer: this machine's id among paired ones; None while the trusted ring is not on.
    """

    host: str
    port: int
    offline: bool
    token: str | None
    models: tuple[str, ...]
    library: str
    sandbox: str
    peer: str | None = None
    peer_addresses: tuple[str, ...] = ()


def model_store(config: Config) -> ModelStore:
    """The models of this configuration; nothing is created before something is pulled."""
    from unhosted.node.shell.models.store import ModelStore

    return ModelStore(config.paths.models_dir)


@asynccontextmanager
async def open_node(
    config: Config, *, offline: bool | None = None, with_peers: bool = False
) -> AsyncIterator[AppNode]:
    """A node with its engines, for as long as the context lasts. Models load at their first request.

    with_peers: also reach paired machines, if the configuration allows it; entered when that is on.
    """
    async with _open_node(config, offline=offline) as (node, trusted, nursery):
        if with_peers:
            await nursery.start(trusted.run)
        yield node


@asynccontextmanager
async def _open_node(
    config: Config, *, offline: bool | None = None
) -> AsyncIterator[tuple[AppNode, TrustedRing, trio.Nursery]]:
    """The node and its trusted ring, which is not started yet, and where to start it."""
    from unhosted.node.app_asks import LocalAnswering
    from unhosted.node.app_facts import engine_settings
    from unhosted.node.app_node import AppNode
    from unhosted.node.app_own_facts import OwnFacts
    from unhosted.node.app_trusted import TrustedRing
    from unhosted.node.core.inference import Priority
    from unhosted.node.core.peer_names import clean_name
    from unhosted.node.shell.engine.manager import EngineManager
    from unhosted.node.shell.nurseries import plain_nursery

    if offline or config.offline:
        from unhosted.node.shell import offline as guard

        guard.install(True)
        config = replace(config, offline=True)
    name = clean_name(config.peers_name or platform.node()) or "this machine"
    store = model_store(config)
    engines = EngineManager(engine_settings(config), store.resolve)
    own_facts = OwnFacts(config, store, engines.loaded)
    trusted = TrustedRing(
        config,
        name=name,
        store=store,
        answering=LocalAnswering(
            engines,
            store.resolve,
            priority=Priority.TRUSTED,
            observe=own_facts.observe,
            is_full=own_facts.is_full,
        ),
        models=own_facts.models,
        loaded=engines.loaded,
        engines=engines,
    )
    node = AppNode(config, name=name, store=store, engines=engines, own_facts=own_facts, trusted=trusted)
    node.checks.ask_for_word = trusted.ask_for_word
    async with plain_nursery() as nursery:
        await nursery.start(engines.run)
        await nursery.start(own_facts.keep_fresh)
        yield node, trusted, nursery


async def serve(config: Config, *, on_started: Callable[[ServeInfo], None]) -> None:
    """Run the node and its HTTP API until cancelled; then answers under way get a moment to end.

    Raises: Refused; OSError when the address cannot be bound.
    """
    import trio

    from unhosted.node.app_facts import library_facts, sandbox_level
    from unhosted.node.http.server import serve_http
    from unhosted.node.shell.collector import calm_collector

    settings = http_settings(config)
    library = await trio.to_thread.run_sync(library_facts)
    sandbox = await trio.to_thread.run_sync(sandbox_level)
    shutdown = trio.Event()

    async def run_node(*, task_status: trio.TaskStatus[None]) -> None:
        # Shielded, with the engines: being told to stop means to take no more requests, not to cut those
        # under way.
        with trio.CancelScope(shield=True):
            async with _open_node(config) as (node, trusted, nursery), trio.open_nursery() as serving:
                bound: BoundAddress = await serving.start(
                    partial(serve_http, node, settings, shutdown=shutdown)
                )
                await nursery.start(trusted.run)
                await nursery.start(node.checks.run)
                described = trusted.describe()
                on_started(
                    ServeInfo(
                        host=bound.host,
                        port=bound.port,
                        offline=config.offline,
                        token=settings.token,
                        models=tuple(entry.name for entry in node.models()),
                        library=library.fault or f"{library.kind} {library.version}",
                        sandbox=sandbox,
                        peer=None if described is None else described.peer,
                        peer_addresses=() if described is None else described.addresses,
                    )
                )
                calm_collector()
                task_status.started()

    async with trio.open_nursery() as nursery:
        try:
            await nursery.start(run_node)
            await trio.sleep_forever()
        finally:
            shutdown.set()


def http_settings(config: Config) -> HttpSettings:
    """What HTTP is to do, with the key where the bind needs one. Raises: OSError from the key's file."""
    from unhosted.node.http.settings import HttpSettings, is_loopback_host

    settings = HttpSettings(
        host=config.host,
        port=config.port,
        token=None if is_loopback_host(config.host) else api_token(config),
        hosts=config.allowed_hosts,
        origins=config.allowed_origins,
    )
    # A queue that the owner made long is of use only if its requests get as far as the engine.
    requests_max = max(settings.requests_max, config.slots + config.queue_max)
    connections_max = max(settings.connections_max, 2 * requests_max)
    return replace(settings, requests_max=requests_max, connections_max=connections_max)


async def pull(
    config: Config, ref: str, progress: Callable[[PullProgress], None], name: str | None = None
) -> InstalledModel:
    """Fetch a model into the store from its origin; see `shell.models.pull.pull`."""
    return await fetch_model(config, model_store(config), ref, progress, name=name)


async def fetch_model(
    config: Config,
    store: ModelStore,
    ref: str,
    progress: Callable[[PullProgress], None],
    *,
    name: str | None = None,
    peers: PeerModels | None = None,
) -> InstalledModel:
    """`pull`, with paired peers as sources that are asked first."""
    from unhosted.node.shell.models.pull import pull as fetch
    from unhosted.node.shell.models.settings import settings_from_environment
    from unhosted.node.version import installed_version

    settings = replace(
        settings_from_environment(os.environ, home=Path.home(), offline=config.offline),
        user_agent=f"unhosted/{installed_version()}",
    )
    return await fetch(store, ref, settings=settings, progress=progress, name=name, peers=peers)


def api_token(config: Config) -> str:
    """The bearer key of this node: made at first use, then read from its file (mode 0600).

    Raises: OSError; Refused if the file holds no key.
    """
    path = config.paths.api_token_file
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_urlsafe(TOKEN_BYTES) + "\n")
            # A link and not a rename: of two nodes that start at once both get the key of the first.
            with suppress(FileExistsError):
                os.link(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    token = path.read_text("utf-8", "replace").strip()
    if not token.isascii() or not token.isprintable() or len(token) < TOKEN_CHARS_MIN:
        raise Refused(
            "invalid_request", f"{path} holds no key of {TOKEN_CHARS_MIN} characters: remove it for a new one"
        )
    return token
