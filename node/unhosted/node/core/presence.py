"""Whether this machine takes work from peers now: not while it drains, in quiet hours, or while its owner
needs it for something else.

The owner's need is read from the CPU share of programs that are not ours, as a part of the whole machine. It
must be high for a while before work is turned away, and low for longer before it is taken again, so that a
page that loads or a pause in typing changes nothing. Quiet hours are wall-clock times of the day: on the days
when the clock is changed they are an hour longer or shorter, and never begin or end at another reading.
"""

import re
from dataclasses import dataclass, replace

from unhosted.node.core.errors import Refused

SECOND_NS = 1_000_000_000

BUSY_PERMILLE = 300
"""Above it the owner is taken to be at work: a compiler or a game, not a browser that scrolls."""

CALM_PERMILLE = 150
BUSY_FOR_NS = 5 * SECOND_NS
CALM_FOR_NS = 20 * SECOND_NS
"""Longer than the way in: work that comes and goes would be worse for peers than none."""

DAY_MINUTES = 24 * 60
_HOURS = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)\s*[-–]\s*([01]?\d|2[0-3]):([0-5]\d)")


@dataclass(frozen=True, slots=True, kw_only=True)
class QuietHours:
    """Minutes of the local day, the end not included; an end before the start is on the next day."""

    start_minute: int
    end_minute: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """since_ns: when the share crossed the line that would change is_busy; None while it has not."""

    quiet_hours: QuietHours | None = None
    draining: bool = False
    is_busy: bool = False
    since_ns: int | None = None
    foreign_permille: int = 0
    minute: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainingChanged:
    draining: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineSensed:
    """foreign_permille: CPU time of other programs since the last look, of all cores; None if that is not to
    count. minute: of the local day.
    """

    foreign_permille: int | None
    minute: int


Event = DrainingChanged | MachineSensed


def parse_quiet_hours(text: str) -> QuietHours | None:
    """From HH:MM-HH:MM; None for an empty text. Raises: Refused."""
    if not text.strip():
        return None
    match = _HOURS.fullmatch(text.strip())
    if match is None:
        raise Refused(
            "invalid_request",
            f"quiet hours {text!r} must be two local times such as 22:00-07:00",
            field="peers.quiet-hours",
        )
    start, end = (int(match[part]) * 60 + int(match[part + 1]) for part in (1, 3))
    if start == end:
        raise Refused(
            "invalid_request",
            f"quiet hours {text!r} begin when they end; to take no work at all, set radius to local",
            field="peers.quiet-hours",
        )
    return QuietHours(start_minute=start, end_minute=end)


def is_quiet(hours: QuietHours, minute: int) -> bool:
    """minute: of the local day, 0 to 1439."""
    length = (hours.end_minute - hours.start_minute) % DAY_MINUTES
    return (minute - hours.start_minute) % DAY_MINUTES < length


def step(state: Presence, event: Event, now_ns: int) -> Presence:
    """The state after `event`; now_ns of a clock that never goes back."""
    match event:
        case DrainingChanged(draining=draining):
            return replace(state, draining=draining)
        case MachineSensed(foreign_permille=permille, minute=minute):
            if permille is None:
                return replace(state, minute=minute, is_busy=False, since_ns=None, foreign_permille=0)
            state = replace(state, minute=minute, foreign_permille=permille)
            crossed = permille < CALM_PERMILLE if state.is_busy else permille >= BUSY_PERMILLE
            if not crossed:
                return replace(state, since_ns=None)
            since_ns = now_ns if state.since_ns is None else state.since_ns
            if now_ns - since_ns < (CALM_FOR_NS if state.is_busy else BUSY_FOR_NS):
                return replace(state, since_ns=since_ns)
            return replace(state, is_busy=not state.is_busy, since_ns=None)


def acceptance(state: Presence) -> tuple[bool, str]:
    """Whether work of peers is taken, and why not, for people."""
    if state.draining:
        return False, "draining: it ends its requests and takes no new ones"
    if state.quiet_hours is not None and is_quiet(state.quiet_hours, state.minute):
        hour, minute = divmod(state.quiet_hours.end_minute, 60)
        return False, f"quiet hours until {hour:02d}:{minute:02d}"
    if state.is_busy:
        return False, "paused while its owner uses the machine"
    return True, ""
