"""When this machine takes work from peers: drain, quiet hours, its owner at work."""

import calendar
import itertools
import multiprocessing
import os
import time
from contextlib import contextmanager
from typing import Any

import psutil
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from unhosted.node.core.errors import Refused
from unhosted.node.core.presence import (
    BUSY_FOR_NS,
    BUSY_PERMILLE,
    CALM_FOR_NS,
    CALM_PERMILLE,
    SECOND_NS,
    DrainingChanged,
    MachineSensed,
    Presence,
    acceptance,
    is_quiet,
    parse_quiet_hours,
    step,
)
from unhosted.node.shell.presence import ForeignLoad, OwnPresence


def sensed(state: Presence, shares: list[int], *, every_s: int = 1, minute: int = 0) -> list[bool]:
    """Whether work is taken after each look."""
    taken = []
    for number, share in enumerate(shares):
        event = MachineSensed(foreign_permille=share, minute=minute)
        state = step(state, event, number * every_s * SECOND_NS)
        taken.append(acceptance(state)[0])
    return taken


@pytest.mark.parametrize(
    ("text", "quiet", "loud"),
    [
        ("22:00-07:00", [22 * 60, 23 * 60 + 59, 0, 6 * 60 + 59], [7 * 60, 12 * 60, 21 * 60 + 59]),
        ("09:30-17:00", [9 * 60 + 30, 16 * 60 + 59], [0, 9 * 60 + 29, 17 * 60, 1439]),
        ("0:00-24:00", [], []),
        ("23:59-00:00", [1439], [0, 1438]),
        (" 7:05 – 7:06 ", [425], [424, 426]),
    ],
)
def test_quiet_hours_are_local_times_also_across_midnight(
    text: str, quiet: list[int], loud: list[int]
) -> None:
    if not quiet:
        with pytest.raises(Refused, match="22:00-07:00"):
            parse_quiet_hours(text)
        return
    hours = parse_quiet_hours(text)
    assert hours is not None
    assert [minute for minute in quiet + loud if is_quiet(hours, minute)] == quiet


@pytest.mark.parametrize("text", ["22-7", "25:00-07:00", "22:00", "22:60-07:00", "nights", "08:00-08:00"])
def test_what_are_no_quiet_hours_is_refused_with_an_example_or_a_way_out(text: str) -> None:
    with pytest.raises(Refused) as caught:
        parse_quiet_hours(text)
    assert caught.value.field == "peers.quiet-hours" and text in caught.value.message


@settings(max_examples=200, derandomize=True)
@given(start=st.integers(0, 1439), end=st.integers(0, 1439))
def test_quiet_hours_cover_their_length_of_the_day(start: int, end: int) -> None:
    if start != end:
        hours = parse_quiet_hours(f"{start // 60:02d}:{start % 60:02d}-{end // 60:02d}:{end % 60:02d}")
        assert hours is not None
        assert sum(is_quiet(hours, minute) for minute in range(1440)) == (end - start) % 1440
        assert is_quiet(hours, start) and not is_quiet(hours, end)


@pytest.mark.parametrize(
    ("utc", "quiet"),
    [  # Berlin, 2026-10-25: at 01:00 UTC the clock goes from 03:00 back to 02:00
        ("2026-10-24 23:59", False),  # 01:59
        ("2026-10-25 00:00", True),  # 02:00 in summer
        ("2026-10-25 01:00", True),  # 02:00 once more
        ("2026-10-25 01:59", True),
        ("2026-10-25 02:00", False),  # 03:00 in winter
        ("2026-03-29 00:59", False),  # 01:59; the clock goes to 03:00 next: these hours do not come today
        ("2026-03-29 01:00", False),
    ],
)
def test_quiet_hours_follow_the_clock_on_the_wall_when_it_is_changed(
    monkeypatch: pytest.MonkeyPatch, utc: str, quiet: bool
) -> None:
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    at_s = calendar.timegm(time.strptime(utc, "%Y-%m-%d %H:%M"))
    local = time.localtime
    monkeypatch.setattr(time, "localtime", lambda: local(at_s))
    taken, why = OwnPresence(quiet_hours="02:00-03:00").accepting()
    monkeypatch.undo()
    time.tzset()
    assert taken is not quiet and ("until 03:00" in why) is quiet


