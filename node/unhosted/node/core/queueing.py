"""A queue that is fair between flows within a priority: start-time fair queueing (Goyal, Vin, Cheng 1996).

Each item gets a start tag: the later of its priority's virtual time and its flow's last finish tag. Its
finish tag is the start plus its cost. The lowest start goes first, so a flow that asks for much gets as much
as the others while they ask, and everything when they do not. Virtual time is the start tag of what was
taken last; each priority has its own, or the worse ones would forget who is owed what while they stand
still. Costs are integers; ties go to the earlier arrival.
"""

import bisect
from typing import Generic, TypeVar

from unhosted.node.core.errors import LocalFault

ItemT = TypeVar("ItemT")
QueueKey = tuple[int, int, int]
"""Priority, start tag, arrival: lowest first."""

FLOWS_MAX = 1024
"""Finish tags kept. Above it those of flows that owe nothing go, then those that owe least."""


class FairQueue(Generic[ItemT]):
    """Items by (priority, start tag, arrival); the length's bound is the caller's."""

    def __init__(self) -> None:
        self._order: list[tuple[QueueKey, str]] = []
        self._items: dict[str, tuple[QueueKey, ItemT]] = {}
        self._costs: dict[str, tuple[str, int]] = {}
        self._virtual_times: dict[int, int] = {}
        self._finish_by_flow: dict[tuple[int, str], int] = {}
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self._order)

    def __bool__(self) -> bool:
        return bool(self._order)

    @property
    def flows_known(self) -> int:
        return len(self._finish_by_flow)

    def get(self, item_id: str) -> ItemT | None:
        found = self._items.get(item_id)
        return found[1] if found else None

    def at(self, position: int) -> ItemT:
        """The item that would be served after `position` others."""
        return self._items[self._order[position][1]][1]

    def push(self, item_id: str, item: ItemT, *, priority: int, flow: str, cost: int) -> None:
        """Queue a new item; cost in tokens."""
        start = max(self._virtual_times.get(priority, 0), self._finish_by_flow.get((priority, flow), 0))
        self._arrivals += 1
        self._insert(item_id, item, (priority, start, self._arrivals))
        self._costs[item_id] = flow, cost
        self._finish_by_flow[priority, flow] = start + cost
        if len(self._finish_by_flow) > FLOWS_MAX:
            self._forget_flows()

    def push_back(self, item_id: str, item: ItemT, key: QueueKey) -> None:
        """Put a taken item back where it stood: it has not been served to the end."""
        self._insert(item_id, item, key)

    def take(self, item_id: str) -> tuple[QueueKey, ItemT]:
        """Serve an item, which need not be the first: what it passes keeps its place."""
        key, item = self._items.pop(item_id)
        self._order.remove((key, item_id))
        self._costs.pop(item_id, None)
        self._virtual_times[key[0]] = max(self._virtual_times.get(key[0], 0), key[1])
        return key, item

    def remove(self, item_id: str) -> bool:
        """Forget an item; its flow does not pay for what it will not get."""
        found = self._items.pop(item_id, None)
        if found is None:
            return False
        self._order.remove((found[0], item_id))
        flow, cost = self._costs.pop(item_id, ("", 0))
        owner = found[0][0], flow
        if owner in self._finish_by_flow:
            self._finish_by_flow[owner] -= cost
        return True

    def _insert(self, item_id: str, item: ItemT, key: QueueKey) -> None:
        if item_id in self._items:
            raise LocalFault(f"{item_id} is queued twice")
        bisect.insort(self._order, (key, item_id))
        self._items[item_id] = (key, item)

    def _forget_flows(self) -> None:
        owing = [
            (finish, owner)
            for owner, finish in self._finish_by_flow.items()
            if finish > self._virtual_times.get(owner[0], 0)
        ]
        # Half of the table, so that a stream of new flows sorts it once in many pushes.
        self._finish_by_flow = {owner: finish for finish, owner in sorted(owing)[-FLOWS_MAX // 2 :]}

    def check_integrity(self) -> None:
        if len(self._order) != len(self._items) or not self._costs.keys() <= self._items.keys():
            raise LocalFault(f"{len(self._order)} in order, {len(self._items)} by id")
        if self._order != sorted(self._order):
            raise LocalFault("the queue is out of order")
