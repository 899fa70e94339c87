"""From a relayed connection to a direct one: both sides open TCP to each other in the same moment.

A router that lets in answers alone takes the other side's first packet for the answer to ours, if ours left
before it came. Each side learns its own public address from the relay (libp2p's identify), opens a port, and
tells the other side over the relayed connection (`/unhosted/punch/1`). It works where the router keeps the
port's number and drops what it did not expect; elsewhere the relay stays, and nothing is lost but a try.

Not handled: routers that change the port (the number could only be guessed), TLS or QUIC, and more than one
address for each side.
"""

import ipaddress
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import trio
from google.protobuf.message import DecodeError
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.stream_muxer.exceptions import MuxedStreamError
from multiaddr import Multiaddr
from multiaddr.exceptions import Error as MultiaddrError

from unhosted.market import cbor
from unhosted.node.core.peering import Channel, ChannelBroken, Connection, PeerId, PeerUnreachable
from unhosted.node.shell.peers.addresses import Endpoint, parse, text_of
from unhosted.node.shell.peers.identify import IDENTIFY
from unhosted.node.shell.peers.network import LibP2PNetwork

log = logging.getLogger(__name__)

PUNCH = "/unhosted/punch/1"
MESSAGE_BYTES_MAX = 256
"""An address in a map of one entry has less than 100."""

IDENTIFY_BYTES_MAX = 16_384
"""More than our own nodes answer; what is longer is cut, and is then no message."""

ASK_S = 10.0
"""For a question and its answer through the relay."""

OPENING_S = 5.0
"""Where it works at all it took at most 0.3 s between namespaces; a lost first packet comes again after 1 and
3 seconds.
"""

RETRY_S = 0.05
"""After a router's refusal: the other side's packet may open the way a moment later."""

AGAIN_S = (60.0, 300.0, 1800.0)
"""After the first, the second and each further try that failed: networks change, routers seldom."""

PORT_MIN = 1024
"""What a peer asks us to dial is no mail server's port."""


class NotPunched(Exception):
    """It did not work; the message says why, for the log."""


@dataclass(slots=True)
class _Tried:
    count: int
    again_at_s: float
    is_running: bool


