"""The bulk listener: tickets are for one, once and soon, and strangers cost nothing."""

import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from unhosted.node.core.errors import Refused
from unhosted.node.core.peering import ChannelBroken
from unhosted.node.shell.nurseries import plain_nursery
from unhosted.node.shell.transfer import sideband as sideband_module
from unhosted.node.shell.transfer.messages import Ticket
from unhosted.node.shell.transfer.sideband import (
    TICKET_S,
    TICKETS_MAX,
    UNPROVEN_PER_ADDRESS_MAX,
    Sideband,
    connect,
    host_of,
)

HERE = "127.0.0.1"


@asynccontextmanager
async def listening() -> AsyncIterator[Sideband]:
    with trio.fail_after(10):
        async with plain_nursery() as nursery:
            sideband = Sideband(0, host=HERE)
            await nursery.start(sideband.run)
            yield sideband


@asynccontextmanager
async def echoing(sideband: Sideband, ticket: Ticket) -> AsyncIterator[None]:
    async def echo() -> None:
        async with sideband.accepted(ticket) as channel:
            assert channel is not None
            while (message := await channel.receive()) is not None:
                await channel.send(message)
            await channel.end()

    async with plain_nursery() as nursery:
        nursery.start_soon(echo)
        yield


async def _closed_by_them(stream: trio.SocketStream) -> None:
    with suppress(trio.BrokenResourceError):  # a reset is a way to close, too
        assert await stream.receive_some(1) == b""
    await stream.aclose()


def test_a_ticket_gives_one_connection() -> None:
    async def main() -> None:
        async with listening() as sideband:
            ticket = sideband.offer("friend")
            async with echoing(sideband, ticket):
                channel = await connect(HERE, ticket, "us")
                await channel.send(b"hello")
                assert await channel.receive() == b"hello"
                with pytest.raises(ChannelBroken):
                    await connect(HERE, ticket, "us")
                await channel.end()
                assert await channel.receive() is None
                await channel.aclose()
            with pytest.raises(ChannelBroken):
                await connect(HERE, ticket, "us")

    trio.run(main)


def test_a_recorded_connection_cannot_be_played_again() -> None:
    async def main() -> None:
        async with listening() as sideband:
            ticket = sideband.offer("friend")
            recorded = bytearray()
            (proxy,) = await trio.open_tcp_listeners(0, host=HERE)
            async with plain_nursery() as nursery, echoing(sideband, ticket):

                async def forward() -> None:
                    far = await trio.open_tcp_stream(HERE, sideband.port)
                    async with await proxy.accept() as near, far:
                        while len(recorded) < 16 + 20 + 8:
                            piece = await near.receive_some()
                            recorded.extend(piece)
                            await far.send_all(piece)
                        await near.send_all(await far.receive_some())
                        await near.receive_some()

                nursery.start_soon(forward)
                port = proxy.socket.getsockname()[1]
                channel = await connect(HERE, replace(ticket, port=port), "us")
                again = await trio.open_tcp_stream(HERE, sideband.port)
                await again.send_all(recorded)
                await _closed_by_them(again)
                await channel.aclose()
            await proxy.aclose()

    trio.run(main)


def test_a_token_without_its_secret_is_of_no_use() -> None:
    async def main() -> None:
        async with listening() as sideband:
            ticket = sideband.offer("friend")
            with pytest.raises(ChannelBroken):
                await connect(HERE, replace(ticket, secret=b"x" * 32), "us")
            # Nor can it be tried again with another guess.
            with pytest.raises(ChannelBroken):
                await connect(HERE, ticket, "us")

    trio.run(main)


def test_who_answers_must_know_the_secret_too() -> None:
    async def main() -> None:
        async def impostor(stream: trio.SocketStream) -> None:
            await stream.receive_some(100)
            await stream.send_all((24).to_bytes(4, "big") + bytes(24))
            await stream.receive_some(100)

        with trio.fail_after(10):
            async with plain_nursery() as nursery:
                listeners = await nursery.start(trio.serve_tcp, impostor, 0)
                port = listeners[0].socket.getsockname()[1]
                with pytest.raises(ChannelBroken, match="does not match its key"):
                    await connect(HERE, Ticket(port=port, token=b"t" * 16, secret=b"s" * 32), "us")

    trio.run(main)


def test_strangers_are_closed_at_once_while_nobody_is_expected() -> None:
    async def main() -> None:
        async with listening() as sideband:
            await _closed_by_them(await trio.open_tcp_stream(HERE, sideband.port))

    trio.run(main)


def test_silent_strangers_do_not_add_up_or_lock_out_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sideband_module, "PROOF_S", 1_000.0)  # it is the count that closes, not the time

    async def main() -> None:
        async with listening() as sideband:
            ticket = sideband.offer("friend")
            silent = [
                await trio.open_tcp_stream(HERE, sideband.port) for _ in range(UNPROVEN_PER_ADDRESS_MAX)
            ]
            await wait_all_tasks_blocked(0.01)
            await _closed_by_them(await trio.open_tcp_stream(HERE, sideband.port))
            for stream in silent:
                await stream.aclose()
            await wait_all_tasks_blocked(0.01)
            async with echoing(sideband, ticket):
                channel = await connect(HERE, ticket, "us")
                await channel.end()
                await channel.receive()
                await channel.aclose()

    trio.run(main)


def test_a_ticket_runs_out_and_tickets_are_bounded() -> None:
    clock = MockClock()

    async def main() -> None:
        sideband = Sideband(0, host=HERE)
        async with plain_nursery() as nursery:
            await nursery.start(sideband.run)
            for _ in range(TICKETS_MAX):
                sideband.offer("friend")
            with pytest.raises(Refused) as refused:
                sideband.offer("friend")
            assert refused.value.code == "overloaded"
            clock.jump(TICKET_S)
            late = sideband.offer("friend")
            clock.jump(2 * TICKET_S)
            async with sideband.accepted(late) as channel:
                assert channel is None

    trio.run(main, clock=clock)


def test_strangers_that_reset_their_connection_at_once_do_not_end_the_listener() -> None:
    async def main() -> None:
        async with listening() as sideband:
            for _ in range(8):  # all in one step of ours: they are gone before they are looked at
                with socket.create_connection((HERE, sideband.port)) as stranger:
                    stranger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            ticket = sideband.offer("friend")
            async with echoing(sideband, ticket):
                channel = await connect(HERE, ticket, "server")
                await channel.send(b"still here")
                assert await channel.receive() == b"still here"
                await channel.aclose()

    trio.run(main)


def test_a_taken_port_is_replaced_by_a_free_one() -> None:
    async def main() -> None:
        async with listening() as first, plain_nursery() as nursery:
            second = Sideband(first.port, host=HERE)
            await nursery.start(second.run)
            assert second.port not in (0, first.port)

    trio.run(main)


def test_a_ticket_shows_no_secret() -> None:
    assert "secret" not in repr(Ticket(port=1, token=b"t" * 16, secret=b"s" * 32))


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("/ip4/192.0.2.7/tcp/8643", "192.0.2.7"),
        ("/ip6/2001:db8::1/tcp/8643", "2001:db8::1"),
        ("/ip6zone/eth0/ip6/fe80::1/tcp/8643", "fe80::1%eth0"),
        ("/ip4/192.0.2.7/tcp/8643/p2p/RELAY/p2p-circuit", None),
        ("/dns4/example.org/tcp/1", None),
        ("/memory/desktop", None),
        ("", None),
    ],
)
def test_the_host_of_an_address(address: str, host: str | None) -> None:
    assert host_of(address) == host
