"""Both ends of a channel over a link that loses, repeats, reorders, delays, replays and forges, with crashes
of either end between any two of its effects. The account in `paid_pair` holds what may never happen."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.market.paid_account import CHANNEL, SIGNER, exact_cost, terms
from tests.market.paid_pair import PaidPair, Side, voucher
from unhosted.market import channel_events as events
from unhosted.market.channel_checks import check_whole
from unhosted.market.channel_machine import chain_events
from unhosted.market.channel_states import OnChain
from unhosted.market.credit import window_tokens, write_off_max_micros
from unhosted.market.ids import Address, ChannelId, RequestId
from unhosted.market.money import Price

PRICES = (
    Price(in_micros_per_mtok=1_000_000, out_micros_per_mtok=3_000_000),
    Price(in_micros_per_mtok=100_000, out_micros_per_mtok=333_333),
    Price(in_micros_per_mtok=7, out_micros_per_mtok=50_000),
    Price(in_micros_per_mtok=0, out_micros_per_mtok=0),
)
SIDES: st.SearchStrategy[Side] = st.sampled_from(("payer", "payee"))
SMALL = st.integers(0, 7)
STRANGER = Address(b"\x66" * 20)


class PaidLink(RuleBasedStateMachine):
    """deposits are small enough to run dry, and the cap is small enough to bind."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = PaidPair()
        self.opened = 0

    @initialize(
        deposit=st.sampled_from((400, 2_000, 100_000)),
        cap=st.sampled_from((400, 3_000, 1 << 40)),
        credit=st.sampled_from((0, 60, 500)),
    )
    def begin(self, deposit: int, cap: int, credit: int) -> None:
        self.pair = PaidPair(deposit_micros=deposit, cap_micros=cap, credit_micros=credit)
        self.pair.make_contact()
        self.pair.settle_down()

    @rule(
        price=st.sampled_from(PRICES),
        tokens_in=st.sampled_from((0, 1, 100)),
        most=st.integers(1, 60),
        window=st.sampled_from((1, 4, 16)),
        rounds=SMALL,
    )
    def open(self, price: Price, tokens_in: int, most: int, window: int, rounds: int) -> None:
        self.opened += 1
        window = min(window, window_tokens(price))
        if self.pair.payer.channel.talk.stage != "agreed":
            self.pair.make_contact()
            self.pair.settle_down()
        self.pair.open(
            terms(self.opened, price=price, tokens_in=tokens_in, tokens_out_max=most, window=window)
        )
        self.run(rounds, 0)

    @rule(rounds=st.integers(1, 12), count=st.integers(0, 5))
    def run(self, rounds: int, count: int) -> None:
        """Work as usual: so that what disturbs it has something to disturb."""
        pair = self.pair
        for _ in range(rounds):
            for rid in list(pair.payee.channel.live):
                pair.make(rid, count)
            pair.payer.pump(2)
            pair.payee.pump(2)
            pair.deliver("payee")
            pair.deliver("payer")

    @rule(place=SMALL, count=st.integers(1, 20), is_last=st.booleans())
    def engine_makes(self, place: int, count: int, is_last: bool) -> None:
        live = list(self.pair.payee.channel.live)
        if live:
            self.pair.make(live[place % len(live)], count, is_last=is_last)

    @rule(side=SIDES, count=st.integers(1, 5))
    def perform(self, side: Side, count: int) -> None:
        self.pair.end(side).pump(count)

    @rule(to=SIDES, place=SMALL, is_kept=st.booleans())
    def deliver(self, to: Side, place: int, is_kept: bool) -> None:
        self.pair.deliver(to, place, is_kept=is_kept)

    @rule(to=SIDES)
    def deliver_all_in_order(self, to: Side) -> None:
        for end in (self.pair.payer, self.pair.payee):
            end.pump(50)
        while self.pair.link[to]:
            self.pair.deliver(to)

    @rule(to=SIDES, place=SMALL)
    def lose(self, to: Side, place: int) -> None:
        link = self.pair.link[to]
        if link:
            del link[place % len(link)]

    @rule(to=SIDES, place=st.integers(0, 1_000))
    def replay(self, to: Side, place: int) -> None:
        sent = self.pair.sent[to]
        if sent:
            self.pair.end(to).feed(sent[place % len(sent)])

    @rule(amount=st.integers(0, 200_000), is_ours=st.booleans())
    def forge_voucher(self, amount: int, is_ours: bool) -> None:
        """By a stranger, without a meaning, or for another channel."""
        channel = ChannelId(b"\xc2" * 32) if is_ours else CHANNEL
        forged = voucher(amount, signer=SIGNER if is_ours else STRANGER, channel=channel)
        self.pair.payee.feed(forged)
        self.pair.payee.feed(voucher(amount, signer=None))

    @rule(place=SMALL, position=st.integers(0, 60), count=st.integers(1, 70))
    def payee_sends_what_it_should_not(self, place: int, position: int, count: int) -> None:
        live = list(self.pair.payer.channel.live)
        rid = live[place % len(live)] if live else RequestId(bytes(32))
        self.pair.payer.feed(events.TokensReceived(request_id=rid, position=position, count=count))

    @rule(place=SMALL, tokens_out=st.integers(0, 99), end=st.sampled_from(("finished", "failed", "stopped")))
    def payee_claims_an_end(self, place: int, tokens_out: int, end: str) -> None:
        live = list(self.pair.payer.channel.live)
        if live:
            rid = live[place % len(live)]
            self.pair.payer.feed(events.EndReceived(request_id=rid, tokens_out=tokens_out, end=end))  # type: ignore[arg-type]

    @rule(side=SIDES, due=st.integers(0, 5_000), is_present=st.booleans())
    def lie_about_the_due(self, side: Side, due: int, is_present: bool) -> None:
        contact = self.pair.contact if is_present else b"elsewhere"
        if side == "payee":
            self.pair.payee.feed(events.AnswerReceived(contact=contact, due_micros=due))
            return
        state = events.StateReceived(
            contact=contact, voucher_micros=due, voucher_signer=STRANGER, due_micros=due, sequence=0
        )
        self.pair.payer.feed(state)

    @rule(hold=st.sampled_from((0, 10, 60, 499)), is_paid_now=st.booleans())
    def change_hold(self, hold: int, is_paid_now: bool) -> None:
        self.pair.hold(hold, RequestId(b"\x0d" * 32) if is_paid_now else None)

    @rule(side=SIDES, place=SMALL)
    def stop(self, side: Side, place: int) -> None:
        live = list(self.pair.end(side).channel.live)
        if live:
            rid = live[place % len(live)]
            self.pair.end(side).feed(events.StopWanted(request_id=rid, reason="cancelled"))

    @rule(side=SIDES)
    def crash(self, side: Side) -> None:
        self.pair.crash(side)

    @rule(is_back=st.booleans())
    def break_stream(self, is_back: bool) -> None:
        if is_back:
            self.pair.make_contact()
        else:
            self.pair.break_contact()

    @rule(seconds=st.sampled_from((1, 25, 130)))
    def pass_time(self, seconds: int) -> None:
        self.pair.pass_time(seconds)

    @rule(deposit=st.sampled_from((100, 2_500, 200_000)), kind=SMALL, claim=st.booleans())
    def chain_moves(self, deposit: int, kind: int, claim: bool) -> None:
        """Top-ups, claims, closes, and reorganisations that take them back."""
        seen, is_closing = self.pair.chain, kind == 0
        claimed = min(self.pair.payee.disk.authorised, deposit) if claim else seen.claimed_micros
        now = OnChain(
            phase="closing" if is_closing else "open",
            deposit_micros=deposit,
            claimed_micros=min(claimed, deposit),
            close_at_unix_s=90_000 if is_closing else 0,
        )
        self.pair.tell_chain(chain_events(seen, now), now)

    @invariant()
    def ends_are_sound(self) -> None:
        check_whole(self.pair.payer.channel)
        check_whole(self.pair.payee.channel)

    @invariant()
    def vouchers_never_fall_within_a_life(self) -> None:
        assert self.pair.payee.channel.tally.authorised_micros <= self.pair.payer.disk.authorised

    def teardown(self) -> None:
        """Once the link is good again, both agree on what is due, or the seller has stopped."""
        pair = self.pair
        if pair.chain.phase != "open" or pair.chain.deposit_micros < pair.payer.disk.authorised:
            # A payee grants no more than there is, until what a reorganisation took is back.
            now = OnChain(phase="open", deposit_micros=300_000)
            pair.tell_chain(chain_events(pair.chain, now), now)
        pair.cap_micros = 1 << 60
        pair.make_contact()
        pair.settle_down()
        payer, payee = pair.payer.channel, pair.payee.channel
        if payee.talk.stage == "disputed":
            tally = payee.tally
            denied = tally.settled_micros - payer.tally.settled_micros
            assert denied + tally.written_off_micros > write_off_max_micros(tally.authorised_micros)
            return
        assert payer.talk.stage == payee.talk.stage == "agreed"
        assert payer.tally.settled_micros == payee.tally.settled_micros
        assert not payer.live and not payee.live


