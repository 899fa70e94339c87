"""Senses for `core.presence`: the local time of day, and how much CPU other programs take."""

import time
from collections.abc import Callable, Sequence

import trio

from unhosted.node.core.presence import (
    DrainingChanged,
    MachineSensed,
    Presence,
    acceptance,
    parse_quiet_hours,
    step,
)

SENSE_EVERY_S = 2.0
"""A look takes about a fifth of a millisecond; busy and calm are matters of several looks."""


class OwnPresence:
    """Whether this machine takes work from peers. engine_pids: processes that work for us, now.

    on_change: called when the answer changes. Raises: Refused for quiet hours that are none.
    """

    def __init__(
        self,
        *,
        quiet_hours: str = "",
        pause_when_busy: bool = True,
        engine_pids: Callable[[], Sequence[int]] = tuple,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._state = Presence(quiet_hours=parse_quiet_hours(quiet_hours), minute=_local_minute())
        self._load = ForeignLoad(engine_pids) if pause_when_busy else None
        self._on_change = on_change
        self._told = self.accepting()

    def accepting(self) -> tuple[bool, str]:
        """Whether work of peers is taken now, and why not, for people."""
        return acceptance(self._state)

    @property
    def draining(self) -> bool:
        return self._state.draining

    def set_draining(self, draining: bool) -> None:
        self._apply(DrainingChanged(draining=draining))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled."""
        task_status.started()
        while True:
            await trio.sleep(SENSE_EVERY_S)
            permille = None if self._load is None else self._load.look()
            self._apply(MachineSensed(foreign_permille=permille, minute=_local_minute()))

    def _apply(self, event: DrainingChanged | MachineSensed) -> None:
        self._state = step(self._state, event, time.monotonic_ns())
        if self._told != self.accepting():
            self._told = self.accepting()
            self._on_change()


class ForeignLoad:
    """CPU time of other programs, from the difference of two looks.

    What runs at low priority (nice) does not count: it gives way to an engine by itself.
    """

    def __init__(self, engine_pids: Callable[[], Sequence[int]] = tuple) -> None:
        self._engine_pids = engine_pids
        self._busy_s, self._total_s, self._own_s = self._read()

    def look(self) -> int:
        """Thousandths of the whole machine since the last look, 0 if no time has passed."""
        busy_s, total_s, own_s = self._read()
        spent_s = total_s - self._total_s
        foreign_s = (busy_s - self._busy_s) - (own_s - self._own_s)
        self._busy_s, self._total_s, self._own_s = busy_s, total_s, own_s
        if spent_s <= 0:
            return 0
        return round(1000 * min(max(foreign_s / spent_s, 0.0), 1.0))

    def _read(self) -> tuple[float, float, float]:
        import psutil

        times = psutil.cpu_times()
        # Guests are in user already, and nice is left out of busy on purpose.
        total_s = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        busy_s = times.user + times.system + getattr(times, "irq", 0.0) + getattr(times, "softirq", 0.0)
        # The time of a child that has ended moves into its parent's, so that the sum never jumps.
        own = psutil.Process().cpu_times()
        own_s = own.user + own.system + own.children_user + own.children_system
        for pid in self._engine_pids():
            try:
                engine = psutil.Process(pid).cpu_times()
            except psutil.Error:
                continue  # it ended since it was listed
            own_s += engine.user + engine.system
        return busy_s, total_s, own_s


def _local_minute() -> int:
    time.tzset()  # a traveller's laptop changes its zone while we run
    now = time.localtime()
    return now.tm_hour * 60 + now.tm_min
