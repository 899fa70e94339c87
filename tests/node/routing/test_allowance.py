"""What a paired peer may ask for, and what a refusal tells it."""

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unhosted.node.core.allowance import (
    DAY_S,
    OPEN_ANSWER_TOKENS,
    Allowances,
    Reservation,
    admit,
    release,
    seconds_to_reset,
    utc_day,
)
from unhosted.node.core.errors import LocalFault, Refused
from unhosted.node.core.peering import Capabilities

PEER = "12D3KooWlaptop"
NAMES = ("llama3.1:8b", "llama", "b3:" + "a" * 64)
NOON = 20_000 * DAY_S + DAY_S // 2


def ask(
    state: Allowances,
    capabilities: Capabilities,
    *,
    used: int = 0,
    prompt: int = 10,
    max_tokens: int | None = 100,
    peer: str = PEER,
) -> tuple[Allowances, Reservation]:
    return admit(
        state,
        peer,
        capabilities,
        model_names=NAMES,
        tokens_today=used,
        prompt_tokens=prompt,
        max_tokens=max_tokens,
        unix_s=NOON,
    )


def refusal(state: Allowances, capabilities: Capabilities, *, used: int = 0, prompt: int = 10) -> Refused:
    with pytest.raises(Refused) as caught:
        ask(state, capabilities, used=used, prompt=prompt)
    assert caught.value.code == "not_allowed"
    return caught.value


def test_a_peer_that_may_not_ask_is_told_so() -> None:
    refused = refusal(Allowances(), Capabilities(may_ask=False))
    assert refused.details["rule"] == "may_ask"
    assert "unhosted peers allow" in refused.message


@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_allowed_by_any_of_its_names(name: str) -> None:
    ask(Allowances(), Capabilities(models=(name,)))


def test_another_model_is_refused_with_those_that_are_allowed() -> None:
    refused = refusal(Allowances(), Capabilities(models=("qwen3:4b", "phi4:14b")))
    assert refused.details["rule"] == "models"
    assert "llama3.1:8b" in refused.message
    assert "qwen3:4b, phi4:14b" in refused.message


def test_an_empty_list_of_models_allows_none() -> None:
    assert "allowed: none" in refusal(Allowances(), Capabilities(models=())).message


def test_asks_at_once_are_bounded_and_an_ended_one_makes_room() -> None:
    capabilities = Capabilities(concurrency=2)
    state, first = ask(Allowances(), capabilities)
    state, _ = ask(state, capabilities)
    refused = refusal(state, capabilities)
    assert refused.details == {"rule": "concurrency", "count": 2, "limit": 2}
    assert refused.retry_after_s == 1
    state = release(state, first)
    ask(state, capabilities)


def test_one_peer_does_not_use_up_another_ones_places() -> None:
    capabilities = Capabilities(concurrency=1)
    state, _ = ask(Allowances(), capabilities)
    ask(state, capabilities, peer="12D3KooWother")


def test_a_used_up_day_names_the_count_and_when_it_starts_anew() -> None:
    refused = refusal(Allowances(), Capabilities(tokens_per_day=1000), used=995)
    assert "995 of 1000 tokens per day" in refused.message
    assert "00:00 UTC, in 12 h 0 min" in refused.message
    assert refused.retry_after_s == DAY_S // 2


def test_many_asks_at_once_cannot_pass_the_limit_together() -> None:
    capabilities = Capabilities(tokens_per_day=1000)
    state, admitted = Allowances(), 0
    while True:
        try:
            state, _ = ask(state, capabilities, prompt=10, max_tokens=190)
        except Refused as refused:
            assert refused.retry_after_s == 1  # one that ends early may make room
            break
        admitted += 1
    assert admitted == 5


def test_an_ask_without_a_limit_of_its_own_reserves_a_usual_answer() -> None:
    _, reservation = ask(Allowances(), Capabilities(), prompt=7, max_tokens=None)
    assert reservation.tokens == 7 + OPEN_ANSWER_TOKENS


def test_releasing_twice_is_a_defect_of_ours() -> None:
    state, reservation = ask(Allowances(), Capabilities())
    state = release(state, reservation)
    with pytest.raises(LocalFault):
        release(state, reservation)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 500), st.integers(1, 500)), max_size=30), st.integers(1, 3000))
def test_reserved_tokens_pass_the_limit_at_most_by_the_last_answer(
    asks: list[tuple[int, int]], limit: int
) -> None:
    state, capabilities = Allowances(), Capabilities(tokens_per_day=limit)
    reservations, last_answer = [], 0
    for prompt, answer in asks:
        try:
            state, reservation = ask(state, capabilities, prompt=prompt, max_tokens=answer)
        except Refused:
            continue
        reservations.append(reservation)
        last_answer = max(last_answer, answer)
    assert state.of(PEER).tokens <= limit + last_answer
    for reservation in reservations:
        state = release(state, reservation)
    assert not state.under_way


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(0, 8_000_000_000))
def test_the_day_is_the_calendars(unix_s: int) -> None:
    assert utc_day(unix_s) == datetime.fromtimestamp(unix_s, UTC).date().isoformat()
    assert utc_day(unix_s + seconds_to_reset(unix_s)) > utc_day(unix_s)
    assert utc_day(unix_s + seconds_to_reset(unix_s) - 1) == utc_day(unix_s)
