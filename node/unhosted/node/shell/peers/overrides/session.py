"""Many streams over one Noise connection: the Yamux protocol with limits, and with an end to dead peers.

Three tasks: one reads frames, one writes them, one watches for silence. The writer alone touches the socket,
so that no cancelled caller ever cuts a Noise message, which would end the connection for everybody on it.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import trio
from libp2p.abc import IMuxedConn
from libp2p.stream_muxer.exceptions import MuxedConnUnavailable, MuxedStreamError

from unhosted.node.shell.peers.memory import Memory
from unhosted.node.shell.peers.overrides.frames import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    HEADER,
    NOISE_BYTES_MAX,
    PING,
    RST,
    SYN,
    WINDOW_BYTES_MAX,
    WINDOW_UPDATE,
    SessionFault,
    frame,
)
from unhosted.node.shell.peers.overrides.stream import Stream

QUEUE_BYTES = 256 * 1024
"""Frames that wait for the socket; beyond it writers wait. Four full frames keep the socket busy."""

QUEUE_BYTES_MAX = 1024 * 1024
"""Answers to pings and the like are queued beyond it. Whoever asks so much and reads nothing is hostile."""

UNTAKEN_STREAMS_MAX = 512
"""Streams that the peer opened and no task has taken yet: more than any limit of streams."""

TICK_S = 1.0
PING_TICKS = 2
DEAD_TICKS = 5
"""A peer that is silent for two ticks is pinged, for five it is dead: noticed in 4 to 5 s. Ticks and not a
clock: a machine that slept, or that was too busy to run us, has not listened in that time."""

MEASURE_TICKS = 10
"""A round trip is measured so often even if the peer is never silent."""

LINGER_TICKS = 30
"""A stream that we ended and the peer leaves half open is reset after so long."""

CLOSE_S = 0.5
"""What a goodbye may take."""

SMOOTHING = 0.25
"""Weight of the newest round trip: four of them make a change believed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """streams_max, unread_bytes_max: of this peer, as it stands now (it may get paired, or unpaired)."""

    streams_max: Callable[[], int]
    unread_bytes_max: Callable[[], int]
    memory: Callable[[], Memory]


