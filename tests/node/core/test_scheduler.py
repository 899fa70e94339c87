"""Who runs, and when. Any order of events at all is test_scheduler_machine.py's business."""

import pytest

from tests.node.core.fake_runner import (
    limits,
    long_answers,
    output_alone,
    run_step,
    run_until_idle,
    start,
    submit,
    tokens,
)
from unhosted.node.core.batching import OUTPUT_PIECE_TOKENS, Drawn
from unhosted.node.core.errors import LocalFault, Refused


def test_prompt_that_leaves_no_room_for_an_answer_is_refused_with_both_numbers() -> None:
    scheduler, _ = start(limits(context=100))
    with pytest.raises(Refused, match="100 tokens, the context holds 100") as refusal:
        submit(scheduler, "a", tokens(1, 100))
    assert refusal.value.code == "context_length_exceeded"
    assert refusal.value.details == {"prompt_tokens": 100, "context_tokens": 100}
    submit(scheduler, "b", tokens(1, 99))


def test_empty_prompt_is_refused() -> None:
    scheduler, _ = start(limits())
    with pytest.raises(Refused, match="0 tokens") as refusal:
        submit(scheduler, "a", ())
    assert refusal.value.field == "prompt"


def test_full_queue_says_when_to_come_back_and_changes_nothing() -> None:
    scheduler, runner = start(limits(queue=2))
    for job_id in ("a", "b"):
        submit(scheduler, job_id, tokens(1, 5))
    with pytest.raises(Refused, match="2 requests are waiting") as refusal:
        submit(scheduler, "c", tokens(1, 5))
    assert (refusal.value.code, refusal.value.retry_after_s) == ("overloaded", 1)
    assert run_until_idle(scheduler, runner).keys() == {"a", "b"}


def test_resuming_what_is_already_complete_is_refused() -> None:
    scheduler, _ = start(limits())
    with pytest.raises(Refused, match="nothing left to generate") as refusal:
        submit(scheduler, "a", tokens(1, 5), max_tokens=3, output=[1, 2, 3])
    assert refusal.value.field == "resume_ids"


def test_one_id_twice_is_a_fault() -> None:
    scheduler, runner = start(limits())
    submit(scheduler, "a", tokens(1, 5))
    with pytest.raises(LocalFault, match="twice"):
        submit(scheduler, "a", tokens(1, 5))
    run_step(scheduler, runner)
    with pytest.raises(LocalFault, match="twice"):
        submit(scheduler, "a", tokens(1, 5))


def test_batch_smaller_than_the_slots_is_a_fault() -> None:
    with pytest.raises(LocalFault, match="3 tokens cannot feed 4 slots"):
        limits(slots=4, batch=3)
    with pytest.raises(LocalFault, match="99 cells"):
        limits(context=100, cells=99)


def test_job_alone_gives_what_the_definition_says() -> None:
    for seed in range(1, 20):
        scheduler, runner = start(limits(batch=16))
        prompt = tokens(seed, 3 * seed)
        job = submit(scheduler, "a", prompt, max_tokens=40)
        finished = run_until_idle(scheduler, runner)
        assert (job.output, finished["a"]) == output_alone(prompt, 40)
        # The last token drawn is never fed.
        assert runner.fed_tokens["a"] == len(prompt) + len(job.output) - 1


def test_answer_ends_at_the_context() -> None:
    scheduler, runner = start(limits(context=30))
    job = submit(scheduler, "a", next(long_answers(10)), max_tokens=1_000)
    assert run_until_idle(scheduler, runner) == {"a": "length"}
    assert len(job.prompt) + len(job.output) == 30


def test_resumed_job_goes_on_where_the_other_run_stopped() -> None:
    prompt = next(long_answers(12))
    whole, _ = output_alone(prompt, 12)
    scheduler, runner = start(limits())
    job = submit(scheduler, "a", prompt, max_tokens=12, output=whole[:5])
    assert run_until_idle(scheduler, runner) == {"a": "length"}
    assert job.output == whole


