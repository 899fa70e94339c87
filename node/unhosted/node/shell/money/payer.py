"""The buying end of a paid stream: tokens come, windows are authorised in the ledger, vouchers go.

One stream carries one channel. Whatever ends it, cancellation and kill included, what was signed stands in
the ledger: the next stream begins with both ends agreeing on what is settled.
"""

import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from unhosted.market import channel_effects as effects
from unhosted.market import channel_events as events
from unhosted.market import messages
from unhosted.market.channel_effects import Effect, StopReason
from unhosted.market.channel_events import Event
from unhosted.market.channel_machine import chain_events
from unhosted.market.channel_states import Channel, EndKind, OnChain, restore
from unhosted.market.channels import Deployment, SignedVoucher
from unhosted.market.ids import ModelHash, RequestId
from unhosted.market.messages import CONTACT_BYTES, CloseSigned
from unhosted.market.money import Micros
from unhosted.market.roots import SALT_BYTES
from unhosted.market.terms import Terms
from unhosted.node.core.chain import Signer
from unhosted.node.core.errors import LocalFault, Refused
from unhosted.node.core.peering import Channel as Stream
from unhosted.node.core.peering import ChannelBroken
from unhosted.node.core.sampling_words import Sampling
from unhosted.node.shell.money.end import ChannelEnd
from unhosted.node.shell.money.kept_answers import KeptAnswers
from unhosted.node.shell.money.ledger import Ledger
from unhosted.node.shell.money.ledger_words import KnownChannel
from unhosted.node.shell.money.paid_answer import PaidAnswer
from unhosted.node.shell.money.paid_asks import Asking
from unhosted.node.shell.money.paid_close import CloseAsked
from unhosted.node.shell.money.paid_hold import HoldBack, let_go
from unhosted.node.shell.money.paid_receipts import Found, ReceiptsDue
from unhosted.node.shell.money.paid_stream import PaidStream
from unhosted.node.shell.money.paid_vouchers import ChannelVouchers
from unhosted.node.shell.money.paid_wire import (
    AckGiven,
    EngineStated,
    Hello,
    ReceiptGiven,
    StreamMessage,
    Tokens,
    WorkAsked,
)
from unhosted.node.shell.money.paid_words import refusal, stopped
from unhosted.node.shell.money.paid_writes import AuthoriseWrites, Write, raise_authorised
from unhosted.node.shell.peers.identity import Identity

GOODBYE_S = 10.0
"""Cancelled, this end still writes down what came and what it owes, unless the disk hangs."""

AGREE_S = 30.0
"""A seller looks at the chain and at its book before it says what is due."""

TopUp = Callable[[int], Awaitable[None]]
"""Asked for once per deposit, with what is missing at least (0: it is only running low)."""

_LOG = logging.getLogger(__name__)


