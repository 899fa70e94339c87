"""The choice is driven by a machine whose step times are given, so that every run is the same."""

from collections import Counter
from collections.abc import Callable
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from unhosted.node.core.thread_choice import SIZE_LARGE, ThreadChoice

StepTime = Callable[[int, int], float]
"""Milliseconds of a step, given its threads and its start in milliseconds."""


def _drive(
    choice: ThreadChoice, step_ms: StepTime, *, tokens: int, from_ms: float, to_ms: float
) -> Counter[int]:
    """Run steps one after another; how many were run with each number of threads."""
    used: Counter[int] = Counter()
    now_ns, end_ns = int(from_ms * 1e6), int(to_ms * 1e6)
    while now_ns < end_ns:
        threads = choice.choose(tokens, now_ns)
        elapsed_ns = int(step_ms(threads, now_ns // 1_000_000) * 1e6)
        now_ns += elapsed_ns
        choice.observe(tokens, threads, elapsed_ns, now_ns)
        used[threads] += 1
    return used


def test_idle_machine_keeps_all_threads() -> None:
    used = _drive(ThreadChoice(2), lambda n, _: 12.0 if n == 1 else 9.0, tokens=1, from_ms=0, to_ms=60_000)
    assert used[2] / used.total() > 0.98


def test_contended_machine_falls_back_to_one_thread() -> None:
    choice = ThreadChoice(2)
    _drive(choice, lambda n, _: 17.0 if n == 1 else 60.0, tokens=1, from_ms=0, to_ms=3_000)
    used = _drive(choice, lambda n, _: 17.0 if n == 1 else 60.0, tokens=1, from_ms=3_000, to_ms=60_000)
    assert used[1] / used.total() > 0.97


def test_sudden_contention_is_answered_within_a_second() -> None:
    def step_ms(threads: int, now_ms: int) -> float:
        return (12.0, 9.0)[threads - 1] if now_ms < 30_000 else (17.0, 60.0)[threads - 1]

    choice = ThreadChoice(2)
    _drive(choice, step_ms, tokens=1, from_ms=0, to_ms=31_000)
    used = _drive(choice, step_ms, tokens=1, from_ms=31_000, to_ms=40_000)
    assert used[1] / used.total() > 0.95


def test_quiet_machine_gets_its_threads_back() -> None:
    def step_ms(threads: int, now_ms: int) -> float:
        return (17.0, 60.0)[threads - 1] if now_ms < 30_000 else (12.0, 9.0)[threads - 1]

    choice = ThreadChoice(2)
    _drive(choice, step_ms, tokens=1, from_ms=0, to_ms=40_000)
    used = _drive(choice, step_ms, tokens=1, from_ms=40_000, to_ms=60_000)
    assert used[2] / used.total() > 0.95


def test_equal_speeds_do_not_take_turns() -> None:
    draw = Random(1)
    used = _drive(ThreadChoice(2), lambda *_: draw.uniform(9.9, 10.1), tokens=4, from_ms=0, to_ms=60_000)
    assert used[2] / used.total() > 0.98


def test_best_count_is_found_between_the_ends() -> None:
    def step_ms(threads: int, _: int) -> float:
        return {1: 60.0, 2: 32.0, 4: 20.0, 6: 15.0, 8: 40.0}[threads]

    choice = ThreadChoice(8)
    _drive(choice, step_ms, tokens=1, from_ms=0, to_ms=10_000)
    used = _drive(choice, step_ms, tokens=1, from_ms=10_000, to_ms=60_000)
    assert used[6] / used.total() > 0.95


def test_sizes_are_judged_apart() -> None:
    choice = ThreadChoice(2)
    for _ in range(40):
        _drive(choice, lambda n, _: 10.0 if n == 1 else 40.0, tokens=1, from_ms=0, to_ms=2_000)
    used = _drive(choice, lambda n, _: 80.0 if n == 1 else 45.0, tokens=16, from_ms=80_000, to_ms=80_400)
    assert set(used) == {2}


@given(
    threads_max=st.integers(1, 128),
    sizes=st.lists(st.integers(1, 600), max_size=200),
    draw=st.randoms(use_true_random=False),
)
@settings(deadline=None, max_examples=50)
def test_any_history_gives_a_count_the_engine_may_use(
    threads_max: int, sizes: list[int], draw: Random
) -> None:
    choice, now_ns = ThreadChoice(threads_max), 0
    for tokens in sizes:
        threads = choice.choose(tokens, now_ns)
        assert 1 <= threads <= threads_max
        assert tokens < SIZE_LARGE or threads == threads_max
        elapsed_ns = draw.randrange(1, 2_000_000_000)
        now_ns += elapsed_ns
        choice.observe(tokens, threads, elapsed_ns, now_ns)
