"""One paired peer as a source of one file: the asking side of a session of `/unhosted/model/1`."""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import trio

from unhosted.node.core.chunks import HASH_BYTES, chunk_count, chunk_span
from unhosted.node.core.errors import Refused
from unhosted.node.core.peering import Channel, ChannelBroken, Network, PeerId
from unhosted.node.shell.transfer.messages import (
    MESSAGE_BYTES_MAX,
    PROTOCOL,
    Chunk,
    GetChunk,
    GetHashes,
    GetSideband,
    Hashes,
    No,
    Offered,
    Open,
    Reply,
    Request,
    Ticket,
    WireError,
    decode_reply,
    encode_message,
)
from unhosted.node.shell.transfer.records import RecordChannel
from unhosted.node.shell.transfer.sideband import connect, host_of

log = logging.getLogger(__name__)

OPEN_S = 5.0
"""For a channel, and for each small answer on it: a peer that takes longer is no help."""

FAREWELL_S = 0.5
"""For an orderly end; without one the channel is reset, which does no harm either."""


class SourceSession:
    """Use `open_source`. One task may ask while another receives."""

    def __init__(self, network: Network, channel: Channel, offer: Offered) -> None:
        self.offer = offer
        self.peer = channel.peer
        self._network = network
        self._channel = channel
        self._bulk: Channel = channel

    @property
    def is_bulk(self) -> bool:
        """Whether the chunks go over a connection of their own."""
        return self._bulk is not self._channel

    async def fetch_hashes(self) -> bytes:
        """The file's chunk list, checked against the offer's root. Raises: WireError if it is another."""
        from blake3 import blake3

        wanted = chunk_count(self.offer.size_bytes)
        hashes = bytearray()
        while len(hashes) < wanted * HASH_BYTES:
            at = len(hashes) // HASH_BYTES
            reply = await self._ask(GetHashes(at=at))
            if not isinstance(reply, Hashes) or reply.at != at:
                raise WireError("hashes were asked for, another answer came")
            hashes += reply.hashes
        if len(hashes) != wanted * HASH_BYTES or blake3(hashes).digest() != self.offer.root:
            raise WireError("the chunk list is not the one that was offered")
        return bytes(hashes)

    async def ask_for(self, chunk: int) -> None:
        await self._bulk.send(encode_message(GetChunk(chunk=chunk)))

    async def receive(self, heard: Callable[[], None]) -> tuple[int, bytearray]:
        """The next chunk's number and bytes. heard: called as pieces of it come.

        Raises: ChannelBroken, WireError, Refused.
        """
        message = await self._bulk.receive()
        if message is None:
            raise ChannelBroken("the peer ended the session")
        reply = _unwrap(decode_reply(message))
        if not isinstance(reply, Chunk):
            raise WireError("a chunk was asked for, another answer came")
        start, end = chunk_span(self.offer.size_bytes, reply.chunk)
        if reply.size_bytes != end - start:
            raise WireError(f"chunk {reply.chunk} has {reply.size_bytes} bytes, must have {end - start}")
        heard()
        if isinstance(self._bulk, RecordChannel):
            return reply.chunk, await self._bulk.receive_bytes(reply.size_bytes, heard)
        return reply.chunk, await self._gather(reply.size_bytes, heard)

    async def _gather(self, size_bytes: int, heard: Callable[[], None]) -> bytearray:
        data = bytearray(size_bytes)
        at = 0
        while at < size_bytes:
            piece = await self._channel.receive()
            if not piece or at + len(piece) > size_bytes:
                raise WireError(f"a chunk that ends at byte {at}, or goes on after {size_bytes}")
            data[at : at + len(piece)] = piece
            at += len(piece)
            heard()
        return data

    async def _ask(self, request: Request) -> Reply:
        with trio.fail_after(OPEN_S):
            await self._channel.send(encode_message(request))
            message = await self._channel.receive()
        if message is None:
            raise ChannelBroken("the peer ended the session")
        return _unwrap(decode_reply(message))

    @asynccontextmanager
    async def over_sideband(self, *, wanted: bool = True) -> AsyncIterator[None]:
        """Let the chunks go over a bulk connection, if one comes about; else over the channel."""
        bulk = None
        try:
            bulk = await self._connect_bulk() if wanted else None
        except (ChannelBroken, Refused) as error:
            # A sideband that cannot be had is a matter of routers and firewalls, not a fault.
            log.info("sideband_not_used peer=%s why=%s", self.peer[-8:], error)
        if bulk is None:
            yield
            return
        self._bulk = bulk
        try:
            yield
        finally:
            self._bulk = self._channel
            await bulk.aclose()

    async def _connect_bulk(self) -> RecordChannel | None:
        connection = next((live for live in self._network.connections() if live.peer == self.peer), None)
        host = None if connection is None else host_of(connection.remote_address)
        if host is None:
            return None  # through a relay, or gone
        reply = await self._ask(GetSideband())
        if not isinstance(reply, Ticket):
            raise WireError("a ticket was asked for, another answer came")
        return await connect(host, reply, self.peer)


@asynccontextmanager
async def open_source(network: Network, peer: PeerId, wanted: Open) -> AsyncIterator[SourceSession]:
    """A session for the file `wanted`.

    Raises: PeerUnreachable, ChannelBroken, trio.TooSlowError; Refused if the peer has it not or says no;
    WireError if it breaks the protocol.
    """
    async with network.open_channel(
        peer, PROTOCOL, message_bytes_max=MESSAGE_BYTES_MAX, timeout_s=OPEN_S
    ) as channel:
        with trio.fail_after(OPEN_S):
            await channel.send(encode_message(wanted))
            message = await channel.receive()
        if message is None:
            raise ChannelBroken("the peer ended the session")
        offer = _unwrap(decode_reply(message))
        if not isinstance(offer, Offered) or wanted.blake3 not in (None, offer.blake3):
            raise WireError("another file was offered than the one asked for")
        if wanted.sha256 not in (None, offer.sha256):
            raise WireError("another file was offered than the one asked for")
        yield SourceSession(network, channel, offer)
        with trio.move_on_after(FAREWELL_S), suppress(ChannelBroken):
            await channel.end()
            await channel.receive()


def _unwrap(reply: Reply) -> Reply:
    if isinstance(reply, No):
        raise Refused(reply.code, reply.message)
    return reply
