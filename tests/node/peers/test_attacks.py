"""Whatever a stranger sends, the node serves on: its paired peer gets its answer during it and after it."""

import random

import pytest
import trio
import trio.testing

from tests.node.peers.harness import ECHO, real_network
from tests.node.peers.rogues import (
    DATA,
    FIN,
    GO_AWAY,
    PING,
    RST,
    SYN,
    WINDOW_UPDATE,
    bare_socket,
    frame,
    is_closed_by_peer,
    rogue,
)
from tests.node.peers.scene import OPEN, Scene, session_with, under_attack
from unhosted.node.core.peering import Channel, PeerUnreachable
from unhosted.node.shell.peers.memory import MEBIBYTE
from unhosted.node.shell.peers.negotiation import MULTISTREAM, encode
from unhosted.node.shell.peers.overrides import session as session_module


def test_random_bytes_instead_of_a_handshake() -> None:
    async def attack(at: Scene) -> None:
        draw = random.Random(1)
        for _ in range(50):
            with bare_socket(at.victim) as opened:
                opened.sendall(draw.randbytes(2000))

    under_attack(attack)


@pytest.mark.parametrize(
    "words",
    [
        encode(MULTISTREAM) + b"\x05\xff\xfe\xfd\xfc\n",
        b"\xff" * 9 + b"\x01",
        b"\xff\xff\xff\x7f" + b"a" * 65_000,
        b"\x00",
        encode(MULTISTREAM) + encode("/plaintext/2.0.0") + encode("/tls/1.0.0") + encode("/secio/1.0.0"),
    ],
    ids=["no UTF-8", "endless length", "256 MiB announced", "empty word", "other kinds of security"],
)
def test_bad_words_before_the_handshake(words: bytes) -> None:
    async def attack(at: Scene) -> None:
        with bare_socket(at.victim) as opened:
            opened.sendall(words)
            opened.shutdown(1)
            assert await is_closed_by_peer(opened)

    under_attack(attack)


def test_a_handshake_of_megabytes_is_cut_short() -> None:
    async def attack(at: Scene) -> None:
        with bare_socket(at.victim) as opened, pytest.raises(OSError, match=r"Broken pipe|reset by peer"):
            opened.settimeout(5.0)
            while True:
                await trio.to_thread.run_sync(opened.sendall, b"\xff\xff\xff\x7f" + bytes(65_536))

    under_attack(attack)


@pytest.mark.parametrize(
    "words",
    [
        encode(MULTISTREAM) + b"\x05\xff\xfe\xfd\xfc\n",
        b"\xff" * 9 + b"\x01",
        b"\xff\xff\xff\x7f" + b"a" * 60_000,
        b"\x00\x00\x00",
        encode(MULTISTREAM) + encode("/" + "x" * 1500),
        encode("/multistream/9.9.9"),
        encode(MULTISTREAM) + encode("ls") * 5000,
        encode(MULTISTREAM) + encode(ECHO),
    ],
    ids=[
        "no UTF-8",
        "endless length",
        "256 MiB",
        "empty words",
        "a long word",
        "other version",
        "5000 ls",
        "paired only",
    ],
)
def test_bad_words_on_a_stream_cost_that_stream(words: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def attack(at: Scene) -> None:
        async with rogue(at.victim) as stranger:
            nursery: trio.Nursery
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stranger.session.start)
                stream = await stranger.session.open_stream()
                await stream.write(words)
                stream.finish()
                heard = b""
                with pytest.raises(Exception, match=r"reset|sends no more"):
                    while True:
                        heard += await stream.read(65_536)
                assert not stranger.session.is_closed, "the stream alone"
                assert len(heard) < 2048, "few words, and few lists of protocols"
                assert (encode("na") in heard) == (encode(ECHO) in words)
                nursery.cancel_scope.cancel()

    under_attack(attack)
    assert not caplog.records, "strangers do not fill the log"


BAD_FRAMES = {
    "unknown kind": ([frame(7, 9, 3, 100)], "kind 7"),
    "unknown version": ([frame(PING, SYN, 0, 1, version=1)], "version 1"),
    "a stream of our own numbers": ([frame(WINDOW_UPDATE, SYN, 2, 0)], "not its to open"),
    "stream 0": ([frame(WINDOW_UPDATE, SYN, 0, 0)], "not its to open"),
    "opened twice": ([frame(WINDOW_UPDATE, SYN, 1, 0)] * 2, "not its to open"),
    "a window beyond 4 GiB": ([frame(WINDOW_UPDATE, SYN, 1, 0xFFFFFFFF)], "beyond 4 GiB"),
    "more than the window": (
        [frame(WINDOW_UPDATE, SYN, 1, 0), frame(DATA, 0, 1, 256 * 1024 + 1)],
        "into a window that was smaller",
    ),
    "data after the end": (
        [frame(WINDOW_UPDATE, SYN, 1, 0), frame(WINDOW_UPDATE, FIN, 1, 0), frame(DATA, 0, 1, 1, b"x")],
        "after the end",
    ),
    "4 GiB on no stream": ([frame(DATA, 0, 999, 0xFFFFFFFF)], "wait to be read already"),
    "goodbye": ([frame(GO_AWAY, 0, 0, 4101)], "goodbye"),
}


