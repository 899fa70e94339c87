"""Before the handshake: how often, how many, and who has to go."""

import pytest
import trio
import trio.testing
from libp2p.io.exceptions import IOException

from unhosted.node.shell.peers import listener
from unhosted.node.shell.peers.limits import Limits
from unhosted.node.shell.peers.listener import DEBT_S_MAX, Porch, Rate
from unhosted.node.shell.peers.sockets import Wire


def test_many_handshakes_of_one_address_wait() -> None:
    rate = Rate(per_s=10.0, burst=3)
    assert [rate.delay_s("a", 100.0) for _ in range(6)] == pytest.approx([0, 0, 0, 0.1, 0.2, 0.3])
    assert rate.delay_s("b", 100.0) == 0.0, "another address is another matter"
    assert rate.delay_s("a", 100.35) == pytest.approx(0.05), "what has passed is made up for"
    assert rate.delay_s("a", 200.0) == 0.0


def test_an_address_is_let_in_again_soon_after_a_flood() -> None:
    rate = Rate(per_s=10.0, burst=3)
    assert max(rate.delay_s("a", 100.0) for _ in range(10_000)) > Limits().handshake_s, "none of it is served"
    assert rate.delay_s("a", 100.0 + DEBT_S_MAX) < 1.0


def test_addresses_seen_long_ago_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "BUCKETS_MAX", 2)
    rate = Rate(per_s=1.0, burst=1)
    assert [rate.delay_s(address, 0.0) for address in "abcb"] == [0.0, 0.0, 0.0, 1.0]
    assert len(rate._free_at_s) == 2


def test_of_the_most_crowded_address_the_oldest_goes() -> None:
    async def main() -> None:
        limits = Limits(handshakes_max=4, handshakes_per_address_max=3)
        porch = Porch(limits, lambda stream, remote: trio.sleep(0))

        def stands(address: str) -> trio.CancelScope:
            porch._make_room(address)
            scope = trio.CancelScope()
            porch._standing[scope] = address
            return scope

        crowd, alone = [stands("a"), stands("a"), stands("a")], stands("b")
        other = stands("c")
        assert [one.cancel_called for one in crowd] == [True, False, False], "in all there were too many"
        third = stands("a")
        assert [one.cancel_called for one in crowd] == [True, True, False]
        assert not any(one.cancel_called for one in (alone, other, third))

    trio.run(main)


def test_a_silent_connection_costs_no_handshake_and_is_closed(autojump_clock: trio.testing.MockClock) -> None:
    greeted: list[object] = []

    async def greet(stream: trio.SocketStream, remote: tuple[str, int]) -> None:
        greeted.append(remote)

    async def main() -> None:
        (bound,) = await listener.bind([("127.0.0.1", 0)])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Porch(Limits(), greet).serve, [bound])
            client = await trio.open_tcp_stream("127.0.0.1", bound.socket.getsockname()[1])
            assert await client.receive_some() == b"", "it was closed"
            await client.aclose()
            nursery.cancel_scope.cancel()
        assert greeted == []

    trio.run(main, clock=autojump_clock)


def test_a_handshake_takes_in_no_more_than_it_may() -> None:
    class Endless:
        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            return bytes(1000)

        async def send_all(self, data: bytes) -> None: ...

        async def aclose(self) -> None: ...

    async def main() -> None:
        wire = Wire(Endless(), remote=None, allowed_bytes=3000)
        assert await wire.read(2500) == bytes(2500)
        with pytest.raises(IOException, match="too many bytes"):
            await wire.read(10_000)
        wire.unlimit()
        assert await wire.read(10_000) == bytes(10_000)

    trio.run(main)


@pytest.fixture
def autojump_clock() -> trio.testing.MockClock:
    return trio.testing.MockClock(autojump_threshold=0.02)
