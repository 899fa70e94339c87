"""What happens to the directory of peers, and what it wants done."""

from dataclasses import dataclass

from unhosted.node.core.addresses import KnownAddress, Source
from unhosted.node.core.directory_state import SIGHT_NS
from unhosted.node.core.peering import Connection, PairedPeer, PeerId


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerHeard:
    """A host says that a peer is there. lifetime_ns: how long it may be believed; at most SIGHT_NS counts."""

    peer: PeerId
    host: str
    network: str
    name: str
    version: str
    addresses: tuple[str, ...]
    lifetime_ns: int = SIGHT_NS


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerLeft:
    """The same host says that the peer stops."""

    peer: PeerId
    host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BookRead:
    """All that the book holds now; who is not in it is a stranger from here on."""

    peers: tuple[tuple[PairedPeer, tuple[KnownAddress, ...]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressesTold:
    """Addresses of a peer that is in the book, from somebody that is trusted to know."""

    peer: PeerId
    addresses: tuple[KnownAddress, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DialSucceeded:
    """The network holds a connection to the peer; the next `ClockTicked` shows it."""

    peer: PeerId


@dataclass(frozen=True, slots=True, kw_only=True)
class DialFailed:
    """jitter: 0.0 to 1.0, so that peers which lost one another do not meet in step."""

    peer: PeerId
    reason: str
    jitter: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworksChanged:
    """This machine has other interfaces or addresses than before: what failed may work now.

    networks: the interfaces that are there; what was heard on others is forgotten.
    """

    networks: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockTicked:
    """Look at the time and at the connections that stand, all of them."""

    connections: tuple[Connection, ...]
    unix_s: int


Event = (
    PeerHeard
    | PeerLeft
    | BookRead
    | AddressesTold
    | DialSucceeded
    | DialFailed
    | NetworksChanged
    | ClockTicked
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dial:
    """Connect to the peer at any of these, instead of a try that is under way.

    Answer with DialSucceeded or DialFailed. Without addresses: through a relay, if the network knows one.
    """

    peer: PeerId
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteAddress:
    """Write down that the peer was reached here."""

    peer: PeerId
    address: str
    source: Source


Effect = Dial | NoteAddress
