"""Fetching a file from paired peers: whom it comes from, and what goes wrong on the way."""

import logging
import os
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.node.transfer.harness import Scripted, Town, town
from unhosted.node.core.chunks import MODEL_BYTES_MAX, SILENCE_NS, chunk_count
from unhosted.node.core.errors import Refused
from unhosted.node.core.peering import Capabilities
from unhosted.node.shell.models import chunk_lists
from unhosted.node.shell.models.manifest import Digests
from unhosted.node.shell.transfer.fetch import Fetched


def _check(there: Town, fetched: Fetched | None, model: Path, digests: Digests) -> Fetched:
    assert fetched is not None
    assert fetched.digests == digests
    assert fetched.digests.chunk_list == digests.chunk_list
    assert there.target.read_bytes() == model.read_bytes()
    return fetched


def test_one_peer_gives_the_whole_file(
    tmp_path: Path, big_model: Path, big_digests: Digests, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def main() -> None:
        async with town(tmp_path) as there:
            await there.add("desktop", model=big_model)
            fetched = _check(there, await there.fetch(big_digests.blake3), big_model, big_digests)
            assert fetched.given_bytes == {"DESKTOP": big_digests.size_bytes}
            downloading = [report for report in there.seen if report.stage == "downloading"]
            assert {report.source for report in downloading} == {"DESKTOP"}
            assert there.faults == []

    trio.run(main)
    assert "source_joined peer=desktop over=sideband" in caplog.text


def test_without_a_bulk_connection_the_same_chunks_come_over_the_channel(
    tmp_path: Path, big_model: Path, big_digests: Digests, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def main() -> None:
        async with town(tmp_path) as there:
            await there.add("desktop", model=big_model, sideband=False)
            _check(there, await there.fetch(big_digests.blake3), big_model, big_digests)

    trio.run(main)
    assert "source_joined peer=desktop over=channel" in caplog.text


def test_a_bulk_port_that_nobody_answers_is_gone_around(
    tmp_path: Path, big_model: Path, big_digests: Digests
) -> None:
    async def main() -> None:
        async with town(tmp_path) as there:
            desktop = await there.add("desktop", model=big_model)
            assert desktop.sideband is not None
            (taken,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            desktop.sideband.port = taken.socket.getsockname()[1]  # a firewall that closes it
            await taken.aclose()
            _check(there, await there.fetch(big_digests.blake3), big_model, big_digests)

    trio.run(main)


def test_two_peers_share_the_work(tmp_path: Path, big_model: Path, big_digests: Digests) -> None:
    go = trio.Event()
    both = [Scripted(big_model.read_bytes(), go=go) for _ in range(2)]

    async def main() -> None:
        async with town(tmp_path) as there:
            for name, peer in zip(("desktop", "laptop"), both, strict=True):
                await there.add_liar(name, peer.answer)

            async def start_together() -> None:
                for peer in both:
                    await peer.is_asked.wait()
                go.set()

            there.nursery.start_soon(start_together)
            fetched = await there.fetch(big_digests.blake3)
            assert fetched is not None
            assert there.target.read_bytes() == big_model.read_bytes()
            assert set(fetched.given_bytes) == {"DESKTOP", "LAPTOP"}
            assert sum(fetched.given_bytes.values()) <= big_digests.size_bytes + (2 << 20)

    trio.run(main)


def test_a_wrong_chunk_costs_its_peer_the_transfer(
    tmp_path: Path, big_model: Path, big_digests: Digests
) -> None:
    liar = Scripted(big_model.read_bytes(), wrong=frozenset(range(100)))

    async def main() -> None:
        async with town(tmp_path) as there:
            await there.add_liar("liar", liar.answer)
            await there.add("desktop", model=big_model)
            fetched = _check(there, await there.fetch(big_digests.blake3), big_model, big_digests)
            assert set(fetched.given_bytes) == {"DESKTOP"}
            assert there.faults == [("liar", "gave a chunk that does not match its hash")]

    trio.run(main)


def test_a_false_chunk_list_is_noticed_at_the_end_and_reported(
    tmp_path: Path, big_model: Path, big_digests: Digests
) -> None:
    """The liar has other bytes with a list that fits them, under the hash of the real file."""
    real = big_model.read_bytes()
    liar = Scripted(os.urandom(len(real)), claimed=real)

    async def main() -> None:
        async with town(tmp_path) as there:
            await there.add_liar("liar", liar.answer)
            assert await there.fetch(big_digests.blake3) is None
            assert [peer for peer, _ in there.faults] == ["liar"]
            assert "false chunk list" in there.faults[0][1]
            assert not there.target.exists()
            # With honest peers beside it, the file comes from them, before the liar or after it.
            await there.add("desktop", model=big_model)
            fetched = _check(there, await there.fetch(big_digests.blake3), big_model, big_digests)
            assert set(fetched.given_bytes) == {"DESKTOP"}

    trio.run(main)


def test_a_list_that_several_agree_on_is_believed_first(
    tmp_path: Path, big_model: Path, big_digests: Digests
) -> None:
    real = big_model.read_bytes()
    liars = [Scripted(bytes([number]) * len(real), claimed=real) for number in range(3)]

    async def main() -> None:
        async with town(tmp_path) as there:
            for number, liar in enumerate(liars):
                await there.add_liar(f"liar{number}", liar.answer)
            await there.add("desktop", model=big_model)
            await there.add("laptop", model=big_model)
            _check(there, await there.fetch(big_digests.blake3), big_model, big_digests)
            assert [liar.asked for liar in liars] == [[], [], []]
            assert there.faults == []

    trio.run(main)


def test_the_chunks_of_a_peer_that_dies_come_from_the_other(
    tmp_path: Path, big_model: Path, big_digests: Digests
) -> None:
    dying = Scripted(big_model.read_bytes(), gives=2)

    async def main() -> None:
        async with town(tmp_path) as there:
            await there.add_liar("dying", dying.answer)
            await there.add("desktop", model=big_model)
            _check(there, await there.fetch(big_digests.blake3), big_model, big_digests)
            assert there.faults == []

    trio.run(main)


def test_a_peer_that_goes_silent_is_given_up(tmp_path: Path, big_model: Path, big_digests: Digests) -> None:
    clock = MockClock()
    silent = Scripted(big_model.read_bytes(), gives=3, then="silent")

    async def main() -> None:
        async with town(tmp_path, patience_s=1000) as there:
            await there.add_liar("silent", silent.answer)
            async with trio.open_nursery() as nursery:

                async def jump() -> None:
                    await silent.stopped.wait()
                    while True:
                        await wait_all_tasks_blocked(0.005)
                        clock.jump(SILENCE_NS / 1e9 + 1)

                nursery.start_soon(jump)
                assert await there.fetch(big_digests.blake3) is None
                nursery.cancel_scope.cancel()
            assert there.faults == [("silent", "stopped in mid-transfer")]
            assert there.target.exists()  # what came is right, and is gone on with
            await there.add("desktop", model=big_model)
            there.home.live.pop("silent")
            fetched = _check(there, await there.fetch(big_digests.blake3), big_model, big_digests)
            assert fetched.given_bytes["DESKTOP"] == big_digests.size_bytes - (3 << 20)

    trio.run(main, clock=clock)


def test_who_may_not_fetch_gets_nothing(tmp_path: Path, big_model: Path, big_digests: Digests) -> None:
    async def main() -> None:
        async with town(tmp_path) as there:
            desktop = await there.add("desktop", model=big_model)
            for capabilities in (
                None,
                Capabilities(may_fetch=False),
                Capabilities(models=("another", "b3:" + "0" * 64)),
            ):
                desktop.capabilities[0] = capabilities
                assert await there.fetch(big_digests.blake3) is None
                assert not there.target.exists()
            desktop.capabilities[0] = Capabilities(models=(f"b3:{big_digests.blake3}",))
            _check(there, await there.fetch(big_digests.blake3), big_model, big_digests)

    trio.run(main)


@pytest.mark.parametrize("sideband", [True, False])
def test_unpairing_in_mid_transfer_ends_it(
    tmp_path: Path, big_model: Path, big_digests: Digests, sideband: bool
) -> None:
    async def main() -> None:
        async with town(tmp_path) as there:
            desktop = await there.add("desktop", model=big_model, sideband=sideband)

            def unpair(peer: str) -> Capabilities | None:
                asked.append(peer)
                return Capabilities() if len(asked) < 10 else None

            asked: list[str] = []
            desktop.serving._capabilities = unpair
            assert await there.fetch(big_digests.blake3) is None
            assert 10 <= len(asked) <= 20
            assert desktop.serving.given_bytes < big_digests.size_bytes

    trio.run(main)


def test_a_size_nobody_could_have_is_refused_before_anything_is_written(
    tmp_path: Path, big_model: Path, big_digests: Digests
) -> None:
    liar = Scripted(big_model.read_bytes(), size_bytes=MODEL_BYTES_MAX)

    async def main() -> None:
        async with town(tmp_path) as there:
            await there.add_liar("liar", liar.answer)
            with pytest.raises(Refused) as refused:
                await there.fetch(big_digests.blake3)
            assert refused.value.code == "disk_full"
            assert not there.target.exists()
            assert await there.fetch(big_digests.blake3, size_bytes=big_digests.size_bytes) is None
            assert there.faults[0][0] == "liar"
            await there.add("desktop", model=big_model)
            _check(there, await there.fetch(big_digests.blake3), big_model, big_digests)

    trio.run(main)


def test_a_model_from_before_there_were_lists_is_hashed_once_in_the_background(
    tmp_path: Path, big_model: Path, big_digests: Digests, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    make = chunk_lists.make

    def counted(store: object, name: str) -> bytes:
        made.append(name)
        return make(store, name)  # type: ignore[arg-type]

    monkeypatch.setattr(chunk_lists, "make", counted)

    async def main() -> None:
        async with town(tmp_path) as there:
            desktop = await there.add("desktop", model=big_model)
            chunk_lists.remove(desktop.store.root, big_digests.blake3)
            assert await there.fetch(big_digests.blake3) is None  # not yet
            await there.nursery.start(desktop.serving.run)
            while chunk_lists.load(desktop.store.root, big_digests.blake3, big_digests.size_bytes) is None:
                await wait_all_tasks_blocked(0.001)
            _check(there, await there.fetch(big_digests.blake3), big_model, big_digests)
            assert made == ["model"]

    trio.run(main)


def test_a_changed_file_is_not_given(tmp_path: Path, big_model: Path, big_digests: Digests) -> None:
    async def main() -> None:
        async with town(tmp_path) as there:
            desktop = await there.add("desktop", model=big_model)
            path = desktop.store.resolve("model").path
            data = bytearray(path.read_bytes())
            data[-1] ^= 1
            path.chmod(0o644)
            path.write_bytes(data)
            assert await there.fetch(big_digests.blake3) is None

    trio.run(main)


@pytest.mark.parametrize("fault", ["too short", "another"])
def test_a_chunk_list_other_than_the_offered_one_is_not_used(
    tmp_path: Path, big_model: Path, big_digests: Digests, fault: str
) -> None:
    liar = Scripted(big_model.read_bytes())
    liar.hashes = liar.hashes[:-32] if fault == "too short" else bytes(len(liar.hashes))

    async def main() -> None:
        async with town(tmp_path) as there:
            await there.add_liar("liar", liar.answer)
            assert await there.fetch(big_digests.blake3) is None
            assert there.faults[0][0] == "liar"
            assert "broke the transfer protocol" in there.faults[0][1]
            assert not there.target.exists()
            assert liar.asked == []

    trio.run(main)


def test_a_cancelled_fetch_is_gone_on_with(tmp_path: Path, big_model: Path, big_digests: Digests) -> None:
    stopping = Scripted(big_model.read_bytes(), gives=4, then="silent")

    async def main() -> None:
        async with town(tmp_path) as there:
            await there.add_liar("stopping", stopping.answer)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(there.fetch, big_digests.blake3)
                await stopping.stopped.wait()
                await wait_all_tasks_blocked(0.01)
                nursery.cancel_scope.cancel()
            stopping.gives, stopping.asked = 1000, []
            _check(there, await there.fetch(big_digests.blake3), big_model, big_digests)
            # At most the chunk on its way to the disk and the one that waits behind it are fetched again.
            assert len(stopping.asked) - (chunk_count(big_digests.size_bytes) - 4) in (0, 1, 2)

    trio.run(main)