def test_output_is_read_again_in_small_pieces_of_its_own() -> None:
    prompt, output = tokens(1, 100), [7] * 40
    scheduler, runner = start(limits(batch=256))
    submit(scheduler, "a", prompt, max_tokens=60, output=output)
    pieces: list[int] = []
    while sum(pieces) < len(prompt) + len(output):
        step = run_step(scheduler, runner)
        assert step is not None
        pieces.append(step[0].tokens)
    assert pieces == [100, OUTPUT_PIECE_TOKENS, OUTPUT_PIECE_TOKENS, 40 - 2 * OUTPUT_PIECE_TOKENS]


def test_generating_jobs_go_on_in_every_step_while_a_long_prompt_is_read() -> None:
    scheduler, runner = start(limits(batch=256))
    prompts = long_answers(100)
    writers = [submit(scheduler, f"w{i}", next(prompts), max_tokens=40) for i in range(3)]
    run_step(scheduler, runner)
    submit(scheduler, "long", tokens(2_000, 400))
    reading = 0
    while runner.fed_tokens["long"] < 400:
        before = [len(job.output) for job in writers]
        step = run_step(scheduler, runner)
        assert step is not None
        assert [len(job.output) for job in writers] == [count + 1 for count in before]
        # 32 for each of three that generate, of the 256 that the batch would hold.
        assert step[0].tokens - 3 <= 96
        reading += 1
    assert reading == 5


def test_nobody_is_generating_then_a_prompt_fills_the_batch() -> None:
    scheduler, runner = start(limits(batch=256))
    submit(scheduler, "long", tokens(1, 400))
    step = run_step(scheduler, runner)
    assert step is not None and step[0].tokens == 256


def test_cancelled_job_gives_its_slot_to_the_next_plan() -> None:
    scheduler, runner = start(limits(slots=1))
    prompts = long_answers(100)
    submit(scheduler, "a", next(prompts), max_tokens=100)
    submit(scheduler, "b", next(prompts), max_tokens=5)
    run_step(scheduler, runner)
    assert scheduler.cancel("a")
    assert not scheduler.cancel("a")
    step = run_step(scheduler, runner)
    assert step is not None
    assert (step[0].admitted, [feed.job_id for feed in step[0].feeds]) == (("b",), ["b"])


def test_cancel_inside_a_long_prompt_feeds_no_more_of_it() -> None:
    scheduler, runner = start(limits(batch=16))
    submit(scheduler, "a", tokens(1, 400))
    run_step(scheduler, runner)
    scheduler.cancel("a")
    assert scheduler.plan() is None
    assert (runner.fed_tokens["a"], scheduler.is_idle) == (16, True)


def test_cancel_while_the_step_runs_drops_its_token_and_keeps_the_prefix() -> None:
    scheduler, runner = start(limits())
    job = submit(scheduler, "a", tokens(1, 100))
    plan = scheduler.plan()
    assert plan is not None
    scheduler.cancel("a")
    drawn = runner.execute(plan)
    assert drawn is not None
    assert scheduler.apply(drawn) == {}
    scheduler.check_integrity()
    assert (job.output, scheduler.slots_busy, scheduler.cells(0)) == ([], 0, 100)


def test_better_job_preempts_the_youngest_of_the_worst_which_loses_nothing() -> None:
    scheduler, runner = start(limits(slots=3))
    prompts = long_answers(100)
    jobs = {
        name: submit(scheduler, name, next(prompts), max_tokens=30, priority=priority)
        for name, priority in (("own", 0), ("old check", 3), ("young check", 3))
    }
    for _ in range(4):
        run_step(scheduler, runner)
    submit(scheduler, "trusted", next(prompts), max_tokens=4, priority=1)
    run_step(scheduler, runner)
    assert [job.preemptions for job in jobs.values()] == [0, 0, 1]
    run_until_idle(scheduler, runner)
    for job in jobs.values():
        assert job.output == output_alone(job.prompt, 30)[0]


