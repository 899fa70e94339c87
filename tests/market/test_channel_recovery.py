"""Channels after something broke: streams, processes, disks, and the chain itself."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.market.paid_account import CHANNEL, SIGNER, exact_cost, terms
from tests.market.paid_pair import PaidPair, voucher
from unhosted.market import channel_effects as effects
from unhosted.market import channel_events as events
from unhosted.market.channel_checks import check_step, check_whole
from unhosted.market.channel_machine import chain_events, step
from unhosted.market.channel_states import BrokenInvariant, Channel, OnChain, Phase, restore
from unhosted.market.faults import Reason
from unhosted.market.ids import Address

STRANGER = Address(b"\x66" * 20)


def _streaming(*, tokens: int = 10, deposit: int = 1_000_000) -> PaidPair:
    """A request with `tokens` received and more to come."""
    pair = PaidPair(deposit_micros=deposit)
    pair.make_contact()
    pair.settle_down()
    pair.open(terms(1))
    pair.settle_down()
    pair.make(terms(1).request_id, tokens)
    pair.settle_down()
    return pair


def _agreed(pair: PaidPair) -> int:
    """What both hold settled after a new contact."""
    pair.make_contact()
    pair.settle_down()
    settled = pair.payer.channel.tally.settled_micros
    assert pair.payee.channel.tally.settled_micros == settled
    assert pair.payer.channel.talk.stage == pair.payee.channel.talk.stage == "agreed"
    return settled


def test_tokens_lost_in_flight_are_not_paid_and_the_seller_forgives_them() -> None:
    pair = _streaming()
    pair.make(terms(1).request_id, 6)
    pair.payee.pump(9)
    pair.break_contact()
    assert _agreed(pair) == exact_cost(terms(1), 10)
    assert pair.payee.disk.written_off == 6 * 3
    assert pair.payer.disk.settled == pair.payee.disk.settled == 130


def test_what_is_forgiven_is_summed_over_the_channels_life() -> None:
    pair = PaidPair()
    for number in (1, 2, 3):
        pair.make_contact()
        pair.settle_down()
        pair.open(terms(number))
        pair.settle_down()
        pair.make(terms(number).request_id, 16)
        pair.payee.pump(9)
    _agreed(pair)
    assert pair.payee.disk.written_off == 3 * 16 * 3
    assert pair.payer.disk.settled == 300


def test_a_payer_that_denies_too_much_is_served_no_more() -> None:
    pair = _streaming(tokens=64)
    pair.make_contact()
    pair.payee.feed(events.AnswerReceived(contact=pair.contact, due_micros=0))
    assert pair.payee.channel.talk.stage == "agreed"
    pair.payee.feed(voucher(2_000))
    pair.payee.pump(9)
    pair.break_contact()
    pair.payee.disk.settled = 2_000
    pair.payee.crash()
    pair.contacts += 1
    pair.payee.feed(events.ContactMade(contact=pair.contact))
    pair.payee.waiting.clear()
    pair.payee.feed(events.AnswerReceived(contact=pair.contact, due_micros=0))
    assert [type(effect) for effect in pair.payee.waiting] == [effects.ReportFault]
    opened = events.RequestOpened(terms=terms(2), sequence=9)
    pair.payee.feed(opened)
    refusal = effects.RefuseRequest(request_id=terms(2).request_id, reason="disputed")
    assert pair.payee.waiting[-1] == refusal
    pair.payee.feed(events.AnswerReceived(contact=pair.contact, due_micros=2_000))
    assert pair.payee.channel.talk.stage == "agreed"


def test_a_payer_that_crashed_grants_what_the_payee_states() -> None:
    pair = _streaming()
    pair.crash("payer")
    assert _agreed(pair) == exact_cost(terms(1), 10)
    assert pair.payer.disk.authorised == 148


def test_a_payee_gains_at_most_the_window_by_a_payers_crash() -> None:
    pair = _streaming()
    pair.crash("payer")
    pair.contacts += 1
    pair.payer.feed(events.ContactMade(contact=pair.contact))
    lie = events.StateReceived(
        contact=pair.contact, voucher_micros=148, voucher_signer=SIGNER, due_micros=10_000, sequence=1
    )
    pair.payer.feed(lie)
    assert pair.payer.channel.tally.settled_micros == 148


def test_a_payee_gains_nothing_by_lying_while_the_payer_lives() -> None:
    pair = _streaming()
    pair.break_contact()
    pair.contacts += 1
    pair.payer.feed(events.ContactMade(contact=pair.contact))
    lie = events.StateReceived(
        contact=pair.contact, voucher_micros=148, voucher_signer=SIGNER, due_micros=148, sequence=1
    )
    pair.payer.feed(lie)
    assert pair.payer.channel.tally.settled_micros == 130
    assert pair.payer.waiting[-1] == effects.TellAnswer(contact=pair.contact, due_micros=130)


def test_a_prompt_that_was_worked_on_is_granted_when_the_stream_broke_before_a_token() -> None:
    pair = _streaming(tokens=0)
    pair.break_contact()
    assert _agreed(pair) == 100


def test_a_request_that_never_arrived_costs_nothing() -> None:
    pair = _streaming(tokens=0)
    pair.break_contact()
    _agreed(pair)
    pair.open(terms(2))
    pair.payer.pump(9)
    pair.break_contact()
    assert _agreed(pair) == 100


def test_a_payee_that_crashed_takes_the_payers_word_when_it_is_more() -> None:
    pair = _streaming()
    pair.crash("payee")
    assert pair.payee.disk.settled == 0
    assert _agreed(pair) == 130
    assert pair.payee.disk.written_off == 0


def test_a_payee_that_lost_its_vouchers_gets_the_last_one_again() -> None:
    pair = _streaming()
    pair.break_contact()
    pair.payee.disk.authorised = 0
    pair.payee.crash()
    _agreed(pair)
    assert pair.payee.disk.authorised == 148


def test_a_payer_restored_from_a_backup_believes_its_own_signature() -> None:
    pair = _streaming(tokens=40)
    pair.break_contact()
    authorised = pair.payer.disk.authorised
    assert authorised > 148
    disk = pair.payer.disk
    disk.authorised, disk.settled, disk.settled_max = 148, 0, 0
    pair.payer.budgets.clear()
    pair.payer.crash()
    _agreed(pair)
    assert pair.payer.disk.authorised == pair.payer.channel.tally.authorised_micros == authorised


def test_a_voucher_shown_as_ours_that_is_not_ours_raises_nothing() -> None:
    pair = _streaming()
    pair.break_contact()
    pair.contacts += 1
    pair.payer.feed(events.ContactMade(contact=pair.contact))
    shown = events.StateReceived(
        contact=pair.contact, voucher_micros=9_000, voucher_signer=STRANGER, due_micros=130, sequence=1
    )
    pair.payer.feed(shown)
    assert pair.payer.channel.tally.authorised_micros == 148
    faults = [effect for effect in pair.payer.waiting if isinstance(effect, effects.ReportFault)]
    assert [fault.reason for fault in faults] == [Reason.WRONG_SIGNATURE]


def test_accounts_of_another_stream_are_passed_over() -> None:
    pair = _streaming()
    pair.make_contact()
    before = pair.payer.channel, pair.payee.channel
    old = events.StateReceived(
        contact=b"old", voucher_micros=0, voucher_signer=None, due_micros=0, sequence=0
    )
    pair.payer.feed(old)
    pair.payee.feed(events.AnswerReceived(contact=b"old", due_micros=0))
    assert (pair.payer.channel, pair.payee.channel) == before


def test_a_claim_that_the_ledger_does_not_know_counts_as_authorised() -> None:
    pair = _streaming()
    pair.payer.feed(events.ChannelClaimed(claimed_micros=500))
    assert pair.payer.waiting[0] == effects.RaiseAuthorised(amount_micros=500)
    assert pair.payer.channel.tally.authorised_micros == 500


def test_a_closing_channel_opens_nothing_finishes_what_lives_and_is_claimed() -> None:
    pair = _streaming()
    seen = pair.chain
    now = seen._replace(phase="closing", close_at_unix_s=86_400)
    pair.tell_chain(chain_events(seen, now), now)
    assert effects.ClaimNow(voucher_micros=148, close_at_unix_s=86_400) in pair.payee.waiting
    assert not pair.open(terms(2))
    pair.make(terms(1).request_id, 30, is_last=True)
    pair.settle_down()
    assert pair.payer.disk.settled == pair.payee.disk.settled == exact_cost(terms(1), 40)


def test_a_closed_channel_ends_what_lives_and_is_recorded() -> None:
    pair = _streaming()
    now = OnChain(phase="closed", deposit_micros=1_000_000, claimed_micros=148)
    pair.tell_chain(chain_events(pair.chain, now), now)
    pair.settle_down()
    closed = effects.RecordClosed(channel_id=CHANNEL, claimed_micros=148)
    assert closed in pair.payer.done
    assert closed in pair.payee.done
    assert not pair.payer.channel.live
    assert not pair.payee.channel.live
    before = pair.payee.channel
    pair.payee.feed(voucher(900))
    assert pair.payee.channel == before


def test_a_deposit_that_vanishes_stops_both_ends() -> None:
    pair = _streaming()
    gone = OnChain(phase="none")
    pair.tell_chain((events.FactWithdrawn(chain=gone),), gone)
    pair.settle_down()
    assert not pair.payer.channel.live
    assert not pair.payee.channel.live
    assert pair.payer.channel.tally.authorised_micros == 148


def test_a_deposit_that_shrinks_under_a_request_lets_nothing_more_through() -> None:
    pair = _streaming()
    less = pair.chain._replace(deposit_micros=150)
    pair.tell_chain(chain_events(pair.chain, less), less)
    pair.make(terms(1).request_id, 54)
    pair.settle_down()
    assert pair.payer.disk.authorised == 150
    assert pair.payee.disk.settled <= 150
    stops = [effect.reason for effect in pair.payer.done if isinstance(effect, effects.TellStop)]
    assert stops == ["channel_exhausted"]


def test_arrears_are_not_authorised_beyond_a_deposit_that_shrank() -> None:
    pair = PaidPair(cap_micros=296)
    pair.make_contact()
    pair.settle_down()
    for number in (1, 2):
        pair.open(terms(number))
    pair.settle_down()

    def sixteen_tokens_of(number: int) -> None:
        rid = terms(number).request_id
        pair.payer.feed(events.TokensReceived(request_id=rid, position=0, count=16))

    sixteen_tokens_of(1)
    pair.payer.pump(9)
    assert pair.payer.channel.tally.is_refused
    less = pair.chain._replace(deposit_micros=310)
    pair.tell_chain(chain_events(pair.chain, less), less)
    pair.cap_micros = 1 << 40
    sixteen_tokens_of(2)
    pair.payer.pump(9)
    assert pair.payer.disk.authorised == 310


PHASES: tuple[Phase, ...] = ("none", "open", "closing", "closed")
CHAINS = st.builds(
    OnChain,
    phase=st.sampled_from(PHASES),
    deposit_micros=st.integers(0, 9),
    claimed_micros=st.integers(0, 9),
    close_at_unix_s=st.sampled_from((0, 5, 6)),
)


@given(seen=CHAINS, now=CHAINS)
@settings(max_examples=100, deadline=None)
def test_the_events_between_two_looks_at_the_chain_lead_to_the_second(seen: OnChain, now: OnChain) -> None:
    channel = Channel(role="payee", channel_id=CHANNEL, signer=SIGNER, chain=seen)
    for event in chain_events(seen, now):
        channel, _ = step(channel, event, 0)
    found = channel.chain
    if now.phase == "none":
        assert found.phase == "none"
        return
    assert (found.phase, found.claimed_micros) == (now.phase, now.claimed_micros)
    if now.phase != "closed" or seen.phase in ("none", "open"):
        assert found.deposit_micros == now.deposit_micros
    if now.phase == "closing":
        assert found.close_at_unix_s == now.close_at_unix_s


def test_arrears_survive_a_restart() -> None:
    channel = restore(
        role="payer",
        channel_id=CHANNEL,
        signer=SIGNER,
        chain=OnChain(phase="open", deposit_micros=1_000),
        authorised_micros=148,
        settled_micros=160,
        settled_max_micros=160,
        sequence=1,
    )
    assert channel.tally.is_refused
    check_whole(channel)


@pytest.mark.parametrize(
    ("side", "changes", "message"),
    [
        ("payer", {"authorised_micros": 149}, "authorised 148 became 149"),
        ("payer", {"authorised_micros": 147}, "authorised 148 became 147"),
        ("payer", {"pledged_micros": 200}, "pledged 200 of 148 wanted"),
        ("payer", {"settled_micros": 200, "settled_max_micros": 200}, "348 wanted above 148 pledged"),
        ("payer", {"settled_max_micros": -1}, "above its maximum"),
        ("payee", {"written_off_micros": -1}, "not written off"),
        ("payee", {"live_due_micros": -1}, "or a sum < 0"),
        ("payee", {"live_due_micros": 1_000_001}, "above the deposit"),
        ("payee", {"pledged_micros": 1_000_001}, "was taken, above the deposit"),
    ],
)
def test_an_account_that_breaks_a_rule_is_found_at_once(
    side: str, changes: dict[str, Any], message: str
) -> None:
    pair = _streaming()
    before = pair.payer.channel if side == "payer" else pair.payee.channel
    after = before._replace(tally=before.tally._replace(**changes))
    with pytest.raises(BrokenInvariant, match=message):
        check_step(before, events.TimePassed(), after)


@pytest.mark.parametrize(
    ("side", "changes", "message"),
    [
        ("payer", {"target_micros": 400}, "targets of live requests"),
        ("payer", {"due_micros": 1}, "dues of live requests"),
        ("payer", {"tokens_out": 65, "tokens_made": 65}, "65 tokens of at most 64"),
        ("payee", {"tokens_out": 11}, "tokens are not worth"),
        ("payee", {"tokens_made": 9}, "10 released of 9 made"),
        ("payee", {"is_covered": False}, "covered: False"),
    ],
)
def test_a_request_that_breaks_a_rule_is_found(side: str, changes: dict[str, Any], message: str) -> None:
    pair = _streaming()
    channel = pair.payer.channel if side == "payer" else pair.payee.channel
    rid = terms(1).request_id
    with pytest.raises(BrokenInvariant, match=message):
        check_whole(channel._replace(live={rid: channel.live[rid]._replace(**changes)}))


def test_a_target_beyond_the_window_is_found() -> None:
    pair = _streaming()
    rid, channel = terms(1).request_id, pair.payer.channel
    live = {rid: channel.live[rid]._replace(target_micros=179)}
    tally = channel.tally._replace(live_target_micros=179)
    with pytest.raises(BrokenInvariant, match="target 179 beyond a window"):
        check_whole(channel._replace(live=live, tally=tally))
