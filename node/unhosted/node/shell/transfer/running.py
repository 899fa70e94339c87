"""Drives `core.chunks` with real sources: a session for each, chunks checked and written as they come."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import trio

from unhosted.node.core import chunks
from unhosted.node.core.chunks import (
    WINDOW_MAX,
    AskForChunk,
    ChunkArrived,
    ChunkWrong,
    DropSource,
    Event,
    Finish,
    PieceArrived,
    SourceJoined,
    SourceLost,
    TimePassed,
)
from unhosted.node.core.errors import Refused
from unhosted.node.core.peering import ChannelBroken, Network, PeerId, PeerUnreachable
from unhosted.node.shell.models.manifest import Digests
from unhosted.node.shell.models.progress import Meter
from unhosted.node.shell.nurseries import plain_nursery
from unhosted.node.shell.transfer.messages import Open, WireError
from unhosted.node.shell.transfer.part_file import COMMIT_EVERY_S, PartFile
from unhosted.node.shell.transfer.source import SourceSession, open_source

log = logging.getLogger(__name__)

TICK_S = 0.5
REJOIN_PAUSE_S = 1.0
"""Before a source that was lost is tried again, times the losses in a row: a restart takes about so long."""

CHUNKS_WAITING = 1
"""Chunks of a source that wait for the disk: with the one that arrives and the one that is written, three."""

FAULTS = {"wrong_chunk": "gave a chunk that does not match its hash", "silent": "stopped in mid-transfer"}


class _Source:
    """scope: of the session that stands now. outbox: chunks to ask for, as many as a window holds.

    is_heard: since the last tick. is_writing: while a chunk of it goes to the disk; it need not be heard of
    then. may_bulk: until a bulk connection broke; something between us may not like it.
    """

    __slots__ = (
        "given_bytes",
        "is_dropped",
        "is_heard",
        "is_writing",
        "may_bulk",
        "outbox",
        "peer",
        "requests",
        "scope",
    )

    def __init__(self, peer: PeerId) -> None:
        self.peer = peer
        self.scope = trio.CancelScope()
        self.is_dropped = False
        self.is_heard = self.is_writing = False
        self.may_bulk = True
        self.given_bytes = 0
        self.outbox, self.requests = trio.open_memory_channel[int](WINDOW_MAX)

    def hear(self) -> None:
        self.is_heard = True


class RunningTransfer:
    """names: the sources, and what people call them. root: of the chunk list that `part` checks against."""

    def __init__(
        self,
        network: Network,
        part: PartFile,
        *,
        names: Mapping[PeerId, str],
        wanted: Open,
        root: bytes,
        meter: Meter,
        on_fault: Callable[[PeerId, str], None],
    ) -> None:
        self._network = network
        self._part = part
        self._wanted = wanted
        self._root = root
        self._meter = meter
        self._on_fault = on_fault
        self._sources = {peer: _Source(peer) for peer in names}
        self._state = chunks.begin(part.size_bytes, part.resumed)
        self._disk_error: OSError | None = None

    @property
    def given_bytes(self) -> dict[PeerId, int]:
        return {peer: source.given_bytes for peer, source in self._sources.items() if source.given_bytes}

    async def run(self) -> Digests | None:
        """The digests of the file once it is complete; None if all sources are gone before that.

        Raises: OSError from the disk. What came is durable when it returns or is cancelled.
        """
        digests: list[Digests] = []
        hashed = trio.Event()

        async def digest() -> None:
            with self._disk_errors_end_it():
                digests.append(await self._part.digest())
            hashed.set()

        try:
            async with plain_nursery() as helpers:
                helpers.start_soon(digest)
                helpers.start_soon(self._commit_now_and_then)
                helpers.start_soon(self._pass_time)
                await self._fetch_all()
                if self._state.is_complete:
                    self._meter.start("verifying", total_bytes=self._part.size_bytes)
                    await self._part.commit()  # while the last bytes are hashed
                    await hashed.wait()
        finally:
            with trio.CancelScope(shield=True):
                await self._part.commit()
        if self._disk_error is not None:
            raise self._disk_error
        return digests[0] if digests else None

    async def _fetch_all(self) -> None:
        if self._state.is_complete:
            return
        async with trio.open_nursery() as nursery:
            for source in self._sources.values():
                nursery.start_soon(self._work, source)

    @contextmanager
    def _disk_errors_end_it(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._disk_error = self._disk_error or error
            self._stop()

    def _apply(self, event: Event) -> None:
        self._state, effects = chunks.step(self._state, event, _now_ns())
        for effect in effects:
            match effect:
                case AskForChunk(source=peer, chunk=chunk):
                    self._sources[peer].outbox.send_nowait(chunk)
                case DropSource(source=peer, reason=reason):
                    self._sources[peer].is_dropped = True
                    self._sources[peer].scope.cancel()
                    if reason in FAULTS:
                        log.warning("source_dropped peer=%s reason=%s", peer[-8:], reason)
                        self._on_fault(peer, FAULTS[reason])
                case Finish():
                    self._stop()

    def _stop(self) -> None:
        for source in self._sources.values():
            source.is_dropped = True
            source.scope.cancel()

    async def _work(self, source: _Source) -> None:
        """Sessions with one source, one after the other, until the file is complete or it is dropped."""
        losses = 0
        while not source.is_dropped:
            given_before = source.given_bytes
            source.scope = trio.CancelScope()
            # What was asked for in the last session and not yet sent is given back by then.
            source.outbox, source.requests = trio.open_memory_channel[int](WINDOW_MAX)
            with source.scope:
                try:
                    await self._one_session(source)
                except (WireError, Refused) as error:
                    self._drop(source, error)
                except (PeerUnreachable, ChannelBroken, trio.TooSlowError) as error:
                    log.info("source_lost peer=%s why=%s", source.peer[-8:], error)
            if source.is_dropped:
                return
            self._apply(SourceLost(source=source.peer))
            losses = 0 if source.given_bytes > given_before else losses + 1
            if losses >= chunks.LOSSES_MAX:
                return
            await self._pause(source, losses)

    def _drop(self, source: _Source, error: WireError | Refused) -> None:
        log.info("source_left peer=%s why=%s", source.peer[-8:], error)
        if isinstance(error, WireError):
            self._on_fault(source.peer, f"broke the transfer protocol: {error}")
        self._apply(SourceLost(source=source.peer))
        source.is_dropped = True

    async def _pause(self, source: _Source, losses: int) -> None:
        source.scope = trio.CancelScope()  # so that the end of the transfer ends the pause
        with source.scope:
            await trio.sleep(REJOIN_PAUSE_S * losses)

    async def _one_session(self, source: _Source) -> None:
        async with open_source(self._network, source.peer, self._wanted) as session:
            if session.offer.root != self._root or session.offer.size_bytes != self._part.size_bytes:
                raise WireError("the offer is another one than before")
            async with session.over_sideband(wanted=source.may_bulk):
                source.may_bulk = False  # unless the session ends well, which ends the transfer
                log.info(
                    "source_joined peer=%s over=%s",
                    source.peer[-8:],
                    "sideband" if session.is_bulk else "channel",
                )
                arrived, to_write = trio.open_memory_channel[tuple[int, bytearray]](CHUNKS_WAITING)
                failures: list[Exception] = []
                async with plain_nursery() as nursery:
                    nursery.start_soon(self._ask, source, session, failures, nursery.cancel_scope)
                    nursery.start_soon(self._write, source, to_write)
                    self._apply(SourceJoined(source=source.peer))
                    while True:
                        await arrived.send(await session.receive(source.hear))
                if failures:
                    raise failures[0]

    async def _ask(
        self,
        source: _Source,
        session: SourceSession,
        failures: list[Exception],
        scope: trio.CancelScope,
    ) -> None:
        try:
            async for chunk in source.requests:
                await session.ask_for(chunk)
        except (ChannelBroken, trio.TooSlowError) as error:
            failures.append(error)
            scope.cancel()

    async def _write(
        self, source: _Source, to_write: "trio.MemoryReceiveChannel[tuple[int, bytearray]]"
    ) -> None:
        """Check and write one chunk while the next one arrives."""
        with self._disk_errors_end_it():
            async for chunk, data in to_write:
                source.is_writing = True
                try:
                    asked = self._state.sources[source.peer].in_flight
                    is_right = chunk in asked and await self._part.put(chunk, data)
                finally:
                    source.is_writing = False
                if not is_right:
                    self._apply(ChunkWrong(source=source.peer, chunk=chunk))
                    return
                before = self._state.done
                source.given_bytes += len(data)
                self._apply(ChunkArrived(source=source.peer, chunk=chunk))
                if self._state.done > before:
                    self._meter.add(len(data))

    async def _commit_now_and_then(self) -> None:
        while True:
            await trio.sleep(COMMIT_EVERY_S)
            with self._disk_errors_end_it():
                await self._part.commit()

    async def _pass_time(self) -> None:
        while True:
            await trio.sleep(TICK_S)
            for source in self._sources.values():
                if source.is_heard or source.is_writing:
                    source.is_heard = False
                    self._apply(PieceArrived(source=source.peer))
            self._apply(TimePassed())


def _now_ns() -> int:
    return int(trio.current_time() * 1e9)
