"""Both ends of a channel over a link that a test controls, with a ledger, a book and an account of its own.

An end performs its effects one by one when it is pumped, so that a test can crash it between any two of
them; what was durable then comes back. Messages travel as the events that they cause at the other side. The
account (`Account`) counts what really happened, with formulas of its own, and says whether a rule of money
was broken.
"""

from collections import deque
from collections.abc import Iterable
from typing import Literal

from tests.market.paid_account import CHANNEL, SIGNER, Account, exact_cost, exact_window
from unhosted.market import channel_effects as effects
from unhosted.market import channel_events as events
from unhosted.market.channel_effects import Effect
from unhosted.market.channel_events import Event
from unhosted.market.channel_machine import step
from unhosted.market.channel_states import Channel, OnChain, restore
from unhosted.market.ids import Address, ChannelId, RequestId, Signature
from unhosted.market.terms import Terms

SECOND_NS = 1_000_000_000
Side = Literal["payer", "payee"]


class Disk:
    """What survives the death of an end."""

    def __init__(self) -> None:
        self.authorised = 0
        self.settled = 0
        self.settled_max = 0
        self.sequence = 0
        self.written_off = 0
        self.is_winding_up = False
        self.hold = 0
        self.signature = Signature(b"")


class End:
    """One end: its machine, its disk, and the effects that wait to be performed."""

    def __init__(self, side: Side, pair: "PaidPair") -> None:
        self.side = side
        self.pair = pair
        self.disk = Disk()
        self.budgets: dict[RequestId, int] = {}
        self.waiting: deque[Effect] = deque()
        self.done: list[Effect] = []
        self.channel = self._restored()

    def feed(self, event: Event) -> None:
        before = self.channel
        self.channel, todo = step(self.channel, event, self.pair.now_ns)
        self.pair.watch(self, before, event)
        self.waiting.extend(todo)

    def crash(self) -> None:
        """Lose everything but the disk; the stream breaks with it."""
        self.waiting.clear()
        if self.side == "payer":
            # The ledger's own rule for requests of a dead process: anything up to their budgets may be due.
            self.disk.settled_max += sum(self.budgets.values())
            self.budgets.clear()
        self.channel = self._restored()

    def pump(self, count: int = 1) -> None:
        for _ in range(count):
            if self.waiting:
                effect = self.waiting.popleft()
                self.done.append(effect)
                (self._pay if self.side == "payer" else self._serve)(effect)

    def seen(self, kind: type) -> list[Effect]:
        """The effects of one kind that were performed, in order."""
        return [effect for effect in self.done if type(effect) is kind]

    def _restored(self) -> Channel:
        disk = self.disk
        return restore(
            role=self.side,
            channel_id=CHANNEL,
            signer=SIGNER,
            chain=self.pair.chain,
            authorised_micros=disk.authorised,
            settled_micros=disk.settled,
            settled_max_micros=disk.settled_max if self.side == "payer" else disk.settled,
            sequence=disk.sequence,
            written_off_micros=disk.written_off,
            is_winding_up=disk.is_winding_up,
            credit_micros=self.pair.credit_micros if self.side == "payee" else 0,
            hold_micros=disk.hold,
        )

    def _pay(self, effect: Effect) -> None:
        disk, pair = self.disk, self.pair
        match effect:
            case effects.Authorise(request_id=rid, delta_micros=delta):
                if disk.authorised + delta > pair.cap_micros:
                    refusal = events.AuthorisationRefused(
                        request_id=rid, delta_micros=delta, reason="cap_reached"
                    )
                    self.feed(refusal)
                    return
                disk.authorised += delta
                self.feed(events.Authorised(request_id=rid, total_micros=disk.authorised))
            case effects.SignVoucher(amount_micros=amount):
                pair.account.signed.append(amount)
                assert amount <= disk.authorised, f"{amount} signed, {disk.authorised} committed"
                pair.send("payee", voucher(amount))
            case effects.RaiseAuthorised(amount_micros=amount):
                disk.settled_max += max(amount - disk.authorised, 0)
                disk.authorised = max(disk.authorised, amount)
            case effects.SettleRequest(request_id=rid, due_micros=due, due_max_micros=due_max):
                disk.settled += due
                disk.settled_max += due_max
                self.budgets.pop(rid, None)
            case effects.SettleTotal(settled_micros=settled):
                assert disk.settled <= settled <= disk.settled_max
                disk.settled = disk.settled_max = settled
            case effects.TellStop(request_id=rid):
                pair.send("payee", events.StopReceived(request_id=rid))
            case effects.TellAnswer(contact=contact, due_micros=due):
                pair.send("payee", events.AnswerReceived(contact=contact, due_micros=due))
            case effects.OfferClose(amount_micros=amount):
                disk.is_winding_up = True
                signature = Signature(amount.to_bytes(65, "big"))
                pair.send(
                    "payee", events.CloseOffered(amount_micros=amount, signer=SIGNER, signature=signature)
                )
            case effects.RefuseRequest(request_id=rid):
                self.budgets.pop(rid, None)
            case effects.BreakContact(contact=contact):
                if contact == pair.contact:
                    pair.break_contact()
            case _:
                pass

    def _credit(self) -> int:
        return min(self.pair.credit_micros, self.disk.authorised // 4)

    def _serve(self, effect: Effect) -> None:
        disk, pair, account = self.disk, self.pair, self.pair.account
        disk.sequence = max(disk.sequence, self.channel.talk.sequence)
        match effect:
            case effects.StoreVoucher(amount_micros=amount, signature=signature):
                assert disk.authorised < amount <= pair.deposit_micros_max
                disk.authorised, disk.signature = amount, signature
                self.feed(events.VoucherStored(amount_micros=amount))
            case effects.ReleaseTokens(request_id=rid, position=position):
                start = account.released[rid]
                account.released[rid] = position
                message = events.TokensReceived(request_id=rid, position=start, count=position - start)
                pair.send("payer", message)
            case effects.StartWork(request_id=rid):
                account.released.setdefault(rid, 0)
                what = account.terms[rid]
                needed = exact_cost(what, min(what.window_tokens, what.tokens_out_max))
                assert disk.authorised + self._credit() >= needed, (
                    f"{needed} to begin, {disk.authorised} stored"
                )
            case effects.SettleRequest(due_micros=due):
                disk.settled += due
            case effects.SettleTotal(settled_micros=settled, written_off_micros=written_off):
                disk.settled, disk.written_off = settled, written_off
            case effects.TellEnd(request_id=rid, tokens_out=tokens_out, end=end):
                pair.send("payer", events.EndReceived(request_id=rid, tokens_out=tokens_out, end=end))
            case effects.RefuseRequest(request_id=rid):
                pair.send("payer", events.EndReceived(request_id=rid, tokens_out=0, end="failed"))
            case effects.TellState(voucher_micros=shown):
                state = events.StateReceived(
                    contact=effect.contact,
                    voucher_micros=shown,
                    voucher_signer=SIGNER if shown else None,
                    due_micros=effect.due_micros,
                    sequence=effect.sequence,
                    credit_micros=effect.credit_micros,
                )
                pair.send("payer", state)
            case effects.AskVoucher(request_id=rid):
                pair.send("payer", events.VoucherAsked(request_id=rid))
            case effects.SignClose():
                disk.is_winding_up = True
            case _:
                pass


def voucher(amount: int, *, signer: Address | None = SIGNER, channel: ChannelId = CHANNEL) -> Event:
    return events.VoucherReceived(
        channel_id=channel,
        amount_micros=amount,
        signer=signer,
        signature=Signature(amount.to_bytes(65, "big")),
    )


class PaidPair:
    """Two ends, the link between them, the chain that both see, and the account of what happened."""

    def __init__(
        self, *, deposit_micros: int = 1_000_000, cap_micros: int = 1 << 60, credit_micros: int = 0
    ) -> None:
        self.now_ns = 0
        self.cap_micros = cap_micros
        self.credit_micros = credit_micros
        self.chain = OnChain(phase="open", deposit_micros=deposit_micros)
        self.deposit_micros_max = deposit_micros
        self.account = Account()
        self.link: dict[Side, deque[Event]] = {"payer": deque(), "payee": deque()}
        self.sent: dict[Side, list[Event]] = {"payer": [], "payee": []}
        self.contacts = 0
        self.crashed = False
        self.payer = End("payer", self)
        self.payee = End("payee", self)

    def end(self, side: Side) -> End:
        return self.payer if side == "payer" else self.payee

    def send(self, to: Side, message: Event) -> None:
        self.link[to].append(message)
        self.sent[to].append(message)

    @property
    def contact(self) -> bytes:
        return self.contacts.to_bytes(16, "big")

    def make_contact(self) -> None:
        """A new stream; what was in flight on the old one is gone."""
        self.break_contact()
        self.contacts += 1
        for end in (self.payer, self.payee):
            end.feed(events.ContactMade(contact=self.contact))

    def break_contact(self) -> None:
        self.link["payer"].clear()
        self.link["payee"].clear()
        for end in (self.payer, self.payee):
            if end.channel.talk.stage != "lost":
                end.feed(events.ContactLost())

    def crash(self, side: Side) -> None:
        self.crashed = True
        if side == "payee":
            self._forget()
        else:
            for rid in self.payer.channel.live:
                # What it received counts no more: what it grants for it instead does.
                self.account.received.pop(rid, None)
        self.end(side).crash()
        self.break_contact()

    def open(self, what: Terms) -> bool:
        """Reserve, open at the payer and send it; whether the payer opened it."""
        rid, payer = what.request_id, self.payer
        sequence = payer.channel.talk.sequence + 1
        asked = events.RequestOpened(terms=what, sequence=sequence, reserved_micros=what.cost_micros_max)
        payer.budgets[rid] = what.cost_micros_max
        self.account.terms[rid] = what
        payer.feed(asked)
        if rid not in payer.channel.live:
            return False
        self.account.received.setdefault(rid, 0)
        self.send("payee", asked)
        return True

    def hold(self, hold_micros: int, release_as: RequestId | None = None) -> None:
        """Written down before it is done: a payer that comes back knows what it may owe."""
        self.payer.disk.hold = hold_micros
        self.payer.feed(events.HoldChanged(hold_micros=hold_micros, request_id=release_as))

    def deliver(self, to: Side, place: int = 0, *, is_kept: bool = False) -> None:
        """Hand over the message at `place`; kept ones come again."""
        link = self.link[to]
        if link:
            message = link[place % len(link)]
            if not is_kept:
                del link[place % len(link)]
            self.end(to).feed(message)

    def make(self, rid: RequestId, count: int, *, is_last: bool = False) -> None:
        """The engine's step; nothing where it was not started."""
        live = self.payee.channel.live.get(rid)
        if live is not None and live.is_covered:
            self.account.released.setdefault(rid, 0)
            self.payee.feed(events.TokensMade(request_id=rid, count=count, is_last=is_last))

    def settle_down(self) -> None:
        """Perform and deliver everything in order until nothing moves."""
        while self.payer.waiting or self.payee.waiting or any(self.link.values()):
            self.payer.pump()
            self.payee.pump()
            self.deliver("payee")
            self.deliver("payer")

    def pass_time(self, seconds: int) -> None:
        self.now_ns += seconds * SECOND_NS
        self.payer.feed(events.TimePassed())
        self.payee.feed(events.TimePassed())

    def tell_chain(self, found: Iterable[Event], chain: OnChain) -> None:
        self.chain = chain
        self.deposit_micros_max = max(self.deposit_micros_max, chain.deposit_micros)
        for event in found:
            self.payer.feed(event)
            self.payee.feed(event)

    def watch(self, end: End, before: Channel, event: Event) -> None:
        """Keep the account's own counts, and compare after each step."""
        account, after = self.account, end.channel
        if end.side == "payer":
            if isinstance(event, events.TokensReceived) and event.request_id in before.live:
                had = account.received[event.request_id]
                if event.position <= had:
                    most = account.terms[event.request_id].tokens_out_max
                    account.received[event.request_id] = min(max(had, event.position + event.count), most)
            for rid in before.live:
                if rid not in after.live:
                    account.ended_at_payer.add(rid)
            self._watch_grant(before, event, after)
            self._check_payer(before, event, after)
        else:
            self._check_payee(before, after)

    def _watch_grant(self, before: Channel, event: Event, after: Channel) -> None:
        """Settled by agreement, beyond what came: possible only within what was authorised."""
        if isinstance(event, events.StateReceived):
            beyond = after.tally.settled_micros - before.tally.settled_micros
            if beyond > 0:
                covered = after.tally.authorised_micros + self.payer.disk.hold
                assert after.tally.settled_micros <= max(before.tally.settled_micros, covered)
                self.account.granted_micros += beyond
        if isinstance(event, events.StateReceived | events.ChainEvent):
            self.account.granted_micros += max(
                after.tally.authorised_micros - before.tally.authorised_micros, 0
            )

    def _check_payer(self, before: Channel, event: Event, after: Channel) -> None:
        old, new = before.tally, after.tally
        assert new.authorised_micros >= old.authorised_micros
        if new.pledged_micros > old.pledged_micros and not isinstance(event, events.Authorised):
            assert new.pledged_micros <= max(
                self.chain.deposit_micros, old.pledged_micros, new.authorised_micros
            )
            most = self.account.payable_micros()
            if isinstance(event, events.RequestOpened):
                what = event.terms
                most += exact_cost(what, min(what.window_tokens, what.tokens_out_max))
            assert new.pledged_micros <= most, f"{new.pledged_micros} pledged, {most} payable"

    def _check_payee(self, before: Channel, after: Channel) -> None:
        """Nothing leaves beyond the stored vouchers and one window, counted over the channel's whole life."""
        moved = [
            rid
            for rid, live in after.live.items()
            if rid in before.live and live.tokens_out > before.live[rid].tokens_out
        ]
        if not moved:
            return
        tally, windows = after.tally, [exact_window(after.live[rid].terms) for rid in moved]
        delivered = self._delivered_at(after)
        most = self.payee.disk.authorised + self.payee._credit() + max(windows)
        assert delivered - tally.written_off_micros - self.account.forgotten_micros <= most, (
            f"{delivered} delivered, {tally.written_off_micros} written off, {most} paid or on credit"
        )
        assert tally.authorised_micros == self.payee.disk.authorised, "released before it was durable"

    def _delivered_at(self, channel: Channel) -> int:
        counts = dict(self.account.released)
        for rid, live in channel.live.items():
            if live.is_covered:
                counts[rid] = max(counts.get(rid, 0), live.tokens_out)
        return sum(exact_cost(self.account.terms[rid], count) for rid, count in counts.items() if count)

    def _forget(self) -> None:
        """What a dying payee delivered and had not written down as due."""
        written = self.payee.disk.settled + self.payee.disk.written_off + self.account.forgotten_micros
        self.account.forgotten_micros += max(self._delivered_at(self.payee.channel) - written, 0)
