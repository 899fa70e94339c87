"""Bytes to and from the other side, as the library wants to see them: a socket, or a relay's tunnel."""

import socket
from contextlib import suppress
from typing import Any, Protocol

import trio
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.exceptions import ConnectionClosedError

RECEIVE_BYTES = 128 * 1024
"""Two Noise messages, so that one system call brings a whole one."""


class Tunnel(Protocol):
    """Bytes both ways. `receive_some` gives b"" at the end."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes: ...

    async def send_all(self, data: bytes) -> None: ...

    async def aclose(self) -> None: ...


class Wire(ReadWriteCloser):  # type: ignore[misc]
    """Reads whole: `read(n)` gives n bytes, and fewer at the end alone.

    The library gives up a message that comes in more than a hundred pieces, and its own stream makes two
    system calls for each. `allowed_bytes` bounds what is taken in before the other side has proved who it is.
    """

    def __init__(self, tunnel: Tunnel, *, remote: tuple[str, int] | None, allowed_bytes: int) -> None:
        self._tunnel = tunnel
        self._remote = remote
        self._allowed_bytes: int | None = allowed_bytes
        self._buffer = bytearray()

    def unlimit(self) -> None:
        """The other side is known now: the session's own limits hold from here on."""
        self._allowed_bytes = None

    async def read(self, n: int | None = None) -> bytes:
        wanted = 1 if n is None or n < 0 else n
        while len(self._buffer) < wanted:
            if not await self._receive():
                break
        size = len(self._buffer) if n is None or n < 0 else min(n, len(self._buffer))
        with memoryview(self._buffer) as view:
            data = bytes(view[:size])
        del self._buffer[:size]
        return data

    async def _receive(self) -> bool:
        data = await self._tunnel.receive_some(RECEIVE_BYTES)
        if self._allowed_bytes is not None:
            self._allowed_bytes -= len(data)
            if self._allowed_bytes < 0:
                raise ConnectionClosedError("too many bytes for a handshake")
        self._buffer += data
        return bool(data)

    async def write(self, data: bytes) -> None:
        try:
            await self._tunnel.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionClosedError("the other side is gone") from error

    async def close(self) -> None:
        await self._tunnel.aclose()

    def get_remote_address(self) -> tuple[str, int] | None:
        return self._remote


def remote_of(stream: trio.SocketStream) -> tuple[str, int] | None:
    """IP address (with its %zone) and port of the other side; None if it is gone already."""
    try:
        name: Any = stream.socket.getpeername()
    except OSError:
        return None
    host = str(name[0])
    if len(name) == 4 and name[3] and "%" not in host:
        with suppress(OSError):  # the interface went away meanwhile
            host = f"{host}%{socket.if_indextoname(name[3])}"
    return host, int(name[1])
