"""Gives this machine's models to paired peers that may fetch: the answering side of `/unhosted/model/1`.

A session is one channel and one file. Its chunks go over the channel itself, or over a bulk connection that
the peer asked for; that one lives no longer than the channel, so that unpairing ends both. Fair between
peers: however many sessions a peer has, one of its chunks is on its way at a time, and all peers' reads take
turns.
"""

import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from unhosted.node.core.chunks import HASH_BYTES, MODEL_BYTES_MAX, chunk_count, chunk_span
from unhosted.node.core.errors import Refused
from unhosted.node.core.peering import Capabilities, Channel, ChannelBroken, Network, PeerId
from unhosted.node.shell.models import chunk_lists
from unhosted.node.shell.models.manifest import Manifest
from unhosted.node.shell.models.store import ModelStore
from unhosted.node.shell.nurseries import plain_nursery
from unhosted.node.shell.transfer.messages import (
    HASHES_PAGE_MAX,
    MESSAGE_BYTES_MAX,
    PIECE_BYTES,
    PROTOCOL,
    Chunk,
    GetChunk,
    GetHashes,
    GetSideband,
    Hashes,
    No,
    Offered,
    Open,
    Ticket,
    WireError,
    decode_request,
    encode_message,
)
from unhosted.node.shell.transfer.records import RECORD_BYTES, RecordChannel
from unhosted.node.shell.transfer.sideband import Sideband

log = logging.getLogger(__name__)

SESSIONS_MAX = 32
SESSIONS_PER_PEER_MAX = 4
"""Each holds a file open and a chunk in memory."""

IDLE_S = 60.0
"""A peer that asks for nothing, or takes nothing, for so long is let go."""

READERS = 2
"""Chunks that are read from the disk at once, over all sessions; who waits longest is next."""

LISTS_EVERY_S = 60.0
"""How often models that came without a chunk list are looked for; a peer that asks does not wait for that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """A file that is being given. descriptor: it stays this file even if the name gets another one."""

    descriptor: int
    manifest: Manifest
    hashes: bytes


@dataclass(eq=False, slots=True)
class _Peer:
    """What all sessions of a peer share."""

    sessions: int = 0
    turn: trio.Lock = field(default_factory=trio.Lock)


@dataclass(eq=False, slots=True)
class _Bulk:
    """A session's bulk connection; when it breaks, so does the session."""

    session: trio.CancelScope = field(default_factory=trio.CancelScope)
    is_asked: bool = False
    is_open: bool = False


