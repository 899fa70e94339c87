"""What a pull reports while it runs: how much, how fast, how long still."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Stage = Literal["waiting", "resolving", "downloading", "copying", "verifying", "extracting", "done"]

REPORT_EVERY_NS = 100_000_000
"""Ten reports a second look smooth and cost nothing."""

WINDOW_NS = 5_000_000_000
"""The rate is over the last five seconds: steady enough to read, quick enough to notice a stall."""

RATE_AFTER_NS = 300_000_000
SAMPLES_MAX = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class PullProgress:
    """total_bytes, rate and eta are None while unknown. resumed_bytes: were here before this pull began.

    source: who gives the bytes, for people; empty where nobody does.
    """

    stage: Stage
    name: str
    done_bytes: int = 0
    total_bytes: int | None = None
    resumed_bytes: int = 0
    rate_bytes_per_s: float | None = None
    eta_s: float | None = None
    source: str = ""


Report = Callable[[PullProgress], None]


class Meter:
    """Counts the bytes of one stage after another and reports them, not too often."""

    __slots__ = (
        "_done",
        "_name",
        "_report",
        "_reported_at_ns",
        "_resumed",
        "_samples",
        "_source",
        "_stage",
        "_total",
    )

    def __init__(self, name: str, report: Report) -> None:
        self._name = name
        self._report = report
        self._samples: deque[tuple[int, int]] = deque(maxlen=SAMPLES_MAX)
        self._stage: Stage = "resolving"
        self._done = self._resumed = self._reported_at_ns = 0
        self._total: int | None = None
        self._source = ""

    def start(
        self, stage: Stage, *, total_bytes: int | None = None, resumed_bytes: int = 0, source: str = ""
    ) -> None:
        self._stage, self._total, self._source = stage, total_bytes, source
        self._done = self._resumed = resumed_bytes
        self._samples.clear()
        self._samples.append((time.monotonic_ns(), self._done))
        self._send(time.monotonic_ns())

    def add(self, count: int) -> None:
        """count: bytes that arrived; negative where some are to be fetched again."""
        self._done += count
        now_ns = time.monotonic_ns()
        if now_ns - self._reported_at_ns >= REPORT_EVERY_NS:
            self._send(now_ns)

    def _send(self, now_ns: int) -> None:
        self._reported_at_ns = now_ns
        self._samples.append((now_ns, self._done))
        while len(self._samples) > 2 and now_ns - self._samples[0][0] > WINDOW_NS:
            self._samples.popleft()
        since_ns, since_bytes = self._samples[0]
        elapsed_ns = now_ns - since_ns
        # The first moments say nothing of the rate, and a time left drawn from them would jump.
        rate = max(0.0, (self._done - since_bytes) * 1e9 / elapsed_ns) if elapsed_ns > RATE_AFTER_NS else None
        left = None if self._total is None else max(0, self._total - self._done)
        self._report(
            PullProgress(
                stage=self._stage,
                name=self._name,
                done_bytes=self._done,
                total_bytes=self._total,
                resumed_bytes=self._resumed,
                rate_bytes_per_s=rate,
                eta_s=left / rate if rate and left is not None else None,
                source=self._source,
            )
        )
