"""The links to all paired peers: one each, opened when the peer is connected, closed when it is unpaired."""

from collections.abc import Awaitable, Callable, Iterable

import trio

from unhosted.node.core.errors import Refused
from unhosted.node.core.peering import Connection, Network, PeerFacts, PeerId
from unhosted.node.shell.trusted.link import Observer, PeerLink
from unhosted.node.shell.trusted.wire_messages import Hello

LOOK_PERIOD_S = 0.5
"""How often connections and the book are looked at; a lookup in memory for each paired peer."""


class Links:
    """paired: the peers of the book that are paired. ensure: the live connection, made within a timeout."""

    def __init__(
        self,
        network: Network,
        *,
        paired: Callable[[], Iterable[PeerId]],
        ensure: Callable[[PeerId, float], Awaitable[Connection]],
        hello: Hello,
        on_observed: Observer = lambda peer, heard, why: None,
    ) -> None:
        self._network = network
        self._paired = paired
        self._ensure = ensure
        self._hello = hello
        self._on_observed = on_observed
        self._links: dict[PeerId, tuple[PeerLink, trio.CancelScope]] = {}  # bounded by the book
        self._nursery: trio.Nursery | None = None
        self._changed = trio.Event()

    async def run(self, *, task_status: "trio.TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        """Keep a link to each paired peer until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._look()
                task_status.started()
                while True:
                    with trio.move_on_after(LOOK_PERIOD_S):
                        await self._changed.wait()
                    self._changed = trio.Event()
                    self._look()
        finally:
            self._nursery = None

    def look_now(self) -> None:
        """The book or the connections changed: act on it at once. To be called in the loop's thread."""
        self._changed.set()

    def link(self, peer: PeerId) -> PeerLink:
        """Raises: Refused (not_paired)."""
        if peer not in self._links:
            self._look()
        if peer not in self._links:
            raise Refused("not_paired", f"{peer} is not paired with this machine; see unhosted peers")
        return self._links[peer][0]

    def facts(self, peer: PeerId) -> PeerFacts | None:
        """What the peer said of itself last; None before it said anything."""
        known = self._links.get(peer)
        return None if known is None else known[0].facts

    def _look(self) -> None:
        if self._nursery is None:
            return
        paired = frozenset(self._paired())
        for peer in self._links.keys() - paired:
            self._links.pop(peer)[1].cancel()
        for peer in paired - self._links.keys():
            self._links[peer] = self._start(self._nursery, peer)
        for connection in self._network.connections():
            if connection.peer in self._links:
                self._links[connection.peer][0].want()

    def _start(self, nursery: trio.Nursery, peer: PeerId) -> tuple[PeerLink, trio.CancelScope]:
        link = PeerLink(
            self._network,
            peer,
            hello=self._hello,
            ensure=lambda timeout_s: self._ensure(peer, timeout_s),
            on_observed=self._on_observed,
        )
        scope = trio.CancelScope()

        async def run() -> None:
            with scope:
                await link.run()

        nursery.start_soon(run)
        return link, scope
