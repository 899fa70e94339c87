"""What a channel refuses, how long it waits, and how it is closed."""

import pytest

from tests.market.paid_account import CHANNEL, SIGNER, exact_cost, terms
from tests.market.paid_pair import PaidPair
from tests.market.paid_steps import answer, faults, started
from unhosted.market import channel_effects as effects
from unhosted.market import channel_events as events
from unhosted.market.channel_machine import chain_events
from unhosted.market.channel_states import LIVE_REQUESTS_MAX
from unhosted.market.faults import Reason
from unhosted.market.ids import Address

STRANGER = Address(b"\x66" * 20)


def test_a_refused_authorisation_stops_the_request_and_the_rest_is_owed() -> None:
    pair = started(cap=160)
    what = terms(1)
    pair.open(what)
    pair.settle_down()
    for _ in range(64):
        pair.make(what.request_id, 1)
        pair.settle_down()
    stops = pair.payer.seen(effects.TellStop)
    assert [stop.reason for stop in stops if isinstance(stop, effects.TellStop)] == ["cap_reached"]
    assert pair.account.signed == [148]
    assert pair.payer.disk.settled == pair.payee.disk.settled == exact_cost(what, 16) == 148
    assert not pair.payer.channel.live


def test_arrears_are_in_the_next_voucher_that_can_be_signed() -> None:
    pair = started(cap=148)
    what = terms(1)
    pair.open(what)
    pair.settle_down()
    pair.make(what.request_id, 20)
    pair.settle_down()
    assert pair.payer.disk.settled == exact_cost(what, 20) == 160
    assert pair.payer.channel.tally.is_refused
    assert pair.payee.channel.tally.authorised_micros == 148
    pair.make_contact()
    pair.settle_down()
    pair.cap_micros = 1 << 40
    answer(pair, 2, tokens=1)
    assert pair.account.signed == [148, 160 + 148]
    assert not pair.payer.channel.tally.is_refused


def test_a_payee_that_stalls_is_stopped_and_then_left() -> None:
    pair = started()
    pair.open(terms(1))
    pair.settle_down()
    pair.pass_time(119)
    assert not pair.payer.waiting
    pair.pass_time(1)
    pair.payer.pump(9)
    pair.link["payee"].clear()
    pair.pass_time(29)
    assert pair.payer.channel.live
    pair.pass_time(1)
    assert faults(list(pair.payer.waiting)) == [Reason.STALLED]
    pair.settle_down()
    assert pair.payer.channel.talk.stage == "lost"
    assert pair.payer.disk.settled == 0


def test_a_payer_that_does_not_pay_loses_its_place() -> None:
    pair = started()
    what = terms(1)
    pair.open(what)
    pair.settle_down()
    pair.make(what.request_id, 60)
    pair.payee.pump(9)
    pair.link["payer"].clear()
    pair.pass_time(19)
    assert pair.payee.channel.live
    pair.pass_time(1)
    pair.settle_down()
    assert not pair.payee.channel.live
    assert pair.payee.disk.settled == exact_cost(what, 32)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sequence": 0}, "stale"),
        ({"reserved_micros": 291}, "under_reserved"),
        ({"terms": terms(1, window=17)}, "window_too_large"),
        ({"terms": terms(1, tokens_out_max=1 << 20)}, "channel_exhausted"),
    ],
)
def test_what_cannot_be_opened_is_refused_with_its_reason(changes: dict[str, object], reason: str) -> None:
    pair = started()
    fields: dict[str, object] = {"terms": terms(1), "sequence": 1, "reserved_micros": 1 << 40, **changes}
    pair.payer.feed(events.RequestOpened(**fields))  # type: ignore[arg-type]
    assert pair.payer.waiting[0] == effects.RefuseRequest(
        request_id=terms(1).request_id,
        reason=reason,  # type: ignore[arg-type]
    )
    assert not pair.payer.channel.live


def test_a_request_must_fit_beside_the_maxima_of_those_that_live() -> None:
    pair = started(deposit=583)
    assert pair.open(terms(1))
    assert not pair.open(terms(2))
    refusal = effects.RefuseRequest(request_id=terms(2).request_id, reason="channel_exhausted")
    assert list(pair.payer.waiting)[-2:] == [refusal, effects.AskTopUp(deposit_micros=583, needed_micros=1)]


