"""Money as whole micro-USDC, prices per million tokens, and the one rule that turns tokens into money.

No float and no Decimal: micro-USDC is the token's own base unit (6 decimals), so the chain needs no
conversion. A price of one micro-USDC per *token* would be USD 1 per million, so prices are per million
tokens; the cost of a request is rounded up once, over its cumulative counts, never per increment: rounding
per window would drift in the seller's favour with every window.
"""

import re
from dataclasses import dataclass
from typing import NewType

Micros = NewType("Micros", int)
"""Micro-USDC: USD 0.000001."""

MICROS_PER_USD = 1_000_000
TOKENS_PER_PRICE = 1_000_000
AMOUNT_MICROS_MAX = (1 << 96) - 1
"""What the contract's uint96 holds: far above all USDC there is, so it is a bound on bytes, not on money."""
PRICE_MICROS_MAX = 1_000 * MICROS_PER_USD
"""USD 1,000 per million tokens: a dearer offer is a typing error or an attack."""
TOKENS_MAX = 1 << 40
"""Tokens of one request: no context reaches it, and products of it with a price stay exact everywhere."""

_USD = re.compile(r"([0-9]{1,15})(?:\.([0-9]{1,6}))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Micro-USDC per million tokens, of the prompt (`in`) and of the answer (`out`)."""

    in_micros_per_mtok: int
    out_micros_per_mtok: int

    def __post_init__(self) -> None:
        for name in ("in_micros_per_mtok", "out_micros_per_mtok"):
            value = getattr(self, name)
            if not 0 <= value <= PRICE_MICROS_MAX:
                raise ValueError(f"{name} {value} is outside 0 to {PRICE_MICROS_MAX} (micro-USDC)")


def cost_micros(price: Price, *, tokens_in: int, tokens_out: int) -> Micros:
    """What so many tokens cost in all, rounded up to a whole micro-USDC, in the seller's favour.

    Cumulative: the due of a window is the difference of two such totals.
    Raises: ValueError for counts outside 0 to TOKENS_MAX.
    """
    for name, value in (("tokens_in", tokens_in), ("tokens_out", tokens_out)):
        if not 0 <= value <= TOKENS_MAX:
            raise ValueError(f"{name} {value} is outside 0 to {TOKENS_MAX}")
    total = tokens_in * price.in_micros_per_mtok + tokens_out * price.out_micros_per_mtok
    return Micros(-(-total // TOKENS_PER_PRICE))


def parse_usd(text: str) -> Micros:
    """Micro-USDC from dollars as people write them: `5`, `0.25`, `$1.000001`; exact.

    Raises: ValueError with the rule, also for more than six decimals: they cannot be paid.
    """
    match = _USD.fullmatch(text.strip().removeprefix("$"))
    if match is None:
        raise ValueError(f"{text[:40]!r} is not an amount in USD with at most 6 decimals, such as 5 or 0.25")
    return Micros(int(match[1]) * MICROS_PER_USD + int((match[2] or "").ljust(6, "0")))


def format_usd(micros: int) -> str:
    """`1.25`, `0.000001`, `-0.50`: at least two decimals, no more than are needed, always exact."""
    whole, part = divmod(abs(micros), MICROS_PER_USD)
    sign = "-" if micros < 0 else ""
    return f"{sign}{whole}." + f"{part:06d}".rstrip("0").ljust(2, "0")
