"""The parts of the trusted ring, put together. Importing this imports libp2p: never offline."""

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from unhosted.node.app_calibrate import calibration_store
from unhosted.node.config import Config
from unhosted.node.core.allowance import utc_day
from unhosted.node.core.asks import Answering
from unhosted.node.core.inference import Engines
from unhosted.node.core.peering import Capabilities, ModelFacts, PeerFacts, PeerId
from unhosted.node.shell.checking.third_party import Asker, CheckServer
from unhosted.node.shell.discovery.finder import Finder
from unhosted.node.shell.evidence.tables import table_for
from unhosted.node.shell.models.store import ModelStore
from unhosted.node.shell.nurseries import plain_nursery
from unhosted.node.shell.peers.identity import Identity, load_identity
from unhosted.node.shell.peers.network import LibP2PNetwork
from unhosted.node.shell.peers.punch import Puncher
from unhosted.node.shell.peers.relay import Relay
from unhosted.node.shell.presence import OwnPresence
from unhosted.node.shell.reach.announce import announced
from unhosted.node.shell.reach.mapping import PortMapping, Reach
from unhosted.node.shell.transfer.fetch import PeerModels, Source
from unhosted.node.shell.transfer.serving import ModelServing
from unhosted.node.shell.transfer.sideband import Sideband
from unhosted.node.shell.trusted.book import PeerBook
from unhosted.node.shell.trusted.links import Links
from unhosted.node.shell.trusted.pairing import Pairings
from unhosted.node.shell.trusted.serving import Serving
from unhosted.node.shell.trusted.wire_messages import Hello

IPV6_FILE = Path("/proc/net/if_inet6")
"""There when the kernel speaks IPv6; other systems always do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What the ring takes from the rest of the node. answering: with the priority of peers.

    on_observed: a paired peer was heard of, or lost (and why). on_change: of peers or pairings; called in
    the loop's thread. engines: to read evidence with for peers; None: nothing is read for them.
    """

    config: Config
    name: str
    version: str
    store: ModelStore
    answering: Answering
    models: Callable[[], tuple[ModelFacts, ...]]
    engine_pids: Callable[[], tuple[int, ...]]
    unix_s: Callable[[], int]
    on_observed: Callable[[PeerId, bool, str], None]
    on_change: Callable[[], None]
    engines: Engines | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    network: LibP2PNetwork
    book: PeerBook
    finder: Finder
    links: Links
    pairings: Pairings
    presence: OwnPresence
    models: PeerModels
    mapping: PortMapping | None
    asker: Asker

    def outside(self) -> Reach | None:
        """What became of asking the router; None if it is not asked."""
        return None if self.mapping is None else self.mapping.reach


@asynccontextmanager
async def open_parts(needs: Needs) -> AsyncIterator[Parts]:
    """The ring, running for as long as the context lasts. Raises: Refused, OSError."""
    config = needs.config
    identity = await trio.to_thread.run_sync(load_identity, config.paths.identity_file)
    book = await trio.to_thread.run_sync(PeerBook, config.paths.peers_file)
    try:
        async with plain_nursery() as nursery:
            port = config.peers_port or _free_port(config.peers_host)
            network = LibP2PNetwork(
                identity,
                listen=_listen(config.peers_host, port),
                is_paired=book.is_paired,
                interface_allowed=partial(_is_allowed, config.peers_interfaces),
                agent=f"unhosted/{needs.version}",
            )
            await nursery.start(network.run)
            if config.check_for_peers and needs.engines is not None:
                await _serve_checks(config, needs.engines, book, identity, network)
            yield await _start_rest(needs, book, network, port, nursery.start)
            nursery.cancel_scope.cancel()
    finally:
        book.close()


Start = Callable[..., Awaitable[object]]
"""As `trio.Nursery.start`."""


async def _start_rest(needs: Needs, book: PeerBook, network: LibP2PNetwork, port: int, start: Start) -> Parts:
    config = needs.config
    finder, links = _finding(needs, book, network, port)
    pairings = Pairings(
        network,
        book,
        own_name=needs.name,
        seen=lambda: [(one.peer, one.addresses) for one in finder.seen()],
        on_change=needs.on_change,
    )
    presence = OwnPresence(
        quiet_hours=config.peers_quiet_hours,
        pause_when_busy=config.peers_pause_when_busy,
        engine_pids=needs.engine_pids,
        on_change=needs.on_change,
    )
    sideband = Sideband(config.peers_bulk_port, host=config.peers_host or None)
    relay = Relay(network, is_paired=book.is_paired, is_relay=config.peers_relay)
    await _start_serving(needs, book, network, presence, sideband, start)
    for run in (pairings.run, relay.run, Puncher(network).run, finder.run, links.run):
        await start(run)
    await start(partial(_watch_connections, network, finder, links, needs.on_change))
    return Parts(
        network=network,
        book=book,
        finder=finder,
        links=links,
        pairings=pairings,
        presence=presence,
        models=PeerModels(network, sources=partial(_sources, network, book, links)),
        asker=Asker(network),
        mapping=await _map_ports(config, network, (port, sideband.port), start),
    )


