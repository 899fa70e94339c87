"""A local chain that other machines can reach. Says {"token": …, "channels": …}, then {"ready": true}.

The chain itself listens on its machine's loopback alone, as `unhosted devnet` does: a forwarder is before it.
"""

import json
from functools import partial

import trio

from tests.devchain import dev_chain
from tests.node.chain.stage import fund
from unhosted.market.ids import address_text

PORT = 8545
PIECE_BYTES = 1 << 16


async def pass_on(source: trio.SocketStream, to: trio.SocketStream) -> None:
    try:
        while piece := await source.receive_some(PIECE_BYTES):
            await to.send_all(piece)
        await to.send_eof()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # one side is gone: so is the connection


async def forward(stream: trio.SocketStream, *, port: int) -> None:
    async with await trio.open_tcp_stream("127.0.0.1", port) as inner, trio.open_nursery() as nursery:
        nursery.start_soon(pass_on, stream, inner)
        nursery.start_soon(pass_on, inner, stream)


async def serve(port: int) -> None:
    async with trio.open_nursery() as nursery:
        serve_tcp = partial(trio.serve_tcp, partial(forward, port=port), PORT, host="0.0.0.0")
        await nursery.start(serve_tcp)
        print(json.dumps({"ready": True}), flush=True)


def main() -> None:
    with dev_chain() as dev:
        fund(dev)
        contracts = dev.contracts
        words = {"token": address_text(contracts.token), "channels": address_text(contracts.channels)}
        print(json.dumps(words), flush=True)
        trio.run(serve, int(dev.url.rpartition(":")[2]))


if __name__ == "__main__":
    main()
