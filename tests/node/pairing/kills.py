"""Two real nodes on loopback pair, and one of them is killed at every point there is: kill -9, a real book.

Run as a program, it imports once and forks each node, and prints one JSON line for each kill. A point lies
before each effect of the rules, and after each message that has gone out.
"""

import json
import os
import select
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import trio

from unhosted.node.core.pairing_words import PairingEffect, PairingEvent
from unhosted.node.core.peering import Access, Channel, ChannelHandler, Connection, PeerId
from unhosted.node.shell.peers.identity import load_identity
from unhosted.node.shell.peers.network import LibP2PNetwork
from unhosted.node.shell.trusted.book import PeerBook
from unhosted.node.shell.trusted.pairing import Pairings

TICK_S = 0.02
PATIENCE_S = 20.0
POINTS_MAX = 40
PAIRED: list[list[Any]] = [["paired", 0], ["paired", 0]]
NEITHER: list[list[Any]] = [["none", 0], ["none", 0]]
"""Of each side: what its book says, and how many pairings are under way."""


class Points:
    """Kills this process when it reaches point number `kill_at`."""

    def __init__(self, kill_at: int) -> None:
        self._left = kill_at

    def reach(self) -> None:
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self._left -= 1


class DeadlyChannel:
    def __init__(self, channel: Channel, points: Points) -> None:
        self._channel, self._points = channel, points
        self.peer = channel.peer
        self.receive, self.end = channel.receive, channel.end

    async def send(self, message: bytes) -> None:
        await self._channel.send(message)
        self._points.reach()


class DeadlyNetwork:
    """The real network, with a point after each message that was sent."""

    def __init__(self, network: LibP2PNetwork, points: Points) -> None:
        self._network, self._points = network, points
        self.peer = network.peer
        self.addresses, self.connections, self.changed = (
            network.addresses,
            network.connections,
            network.changed,
        )
        self.disconnect = network.disconnect

    def serve(
        self, protocol: str, handler: ChannelHandler, *, access: Access, message_bytes_max: int
    ) -> None:
        async def handle(channel: Channel) -> None:
            await handler(DeadlyChannel(channel, self._points))

        self._network.serve(protocol, handle, access=access, message_bytes_max=message_bytes_max)

    async def connect(self, peer: PeerId, addresses: Sequence[str], *, timeout_s: float) -> Connection:
        return await self._network.connect(peer, addresses, timeout_s=timeout_s)

    @asynccontextmanager
    async def open_channel(
        self, peer: PeerId, protocol: str, *, message_bytes_max: int, timeout_s: float
    ) -> AsyncIterator[Channel]:
        async with self._network.open_channel(
            peer, protocol, message_bytes_max=message_bytes_max, timeout_s=timeout_s
        ) as channel:
            yield DeadlyChannel(channel, self._points)


class DeadlyPairings(Pairings):
    """The real pairings, with a point before each effect."""

    points: Points

    async def _perform_all(self, effects: Sequence[PairingEffect]) -> PairingEvent | None:
        for effect in effects:
            self.points.reach()
            if (failed := await super()._perform_all([effect])) is not None:
                return failed
        return None


async def live(
    directory: Path, kill_at: int, commands: int, answers: int, *, host: str = "127.0.0.1"
) -> None:
    """A node whose user says yes to everything and that does what its parent says."""
    points = Points(kill_at)
    book = PeerBook(directory / "peers.db")
    network = LibP2PNetwork(
        load_identity(directory / "identity.key"), listen=[(host, 0)], is_paired=book.is_paired
    )
    pairings = DeadlyPairings(
        DeadlyNetwork(network, points), book, own_name=directory.name, seen=list, tick_s=TICK_S
    )
    pairings.points = points
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        await nursery.start(pairings.run)
        nursery.start_soon(say_yes, pairings)
        with os.fdopen(commands, "rb", buffering=0) as pipe:
            while True:
                await trio.lowlevel.wait_readable(pipe.fileno())
                line = pipe.readline()
                if not line:
                    break
                answer = await obey(json.loads(line), pairings, network, book)
                os.write(answers, json.dumps([answer]).encode() + b"\n")
        nursery.cancel_scope.cancel()