def _finding(needs: Needs, book: PeerBook, network: LibP2PNetwork, port: int) -> tuple[Finder, Links]:
    """Who is where, and the links over the connections to them; each knows of the other."""
    config = needs.config
    finder = Finder(
        network,
        book,
        name=needs.name,
        version=needs.version,
        port=port,
        mdns=config.peers_mdns,
        interfaces=config.peers_interfaces,
        facts=lambda peer: links.facts(peer),
        tokens_today=lambda peer: book.tokens(peer, utc_day(needs.unix_s())),
    )

    def observed(peer: PeerId, heard: bool, why: str) -> None:
        needs.on_observed(peer, heard, why)
        needs.on_change()

    links = Links(
        network,
        paired=lambda: [one.peer for one in book.peers() if one.state == "paired"],
        ensure=lambda peer, timeout_s: finder.ensure(peer, timeout_s=timeout_s),
        hello=Hello(name=needs.name, version=needs.version),
        on_observed=observed,
    )
    return finder, links


async def _start_serving(
    needs: Needs,
    book: PeerBook,
    network: LibP2PNetwork,
    presence: OwnPresence,
    sideband: Sideband,
    start: Start,
) -> None:
    """What this machine does for its peers: answers, and models."""

    def own_facts() -> PeerFacts:
        accepting, why_not = presence.accepting()
        return PeerFacts(
            name=needs.name,
            version=needs.version,
            accepting=accepting,
            why_not=why_not,
            models=needs.models(),
        )

    serving = Serving(
        network,
        answering=needs.answering,
        book=book,
        facts=own_facts,
        accepting=presence.accepting,
    )
    models = ModelServing(network, needs.store, capabilities=partial(_capabilities, book), sideband=sideband)
    models.start()
    for run in (presence.run, sideband.run, serving.run, models.run):
        await start(run)


async def _serve_checks(
    config: Config, engines: Engines, book: PeerBook, identity: Identity, network: LibP2PNetwork
) -> None:
    """Evidence read again for paired peers that may ask for work here at all."""
    tables = await trio.to_thread.run_sync(calibration_store, config)

    def may_ask(peer: PeerId) -> bool:
        capabilities = _capabilities(book, peer)
        return capabilities is not None and capabilities.may_ask

    server = CheckServer(identity, engines, lambda model: partial(table_for, tables, model), may_ask=may_ask)
    server.start(network)


async def _watch_connections(
    network: LibP2PNetwork,
    finder: Finder,
    links: Links,
    on_change: Callable[[], None],
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """A connection that comes or goes is acted on at once, not at the next look."""
    version = -1
    task_status.started()
    while True:
        version, _ = await network.changed(version)
        finder.look_now()
        links.look_now()
        on_change()


async def _map_ports(
    config: Config,
    network: LibP2PNetwork,
    ports: tuple[int, int],
    start: Start,
) -> PortMapping | None:
    named = announced(config.peers_announce)
    network.announce(named)
    if not config.peers_port_mapping:
        return None

    def tell(reach: Reach) -> None:
        outside = reach.multiaddr(ports[0])
        network.announce((*named, outside) if outside else named)

    mapping = PortMapping(ports, on_change=tell)
    await start(mapping.run)
    return mapping


def _sources(network: LibP2PNetwork, book: PeerBook, links: Links) -> list[Source]:
    connected = {connection.peer for connection in network.connections()}
    return [
        Source(peer=one.peer, name=one.name, facts=links.facts(one.peer))
        for one in book.peers()
        if one.state == "paired" and one.peer in connected
    ]


def _capabilities(book: PeerBook, peer: PeerId) -> Capabilities | None:
    found = book.get(peer)
    return found.capabilities if found is not None and found.state == "paired" else None


def _listen(host: str, port: int) -> list[tuple[str, int]]:
    if host:
        return [(host, port)]
    both = [("0.0.0.0", port)]
    if socket.has_ipv6 and (IPV6_FILE.exists() or not Path("/proc/net").exists()):
        both.append(("::", port))
    return both


def _free_port(host: str) -> int:
    """One number for both IP versions, which port 0 would not give."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((host or "0.0.0.0", 0))
        port: int = probe.getsockname()[1]
    return port


def _is_allowed(interfaces: tuple[str, ...], name: str, ip: str) -> bool:
    return not interfaces or name in interfaces or ip in interfaces
