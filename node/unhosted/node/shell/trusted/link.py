"""A kept channel to one paired peer: many asks at once, and quick word of a peer that is gone.

While requests are under way the peer sends something at least each half second. When it is silent for longer
than `silence_s`, whatever happened to it, its requests end with `ChannelBroken`, so that they go on
elsewhere, and the connection is dropped: one that stands but carries nothing would cost the next one, too.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

import trio

from unhosted.node.core.asks import Ask
from unhosted.node.core.errors import Refused
from unhosted.node.core.inference import Delta, Embeddings
from unhosted.node.core.peering import Connection, Network, PeerFacts, PeerId, PeerUnreachable
from unhosted.node.shell.trusted.link_channel import LinkChannel
from unhosted.node.shell.trusted.link_stream import LinkCall, LinkStream
from unhosted.node.shell.trusted.wire import (
    EMBED_INPUTS_MAX,
    MESSAGE_BYTES_MAX,
    PROTOCOL,
    encode_ask,
    encode_count,
    encode_embed,
    encode_hello,
)
from unhosted.node.shell.trusted.wire_messages import Hello

log = logging.getLogger(__name__)

OPEN_TIMEOUT_S = 1.5
"""From the wish for a channel to the peer's hello; with the time to notice, a dead peer costs two seconds."""

DROP_TIMEOUT_S = 1.0
"""Dropping a dead connection has nobody to talk to; it must not wait for an answer."""

REQUESTS_MAX = 256
"""Under way at once to one peer: what it takes at most."""

AGAIN_FIRST_S, AGAIN_MAX_S = 1.0, 30.0
"""Pauses between openings that nobody waits for; a request does not wait for them."""

Ensure = Callable[[float], Awaitable[Connection]]
"""The live connection to the peer, made within so many seconds. Raises: PeerUnreachable."""

Observer = Callable[[PeerId, bool, str], None]
"""Told when the peer was heard of (True), and when it was lost or not reached (False) and why."""