def test_a_request_is_opened_once() -> None:
    pair = started()
    answer(pair, 1, tokens=4)
    replayed = next(event for event in pair.sent["payee"] if isinstance(event, events.RequestOpened))
    pair.payee.feed(replayed)
    refusal = effects.RefuseRequest(request_id=terms(1).request_id, reason="stale")
    assert list(pair.payee.waiting) == [refusal]


def test_live_requests_have_a_bound() -> None:
    pair = started(deposit=10_000_000)
    opened = [pair.open(terms(number)) for number in range(1, LIVE_REQUESTS_MAX + 2)]
    assert opened == [True] * LIVE_REQUESTS_MAX + [False]
    refusal = pair.payer.waiting[-1]
    assert isinstance(refusal, effects.RefuseRequest)
    assert refusal.reason == "too_many_live"


def test_a_top_up_is_asked_for_once_before_the_deposit_is_gone() -> None:
    pair = started(deposit=1_000)
    for number in range(1, 4):
        answer(pair, number, tokens=64)
    asked = pair.payer.seen(effects.AskTopUp)
    assert asked == [effects.AskTopUp(deposit_micros=1_000, needed_micros=0)]
    assert not pair.open(terms(4))
    assert pair.payer.waiting.pop() == effects.AskTopUp(deposit_micros=1_000, needed_micros=168)
    more = pair.chain._replace(deposit_micros=2_000)
    pair.tell_chain(chain_events(pair.chain, more), more)
    answer(pair, 5, tokens=64)
    assert pair.payer.disk.authorised == 4 * 292


def test_a_close_in_agreement_gives_back_what_was_not_used() -> None:
    pair = started()
    answer(pair, 1, tokens=3)
    pair.payer.feed(events.CloseWanted())
    pair.settle_down()
    assert pair.payee.seen(effects.SignClose)[0].amount_micros == 109  # type: ignore[union-attr]
    assert not pair.open(terms(2))
    pair.crash("payee")
    pair.crash("payer")
    pair.make_contact()
    pair.settle_down()
    assert pair.payee.channel.talk.is_winding_up
    assert not pair.open(terms(3))


def test_a_close_for_less_than_is_due_or_was_claimed_is_not_signed() -> None:
    pair = started()
    answer(pair, 1, tokens=3)

    def offer(amount: int, signer: Address = SIGNER) -> effects.Effect:
        pair.payee.feed(
            events.CloseOffered(amount_micros=amount, signer=signer, signature=pair.payee.disk.signature)
        )
        return pair.payee.waiting.pop()

    assert offer(108) == effects.RefuseClose(reason="amount_too_low", needed_micros=109)
    assert faults([offer(120, signer=STRANGER)]) == [Reason.WRONG_SIGNATURE]
    assert faults([offer(1_000_001)]) == [Reason.OVER_DEPOSIT]
    pair.payee.feed(events.ChannelClaimed(claimed_micros=148))
    assert offer(147) == effects.RefuseClose(reason="amount_too_low", needed_micros=148)
    assert not pair.payee.channel.talk.is_winding_up


def test_nobody_closes_while_requests_live() -> None:
    pair = started()
    pair.open(terms(1))
    pair.settle_down()
    pair.payer.feed(events.CloseWanted())
    assert list(pair.payer.waiting) == [effects.RefuseClose(reason="still_live")]
    offer = events.CloseOffered(amount_micros=148, signer=SIGNER, signature=pair.payee.disk.signature)
    pair.payee.feed(offer)
    assert list(pair.payee.waiting) == [effects.RefuseClose(reason="still_live")]
    assert pair.payer.channel.channel_id == CHANNEL


def test_a_payee_that_sends_too_much_and_claims_more_does_not_end_the_buyers_process() -> None:
    """The claim settles one request while another one's target stands: both in one step."""
    pair = PaidPair(deposit_micros=400)
    pair.make_contact()
    pair.settle_down()
    first = terms(1, tokens_in=0, tokens_out_max=2, window=1)
    assert pair.open(first)
    pair.payer.feed(events.TokensReceived(request_id=first.request_id, position=0, count=3))
    assert pair.open(terms(2, tokens_in=0, tokens_out_max=1, window=1))
    pair.payer.pump(20)
    pair.payer.feed(events.EndReceived(request_id=first.request_id, tokens_out=3, end="finished"))
    pair.payer.pump(20)
    assert not pair.payer.channel.live
    assert pair.payer.disk.settled == pair.payer.disk.authorised == exact_cost(first, 2)