@pytest.mark.parametrize(("frames", "reason"), BAD_FRAMES.values(), ids=BAD_FRAMES)
def test_bad_frames_end_their_own_connection(frames: list[bytes], reason: str) -> None:
    async def attack(at: Scene) -> None:
        async with rogue(at.victim) as stranger:
            session = await session_with(at.victim, stranger.peer)
            await stranger.write(*frames)
            await session.event_closed.wait()
            assert reason in session.reason

    under_attack(attack)


def test_frames_that_mean_nothing_are_passed_over() -> None:
    async def attack(at: Scene) -> None:
        async with rogue(at.victim) as stranger:
            await stranger.write(
                frame(DATA, 0, 999, 10, b"x" * 10),
                frame(WINDOW_UPDATE, RST, 997, 0),
                frame(WINDOW_UPDATE, 0, 995, 5),
                frame(PING, 2, 0, 77),
                frame(PING, SYN, 0, 0xABCD),
            )
            heard = b""
            while frame(PING, 2, 0, 0xABCD) not in heard:
                heard += await stranger.secured.read()

    under_attack(attack)


def test_a_message_in_single_bytes_is_a_message() -> None:
    async def attack(at: Scene) -> None:
        async with rogue(at.victim, dribbles=True) as stranger:
            await stranger.open(1, OPEN)
            body = bytes(500)
            await stranger.write(frame(DATA, 0, 1, len(body), body), frame(PING, SYN, 0, 5))
            heard = b""
            while frame(PING, 2, 0, 5) not in heard:
                heard += await stranger.secured.read()

    under_attack(attack)


def test_a_silent_peer_is_found_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "TICK_S", 0.01)

    async def attack(at: Scene) -> None:
        async with rogue(at.victim) as silent:
            heard = await silent.read_until_closed()
            assert heard.count(frame(PING, SYN, 0, 1)) == 1, "it was asked first"
        assert {one.peer for one in at.victim.connections()} == {at.friend.peer}, "who answers stays"

    under_attack(attack)


@pytest.mark.slow
def test_cancelled_reads_and_writes_leave_the_connection_whole() -> None:
    async def count(channel: Channel) -> None:
        number = 0
        while True:
            number += 1
            await channel.send(number.to_bytes(4, "big") * (1 + number % 50 * 40))

    async def attack(at: Scene) -> None:
        at.victim.serve("/test/count/1", count, access="paired", message_bytes_max=65_536)
        at.victim.serve(
            "/test/deaf/1", lambda channel: trio.sleep_forever(), access="paired", message_bytes_max=MEBIBYTE
        )
        for turn in range(60):
            async with at.friend.open_channel(
                at.victim.peer, "/test/deaf/1", message_bytes_max=MEBIBYTE, timeout_s=5.0
            ) as channel:
                with trio.move_on_after(0.0001 * (turn % 20)):
                    await channel.send(bytes(MEBIBYTE))
        async with at.friend.open_channel(
            at.victim.peer, "/test/count/1", message_bytes_max=65_536, timeout_s=5.0
        ) as channel:
            numbers: list[int] = []
            cancelled = 0
            while len(numbers) < 1500:
                with trio.move_on_after(0.00005 * (cancelled % 9)) as scope:
                    while True:
                        message = await channel.receive()
                        assert message is not None
                        numbers.append(int.from_bytes(message[:4], "big"))
                        assert {message[i : i + 4] for i in range(0, len(message), 4)} == {message[:4]}
                cancelled += scope.cancelled_caught
        assert cancelled > 20
        assert numbers == list(range(1, len(numbers) + 1)), "none lost, none twice"

    under_attack(attack)


def test_somebody_else_at_a_friends_address_is_not_taken_for_the_friend() -> None:
    async def attack(at: Scene) -> None:
        impostor = real_network(set())
        async with trio.open_nursery() as nursery:
            await nursery.start(impostor.run)
            await at.friend.disconnect(at.victim.peer)
            with pytest.raises(PeerUnreachable, match="somebody else answers there"):
                await at.friend.connect(at.victim.peer, impostor.addresses(), timeout_s=5.0)
            found = await at.friend.connect(
                at.victim.peer, (*impostor.addresses(), *at.victim.addresses()), timeout_s=5.0
            )
            assert found.remote_address == at.victim.addresses()[0]
            nursery.cancel_scope.cancel()

    under_attack(attack)