class ModelServing:
    """capabilities: of a paired peer, None once it is none; asked again before each chunk."""

    def __init__(
        self,
        network: Network,
        store: ModelStore,
        *,
        capabilities: Callable[[PeerId], Capabilities | None],
        sideband: Sideband | None,
    ) -> None:
        self._network = network
        self._store = store
        self._capabilities = capabilities
        self._sideband = sideband
        self._peers: dict[PeerId, _Peer] = {}
        self._readers = trio.CapacityLimiter(READERS)
        self.given_bytes = 0
        """Of models' files, to all peers since the start."""
        self._wanted_lists: dict[str, None] = {}
        self._list_wanted = trio.Event()

    def start(self) -> None:
        """Answer channels from now on; `run` is to run beside."""
        self._network.serve(PROTOCOL, self._answer, access="paired", message_bytes_max=MESSAGE_BYTES_MAX)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Make the chunk lists of models that have none, one after the other, until cancelled."""
        task_status.started()
        failed: set[str] = set()
        while True:
            name = await trio.to_thread.run_sync(self._next_without_list, frozenset(failed))
            if name is None:
                with trio.move_on_after(LISTS_EVERY_S):
                    await self._list_wanted.wait()
                self._list_wanted = trio.Event()
                continue
            try:
                await trio.to_thread.run_sync(chunk_lists.make, self._store, name)
                log.info("chunk_list_made name=%s", name)
            except (Refused, OSError) as error:
                failed.add(name)
                log.warning("chunk_list_failed name=%s error=%s", name, error)

    def _next_without_list(self, failed: frozenset[str]) -> str | None:
        """A model to make a list for: those that a peer asked for first."""
        root = self._store.root
        missing = [
            manifest
            for manifest in self._store.manifests()
            if manifest.name not in failed
            and manifest.size_bytes <= MODEL_BYTES_MAX
            and chunk_lists.load(root, manifest.blake3, manifest.size_bytes) is None
        ]
        for manifest in missing:
            if manifest.blake3 in self._wanted_lists:
                return manifest.name
        self._wanted_lists.clear()
        return missing[0].name if missing else None

    async def _answer(self, channel: Channel) -> None:
        """One session. A message that breaks the protocol raises, which resets the channel."""
        peer = self._peers.setdefault(channel.peer, _Peer())
        peer.sessions += 1
        try:
            if peer.sessions > SESSIONS_PER_PEER_MAX or self._session_count() > SESSIONS_MAX:
                raise Refused("overloaded", "this machine gives as many models as it may at once: try later.")
            with trio.fail_after(IDLE_S):
                message = await channel.receive()
            if message is None:
                return
            async with self._open(channel.peer, decode_request(message)) as file:
                await channel.send(encode_message(_offered(file)))
                await self._converse(channel, file, peer)
        except Refused as refusal:
            log.info("model_not_given peer=%s code=%s", channel.peer[-8:], refusal.code)
            await channel.send(encode_message(No(code=refusal.code, message=refusal.message)))
        except (ChannelBroken, trio.TooSlowError) as error:
            log.info("model_session_lost peer=%s why=%s", channel.peer[-8:], error)
            return
        finally:
            peer.sessions -= 1
            if not peer.sessions:
                self._peers.pop(channel.peer, None)
        await channel.end()

    def _session_count(self) -> int:
        return sum(peer.sessions for peer in self._peers.values())

    def _check_may(self, peer: PeerId, manifest: Manifest | None) -> None:
        capabilities = self._capabilities(peer)
        if capabilities is None:
            raise Refused("not_paired", "this machine is not paired with yours: pair them first.")
        if not capabilities.may_fetch:
            raise Refused(
                "not_allowed", "yours may not fetch models here: `unhosted peers allow ID --fetch` allows it."
            )
        allowed = capabilities.models
        if manifest is not None and allowed is not None:
            names = {manifest.name, *self._store.catalogue.aliases(manifest.name), f"b3:{manifest.blake3}"}
            if not names & set(allowed):
                raise Refused("not_allowed", "the model is not among those that yours may use here.")

    @asynccontextmanager
    async def _open(self, peer: PeerId, request: object) -> AsyncIterator[_File]:
        if not isinstance(request, Open):
            raise WireError("a session must begin with open")
        self._check_may(peer, None)
        manifest = await trio.to_thread.run_sync(self._find, request)
        if manifest is None:
            raise Refused("model_not_found", "the model is not here.")
        self._check_may(peer, manifest)
        hashes = await trio.to_thread.run_sync(
            chunk_lists.load, self._store.root, manifest.blake3, manifest.size_bytes
        )
        if hashes is None:
            self._wanted_lists[manifest.blake3] = None
            self._list_wanted.set()
            raise Refused("overloaded", "the model is being hashed for the first time: try in a minute.")
        # Resolving notices a file that was changed since its hashes were taken.
        model = await trio.to_thread.run_sync(self._store.resolve, manifest.name)
        descriptor = os.open(model.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield _File(descriptor=descriptor, manifest=manifest, hashes=hashes)
        finally:
            os.close(descriptor)

    def _find(self, wanted: Open) -> Manifest | None:
        for manifest in self._store.manifests():
            same = (
                manifest.blake3 == wanted.blake3.hex()
                if wanted.blake3 is not None
                else wanted.sha256 is not None and manifest.sha256 == wanted.sha256.hex()
            )
            if same and manifest.size_bytes <= MODEL_BYTES_MAX:
                return manifest
        return None

    async def _converse(self, channel: Channel, file: _File, peer: _Peer) -> None:
        bulk = _Bulk()
        with bulk.session:
            async with plain_nursery() as nursery:
                while (message := await _receive(channel, bulk)) is not None:
                    match decode_request(message):
                        case GetHashes(at=at):
                            await channel.send(encode_message(_page(file, at)))
                        case GetSideband() if not bulk.is_asked:
                            bulk.is_asked = True
                            ticket = self._ticket(channel.peer)
                            if isinstance(ticket, Ticket):
                                nursery.start_soon(self._serve_bulk, ticket, file, peer, bulk)
                            await channel.send(encode_message(ticket))
                        case GetChunk(chunk=chunk):
                            await self._give(channel, file, peer, chunk)
                        case _:
                            raise WireError("a message that has no place here")

    def _ticket(self, peer: PeerId) -> Ticket | No:
        """A refused bulk connection does not end the session: the channel can carry the chunks."""
        if self._sideband is None:
            return No(code="not_supported", message="this machine has no bulk connections.")
        try:
            return self._sideband.offer(peer)
        except Refused as refusal:
            return No(code=refusal.code, message=refusal.message)

    async def _serve_bulk(self, ticket: Ticket, file: _File, peer: _Peer, bulk: "_Bulk") -> None:
        assert self._sideband is not None
        async with self._sideband.accepted(ticket) as connection:
            if connection is None:
                return  # it could not connect; the chunks are asked for over the channel then
            bulk.is_open = True
            try:
                while True:
                    with trio.fail_after(IDLE_S):
                        message = await connection.receive()
                    if message is None:
                        break
                    request = decode_request(message)
                    if not isinstance(request, GetChunk):
                        raise WireError("a bulk connection is for chunks alone")
                    await self._give(connection, file, peer, request.chunk)
                await connection.end()
            except (ChannelBroken, WireError, Refused, OSError, trio.TooSlowError) as error:
                log.info("bulk_ended peer=%s why=%s", connection.peer[-8:], error)
                bulk.session.cancel()

    async def _give(self, channel: Channel, file: _File, peer: _Peer, chunk: int) -> None:
        if chunk >= chunk_count(file.manifest.size_bytes):
            raise WireError(f"chunk {chunk} of {chunk_count(file.manifest.size_bytes)}")
        self._check_may(channel.peer, file.manifest)
        start, end = chunk_span(file.manifest.size_bytes, chunk)
        with trio.fail_after(IDLE_S):
            async with peer.turn:
                data = await trio.to_thread.run_sync(
                    os.pread, file.descriptor, end - start, start, limiter=self._readers
                )
                if len(data) != end - start:
                    raise WireError("the file is shorter than it was")
                view = memoryview(data)
                header = encode_message(Chunk(chunk=chunk, size_bytes=len(data)))
                self.given_bytes += len(data)
                if isinstance(channel, RecordChannel):
                    pieces = [view[at : at + RECORD_BYTES] for at in range(0, len(view), RECORD_BYTES)]
                    await channel.send_all([header, *pieces])
                    return
                await channel.send(header)
                for at in range(0, len(view), PIECE_BYTES):
                    await channel.send(bytes(view[at : at + PIECE_BYTES]))


async def _receive(channel: Channel, bulk: _Bulk) -> bytes | None:
    """The next request. The time limit is for sessions alone whose chunks go over the channel itself."""
    while True:
        with trio.move_on_after(IDLE_S):
            return await channel.receive()
        if not bulk.is_open:
            raise trio.TooSlowError


def _offered(file: _File) -> Offered:
    from blake3 import blake3

    manifest = file.manifest
    return Offered(
        size_bytes=manifest.size_bytes,
        blake3=bytes.fromhex(manifest.blake3),
        sha256=bytes.fromhex(manifest.sha256),
        root=blake3(file.hashes).digest(),
        name=manifest.name,
    )


def _page(file: _File, at: int) -> Hashes:
    page = file.hashes[at * HASH_BYTES : (at + HASHES_PAGE_MAX) * HASH_BYTES]
    if not page:
        raise WireError(f"hashes from {at} of a file of {len(file.hashes) // HASH_BYTES} chunks")
    return Hashes(at=at, hashes=page)
