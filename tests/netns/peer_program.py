"""A machine with the network of peers and relaying alone, spoken to in lines of JSON by `Host.python`.

Arguments: a file for its identity, the limits of its relay as JSON, and perhaps "punch". It prints its peer
id and addresses, then answers each line ["word", …] with one of its own; an error is {"error": …}.
"""

import json
import logging
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import trio

from unhosted.node.core.peering import Channel, PeerUnreachable
from unhosted.node.shell.peers import relay as relaying
from unhosted.node.shell.peers.identity import load_identity
from unhosted.node.shell.peers.network import LibP2PNetwork
from unhosted.node.shell.peers.overrides.stream import StreamTunnel
from unhosted.node.shell.peers.punch import Puncher
from unhosted.node.shell.peers.relay import Relay
from unhosted.node.shell.peers.relay_messages import HOP, RelayMessage, encode
from unhosted.node.shell.peers.relay_rules import RelayLimits

ECHO = "/unhosted/test-echo/1"
PORT = 8643
MESSAGE_BYTES_MAX = 1 << 22
TIMEOUT_S = 15.0


class Program:
    def __init__(self, identity: Path, limits: RelayLimits, *, punches: bool) -> None:
        self.punches = punches
        self.paired: set[str] = set()
        self.passed = bytearray()
        self.network = LibP2PNetwork(
            load_identity(identity), listen=[("0.0.0.0", PORT)], is_paired=self.paired.__contains__
        )
        self.network.serve(ECHO, echo, access="paired", message_bytes_max=MESSAGE_BYTES_MAX)
        self.relay = Relay(self.network, is_paired=self.paired.__contains__, limits=limits)
        self.puncher = Puncher(self.network)

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self.network.run)
            await nursery.start(self.relay.run)
            if self.punches:
                await nursery.start(self.puncher.run)
            tell({"peer": self.network.peer, "addresses": self.network.addresses()})
            while line := await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
                word, *arguments = json.loads(line)
                command: Callable[..., Awaitable[Any]] = getattr(self, f"do_{word}")
                try:
                    with trio.fail_after(TIMEOUT_S * 2):
                        tell(await command(*arguments))
                except Exception as error:
                    tell({"error": str(error), "kind": type(error).__name__})
            nursery.cancel_scope.cancel()

    async def do_pair(self, peer: str) -> Any:
        self.paired.add(peer)
        return []

    async def do_unpair(self, peer: str) -> Any:
        self.paired.discard(peer)
        await self.network.disconnect(peer)
        return []

    async def do_connect(self, peer: str, addresses: list[str]) -> Any:
        connection = await self.network.connect(peer, addresses, timeout_s=TIMEOUT_S)
        return {"path": connection.path, "remote": connection.remote_address}

    async def do_echo(self, peer: str, text: str, times: int = 1) -> Any:
        """How many bytes came back as they were sent."""
        message, came = text.encode(), 0
        async with self.network.open_channel(
            peer, ECHO, message_bytes_max=MESSAGE_BYTES_MAX, timeout_s=TIMEOUT_S
        ) as channel:
            for _ in range(times):
                await channel.send(message)
                answer = await channel.receive()
                came += len(answer) if answer == message else 0
            await channel.end()
            assert await channel.receive() is None
        return {"came": came}

    async def do_reserved(self, peer: str) -> Any:
        """Wait until `peer` has reserved here."""
        while peer not in [one for one, _ in self.relay.reservations()]:
            await trio.sleep(0.01)
        return []

    async def do_gone(self, peer: str) -> Any:
        """Wait until there is no connection to `peer`."""
        seen, connections = await self.network.changed(-1)
        while peer in [one.peer for one in connections]:
            seen, connections = await self.network.changed(seen)
        return []

    async def do_path(self, peer: str, path: str) -> Any:
        """Wait until the connection to `peer` goes this way."""
        seen, connections = await self.network.changed(-1)
        while path not in [one.path for one in connections if one.peer == peer]:
            seen, connections = await self.network.changed(seen)
        return []

    async def do_tried(self, peer: str) -> Any:
        """Wait until punching a hole to `peer` has ended, well or not."""
        while not self.puncher.tries(peer):
            await trio.sleep(0.01)
        return []

    async def do_disconnect(self, peer: str) -> Any:
        await self.network.disconnect(peer)
        return []

    async def do_connections(self) -> Any:
        return {one.peer: one.path for one in self.network.connections()}

    async def do_circuits(self) -> Any:
        return [[one.source, one.target] for one in self.relay.circuits()]

    async def do_record(self) -> Any:
        """From now on keep all that this relay passes on, as it sees it."""
        passed = self.passed

        class Recorded(StreamTunnel):
            async def receive_some(self, max_bytes: int | None = None) -> bytes:
                data = await super().receive_some(max_bytes)
                passed.extend(data)
                return data

        vars(relaying)["StreamTunnel"] = Recorded
        return []

    async def do_passed(self, text: str) -> Any:
        return {"bytes": len(self.passed), "found": self.passed.count(text.encode())}

    async def do_plant(self, relay: str, target: str, text: str) -> Any:
        """Send `text` through a circuit as it is, and wait until the other end has had enough of it."""
        hello = encode(RelayMessage(kind="CONNECT", peer=target), HOP)
        return await self.do_hop(relay, (hello + text.encode()).hex())

    async def do_hop(self, relay: str, payload: str) -> Any:
        """Send raw bytes (hex) on hop and give back what comes until the end."""
        came = b""
        async with self.network.open_stream(relay, HOP, timeout_s=TIMEOUT_S) as stream:
            tunnel = StreamTunnel(stream)
            await tunnel.send_all(bytes.fromhex(payload))
            await tunnel.send_eof()
            try:
                while data := await tunnel.receive_some():
                    came += data
            except trio.BrokenResourceError:
                return {"came": came.hex(), "end": "reset"}
        return {"came": came.hex(), "end": "finished"}


async def echo(channel: Channel) -> None:
    while (message := await channel.receive()) is not None:
        await channel.send(message)
    await channel.end()


def tell(word: object) -> None:
    print(json.dumps(word), flush=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    limits = json.loads(sys.argv[2])
    try:
        trio.run(Program(Path(sys.argv[1]), RelayLimits(**limits), punches="punch" in sys.argv[3:]).run)
    except* PeerUnreachable as unreachable:
        tell({"error": str(unreachable)})
