"""The queue of checks: what is read first, how much of it, and what reading may cost this machine."""

from dataclasses import replace

from tests.node.checking.checks_world import (
    MODEL,
    OTHER_MODEL,
    Bounds,
    World,
    came,
    cheated,
    clean,
    request_id,
    wanted,
)
from unhosted.node.core.checks_queue import ANSWER_S, HOUR_NS, PACES_MAX, wake_at_ns
from unhosted.node.core.checks_words import (
    BATCH_MAX,
    BatchRead,
    Limits,
    PairKey,
    State,
    TimePassed,
)
from unhosted.verify.verdicts import Stage


def test_checks_wait_for_the_allowance_and_what_the_user_wants_does_not() -> None:
    world = World(State(limits=Limits(tokens_per_hour=100), left_tokens=0, filled_ns=World().now_ns))
    world.happens(came(0))
    assert not world.reads
    due_ns = wake_at_ns(world.state, world.now_ns)
    assert due_ns == world.now_ns + 70 * HOUR_NS // 100
    world.happens(wanted(1))
    assert [read.request_id for read in world.reads] == [request_id(1)]
    world.done(clean())
    world.now_ns = due_ns - 1
    world.happens(TimePassed())
    assert not world.reads
    world.now_ns = due_ns
    world.happens(TimePassed())
    assert [read.request_id for read in world.reads] == [request_id(0)]


def test_with_an_allowance_of_nothing_only_what_is_asked_for_is_read() -> None:
    world = World(State(limits=Limits(tokens_per_hour=0)))
    world.happens(came(0))
    world.now_ns += 100 * HOUR_NS
    world.happens(TimePassed())
    assert not world.reads
    assert wake_at_ns(world.state, world.now_ns) is None
    world.happens(wanted(0))
    assert len(world.reads) == 1


def test_a_prompt_above_the_allowance_waits_for_a_full_one_and_is_read() -> None:
    world = World(State(limits=Limits(tokens_per_hour=100), filled_ns=World().now_ns))
    world.happens(came(0, tokens_in=5_000))
    assert not world.reads
    world.now_ns += HOUR_NS
    world.happens(TimePassed())
    assert len(world.reads) == 1


def test_long_answers_are_read_up_to_a_depth_that_was_drawn() -> None:
    world = World(State(limits=Limits(tokens_per_hour=10**9, answer_tokens=64)))
    world.happens(came(0, tokens_out=1_000))
    assert world.reads[0].output_tokens < 64
    deep = World(State(limits=Limits(tokens_per_hour=10**9, answer_tokens=64)))
    deep.happens(came(0, tokens_out=1_000, entropy=bytes(16) + b"\xff" * 16))
    assert deep.reads[0].output_tokens == 1_000


def test_a_machine_that_reads_a_model_slowly_reads_less_of_its_long_answers() -> None:
    world = World()
    world.happens(BatchRead(model=MODEL, tokens_per_s=10))
    world.happens(came(0, tokens_out=4_000))
    world.happens(came(1, pair=PairKey(seller="s1", model=OTHER_MODEL), tokens_out=4_000))
    assert world.reads[0].output_tokens < 10 * ANSWER_S
    world.done(clean())
    assert world.reads[0].output_tokens == 4_000, "the other model was not slow"
    world.happens(BatchRead(model=MODEL, tokens_per_s=1_000))
    assert world.state.paces == {MODEL: 1_000}
    world.happens(BatchRead(model=MODEL, tokens_per_s=200))
    assert world.state.paces == {MODEL: 800}
    for number in range(PACES_MAX + 3):
        world.happens(BatchRead(model=number.to_bytes(32, "big"), tokens_per_s=1))
    assert len(world.state.paces) == PACES_MAX


def test_a_batch_is_of_one_model_and_suspected_sellers_and_money_go_first() -> None:
    world = World()
    world.happens(came(0))
    others = [PairKey(seller=f"s{number}", model=MODEL) for number in range(3)]
    elsewhere = PairKey(seller="s9", model=OTHER_MODEL)
    world.happens(came(1, pair=elsewhere, due_micros=5_000))
    world.happens(came(2, pair=others[0], due_micros=10))
    world.happens(came(3, pair=others[1], due_micros=900))
    world.happens(came(4, pair=others[1], due_micros=1))
    world.happens(came(5, pair=others[2], due_micros=5))
    held = replace(world.state.pairs[others[2]], stage=Stage.HOLD)
    world.state = replace(world.state, pairs={**world.state.pairs, others[2]: held})
    world.done(clean())
    order = [request_id(one) for one in (5, 3, 4, 2)]
    assert [read.request_id for read in world.reads] == order, "within a pair as they came"
    while world.reads[0].request_id != request_id(1):
        world.done(clean())
    assert len(world.reads) == 1


def test_no_batch_is_larger_than_its_bound() -> None:
    world = World()
    for number in range(3 * BATCH_MAX):
        world.happens(came(number))
    world.done(clean())
    assert len(world.reads) == BATCH_MAX
    assert world.batches == 2


def test_a_full_queue_gives_up_what_is_worth_least() -> None:
    world = World(State(limits=Limits(tokens_per_hour=0)))
    with Bounds(jobs=4):
        for number, due in enumerate((50, 10, 40, 30, 20)):
            world.happens(came(number, due_micros=due))
        assert len(world.state.jobs) == 4
        assert world.last(1).status == "not_checked"
        assert "worth more" in world.last(1).why
        world.happens(came(5, due_micros=20))
        assert world.last(5).status == "not_checked", "of two that are worth the same, the newer one"


def test_too_many_pairs_forget_one_without_suspicion_that_was_quiet_longest() -> None:
    world = World()
    with Bounds(pairs=3):
        for number in range(5):
            pair = PairKey(seller=f"s{number}", model=MODEL)
            world.now_ns += 1
            world.happens(came(number, pair=pair))
            world.done(cheated(wrong=12) if number == 0 else clean())
    assert {key.seller for key in world.state.pairs} == {"s0", "s3", "s4"}
    assert world.state.pairs[PairKey(seller="s0", model=MODEL)].stage > Stage.CLEAR