PaidLink.TestCase.settings = settings(
    max_examples=150,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
TestPaidLink = pytest.mark.slow(PaidLink.TestCase)


@pytest.mark.slow
@given(
    wanted=st.lists(
        st.tuples(
            st.sampled_from(PRICES),
            st.integers(0, 200),
            st.integers(1, 80),
            st.integers(1, 40),
            st.integers(0, 80),
        ),
        min_size=1,
        max_size=7,
    ),
    order=st.lists(st.tuples(SMALL, st.integers(1, 30), st.integers(0, 3)), max_size=60),
)
@settings(max_examples=150, deadline=None)
def test_requests_that_share_a_channel_all_finish_and_every_due_is_exact(
    wanted: list[tuple[Price, int, int, int, int]], order: list[tuple[int, int, int]]
) -> None:
    """Whatever the pace of engines and link, nobody waits for ever for the other's money."""
    pair = PaidPair()
    pair.make_contact()
    pair.settle_down()
    left = {}
    due = 0
    for number, (price, tokens_in, most, window, tokens) in enumerate(wanted, 1):
        window = min(window, window_tokens(price))
        what = terms(number, price=price, tokens_in=tokens_in, tokens_out_max=most, window=window)
        assert pair.open(what)
        left[what.request_id] = min(tokens, most)
        due += exact_cost(what, min(tokens, most))
    pair.settle_down()
    for place, count, moves in order:
        rid = list(left)[place % len(left)]
        piece = min(count, left[rid])
        left[rid] -= piece
        pair.make(rid, piece)
        for _ in range(moves):
            pair.payer.pump()
            pair.payee.pump()
            pair.deliver("payee")
            pair.deliver("payer")
    for rid, count in left.items():
        pair.make(rid, count, is_last=True)
    pair.settle_down()
    for end in (pair.payer, pair.payee):
        assert not end.channel.live
        assert end.disk.settled == end.channel.tally.settled_micros == due
    assert pair.payee.disk.authorised == pair.payer.disk.authorised >= due
    assert not pair.payee.channel.tally.written_off_micros


class GoodLink(RuleBasedStateMachine):
    """Honest ends, a stream that keeps its order and nobody dying: then every due is exact at every end."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = PaidPair(deposit_micros=1_000_000)
        self.pair.make_contact()
        self.pair.settle_down()
        self.opened = 0
        self.due = 0

    @rule(
        price=st.sampled_from(PRICES),
        tokens_in=st.integers(0, 200),
        most=st.integers(1, 80),
        tokens=st.data(),
    )
    def request(self, price: Price, tokens_in: int, most: int, tokens: st.DataObject) -> None:
        self.opened += 1
        window = tokens.draw(st.integers(1, min(window_tokens(price), 40)))
        what = terms(self.opened, price=price, tokens_in=tokens_in, tokens_out_max=most, window=window)
        others = list(self.pair.payee.channel.live)
        assert self.pair.open(what)
        self.pair.settle_down()
        made = 0
        count = tokens.draw(st.integers(0, most))
        while made < count:
            piece = tokens.draw(st.integers(1, count - made))
            made += piece
            self.pair.make(what.request_id, piece)
            if tokens.draw(st.booleans()):
                self.pair.settle_down()
        if count < most:
            self.pair.make(what.request_id, 0, is_last=True)
        self.pair.settle_down()
        self.due += exact_cost(what, count)
        assert others == list(self.pair.payee.channel.live)

    @invariant()
    def dues_are_exact(self) -> None:
        for end in (self.pair.payer, self.pair.payee):
            assert end.channel.tally.settled_micros == self.due
            assert end.disk.settled == self.due
            assert end.channel.tally.authorised_micros >= self.due
            assert not end.channel.tally.written_off_micros


GoodLink.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=8,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestGoodLink = pytest.mark.slow(GoodLink.TestCase)
