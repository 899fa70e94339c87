"""Sends transactions in children that are killed at a chosen step. Reads lines of JSON, writes lines of JSON.

    {"folder": …, "url": …, "limit": 5, "key": "operator", "step": "after journal" or null}

One process that has imported everything and runs no thread, so that it can fork: an import takes seconds.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import eth_account  # noqa: F401 - loaded before the fork
import trio
import web3  # noqa: F401 - loaded before the fork

from tests.node.chain.stage import FAST, HASTY, OPERATOR, STRANGER
from unhosted.market.ids import parse_address
from unhosted.node.shell.chain import broadcasting, calls, sending
from unhosted.node.shell.chain.adapter import open_chain
from unhosted.node.shell.chain.chains import chain_by_name
from unhosted.node.shell.chain.transactions import Journal

STEPS = (
    "while signing",
    "before journal",
    "after journal",
    "after broadcast",
    "before receipt",
    "after receipt",
)


def die(*_: object, **__: object) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(step: str | None) -> None:
    """Put the kill into the production code, at one step."""

    def before(function: Callable[..., Any]) -> Callable[..., Any]:
        return die

    def after(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            function(*arguments, **options)
            die()

        return run

    match step:
        case "while signing":  # the transaction in the journal is open then
            STRANGER.__class__.sign_transaction = before(STRANGER.__class__.sign_transaction)  # type: ignore[method-assign]
        case "before journal":
            Journal.begin = before(Journal.begin)  # type: ignore[method-assign]
        case "after journal":
            Journal.begin = after(Journal.begin)  # type: ignore[method-assign]
        case "after broadcast":
            real = broadcasting.broadcast

            async def broadcast(*arguments: Any) -> Any:
                await real(*arguments)
                die()

            sending.broadcast = broadcast  # type: ignore[attr-defined,assignment]
        case "before receipt":
            Journal.mark_mined = before(Journal.mark_mined)  # type: ignore[method-assign]
        case "after receipt":
            Journal.mark_mined = after(Journal.mark_mined)  # type: ignore[method-assign]


async def send(word: dict[str, Any]) -> None:
    entry = chain_by_name("local").with_contracts(
        token=parse_address(word["token"]), channels=parse_address(word["channels"])
    )
    async with open_chain(
        entry,
        [word["url"]],
        journal_path=Path(word["folder"]) / "sent.db",
        pool_policy=HASTY,
        sending_policy=FAST,
    ) as chain:
        call = calls.set_operator(chain.facts.channels, OPERATOR.address, limit_micros=word["limit"])
        await chain.send(call, STRANGER, key=word["key"])


def main() -> None:
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        word = json.loads(line)
        child = os.fork()
        if child == 0:
            try:
                arm(word["step"])
                trio.run(send, word)
                os._exit(0)
            except BaseException as error:
                print(f"child: {error!r}", flush=True)
                os._exit(1)
        _, status = os.waitpid(child, 0)
        print(json.dumps({"code": os.waitstatus_to_exitcode(status)}), flush=True)


if __name__ == "__main__":
    main()
