"""The selling end of a paid stream: vouchers come and are written down, then tokens go.

No token leaves before the voucher that pays for it, but for one window of credit, is on the disk; nothing
that is signed for tokens leaves before it is. The engine starts when prompt and first window are paid, and
waits where the buyer does.
"""

import logging
from collections.abc import Awaitable, Callable

import trio

from unhosted.market import channel_effects as effects
from unhosted.market import channel_events as events
from unhosted.market import messages
from unhosted.market.acks import ack_due
from unhosted.market.channel_effects import Effect, RefuseReason
from unhosted.market.channel_machine import chain_events
from unhosted.market.channel_states import LIVE_REQUESTS_MAX, EndKind, OnChain, restore
from unhosted.market.channels import Deployment, SignedVoucher, Voucher, channel_id
from unhosted.market.eip712 import channels_separator, close_digest
from unhosted.market.faults import Reason, RemoteFault
from unhosted.market.ids import RequestId, Signature
from unhosted.market.money import Micros
from unhosted.node.core.chain import Signer
from unhosted.node.core.errors import LocalFault, Refused
from unhosted.node.core.peering import Channel as Stream
from unhosted.node.core.peering import ChannelBroken
from unhosted.node.shell.money.end import ChannelEnd
from unhosted.node.shell.money.paid_asks import check_ask, check_prompt
from unhosted.node.shell.money.paid_jobs import Job, Sale, job_of
from unhosted.node.shell.money.paid_proofs import SellerProofs, delivered_of
from unhosted.node.shell.money.paid_stream import PaidStream
from unhosted.node.shell.money.paid_vouchers import ChannelVouchers
from unhosted.node.shell.money.paid_wire import (
    PIECE_TOKENS_MAX,
    Hello,
    StreamMessage,
    Tokens,
    WorkAsked,
)
from unhosted.node.shell.money.seller_book import SellerBook
from unhosted.node.shell.money.seller_words import SoldChannel

HELD_TOKENS_MAX = 256
"""What the engine may make ahead of what is paid: beyond it the work waits, since it might be for nothing."""

FAULTS_MAX = 8
"""Broken rules on one stream before it ends: an old voucher in flight is none, forgeries are."""

GOODBYE_S = 10.0
"""Cancelled, this end still writes down what it delivered, unless the disk hangs."""

TopUp = Callable[[messages.TopUpOffer], Awaitable[messages.RelayAnswer]]
OnClose = Callable[[int, Signature], None]
"""With the amount in micro-USDC, and the buyer's voucher over it."""

_LOG = logging.getLogger(__name__)