async def obey(command: list[Any], pairings: Pairings, network: LibP2PNetwork, book: PeerBook) -> Any:
    match command:
        case ["address"]:
            return [network.peer, network.addresses()]
        case ["offer"]:
            return (await pairings.offer()).address_code
        case ["join", code]:
            return (await pairings.join(code)).state
        case ["connect", [peer, addresses]]:
            return (await network.connect(peer, addresses, timeout_s=5)).peer
        case ["unpair", peer]:
            await pairings.unpair(peer)
            return "unpaired"
        case ["report"]:
            at_rest = ("waiting", "paired", "failed")  # an open code that nobody has used waits for ever
            under_way = [p for p in pairings._state.pairings.values() if p.phase not in at_rest]
            standing = next((record.state for record in book.peers()), "none")
            return [standing, len(under_way)]
    raise ValueError(command)


async def say_yes(pairings: Pairings) -> None:
    while True:
        for pairing in list(pairings._state.pairings.values()):
            if pairing.phase == "confirm":
                await pairings.confirm(pairing.pairing_id, True)
        await trio.sleep(TICK_S)


class Node:
    """A forked node, seen from the parent."""

    def __init__(self, directory: Path, kill_at: int = -1) -> None:
        directory.mkdir(exist_ok=True)
        command_out, self._commands = os.pipe()
        self._answers, answer_in = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._commands)
            os.close(self._answers)
            with suppress(BaseException):
                trio.run(live, directory, kill_at, command_out, answer_in)
            os._exit(0)
        os.close(command_out)
        os.close(answer_in)
        self.is_dead = False

    def ask(self, *command: object) -> Any:
        """The answer; None once it is dead."""
        if self.is_dead:
            return None
        with suppress(BrokenPipeError):
            os.write(self._commands, json.dumps(command).encode() + b"\n")
        data = b""
        while not data.endswith(b"\n"):
            ready, _, _ = select.select([self._answers], [], [], PATIENCE_S)
            if not ready:
                raise TimeoutError(f"{command[0]} was not answered")
            piece = os.read(self._answers, 65536)
            if not piece:
                self.bury()
                return None
            data += piece
        return json.loads(data)[0]

    def bury(self) -> None:
        if not self.is_dead:
            self.is_dead = True
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            os.close(self._commands)
            os.close(self._answers)


def settle(nodes: dict[str, Node], *ends: list[list[Any]]) -> list[list[Any] | None]:
    """Reports of both, once they are one of `ends`, or a node is dead; or after long enough."""
    reports: list[list[Any] | None] = []
    for _ in range(int(PATIENCE_S / TICK_S)):
        reports = [node.ask("report") for node in nodes.values()]
        if None in reports or reports in ends:
            break
        select.select([], [], [], TICK_S)
    return reports


def pair_and_kill(directory: Path, victim: str, kill_at: int) -> dict[str, Any]:
    """One pairing with one death, the restart and the contact that follow."""
    directory.mkdir()
    nodes = {
        name: Node(directory / name, kill_at if name == victim else -1) for name in ("offerer", "joiner")
    }
    try:
        code = nodes["offerer"].ask("offer")
        if code is not None:
            nodes["joiner"].ask("join", code)
        is_killed = code is None or None in (reports := settle(nodes, PAIRED))
        if is_killed:
            survivor = next(node for name, node in nodes.items() if name != victim)
            nodes[victim].bury()
            nodes[victim] = Node(directory / victim)
            nodes[victim].ask("connect", survivor.ask("address"))
            reports = settle(nodes, PAIRED, NEITHER)
        return {"victim": victim, "kill_at": kill_at, "killed": is_killed, "reports": reports}
    finally:
        for node in nodes.values():
            node.bury()


def main(directory: Path) -> None:
    for victim in ("offerer", "joiner"):
        for kill_at in range(POINTS_MAX):
            outcome = pair_and_kill(directory / f"{victim}-{kill_at}", victim, kill_at)
            sys.stdout.write(json.dumps(outcome) + "\n")
            sys.stdout.flush()
            if not outcome["killed"]:
                break


if __name__ == "__main__":
    if len(sys.argv) == 3:
        # One node that is spoken to over its standard input and output; second argument: where it listens.
        trio.run(partial(live, Path(sys.argv[1]), -1, 0, 1, host=sys.argv[2]))
    else:
        main(Path(sys.argv[1]))
