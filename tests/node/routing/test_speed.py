"""What is known of a server's speed, and how it fades."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unhosted.node.core.speed import (
    DECODE_TOKENS_MIN,
    HALF_LIFE_NS,
    LATE_FLOOR_NS,
    LATE_UNKNOWN_FLOOR_NS,
    RECORDS_MAX,
    SAMPLES_KEPT,
    UNKNOWN,
    Record,
    SpeedBook,
    at_load,
    late_after_ns,
    ns_per_ktoken,
    tokens_per_s,
)

S = 1_000_000_000


def decoded(book: SpeedBook, rate: int, now_ns: int, *, streams: int = 1) -> None:
    """Note 100 tokens made at `rate` tokens per second."""
    book.observe_decode("a", "m", tokens=100, duration_ns=100 * S // rate, now_ns=now_ns, streams=streams)


def rate_of(book: SpeedBook, now_ns: int, *, streams: int = 1) -> float:
    return tokens_per_s(book.speed("a", "m", now_ns, streams=streams).decode_ns_per_ktoken)


def test_nothing_is_known_of_a_stranger() -> None:
    assert SpeedBook().speed("a", "m", 0) == UNKNOWN
    assert tokens_per_s(None) == 0.0


def test_the_median_shrugs_off_an_outlier() -> None:
    book = SpeedBook()
    for number in range(9):
        decoded(book, 1 if number == 4 else 50, number * S)
    assert rate_of(book, 9 * S) == pytest.approx(50, rel=0.01)


def test_a_machine_that_got_slow_is_believed_within_minutes() -> None:
    book = SpeedBook()
    for number in range(SAMPLES_KEPT):
        decoded(book, 100, number)
    now = 4 * HALF_LIFE_NS
    for number in range(3):
        decoded(book, 10, now + number)
    assert rate_of(book, now + 3) == pytest.approx(10, rel=0.01)


def test_knowledge_fades_into_unknown() -> None:
    book = SpeedBook()
    decoded(book, 50, 0)
    assert rate_of(book, 4 * HALF_LIFE_NS) == pytest.approx(50, rel=0.01)
    assert rate_of(book, 5 * HALF_LIFE_NS) == 0.0


def test_a_few_tokens_measure_nothing() -> None:
    book = SpeedBook()
    book.observe_decode("a", "m", tokens=DECODE_TOKENS_MIN - 1, duration_ns=S, now_ns=0)
    assert book.speed("a", "m", 0) == UNKNOWN


def test_reading_speed_is_free_of_what_every_answer_costs() -> None:
    book = SpeedBook()
    for number in range(4):
        book.observe_first_token("a", "m", new_prompt_tokens=10, latency_ns=S // 5, now_ns=number)
    for number in range(4):
        book.observe_first_token("a", "m", new_prompt_tokens=1000, latency_ns=S + S // 5, now_ns=number)
    speed = book.speed("a", "m", 5)
    assert speed.start_ns == S // 5
    assert tokens_per_s(speed.prefill_ns_per_ktoken) == pytest.approx(1000, rel=0.01)


def test_what_had_to_queue_measures_no_speed_but_keeps_the_record() -> None:
    book = SpeedBook()
    for number in range(4):
        book.observe_first_token(
            "a",
            "m",
            new_prompt_tokens=1000,
            latency_ns=9 * S,
            expected_ns=3 * S,
            waited=True,
            now_ns=number,
        )
    speed = book.speed("a", "m", 5)
    assert speed.prefill_ns_per_ktoken is None
    assert speed.usual_ratio == 3000


def test_late_is_by_its_own_record() -> None:
    assert late_after_ns(S, None) == 4 * S
    assert late_after_ns(1000, None) == LATE_UNKNOWN_FLOOR_NS
    assert late_after_ns(S, 2000) == 3 * S  # it usually takes twice of what is expected
    assert late_after_ns(1000, 2000) == LATE_FLOOR_NS


def test_three_answers_are_no_record() -> None:
    book = SpeedBook()
    for number in range(3):
        book.observe_first_token("a", "m", new_prompt_tokens=10, latency_ns=S, expected_ns=S, now_ns=number)
    assert book.speed("a", "m", 3).usual_ratio is None


def test_the_book_is_bounded_and_forgets_the_longest_unused() -> None:
    book = SpeedBook()
    for number in range(RECORDS_MAX + 10):
        book.observe_decode(f"peer-{number}", "m", tokens=10, duration_ns=S, now_ns=0)
    assert len(book) == RECORDS_MAX
    assert book.speed("peer-0", "m", 0) == UNKNOWN
    book.forget("peer-20")
    assert len(book) == RECORDS_MAX - 1


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(1, 64), st.integers(1, 64), st.integers(1000, 10**12))
def test_more_streams_make_each_slower_and_all_faster(few: int, many: int, value: int) -> None:
    few, many = sorted((few, many))
    there = at_load(value, measured_streams=few, streams=many)
    assert there >= value
    assert there * few <= (value + 1) * many  # the machine as a whole makes no less
    book = SpeedBook()
    decoded(book, 100, 0, streams=few)
    assert rate_of(book, 0, streams=many) <= rate_of(book, 0, streams=few)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=40), st.integers(1, 100))
def test_a_quantile_is_one_of_the_newest_samples(values: list[int], percent: int) -> None:
    record = Record()
    for value in values:
        record = record.noted(value, 0)
    kept = values[-SAMPLES_KEPT:]
    found = record.quantile(percent, 0)
    assert found in kept
    assert len(record.samples) == len(kept)
    assert sum(value <= found for value in kept) * 100 >= percent * len(kept)


@pytest.mark.parametrize("claim", [0.0, -5.0, float("nan"), float("inf"), 1e300])
def test_a_speed_that_cannot_be_is_no_speed(claim: float) -> None:
    assert ns_per_ktoken(claim) is None
