"""A paid request on a good day, and what each end does with messages that are late, repeated or false."""

import pytest

from tests.market.paid_account import exact_cost, terms
from tests.market.paid_pair import voucher
from tests.market.paid_steps import answer, faults, started
from unhosted.market import channel_effects as effects
from unhosted.market import channel_events as events
from unhosted.market.channel_machine import RULES, TABLE, step
from unhosted.market.channel_states import BrokenInvariant, due_micros, surplus_micros
from unhosted.market.faults import Reason
from unhosted.market.ids import Address, ChannelId
from unhosted.market.money import Price

STRANGER = Address(b"\x66" * 20)


def test_prompt_and_one_window_are_paid_ahead_then_each_window() -> None:
    pair = started()
    answer(pair, 1, tokens=64)
    assert pair.account.signed == [148, 196, 244, 292]
    assert pair.payer.disk.settled == pair.payee.disk.settled == exact_cost(terms(1), 64) == 292


def test_the_engine_starts_once_the_voucher_is_on_the_disk() -> None:
    pair = started()
    pair.open(terms(1))
    pair.payer.pump(9)
    pair.deliver("payee")
    assert not pair.payee.waiting
    pair.deliver("payee")
    assert [type(effect) for effect in pair.payee.waiting] == [effects.StoreVoucher]
    pair.payee.pump()
    assert [type(effect) for effect in pair.payee.waiting] == [effects.StartWork]


def test_no_token_is_sent_beyond_credit() -> None:
    pair = started()
    what = terms(1, tokens_out_max=200)
    pair.open(what)
    pair.settle_down()
    pair.link["payee"].clear()
    for _ in range(200):
        pair.make(what.request_id, 1)
        pair.payee.pump(9)
    assert pair.account.released[what.request_id] == 32
    assert len(pair.payee.seen(effects.AskVoucher)) == 1
    ask = pair.payee.seen(effects.AskVoucher)[0]
    assert isinstance(ask, effects.AskVoucher)
    assert ask.needed_micros == exact_cost(what, 33) - 48


def test_a_voucher_counts_when_it_is_stored_and_not_before() -> None:
    pair = started()
    what = terms(1)
    pair.open(what)
    pair.settle_down()
    pair.make(what.request_id, 40)
    pair.payee.pump(9)
    pair.payee.feed(voucher(292))
    pair.make(what.request_id, 1)
    assert pair.payee.channel.live[what.request_id].tokens_out == 32
    pair.payee.feed(events.StopWanted(request_id=what.request_id, reason="draining"))
    assert pair.payee.channel.tally.settled_micros == exact_cost(what, 32)


def test_a_window_of_credit_is_one_for_the_channel_however_many_requests_live() -> None:
    pair = started()
    many = [terms(number, tokens_out_max=200) for number in range(1, 9)]
    for what in many:
        pair.open(what)
        pair.settle_down()
    for what in many:
        pair.make(what.request_id, 200)
        pair.payee.pump(99)
    paid = pair.payee.channel.tally.authorised_micros
    assert due_micros(pair.payee.channel) <= paid + 48


def test_nothing_is_signed_before_the_ledger_has_it() -> None:
    pair = started()
    pair.open(terms(1))
    assert [type(effect) for effect in pair.payer.waiting] == [effects.Authorise]
    pair.payer.pump()
    assert pair.payer.disk.authorised == 148
    assert list(pair.payer.waiting) == [effects.SignVoucher(amount_micros=148)]


def test_commits_that_are_told_out_of_order_lose_nothing() -> None:
    pair = started()
    for number in (1, 2):
        pair.open(terms(number))
    payer = pair.payer.channel
    first, second = terms(1).request_id, terms(2).request_id
    payer, todo = step(payer, events.Authorised(request_id=second, total_micros=296), 0)
    assert todo == (effects.SignVoucher(amount_micros=296),)
    payer, todo = step(payer, events.Authorised(request_id=first, total_micros=148), 0)
    assert todo == ()
    assert payer.tally.authorised_micros == payer.tally.pledged_micros == 296


