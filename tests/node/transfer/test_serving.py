"""The giving side: bounded, fair between peers, and unmoved by what a peer sends."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.fake_network import Fabric, FakeNetwork
from tests.node.transfer.harness import put, town
from unhosted.node.core.peering import Capabilities, Channel, ChannelBroken
from unhosted.node.shell.models.manifest import Digests
from unhosted.node.shell.models.store import ModelStore
from unhosted.node.shell.transfer.messages import (
    PROTOCOL,
    Chunk,
    GetChunk,
    GetHashes,
    GetSideband,
    No,
    Offered,
    Open,
    Request,
    WireError,
    decode_reply,
    encode_message,
)
from unhosted.node.shell.transfer.serving import SESSIONS_PER_PEER_MAX, ModelServing


class Slow:
    """A channel whose peer has said all it will say, and takes nothing of a chunk until `taking`."""

    def __init__(self, peer: str, said: Sequence[Request], taking: trio.Event) -> None:
        self.peer = peer
        self._said = [encode_message(message) for message in said]
        self._taking = taking
        self.got: list[bytes] = []

    async def receive(self) -> bytes | None:
        await trio.lowlevel.checkpoint()
        return self._said.pop(0) if self._said else None

    async def send(self, message: bytes) -> None:
        self.got.append(message)
        if len(self.got) > 1:
            await self._taking.wait()

    async def end(self) -> None:
        await trio.lowlevel.checkpoint()


def _serving(root: Path, model: Path) -> ModelServing:
    store = ModelStore(root / "store")
    put(store, model)
    return ModelServing(
        FakeNetwork(Fabric(), "desktop"), store, capabilities=lambda peer: Capabilities(), sideband=None
    )


def test_a_peer_with_many_sessions_has_one_chunk_on_its_way_and_others_do_not_wait_for_it(
    tmp_path: Path, big_model: Path, big_digests: Digests
) -> None:
    serving = _serving(tmp_path, big_model)
    said: list[Request] = [Open(blake3=bytes.fromhex(big_digests.blake3)), GetChunk(chunk=0)]

    async def main() -> None:
        taking = trio.Event()
        greedy = [Slow("greedy", said, taking) for _ in range(SESSIONS_PER_PEER_MAX)]
        modest = Slow("modest", said, taking)
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                for channel in greedy:
                    nursery.start_soon(serving._answer, channel)
                while sum(len(channel.got) for channel in greedy) < len(greedy) + 1:
                    await wait_all_tasks_blocked(0.001)
                nursery.start_soon(serving._answer, modest)
                while len(modest.got) < 2:
                    await wait_all_tasks_blocked(0.001)
                assert sorted(len(channel.got) for channel in greedy) == [1, 1, 1, 2]
                assert isinstance(decode_reply(modest.got[1]), Chunk)
                taking.set()
        assert all(len(channel.got) > 2 for channel in [*greedy, modest])

    trio.run(main)


def test_more_sessions_than_the_limit_are_refused_with_a_reason(
    tmp_path: Path, big_model: Path, big_digests: Digests
) -> None:
    serving = _serving(tmp_path, big_model)
    said: list[Request] = [Open(blake3=bytes.fromhex(big_digests.blake3)), GetChunk(chunk=0)]

    async def main() -> None:
        taking = trio.Event()
        held = [Slow("greedy", said, taking) for _ in range(SESSIONS_PER_PEER_MAX)]
        late = Slow("greedy", said, taking)
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                for channel in held:
                    nursery.start_soon(serving._answer, channel)
                await wait_all_tasks_blocked()
                await serving._answer(late)
                taking.set()
        answer = decode_reply(late.got[0])
        assert isinstance(answer, No)
        assert answer.code == "overloaded"
        again = Slow("greedy", said, taking)  # the others have ended
        await serving._answer(again)
        assert isinstance(decode_reply(again.got[0]), Offered)

    trio.run(main)


@pytest.mark.parametrize(
    "said",
    [
        [GetChunk(chunk=0)],
        [Open(), Open()],
        [Open(), GetChunk(chunk=1_000)],
        [Open(), GetHashes(at=1_000)],
        [Open(), GetSideband(), GetSideband()],
    ],
)
def test_what_breaks_the_protocol_ends_the_session(
    tmp_path: Path, big_model: Path, big_digests: Digests, said: list[Request]
) -> None:
    serving = _serving(tmp_path, big_model)
    opening = Open(blake3=bytes.fromhex(big_digests.blake3))
    words = [opening if isinstance(word, Open) else word for word in said]

    async def main() -> None:
        taking = trio.Event()
        taking.set()
        with trio.fail_after(10), pytest.raises(WireError):
            await serving._answer(Slow("odd", words, taking))
        assert serving._peers == {}

    trio.run(main)


def test_garbage_resets_the_channel_and_the_node_serves_on(
    tmp_path: Path, big_model: Path, big_digests: Digests
) -> None:
    async def main() -> None:
        async with town(tmp_path) as there:
            await there.add("desktop", model=big_model)
            for garbage in (b"", b"\xff", b"\xa1\x61k\x64open", bytes(1000)):
                async with there.home.open_channel(
                    "desktop", PROTOCOL, message_bytes_max=1 << 17, timeout_s=1
                ) as channel:
                    await _send_and_wait(channel, garbage)
            assert await there.fetch(big_digests.blake3) is not None

    trio.run(main)


async def _send_and_wait(channel: Channel, garbage: bytes) -> None:
    try:
        await channel.send(garbage)
        while await channel.receive() is not None:
            pass
    except (ChannelBroken, ValueError):
        return
