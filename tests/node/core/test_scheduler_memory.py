"""Who reads what, which slot holds it, and what happens when memory is short."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.node.core.fake_runner import (
    FakeRunner,
    limits,
    long_answers,
    output_alone,
    run_step,
    run_until_idle,
    start,
    submit,
    tokens,
)
from unhosted.node.core.batching import KeepCells
from unhosted.node.core.errors import LocalFault
from unhosted.node.core.scheduler import Scheduler
from unhosted.node.core.slots import SHARE_TOKENS_MIN


def test_second_job_with_the_same_start_feeds_only_the_rest() -> None:
    scheduler, runner = start(limits())
    first = submit(scheduler, "a", tokens(1, 100))
    run_until_idle(scheduler, runner)
    second = submit(scheduler, "b", first.prompt + tokens(2, 7), max_tokens=1)
    run_until_idle(scheduler, runner)
    assert (runner.fed_tokens["b"], second.cached_tokens) == (7, 100)
    assert not runner.copies  # it took the slot that held the prefix


def test_chance_hit_does_not_cost_a_longer_content() -> None:
    scheduler, runner = start(limits(slots=2))
    submit(scheduler, "long", tokens(1, 200), max_tokens=1)
    run_until_idle(scheduler, runner)
    submit(scheduler, "chance", tokens(1, 3) + tokens(2, 50), max_tokens=1)
    run_until_idle(scheduler, runner)
    again = submit(scheduler, "again", tokens(1, 210), max_tokens=1)
    run_until_idle(scheduler, runner)
    assert again.cached_tokens == 200


def test_prefix_held_by_a_busy_slot_is_copied() -> None:
    scheduler, runner = start(limits())
    prompt = next(long_answers(50, prompt_tokens=100))
    submit(scheduler, "a", prompt, max_tokens=50)
    run_step(scheduler, runner)
    second = submit(scheduler, "b", prompt + tokens(1, 3), max_tokens=4)
    run_until_idle(scheduler, runner)
    assert second.output == output_alone(second.prompt, 4)[0]
    assert (len(runner.copies), second.cached_tokens, runner.fed_tokens["b"]) == (1, 100, 3 + 3)


def test_job_that_opts_out_reads_everything_itself() -> None:
    scheduler, runner = start(limits(slots=1))
    submit(scheduler, "a", tokens(1, 100), max_tokens=1)
    submit(scheduler, "b", tokens(1, 100), max_tokens=1, use_prefix_cache=False)
    run_until_idle(scheduler, runner)
    assert runner.fed_tokens["b"] == 100


@given(
    count=st.integers(1, 24),
    slots=st.integers(1, 6),
    batch=st.integers(6, 200),
    size=st.integers(SHARE_TOKENS_MIN + 1, 300),
)
@settings(deadline=None, derandomize=True, max_examples=60)
def test_n_jobs_with_one_prompt_cost_one_prefill(count: int, slots: int, batch: int, size: int) -> None:
    scheduler, runner = start(limits(slots=slots, batch=batch))
    for index in range(count):
        submit(scheduler, f"j{index}", tokens(1, size), max_tokens=1)
    run_until_idle(scheduler, runner)
    # All but the first feed the prompt's last token, which gives them their own first draw.
    assert sum(runner.fed_tokens.values()) == size + count - 1


def test_job_waits_for_a_prefix_that_is_being_read_while_others_pass() -> None:
    scheduler, runner = start(limits(slots=3, batch=50))
    submit(scheduler, "reader", tokens(1, 200))
    submit(scheduler, "same", tokens(1, 200))
    submit(scheduler, "other", tokens(2, 10))
    step = run_step(scheduler, runner)
    assert step is not None and step[0].admitted == ("reader", "other")
    run_until_idle(scheduler, runner)
    assert runner.fed_tokens["same"] < 20


def test_better_job_does_not_wait_for_a_worse_one_to_read_its_prompt() -> None:
    scheduler, runner = start(limits(batch=20))
    submit(scheduler, "worse", tokens(1, 200), priority=3)
    run_step(scheduler, runner)
    submit(scheduler, "better", tokens(1, 200), priority=0)
    step = run_step(scheduler, runner)
    assert step is not None and step[0].admitted == ("better",)


def test_waiting_for_a_prefix_ends_when_its_reader_is_cancelled() -> None:
    scheduler, runner = start(limits(batch=50))
    submit(scheduler, "reader", tokens(1, 200))
    waiting = submit(scheduler, "same", tokens(1, 200))
    run_step(scheduler, runner)
    assert scheduler.queued == 1
    scheduler.cancel("reader")
    step = run_step(scheduler, runner)
    assert step is not None and step[0].admitted == ("same",)
    assert waiting.cached_tokens == 50
    run_until_idle(scheduler, runner)
    assert waiting.output == output_alone(waiting.prompt, 8)[0]


def test_memory_without_partial_removal_is_never_asked_for_it_and_nobody_waits_in_vain() -> None:
    scheduler, runner = start(limits(batch=20, partial_removal=False))
    jobs = [submit(scheduler, f"j{index}", tokens(1, 100)) for index in range(3)]
    step = run_step(scheduler, runner)
    assert step is not None and len(step[0].admitted) == 3
    longer = submit(scheduler, "longer", tokens(1, 140))
    run_until_idle(scheduler, runner)
    for job in [*jobs, longer]:
        assert job.output == output_alone(job.prompt, 8)[0]
    assert longer.cached_tokens == 100


def test_cells_shared_by_all_slots_are_taken_from_those_that_are_free() -> None:
    bounds = limits(slots=4, context=100, cells=100)
    scheduler, runner = start(bounds)
    for number in range(1, 6):
        submit(scheduler, f"j{number}", tokens(number, 80), max_tokens=4)
    assert len(run_until_idle(scheduler, runner)) == 5
    assert runner.refusals == 0


def test_runner_without_space_costs_cached_prefixes_first_then_the_youngest_of_the_worst() -> None:
    scheduler, runner = start(limits(slots=3))
    prompts = long_answers(100)
    old = submit(scheduler, "old", next(prompts), max_tokens=30)
    young = submit(scheduler, "young", next(prompts), max_tokens=30)
    submit(scheduler, "gone", next(prompts), max_tokens=30)
    run_step(scheduler, runner)
    scheduler.cancel("gone")

    def refuse() -> str | None:
        plan = scheduler.plan()
        assert plan is not None and runner.execute(plan, refuse=True) is None
        victim = scheduler.no_space()
        scheduler.check_integrity()
        return victim

    assert refuse() is None
    assert refuse() == "young"
    # It does not come back at once, to be without space again.
    step = run_step(scheduler, runner)
    assert step is not None and step[0].admitted == ()
    assert KeepCells(slot=1, tokens=0) in step[0].operations
    run_until_idle(scheduler, runner)
    for job in (old, young):
        assert job.output == output_alone(job.prompt, 30)[0]


def test_limits_that_promise_more_than_the_runner_has_still_serve_everybody() -> None:
    bounds = limits(slots=4, context=100, batch=32)
    scheduler, runner = Scheduler(bounds), FakeRunner(bounds, cells_max=120)
    jobs = [submit(scheduler, f"j{n}", tokens(n, 50), max_tokens=40) for n in range(1, 9)]
    for _ in range(5_000):
        plan = scheduler.plan()
        if plan is None:
            break
        drawn = runner.execute(plan)
        if drawn is None:
            scheduler.no_space()
        else:
            scheduler.apply(drawn)
        scheduler.check_integrity()
    assert scheduler.is_idle
    assert runner.refusals > 0
    for job in jobs:
        assert job.output == output_alone(job.prompt, 40)[0]


def test_no_space_for_a_single_job_is_a_fault_of_the_limits() -> None:
    scheduler, runner = start(limits())
    submit(scheduler, "a", tokens(1, 20))
    plan = scheduler.plan()
    assert plan is not None and runner.execute(plan, refuse=True) is None
    with pytest.raises(LocalFault, match="no space for a single job"):
        scheduler.no_space()


def test_no_space_for_a_step_whose_jobs_were_cancelled_meanwhile_is_no_fault() -> None:
    scheduler, runner = start(limits())
    submit(scheduler, "a", tokens(1, 20))
    kept = submit(scheduler, "b", tokens(2, 20))
    plan = scheduler.plan()
    assert plan is not None and runner.execute(plan, refuse=True) is None
    scheduler.cancel("a")
    assert scheduler.no_space() is None
    run_until_idle(scheduler, runner)
    assert kept.output == output_alone(kept.prompt, 8)[0]


def test_lost_memory_costs_time_and_no_token() -> None:
    scheduler, runner = start(limits())
    prompts = long_answers(100)
    jobs = [submit(scheduler, f"j{n}", next(prompts), max_tokens=20) for n in range(6)]
    for _ in range(5):
        run_step(scheduler, runner)
    assert scheduler.plan() is not None
    runner.clear()
    scheduler.forget_cells()
    scheduler.check_integrity()
    run_until_idle(scheduler, runner)
    for job in jobs:
        assert job.output == output_alone(job.prompt, 20)[0]


def test_waiting_for_a_prefix_ends_when_its_slot_reads_for_somebody_else() -> None:
    scheduler, runner = start(limits(batch=50))
    submit(scheduler, "reader", tokens(1, 200), priority=1)
    submit(scheduler, "same", tokens(1, 200), priority=1)
    run_step(scheduler, runner)
    scheduler.cancel("reader")
    # It takes the reader's slot, since it shares what was read, and goes on with a text of its own.
    submit(scheduler, "apart", tokens(1, 50) + tokens(2, 300), priority=0)
    step = run_step(scheduler, runner)
    assert step is not None and step[0].admitted == ("apart", "same")


def test_job_that_waits_for_a_prefix_keeps_a_free_slot() -> None:
    scheduler, runner = start(limits(slots=2, batch=50))
    submit(scheduler, "reader", tokens(1, 200), max_tokens=1)
    submit(scheduler, "same", tokens(1, 200), max_tokens=1)
    submit(scheduler, "other", tokens(2, 10), max_tokens=1)
    admitted: list[str] = []
    while (step := run_step(scheduler, runner)) is not None:
        admitted += step[0].admitted
    assert admitted == ["reader", "same", "other"]
