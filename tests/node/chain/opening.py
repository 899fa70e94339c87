"""Opens the adapter for a test, with everything quick."""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import trio

from tests.node.chain.stage import FAST, HASTY
from unhosted.node.shell.chain.adapter import Surroundings, WebChain, open_chain
from unhosted.node.shell.chain.chains import ChainEntry
from unhosted.node.shell.chain.pool import PoolPolicy
from unhosted.node.shell.chain.sending import SendingPolicy


def with_chain(
    entry: ChainEntry,
    urls: Sequence[str],
    folder: Path,
    story: Callable[[WebChain], Awaitable[None]],
    *,
    pool_policy: PoolPolicy = HASTY,
    sending_policy: SendingPolicy = FAST,
    surroundings: Surroundings | None = None,
    limit_s: float = 20,
) -> None:
    async def main() -> None:
        with trio.fail_after(limit_s):
            async with open_chain(
                entry,
                urls,
                journal_path=folder / "sent.db",
                pool_policy=pool_policy,
                sending_policy=sending_policy,
                surroundings=surroundings,
            ) as chain:
                await story(chain)

    trio.run(main)
