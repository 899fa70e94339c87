from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unhosted.node.core.errors import LocalFault
from unhosted.node.core.queueing import FLOWS_MAX, FairQueue


def push(queue: FairQueue[str], item: str, *, priority: int = 0, flow: str = "", cost: int = 10) -> None:
    queue.push(item, item, priority=priority, flow=flow, cost=cost)


def take(queue: FairQueue[str]) -> str:
    item = queue.at(0)
    queue.take(item)
    queue.check_integrity()
    return item


def drain(queue: FairQueue[str]) -> list[str]:
    return [take(queue) for _ in range(len(queue))]


def test_one_flow_is_served_in_order_of_arrival() -> None:
    queue = FairQueue[str]()
    for item in ("c", "a", "b"):
        push(queue, item)
    assert drain(queue) == ["c", "a", "b"]


def test_better_priority_goes_first_whatever_its_flow_owes() -> None:
    queue = FairQueue[str]()
    for index in range(3):
        push(queue, f"worse{index}", priority=2, flow=str(index))
    push(queue, "first", flow="busy", cost=1_000)
    push(queue, "second", flow="busy")
    assert drain(queue)[:2] == ["first", "second"]


def test_late_flow_is_not_behind_the_whole_backlog_of_another() -> None:
    queue = FairQueue[str]()
    for index in range(20):
        push(queue, f"greedy{index}", flow="greedy")
    assert [take(queue) for _ in range(5)][-1] == "greedy4"
    push(queue, "modest", flow="modest")
    assert "modest" in [take(queue), take(queue)]


def test_backlog_of_a_worse_priority_keeps_its_own_time() -> None:
    # Better ones are served at length while two flows of a worse priority wait: the late one of these
    # must not be sent behind the other's backlog.
    queue = FairQueue[str]()
    for index in range(10):
        push(queue, f"greedy{index}", priority=3, flow="greedy")
    for index in range(50):
        push(queue, f"own{index}", flow="own")
    for _ in range(50):
        take(queue)
    push(queue, "modest", priority=3, flow="modest")
    assert drain(queue).index("modest") <= 1


def test_item_put_back_stands_where_it_stood() -> None:
    queue = FairQueue[str]()
    for item in ("a", "b", "c"):
        push(queue, item)
    key, item = queue.take("a")
    queue.push_back("a", item, key)
    assert drain(queue) == ["a", "b", "c"]


def test_item_put_back_into_an_empty_queue_is_not_overtaken_by_new_flows() -> None:
    queue = FairQueue[str]()
    push(queue, "early", flow="a", cost=1_000)
    push(queue, "late", flow="a")
    queue.take("early")
    key, _ = queue.take("late")  # it starts at 1,000
    for index in range(3):
        push(queue, f"new{index}", flow=f"new{index}")
    queue.push_back("late", "late", key)
    assert take(queue) == "late"


def test_taking_one_from_the_middle_leaves_the_others_in_place() -> None:
    queue = FairQueue[str]()
    for item in ("a", "b", "c"):
        push(queue, item)
    queue.take("b")
    assert drain(queue) == ["a", "c"]


def test_cancelled_item_is_not_paid_for() -> None:
    queue = FairQueue[str]()
    push(queue, "other", flow="other")
    for index in range(10):
        push(queue, f"gone{index}", flow="fickle")
    for index in range(10):
        assert queue.remove(f"gone{index}")
    assert not queue.remove("gone0")
    push(queue, "other2", flow="other")
    push(queue, "kept", flow="fickle")
    assert drain(queue) == ["other", "kept", "other2"]


def test_table_of_flows_is_bounded_while_somebody_always_waits() -> None:
    queue = FairQueue[str]()
    push(queue, "item0", flow="flow0")
    for index in range(1, 3 * FLOWS_MAX):
        push(queue, f"item{index}", flow=f"flow{index}")
        queue.take(f"item{index - 1}")
        assert queue.flows_known <= FLOWS_MAX


def test_one_id_is_not_queued_twice() -> None:
    queue = FairQueue[str]()
    push(queue, "a")
    with pytest.raises(LocalFault, match="a is queued twice"):
        push(queue, "a")


@given(
    costs=st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 500)), min_size=2, max_size=60),
    takes_between=st.integers(0, 2),
)
@settings(deadline=None, derandomize=True)
def test_flows_with_a_backlog_get_the_same_within_one_item_each(
    costs: list[tuple[str, int]], takes_between: int
) -> None:
    # Goyal's bound for start-time fair queueing: while two flows both have items waiting, what they were
    # served differs by no more than the sum of their largest items.
    queue = FairQueue[str]()
    cost_of = dict(zip(map(str, range(len(costs))), costs, strict=True))
    waiting = Counter[str]()
    served = Counter[str]()
    since: dict[tuple[str, str], int] = {}  # when both had a backlog: their difference at that time
    largest = Counter[str]()

    def check() -> None:
        for pair in ("ab", "ac", "bc"):
            one, other = pair
            if not (waiting[one] and waiting[other]):
                since.pop((one, other), None)
                continue
            difference = served[one] - served[other]
            start = since.setdefault((one, other), difference)
            assert abs(difference - start) <= largest[one] + largest[other]

    def take_one() -> None:
        flow, cost = cost_of[take(queue)]
        waiting[flow] -= 1
        served[flow] += cost
        check()

    for index, (flow, cost) in cost_of.items():
        push(queue, index, flow=flow, cost=cost)
        waiting[flow] += 1
        largest[flow] = max(largest[flow], cost)
        check()
        if int(index) % 3 == 0:
            for _ in range(min(takes_between, len(queue))):
                take_one()
    while queue:
        take_one()
