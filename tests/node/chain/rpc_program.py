"""The adapter as a program that a test talks to in lines of JSON, on another machine than the chain's.

{"url": …, "token": …, "channels": …, "folder": …}   first
{"ask": "account" | "send", "key": …}                 then
"""

import json
import sys
from pathlib import Path
from typing import Any

import trio

from tests.node.chain.stage import FAST, OPERATOR, STRANGER
from unhosted.market.ids import parse_address
from unhosted.node.core.chain import ChainUnavailable
from unhosted.node.shell.chain import calls
from unhosted.node.shell.chain.adapter import WebChain, open_chain
from unhosted.node.shell.chain.chains import chain_by_name
from unhosted.node.shell.chain.pool import PoolPolicy

POLICY = PoolPolicy(timeout_s=1.0, rounds=2, pause_s=0.05)


def tell(**words: object) -> None:
    print(json.dumps(words), flush=True)


async def answer(chain: WebChain, word: dict[str, Any]) -> None:
    try:
        if word["ask"] == "send":
            call = calls.set_operator(chain.facts.channels, OPERATOR.address, limit_micros=5)
            receipt = await chain.send(call, STRANGER, key=word["key"])
            tell(block=receipt.block_number)
        else:
            account = await chain.account(STRANGER.address, at="safe")
            tell(limit=account.limit_micros)
    except ChainUnavailable as fault:
        tell(unavailable=str(fault))


async def main() -> None:
    first = json.loads(await trio.to_thread.run_sync(sys.stdin.readline))
    entry = chain_by_name("local").with_contracts(
        token=parse_address(first["token"]), channels=parse_address(first["channels"])
    )
    async with open_chain(
        entry,
        [first["url"]],
        journal_path=Path(first["folder"]) / "sent.db",
        pool_policy=POLICY,
        sending_policy=FAST,
    ) as chain:
        tell(ready=True)
        while line := await trio.to_thread.run_sync(sys.stdin.readline):
            await answer(chain, json.loads(line))


if __name__ == "__main__":
    trio.run(main)
