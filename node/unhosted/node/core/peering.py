"""The words of the trusted ring: who a peer is, what it may do and has, and the network seen from above.

A peer is named by its libp2p peer id (base58 of its Ed25519 key), which the encrypted connection proves. What
a peer says of itself (its name, its models, its speed) is a claim and chooses at most whom we ask first.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

PeerId = str
"""Base58 text such as 12D3KooW…; compared as it is."""

Access = Literal["paired", "anyone"]
"""Who may open a channel of a protocol; the network asks at each opening, so that unpairing acts at once."""

MODELS_MAX = 512
"""Models that a peer may list: more than a disk holds, and the list stays below a message's limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a paired peer may do here. models: names or b3: hashes, None for all. None: no limit of tokens."""

    may_ask: bool = True
    may_fetch: bool = True
    may_pool: bool = False
    models: tuple[str, ...] | None = None
    tokens_per_day: int | None = None
    concurrency: int = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedPeer:
    """A peer in the book. state: `pending` grants nothing until both sides are known to have confirmed."""

    peer: PeerId
    name: str
    state: Literal["pending", "paired"]
    paired_unix_s: int
    capabilities: Capabilities = Capabilities()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """A model that a peer has, as it says. Speeds are measured there, 0.0 when nothing was measured yet.

    slots_free and queued are of now; a model that is not loaded has the slots it would be loaded with.
    prefill_tokens_per_s: of one prompt alone. decode_tokens_per_s: of one stream at the present load.
    """

    name: str
    aliases: tuple[str, ...]
    blake3: str
    size_bytes: int
    architecture: str
    parameters: int | None
    quantization: str
    context_tokens: int
    generates: bool
    is_loaded: bool
    slots: int
    slots_free: int
    queued: int
    prefill_tokens_per_s: float
    decode_tokens_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerFacts:
    """What a peer says of itself on a kept connection; sent when it connects and when it changes.

    accepting: whether it takes new requests now; why_not: for people, such as "quiet hours until 07:00".
    """

    name: str
    version: str
    accepting: bool
    why_not: str
    models: tuple[ModelFacts, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerStatus:
    """A line of `unhosted peers`. reachable: a live connection stands. why_not: what to do about it if not.

    path: lan, direct, relay via NAME, or empty. round_trip_s: None before the first measurement.
    """

    peer: PeerId
    name: str
    state: Literal["pending", "paired", "seen"]
    reachable: bool
    why_not: str
    path: str
    addresses: tuple[str, ...]
    round_trip_s: float | None
    last_seen_unix_s: int | None
    capabilities: Capabilities | None
    tokens_today: int
    facts: PeerFacts | None


class PeerUnreachable(Exception):
    """No connection to the peer: the message says which addresses were tried and how each failed."""


class ChannelBroken(Exception):
    """The channel ended without its end message: connection lost, reset, or a message over the limit."""


class Channel(Protocol):
    """Messages to and from one peer: in order, encrypted, each whole. An unsaid end is an error."""

    @property
    def peer(self) -> PeerId: ...

    async def send(self, message: bytes) -> None:
        """Raises: ChannelBroken. May be cancelled; then the channel is broken, the connection is not."""
        ...

    async def receive(self) -> bytes | None:
        """The next message; None once the peer has said that it is done. Raises: ChannelBroken."""
        ...

    async def end(self) -> None:
        """Say that nothing more follows; receiving goes on."""
        ...


ChannelHandler = Callable[[Channel], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """A live connection. path: lan, direct or relay via PEER. round_trip_s: None before a measurement."""

    peer: PeerId
    path: str
    remote_address: str
    is_outbound: bool
    round_trip_s: float | None


class Network(Protocol):
    """Encrypted connections between peers. Addresses are multiaddr texts without /p2p, except of a relay."""

    @property
    def peer(self) -> PeerId: ...

    def addresses(self) -> tuple[str, ...]:
        """Where others may reach this machine; real interface addresses, never 0.0.0.0."""
        ...

    def connections(self) -> tuple[Connection, ...]: ...

    async def changed(self, seen: int) -> tuple[int, tuple[Connection, ...]]:
        """The connections as soon as they are others than at version `seen`, with their version; -1: now."""
        ...

    def serve(
        self, protocol: str, handler: ChannelHandler, *, access: Access, message_bytes_max: int
    ) -> None:
        """Answer channels of `protocol`. An exception of the handler resets that channel and is logged."""
        ...

    async def connect(self, peer: PeerId, addresses: Sequence[str], *, timeout_s: float) -> Connection:
        """The live connection to `peer`, or the first address that answers and proves to be it.

        Raises: PeerUnreachable.
        """
        ...

    def open_channel(
        self, peer: PeerId, protocol: str, *, message_bytes_max: int, timeout_s: float
    ) -> AbstractAsyncContextManager[Channel]:
        """A channel over the live connection. Leaving without `end` resets it.

        Raises: PeerUnreachable if there is no connection or the peer refuses the protocol.
        """
        ...

    async def disconnect(self, peer: PeerId) -> None: ...