class Payer:
    """`run` it over a stream to the seller; `open_request` once it has started."""

    def __init__(
        self,
        stream: Stream,
        *,
        known: KnownChannel,
        bonds: Deployment,
        chain: OnChain,
        ledger: Ledger,
        kept: KeptAnswers,
        signer: Signer,
        identity: Identity,
        top_up: TopUp | None = None,
        hold: HoldBack | None = None,
    ) -> None:
        """known: as the ledger has the channel. bonds: whose domain receipts are signed in. kept: where
        answers wait for their check. chain: what counts of the channel on it. signer: the channel's.
        identity: signs the requests; the stream is its own. top_up: None lets it run out. hold: which pay
        waits for checks.
        """
        row, self._hold = known.row, hold or HoldBack(requests=0)
        self._stream = PaidStream(stream)
        self._ledger, self._signer, self._top_up = ledger, signer, top_up
        self._known, self._vouchers = known, ChannelVouchers(known.deployment, row.channel_id)
        self._asking = Asking(identity, stream.peer)
        self._receipts = ReceiptsDue(
            bonds,
            seller=stream.peer,
            payee=known.config.payee,
            of=row.channel_id,
            kept=kept,
            break_off=self._stream.break_off,
        )
        self._answers: dict[RequestId, PaidAnswer] = {}
        self._writes = AuthoriseWrites(ledger, refused=self._unauthorised)
        self._opening = trio.Lock()
        self._shown: SignedVoucher | None = None
        self._agreed = trio.Event()
        self._close = CloseAsked()
        self._nursery: trio.Nursery | None = None
        self.faults: list[effects.ReportFault] = []
        self.end = ChannelEnd(
            restore(
                role="payer",
                channel_id=row.channel_id,
                signer=known.config.signer,
                chain=chain,
                authorised_micros=row.authorised_micros,
                settled_micros=row.due_min_micros,
                settled_max_micros=row.due_max_micros,
                sequence=0,
            ),
            perform=self._perform,
            fed=self._fed,
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until the stream ends or is cancelled; started once both ends agree on what is settled.

        Raises: RemoteFault for a message that is none; Refused without agreement, or if the ledger fails.
        """
        contact, known = os.urandom(CONTACT_BYTES), self._known
        hello = Hello(
            contact=contact,
            deployment=known.deployment,
            config=known.config,
            signature=self._vouchers.sign_hello(self._signer, contact),
        )
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                await nursery.start(self.end.run)
                await self.end.feed(events.ContactMade(contact=contact))
                await self._stream.send(hello)
                nursery.start_soon(self._report_agreement, task_status)
                await self._read()
                if not self._agreed.is_set():
                    raise Refused("peer_unreachable", "the seller did not say what is due on the channel")
                nursery.cancel_scope.cancel()
        finally:
            self._nursery = None
            self._stream.break_off()  # what is left is for the disk, whatever the peer takes
            with trio.CancelScope(shield=True), trio.move_on_after(GOODBYE_S):
                await self.end.finish(events.ContactLost())
            await self._release_rest()
            with trio.CancelScope(shield=True), trio.move_on_after(GOODBYE_S):
                await self._receipts.close()
            self._close.answer(refusal("no_contact"))

    @asynccontextmanager
    async def open_request(
        self,
        terms: Terms,
        *,
        prompt_ids: tuple[int, ...],
        model: ModelHash,
        sampling: Sampling,
        is_kept: bool = True,
    ) -> AsyncIterator[PaidAnswer]:
        """Reserve its most under the cap, sign and send the request, and pay as tokens come; leaving early
        stops it.

        sampling: with the seed. is_kept: False leaves prompt and output out of the store: nothing is checked.
        Raises: Refused: the ledger's, or why the channel cannot take it; nothing was sent then.
        """
        request_id, salt = terms.request_id, os.urandom(SALT_BYTES)
        make = await self._asking.prepare(
            terms, prompt_ids=prompt_ids, model=model, sampling=sampling, salt=salt
        )
        answer = PaidAnswer(terms, salt=salt, is_kept=is_kept)
        try:
            await self._ledger.reserve(request_id, terms.channel_id, terms.cost_micros_max)
        except Refused as why:
            if why.details.get("reason") == "deposit":
                self._ask_top_up(terms.cost_micros_max)
            raise
        try:
            await self._ask(answer, make)
        except BaseException:
            with trio.CancelScope(shield=True), trio.move_on_after(GOODBYE_S):
                if not answer.was_accepted:  # nobody heard of it
                    await self._ledger.finish(request_id, 0)
                else:
                    await self._stop(answer)
            raise
        try:
            yield answer
        finally:
            answer.leave()
            with trio.CancelScope(shield=True), trio.move_on_after(GOODBYE_S):
                await self._stop(answer)

    async def close(self) -> CloseSigned:
        """Agree on closing the channel with what is settled; the surplus comes back.

        Raises: Refused if requests are live, or the seller does not sign; ask the contract then.
        """
        self._close.begin()
        await let_go(self.end, self._ledger, self._writes, self._known.row.channel_id)
        await self.end.feed(events.CloseWanted())
        return await self._close.wait()

    async def offer_top_up(self, allocation: messages.Allocation) -> None:
        """Ask the seller to send a larger allocation; the chain shows whether it did."""
        of = self._known.row.channel_id
        await self._stream.send(messages.TopUpOffer(channel_id=of, allocation=allocation))

    async def note_chain(self, now: OnChain) -> None:
        for event in chain_events(self.end.channel.chain, now):
            await self.end.feed(event)

    async def _report_agreement(self, task_status: trio.TaskStatus[None]) -> None:
        with trio.move_on_after(AGREE_S):
            await self._agreed.wait()
            task_status.started()
            return
        self._stream.break_off()

    async def _ask(self, answer: PaidAnswer, make: Callable[[int], WorkAsked]) -> None:
        """In one go per channel: the seller takes sequence numbers only upwards."""
        terms = answer.terms
        async with self._opening:
            if self._nursery is None:
                raise refusal("no_contact")
            sequence = self.end.channel.talk.sequence + 1
            self._answers[terms.request_id] = answer
            await self.end.feed(
                events.RequestOpened(terms=terms, sequence=sequence, reserved_micros=terms.cost_micros_max)
            )
            await answer.decided.wait()
            if answer.refused is not None:
                raise answer.refused
            answer.ask = make(sequence)
            await self._receipts.expect(answer)
            await self._stream.send(answer.ask)

    def _ask_top_up(self, needed_micros: int) -> None:
        if self._nursery is not None and self._top_up is not None:
            self._nursery.start_soon(self._top_up, needed_micros)

    async def _stop(self, answer: PaidAnswer) -> None:
        if not answer.ended.is_set():
            await self.end.feed(events.StopWanted(request_id=answer.terms.request_id, reason="cancelled"))
            await answer.ended.wait()

    async def _read(self) -> None:
        try:
            await self._stream.read(self._hear)
        except ChannelBroken as broken:
            _LOG.info("paid_stream_broken why=%s", broken)

    async def _release_rest(self) -> None:
        """Whatever kept an ending from being written: the ledger then holds possible what was authorised."""
        for request_id, answer in list(self._answers.items()):
            answer.refuse(refusal("no_contact"))
            if answer.was_accepted:  # of any other nobody heard, and who asked ends it
                with trio.CancelScope(shield=True), trio.move_on_after(GOODBYE_S):
                    await self._ledger.release(request_id)
            self._over(answer, "lost", tokens_out=0, due_micros=0)

    async def _hear(self, message: StreamMessage) -> None:
        match message:
            case Tokens():
                if (answer := self._answers.get(message.request_id)) is not None:
                    if (unsigned := self._receipts.unsigned(answer)) is not None:
                        return await self._receipted((unsigned,))
                    await answer.take(message)
                event: Event = events.TokensReceived(
                    request_id=message.request_id, position=message.position, count=len(message.ids)
                )
            case messages.ChannelState():
                self._shown = message.voucher
                event = self._vouchers.state_event(message)
            case messages.VoucherNeeded():
                event = events.VoucherAsked(request_id=message.request_id)
            case messages.RequestEnd():
                if message.refusal is not None and message.request_id in self._answers:
                    self._answers[message.request_id].refuse(refusal(message.refusal))
                event = events.EndReceived(
                    request_id=message.request_id, tokens_out=message.tokens_out, end=message.end
                )
            case EngineStated() | AckGiven() | ReceiptGiven():
                return await self._receipted(await self._receipts.hear(message))
            case messages.RelayAnswer(transaction=None, message=why):
                return _LOG.warning("top_up_refused why=%s", why)
            case CloseSigned():
                return self._close.answer(message)
            case messages.CloseRefused():
                return self._close.answer(refusal(message.reason))
            case _:
                return
        await self.end.feed(event)

    def _report(self, fault: effects.ReportFault) -> None:
        self.faults.append(fault)
        _LOG.warning("seller_fault reason=%s", fault.reason.value)

    async def _receipted(self, found: Found) -> None:
        for one in found:
            if isinstance(one, effects.ReportFault):
                self._report(one)
            else:
                await self._stream.send(one)

    def _fed(self, channel: Channel, event: Event) -> None:
        if isinstance(event, events.RequestOpened) and event.terms.request_id in channel.live:
            answer = self._answers[event.terms.request_id]
            answer.was_accepted = True
            answer.decided.set()
        if channel.talk.stage == "agreed":
            self._agreed.set()

    async def _perform(self, effect: Effect) -> None:
        of = self._known.row.channel_id
        match effect:
            case effects.Authorise():
                await self._authorise_soon(effect)
            case effects.SignVoucher(amount_micros=amount):
                signed = self._vouchers.sign(self._signer, amount)
                await self._stream.send(messages.VoucherMessage(signed=signed))
            case effects.SettleRequest():
                await self._settle(effect)
            case effects.SettleTotal(settled_micros=settled):
                await self._ledger.note_due(of, settled)
            case effects.RaiseAuthorised(amount_micros=amount):
                deposit = self.end.channel.chain.deposit_micros
                await raise_authorised(
                    self._ledger, self._vouchers, of, amount, shown=self._shown, deposit_micros=deposit
                )
            case effects.RefuseRequest(request_id=request_id, reason=why):
                answer = self._answers.pop(request_id)
                answer.refuse(refusal(why))
                answer.finish("failed", tokens_out=0, due_micros=0)
            case effects.AskTopUp(needed_micros=needed):
                self._ask_top_up(needed)
            case effects.TellStop(request_id=request_id, reason=reason):
                await self._tell_stop(request_id, reason)
            case effects.TellAnswer(contact=contact, due_micros=due):
                answered = messages.StateAnswer(contact=contact, channel_id=of, due_micros=Micros(due))
                await self._stream.send(answered)
            case effects.BreakContact():
                self._stream.break_off()
            case effects.OfferClose(amount_micros=amount):
                await self._stream.send(messages.CloseOffer(signed=self._vouchers.sign(self._signer, amount)))
            case effects.RefuseClose(reason=why):
                self._close.answer(refusal(why))
            case effects.RecordClosed(claimed_micros=claimed):
                await self._ledger.note_closed(of, claimed)
            case effects.ReportFault():
                self._report(effect)
            case _:
                raise LocalFault(f"{type(effect).__name__} is not for a payer")

    async def _authorise_soon(self, effect: effects.Authorise) -> None:
        write = self._writes.begin(effect)
        if self._nursery is None:  # the stream is over: nothing else runs that could share the commit
            self.end.answer(await write())
        else:
            self._nursery.start_soon(self._authorise, write)

    async def _authorise(self, write: Write) -> None:
        await self.end.feed(await write())

    def _unauthorised(self, request_id: RequestId, why: Refused) -> None:
        if (answer := self._answers.get(request_id)) is not None:
            answer.refuse(why)

    async def _settle(self, effect: effects.SettleRequest) -> None:
        if (answer := self._answers.get(effect.request_id)) is None:
            return  # begun again: it is written down, only the thanks were cut short
        await self._writes.wait(effect.request_id)
        due, due_max = effect.due_micros, effect.due_max_micros
        with trio.CancelScope(shield=True):
            await self._ledger.finish(effect.request_id, due, due_max_micros=due_max)
        self.end.answer(self._hold.after(due, self.end.channel))
        if effect.end == "lost":
            answer.refuse(stopped("stalled"))
        self._over(answer, effect.end, tokens_out=effect.tokens_out, due_micros=due)
        await self._receipted(await self._receipts.ended(answer))

    def _over(self, answer: PaidAnswer, end: EndKind, *, tokens_out: int, due_micros: int) -> None:
        self._answers.pop(answer.terms.request_id, None)
        if end == "failed":
            answer.refuse(stopped("engine_failed"))
        answer.finish(end, tokens_out=tokens_out, due_micros=due_micros)

    async def _tell_stop(self, request_id: RequestId, reason: StopReason) -> None:
        answer = self._answers.get(request_id)
        if answer is not None and reason != "cancelled":
            answer.refuse(stopped(reason))
        await self._stream.send(messages.StopRequest(request_id=request_id, reason=reason))
