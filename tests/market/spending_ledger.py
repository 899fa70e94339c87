"""A ledger in memory with its clock, and short ways to say what happens to it."""

from dataclasses import replace

from tests.market.spending_world import (
    DAY_S,
    NOVEMBER_30_UNIX_S,
    NS,
    START,
    channel,
    request,
)
from unhosted.market.spending_state import SpendingState, check_state, step
from unhosted.market.spending_words import (
    Book,
    CapChanged,
    ChainTimeHeard,
    Decision,
    MoneyAuthorised,
    MoneyReserved,
    RequestFinished,
    SpendingEvent,
)

NOW_NS = NOVEMBER_30_UNIX_S * NS
NEXT_DAY_NS = (NOVEMBER_30_UNIX_S + DAY_S) * NS
ONE, TWO = channel(1), channel(2)


class World:
    """A ledger in memory, with its clock."""

    def __init__(self, *events: SpendingEvent, cap: int = 300) -> None:
        self.state, self.now_ns = SpendingState(), NOW_NS
        self.all(*START, CapChanged(cap_micros=cap), *events)

    def all(self, *events: SpendingEvent) -> None:
        for event in events:
            decision = self.step(event)
            assert decision.refusal is None, decision.refusal

    def step(self, event: SpendingEvent) -> Decision:
        self.state, decision = step(self.state, event, self.now_ns)
        check_state(self.state)
        return decision

    def reason(self, event: SpendingEvent) -> str:
        before = self.state
        decision = self.step(event)
        assert decision.refusal is not None
        assert replace(self.state, book=before.book) == before, "a refusal changed a row"
        return decision.refusal.reason

    @property
    def book(self) -> Book:
        return self.state.book


def reserve(number: int, amount: int, *, of: int = 1) -> MoneyReserved:
    return MoneyReserved(
        request_id=request(number),
        channel_id=channel(of),
        amount_micros=amount,
        purpose="request",
        owner="aaaa",
    )


def authorise(number: int, delta: int) -> MoneyAuthorised:
    return MoneyAuthorised(request_id=request(number), delta_micros=delta)


def finish(number: int, due: int, due_max: int | None = None) -> RequestFinished:
    return RequestFinished(
        request_id=request(number), due_micros=due, due_max_micros=due if due_max is None else due_max
    )


def heard(unix_s: int) -> ChainTimeHeard:
    return ChainTimeHeard(chain_unix_s=unix_s)