def test_what_was_paid_and_not_used_pays_for_the_next_request() -> None:
    pair = started()
    answer(pair, 1, tokens=3)
    assert pair.account.signed == [148]
    assert surplus_micros(pair.payer.channel) == 148 - exact_cost(terms(1), 3) == 39
    answer(pair, 2, tokens=64)
    assert pair.account.signed[1] == 109 + 148
    assert pair.payer.disk.settled == pair.payee.disk.settled == 109 + 292
    assert pair.payer.disk.authorised == 109 + 292


def test_one_voucher_does_not_start_two_requests() -> None:
    pair = started()
    pair.open(terms(1))
    pair.settle_down()
    pair.open(terms(2))
    pair.deliver("payee")
    assert not pair.payee.channel.live[terms(2).request_id].is_covered
    pair.settle_down()
    assert pair.payee.channel.live[terms(2).request_id].is_covered


def test_a_free_model_needs_no_voucher() -> None:
    pair = started(deposit=1)
    free = terms(1, price=Price(in_micros_per_mtok=0, out_micros_per_mtok=0))
    pair.open(free)
    pair.settle_down()
    pair.make(free.request_id, 64)
    pair.settle_down()
    assert pair.account.received[free.request_id] == 64
    assert pair.account.signed == []


def test_old_and_lower_vouchers_change_nothing() -> None:
    pair = started()
    answer(pair, 1, tokens=64)
    before = pair.payee.channel
    for amount in (292, 148, 0):
        pair.payee.feed(voucher(amount))
    assert pair.payee.channel == before
    assert not pair.payee.waiting


@pytest.mark.parametrize(
    ("false", "reason"),
    [
        (voucher(300, signer=STRANGER), Reason.WRONG_SIGNATURE),
        (voucher(300, signer=None), Reason.WRONG_SIGNATURE),
        (voucher(300, channel=ChannelId(b"\xc2" * 32)), Reason.WRONG_CHANNEL),
        (voucher(1_000_001), Reason.OVER_DEPOSIT),
    ],
)
def test_a_false_voucher_is_a_fault_and_is_not_kept(false: events.Event, reason: Reason) -> None:
    pair = started()
    before = pair.payee.channel
    pair.payee.feed(false)
    assert faults(list(pair.payee.waiting)) == [reason]
    assert pair.payee.channel == before


def test_repeated_pieces_are_paid_once_and_pieces_after_a_gap_not_at_all() -> None:
    pair = started()
    what = terms(1)
    pair.open(what)
    pair.settle_down()

    def piece(position: int, count: int) -> int:
        pair.payer.feed(events.TokensReceived(request_id=what.request_id, position=position, count=count))
        return pair.payer.channel.live[what.request_id].tokens_out

    assert [piece(0, 3), piece(0, 3), piece(1, 2), piece(4, 9), piece(2, 3), piece(63, 1)] == [
        3,
        3,
        3,
        3,
        5,
        5,
    ]


def test_the_payer_pays_by_its_own_count() -> None:
    pair = started()
    what = terms(1)
    pair.open(what)
    pair.settle_down()
    pair.make(what.request_id, 5)
    pair.settle_down()
    pair.payer.feed(events.EndReceived(request_id=what.request_id, tokens_out=64, end="finished"))
    assert faults(list(pair.payer.waiting)) == [Reason.OVER_CLAIM]
    pair.settle_down()
    assert pair.payer.disk.settled == exact_cost(what, 5)
    assert pair.payer.channel.talk.stage == pair.payee.channel.talk.stage == "lost"
    pair.make_contact()
    pair.settle_down()
    assert pair.payee.channel.tally.settled_micros == exact_cost(what, 5)


def test_more_tokens_than_agreed_are_a_fault_and_not_paid() -> None:
    pair = started()
    what = terms(1, tokens_out_max=20)
    pair.open(what)
    pair.settle_down()
    pair.payer.feed(events.TokensReceived(request_id=what.request_id, position=0, count=50))
    assert faults(list(pair.payer.waiting)) == [Reason.OVER_CLAIM]
    assert pair.payer.channel.tally.live_due_micros == exact_cost(what, 20)
    pair.payer.pump(9)
    assert max(pair.account.signed) <= exact_cost(what, 20)