class Session(IMuxedConn):  # type: ignore[misc]
    """`start` runs it; the library's swarm does that. reason: why it ended. on_end: called once, then."""

    def __init__(self, secured: Any, peer_id: Any, policy: Policy) -> None:
        self.secured_conn, self.peer_id = secured, peer_id
        self.event_started, self.event_closed = trio.Event(), trio.Event()
        self.reason = ""
        self.on_end: Callable[[], None] | None = None
        self.round_trip_s: float | None = None
        self.unread_bytes = 0
        self._policy = policy
        self._memory = policy.memory()
        self._streams: dict[int, Stream] = {}
        self._inbound_count = 0
        self._next_id = 1 if secured.is_initiator else 2
        self._untaken_in, self._untaken = trio.open_memory_channel[Stream](UNTAKEN_STREAMS_MAX)
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._work = trio.lowlevel.ParkingLot()
        self._uncongested = trio.lowlevel.ParkingLot()
        self._body_stream: Stream | None = None
        self._body_bytes = 0
        self._body_flags = 0
        self._quiet_ticks = self._ticks = 0
        self._ping_value = 0
        self._pinged_at_s: float | None = None
        self._scope: trio.CancelScope | None = None
        self._ended = trio.Event()

    # Life

    async def start(self) -> None:
        try:
            async with trio.open_nursery() as nursery:
                self._scope = nursery.cancel_scope
                if not self.event_closed.is_set():
                    for work in (self._read_frames, self._write_frames, self._watch):
                        nursery.start_soon(self._guarded, work)
                self.event_started.set()
        finally:
            self.abort("this node stops")
            with trio.CancelScope(shield=True), trio.move_on_after(CLOSE_S):
                await _close_quietly(self.secured_conn)
            self._ended.set()

    async def _guarded(self, work: Callable[[], Any]) -> None:
        try:
            await work()
        except SessionFault as fault:
            self.abort(str(fault))
        except Exception as error:  # of the library's, Noise's and the socket's many kinds: each ends it
            self.abort(f"the connection was lost ({type(error).__name__})")

    def abort(self, reason: str) -> None:
        """End it now, without a word to the peer; what was received can still be read."""
        if self.event_closed.is_set():
            return
        self.reason = reason
        self.event_closed.set()
        for stream in tuple(self._streams.values()):
            stream.break_off()
            if not stream.is_taken:
                stream.drop()
        self._streams.clear()
        self._queue.clear()
        self._untaken_in.close()
        self._uncongested.unpark_all()
        if self._scope is not None:
            self._scope.cancel()
        if self.on_end is not None:
            self.on_end()

    async def close(self) -> None:
        """End it once what is queued has left, or soon."""
        if self.event_started.is_set() and not self.event_closed.is_set():
            self.queue_frame(frame(GO_AWAY, 0, 0, 0))
            with trio.move_on_after(CLOSE_S):
                while self._queued_bytes and not self.event_closed.is_set():
                    await self._uncongested.park()
        self.abort("it was closed here")
        if self.event_started.is_set():
            await self._ended.wait()
        else:
            await _close_quietly(self.secured_conn)

    @property
    def is_initiator(self) -> bool:
        return bool(self.secured_conn.is_initiator)

    @property
    def is_established(self) -> bool:
        return self.event_started.is_set() and not self.event_closed.is_set()

    @property
    def is_closed(self) -> bool:
        return self.event_closed.is_set()

    # Streams

    async def open_stream(self) -> Stream:
        """Raises: MuxedStreamError if the session is over or has too many streams."""
        await trio.lowlevel.checkpoint()
        if self.event_closed.is_set():
            raise MuxedStreamError(self.reason)
        if len(self._streams) - self._inbound_count >= self._policy.streams_max():
            raise MuxedStreamError(f"{len(self._streams)} streams are open already")
        stream = Stream(self, self._next_id)
        stream.is_taken = True
        self._next_id += 2
        self._streams[stream.stream_id] = stream
        self.queue_frame(frame(WINDOW_UPDATE, SYN, stream.stream_id, 0))
        return stream

    async def accept_stream(self) -> Stream:
        try:
            return await self._untaken.receive()
        except trio.EndOfChannel:
            raise MuxedConnUnavailable(self.reason) from None

    def forget(self, stream: Stream) -> None:
        if self._streams.pop(stream.stream_id, None) is not None and self._is_inbound(stream.stream_id):
            self._inbound_count -= 1

    def forget_if_done(self, stream: Stream) -> None:
        if stream.local_done and stream.remote_done:
            self.forget(stream)

    def count_read(self, size_bytes: int) -> None:
        self.unread_bytes -= size_bytes
        self._memory.give(size_bytes)

    def _is_inbound(self, stream_id: int) -> bool:
        return (stream_id % 2 == 0) == self.is_initiator

    # Writing

    @property
    def is_congested(self) -> bool:
        return self._queued_bytes >= QUEUE_BYTES

    async def wait_uncongested(self) -> None:
        await self._uncongested.park()

    def queue_frame(self, data: bytes) -> None:
        if self.event_closed.is_set():
            return
        self._queue.append(data)
        self._queued_bytes += len(data)
        self._work.unpark()
        if self._queued_bytes > QUEUE_BYTES_MAX:
            self.abort("the peer asks much and reads nothing")

    async def _write_frames(self) -> None:
        while True:
            while not self._queue:
                await self._work.park()
            parts = [self._queue.popleft()]
            size = len(parts[0])
            while self._queue and size + len(self._queue[0]) <= NOISE_BYTES_MAX:
                parts.append(self._queue.popleft())
                size += len(parts[-1])
            await self.secured_conn.write(parts[0] if len(parts) == 1 else b"".join(parts))
            self._queued_bytes -= size
            self._uncongested.unpark_all()

    # Reading

    async def _read_frames(self) -> None:
        rest = b""
        while True:
            data = await self.secured_conn.read()
            self._quiet_ticks = 0
            rest = self._take_frames(rest + data if rest else data)

    def _take_frames(self, data: bytes) -> bytes:
        """Do what the frames say; what is left is less than a header."""
        view = memoryview(data)
        at = 0
        while at < len(view):
            if self._body_bytes:
                part = view[at : at + self._body_bytes]
                at += len(part)
                self._take_body(part)
            elif len(view) - at >= HEADER.size:
                self._take_header(*HEADER.unpack_from(view, at))
                at += HEADER.size
            else:
                break
        return bytes(view[at:])

    def _take_header(self, version: int, kind: int, flags: int, stream_id: int, length: int) -> None:
        if version != 0 or kind > GO_AWAY:
            raise SessionFault(f"the peer sent a frame of version {version} and kind {kind}")
        if kind == PING:
            self._take_ping(flags, length)
        elif kind == GO_AWAY:
            self.abort("the peer said goodbye")
        else:
            if flags & SYN:
                self._take_opening(stream_id)
            stream = self._streams.get(stream_id)
            if kind == DATA and length:
                self._begin_body(stream, flags, length)
                return
            if kind == WINDOW_UPDATE and stream is not None and length:
                if stream.send_window_bytes + length > WINDOW_BYTES_MAX:
                    raise SessionFault("the peer opened a window beyond 4 GiB")
                stream.credited(length)
            self._take_flags(stream, flags)

    def _take_opening(self, stream_id: int) -> None:
        if stream_id == 0 or not self._is_inbound(stream_id) or stream_id in self._streams:
            raise SessionFault(f"the peer opened stream {stream_id}, which is not its to open")
        if self._inbound_count >= self._policy.streams_max():
            self.queue_frame(frame(WINDOW_UPDATE, RST, stream_id, 0))
            return
        stream = Stream(self, stream_id)
        try:
            self._untaken_in.send_nowait(stream)
        except trio.WouldBlock:
            self.queue_frame(frame(WINDOW_UPDATE, RST, stream_id, 0))
            return
        self._streams[stream_id] = stream
        self._inbound_count += 1
        self.queue_frame(frame(WINDOW_UPDATE, ACK, stream_id, 0))

    def _begin_body(self, stream: Stream | None, flags: int, length: int) -> None:
        """Check the whole body by its length alone, before any of it is kept."""
        if stream is not None:
            if length > stream.receive_window_bytes:
                raise SessionFault(f"the peer sent {length} bytes into a window that was smaller")
            if stream.remote_done:
                raise SessionFault("the peer sent data after the end of a stream")
            stream.receive_window_bytes -= length
        if self.unread_bytes + length > self._policy.unread_bytes_max():
            raise SessionFault(f"{self.unread_bytes} bytes of this peer wait to be read already")
        self._body_stream, self._body_bytes, self._body_flags = stream, length, flags

    def _take_body(self, part: memoryview) -> None:
        stream = self._body_stream
        self._body_bytes -= len(part)
        if stream is not None and stream.is_discarding:
            stream.unwanted(len(part))
        elif stream is not None and not stream.is_broken:
            self._account()
            if not self._memory.take(len(part)):
                raise SessionFault("the memory for what peers send is used up")
            self.unread_bytes += len(part)
            stream.arrived(part)
        if not self._body_bytes:
            self._body_stream = None
            self._take_flags(stream, self._body_flags)

    def _account(self) -> None:
        """Move what is held to the account that is the right one now: the peer may have been paired since."""
        memory = self._policy.memory()
        if memory is not self._memory and memory.take(self.unread_bytes):
            self._memory.give(self.unread_bytes)
            self._memory = memory

    def _take_flags(self, stream: Stream | None, flags: int) -> None:
        if stream is None:
            return
        if flags & RST:
            stream.break_off()
            self.forget(stream)
        elif flags & FIN:
            stream.remote_finished()
            self.forget_if_done(stream)

    # Silence

    def _take_ping(self, flags: int, value: int) -> None:
        if flags & SYN:
            self.queue_frame(frame(PING, ACK, 0, value))
        elif self._pinged_at_s is not None and value == self._ping_value:
            trip_s = trio.current_time() - self._pinged_at_s
            before_s = trip_s if self.round_trip_s is None else self.round_trip_s
            self.round_trip_s = before_s + SMOOTHING * (trip_s - before_s)
            self._pinged_at_s = None

    def _ping(self) -> None:
        """Ask for a sign of life, unless the last question is still open."""
        if self._pinged_at_s is not None:
            return
        self._ping_value = (self._ping_value + 1) % 2**32
        self._pinged_at_s = trio.current_time()
        self.queue_frame(frame(PING, SYN, 0, self._ping_value))

    async def _watch(self) -> None:
        self._ping()
        while True:
            await trio.sleep(TICK_S)
            self._ticks += 1
            self._quiet_ticks += 1
            if self._quiet_ticks >= DEAD_TICKS:
                raise SessionFault(f"nothing was heard of the peer for {DEAD_TICKS * TICK_S:.0f} s")
            if self._quiet_ticks >= PING_TICKS or self._ticks % MEASURE_TICKS == 0:
                self._ping()
            if self._ticks % MEASURE_TICKS == 0:
                self._reset_left_overs()

    def _reset_left_overs(self) -> None:
        for stream in tuple(self._streams.values()):
            stream.linger_ticks += MEASURE_TICKS if stream.local_done else 0
            if stream.linger_ticks > LINGER_TICKS:
                stream.abort()

    # The library's

    def get_transport_addresses(self) -> list[Any]:
        return []

    def get_connection_type(self) -> Any:
        return self.secured_conn.get_connection_type()

    def get_remote_address(self) -> Any:
        return self.secured_conn.get_remote_address()


async def _close_quietly(secured: Any) -> None:
    try:
        await secured.close()
    except Exception as error:  # it is gone either way
        del error
