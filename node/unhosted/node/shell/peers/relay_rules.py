"""For whom a node passes bytes on, and how much. Pure.

Rules. Both ends of a circuit are paired with the relay: the network lets nobody else speak the protocol, and
the target is looked up again here. The target has said that it wants to be reached so (a reservation), and
its reservation has not run out. One peer has at most so many circuits, counted at both ends, and all of
them together have a bound too. What is relayed is not looked at: the two ends encrypt it for each other.
"""

from dataclasses import dataclass, replace
from typing import Literal

from unhosted.node.core.errors import LocalFault
from unhosted.node.core.peering import PeerId

Denial = Literal["not_paired", "no_reservation", "full"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayLimits:
    """What a relay gives to others.

    reservations_max: more peers than people pair with; a reservation is a line in a table.
    reservation_s: an hour, as other libp2p relays; a target renews at half of it.
    circuits_max: each holds two streams and at most 128 KiB. circuits_per_peer_max: a few machines that
    all talk to one. circuit_s: a day; both ends come back with a new one.
    circuit_bytes_max: each way; more than any conversation, less than what makes a bill on a metered line.
    handshake_s: both halves of opening one, over slow links.
    """

    reservations_max: int = 64
    reservation_s: int = 3600
    circuits_max: int = 32
    circuits_per_peer_max: int = 8
    circuit_s: int = 24 * 3600
    circuit_bytes_max: int = 1 << 30
    handshake_s: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Circuit:
    key: int
    source: PeerId
    target: PeerId


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayState:
    """reservations: peer and when its reservation ends, in ns. next_key: of circuits, never used twice."""

    reservations: tuple[tuple[PeerId, int], ...] = ()
    circuits: tuple[Circuit, ...] = ()
    next_key: int = 0

    def check(self, limits: RelayLimits) -> None:
        """Raises: LocalFault if a bound is broken."""
        peers = [peer for peer, _ in self.reservations]
        if len(peers) > limits.reservations_max or len(set(peers)) != len(peers):
            raise LocalFault(f"{len(peers)} reservations of {len(set(peers))} peers")
        if len(self.circuits) > limits.circuits_max:
            raise LocalFault(f"{len(self.circuits)} circuits, and {limits.circuits_max} are the most")


def reserve(
    state: RelayState, peer: PeerId, limits: RelayLimits, now_ns: int
) -> tuple[RelayState, Denial | None]:
    """`peer` wants to be reached through this relay for another `reservation_s`."""
    others = tuple(one for one in state.reservations if one[0] != peer and one[1] > now_ns)
    if len(others) >= limits.reservations_max:
        return replace(state, reservations=others), "full"
    ends_ns = now_ns + limits.reservation_s * 1_000_000_000
    return replace(state, reservations=(*others, (peer, ends_ns))), None


def open_circuit(
    state: RelayState,
    *,
    source: PeerId,
    target: PeerId,
    is_target_paired: bool,
    limits: RelayLimits,
    now_ns: int,
) -> tuple[RelayState, Circuit | Denial]:
    """`source` wants to reach `target`: the circuit, whose place is taken until it is closed, or why not."""
    if not is_target_paired or source == target:
        return state, "not_paired"
    if not any(peer == target and ends_ns > now_ns for peer, ends_ns in state.reservations):
        return state, "no_reservation"
    if len(state.circuits) >= limits.circuits_max:
        return state, "full"
    for end in (source, target):
        if sum(end in (one.source, one.target) for one in state.circuits) >= limits.circuits_per_peer_max:
            return state, "full"
    circuit = Circuit(key=state.next_key, source=source, target=target)
    return replace(state, circuits=(*state.circuits, circuit), next_key=state.next_key + 1), circuit


def close_circuit(state: RelayState, key: int) -> RelayState:
    return replace(state, circuits=tuple(one for one in state.circuits if one.key != key))


def forget(state: RelayState, peer: PeerId) -> RelayState:
    """The peer's connection is gone: nothing can be passed on to it before it comes back and reserves."""
    return replace(state, reservations=tuple(one for one in state.reservations if one[0] != peer))