class Puncher:
    """Tries it for each peer that we reached through a relay, and answers those who reached us so."""

    def __init__(self, network: LibP2PNetwork) -> None:
        self._network = network
        self._tried: dict[PeerId, _Tried] = {}
        """Of peers with a relayed connection alone, so that the network's own bound holds here."""
        self._answering: set[PeerId] = set()
        self._pause = trio.CancelScope()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until it is cancelled."""
        self._network.serve(PUNCH, self._answer, access="paired", message_bytes_max=MESSAGE_BYTES_MAX)
        async with trio.open_nursery() as nursery:
            task_status.started()
            seen = -1
            while True:
                due_s = min(
                    (one.again_at_s for one in self._tried.values() if not one.is_running), default=None
                )
                with trio.move_on_at(float("inf") if due_s is None else due_s) as self._pause:
                    seen, _ = await self._network.changed(seen)
                relayed = {one.peer for one in self._network.connections() if _relay_of(one)}
                self._tried = {peer: one for peer, one in self._tried.items() if peer in relayed}
                for connection in self._network.connections():
                    if connection.is_outbound and _relay_of(connection):
                        tried = self._tried.setdefault(connection.peer, _Tried(0, 0.0, False))
                        if not tried.is_running and tried.again_at_s <= trio.current_time():
                            tried.is_running = True
                            nursery.start_soon(self._try, connection.peer, tried)

    def tries(self, peer: PeerId) -> int:
        """How often it was tried with a peer that is connected through a relay still."""
        return self._tried[peer].count if peer in self._tried else 0

    async def _try(self, peer: PeerId, tried: _Tried) -> None:
        try:
            await self._ask(peer)
            log.info("punched peer=%s", peer[-8:])
        except (NotPunched, PeerUnreachable, ChannelBroken, OSError) as error:  # OSError: no port to be had
            log.info("not_punched peer=%s why=%s", peer[-8:], error)
        tried.again_at_s = trio.current_time() + AGAIN_S[min(tried.count, len(AGAIN_S) - 1)]
        tried.count += 1
        tried.is_running = False
        self._pause.cancel()  # the next try is due at a time that was not known when the pause began

    async def _ask(self, peer: PeerId) -> None:
        """Raises: NotPunched, PeerUnreachable, ChannelBroken."""
        with _open_port() as port:
            async with self._network.open_channel(
                peer, PUNCH, message_bytes_max=MESSAGE_BYTES_MAX, timeout_s=ASK_S
            ) as channel:
                with _timed("an answer"):
                    own = await self._own_address(peer, port)
                    asked_at_s = trio.current_time()
                    await channel.send(candidate_message(own))
                    theirs = candidate(await channel.receive())
                    round_trip_s = trio.current_time() - asked_at_s
                    await (
                        channel.end()
                    )  # the other side begins when it hears this: half a round trip from now
                    await trio.sleep(round_trip_s / 2)
                stream = await _meet(port, theirs)
            await self._network.adopt_socket(stream, is_initiator=True, peer=peer)

    async def _answer(self, channel: Channel) -> None:
        if channel.peer in self._answering:
            return  # one at a time: each opens a socket here
        self._answering.add(channel.peer)
        try:
            with _open_port() as port:
                with _timed("the question"):
                    theirs = candidate(await channel.receive())
                    await channel.send(candidate_message(await self._own_address(channel.peer, port)))
                    await channel.end()
                    if await channel.receive() is not None:
                        raise NotPunched("it says more than its address")
                stream = await _meet(port, theirs)
            await self._network.adopt_socket(stream, is_initiator=False, peer=channel.peer)
        except (NotPunched, PeerUnreachable) as error:
            log.info("not_punched peer=%s why=%s", channel.peer[-8:], error)
        finally:
            self._answering.discard(channel.peer)

    async def _own_address(self, peer: PeerId, port: int) -> str:
        """Where the relay to `peer` sees us, with `port` for the one of its connection."""
        relays = [_relay_of(one) for one in self._network.connections() if one.peer == peer]
        if not relays or not relays[0]:
            raise NotPunched("the connection is not a relayed one")
        observed = await self._observed_by(relays[0])
        try:
            is_global = ipaddress.ip_address(observed.host).is_global
        except ValueError:
            is_global = False  # a name: no relay sees one
        if not is_global:
            raise NotPunched(f"the relay sees us at {observed.host}, which is no public address")
        return text_of(observed.host, port)

    async def _observed_by(self, relay: PeerId) -> Endpoint:
        data = b""
        try:
            async with self._network.open_stream(relay, IDENTIFY, timeout_s=ASK_S) as stream:
                stream.finish()
                while len(data) < IDENTIFY_BYTES_MAX:
                    data += await stream.read(IDENTIFY_BYTES_MAX - len(data))
        except MuxedStreamError:
            pass  # it has said all, or too little: the message shows it
        try:
            # A varint in front says the length; the stream ends with the message, so its bytes are skipped.
            start = next(at for at, byte in enumerate(data) if byte < 0x80) + 1
            message = Identify.FromString(data[start:])
            return parse(str(Multiaddr(message.observed_addr)))
        except (StopIteration, DecodeError, MultiaddrError, ValueError) as error:
            raise NotPunched(f"the relay does not tell where it sees us ({type(error).__name__})") from None


def candidate_message(address: str) -> bytes:
    return cbor.encode({"address": address})


def candidate(message: bytes | None) -> Endpoint:
    """Where the other side says it is. Raises: NotPunched, unless a peer may ask us to dial that."""
    if message is None:
        raise NotPunched("the other side cannot")
    try:
        said = cbor.decode(message, bytes_max=MESSAGE_BYTES_MAX)
        endpoint = parse(said["address"])
        is_global = ipaddress.ip_address(endpoint.host).is_global
    except (ValueError, KeyError, TypeError, AttributeError):
        raise NotPunched("the other side says no address") from None
    if not is_global or endpoint.port < PORT_MIN or endpoint.relay is not None:
        raise NotPunched(f"the other side says {endpoint.host} port {endpoint.port}, which is not dialled")
    return endpoint


@contextmanager
def _timed(what: str) -> Iterator[None]:
    try:
        with trio.fail_after(ASK_S):
            yield
    except trio.TooSlowError:
        raise NotPunched(f"{what} did not come in {ASK_S:g} s") from None


@contextmanager
def _open_port() -> Iterator[int]:
    """A port that stays ours, for both families; sockets that are bound to it beside set SO_REUSEADDR too."""
    with socket.socket(socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET) as placeholder:
        placeholder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if placeholder.family == socket.AF_INET6:
            placeholder.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        placeholder.bind(("", 0))
        yield placeholder.getsockname()[1]


async def _meet(port: int, there: Endpoint) -> trio.SocketStream:
    """Raises: NotPunched."""
    family = socket.AF_INET6 if ipaddress.ip_address(there.host).version == 6 else socket.AF_INET
    why: OSError | None = None
    with trio.move_on_after(OPENING_S):
        while True:
            opened = trio.socket.socket(family, socket.SOCK_STREAM)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                await opened.bind(("", port))
                await opened.connect((there.host, there.port))
                return trio.SocketStream(opened)
            except OSError as error:
                opened.close()
                why = error
            except BaseException:
                opened.close()
                raise
            await trio.sleep(RETRY_S)
    raise NotPunched(f"{there.host} port {there.port}: {why.strerror if why else 'no answer'}")


def _relay_of(connection: Connection) -> PeerId:
    """Empty for a direct connection."""
    return connection.path.removeprefix("relay via ") if connection.path.startswith("relay via ") else ""
