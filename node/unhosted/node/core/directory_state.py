"""The table of peers: what is kept of each, its bounds, and what follows from a record alone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from unhosted.node.core.addresses import KnownAddress, show_endpoint
from unhosted.node.core.errors import LocalFault
from unhosted.node.core.peering import Connection, PairedPeer, PeerId

SECOND_NS = 1_000_000_000

SIGHT_NS = 25 * SECOND_NS
"""A node says that it is there every 8 s: three lost messages in a row, and still gone within 30 s."""

STRANGERS_MAX = 256
"""Unpaired peers in the table. A list that is longer is no help to anyone."""

STRANGERS_PER_HOST_MAX = 16
"""Unpaired peers that one host may be heard for: some nodes on one machine, not a flood."""

SIGHTS_PER_PEER_MAX = 6
"""Hosts that claim to be one peer: its addresses of both families on some networks, and liars."""

ADDRESSES_PER_SIGHT_MAX = 8
KNOWN_PER_PEER_MAX = 16
DIAL_ADDRESSES_MAX = 16
"""Addresses of one try; half of them at most are hints that never proved right."""

KNOWN_FIRST = 2
"""Addresses that were right last, before those that are only heard."""

DIALS_MAX = 8
"""Tries under way at once: each may hold several sockets for seconds."""

PAUSE_FIRST_NS = SECOND_NS
PAUSE_SEEN_MAX_NS = 10 * SECOND_NS
"""Between tries of a peer that is heard now: a firewall may open, a program may start."""

PAUSE_MAX_NS = 60 * SECOND_NS
"""Between tries of a peer that is not heard: it costs one packet per address."""

FRESH_PAUSE_NS = 2 * SECOND_NS
"""Between a try and the next one that only a new address justifies, or a liar could have us dial all day."""

POLITE_NS = 1_500_000_000
"""Head start of the smaller id: more than a LAN's dial takes, less than a user's patience."""

REASON_CHARS_MAX = 600
"""An error per address; what is longer nobody reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What `host` said of a peer. host: the sender's address, which is not the peer's word.

    network: the interface of this machine that it was heard on.
    """

    host: str
    network: str
    name: str
    version: str
    addresses: tuple[str, ...]
    heard_at_ns: int
    ends_at_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is known of one peer. paired: its line in the book, None for a stranger.

    known: addresses from the book, from pairing or told by others, the newest first. contact_at_ns: when a
    connection last stood. trying: the addresses of the try under way. why_failed: how the last try ended, as
    the network said it.
    """

    peer: PeerId
    paired: PairedPeer | None = None
    sights: tuple[Sight, ...] = ()
    known: tuple[KnownAddress, ...] = ()
    connection: Connection | None = None
    contact_at_ns: int | None = None
    is_dialing: bool = False
    trying: tuple[str, ...] = ()
    failures: int = 0
    tried_at_ns: int | None = None
    next_try_at_ns: int = 0
    why_failed: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Directory:
    """own: this machine's id, which is never a peer."""

    own: PeerId
    records: Mapping[PeerId, Record] = field(default_factory=dict)


def check_integrity(state: Directory) -> None:
    """Raises: LocalFault if a bound or a rule of the table is broken."""
    strangers = [record for record in state.records.values() if record.paired is None]
    if len(strangers) > STRANGERS_MAX or state.own in state.records:
        raise LocalFault(f"{len(strangers)} strangers in the directory, or this machine itself")
    for record in state.records.values():
        counts = len(record.sights), len(record.known)
        if counts[0] > SIGHTS_PER_PEER_MAX or counts[1] > KNOWN_PER_PEER_MAX:
            raise LocalFault(f"{record.peer} has {counts[0]} sights and {counts[1]} addresses")
        if record.paired is None and not record.sights:
            raise LocalFault(f"{record.peer} is neither paired nor seen")
    if sum(record.is_dialing for record in state.records.values()) > DIALS_MAX:
        raise LocalFault("more tries under way than allowed")


def dial_addresses(record: Record) -> tuple[str, ...]:
    """Where to try a peer: what was right and is heard now, what was right last, what is heard, the rest.

    What was right last comes before what is only heard, so that lies cost a good address no time; a good one
    that is only heard waits a moment for the dead ones before it.
    """
    heard = [
        address
        for sight in sorted(record.sights, key=lambda sight: -sight.heard_at_ns)
        for address in sight.addresses
    ]
    known = [entry.address for entry in record.known]
    both = [address for address in known if address in heard]
    hints = [address for address in dict.fromkeys(heard) if address not in both][: DIAL_ADDRESSES_MAX // 2]
    return tuple(dict.fromkeys([*both, *known[:KNOWN_FIRST], *hints, *known]))[:DIAL_ADDRESSES_MAX]


def is_relayed(connection: Connection) -> bool:
    return connection.path.startswith("relay")


def why_not(record: Record, now_ns: int, *, show: Callable[[str], str] = show_endpoint) -> str:
    """Why there is no connection and what to do about it; empty if one stands."""
    if record.connection is not None:
        return ""
    if record.paired is None:
        return "not paired: run `unhosted pair` on one of the two machines"
    name = record.paired.name
    seen = ", ".join(show(address) for sight in record.sights[:1] for address in sight.addresses[:2])
    if not dial_addresses(record):
        return (
            f"not seen on this network, and no address of it is known: start `unhosted serve` on {name},"
            " or pair again with an address in the code"
        )
    if not record.why_failed:
        return f"connecting to {seen or 'the addresses it had before'}"
    where = f"seen on this network at {seen}, but " if seen else "not seen on this network; "
    on_there = f"does a firewall on {name} let its port in?"
    off_there = f"is {name} on, with `unhosted serve` running?"
    wait_s = max(0, record.next_try_at_ns - now_ns) // SECOND_NS
    again = "trying now" if record.is_dialing else f"next try in {wait_s} s"
    return f"{where}{record.why_failed}; {on_there if seen else off_there} ({again})"
