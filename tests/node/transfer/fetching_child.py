"""A node of its own process that pulls one REF from one peer: `STORE PEER ADDRESS REF`."""

import sys
from pathlib import Path

import trio

from unhosted.node.core.peering import PeerId
from unhosted.node.shell.models.pull import pull
from unhosted.node.shell.models.settings import PullSettings
from unhosted.node.shell.models.store import ModelStore
from unhosted.node.shell.nurseries import plain_nursery
from unhosted.node.shell.peers.identity import new_identity
from unhosted.node.shell.peers.network import LibP2PNetwork
from unhosted.node.shell.transfer.fetch import PeerModels, Source


async def main(root: str, peer: PeerId, address: str, ref: str) -> None:
    network = LibP2PNetwork(new_identity(), listen=[("127.0.0.1", 0)], is_paired=lambda other: other == peer)
    async with plain_nursery() as nursery:
        await nursery.start(network.run)
        await network.connect(peer, [address], timeout_s=10)
        models = PeerModels(network, sources=lambda: [Source(peer=peer, name="desktop", facts=None)])
        model = await pull(
            ModelStore(Path(root)),
            ref,
            settings=PullSettings(),
            progress=lambda progress: None,
            peers=models,
        )
        print(model.name, flush=True)


if __name__ == "__main__":
    store, giver, where, wanted = sys.argv[1:]
    trio.run(main, store, giver, where, wanted)
