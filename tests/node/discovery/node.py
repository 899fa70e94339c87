"""A node that only looks for others, run in a network namespace; it tells what it sees in lines of JSON.

    python -m tests.node.discovery.node '{"name": "a", "folder": "/some/where", "connects": true}'

connects: over libp2p; else it sees and is seen, and nothing listens. interfaces: where, everywhere without.

It says its peer id and when it is up, then, each time they change, whom it sees and to whom it is connected.
A line `{"pair": ID}` on its standard input puts a peer into its book, `{"problems": true}` asks for those.
Times are of CLOCK_MONOTONIC, which all namespaces share.
"""

import json
import secrets
import signal
import sys
import time
from pathlib import Path
from typing import Any

import trio

from tests.fake_network import Fabric, FakeNetwork
from unhosted.node.core.peering import Network, PairedPeer
from unhosted.node.shell.discovery.finder import Finder
from unhosted.node.shell.trusted.book import PeerBook

LOOK_S = 0.05
PORT = 8643


def say(**words: object) -> None:
    sys.stdout.write(json.dumps({"at": time.monotonic(), **words}) + "\n")
    sys.stdout.flush()


def make_network(settings: Any, book: PeerBook) -> Any:
    folder = Path(settings["folder"])
    if not settings.get("connects"):
        return FakeNetwork(Fabric(), "12D3KooW" + secrets.token_hex(22).replace("0", "z"))
    from unhosted.node.shell.peers.identity import load_identity
    from unhosted.node.shell.peers.network import LibP2PNetwork

    return LibP2PNetwork(
        load_identity(folder / "identity.key"),
        listen=[("0.0.0.0", PORT), ("::", PORT)],
        is_paired=book.is_paired,
    )


async def tell_changes(finder: Finder, network: Network) -> None:
    told: Any = None
    while True:
        seen = {peer.peer: [peer.name, *peer.addresses] for peer in finder.seen()}
        now = (seen, {live.peer: live.remote_address for live in network.connections()})
        if now != told:
            told = now
            why_not = {status.name: status.why_not for status in finder.statuses()}
            say(seen=now[0], connected=now[1], why_not=why_not)
        await trio.sleep(LOOK_S)


async def obey(finder: Finder, book: PeerBook) -> None:
    lines = trio.lowlevel.FdStream(0)
    rest = b""
    async for data in lines:
        *whole, rest = (rest + data).split(b"\n")
        for line in whole:
            order = json.loads(line)
            if peer := order.get("pair"):
                book.put(PairedPeer(peer=peer, name=order["name"], state="paired", paired_unix_s=1))
            else:
                say(problems=finder.problems())


async def main(settings: Any) -> None:
    book = PeerBook(Path(settings["folder"]) / "peers.db")
    network = make_network(settings, book)
    finder = Finder(
        network,
        book,
        name=settings["name"],
        version="1",
        port=PORT,
        interfaces=settings.get("interfaces", ()),
    )
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            await nursery.start(network.run)
            await nursery.start(finder.run)
            say(up=network.peer)
            nursery.start_soon(tell_changes, finder, network)
            nursery.start_soon(obey, finder, book)
            async for _ in signals:
                nursery.cancel_scope.cancel()
                break
    book.close()


if __name__ == "__main__":
    trio.run(main, json.loads(sys.argv[1]))
