"""Who among the servers may be asked now, from what requests and probes met.

A server that cannot be reached, or falls silent, is down at once: the request that met it paid for that, and
the next ones pass it over. When its back-off has run out, or a probe has reached it, it may be tried again:
by one request at a time, behind everybody else, until one is accepted. A server that answers but fails (its
engine died, its queue is full) is suspect for a while: it is asked behind the others, never passed over.

Not handled here: what a peer says of itself (draining, quiet hours), and which request goes where.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, assert_never

from unhosted.node.core.errors import LocalFault

BACK_OFF_FIRST_NS = 1_000_000_000
BACK_OFF_MAX_NS = 30_000_000_000
"""Doubled at each failed trial. A peer that comes back is also noticed by its connection, which is sooner."""

SUSPECT_NS = 10_000_000_000
"""How long a server that failed a request stands behind the others, unless it said for how long itself."""

SUSPECT_MAX_NS = 60_000_000_000
"""What a server says about itself is believed up to a minute."""

SERVERS_MAX = 256
"""Paired peers are far fewer; above it those that were heard of least recently are forgotten."""

State = Literal["alive", "suspect", "down"]
Kind = Literal["good", "suspect", "trial", "down"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerHealth:
    """failed_trials: in a row. until_ns: the end of the suspicion or of the back-off. trial_since_ns: a
    request is trying it since then."""

    state: State = "alive"
    why: str = ""
    since_ns: int = 0
    until_ns: int = 0
    failed_trials: int = 0
    trial_since_ns: int | None = None
    heard_at_ns: int = 0


@dataclass(frozen=True, slots=True)
class Health:
    """Servers that something happened to; one that is not here is alive."""

    servers: Mapping[str, ServerHealth] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Standing:
    """good; suspect: behind the others; trial: one request may try it, behind all others; down: not now."""

    kind: Kind = "good"
    why: str = ""


GOOD = Standing()


@dataclass(frozen=True, slots=True)
class Answered:
    """It accepted a request, ended one properly, or answered a probe."""

    server: str


@dataclass(frozen=True, slots=True)
class Lost:
    """It could not be reached or fell silent. started_at_ns: when the attempt began that found out."""

    server: str
    why: str
    started_at_ns: int


@dataclass(frozen=True, slots=True)
class Balked:
    """It refused for a reason that lies with it, or its engine failed."""

    server: str
    why: str
    rest_ns: int = SUSPECT_NS


@dataclass(frozen=True, slots=True)
class TrialStarted:
    """A request was sent to a server whose standing is `trial`."""

    server: str


@dataclass(frozen=True, slots=True)
class TrialDropped:
    """The client left before the trial said anything."""

    server: str


@dataclass(frozen=True, slots=True)
class Forgotten:
    """It is no peer any more."""

    server: str


Event = Answered | Lost | Balked | TrialStarted | TrialDropped | Forgotten


def standing(health: Health, server: str, now_ns: int) -> Standing:
    """What the router is to think of a server now."""
    known = health.servers.get(server)
    if known is None or known.state == "alive":
        return GOOD
    ago_s = max(now_ns - known.since_ns, 0) // 1_000_000_000
    if known.state == "suspect":
        return Standing("suspect", f"{known.why} ({ago_s} s ago)") if now_ns < known.until_ns else GOOD
    if known.trial_since_ns is not None:
        return Standing("down", f"{known.why} ({ago_s} s ago); another request is trying it now")
    if now_ns >= known.until_ns:
        return Standing("trial", f"{known.why} ({ago_s} s ago)")
    again_s = (known.until_ns - now_ns) // 1_000_000_000 + 1
    return Standing("down", f"{known.why} ({ago_s} s ago); tried again in {again_s} s")


def step(health: Health, event: Event, now_ns: int) -> Health:
    """The health after one event. There are no effects: who is to be probed follows from `standing`."""
    known = health.servers.get(event.server, ServerHealth())
    match event:
        case Answered():
            after: ServerHealth | None = None if known.state != "suspect" else known
        case Lost(why=why, started_at_ns=started_at_ns):
            after = _lost(known, why, started_at_ns, now_ns)
        case Balked(why=why, rest_ns=rest_ns):
            after = replace(
                known,
                state="suspect",
                why=why,
                since_ns=now_ns,
                until_ns=now_ns + min(rest_ns, SUSPECT_MAX_NS),
                failed_trials=0,
                trial_since_ns=None,
            )
        case TrialStarted():
            after = replace(known, trial_since_ns=now_ns) if known.state == "down" else known
        case TrialDropped():
            after = replace(known, trial_since_ns=None)
        case Forgotten():
            after = None
        case _:
            assert_never(event)
    return _with(health, event.server, after, now_ns)


def _lost(known: ServerHealth, why: str, started_at_ns: int, now_ns: int) -> ServerHealth:
    """Many requests may lose a server at once, and its link, too: that is one failure. A failed trial is one
    that began when the back-off had run out."""
    if known.state == "down":
        is_waiting = known.trial_since_ns is None and now_ns < known.until_ns
        if is_waiting or started_at_ns <= known.since_ns:
            return known
    failed_trials = known.failed_trials + 1 if known.state == "down" else 0
    # The shift is bounded: a server may stay down for years.
    back_off_ns = min(BACK_OFF_FIRST_NS << min(failed_trials, 10), BACK_OFF_MAX_NS)
    return replace(
        known,
        state="down",
        why=why,
        since_ns=now_ns,
        until_ns=now_ns + back_off_ns,
        failed_trials=failed_trials,
        trial_since_ns=None,
    )


def _with(health: Health, server: str, after: ServerHealth | None, now_ns: int) -> Health:
    servers = dict(health.servers)
    if after is None or after.state == "alive":
        servers.pop(server, None)
    else:
        servers[server] = replace(after, heard_at_ns=now_ns)
        if len(servers) > SERVERS_MAX:
            del servers[min(servers, key=lambda name: servers[name].heard_at_ns)]
    _check(servers.get(server))
    return Health(servers)


def _check(known: ServerHealth | None) -> None:
    if known is None:
        return
    if known.trial_since_ns is not None and known.state != "down":
        raise LocalFault(f"a {known.state} server is on trial")
    if known.until_ns < known.since_ns:
        raise LocalFault(f"{known.state} since {known.since_ns} until {known.until_ns}")
