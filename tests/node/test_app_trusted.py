"""The trusted ring beside the rest of the node: whatever ends it, this machine answers by itself."""

import socket
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import cast

import pytest
import trio

from unhosted.node import app_trusted, app_trusted_parts
from unhosted.node.app_trusted import TrustedRing
from unhosted.node.config import Config, Paths
from unhosted.node.core.check_protocol import (
    MESSAGE_BYTES_MAX,
    PROTOCOL,
    Go,
    No,
    decode_check,
    encode_check,
)
from unhosted.node.core.errors import LocalFault, Refused
from unhosted.node.core.inference import Engines
from unhosted.node.core.peering import PairedPeer, PeerUnreachable
from unhosted.node.shell.models.store import ModelStore

TEST_TIMEOUT_S = 30


def ring(
    folder: Path, port: int = 0, *, check_for_peers: bool = False, engines: Engines | None = None
) -> TrustedRing:
    folder.mkdir(exist_ok=True)
    config = Config(
        paths=Paths(config_dir=folder, data_dir=folder, state_dir=folder),
        peers_port=port,
        peers_bulk_port=0,
        peers_host="127.0.0.1",
        peers_mdns=False,
        check_for_peers=check_for_peers,
    )
    store = ModelStore(folder / "models")
    return TrustedRing(
        config,
        name="desk",
        store=store,
        answering=None,  # type: ignore[arg-type]  # nobody asks
        models=tuple,
        loaded=tuple,
        engines=engines,
    )


@pytest.mark.slow
@pytest.mark.parametrize("is_allowed", [True, False])
def test_evidence_is_read_for_paired_machines_only_where_the_owner_said_so(
    tmp_path: Path, is_allowed: bool
) -> None:
    async def test() -> None:
        made, asking = (
            ring(tmp_path / name, check_for_peers=is_allowed, engines=cast(Engines, object()))
            for name in ("reads", "asks")
        )
        async with trio.open_nursery() as nursery:
            for one in (made, asking):
                await nursery.start(one.run)
            for one, other in ((made, asking), (asking, made)):
                one.parts.book.put(
                    PairedPeer(peer=other.parts.network.peer, name="other", state="paired", paired_unix_s=1)
                )
            reads = made.parts.network
            await asking.parts.network.connect(reads.peer, reads.addresses(), timeout_s=5.0)
            with pytest.raises(PeerUnreachable) if not is_allowed else nullcontext():
                async with asking.parts.network.open_channel(
                    reads.peer, PROTOCOL, message_bytes_max=MESSAGE_BYTES_MAX, timeout_s=5.0
                ) as channel:
                    await channel.send(encode_check(Go()))
                    assert isinstance(decode_check(await channel.receive() or b""), No)
            nursery.cancel_scope.cancel()

    run(test)


def run(test: Callable[[], object]) -> None:
    async def main() -> None:
        with trio.fail_after(TEST_TIMEOUT_S):
            await test()  # type: ignore[misc]

    trio.run(main)


@pytest.mark.slow
def test_a_port_that_is_taken_turns_the_ring_off_until_it_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app_trusted, "AGAIN_FIRST_S", 0.05)

    async def test() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            made = ring(tmp_path, taken.getsockname()[1])
            async with trio.open_nursery() as nursery:
                await nursery.start(made.run)
                assert made.state.startswith("off: ") and "port" in made.state
                with pytest.raises(Refused, match="not reached"):
                    await made.offer()
                taken.close()
                while made.state != "on":
                    await made.changes.wait_above(made.changes.number)
                assert (await made.offer()).code
                nursery.cancel_scope.cancel()

    run(test)


@pytest.mark.slow
def test_a_defect_in_a_part_ends_the_ring_and_not_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app_trusted, "AGAIN_FIRST_S", 0.05)
    break_now = trio.Event()
    watch = app_trusted_parts._watch_connections

    async def breaks_once(*parts: object, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        await break_now.wait()
        monkeypatch.setattr(app_trusted_parts, "_watch_connections", watch)
        raise UnicodeError("what a peer sent")

    monkeypatch.setattr(app_trusted_parts, "_watch_connections", breaks_once)

    async def test() -> None:
        made = ring(tmp_path)
        async with trio.open_nursery() as nursery:
            await nursery.start(made.run)
            assert made.state == "on"
            made.set_draining(True)
            break_now.set()
            while made.state == "on":
                await made.changes.wait_above(made.changes.number)
            assert "UnicodeError" in made.state and "what a peer sent" not in made.state
            assert made.candidates() == () and made.statuses() == ()
            while made.state != "on":
                await made.changes.wait_above(made.changes.number)
            place = made.describe()
            assert place is not None and place.draining
            nursery.cancel_scope.cancel()

    run(test)


@pytest.mark.slow
def test_a_broken_invariant_is_not_lived_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fault(*parts: object, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        raise LocalFault("two and two are five")

    monkeypatch.setattr(app_trusted_parts, "_watch_connections", fault)

    async def test() -> None:
        with pytest.raises((LocalFault, ExceptionGroup)) as ended:
            await ring(tmp_path).run()
        assert "five" in repr(ended.value)

    run(test)
