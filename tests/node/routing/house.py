"""A dispatcher with a few machines around it, on a clock that jumps."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio
import trio.testing

from tests.node.routing.servers import (
    MODEL,
    NAME,
    REFERENCE,
    FakeServer,
    Script,
    ask,
    model_facts,
    peer_facts,
)
from unhosted.node.core.asks import Answering
from unhosted.node.core.errors import Refused
from unhosted.node.core.inference import Usage
from unhosted.node.core.service import ANY_PROVIDER, Provenance, ProviderChoice, Radius
from unhosted.node.shell.trusted.dispatch import Dispatcher
from unhosted.node.shell.trusted.server_records import PeerCandidate

GONE = Script(is_gone=True, accepts_after_s=1.5)
FULL = Refused("overloaded", "64 requests are queued, at most 64", retry_after_s=2)


class House:
    """A dispatcher at `laptop` with peers by name; `facts` may be changed between requests."""

    def __init__(self, *peers: FakeServer, has_model_here: bool = False) -> None:
        self.local = FakeServer("laptop")
        self.servers: dict[str, FakeServer] = {peer.name: peer for peer in peers}
        self.local_facts = model_facts() if has_model_here else None
        self.facts = {peer.name: peer_facts(peer.name, model_facts()) for peer in peers}
        self.dispatcher = Dispatcher(
            name="laptop",
            local=self.local,
            local_facts=lambda model: self.local_facts if model == MODEL else None,
            peers=self.candidates,
            link=self._link,
        )

    def candidates(self) -> tuple[PeerCandidate, ...]:
        return tuple(
            PeerCandidate(peer=name, name=name, facts=self.facts[name], reachable=True, round_trip_s=0.001)
            for name in self.servers
        )

    def _link(self, peer: str) -> Answering:
        return self.servers[peer]


@dataclass
class Answer:
    ids: tuple[int, ...]
    text: str
    usage: Usage | None
    provenance: Provenance
    took_s: float


async def get(
    house: House,
    *,
    radius: Radius = "trusted",
    provider: ProviderChoice = ANY_PROVIDER,
    settle_s: float = 1.0,
    **changes: object,
) -> Answer:
    ids: list[int] = []
    text, usage, began = "", None, trio.current_time()
    async with house.dispatcher.open(
        ask(**changes), model_name=NAME, radius=radius, provider=provider, settle_s=settle_s
    ) as dispatched:
        promised = dispatched.provenance
        async for delta in dispatched:
            ids += delta.token_ids
            text += delta.text
            usage = delta.usage
        provenance = dispatched.provenance
    assert (promised.ring, promised.served_by, promised.reason) == (
        provenance.ring,
        provenance.served_by,
        provenance.reason,
    )
    return Answer(tuple(ids), text, usage, provenance, trio.current_time() - began)


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        with trio.fail_after(600):  # of the jumping clock
            await work()

    trio.run(bounded, clock=trio.testing.MockClock(autojump_threshold=0))


def is_whole(answer: Answer) -> bool:
    return answer.ids == REFERENCE and answer.text == "".join(f" {token}" for token in REFERENCE)
