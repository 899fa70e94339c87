"""A model's process as the operating system sees it: start, last words, end."""

import socket
import subprocess
import sys
from collections import deque
from collections.abc import Mapping

import trio

STDERR_LINES_KEPT = 20
"""What the library said last explains a crash; more would only be its log."""
STDERR_BYTES_MAX = 1 << 16
"""Of one line that never ends."""


async def start(module: str, connection: socket.socket, environment: Mapping[str, str]) -> trio.Process:
    """`module` as a program that inherits `connection`. Raises: OSError."""
    return await trio.lowlevel.open_process(
        [sys.executable, "-m", module, str(connection.fileno())],
        pass_fds=(connection.fileno(),),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,  # the terminal's Ctrl-C is for the node to handle
    )


async def keep_last_words(process: trio.Process, lines: deque[str], ended: trio.Event) -> None:
    """Put what the process says on its error output into `lines`, until it ends."""
    assert process.stderr is not None
    rest = b""
    async for data in process.stderr:
        *whole, rest = (rest + data)[-STDERR_BYTES_MAX:].split(b"\n")
        lines.extend(line.decode("utf-8", "replace")[:500] for line in whole if line.strip())
    ended.set()


async def end(process: trio.Process) -> None:
    """A child has nothing to save, so it is never waited for."""
    process.kill()
    await process.wait()
    if process.stderr is not None:
        await process.stderr.aclose()
