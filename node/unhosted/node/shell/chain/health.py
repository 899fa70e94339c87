"""How an endpoint did lately, and how long it is left alone after a fault. Pure: time and chance come in."""

from dataclasses import dataclass, replace

from unhosted.node.shell.chain.answers import EndpointFault, FaultKind

REST_S: dict[FaultKind, float] = {
    "dead": 1.0,
    "limited": 2.0,
    "broken": 2.0,
    "lagging": 2.0,
    "lying": 300.0,
    "wrong_chain": 300.0,
    "denied": 60.0,
}
"""After a first fault; doubled while faults go on. A liar rests long: its next word is worth as little."""
REST_S_MAX = 600.0
"""Even a liar is asked again: it may have been a node in the middle of a reorganisation."""
DOUBLINGS_MAX = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """rests_until_s: on the clock that the pool uses. sentence: of the last fault, empty when it is well."""

    faults: int = 0
    rests_until_s: float = 0.0
    kind: FaultKind | None = None
    sentence: str = ""

    def is_resting(self, now_s: float) -> bool:
        return now_s < self.rests_until_s


def after_fault(health: Health, fault: EndpointFault, *, now_s: float, chance: float) -> Health:
    """chance: in 0 to 1; spreads the rest by a quarter either way, so that not all come back together."""
    rest_s = REST_S[fault.kind] * 2.0 ** min(health.faults, DOUBLINGS_MAX)
    rest_s = min(REST_S_MAX, max(rest_s, fault.retry_after_s or 0.0)) * (0.75 + chance / 2)
    return replace(
        health,
        faults=health.faults + 1,
        rests_until_s=now_s + rest_s,
        kind=fault.kind,
        sentence=fault.sentence,
    )
