"""A process that reserves money and dies: `python -m tests.node.money.die_reserved FOLDER MICROS`."""

import os
import signal
import sys
from pathlib import Path

import trio

from tests.node.money.ledger_world import ledger_in, of, request


async def main() -> None:
    async with ledger_in(Path(sys.argv[1]), cap=100) as ledger:
        await ledger.reserve(request(77), of(1), int(sys.argv[2]))
        sys.stdout.write("reserved\n")
        sys.stdout.flush()
        os.kill(os.getpid(), signal.SIGKILL)


trio.run(main)