class Payee:
    """`run` it over a stream from the buyer."""

    def __init__(
        self,
        stream: Stream,
        *,
        sold: SoldChannel,
        chain: OnChain,
        bonds: Deployment,
        book: SellerBook,
        signer: Signer,
        sale: Sale,
        hello: Hello | None = None,
        top_up: TopUp | None = None,
        on_close: OnClose | None = None,
        credit_micros: int = 0,
    ) -> None:
        """sold: as the book has it. chain: what counts of it on the chain. signer: the payee's key.

        hello: if the stream's first message was read already. top_up: sends a larger allocation.
        on_close: told of a close that was signed. credit_micros: what the buyer may leave unpaid until its
        answers were checked.
        """
        self._hello, self._top_up, self._on_close = hello, top_up, on_close
        self._stream = PaidStream(stream)
        self._book, self._signer, self._sale, self._sold = book, signer, sale, sold
        self._separator = channels_separator(sold.deployment)
        self._vouchers = ChannelVouchers(sold.deployment, sold.channel_id)
        self._proofs = SellerProofs(
            self._stream, of=sold.channel_id, book=book, signer=signer, bonds=bonds, sale=sale
        )
        self._jobs: dict[RequestId, Job] = {}
        self._best = sold.best
        self._nursery: trio.Nursery | None = None
        self._is_topping_up = self._has_given_again = False
        self.faults: list[effects.ReportFault] = []
        self.end = ChannelEnd(
            restore(
                role="payee",
                channel_id=sold.channel_id,
                signer=sold.config.signer,
                chain=chain,
                authorised_micros=sold.best_micros,
                settled_micros=sold.settled_micros,
                settled_max_micros=sold.settled_micros,
                sequence=sold.sequence,
                written_off_micros=sold.written_off_micros,
                is_winding_up=sold.is_winding_up,
                credit_micros=credit_micros,
            ),
            perform=self._perform,
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until the stream ends, breaks or is cancelled; what was delivered is settled then.

        Raises: Refused when the book cannot be written: the stream ends, and nothing more is given.
        """
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                await nursery.start(self.end.run)
                task_status.started()
                if self._hello is not None:
                    await self._greet(self._hello)
                await self._read()
                nursery.cancel_scope.cancel()
        finally:
            self._nursery = None
            self._stream.break_off()  # what is left is for the disk, whatever the peer takes
            with trio.CancelScope(shield=True), trio.move_on_after(GOODBYE_S):
                await self.end.finish(events.ContactLost())

    async def note_chain(self, now: OnChain) -> None:
        """What the chain says of the channel now."""
        for event in chain_events(self.end.channel.chain, now):
            await self.end.feed(event)

    async def _read(self) -> None:
        try:
            await self._stream.read(self._hear)
        except ChannelBroken as broken:
            _LOG.info("paid_stream_broken why=%s", broken)
        except RemoteFault as fault:
            self._report(effects.ReportFault(reason=fault.reason, message=fault.message))

    async def _hear(self, message: StreamMessage) -> None:
        match message:
            case Hello():
                await self._greet(message)
            case WorkAsked():
                await self._asked(message)
            case messages.VoucherMessage(signed=signed):
                voucher = signed.voucher
                heard = events.VoucherReceived(
                    channel_id=voucher.channel_id,
                    amount_micros=voucher.amount_micros,
                    signer=self._vouchers.signed_by(signed),
                    signature=signed.signature,
                )
                await self.end.feed(heard)
            case messages.StateAnswer():
                is_ours = message.channel_id == self._sold.channel_id
                contact = message.contact if is_ours else b""
                await self.end.feed(events.AnswerReceived(contact=contact, due_micros=message.due_micros))
                if not self._has_given_again:  # once a stream: it may be a hundred receipts
                    self._has_given_again = True
                    await self._proofs.give_again()
            case messages.ReceiptAck():
                await self._proofs.confirmed(message)
            case messages.StopRequest():
                await self.end.feed(events.StopReceived(request_id=message.request_id))
            case messages.TopUpOffer() if self._top_up is not None and self._nursery is not None:
                if not self._is_topping_up:  # another one meanwhile is for the next time that it is asked
                    self._is_topping_up = True
                    self._nursery.start_soon(self._answer_top_up, message, self._top_up)
            case messages.CloseOffer(signed=signed):
                by = self._vouchers.signed_by(signed)
                offered = events.CloseOffered(
                    amount_micros=signed.voucher.amount_micros, signer=by, signature=signed.signature
                )
                await self.end.feed(offered)
            case _:
                return

    async def _answer_top_up(self, offer: messages.TopUpOffer, top_up: TopUp) -> None:
        """Beside everything else, as it may wait for a block."""
        try:
            await self._stream.send(await top_up(offer))
        finally:
            self._is_topping_up = False

    async def _greet(self, hello: Hello) -> None:
        of = channel_id(hello.deployment, hello.config)
        if of != self._sold.channel_id:
            message = f"a stream for channel {of.hex()[:8]}"
            self._report(effects.ReportFault(reason=Reason.WRONG_CHANNEL, message=message))
            self._stream.break_off()
            return
        await self.end.feed(events.ContactMade(contact=hello.contact))

    async def _asked(self, ask: WorkAsked) -> None:
        """It must be signed, and for what is sold; all else about money is the machine's."""
        terms = ask.terms
        buyer, of = self._stream.peer, self._sold.channel_id
        if (fault := check_ask(ask, buyer=buyer, channel_id=of, sale=self._sale)) is not None:
            self._report(effects.ReportFault(reason=fault.reason, message=fault.message))
            failed = messages.RequestEnd(request_id=terms.request_id, tokens_out=0, end="failed")
            await self._stream.send(failed)
            return
        if terms.request_id in self._jobs:  # also one whose end is being written down
            await self._refuse(terms.request_id, "stale")
            return
        if len(self._jobs) >= LIVE_REQUESTS_MAX:  # the machine says the same, but holds no prompts
            await self._refuse(terms.request_id, "too_many_live")
            return
        self._jobs[terms.request_id] = job_of(ask)
        await self.end.feed(events.RequestOpened(terms=terms, sequence=ask.sequence))

    async def _perform(self, effect: Effect) -> None:
        match effect:
            case effects.StoreVoucher():
                await self._store(effect)
            case effects.StartWork(request_id=request_id):
                await self._start(request_id)
            case effects.ReleaseTokens(request_id=request_id, position=position):
                await self._release(self._jobs[request_id], request_id, position)
            case effects.AskVoucher(request_id=request_id, needed_micros=needed):
                asked = messages.VoucherNeeded(request_id=request_id, needed_micros=Micros(needed))
                await self._stream.send(asked)
            case effects.StopWork(request_id=request_id):
                if (job := self._jobs.get(request_id)) is not None:
                    job.scope.cancel()
            case effects.SettleRequest():
                await self._settle(effect)
            case effects.TellEnd(request_id=request_id, tokens_out=tokens_out, end=end):
                await self._tell_end(request_id, tokens_out, end)
            case effects.RefuseRequest(request_id=request_id, reason=reason):
                self._drop_refused(request_id)
                await self._refuse(request_id, reason)
            case effects.SettleTotal(settled_micros=settled, written_off_micros=written_off):
                await self._book.settle_total(
                    self._sold.channel_id, settled_micros=settled, written_off_micros=written_off
                )
            case effects.ReportFault():
                self._report(effect)
            case _:
                await self._perform_rare(effect)

    async def _perform_rare(self, effect: Effect) -> None:
        of = self._sold.channel_id
        match effect:
            case effects.TellState():
                state = messages.ChannelState(
                    contact=effect.contact,
                    channel_id=of,
                    voucher=self._best,
                    due_micros=Micros(effect.due_micros),
                    sequence=effect.sequence,
                    credit_micros=effect.credit_micros,
                )
                await self._stream.send(state)
            case effects.SignClose(amount_micros=amount):
                await self._book.note_winding_up(of)
                signature = self._signer.sign(close_digest(self._separator, of, amount_micros=amount))
                signed = messages.CloseSigned(
                    channel_id=of, amount_micros=Micros(amount), signature=signature
                )
                await self._stream.send(signed)
                if self._on_close is not None:
                    self._on_close(amount, effect.voucher_signature)
            case effects.RefuseClose(reason=reason, needed_micros=needed):
                refused = messages.CloseRefused(channel_id=of, reason=reason, needed_micros=Micros(needed))
                await self._stream.send(refused)
            case effects.ClaimNow() | effects.RecordClosed():
                return  # the watcher follows the chain itself, also while no stream is open
            case _:
                raise LocalFault(f"{type(effect).__name__} is not for a payee")

    async def _store(self, effect: effects.StoreVoucher) -> None:
        voucher = Voucher(channel_id=self._sold.channel_id, amount_micros=Micros(effect.amount_micros))
        signed = SignedVoucher(voucher=voucher, signature=effect.signature)
        live = self.end.channel.live
        covered = {key: one for key, one in live.items() if one.is_covered}
        await self._book.store_voucher(
            signed,
            live_micros={key: one.due_micros for key, one in covered.items()},
            delivered={key: delivered_of(self._jobs[key], one.tokens_out) for key, one in covered.items()},
        )
        self._best = signed
        self.end.answer(events.VoucherStored(amount_micros=effect.amount_micros))

    async def _start(self, request_id: RequestId) -> None:
        job = self._jobs[request_id]
        if self._nursery is None:
            return  # the stream is over before the work began
        if (fault := await check_prompt(job.ask)) is not None:
            self._report(effects.ReportFault(reason=fault.reason, message=fault.message))
            self.end.answer(events.StopWanted(request_id=request_id, reason="engine_failed"))
            return
        try:
            await self._proofs.open_request(job.ask)
        except Refused as why:
            _LOG.warning("paid_request_refused why=%s", why.code)
            self.end.answer(events.StopWanted(request_id=request_id, reason="engine_failed"))
            return
        if self._nursery is not None:
            self._nursery.start_soon(self._work, request_id, job)

    async def _work(self, request_id: RequestId, job: Job) -> None:
        """Run the engine; a failure of its own ends this request alone."""
        try:
            with job.scope:
                async with self._sale.work(job.ask) as pieces:
                    async for piece in pieces:
                        job.made.extend(piece.ids)
                        job.finish = piece.finish or job.finish
                        made = events.TokensMade(request_id=request_id, count=len(piece.ids))
                        await self.end.feed(made)
                        await self._wait_for_money(job)
                if job.finish is None and len(job.made) < job.ask.terms.tokens_out_max:
                    raise Refused("engine_failed", "the engine ended an answer and did not say why")
                await self.end.feed(events.TokensMade(request_id=request_id, count=0, is_last=True))
        except Refused as why:
            _LOG.warning("paid_work_failed why=%s", why.code)
            await self.end.feed(events.StopWanted(request_id=request_id, reason="engine_failed"))

    async def _wait_for_money(self, job: Job) -> None:
        while len(job.made) - job.released > HELD_TOKENS_MAX:
            await job.moved.wait()

    async def _release(self, job: Job, request_id: RequestId, position: int) -> None:
        while job.released < position:
            ids = tuple(job.made.ids[job.released : min(position, job.released + PIECE_TOKENS_MAX)])
            tokens = Tokens(request_id=request_id, position=job.released, ids=ids)
            job.released += len(ids)
            await self._stream.send(tokens)
            if ack_due(job.acknowledged, job.released):
                await self._proofs.acknowledge(job)
        moved, job.moved = job.moved, trio.Event()
        moved.set()

    async def _settle(self, effect: effects.SettleRequest) -> None:
        """A request that was never begun is in no book, and has no receipt."""
        job = self._jobs[effect.request_id]
        if await self._book.request(effect.request_id) is not None:
            is_owed = effect.due_micros > 0 or effect.tokens_out > 0
            job.receipt = await self._book.settle_request(
                effect.request_id,
                tokens_out=effect.tokens_out,
                due_micros=effect.due_micros,
                end=effect.end,
                make_receipt=self._proofs.maker(job, effect) if is_owed else None,
                channel_id=self._sold.channel_id,
            )
        if effect.end == "lost":  # its end is told to nobody
            del self._jobs[effect.request_id]

    async def _tell_end(self, request_id: RequestId, tokens_out: int, end: EndKind) -> None:
        job = self._jobs[request_id]
        await self._stream.send(messages.RequestEnd(request_id=request_id, tokens_out=tokens_out, end=end))
        if job.receipt is not None:
            await self._proofs.give(job.receipt)
        del self._jobs[request_id]

    async def _refuse(self, request_id: RequestId, reason: RefuseReason) -> None:
        refused = messages.RequestEnd(request_id=request_id, tokens_out=0, end="failed", refusal=reason)
        await self._stream.send(refused)

    def _drop_refused(self, request_id: RequestId) -> None:
        if request_id not in self.end.channel.live:
            self._jobs.pop(request_id, None)

    def _report(self, fault: effects.ReportFault) -> None:
        self.faults.append(fault)
        if len(self.faults) > FAULTS_MAX:
            self._stream.break_off()
        _LOG.warning("buyer_fault reason=%s", fault.reason.value)
