"""Pairing over libp2p: what the network in memory cannot show."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.node.pairing.test_attacks import pump
from unhosted.node.core.pairing_code import hint_of
from unhosted.node.core.peering import Channel, ChannelBroken, PeerId
from unhosted.node.core.service import PairingView
from unhosted.node.shell.peers.identity import PREFIX, Identity, _base58_encode
from unhosted.node.shell.peers.network import LibP2PNetwork
from unhosted.node.shell.trusted import pairing_wire
from unhosted.node.shell.trusted.book import PeerBook
from unhosted.node.shell.trusted.pairing import Pairings

DESKTOP, LAPTOP, EVE = 1, 2, 28796
"""Keys, as numbers. Eve's was looked for until its id had the hint of the desktop's."""


def identity(number: int) -> Identity:
    seed = number.to_bytes(32)
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    return Identity(peer=_base58_encode(PREFIX + public), seed=seed)


@dataclass(eq=False, kw_only=True)
class RealMachine:
    network: LibP2PNetwork
    book: PeerBook
    pairings: Pairings
    sights: list[tuple[PeerId, Sequence[str]]] = field(default_factory=list)

    async def until(self, pairing_id: str, *states: str) -> PairingView:
        with trio.fail_after(10):
            while (view := self.pairings.view(pairing_id)).state not in states:
                await trio.sleep(0.005)
        return view


@asynccontextmanager
async def real_machine(directory: Path, number: int) -> AsyncIterator[RealMachine]:
    book = PeerBook(directory / f"{number}.db")
    network = LibP2PNetwork(identity(number), listen=[("127.0.0.1", 0)], is_paired=book.is_paired)
    sights: list[tuple[PeerId, Sequence[str]]] = []
    pairings = Pairings(network, book, own_name=f"machine {number}", seen=lambda: sights, tick_s=0.01)
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        await nursery.start(pairings.run)
        yield RealMachine(network=network, book=book, pairings=pairings, sights=sights)
        nursery.cancel_scope.cancel()
    book.close()


def test_a_relay_that_ends_the_encryption_itself_gets_nowhere(tmp_path: Path) -> None:
    async def main() -> None:
        async with real_machine(tmp_path, DESKTOP) as desktop, real_machine(tmp_path, LAPTOP) as laptop:
            eve = LibP2PNetwork(identity(EVE), listen=[("127.0.0.1", 0)], is_paired=lambda peer: True)
            assert hint_of(eve.peer) == hint_of(desktop.network.peer)
            passed: list[bytes] = []

            async def pass_on(channel: Channel) -> None:
                peer = desktop.network.peer
                await eve.connect(peer, desktop.network.addresses(), timeout_s=5)
                async with (
                    eve.open_channel(
                        peer, pairing_wire.PROTOCOL, message_bytes_max=4096, timeout_s=5
                    ) as onward,
                    trio.open_nursery() as nursery,
                ):
                    nursery.start_soon(pump, channel, onward, passed)
                    nursery.start_soon(pump, onward, channel, passed)

            eve.serve(pairing_wire.PROTOCOL, pass_on, access="anyone", message_bytes_max=4096)
            async with trio.open_nursery() as nursery:
                await nursery.start(eve.run)
                laptop.sights.append((eve.peer, eve.addresses()))
                offer = await desktop.pairings.offer()
                assert offer.code is not None
                join = await laptop.pairings.join(offer.code)
                failed = await laptop.until(join.pairing_id, "failed", "confirm")
                assert failed.state == "failed" and "another machine stands between" in failed.reason
                kinds = [type(pairing_wire.decode(data)).__name__ for data in passed]
                assert kinds == ["Start", "Answer", "Proof", "Decline"]
                shown = desktop.pairings.view(offer.pairing_id)
                assert shown.tries_left == 2 and eve.peer[-6:] in shown.reason
                assert not desktop.book.peers() and not laptop.book.peers()
                nursery.cancel_scope.cancel()

    trio.run(main)


def test_unpairing_ends_a_channel_that_is_open(tmp_path: Path) -> None:
    async def main() -> None:
        async with real_machine(tmp_path, DESKTOP) as desktop, real_machine(tmp_path, LAPTOP) as laptop:

            async def work(channel: Channel) -> None:
                assert await channel.receive() == b"are you there?"
                await channel.send(b"yes")
                await channel.receive()

            desktop.network.serve("/job/1", work, access="paired", message_bytes_max=100)
            offer = await desktop.pairings.offer()
            assert offer.address_code is not None
            join = await laptop.pairings.join(offer.address_code)
            for machine, pairing_id in ((desktop, offer.pairing_id), (laptop, join.pairing_id)):
                await machine.until(pairing_id, "confirm")
                await machine.pairings.confirm(pairing_id, True)
            await laptop.until(join.pairing_id, "paired")
            async with laptop.network.open_channel(
                desktop.network.peer, "/job/1", message_bytes_max=100, timeout_s=5
            ) as channel:
                await channel.send(b"are you there?")
                assert await channel.receive() == b"yes"
                await desktop.pairings.unpair(laptop.network.peer)
                with trio.fail_after(5), pytest.raises(ChannelBroken):
                    await channel.receive()
            with trio.fail_after(5):
                while laptop.book.peers():
                    await trio.sleep(0.005)

    trio.run(main)
