"""What a paid channel really did, counted with formulas of its own: the oracle of the channel's tests."""

from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil

from unhosted.market.ids import Address, ChannelId, RequestId
from unhosted.market.money import Price
from unhosted.market.terms import Terms

CHANNEL = ChannelId(b"\xc1" * 32)
SIGNER = Address(b"\x5a" * 20)


def terms(
    number: int,
    *,
    tokens_in: int = 100,
    tokens_out_max: int = 64,
    window: int = 16,
    price: Price | None = None,
) -> Terms:
    """Terms of request `number`, at USD 1 and 3 per million tokens unless said otherwise."""
    return Terms(
        request_id=RequestId(number.to_bytes(32, "big")),
        channel_id=CHANNEL,
        price=price or Price(in_micros_per_mtok=1_000_000, out_micros_per_mtok=3_000_000),
        tokens_in=tokens_in,
        tokens_out_max=tokens_out_max,
        window_tokens=window,
    )


def exact_cost(what: Terms, tokens_out: int) -> int:
    """The price of so many tokens, in another way than the code under test has it."""
    price = what.price
    exact = Fraction(
        what.tokens_in * price.in_micros_per_mtok + tokens_out * price.out_micros_per_mtok, 10**6
    )
    return ceil(exact)


@dataclass
class Account:
    """What really happened, by request: tokens that were let go and that came, vouchers that were signed."""

    terms: dict[RequestId, Terms] = field(default_factory=dict)
    released: dict[RequestId, int] = field(default_factory=dict)
    received: dict[RequestId, int] = field(default_factory=dict)
    ended_at_payer: set[RequestId] = field(default_factory=set)
    signed: list[int] = field(default_factory=list)
    granted_micros: int = 0
    forgotten_micros: int = 0

    def received_micros(self) -> int:
        return sum(exact_cost(self.terms[rid], count) for rid, count in self.received.items() if count)

    def released_micros(self) -> int:
        return sum(exact_cost(self.terms[rid], count) for rid, count in self.released.items())

    def payable_micros(self) -> int:
        """The most that the payer may authorise: what came, a window ahead of what is live, prompts that may
        have been worked on, and what it granted after a crash."""
        most = self.granted_micros
        for rid, count in self.received.items():
            what = self.terms[rid]
            ahead = 0 if rid in self.ended_at_payer else what.window_tokens
            most += exact_cost(what, min(count + ahead, what.tokens_out_max))
        return most


def exact_window(what: Terms) -> int:
    return ceil(Fraction(what.window_tokens * what.price.out_micros_per_mtok, 10**6))
