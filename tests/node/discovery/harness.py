"""A directory with its clock."""

from unhosted.node.core.addresses import KnownAddress
from unhosted.node.core.directory import step
from unhosted.node.core.directory_events import (
    BookRead,
    ClockTicked,
    Dial,
    DialFailed,
    Effect,
    Event,
    PeerHeard,
)
from unhosted.node.core.directory_state import SECOND_NS, Directory, Record, why_not
from unhosted.node.core.peering import Connection, PairedPeer

OWN = "M"
HOME, MOVED = "/ip4/10.0.0.5/tcp/8643", "/ip4/10.0.0.9/tcp/8643"


class Clock:
    """A directory and its time; what is to be done is kept."""

    def __init__(self, own: str = OWN) -> None:
        self.state = Directory(own=own)
        self.now_ns = 1000 * SECOND_NS
        self.live: dict[str, Connection] = {}

    def tell(self, event: Event) -> tuple[Effect, ...]:
        self.state, effects = step(self.state, event, self.now_ns)
        return effects

    def tick(self, seconds: float = 0.0) -> tuple[Effect, ...]:
        self.now_ns += int(seconds * SECOND_NS)
        return self.tell(ClockTicked(connections=tuple(self.live.values()), unix_s=self.now_ns // SECOND_NS))

    def book(self, *peers: str, known: tuple[str, ...] = ()) -> None:
        addresses = tuple(KnownAddress(address=text, source="pairing", unix_s=1) for text in known)
        self.tell(BookRead(peers=tuple((paired(peer), addresses) for peer in peers)))

    def heard(self, peer: str, *addresses: str, host: str = "10.0.0.5", network: str = "eth0") -> None:
        self.tell(
            PeerHeard(
                peer=peer, host=host, network=network, name=peer, version="1", addresses=addresses or (HOME,)
            )
        )

    def fail(self, peer: str, reason: str = "nothing listens there") -> None:
        self.tell(DialFailed(peer=peer, reason=reason, jitter=1.0))

    def record(self, peer: str) -> Record:
        return self.state.records[peer]

    def why(self, peer: str) -> str:
        return why_not(self.record(peer), self.now_ns)


def paired(peer: str) -> PairedPeer:
    return PairedPeer(peer=peer, name=f"name of {peer}", state="paired", paired_unix_s=1)


def connection(peer: str, address: str = HOME, *, outbound: bool = True, path: str = "lan") -> Connection:
    return Connection(peer=peer, path=path, remote_address=address, is_outbound=outbound, round_trip_s=None)


def dialled(effects: tuple[Effect, ...]) -> list[str]:
    return [effect.peer for effect in effects if isinstance(effect, Dial)]
