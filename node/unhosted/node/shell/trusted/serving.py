"""Answering paired peers: who may ask how much of what, and what this machine says of itself.

A peer's requests run below the owner's (the answering side is made with that priority), and all of a peer's
flows are one flow here: many clients behind one peer take no more turns than one.
"""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Protocol

import trio

from unhosted.node.core.allowance import Allowances, admit, check_model, release, utc_day
from unhosted.node.core.asks import Answering, Ask
from unhosted.node.core.errors import Refused
from unhosted.node.core.peering import Capabilities, Channel, Network, PairedPeer, PeerFacts, PeerId
from unhosted.node.core.prefix_memory import estimated_tokens
from unhosted.node.shell.trusted.serving_channel import ServedChannel, Used
from unhosted.node.shell.trusted.wire import MESSAGE_BYTES_MAX, PROTOCOL, encode_hello
from unhosted.node.shell.trusted.wire_messages import Hello
from unhosted.node.shell.trusted.wire_replies import encode_facts

FACTS_PERIOD_S = 1.0
"""How often facts are looked at, and sent if they changed: load changes with every request."""

REQUESTS_PER_PEER_MAX = 256
"""Under way at once, over all channels of a peer and all kinds: as many as the HTTP surface takes."""

NOT_NOW_RETRY_S = 60
"""Quiet hours and an owner at the keyboard last longer than a queue."""


class Book(Protocol):
    """The part of the peer book that serving needs."""

    def get(self, peer: PeerId) -> PairedPeer | None: ...

    def tokens(self, peer: PeerId, day: str) -> int: ...

    def add_tokens(self, peer: PeerId, day: str, tokens: int) -> None: ...


class Serving:
    """Answers `/unhosted/infer/1` on the network.

    answering: this machine's, with the priority of peers. accepting: whether peers are served now, and why
    not. facts: what to tell them; cheap, for it is called each second while a peer is connected.
    """

    def __init__(
        self,
        network: Network,
        *,
        answering: Answering,
        book: Book,
        facts: Callable[[], PeerFacts],
        accepting: Callable[[], tuple[bool, str]],
    ) -> None:
        self._network = network
        self._answering = answering
        self._book = book
        self._make_facts = facts
        self._accepting = accepting
        self._facts = facts()
        self._encoded = encode_facts(self._facts)
        self._channels: set[ServedChannel] = set()  # bounded by the network's streams
        self._allowances = Allowances()
        self._requests: dict[PeerId, int] = {}

    @property
    def requests_under_way(self) -> int:
        return sum(self._requests.values())

    async def run(self, *, task_status: "trio.TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        """Serve, and tell peers what changed, until cancelled."""
        self._network.serve(PROTOCOL, self._handle, access="paired", message_bytes_max=MESSAGE_BYTES_MAX)
        task_status.started()
        while True:
            await trio.sleep(FACTS_PERIOD_S)
            if self._channels and self._look():
                for channel in self._channels:
                    channel.push_facts(self._encoded)

    def _look(self) -> bool:
        """Take the facts of now; gives whether they changed."""
        facts = self._make_facts()
        if facts == self._facts:
            return False
        self._facts, self._encoded = facts, encode_facts(facts)
        return True

    async def _handle(self, channel: Channel) -> None:
        self._look()
        served = ServedChannel(
            channel,
            answering=self._answering,
            gate=self,
            hello=encode_hello(Hello(name=self._facts.name, version=self._facts.version)),
            facts=self._encoded,
        )
        self._channels.add(served)
        try:
            await served.run()
        finally:
            self._channels.discard(served)

    @asynccontextmanager
    async def admit(self, peer: PeerId, ask: Ask) -> AsyncIterator[tuple[Ask, Used]]:
        """The ask as it is answered here, and the count of what it uses. Raises: Refused."""
        async with self._counted(peer):
            capabilities = self._capabilities(peer)
            prompt_tokens = estimated_tokens(ask.prompt)
            now_unix_s = int(time.time())
            today = 0
            if capabilities.tokens_per_day is not None:
                today = await trio.to_thread.run_sync(self._book.tokens, peer, utc_day(now_unix_s))
            self._allowances, reservation = admit(
                self._allowances,
                peer,
                capabilities,
                model_names=self._names(ask.model),
                tokens_today=today,
                prompt_tokens=prompt_tokens,
                max_tokens=ask.max_tokens,
                unix_s=now_unix_s,
            )
            used = Used(prompt_tokens)
            try:
                yield replace(ask, ask_id=f"{peer[-8:]}.{ask.ask_id}", flow=f"peer {peer}"), used
            finally:
                try:
                    await self._note(peer, used)
                finally:  # not before it is noted: nobody passes between the two
                    self._allowances = release(self._allowances, reservation)

    @asynccontextmanager
    async def admit_call(self, peer: PeerId, model: str) -> AsyncIterator[Used]:
        """The same for a question that generates nothing. Raises: Refused."""
        async with self._counted(peer):
            check_model(self._capabilities(peer), self._names(model))
            used = Used(0)
            try:
                yield used
            finally:
                await self._note(peer, used)

    @asynccontextmanager
    async def _counted(self, peer: PeerId) -> AsyncIterator[None]:
        under_way = self._requests.get(peer, 0)
        if under_way >= REQUESTS_PER_PEER_MAX:
            raise Refused(
                "overloaded",
                f"{under_way} of your requests are under way here, at most {REQUESTS_PER_PEER_MAX} may be",
                retry_after_s=1,
            )
        self._requests[peer] = under_way + 1
        try:
            yield
        finally:
            self._requests[peer] -= 1
            if not self._requests[peer]:
                del self._requests[peer]

    def _capabilities(self, peer: PeerId) -> Capabilities:
        known = self._book.get(peer)
        if known is None or known.state != "paired":
            raise Refused("not_paired", "this machine is not paired with yours; pair them: unhosted pair")
        accepting, why_not = self._accepting()
        if not accepting:
            raise Refused(
                "overloaded",
                f"{self._facts.name} takes no requests now: {why_not}",
                retry_after_s=NOT_NOW_RETRY_S,
            )
        return known.capabilities

    def _names(self, model: str) -> tuple[str, ...]:
        if not any(known.blake3 == model for known in self._facts.models):
            self._look()  # it may have come since the last look
        for known in self._facts.models:
            if known.blake3 == model:
                return known.name, *known.aliases, f"b3:{model}"
        return (f"b3:{model}",)

    async def _note(self, peer: PeerId, used: Used) -> None:
        if used.tokens:
            with trio.CancelScope(shield=True):
                day = utc_day(int(time.time()))
                await trio.to_thread.run_sync(self._book.add_tokens, peer, day, used.tokens)
