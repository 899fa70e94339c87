"""A few peers with stores, connected by the fake network, their bulk connections real ones over loopback."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import trio

from tests.fake_network import Fabric, FakeNetwork
from unhosted.node.core.chunks import chunk_count, chunk_span
from unhosted.node.core.peering import Capabilities, Channel, ChannelBroken, Connection, PeerFacts
from unhosted.node.shell.models.files import hash_file
from unhosted.node.shell.models.progress import Meter, PullProgress
from unhosted.node.shell.models.store import InstalledModel, ModelStore
from unhosted.node.shell.nurseries import plain_nursery
from unhosted.node.shell.transfer.fetch import Fetched, PeerModels, Source, Wanted
from unhosted.node.shell.transfer.messages import (
    MESSAGE_BYTES_MAX,
    PIECE_BYTES,
    PROTOCOL,
    Chunk,
    GetChunk,
    GetHashes,
    GetSideband,
    Hashes,
    No,
    Offered,
    Open,
    decode_request,
    encode_message,
)
from unhosted.node.shell.transfer.serving import ModelServing
from unhosted.node.shell.transfer.sideband import Sideband

PATIENCE_S = 20
ANY_ADDRESS = "/ip4/127.0.0.1/tcp/1"


class LoopbackNetwork(FakeNetwork):
    """Says that its peers are on loopback, so that bulk connections to them are tried."""

    def connections(self) -> tuple[Connection, ...]:
        return tuple(
            Connection(peer=peer, path="lan", remote_address=ANY_ADDRESS, is_outbound=True, round_trip_s=None)
            for peer in self.live
        )


@dataclass(eq=False, kw_only=True)
class Peer:
    """capabilities: what this peer lets the others do, None for nothing; may be changed while it runs."""

    name: str
    network: FakeNetwork
    store: ModelStore
    serving: ModelServing
    sideband: Sideband | None
    capabilities: list[Capabilities | None]


@dataclass(eq=False, kw_only=True)
class Town:
    """`home` is the one that fetches; it is connected to all others."""

    fabric: Fabric
    nursery: trio.Nursery
    root: Path
    home: FakeNetwork
    peers: dict[str, Peer] = field(default_factory=dict)
    facts: dict[str, PeerFacts] = field(default_factory=dict)
    faults: list[tuple[str, str]] = field(default_factory=list)
    seen: list[PullProgress] = field(default_factory=list)

    async def add(
        self, name: str, *, model: Path | None = None, sideband: bool = True, listed: bool = True
    ) -> Peer:
        """A peer with its store. sideband: whether it listens for bulk connections."""
        network = FakeNetwork(self.fabric, name, paired={self.home.peer})
        await self.nursery.start(network.run)
        store = ModelStore(self.root / name)
        bulk = Sideband(0, host="127.0.0.1") if sideband else None
        if bulk is not None:
            await self.nursery.start(bulk.run)
        capabilities: list[Capabilities | None] = [Capabilities()]
        serving = ModelServing(network, store, capabilities=lambda peer: capabilities[0], sideband=bulk)
        serving.start()
        peer = Peer(
            name=name,
            network=network,
            store=store,
            serving=serving,
            sideband=bulk,
            capabilities=capabilities,
        )
        if model is not None:
            put(store, model)
        self.peers[name] = peer
        await self.home.connect(name, network.addresses(), timeout_s=1)
        return peer

    async def add_liar(self, name: str, handler: Callable[[Channel], Awaitable[None]]) -> FakeNetwork:
        """A paired peer whose sessions `handler` answers."""
        network = FakeNetwork(self.fabric, name, paired={self.home.peer})
        network.serve(PROTOCOL, handler, access="paired", message_bytes_max=MESSAGE_BYTES_MAX)
        await self.nursery.start(network.run)
        await self.home.connect(name, network.addresses(), timeout_s=1)
        return network

    def models(self) -> PeerModels:
        def sources() -> Sequence[Source]:
            return [
                Source(peer=peer, name=peer.upper(), facts=self.facts.get(peer)) for peer in self.home.live
            ]

        return PeerModels(
            self.home, sources=sources, on_fault=lambda peer, what: self.faults.append((peer, what))
        )

    async def fetch(self, blake3: str, **more: int) -> Fetched | None:
        """Fetch to `target`, reports in `seen`."""
        return await self.models().fetch(
            Wanted(blake3=blake3, size_bytes=more.get("size_bytes")),
            data_path=self.target,
            journal_path=self.target.with_suffix(".journal"),
            meter=Meter("model", self.seen.append),
        )

    @property
    def target(self) -> Path:
        return self.root / "fetched.data"


@asynccontextmanager
async def town(root: Path, *, patience_s: float = PATIENCE_S) -> AsyncIterator[Town]:
    fabric = Fabric()
    home = LoopbackNetwork(fabric, "home")
    with trio.fail_after(patience_s):
        async with plain_nursery() as nursery:
            await nursery.start(home.run)
            yield Town(fabric=fabric, nursery=nursery, root=root, home=home)


class Scripted:
    """A peer that follows the protocol by hand, with faults. data: what it gives. wrong: chunks of which it
    changes a byte. gives: chunks before it stops, by `then`: stays silent, or breaks the channel. go: awaited
    before each chunk.
    """

    def __init__(
        self,
        data: bytes,
        *,
        claimed: bytes | None = None,
        wrong: frozenset[int] = frozenset(),
        gives: int = 1_000_000,
        then: Literal["silent", "break"] = "break",
        size_bytes: int | None = None,
        go: trio.Event | None = None,
    ) -> None:
        from blake3 import blake3

        self.data = data
        spans = [chunk_span(len(data), chunk) for chunk in range(chunk_count(len(data)))]
        self.hashes = b"".join(blake3(data[start:end]).digest() for start, end in spans)
        self.offer = Offered(
            size_bytes=size_bytes or len(data),
            blake3=blake3(claimed or data).digest(),
            sha256=bytes(32),
            root=blake3(self.hashes).digest(),
            name="model",
        )
        self.wrong = wrong
        self.gives = gives
        self.then = then
        self.go = go
        self.asked: list[int] = []
        self.is_asked = trio.Event()
        self.stopped = trio.Event()

    async def answer(self, channel: Channel) -> None:
        while (message := await channel.receive()) is not None:
            match decode_request(message):
                case Open():
                    await channel.send(encode_message(self.offer))
                case GetHashes(at=at):
                    await channel.send(encode_message(Hashes(at=at, hashes=self.hashes[at * 32 :])))
                case GetSideband():
                    await channel.send(encode_message(No(code="not_supported", message="none here")))
                case GetChunk(chunk=chunk):
                    await self._give(channel, chunk)
        await channel.end()

    async def _give(self, channel: Channel, chunk: int) -> None:
        self.asked.append(chunk)
        self.is_asked.set()
        if self.go is not None:
            await self.go.wait()
        if len(self.asked) > self.gives:
            self.stopped.set()
            if self.then == "break":
                raise ChannelBroken("the plug was pulled")
            await trio.sleep_forever()
        start, end = chunk_span(len(self.data), chunk)
        data = bytearray(self.data[start:end])
        if chunk in self.wrong:
            data[len(data) // 2] ^= 1
        await channel.send(encode_message(Chunk(chunk=chunk, size_bytes=len(data))))
        for at in range(0, len(data), PIECE_BYTES):
            await channel.send(bytes(data[at : at + PIECE_BYTES]))


def put(store: ModelStore, model: Path, *, name: str = "model") -> InstalledModel:
    """Install a copy of `model`."""
    copy = store.partial_dir / "copy"
    copy.write_bytes(model.read_bytes())
    return store.install(copy, name=name, source="test", digests=hash_file(copy))
