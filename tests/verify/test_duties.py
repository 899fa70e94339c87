"""Checkers for others: their duties cannot be chosen, their results not copied, their idleness not hidden."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from math import comb

import pytest

from unhosted.verify import duties
from unhosted.verify.duties import (
    BAD_FOUND_MIN_PPM,
    PLANTS_MIN,
    PPM,
    CheckResult,
    Promise,
    Round,
    Seen,
    audit,
    plant_score,
    promised,
    result_commitment,
    with_commitment,
    with_opening,
)

CHECKER, OTHER, EPOCH = "12D3KooWchecker", "12D3KooWother", 7
SECRET = b"\x05" * 32
RATE_PPM = 200_000


def mark(number: int, of: bytes = b"") -> bytes:
    return hashlib.sha256(of + number.to_bytes(8, "big")).digest()


RECEIPTS = [Seen(receipt=mark(number), beacon=mark(number, b"beacon")) for number in range(500)]
PROMISE = Promise(
    checker=CHECKER,
    epoch=EPOCH,
    rate_ppm=RATE_PPM,
    commitment=promised(SECRET, checker=CHECKER, epoch=EPOCH),
)
DUTIES = duties.duties(SECRET, RECEIPTS, rate_ppm=RATE_PPM)


def result(receipt: bytes, log10_e_milli: int = -2_000) -> CheckResult:
    return CheckResult(
        receipt=receipt, log10_e_milli=log10_e_milli, margins_mlogit=31, salt=mark(1, receipt + b"salt")
    )


def committed(results: Sequence[CheckResult], *, checker: str = CHECKER, state: Round | None = None) -> Round:
    state = state or Round(epoch=EPOCH)
    for one in results:
        hashed = result_commitment(one, checker=checker, epoch=EPOCH)
        state = with_commitment(state, checker, one.receipt, hashed)
    return state


RESULTS = [result(receipt) for receipt in DUTIES]


def audited(state: Round, results: Sequence[CheckResult], *, secret: bytes = SECRET) -> tuple[str, ...]:
    return audit(PROMISE, state, secret=secret, results=results, receipts=RECEIPTS).faults


def test_who_reads_what_falls_to_it_has_no_fault() -> None:
    found = audit(PROMISE, committed(RESULTS), secret=SECRET, results=RESULTS, receipts=RECEIPTS)
    assert not found.is_void
    assert found.duties == DUTIES
    assert 60 <= len(DUTIES) <= 140, "a fifth of 500"


def test_every_rate_draws_its_share_and_all_are_drawn_at_all() -> None:
    assert len(duties.duties(SECRET, RECEIPTS, rate_ppm=PPM)) == len(RECEIPTS)
    assert len(duties.duties(SECRET, RECEIPTS, rate_ppm=1)) <= 1
    assert set(duties.duties(SECRET, RECEIPTS, rate_ppm=RATE_PPM // 2)) <= set(DUTIES)


def test_a_beacon_of_after_the_receipt_draws_anew() -> None:
    later = [replace(seen, beacon=b"later") for seen in RECEIPTS]
    assert duties.duties(SECRET, later, rate_ppm=RATE_PPM) != DUTIES


def test_a_duty_that_was_left_out_voids_the_epoch() -> None:
    assert "was a duty and not checked" in audited(committed(RESULTS[1:]), RESULTS[1:])[0]


def test_a_receipt_that_was_picked_to_be_checked_voids_the_epoch() -> None:
    picked = next(seen.receipt for seen in RECEIPTS if seen.receipt not in DUTIES)
    results = [*RESULTS, result(picked, 9_000)]
    assert audited(committed(results), results) == (f"receipt {picked.hex()[:8]} was checked and no duty",)


def test_another_secret_than_was_promised_voids_the_epoch() -> None:
    state = committed(RESULTS)
    assert audited(state, RESULTS, secret=b"\x06" * 32) == ("the secret is not the one that was promised",)


def test_a_secret_of_another_checker_or_epoch_is_another_promise() -> None:
    assert promised(SECRET, checker=OTHER, epoch=EPOCH) != PROMISE.commitment
    assert promised(SECRET, checker=CHECKER, epoch=EPOCH + 1) != PROMISE.commitment


def test_a_result_that_changes_when_it_is_opened_voids_the_epoch() -> None:
    changed = [replace(RESULTS[0], log10_e_milli=9_000), *RESULTS[1:]]
    assert "not the one committed to" in audited(committed(RESULTS), changed)[0]


def test_a_result_that_stays_shut_or_was_never_committed_voids_the_epoch() -> None:
    assert "never opened" in audited(committed(RESULTS), RESULTS[1:])[0]
    extra = [*RESULTS, result(mark(10_000))]
    assert "never committed to" in audited(committed(RESULTS), extra)[0]
    assert "two results" in audited(committed(RESULTS), [*RESULTS, RESULTS[0]])[0]


def test_a_checker_that_copies_a_commitment_cannot_open_it() -> None:
    """It sees what others commit to, and repeats it; later they open, and it repeats that."""
    state = committed(RESULTS, checker=OTHER)
    for receipt, hashed in state.committed[OTHER].items():
        state = with_commitment(state, CHECKER, receipt, hashed)
    faults = audited(state, RESULTS)
    assert len(faults) == len(DUTIES)
    assert all("not the one committed to" in one for one in faults)


def test_a_checker_that_waits_until_others_have_opened_is_too_late() -> None:
    state = with_opening(committed(RESULTS, checker=OTHER), OTHER)
    with pytest.raises(ValueError, match="may have copied"):
        committed(RESULTS, state=state)


def test_a_commitment_is_made_once() -> None:
    with pytest.raises(ValueError, match="a second time"):
        committed(RESULTS[:1], state=committed(RESULTS[:1]))


PLANTS = {mark(number, b"plant"): number % 2 == 0 for number in range(2 * PLANTS_MIN)}


def told(convicted: set[bytes]) -> list[CheckResult]:
    return [result(receipt, 8_000 if receipt in convicted else -500) for receipt in PLANTS]


BAD = [receipt for receipt, is_bad in PLANTS.items() if is_bad]
GOOD = [receipt for receipt, is_bad in PLANTS.items() if not is_bad]


@pytest.mark.parametrize(
    ("convicted", "is_passed"),
    [
        (set(BAD), True),
        (set(BAD[1:]), True),
        (set(), False),  # lazy: runs nothing and says that all is well
        (set(BAD[: PLANTS_MIN // 2]), False),  # runs half of them
        (set(PLANTS), False),  # lazy: accuses everybody
        ({*BAD, GOOD[0]}, False),
    ],
)
def test_a_lazy_checker_fails_on_what_was_planted(convicted: set[bytes], is_passed: bool) -> None:
    score = plant_score(told(convicted), PLANTS)
    assert score.is_enough
    assert score.is_passed is is_passed


def test_few_plants_say_nothing() -> None:
    assert not plant_score(told(set(BAD))[:8], PLANTS).is_enough


def test_the_share_that_is_asked_for_tells_readers_from_those_that_read_half() -> None:
    least = -(-PLANTS_MIN * BAD_FOUND_MIN_PPM // PPM)

    def passes(found: float) -> float:
        return sum(
            comb(PLANTS_MIN, count) * found**count * (1 - found) ** (PLANTS_MIN - count)
            for count in range(least, PLANTS_MIN + 1)
        )

    assert passes(0.95) > 0.999
    assert passes(0.95 / 2) < 0.04
    guessing = max(passes(share / 100) * (1 - share / 100) ** PLANTS_MIN for share in range(101))
    assert guessing < 1e-5, "accusing some at random, without touching a good one"


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="32 are needed"):
        Seen(receipt=b"short")
    with pytest.raises(ValueError, match="32 are needed"):
        promised(b"short", checker=CHECKER, epoch=EPOCH)
    with pytest.raises(ValueError, match="out of range"):
        result(DUTIES[0], 1 << 60)
    with pytest.raises(ValueError, match="ppm"):
        replace(PROMISE, rate_ppm=0)
    with pytest.raises(ValueError, match="a round of epoch"):
        audit(PROMISE, Round(epoch=8), secret=SECRET, results=RESULTS, receipts=RECEIPTS)
