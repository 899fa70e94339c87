"""How fast a server answered lately, from real traffic: medians of a few samples, which fade into "unknown".

A server is this machine or a peer; each has a record per model. A sample halves its weight every
`HALF_LIFE_NS` and is forgotten at weight zero. Medians, because one answer that met a full disk or a sleeping
radio says nothing of the next one. Speeds are kept as nanoseconds per thousand tokens, so that all are
integers.

A step of a batch costs a fixed part (the weights are read once) and a part per stream. How they are divided
hangs on the hardware; `STEP_FIXED_SHARE` says what we assume, and it only matters between the load at which
a sample was taken and the load that is asked about.
"""

from collections import OrderedDict
from dataclasses import dataclass

HALF_LIFE_NS = 300_000_000_000
"""Five minutes: a machine that began to do something else is believed slow, or fast again, within a few."""

SAMPLES_KEPT = 16
"""Per quantity: enough for a median and a ninth decile, and a record stays below two kilobytes."""

RECORDS_MAX = 1_024
"""Servers times models, the longest unused forgotten first: 64 peers with 16 models each, about 2 MB."""

PROMPT_TOKENS_MIN = 64
"""A shorter prompt's first token says how long an answer takes to begin at all, not how fast it is read."""

DECODE_TOKENS_MIN = 8
"""Fewer tokens measure how deltas were bundled, not how fast they were made."""

STEP_FIXED_SHARE = 4
"""A step for n streams costs as 4 + n. Measured: 16 streams make a step 9.5 times as long as one on two CPU
cores; on a GPU it is nearer 1.3. This gives 4."""

LATE_SAMPLES_MIN = 4
"""Below it there is no record to be late by."""

LATE_FLOOR_NS = 300_000_000
"""Nothing is late before: one more request costs the other machine more than that is worth."""

LATE_MARGIN_PERCENT = 150
"""Late is this much of the ninth decile of what the server usually takes of its expected time."""

LATE_UNKNOWN_PERCENT = 400
LATE_UNKNOWN_FLOOR_NS = 3_000_000_000
"""Of a server without a record: an estimate from claims alone must be far off before it is called late."""

RATIO_MAX = 100_000
"""Permille. What took a hundred times as long as expected says that the expectation was wrong."""

_WEIGHT_NEW = 16


@dataclass(frozen=True, slots=True)
class Sample:
    """streams: how many were served at once then, this one included; 1 where it does not matter."""

    value: int
    at_ns: int
    streams: int = 1


@dataclass(frozen=True, slots=True)
class Record:
    """The newest `SAMPLES_KEPT` samples of one quantity, oldest first."""

    samples: tuple[Sample, ...] = ()

    def noted(self, value: int, now_ns: int, streams: int = 1) -> "Record":
        kept = self.samples[-(SAMPLES_KEPT - 1) :]
        return Record((*kept, Sample(value, now_ns, streams)))

    def known(self, now_ns: int) -> int:
        """How many samples still count."""
        return sum(_weight(sample, now_ns) > 0 for sample in self.samples)

    def quantile(self, percent: int, now_ns: int, *, streams: int = 1) -> int | None:
        """The weighted quantile, brought to `streams` streams at once. None: nothing is known any more."""
        weighted = sorted(
            (_at_load(sample, streams), weight)
            for sample in self.samples
            if (weight := _weight(sample, now_ns)) > 0
        )
        goal = sum(weight for _, weight in weighted) * percent
        passed = 0
        for value, weight in weighted:
            passed += weight * 100
            if passed >= goal:
                return value
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """What is known of one model on one server; None where nothing was measured lately.

    start_ns: to the first token of a short prompt. prefill: of one prompt alone. decode: of one stream.
    """

    start_ns: int | None = None
    prefill_ns_per_ktoken: int | None = None
    decode_ns_per_ktoken: int | None = None
    usual_ratio: int | None = None
    """Permille of the expected time to the first token within which nine of ten first tokens came."""


UNKNOWN = Speed()


@dataclass(slots=True)
class _Records:
    start: Record = Record()
    prefill: Record = Record()
    decode: Record = Record()
    ratio: Record = Record()


