"""A laptop that asks a desktop: two peers on a network, and what the tests turn and look at."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import trio

from tests.fake_network import Fabric, FakeChannel, FakeNetwork
from tests.node.infer.fake_engine import FACTS, MODEL, FakeBook, FakeEngine
from unhosted.node.core.asks import Ask
from unhosted.node.core.peering import Capabilities, Connection, PeerFacts, PeerId
from unhosted.node.shell.trusted.link import PeerLink
from unhosted.node.shell.trusted.links import Links
from unhosted.node.shell.trusted.serving import Serving
from unhosted.node.shell.trusted.wire import MESSAGE_BYTES_MAX, PROTOCOL
from unhosted.node.shell.trusted.wire_messages import Hello

LAPTOP, DESKTOP = "12D3KooWlaptop", "12D3KooWdesktop"


@dataclass
class Pair:
    """facts, presence and paired are what the machines say when they are looked at next."""

    fabric: Fabric = field(default_factory=Fabric)
    engine: FakeEngine = field(default_factory=FakeEngine)
    book: FakeBook = field(default_factory=lambda: FakeBook({LAPTOP: Capabilities()}))
    facts: PeerFacts = FACTS
    presence: tuple[bool, str] = (True, "")
    paired: set[PeerId] = field(default_factory=lambda: {DESKTOP})
    heard: list[tuple[bool, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.laptop = FakeNetwork(self.fabric, LAPTOP)
        self.desktop = FakeNetwork(self.fabric, DESKTOP, paired={LAPTOP})
        self.serving = Serving(
            self.desktop,
            answering=self.engine,
            book=self.book,
            facts=lambda: self.facts,
            accepting=lambda: self.presence,
        )
        self.links = Links(
            self.laptop,
            paired=lambda: self.paired,
            ensure=self._ensure,
            hello=Hello(name="laptop", version="1.2"),
            on_observed=lambda peer, heard, why: self.heard.append((heard, why)),
        )

    async def _ensure(self, peer: PeerId, timeout_s: float) -> Connection:
        return await self.laptop.connect(peer, (f"/memory/{peer}",), timeout_s=timeout_s)

    @property
    def link(self) -> PeerLink:
        return self.links.link(DESKTOP)

    @asynccontextmanager
    async def raw_channel(self) -> AsyncIterator[FakeChannel]:
        """A channel for a client that need not keep to the protocol."""
        await self.laptop.connect(DESKTOP, self.desktop.addresses(), timeout_s=1)
        async with self.laptop.open_channel(
            DESKTOP, PROTOCOL, message_bytes_max=MESSAGE_BYTES_MAX, timeout_s=1
        ) as channel:
            yield channel


def ask(name: str = "a", **changes: object) -> Ask:
    return replace(Ask(ask_id=name, model=MODEL, prompt="Once upon a time"), **changes)  # type: ignore[arg-type]


@asynccontextmanager
async def pair(limit_s: float = 20) -> AsyncIterator[Pair]:
    """Both peers are up and paired; the link opens at the first request."""
    made = Pair()
    with trio.fail_after(limit_s):
        async with trio.open_nursery() as nursery:
            for run in (made.laptop.run, made.desktop.run, made.serving.run, made.links.run):
                await nursery.start(run)
            yield made
            # What was used is noted in a thread; with nothing else left to wait for, a virtual clock would
            # jump to the limit meanwhile.
            with trio.move_on_after(2):
                while made.serving.requests_under_way:
                    await trio.sleep(0.002)
            nursery.cancel_scope.cancel()