class PeerLink:
    """Implements `core.asks.Answering` over the channel, which `run` opens when it is wanted and keeps."""

    def __init__(
        self, network: Network, peer: PeerId, *, hello: Hello, ensure: Ensure, on_observed: Observer
    ) -> None:
        self.peer = peer
        self.facts: PeerFacts | None = None
        """What the peer said of itself last; kept when it is gone."""
        self._network = network
        self._hello = encode_hello(hello)
        self._ensure = ensure
        self._on_observed = on_observed
        self._channel: LinkChannel | None = None
        self._failure: Exception | None = None
        self._opened = trio.Event()  # an opening ended, one way or the other
        self._wanted = trio.Event()
        self._again_at = 0.0
        self._again_s = AGAIN_FIRST_S
        self._closed = False

    @property
    def is_open(self) -> bool:
        return self._channel is not None

    @property
    def in_flight(self) -> int:
        return 0 if self._channel is None else self._channel.in_flight

    @property
    def round_trip_s(self) -> float | None:
        for connection in self._network.connections():
            if connection.peer == self.peer:
                return connection.round_trip_s
        return None

    def want(self) -> None:
        """Open the channel now, unless that failed lately."""
        if self._channel is None and trio.current_time() >= self._again_at:
            self._wanted.set()

    async def run(self) -> None:
        """Open the channel whenever it is wanted, and keep it, until cancelled."""
        try:
            while True:
                await self._wanted.wait()
                try:
                    await self._serve_channel()
                except PeerUnreachable as error:
                    self._fail(error)
                except Refused as refusal:
                    self._fail(refusal)
        finally:
            self._closed = True
            self._fail(PeerUnreachable(f"the link to {self.peer} is closed"))

    @asynccontextmanager
    async def open_ask(self, ask: Ask) -> AsyncIterator[AsyncIterator[Delta]]:
        """See `Answering.open_ask`. A peer that is gone raises PeerUnreachable within OPEN_TIMEOUT_S."""
        channel = await self._open_channel()
        stream = LinkStream(ask)
        with channel.request(stream, partial(encode_ask, ask=ask)):
            await stream.wait_accepted()
            yield stream

    async def count_tokens(self, ask: Ask) -> int:
        channel = await self._open_channel()
        call: LinkCall[int] = LinkCall()
        with channel.request(call, partial(encode_count, ask=ask)):
            return await call.wait()

    async def embed(self, model: str, inputs: Sequence[str | tuple[int, ...]]) -> Embeddings:
        vectors: list[tuple[float, ...]] = []
        prompt_tokens = 0
        for start in range(0, len(inputs), EMBED_INPUTS_MAX):
            part = inputs[start : start + EMBED_INPUTS_MAX]
            channel = await self._open_channel()
            call: LinkCall[Embeddings] = LinkCall()
            with channel.request(call, partial(encode_embed, model=model, inputs=part)):
                embeddings = await call.wait()
            vectors += embeddings.vectors
            prompt_tokens += embeddings.prompt_tokens
        return Embeddings(vectors=tuple(vectors), prompt_tokens=prompt_tokens)

    async def _open_channel(self) -> LinkChannel:
        if self._channel is None:
            opened = self._opened
            self._wanted.set()
            with trio.move_on_after(OPEN_TIMEOUT_S):
                while not self._closed and self._channel is None and not opened.is_set():
                    await opened.wait()
        channel = self._channel
        if channel is None:
            if isinstance(self._failure, Refused):
                raise self._failure
            raise PeerUnreachable(
                str(self._failure) if self._failure else f"did not answer in {OPEN_TIMEOUT_S} s"
            )
        if channel.in_flight >= REQUESTS_MAX:
            raise Refused(
                "overloaded",
                f"{channel.in_flight} requests to this peer are under way, at most {REQUESTS_MAX}",
                retry_after_s=1,
            )
        return channel

    async def _serve_channel(self) -> None:
        """Open a channel and carry requests over it until it breaks. Raises: PeerUnreachable, Refused."""
        deadline = trio.current_time() + OPEN_TIMEOUT_S
        try:
            with trio.fail_at(deadline):
                await self._ensure(OPEN_TIMEOUT_S)
        except trio.TooSlowError:
            raise PeerUnreachable(f"did not answer within {OPEN_TIMEOUT_S} s") from None
        try:
            async with self._network.open_channel(
                self.peer,
                PROTOCOL,
                message_bytes_max=MESSAGE_BYTES_MAX,
                timeout_s=max(deadline - trio.current_time(), OPEN_TIMEOUT_S / 10),
            ) as raw:
                channel = LinkChannel(raw, round_trip_s=lambda: self.round_trip_s, on_facts=self._note_facts)
                await channel.greet(self._hello, deadline=deadline)
                await self._carry(channel)
        except PeerUnreachable:
            if trio.current_time() >= deadline:
                await self._drop_connection()
            raise

    async def _carry(self, channel: LinkChannel) -> None:
        self._on_observed(self.peer, True, "")
        self._again_s, self._again_at, self._failure = AGAIN_FIRST_S, 0.0, None
        self._channel = channel
        self._notify()
        try:
            why = await channel.run()
        finally:
            self._channel = None
        log.info("peer_link_lost peer=%s why=%s", self.peer[-8:], why)
        self._on_observed(self.peer, False, why)
        if channel.was_silent:
            await self._drop_connection()

    async def _drop_connection(self) -> None:
        with trio.move_on_after(DROP_TIMEOUT_S):
            await self._network.disconnect(self.peer)

    def _note_facts(self, facts: PeerFacts) -> None:
        self.facts = facts
        self._on_observed(self.peer, True, "")

    def _fail(self, error: PeerUnreachable | Refused) -> None:
        self._failure = error
        self._again_at = trio.current_time() + self._again_s
        self._again_s = min(2 * self._again_s, AGAIN_MAX_S)
        if not self._closed:
            self._on_observed(self.peer, False, str(error))
        self._notify()

    def _notify(self) -> None:
        self._wanted = trio.Event()
        self._opened.set()
        self._opened = trio.Event()
