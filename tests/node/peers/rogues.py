"""Attackers: bare sockets, and somebody who did the handshake and then keeps to no rule."""

import select
import socket
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as new_noise_key_pair
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.security.noise.transport import Transport as Noise

from unhosted.node.core.peering import PeerId
from unhosted.node.shell.peers.addresses import parse
from unhosted.node.shell.peers.identity import new_identity
from unhosted.node.shell.peers.memory import Memory
from unhosted.node.shell.peers.negotiation import MULTISTREAM, encode
from unhosted.node.shell.peers.network import LibP2PNetwork
from unhosted.node.shell.peers.overrides.session import Policy, Session
from unhosted.node.shell.peers.overrides.upgrader import Upgrader
from unhosted.node.shell.peers.sockets import Tunnel, Wire

DATA, WINDOW_UPDATE, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8


def frame(kind: int, flags: int, stream_id: int, length: int, body: bytes = b"", version: int = 0) -> bytes:
    """Written here again on purpose: the attacker shares no code with what it attacks."""
    return struct.pack("!BBHII", version, kind, flags, stream_id, length) + body


def port_of(network: LibP2PNetwork) -> int:
    return parse(network.addresses()[0]).port


def bare_socket(network: LibP2PNetwork, source: str = "127.0.0.1") -> socket.socket:
    """Connected, from any of this machine's loopback addresses."""
    return socket.create_connection(("127.0.0.1", port_of(network)), source_address=(source, 0))


async def is_closed_by_peer(opened: socket.socket) -> bool:
    """Wait until the other side has closed it, whatever it says before."""
    opened.setblocking(False)
    stream = trio.socket.from_stdlib_socket(opened)
    try:
        while await stream.recv(65536):
            pass
    except OSError:
        return True
    return True


def count_closed(opened: Sequence[socket.socket]) -> int:
    """How many of them the other side has closed by now, without having said anything."""
    poll = select.poll()
    for one in opened:
        poll.register(one, select.POLLIN)
    return len(poll.poll(0))


@dataclass(slots=True, kw_only=True)
class Rogue:
    """A Noise connection whose other end runs our session; this end writes what it likes and reads nothing.

    session: not started; tests that want an honest end start it themselves.
    """

    peer: PeerId
    secured: Any
    session: Session

    async def write(self, *frames: bytes) -> None:
        for one in frames:
            await self.secured.write(one)

    async def open(self, stream_id: int, protocol: str) -> None:
        words = encode(MULTISTREAM) + encode(protocol)
        await self.write(
            frame(WINDOW_UPDATE, SYN, stream_id, 0), frame(DATA, 0, stream_id, len(words), words)
        )

    async def read_until_closed(self) -> bytes:
        """What the victim says until it hangs up."""
        heard = b""
        try:
            while True:
                heard += await self.secured.read()
        except Exception:
            return heard


@dataclass(slots=True)
class Dribble:
    """A socket that sends one byte at a time."""

    stream: trio.SocketStream
    receive_some: Any = field(init=False)
    aclose: Any = field(init=False)

    def __post_init__(self) -> None:
        self.receive_some = self.stream.receive_some
        self.aclose = self.stream.aclose

    async def send_all(self, data: bytes) -> None:
        for at in range(len(data)):
            await self.stream.send_all(data[at : at + 1])
            await trio.lowlevel.checkpoint()


def free_policy() -> Policy:
    memory = Memory(2**40)
    return Policy(streams_max=lambda: 10**6, unread_bytes_max=lambda: 2**40, memory=lambda: memory)


@asynccontextmanager
async def rogue(network: LibP2PNetwork, *, dribbles: bool = False) -> AsyncIterator[Rogue]:
    """A stranger to `network`, connected."""
    stream = await trio.open_tcp_stream("127.0.0.1", port_of(network))
    tunnel: Tunnel = Dribble(stream) if dribbles else stream
    identity = new_identity()
    keys = create_new_key_pair(identity.seed)
    upgrader = Upgrader(
        Noise(keys, noise_privkey=new_noise_key_pair().private_key), lambda peer_id: free_policy()
    )
    wire = Wire(tunnel, remote=None, allowed_bytes=2**20)
    secured = await upgrader.upgrade_security(RawConnection(wire, True), True, ID.from_string(network.peer))
    session = await upgrader.upgrade_connection(secured, secured.get_remote_peer())
    wire.unlimit()
    try:
        yield Rogue(peer=identity.peer, secured=secured, session=session)
    finally:
        await stream.aclose()
