"""How far two strangers trust each other: one window of tokens, worth USD 0.00005.

The buyer pays the prompt and `k` tokens ahead, and then another `k` whenever what it received has used up
what it paid. The seller gives `k` tokens of credit on top, once per channel and however many requests are
live, so that tokens flow while a voucher is under way. So a seller that breaks off keeps at most the prompt
and `k` tokens (later `k`), and a buyer that stops paying has at most `k` tokens for nothing.

`k` is fixed for a request. A window that grew with trust would have to be remembered, agreed on and defended
against sellers that build trust to break it, for a gain of some signatures: at the default, money is a
voucher each 16 to 1,024 tokens.
"""

from dataclasses import dataclass

from unhosted.market.money import TOKENS_MAX, TOKENS_PER_PRICE, Micros, Price, cost_micros
from unhosted.market.terms import WINDOW_TOKENS_MAX as WINDOW_TOKENS_LIMIT

WINDOW_MICROS = 50
"""USD 0.00005. At USD 3 per million tokens it is 16 tokens, at 0.05 the maximum below."""

WINDOW_TOKENS_MIN = 16
"""Less would stop the stream for each voucher: 16 tokens are most of a second."""

WINDOW_TOKENS_MAX = 1_024
"""More would let a broken stream lose minutes of work, however little it costs."""

UNSAFE_DEPOSIT_MICROS_MAX = 50_000
"""USD 0.05: what counts of a deposit that stands in a block which could still vanish."""

WRITE_OFF_MICROS_MAX = 1_000
WRITE_OFF_PART = 100
"""What a seller forgives on one channel for links that broke with tokens in flight: USD 0.001, some twenty
windows, and one part in a hundred of what the buyer authorised. Beyond that it serves only who pays: a buyer
that always breaks off in time gets a discount of 1 %, not free service."""


CREDIT_PART = 4
"""Of what a buyer has authorised, the part that may stand on credit beside it: a new one has none, and one
that vanishes has paid four fifths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossMax:
    """The most that each side of one request can lose to the other, in micro-USDC.

    buyer_first: before any token came; buyer: later; seller: on the whole channel, beside tokens that a
    broken link swallowed.
    """

    buyer_first_micros: Micros
    buyer_micros: Micros
    seller_micros: Micros


def window_tokens(price: Price) -> int:
    """The default `k`, and the largest that either side accepts: at least one whole micro-USDC of answer,
    since less cannot be paid, but never more than a message may say."""
    per_mtok = price.out_micros_per_mtok
    if per_mtok == 0:
        return WINDOW_TOKENS_MAX
    tokens = min(max(WINDOW_MICROS * TOKENS_PER_PRICE // per_mtok, WINDOW_TOKENS_MIN), WINDOW_TOKENS_MAX)
    return min(max(tokens, -(-TOKENS_PER_PRICE // per_mtok)), WINDOW_TOKENS_LIMIT)


def tokens_within(price: Price, *, tokens_in: int, micros: int) -> int:
    """The most output tokens that cost at most `micros` with the prompt; -1 if the prompt costs more."""
    left = micros * TOKENS_PER_PRICE - tokens_in * price.in_micros_per_mtok
    if left < 0:
        return -1
    if price.out_micros_per_mtok == 0:
        return TOKENS_MAX
    return min(left // price.out_micros_per_mtok, TOKENS_MAX)


def loss_max(price: Price, *, tokens_in: int, window: int) -> LossMax:
    """window: `k`, in tokens."""
    window_cost = cost_micros(price, tokens_in=0, tokens_out=window)
    return LossMax(
        buyer_first_micros=cost_micros(price, tokens_in=tokens_in, tokens_out=window),
        buyer_micros=window_cost,
        seller_micros=window_cost,
    )


def usable_deposit_micros(*, safe_micros: int, latest_micros: int) -> int:
    """What of a deposit counts: all that stands in a safe block, a little of what stands in a younger one.

    A seller that waited for safety would make every new buyer wait; what it risks instead is this little.
    """
    return max(safe_micros, min(latest_micros, UNSAFE_DEPOSIT_MICROS_MAX))


def hold_max_micros(authorised_micros: int) -> int:
    """What a payer may leave unpaid for a while as a stake: half of what the payee would forgive.

    A payer that dies forgets what it held, and this much forgotten does not end the channel.
    """
    return write_off_max_micros(authorised_micros) // 2


def write_off_max_micros(authorised_micros: int) -> int:
    """What a seller forgives in all on a channel whose best voucher is `authorised_micros`."""
    return WRITE_OFF_MICROS_MAX + authorised_micros // WRITE_OFF_PART
