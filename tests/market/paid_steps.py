"""Steps that several tests of the channel take."""

from tests.market.paid_account import terms
from tests.market.paid_pair import PaidPair
from unhosted.market import channel_effects as effects
from unhosted.market.faults import Reason


def started(*, deposit: int = 1_000_000, cap: int = 1 << 60) -> PaidPair:
    pair = PaidPair(deposit_micros=deposit, cap_micros=cap)
    pair.make_contact()
    pair.settle_down()
    return pair


def faults(found: list[effects.Effect]) -> list[Reason]:
    return [effect.reason for effect in found if isinstance(effect, effects.ReportFault)]


def answer(pair: PaidPair, number: int, *, tokens: int, tokens_out_max: int = 64) -> None:
    """One whole request of so many tokens, a token at a time."""
    what = terms(number, tokens_out_max=tokens_out_max)
    assert pair.open(what)
    pair.settle_down()
    for made in range(1, tokens + 1):
        pair.make(what.request_id, 1, is_last=made == tokens)
        pair.settle_down()
