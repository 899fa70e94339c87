"""How many threads a step of the engine uses: found by trying, since no rule fits every hour.

On an idle machine all cores are fastest. When another program takes a core, its thread is late at each of
the hundreds of barriers of a step and all the others wait: then fewer threads are faster. Measured on two
cores (tokens per second of one stream, all threads against one): idle 110 against 84, contended 14 to 46
against 59. The tokens are the same for any number of threads, so trying costs nothing but time.

Rules: steps are compared within a class of similar size. The count in use is kept until a neighbour on the
ladder was faster in a trial of a few steps. Trials that lose become rarer; a step time that jumps brings
the next one forward. Steps of `SIZE_LARGE` tokens and more use all threads: they meet few barriers for
their work, and a trial would cost seconds.
"""

from dataclasses import dataclass, field
from statistics import median_low

SIZE_LARGE = 32
"""From here on the work between two barriers is long enough for all threads, contended or not."""

TRIAL_STEPS = 3
"""One is too few beside the noise of a busy machine, more would make losing trials felt."""

SAMPLES_KEPT = 5
WAIT_NS_MIN = 500_000_000
WAIT_NS_MAX = 8_000_000_000
"""Three steps at a third of the speed in 8 s cost 1 to 2 %."""

GAIN_MIN = 1.05
"""A neighbour must be this much faster: equal counts would take turns for ever."""

JUMP_MIN = 1.4
"""Steps this much slower than at the last decision mean that the machine has changed."""


@dataclass(slots=True, kw_only=True)
class _SizeClass:
    """The trials of one class. Times are ns per token."""

    rung: int
    trial_rung: int | None = None
    samples_ns: list[int] = field(default_factory=list)
    trial_ns: list[int] = field(default_factory=list)
    settled_ns: int | None = None
    wait_ns: int = WAIT_NS_MIN
    next_trial_at_ns: int | None = None
    upwards: bool = True


class ThreadChoice:
    """Chooses per step. Not shared between threads."""

    def __init__(self, threads_max: int) -> None:
        """threads_max: the cores this engine may use, at least 1."""
        counts = {threads_max, 3 * threads_max // 4, threads_max // 2, threads_max // 4, 1} - {0}
        self._ladder = tuple(sorted(counts))
        self._classes: dict[int, _SizeClass] = {}

    def choose(self, tokens: int, now_ns: int) -> int:
        """The threads for a step of `tokens` (at least 1) that starts at `now_ns`."""
        if tokens >= SIZE_LARGE or len(self._ladder) == 1:
            return self._ladder[-1]
        size = self._class_of(tokens)
        due = size.next_trial_at_ns is not None and now_ns >= size.next_trial_at_ns
        if size.trial_rung is None and due and len(size.samples_ns) == SAMPLES_KEPT:
            size.trial_rung = self._neighbour(size)
            size.trial_ns = []
        return self._ladder[size.rung if size.trial_rung is None else size.trial_rung]

    def observe(self, tokens: int, threads: int, elapsed_ns: int, now_ns: int) -> None:
        """A step of `tokens` ran with `threads` for `elapsed_ns` and ended at `now_ns`."""
        if tokens >= SIZE_LARGE or len(self._ladder) == 1:
            return
        size = self._class_of(tokens)
        per_token_ns = elapsed_ns // tokens
        if size.trial_rung is not None and threads == self._ladder[size.trial_rung]:
            size.trial_ns.append(per_token_ns)
            if len(size.trial_ns) == TRIAL_STEPS:
                self._decide(size, now_ns)
        elif size.trial_rung is None and threads == self._ladder[size.rung]:
            size.samples_ns = [*size.samples_ns[1 - SAMPLES_KEPT :], per_token_ns]
            self._watch(size, now_ns)

    def _class_of(self, tokens: int) -> _SizeClass:
        """Classes 1, 2 to 3, 4 to 7 and so on; a new one starts with all threads."""
        return self._classes.setdefault(tokens.bit_length(), _SizeClass(rung=len(self._ladder) - 1))

    def _neighbour(self, size: _SizeClass) -> int:
        """The rung to try: up and down in turns, down alone at the top and up alone at the bottom."""
        size.upwards = not size.upwards
        top = len(self._ladder) - 1
        upwards = size.rung == 0 or (size.upwards and size.rung != top)
        return size.rung + (1 if upwards else -1)

    def _watch(self, size: _SizeClass, now_ns: int) -> None:
        if size.next_trial_at_ns is None:
            size.next_trial_at_ns = now_ns + size.wait_ns
        if len(size.samples_ns) < SAMPLES_KEPT or size.settled_ns is None:
            return
        if median_low(size.samples_ns) > JUMP_MIN * size.settled_ns:
            size.settled_ns = None
            size.wait_ns = WAIT_NS_MIN
            size.next_trial_at_ns = now_ns

    def _decide(self, size: _SizeClass, now_ns: int) -> None:
        assert size.trial_rung is not None
        before_ns, tried_ns = median_low(size.samples_ns), median_low(size.trial_ns)
        if tried_ns * GAIN_MIN < before_ns:
            size.rung = size.trial_rung
            size.settled_ns = tried_ns
            size.samples_ns = []
            size.wait_ns = WAIT_NS_MIN
        else:
            size.settled_ns = before_ns
            size.wait_ns = min(2 * size.wait_ns, WAIT_NS_MAX)
        size.trial_rung = None
        size.next_trial_at_ns = now_ns + size.wait_ns