def test_preempted_job_comes_back_before_later_ones_of_its_priority() -> None:
    scheduler, runner = start(limits(slots=1))
    prompts = long_answers(100)
    submit(scheduler, "first", next(prompts), max_tokens=30, priority=3, flow="a")
    run_step(scheduler, runner)
    submit(scheduler, "second", next(prompts), max_tokens=5, priority=3, flow="a")
    submit(scheduler, "third", next(prompts), max_tokens=5, priority=3, flow="b")
    submit(scheduler, "own", next(prompts), max_tokens=5)
    admitted: list[str] = []
    while (step := run_step(scheduler, runner)) is not None:
        admitted += step[0].admitted
    assert admitted == ["own", "first", "third", "second"]


def test_equal_priority_preempts_nobody() -> None:
    scheduler, runner = start(limits(slots=1))
    first = submit(scheduler, "a", next(long_answers(30)), max_tokens=30)
    run_step(scheduler, runner)
    submit(scheduler, "b", tokens(9, 5))
    run_until_idle(scheduler, runner)
    assert first.preemptions == 0


def test_nobody_is_preempted_when_that_would_not_make_room() -> None:
    scheduler, runner = start(limits(slots=3, context=100, cells=100))
    prompts = long_answers(100)
    submit(scheduler, "own", next(prompts), max_tokens=50)  # 70 of 100 cells
    check = submit(scheduler, "check", next(prompts), max_tokens=5, priority=3)
    run_step(scheduler, runner)
    submit(scheduler, "large", tokens(2_000, 40), max_tokens=20)
    run_step(scheduler, runner)
    assert check.preemptions == 0
    assert run_until_idle(scheduler, runner).keys() == {"own", "check", "large"}


def test_large_job_is_not_passed_by_small_ones_for_ever() -> None:
    scheduler, runner = start(limits(slots=4, context=100, cells=100))
    submit(scheduler, "small0", tokens(1, 10), max_tokens=10)
    run_step(scheduler, runner)
    submit(scheduler, "large", tokens(2, 80), max_tokens=15)
    for number in range(1, 30):
        submit(scheduler, f"small{number}", tokens(2 + number, 10), max_tokens=10)
    for _ in range(20):
        step = run_step(scheduler, runner)
        if step is not None and "large" in step[0].admitted:
            break
    else:
        raise AssertionError("the large job starves")
    assert run_until_idle(scheduler, runner)


def test_flow_with_few_jobs_is_served_beside_one_with_many() -> None:
    scheduler, runner = start(limits(slots=2))
    for index in range(30):
        submit(scheduler, f"greedy{index}", tokens(100 + index, 20), flow="greedy")
    run_step(scheduler, runner)
    for index in range(5):
        submit(scheduler, f"modest{index}", tokens(200 + index, 20), flow="modest")
    order: list[str] = []
    while (step := run_step(scheduler, runner)) is not None:
        order += step[0].admitted
    for index in range(5):
        # Each of its turns comes after as many of the other's, and one of each flow's size for the lag.
        assert order.index(f"modest{index}") <= 2 * index + 2


def test_steps_out_of_order_are_faults() -> None:
    scheduler, _ = start(limits())
    with pytest.raises(LocalFault, match="no plan is under way"):
        scheduler.apply(())
    submit(scheduler, "a", tokens(1, 20))
    scheduler.plan()
    with pytest.raises(LocalFault, match="while one is under way"):
        scheduler.plan()


def test_missing_and_premature_draws_are_faults() -> None:
    scheduler, _ = start(limits())
    submit(scheduler, "a", tokens(1, 20))
    scheduler.plan()
    with pytest.raises(LocalFault, match="no token was drawn"):
        scheduler.apply(())
    scheduler, runner = start(limits())
    submit(scheduler, "a", next(long_answers(8)))
    run_step(scheduler, runner)
    scheduler.plan()  # generating
    with pytest.raises(LocalFault, match="no token was drawn"):
        scheduler.apply(())
    scheduler, _ = start(limits(batch=8))
    submit(scheduler, "a", tokens(1, 20))
    scheduler.plan()
    with pytest.raises(LocalFault, match="not fed to its end"):
        scheduler.apply((Drawn("a", 1, False),))
