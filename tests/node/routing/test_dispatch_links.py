"""The dispatcher over real links and serving peers: what kills and pulled cables do to an answer."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio
import trio.testing

from tests.fake_network import Fabric, FakeNetwork
from tests.node.infer.fake_engine import FakeBook
from tests.node.peers.harness import two_networks
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
from unhosted.node.core.peering import Capabilities, Connection, PeerId
from unhosted.node.core.service import Provenance, ProviderChoice
from unhosted.node.shell.trusted.dispatch import Dispatcher
from unhosted.node.shell.trusted.dispatched import Dispatched
from unhosted.node.shell.trusted.links import Links
from unhosted.node.shell.trusted.server_records import PeerCandidate
from unhosted.node.shell.trusted.serving import Serving
from unhosted.node.shell.trusted.wire_messages import Hello

LAPTOP = "12D3KooWlaptop"
RATES = {"12D3KooWfast": 100.0, "12D3KooWslow": 50.0}
FAST, SLOW = RATES


class LinkedHouse:
    """A laptop without the model, paired with two machines that have it."""

    def __init__(self) -> None:
        self.fabric = Fabric()
        self.engines = {peer: FakeServer(peer, always=Script(step_s=0.05)) for peer in RATES}
        self.network = FakeNetwork(self.fabric, LAPTOP)
        self.others = {peer: FakeNetwork(self.fabric, peer, paired={LAPTOP}) for peer in RATES}
        self.links = Links(
            self.network,
            paired=lambda: RATES,
            ensure=self._ensure,
            hello=Hello(name="laptop", version="1"),
            on_observed=lambda peer, heard, why: self.dispatcher.observed(peer, heard, why),
        )
        self.dispatcher = Dispatcher(
            name="laptop",
            local=FakeServer("laptop"),
            local_facts=lambda model: None,
            peers=self._candidates,
            link=self.links.link,
        )

    def serving(self, peer: PeerId) -> Serving:
        facts = peer_facts(peer, model_facts(decode_tokens_per_s=RATES[peer]))
        return Serving(
            self.others[peer],
            answering=self.engines[peer],
            book=FakeBook({LAPTOP: Capabilities(models=(f"b3:{MODEL}",))}),
            facts=lambda: facts,
            accepting=lambda: (True, ""),
        )

    def _candidates(self) -> tuple[PeerCandidate, ...]:
        live = {connection.peer for connection in self.network.connections()}
        return tuple(
            PeerCandidate(peer=peer, name=peer, facts=self.links.facts(peer), reachable=peer in live)
            for peer in RATES
        )

    async def _ensure(self, peer: PeerId, timeout_s: float) -> Connection:
        return await self.network.connect(peer, (f"/memory/{peer}",), timeout_s=timeout_s)

    async def wait_facts(self) -> None:
        while not all(self.links.facts(peer) for peer in RATES):
            await trio.sleep(0.01)  # of the jumping clock


@asynccontextmanager
async def linked_house() -> AsyncIterator[LinkedHouse]:
    house = LinkedHouse()
    async with trio.open_nursery() as nursery:
        await nursery.start(house.network.run)
        for peer in RATES:
            await nursery.start(house.others[peer].run)
            await nursery.start(house.serving(peer).run)
            await house.network.connect(peer, (f"/memory/{peer}",), timeout_s=1)
        await nursery.start(house.links.run)
        await house.wait_facts()
        yield house
        nursery.cancel_scope.cancel()


def play(scene: Callable[[LinkedHouse], Awaitable[None]]) -> None:
    async def main() -> None:
        async with linked_house() as house:
            # Not around the end, too: the clock also jumps while a thread writes down used tokens.
            with trio.fail_after(10_000):
                await scene(house)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.001))


async def take(dispatched: Dispatched, count: int) -> list[int]:
    ids: list[int] = []
    while len(ids) < count:
        ids += (await anext(dispatched)).token_ids
    return ids


async def rest(dispatched: Dispatched) -> list[int]:
    return [token async for delta in dispatched for token in delta.token_ids]


async def broken_after_seven(
    house: LinkedHouse, break_it: Callable[[str, str], None]
) -> tuple[list[int], float, Provenance]:
    """An answer whose server goes after seven tokens; what came, the longest silence, and who it was."""
    async with house.dispatcher.open(ask(), model_name=NAME, radius="trusted") as dispatched:
        assert dispatched.provenance.served_by == FAST
        ids = await take(dispatched, 7)
        break_it(LAPTOP, FAST)
        began = trio.current_time()
        ids += await take(dispatched, 1)
        silence_s = trio.current_time() - began
        ids += await rest(dispatched)
        return ids, silence_s, dispatched.provenance


def test_a_killed_peer_is_gone_on_from_at_once() -> None:
    async def scene(house: LinkedHouse) -> None:
        ids, silence_s, provenance = await broken_after_seven(house, house.fabric.reset)
        assert tuple(ids) == REFERENCE
        assert provenance.resumed_on == (SLOW,)
        assert silence_s < 1
        assert house.engines[FAST].open_now == 0

    play(scene)


def test_a_pulled_cable_is_noticed_and_the_answer_goes_on() -> None:
    async def scene(house: LinkedHouse) -> None:
        ids, silence_s, provenance = await broken_after_seven(house, house.fabric.cut)
        assert tuple(ids) == REFERENCE
        assert provenance.resumed_on == (SLOW,)
        assert silence_s <= 2
        async with house.dispatcher.open(ask(), model_name=NAME, radius="trusted") as dispatched:
            began = trio.current_time()
            assert tuple(await rest(dispatched)) == REFERENCE
            assert dispatched.provenance.served_by == SLOW
            assert trio.current_time() - began < 2  # what its own tokens take

    play(scene)


def test_a_cable_pulled_while_nothing_was_asked_costs_one_request() -> None:
    async def scene(house: LinkedHouse) -> None:
        house.fabric.cut(LAPTOP, FAST)
        for allowed_s in (2.0, 0.1, 0.1):
            began = trio.current_time()
            async with house.dispatcher.open(ask(), model_name=NAME, radius="trusted") as dispatched:
                assert dispatched.provenance.served_by == SLOW
                assert trio.current_time() - began <= allowed_s
                assert tuple(await rest(dispatched)) == REFERENCE

    play(scene)


def test_a_peer_that_is_connected_again_is_asked_again() -> None:
    async def scene(house: LinkedHouse) -> None:
        house.fabric.reset(LAPTOP, FAST)
        await trio.sleep(0.2)
        async with house.dispatcher.open(ask(), model_name=NAME, radius="trusted") as dispatched:
            assert dispatched.provenance.served_by == SLOW
        await house.network.connect(FAST, (f"/memory/{FAST}",), timeout_s=1)
        house.links.look_now()
        await trio.sleep(3)
        async with house.dispatcher.open(ask(), model_name=NAME, radius="trusted") as dispatched:
            assert dispatched.provenance.served_by == FAST

    play(scene)


def test_leaving_frees_the_peers_slot() -> None:
    async def scene(house: LinkedHouse) -> None:
        async with house.dispatcher.open(ask(), model_name=NAME, radius="trusted") as dispatched:
            await take(dispatched, 3)
        await trio.testing.wait_all_tasks_blocked()
        assert house.engines[FAST].open_now == 0
        assert house.engines[FAST].cancelled == 1

    play(scene)


def test_a_peer_that_may_not_be_asked_is_passed_over_with_its_words() -> None:
    async def scene(house: LinkedHouse) -> None:
        async with house.dispatcher.open(ask(), model_name=NAME, radius="trusted") as dispatched:
            assert dispatched.provenance.served_by == FAST
        house.others[FAST].paired.clear()
        house.fabric.reset(LAPTOP, FAST)
        async with house.dispatcher.open(ask(), model_name=NAME, radius="trusted") as dispatched:
            assert dispatched.provenance.served_by == SLOW
            assert any(line.startswith(FAST) for line in dispatched.provenance.passed_over)

    play(scene)


def test_this_machine_goes_on_when_an_encrypted_connection_is_lost() -> None:
    async def main() -> None:
        async with two_networks("libp2p") as two, trio.open_nursery() as nursery:
            far, desktop = two.far.peer, FakeServer("desktop", always=Script(silent_after=10))
            serving = Serving(
                two.far,
                answering=desktop,
                book=FakeBook({two.near.peer: Capabilities()}),
                facts=lambda: peer_facts("desktop", model_facts()),
                accepting=lambda: (True, ""),
            )

            async def ensure(peer: PeerId, timeout_s: float) -> Connection:
                return await two.near.connect(peer, two.far.addresses(), timeout_s=timeout_s)

            links = Links(
                two.near,
                paired=lambda: two.near_paired,
                ensure=ensure,
                hello=Hello(name="laptop", version="1"),
            )
            dispatcher = Dispatcher(
                name="laptop",
                local=FakeServer("laptop"),
                local_facts=lambda model: model_facts(),
                peers=lambda: (
                    PeerCandidate(
                        peer=far, name="desktop", facts=peer_facts("desktop", model_facts()), reachable=True
                    ),
                ),
                link=links.link,
            )
            await nursery.start(serving.run)
            await nursery.start(links.run)
            async with dispatcher.open(
                ask(), model_name=NAME, radius="trusted", provider=ProviderChoice(order=("desktop",))
            ) as dispatched:
                assert dispatched.provenance.served_by == "desktop"
                ids = await take(dispatched, 10)
                await two.near.disconnect(far)
                ids += await rest(dispatched)
                assert tuple(ids) == REFERENCE
                assert dispatched.provenance.resumed_on == ("laptop",)
            nursery.cancel_scope.cancel()

    trio.run(main)
