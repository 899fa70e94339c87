"""Pay that is held back until answers were checked, where the seller grants credit for it."""

from tests.market.paid_account import exact_cost, terms
from tests.market.paid_pair import PaidPair
from unhosted.market import channel_effects as effects
from unhosted.market import channel_events as events
from unhosted.market.credit import hold_max_micros, write_off_max_micros
from unhosted.market.ids import RequestId

RELEASE = RequestId(b"\x0d" * 32)


def _served(pair: PaidPair, numbers: range, *, tokens: int = 64) -> int:
    """Requests one after the other, each to its end; the sum of what they cost."""
    due = 0
    for number in numbers:
        what = terms(number)
        assert pair.open(what)
        pair.settle_down()
        pair.make(what.request_id, tokens)
        pair.settle_down()
        due += exact_cost(what, tokens)
    return due


def _meeting(*, credit_micros: int) -> PaidPair:
    pair = PaidPair(credit_micros=credit_micros)
    pair.make_contact()
    pair.settle_down()
    return pair


def test_held_pay_is_delivered_for_and_not_signed() -> None:
    pair = _meeting(credit_micros=300)
    pair.hold(200)
    due = _served(pair, range(1, 6))
    assert pair.payee.disk.settled == pair.payer.disk.settled == due
    assert pair.payee.disk.authorised == max(pair.account.signed) == due - 200


def test_more_is_not_held_than_the_seller_grants() -> None:
    pair = _meeting(credit_micros=50)
    pair.hold(10_000)
    due = _served(pair, range(1, 6))
    assert pair.payee.disk.authorised == due - 50


def test_nothing_is_held_where_the_seller_grants_nothing() -> None:
    pair = _meeting(credit_micros=0)
    pair.hold(10_000)
    due = _served(pair, range(1, 4))
    assert pair.payee.disk.authorised == due


def test_what_is_let_go_is_paid_at_once_under_a_request_of_its_own_and_the_channel_closes() -> None:
    pair = _meeting(credit_micros=300)
    pair.hold(200)
    due = _served(pair, range(1, 6))
    pair.hold(0, RELEASE)
    pair.settle_down()
    raised = [
        one for one in pair.payer.seen(effects.Authorise) if getattr(one, "request_id", None) == RELEASE
    ]
    assert [getattr(one, "delta_micros", 0) for one in raised] == [200]
    assert pair.payee.disk.authorised == due
    pair.payer.feed(events.CloseWanted())
    pair.settle_down()
    assert pair.payee.seen(effects.SignClose)


def test_a_close_with_pay_held_back_is_not_signed_by_the_seller() -> None:
    pair = _meeting(credit_micros=300)
    pair.hold(200)
    _served(pair, range(1, 6))
    pair.payer.feed(events.CloseWanted())
    pair.settle_down()
    assert not pair.payee.seen(effects.SignClose)


def test_what_is_let_go_without_a_request_is_paid_with_the_next_one() -> None:
    pair = _meeting(credit_micros=300)
    pair.hold(200)
    due = _served(pair, range(1, 6))
    pair.hold(0)
    pair.settle_down()
    assert pair.payee.disk.authorised == due - 200
    due += _served(pair, range(6, 7))
    assert pair.payee.disk.authorised == due


def test_a_payer_that_dies_while_holding_is_still_served() -> None:
    pair = _meeting(credit_micros=1_000)
    hold = hold_max_micros(0)
    pair.hold(hold)
    _served(pair, range(1, 6))
    assert pair.open(terms(6))
    pair.settle_down()
    pair.make(terms(6).request_id, 40)
    pair.settle_down()
    pair.crash("payer")
    pair.make_contact()
    pair.settle_down()
    assert pair.payee.channel.talk.stage == pair.payer.channel.talk.stage == "agreed"
    assert pair.payee.disk.written_off <= hold
    _served(pair, range(7, 9))
    assert pair.payer.disk.settled == pair.payee.disk.settled


def test_credit_that_is_taken_back_is_paid_with_the_next_request() -> None:
    pair = _meeting(credit_micros=300)
    pair.hold(200)
    due = _served(pair, range(1, 6))
    pair.credit_micros = 0
    pair.crash("payee")
    pair.make_contact()
    pair.settle_down()
    due += _served(pair, range(6, 7))
    assert pair.payee.disk.authorised == due


def test_a_hold_is_within_what_sellers_forgive() -> None:
    for authorised in (0, 10, 1_000_000):
        assert 0 < hold_max_micros(authorised) < write_off_max_micros(authorised)
