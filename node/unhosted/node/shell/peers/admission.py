"""Who gets a place among the connections, and who has to go for it. Pure.

Rules. A paired peer gets a place as long as paired peers alone do not fill all of them. A stranger gets one
of the strangers' places: if they are full, in all or of its address, then the stranger that has been idle for
the longest goes, if it was idle for long enough; otherwise the newcomer is refused. Nobody ever goes for a
stranger but a stranger. Of one peer's connections the oldest goes when there are too many.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from unhosted.node.core.peering import PeerId
from unhosted.node.shell.peers.limits import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A connection that stands. idle_s: since when it has had no open channel; None while it has one."""

    key: int
    peer: PeerId
    address: str
    is_stranger: bool
    opened_at_s: float
    idle_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Newcomer:
    """A connection whose handshake is done: the peer is known to be who it says."""

    peer: PeerId
    address: str
    is_stranger: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """evict: keys of connections to close first. refused: why there is no place, empty if there is one."""

    evict: tuple[int, ...] = ()
    refused: str = ""


def admit(held: Sequence[Held], newcomer: Newcomer, limits: Limits) -> Admission:
    """Where the newcomer finds its place; see the rules above."""
    same = sorted((one for one in held if one.peer == newcomer.peer), key=lambda one: one.opened_at_s)
    replaced = same[: max(0, len(same) + 1 - limits.connections_per_peer_max)]
    gone = {one.key for one in replaced}
    rest = [one for one in held if one.key not in gone]
    strangers = [one for one in rest if one.is_stranger]
    if newcomer.is_stranger:
        near = [one for one in strangers if one.address == newcomer.address]
        if len(near) >= limits.strangers_per_address_max:
            return _instead_of(
                near, gone, limits, f"{len(near)} strangers of {newcomer.address} are connected"
            )
        if len(strangers) >= limits.strangers_max or len(rest) >= limits.connections_max:
            return _instead_of(strangers, gone, limits, f"{len(strangers)} strangers are connected")
    elif len(rest) >= limits.connections_max:
        return _instead_of(strangers, gone, limits, f"{len(rest)} peers are connected", even_busy=True)
    return Admission(evict=tuple(sorted(gone)))


def outstayed(held: Sequence[Held], limits: Limits) -> tuple[int, ...]:
    """Strangers that have been idle for so long that nobody waits for anything from them."""
    return tuple(
        one.key
        for one in held
        if one.is_stranger and one.idle_s is not None and one.idle_s >= limits.stranger_idle_s
    )


def _instead_of(
    candidates: Sequence[Held], gone: set[int], limits: Limits, full: str, *, even_busy: bool = False
) -> Admission:
    idle = [one for one in candidates if one.idle_s is not None and one.idle_s >= limits.stranger_evictable_s]
    idle.sort(key=lambda one: -(one.idle_s or 0.0))
    if not idle and even_busy:
        idle = sorted(candidates, key=lambda one: one.opened_at_s)
    if not idle:
        return Admission(refused=f"{full}, and none of them is idle")
    return Admission(evict=tuple(sorted(gone | {idle[0].key})))