def test_what_the_payer_stops_is_paid_up_to_there() -> None:
    pair = started()
    what = terms(1)
    pair.open(what)
    pair.settle_down()
    pair.make(what.request_id, 7)
    pair.settle_down()
    pair.payer.feed(events.StopWanted(request_id=what.request_id, reason="cancelled"))
    pair.payer.feed(events.StopWanted(request_id=what.request_id, reason="cancelled"))
    pair.make(what.request_id, 2)
    pair.settle_down()
    assert pair.payer.disk.settled == pair.payee.disk.settled == exact_cost(what, 9)
    assert len(pair.payer.seen(effects.TellStop)) == 1


def test_what_was_on_its_way_when_the_payer_stopped_is_paid_by_a_last_voucher() -> None:
    pair = started()
    what = terms(1)
    pair.open(what)
    pair.settle_down()
    pair.make(what.request_id, 15)
    pair.settle_down()
    pair.payer.feed(events.StopWanted(request_id=what.request_id, reason="cancelled"))
    pair.make(what.request_id, 17)
    pair.settle_down()
    assert pair.account.signed == [148, 196]
    assert pair.payer.disk.settled == pair.payee.disk.settled == exact_cost(what, 32) == 196


def test_a_prompt_that_was_worked_on_is_paid_when_the_payer_leaves() -> None:
    pair = started()
    pair.open(terms(1))
    pair.settle_down()
    pair.payer.feed(events.StopWanted(request_id=terms(1).request_id, reason="cancelled"))
    pair.settle_down()
    assert pair.payer.disk.settled == pair.payee.disk.settled == 100


def test_a_payee_that_fails_before_the_first_token_gets_nothing() -> None:
    pair = started()
    pair.open(terms(1))
    pair.settle_down()
    pair.payee.feed(events.StopWanted(request_id=terms(1).request_id, reason="engine_failed"))
    pair.settle_down()
    assert pair.payer.disk.settled == pair.payee.disk.settled == 0
    answer(pair, 2, tokens=64)
    assert pair.payer.disk.authorised == 292


def test_what_the_engine_makes_too_much_does_not_exist() -> None:
    pair = started()
    what = terms(1, tokens_out_max=10)
    pair.open(what)
    pair.settle_down()
    pair.make(what.request_id, 25)
    pair.make(what.request_id, 25)
    pair.settle_down()
    assert pair.account.received[what.request_id] == 10
    assert not pair.payee.channel.live


def test_a_voucher_that_was_lost_is_sent_again_when_asked_for() -> None:
    pair = started()
    what = terms(1)
    pair.open(what)
    pair.payer.pump(9)
    pair.link["payee"].pop()
    pair.settle_down()
    assert not pair.payee.channel.live[what.request_id].is_covered
    pair.payer.feed(events.VoucherAsked(request_id=what.request_id))
    pair.settle_down()
    assert pair.payee.channel.live[what.request_id].is_covered
    assert pair.account.signed == [148, 148]


def test_every_event_has_a_row_and_a_rule() -> None:
    told = set(RULES["payer"]) | set(RULES["payee"])
    assert told == set(TABLE) == set(events.Event.__args__)
    assert set(RULES["payer"]) & set(RULES["payee"]) >= set(events.ChainEvent.__args__)


def test_an_event_of_the_other_end_is_our_own_defect() -> None:
    pair = started()
    with pytest.raises(BrokenInvariant, match="VoucherStored came to a payer"):
        step(pair.payer.channel, events.VoucherStored(amount_micros=1), 0)


def test_a_voucher_that_never_came_cannot_have_been_stored() -> None:
    pair = started()
    with pytest.raises(BrokenInvariant, match="the best received is over 0"):
        step(pair.payee.channel, events.VoucherStored(amount_micros=1), 0)


def test_an_engine_that_starts_unpaid_is_our_own_defect() -> None:
    pair = started()
    pair.open(terms(1))
    pair.deliver("payee")
    with pytest.raises(BrokenInvariant, match="no voucher covers"):
        pair.payee.feed(events.TokensMade(request_id=terms(1).request_id, count=1))
