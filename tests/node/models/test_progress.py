"""What a pull tells while it runs."""

import pytest

from unhosted.node.shell.models import progress
from unhosted.node.shell.models.progress import Meter, PullProgress

SECOND_NS = 1_000_000_000


class Clock:
    def __init__(self) -> None:
        self.now_ns = 0

    def monotonic_ns(self) -> int:
        return self.now_ns


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_rate_and_time_left_come_from_the_last_seconds(clock: Clock) -> None:
    seen: list[PullProgress] = []
    meter = Meter("m", seen.append)
    meter.start("downloading", total_bytes=10_000, resumed_bytes=1_000)
    assert (seen[-1].rate_bytes_per_s, seen[-1].eta_s) == (None, None)
    for _ in range(4):
        clock.now_ns += SECOND_NS
        meter.add(1_000)
    last = seen[-1]
    assert (last.done_bytes, last.resumed_bytes, last.total_bytes) == (5_000, 1_000, 10_000)
    assert last.rate_bytes_per_s == pytest.approx(1_000)  # what was resumed does not count as speed
    assert last.eta_s == pytest.approx(5)
    for _ in range(10):
        clock.now_ns += SECOND_NS
        meter.add(100)
    assert seen[-1].rate_bytes_per_s == pytest.approx(100, rel=0.2)


def test_reports_are_few_however_many_pieces_arrive(clock: Clock) -> None:
    seen: list[PullProgress] = []
    meter = Meter("m", seen.append)
    meter.start("downloading")
    for _ in range(1_000):
        clock.now_ns += SECOND_NS // 1_000
        meter.add(1)
    assert 5 <= len(seen) <= 12
    assert (seen[-1].total_bytes, seen[-1].eta_s) == (None, None)
