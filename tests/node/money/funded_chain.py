"""A local chain that other machines can reach, with money in the buyer's account. Says [] when ready."""

from pathlib import Path
from tempfile import TemporaryDirectory

import trio

from tests.devchain import dev_chain
from tests.node.chain.chain_program import serve
from tests.node.money.crash_paid import prepare


def main() -> None:
    with TemporaryDirectory() as folder, dev_chain() as chain:
        prepare(chain, Path(folder))
        trio.run(serve, int(chain.url.rpartition(":")[2]))


if __name__ == "__main__":
    main()