class SpeedBook:
    """Records by server and model; at most `RECORDS_MAX`."""

    def __init__(self) -> None:
        self._records: OrderedDict[tuple[str, str], _Records] = OrderedDict()

    def __len__(self) -> int:
        return len(self._records)

    def observe_first_token(
        self,
        server: str,
        model: str,
        *,
        new_prompt_tokens: int,
        latency_ns: int,
        now_ns: int,
        expected_ns: int | None = None,
        waited: bool = False,
    ) -> None:
        """new_prompt_tokens: those that had to be read, not the cached ones.

        expected_ns: what the router had expected. waited: it had to queue first, so it measures no speed.
        """
        records = self._of(server, model)
        if expected_ns is not None and expected_ns > 0:
            ratio = min(latency_ns * 1000 // expected_ns, RATIO_MAX)
            records.ratio = records.ratio.noted(ratio, now_ns)
        if waited:
            return
        if new_prompt_tokens < PROMPT_TOKENS_MIN:
            records.start = records.start.noted(latency_ns, now_ns)
        else:
            start_ns = records.start.quantile(50, now_ns) or 0
            reading_ns = max(latency_ns - start_ns, latency_ns // 2)
            records.prefill = records.prefill.noted(reading_ns * 1000 // new_prompt_tokens, now_ns)

    def observe_decode(
        self, server: str, model: str, *, tokens: int, duration_ns: int, now_ns: int, streams: int = 1
    ) -> None:
        """tokens: made in duration_ns after the first one. streams: served at once there, as far as known."""
        if tokens >= DECODE_TOKENS_MIN:
            records = self._of(server, model)
            records.decode = records.decode.noted(duration_ns * 1000 // tokens, now_ns, max(streams, 1))

    def speed(self, server: str, model: str, now_ns: int, *, streams: int = 1) -> Speed:
        """Medians as of now, the decode speed with `streams` streams at once."""
        records = self._records.get((server, model))
        if records is None:
            return UNKNOWN
        is_known = records.ratio.known(now_ns) >= LATE_SAMPLES_MIN
        return Speed(
            start_ns=records.start.quantile(50, now_ns),
            prefill_ns_per_ktoken=records.prefill.quantile(50, now_ns),
            decode_ns_per_ktoken=records.decode.quantile(50, now_ns, streams=streams),
            usual_ratio=records.ratio.quantile(90, now_ns) if is_known else None,
        )

    def forget(self, server: str) -> None:
        """An unpaired peer leaves nothing behind."""
        for key in [key for key in self._records if key[0] == server]:
            del self._records[key]

    def _of(self, server: str, model: str) -> _Records:
        records = self._records.setdefault((server, model), _Records())
        self._records.move_to_end((server, model))
        if len(self._records) > RECORDS_MAX:
            self._records.popitem(last=False)
        return records


def late_after_ns(expected_ns: int, usual_ratio: int | None) -> int:
    """How long after the start a first token is late by the server's own record. See `Speed.usual_ratio`."""
    if usual_ratio is None:
        return max(expected_ns * LATE_UNKNOWN_PERCENT // 100, LATE_UNKNOWN_FLOOR_NS)
    return max(expected_ns * usual_ratio // 1000 * LATE_MARGIN_PERCENT // 100, LATE_FLOOR_NS)


def tokens_per_s(ns_per_ktoken: int | None) -> float:
    """For people and for `ModelFacts`: 0.0 where nothing is known."""
    return 1e12 / ns_per_ktoken if ns_per_ktoken else 0.0


def ns_per_ktoken(speed_tokens_per_s: float) -> int | None:
    """The other way round; None for a speed that cannot be."""
    return int(1e12 / speed_tokens_per_s) if 1e-3 < speed_tokens_per_s < 1e9 else None


def at_load(value_ns: int, *, measured_streams: int, streams: int) -> int:
    """A decode time measured with so many streams at once, brought to `streams`."""
    return value_ns * (STEP_FIXED_SHARE + streams) // (STEP_FIXED_SHARE + max(measured_streams, 1))


def _at_load(sample: Sample, streams: int) -> int:
    if sample.streams == streams:
        return sample.value
    return at_load(sample.value, measured_streams=sample.streams, streams=streams)


def _weight(sample: Sample, now_ns: int) -> int:
    return _WEIGHT_NEW >> max((now_ns - sample.at_ns) // HALF_LIFE_NS, 0)
