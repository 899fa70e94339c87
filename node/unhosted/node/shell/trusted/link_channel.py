"""One open channel to a peer that answers: requests out, replies to whom they are for, silence noticed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import trio

from unhosted.node.core.errors import Refused
from unhosted.node.core.peering import Channel, ChannelBroken, PeerFacts, PeerUnreachable
from unhosted.node.shell.trusted.link_stream import LinkCall, LinkStream
from unhosted.node.shell.trusted.wire import REQUEST_BYTES_MAX, VERSION, encode_cancel, encode_coming
from unhosted.node.shell.trusted.wire_fields import WireError
from unhosted.node.shell.trusted.wire_messages import (
    Accepted,
    Counted,
    Deltas,
    Embedded,
    Hello,
    RefusedReply,
    WrongVersion,
)
from unhosted.node.shell.trusted.wire_replies import decode_reply

SILENCE_MIN_S, SILENCE_MAX_S = 1.5, 2.5
"""Three heartbeats; with a lost packet sent again on a slow way, five."""

OVERSLEPT_S = 0.2
"""A timer that rings so late: nothing ran here meanwhile, not even what reads the peer's messages."""

WAITING_BYTES_MAX = 4 * REQUEST_BYTES_MAX
"""Requests that wait until the peer takes them: four of the longest."""

ANNOUNCED_BYTES_MIN = 64 << 10
"""A longer request is announced: on a slow line the peer has heartbeats to send before all of it is there."""


def silence_s(round_trip_s: float | None) -> float:
    """How long a peer with requests under way may say nothing: lost packets are sent again in round trips."""
    return min(SILENCE_MAX_S, max(SILENCE_MIN_S, 4 * (round_trip_s or 0.0) + 1.0))


class LinkChannel:
    """Made for one opened channel by `PeerLink`; `run` ends when the channel does."""

    def __init__(
        self,
        channel: Channel,
        *,
        round_trip_s: Callable[[], float | None],
        on_facts: Callable[[PeerFacts], None],
    ) -> None:
        self.was_silent = False
        self._channel = channel
        self._round_trip_s = round_trip_s
        self._on_facts = on_facts
        self._ids = count(1)
        self._requests: dict[int, LinkStream | LinkCall[Any]] = {}  # bounded by the link's REQUESTS_MAX
        self._outgoing: list[bytes] = []
        self._waiting_bytes = 0
        self._wake, self._busy = trio.Event(), trio.Event()
        self._heard_at = trio.current_time()

    @property
    def in_flight(self) -> int:
        return len(self._requests)

    async def greet(self, hello: bytes, *, deadline: float) -> None:
        """Say hello and hear one. Raises: PeerUnreachable; Refused (not_supported) for another version."""
        try:
            with trio.CancelScope(deadline=deadline):
                await self._channel.send(hello)
                data = await self._channel.receive()
                match None if data is None else decode_reply(data):
                    case Hello():
                        return
                    case WrongVersion(version=version):
                        raise _other_version(f"version {version}")
                    case RefusedReply(refusal=refusal):
                        raise _other_version(f"another version ({refusal.message})")
                    case _:
                        raise PeerUnreachable(f"{self._channel.peer} ended the channel at once")
        except (ChannelBroken, WireError) as error:
            raise PeerUnreachable(f"{self._channel.peer} did not greet: {error}") from error
        raise PeerUnreachable(f"{self._channel.peer} is connected, but said nothing in time")

    @contextmanager
    def request(self, target: LinkStream | LinkCall[Any], encode: Callable[[int], bytes]) -> Iterator[None]:
        """Send a request whose replies go to `target`; leaving before its end cancels it at the peer.

        Raises: Refused if it cannot be sent.
        """
        request_id = next(self._ids)
        message = encode(request_id)
        if self._waiting_bytes > WAITING_BYTES_MAX:
            raise Refused(
                "overloaded",
                f"{self._waiting_bytes} bytes wait for {self._channel.peer}, which takes them slowly",
                retry_after_s=1,
            )
        if not self._requests:
            if not self._waiting_bytes:
                self._heard_at = trio.current_time()  # nothing was due before
            self._busy.set()
        self._requests[request_id] = target
        if len(message) > ANNOUNCED_BYTES_MIN:
            self._put(encode_coming(request_id))
        self._put(message)
        try:
            yield
        finally:
            if self._requests.pop(request_id, None) is not None and not target.finished:
                self._put(encode_cancel(request_id))
            if not self._requests:
                self._busy = trio.Event()

    async def run(self) -> str:
        """Carry requests until the channel ends; gives why it did. All requests then fail with that."""
        why = "closed here"
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write)
                nursery.start_soon(self._watch)
                await self._read()
                raise ChannelBroken("the peer ended the channel")
        except* (ChannelBroken, WireError) as group:
            why = str(group.exceptions[0])
        finally:
            for target in self._requests.values():
                target.fail(ChannelBroken(why))
            self._requests.clear()
        return why

    def _put(self, message: bytes) -> None:
        self._outgoing.append(message)
        self._waiting_bytes += len(message)
        self._wake.set()

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            outgoing, self._outgoing = self._outgoing, []
            for message in outgoing:
                await self._channel.send(message)
                self._waiting_bytes -= len(message)

    async def _read(self) -> None:
        while (data := await self._channel.receive()) is not None:
            self._heard_at = trio.current_time()
            self._on_reply(data)

    def _on_reply(self, data: bytes) -> None:
        # Replies to requests that were left a moment ago find nobody.
        match decode_reply(data):
            case Deltas(entries=entries):
                for request_id, delta in entries:
                    stream = self._requests.get(request_id)
                    if stream is not None:
                        _as_stream(stream).push(delta)
            case Accepted(request_id=request_id):
                if request_id in self._requests:
                    _as_stream(self._requests[request_id]).accept()
            case RefusedReply(request_id=0, refusal=refusal):
                raise ChannelBroken(refusal.message)
            case RefusedReply(request_id=request_id, refusal=refusal):
                if request_id in self._requests:
                    self._requests[request_id].fail(refusal)
            case PeerFacts() as facts:
                self._on_facts(facts)
            case Counted(request_id=request_id, tokens=tokens):
                self._on_answer(request_id, tokens)
            case Embedded(request_id=request_id, embeddings=embeddings):
                self._on_answer(request_id, embeddings)
            case _:
                pass  # a heartbeat, or a kind of a later version

    def _on_answer(self, request_id: int, value: object) -> None:
        call = self._requests.get(request_id)
        if isinstance(call, LinkStream):
            raise WireError("an answer to a question that was not asked")
        if call is not None:
            call.answer(value)

    async def _watch(self) -> None:
        while True:
            await self._busy.wait()
            limit_s = silence_s(self._round_trip_s())
            due = self._heard_at + limit_s
            if trio.current_time() >= due:
                self.was_silent = True
                raise ChannelBroken(f"nothing was heard for {limit_s:.1f} s")
            await trio.sleep_until(due)
            # What this machine slept over (it was stopped, or too busy to look) says nothing of the peer.
            overslept_s = trio.current_time() - due
            if overslept_s > OVERSLEPT_S:
                self._heard_at += overslept_s


def _as_stream(target: LinkStream | LinkCall[Any]) -> LinkStream:
    if isinstance(target, LinkStream):
        return target
    raise WireError("deltas for a question that has none")


def _other_version(said: str) -> Refused:
    return Refused(
        "not_supported",
        f"the other machine speaks {said} of the protocol, this one version {VERSION}; install the same "
        "release on both",
    )