def test_a_short_load_changes_nothing_and_a_long_one_pauses() -> None:
    assert all(sensed(Presence(), [900, 900, 900, 0, 900, 900, 900, 0]))
    taken = sensed(Presence(), [BUSY_PERMILLE] * 8)
    assert taken.index(False) == BUSY_FOR_NS // SECOND_NS


def test_work_is_taken_again_after_a_longer_calm() -> None:
    busy = Presence(is_busy=True)
    assert not any(sensed(busy, [0, 0, 0, 0, 0, 0, 0, 0, 0, 500] * 3))
    assert not any(sensed(busy, [CALM_PERMILLE] * 60))
    taken = sensed(busy, [CALM_PERMILLE - 1] * 40)
    assert taken.index(True) == CALM_FOR_NS // SECOND_NS


@settings(max_examples=100, derandomize=True, deadline=None)
@given(shares=st.lists(st.integers(0, 1000), max_size=120))
def test_the_answer_never_changes_twice_within_the_shorter_wait(shares: list[int]) -> None:
    taken = sensed(Presence(), shares)
    changes = [at for at in range(1, len(taken)) if taken[at] != taken[at - 1]]
    assert all(later - earlier >= 5 for earlier, later in itertools.pairwise(changes))


def test_draining_comes_before_everything_and_ends() -> None:
    state = step(Presence(is_busy=True), DrainingChanged(draining=True), 0)
    assert acceptance(state) == (False, "draining: it ends its requests and takes no new ones")
    assert "owner" in acceptance(step(state, DrainingChanged(draining=False), 0))[1]


def test_a_machine_that_shall_not_pause_does_not() -> None:
    state = step(Presence(is_busy=True), MachineSensed(foreign_permille=None, minute=0), 0)
    assert acceptance(state) == (True, "")


def test_a_change_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[bool, str]] = []
    presence = OwnPresence(on_change=lambda: told.append(presence.accepting()))
    presence.set_draining(True)
    presence.set_draining(True)
    presence.set_draining(False)
    assert [taken for taken, _ in told] == [False, True]


def test_it_looks_again_and_again_and_pauses_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = iter([900] * 4 + [0] * 100)
    monkeypatch.setattr(ForeignLoad, "look", lambda self: next(shares))

    async def main() -> None:
        clock = trio.lowlevel.current_clock()
        monkeypatch.setattr(time, "monotonic_ns", lambda: int(clock.current_time() * SECOND_NS))
        changes: list[float] = []
        done = trio.Event()

        def note() -> None:
            changes.append(trio.current_time())
            if len(changes) == 2:
                done.set()

        presence = OwnPresence(on_change=note)
        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            await nursery.start(presence.run)
            await done.wait()
            nursery.cancel_scope.cancel()
        assert [round(at - start) for at in changes] == [8, 30]

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def spin(started: Any, stop: Any, niceness: int) -> None:
    os.nice(niceness)
    started.set()
    while not stop.is_set():
        sum(range(1000))


@contextmanager
def spinner(niceness: int = 0) -> Any:
    """A process that takes one core; its pid."""
    context = multiprocessing.get_context("spawn")
    started, stop = context.Event(), context.Event()
    process = context.Process(target=spin, args=(started, stop, niceness))
    process.start()
    started.wait(30)
    try:
        yield process.pid
    finally:
        stop.set()
        process.join()


def cpu_seconds(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def burn(pid: int, seconds: float) -> None:
    """Wait until the process has taken so much more CPU time."""
    until = cpu_seconds(pid) + seconds
    while cpu_seconds(pid) < until:
        time.sleep(0.02)


@pytest.mark.slow
def test_other_programs_count_and_our_engines_do_not() -> None:
    with spinner() as pid:
        engines: list[int] = []
        foreign, ours = ForeignLoad(), ForeignLoad(lambda: engines)
        engines.append(pid)
        ours.look()
        foreign.look()
        burn(pid, 0.5)
        with_it, without_it = foreign.look(), ours.look()
        assert with_it > 0 and with_it > without_it
