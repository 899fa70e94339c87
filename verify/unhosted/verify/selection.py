"""Which receipts are checked: drawn after they are signed, from entropy that nobody else has seen.

The rules. A pair of a seller and a model is on probation until `PROBATION_REQUESTS` of its answers or
`PROBATION_TOKENS` of its tokens were checked: all are drawn. Then the rate is 1 / sqrt(checks without a
fault) and never below `RATE_MIN_PPM`; suspicion multiplies it (`verdicts`). What a cheat gains grows with
what is due, so a request that is dearer than the pair's mean is drawn more often by as much; none is drawn
less often than the rate. The buyer's own wish, `always` or `never`, goes before all of it.

A draw is for one receipt, once: whoever keeps the result must not draw again after a crash. Rates are in
parts per million, money in micro-USDC. No numpy here: the node reads these without loading it.
"""

from dataclasses import dataclass
from math import isqrt
from typing import Literal

from unhosted.verify.verdicts import Stage, response_of

Wish = Literal["auto", "always", "never"]
"""What the buyer said of one request."""

PPM = 1_000_000

PROBATION_REQUESTS = 10
PROBATION_TOKENS = 5_000
"""Either ends probation. A single long answer that ends it does not help a cheat: the rate after one check is
still 100 %."""

RATE_MIN_PPM = 20_000
"""2 %: with 100 requests' pay to lose, half of it makes every gross cheat a loss (`economics`)."""

ENTROPY_BYTES = 32
"""Of the buyer's own machine, drawn after the seller signed: nothing that the seller knew."""

CHECKED_MAX = 1 << 40
MICROS_MAX = 1 << 60
"""Far above all there is, and products stay exact on every platform that counts in 128 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What one pair of a seller and a model has behind it.

    checked, checked_tokens: answers and output tokens that were checked, with any result. checked_ok: those
    without a fault since suspicion rose last. receipts, due_micros: of all receipts, checked or not.
    """

    checked: int = 0
    checked_tokens: int = 0
    checked_ok: int = 0
    receipts: int = 0
    due_micros: int = 0

    def __post_init__(self) -> None:
        for name, value, most in (
            ("checked", self.checked, CHECKED_MAX),
            ("checked_tokens", self.checked_tokens, CHECKED_MAX),
            ("checked_ok", self.checked_ok, self.checked),
            ("receipts", self.receipts, CHECKED_MAX),
            ("due_micros", self.due_micros, MICROS_MAX),
        ):
            if not 0 <= value <= most:
                raise ValueError(f"{name} {value} is outside 0 to {most}")

    @property
    def is_on_probation(self) -> bool:
        return self.checked < PROBATION_REQUESTS and self.checked_tokens < PROBATION_TOKENS


def rate_ppm(
    history: History, stage: Stage = Stage.CLEAR, *, due_micros: int = 0, wish: Wish = "auto"
) -> int:
    """How likely a receipt is to be checked. due: what its request costs; history: before it.

    Never falls with due, with suspicion, or when it costs more than the mean: for those, the share of money
    that is checked is at least the rate.
    """
    if wish != "auto":
        return PPM if wish == "always" else 0
    response = response_of(stage)
    if history.is_on_probation or response.checks_all:
        return PPM
    base_ppm = max(RATE_MIN_PPM, isqrt(PPM * PPM // max(history.checked_ok, 1))) * response.check_factor
    # due / mean, where mean = history.due / history.receipts; a pair that cost nothing so far has none.
    mean_share = history.due_micros
    if mean_share and due_micros * history.receipts > mean_share:
        base_ppm = base_ppm * due_micros * history.receipts // mean_share
    return min(base_ppm, PPM)


def is_drawn(chance_ppm: int, entropy: bytes) -> bool:
    """Whether a receipt of this chance is checked. entropy: `ENTROPY_BYTES`, fresh, drawn after the receipt.

    Exact: the chance differs from `chance_ppm` by less than 2^-236.
    """
    if not 0 <= chance_ppm <= PPM:
        raise ValueError(f"a chance of {chance_ppm} is outside 0 to {PPM} parts per million")
    return int.from_bytes(_checked(entropy), "big") * PPM < chance_ppm << 8 * ENTROPY_BYTES


def prefix_tokens(tokens: int, entropy: bytes, *, budget_tokens: int) -> int:
    """How many of an answer's tokens are read, where all of them cost too much: at most the budget on
    average.

    The depth is drawn, and reaches every token with some chance: a depth that the seller knows makes the rest
    free to cheat on. It starts at a part of the budget and doubles with chance 1/2, so that token t is read
    with a chance of at least start / (2 t), which falls no faster than what a cheat from t on could gain.
    """
    if tokens < 0 or budget_tokens < 1:
        raise ValueError(f"{tokens} tokens and a budget of {budget_tokens}: at least 0 and 1 are needed")
    bits = int.from_bytes(_checked(entropy), "big")
    if tokens <= budget_tokens:
        return tokens
    depth_tokens, doublings = _first_depth(tokens, budget_tokens)
    while doublings and bits & 1:
        bits >>= 1
        doublings -= 1
        depth_tokens *= 2
    return min(depth_tokens, tokens)


def _first_depth(tokens: int, budget_tokens: int) -> tuple[int, int]:
    """The depth to start at and the most doublings, so that the mean stays in the budget.

    With J doublings from b the mean is at most b (J / 2 + 1), so b = 2 budget / (J + 2). Where even one token
    is too many to start at, the mean is what one token costs.
    """
    doublings = 0
    while True:
        depth_tokens = max(1, 2 * budget_tokens // (doublings + 2))
        if depth_tokens << doublings >= tokens:
            return depth_tokens, doublings
        doublings += 1


def _checked(entropy: bytes) -> bytes:
    if len(entropy) != ENTROPY_BYTES:
        raise ValueError(f"entropy of {len(entropy)} bytes, {ENTROPY_BYTES} are needed")
    return entropy
