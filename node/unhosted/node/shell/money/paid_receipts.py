"""What a buyer takes for an acknowledgement and for a receipt, and how both are kept for the check."""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

from unhosted.market.acks import SignedAck, ack_digest, ack_due, contradiction
from unhosted.market.channel_effects import ReportFault
from unhosted.market.channel_states import EndKind
from unhosted.market.channels import Deployment
from unhosted.market.eip712 import bonds_separator
from unhosted.market.faults import Reason, RemoteFault
from unhosted.market.ids import Address, ChannelId, RequestId
from unhosted.market.messages import ReceiptAck
from unhosted.market.receipts import SignedReceipt, check_receipt, decode_response, receipt_digest
from unhosted.market.requests import Request, RequestHash, request_hash
from unhosted.market.roots import GrowingIds
from unhosted.node.core.engine_facts import encode_facts, facts_hash
from unhosted.node.core.errors import Refused
from unhosted.node.shell.keys.signer import recover
from unhosted.node.shell.money.kept_answers import KeptAnswers
from unhosted.node.shell.money.kept_words import FAULT_CHARS_MAX, KeptAnswer
from unhosted.node.shell.money.paid_answer import PaidAnswer
from unhosted.node.shell.money.paid_wire import AckGiven, EngineStated, ReceiptGiven

NS_PER_S = 1_000_000_000
RECEIPTS_DUE_MAX = 128
"""Requests that have no receipt yet: as many as may be live at once, and as many that ended."""

ENGINES_MAX = 16
"""Engines that a seller may state on one stream: it has one for a model, and changes it now and then."""

RECEIPT_WAIT_S = 60
"""A receipt takes a commit and a signature. Whoever signs nothing at the end of short answers, which have no
acknowledgement either, would be paid for them and never be checked."""

Found = tuple[ReceiptAck | ReportFault, ...]


class ReceiptsDue:
    """Of one channel's stream. Any coroutine raises Refused when the store cannot be written."""

    def __init__(
        self,
        bonds: Deployment,
        *,
        seller: str,
        payee: Address,
        of: ChannelId,
        kept: KeptAnswers,
        break_off: Callable[[], None],
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """bonds: whose domain they are signed in. seller: its peer id. payee: who must have signed.

        break_off: ends the stream: a seller that does not sign for what it sends is not paid on.
        """
        self._bonds, self._separator = bonds, bonds_separator(bonds)
        self._seller, self._payee, self._of = seller, payee, of
        self._kept, self._break_off, self._clock_ns = kept, break_off, clock_ns
        self._due: OrderedDict[RequestId, PaidAnswer] = OrderedDict()
        self._early: dict[RequestId, SignedReceipt] = {}
        self._overdue_ns: dict[RequestId, int] = {}
        self._facts: OrderedDict[bytes, bytes] = OrderedDict()

    async def hear(self, message: EngineStated | AckGiven | ReceiptGiven) -> Found:
        match message:
            case EngineStated(facts=facts):
                self._facts[facts_hash(facts)] = encode_facts(facts)
                if len(self._facts) > ENGINES_MAX:
                    self._facts.popitem(last=False)
                return ()
            case AckGiven(request_id=request_id):
                answer = self._due.get(request_id)
                if answer is None or answer.ended.is_set():
                    return ()
                fault = self._wrong_in_ack(answer, message.signed)
                return () if fault is None else (self._break(answer, fault),)
            case ReceiptGiven(signed=signed):
                return await self._take(signed)

    def unsigned(self, answer: PaidAnswer) -> ReportFault | None:
        """Before more tokens are taken: a block that is whole must have been acknowledged by now, and an
        answer that ended must have its receipt."""
        if ack_due(answer.acknowledged, len(answer.made)):
            message = f"{len(answer.made)} tokens came, {answer.acknowledged} are acknowledged"
        elif any(self._clock_ns() > overdue_ns for overdue_ns in self._overdue_ns.values()):
            message = f"an answer that ended has no receipt after {RECEIPT_WAIT_S} seconds"
        else:
            return None
        return self._break(answer, RemoteFault(Reason.WRONG_ORDER, message))

    async def expect(self, answer: PaidAnswer) -> None:
        """A request was opened; the oldest that never got its receipt makes room."""
        self._due[answer.terms.request_id] = answer
        while len(self._due) > RECEIPTS_DUE_MAX:
            request_id, oldest = self._due.popitem(last=False)
            self._early.pop(request_id, None)
            self._overdue_ns.pop(request_id, None)
            await self._keep(oldest, None)

    async def ended(self, answer: PaidAnswer) -> Found:
        """The request ended; its receipt may have been faster than the writing down of its end."""
        request_id = answer.terms.request_id
        early = self._early.pop(request_id, None)
        if early is not None:
            return await self._settle(early, answer)
        if request_id in self._due and len(answer.made):
            self._overdue_ns[request_id] = self._clock_ns() + RECEIPT_WAIT_S * NS_PER_S
        return ()

    async def _take(self, signed: SignedReceipt) -> Found:
        """The word of thanks, once it is stored, and in its answer if that is still held; or what is wrong.
        Empty: its request has not ended here yet."""
        receipt = signed.receipt
        if recover(receipt_digest(self._separator, receipt), signed.signature) != self._payee:
            return (_fault(Reason.WRONG_SIGNATURE, "a receipt that the payee did not sign"),)
        if receipt.channel_id != self._of:
            return (_fault(Reason.WRONG_CHANNEL, "a receipt for another channel"),)
        try:
            noted = await self._kept.note_receipt(
                signed, seller=self._seller, payee=self._payee, bonds=self._bonds
            )
        except RemoteFault as fault:
            return (_fault(fault.reason, fault.message),)
        if noted == "second":
            return (_fault(Reason.SECOND_RECEIPT, f"for request {receipt.request_id.hex()[:8]}"),)
        gap: Found = ()
        if noted == "gap":
            gap = (_fault(Reason.WRONG_RECEIPT, "it does not follow the channel's receipt before it"),)
        answer = self._due.get(receipt.request_id)
        if answer is None:
            return (*gap, *await self._settle_late(signed))
        if not answer.ended.is_set():
            self._early[receipt.request_id] = signed
            return gap
        return (*gap, *await self._settle(signed, answer))

    async def close(self) -> None:
        """The stream is over: what has no receipt yet is kept without, and may be given one at a contact."""
        for request_id, answer in list(self._due.items()):
            if (early := self._early.pop(request_id, None)) is not None:
                await self._settle(early, answer)
            elif self._due.pop(request_id, None) is not None:
                await self._keep(answer, None)

    def _wrong_in_ack(self, answer: PaidAnswer, signed: SignedAck) -> RemoteFault | None:
        """The newest signature over what came is held, or what is wrong with it is told."""
        ack, ask = signed.ack, answer.ask
        if ask is None or ack.request_hash != ask.request_hash:
            return RemoteFault(Reason.WRONG_REQUEST, "an acknowledgement of another request")
        if not answer.acknowledged < ack.tokens_out <= len(answer.made):
            came = len(answer.made)
            return RemoteFault(Reason.OVER_CLAIM, f"{ack.tokens_out} tokens acknowledged, {came} came")
        if ack.output_root != answer.made.root(ack.tokens_out):
            return RemoteFault(Reason.WRONG_RECEIPT, "an acknowledgement of other tokens than came")
        if ack.engine not in self._facts:
            return RemoteFault(Reason.WRONG_RECEIPT, "an acknowledgement for an engine that was not stated")
        if recover(ack_digest(self._separator, ack), signed.signature) != self._payee:
            return RemoteFault(Reason.WRONG_SIGNATURE, "an acknowledgement that the payee did not sign")
        answer.ack = signed
        return None

    def _break(self, answer: PaidAnswer, fault: RemoteFault) -> ReportFault:
        why = f"the seller did not sign for what it sent ({fault.message}); use another one"
        answer.refuse(Refused("no_provider", why))
        self._break_off()
        return _fault(fault.reason, fault.message)

    async def _settle(self, signed: SignedReceipt, answer: PaidAnswer) -> Found:
        del self._due[signed.receipt.request_id]
        self._overdue_ns.pop(signed.receipt.request_id, None)
        if answer.ask is None:
            return ()
        fault = wrong_in(
            signed,
            request=answer.ask.request,
            asked=answer.ask.request_hash,
            made=answer.made,
            ack=answer.ack,
            end=answer.end,
        )
        if fault is None and decode_response(signed.response).engine not in self._facts:
            fault = RemoteFault(Reason.WRONG_RECEIPT, "a receipt for an engine that was not stated")
        await self._keep(answer, signed, "" if fault is None else fault.message)
        if fault is not None:
            return (_fault(fault.reason, fault.message),)
        answer.receipt = signed
        answer.receipted.set()
        return (self._thanks(signed),)

    async def _settle_late(self, signed: SignedReceipt) -> Found:
        """Of a request of an earlier stream, or of one whose words are not kept."""
        late = await self._kept.of_request(signed.receipt.request_id)
        if late is None or late.receipt is not None:
            return (self._thanks(signed),)
        made = GrowingIds("output", salt=late.salt)
        made.extend(late.output_ids)
        asked = request_hash(late.signed_request.body)
        fault = wrong_in(signed, request=late.request, asked=asked, made=made, ack=late.ack)
        facts = self._facts.get(decode_response(signed.response).engine, late.facts)
        why = "" if fault is None else fault.message[:FAULT_CHARS_MAX]
        await self._kept.keep(replace(late, receipt=signed, facts=facts, fault=why))
        return (self._thanks(signed),) if fault is None else (_fault(fault.reason, fault.message),)

    async def _keep(self, answer: PaidAnswer, signed: SignedReceipt | None, fault: str = "") -> None:
        if answer.ask is None or not answer.is_kept or not len(answer.made):
            return
        engine = b""
        if signed is not None:
            engine = decode_response(signed.response).engine
        elif answer.ack is not None:
            engine = answer.ack.ack.engine
        kept = KeptAnswer(
            signed_request=answer.ask.signed,
            salt=answer.ask.salt,
            prompt_ids=answer.ask.prompt_ids,
            output_ids=tuple(answer.made.ids),
            ack=answer.ack,
            receipt=signed,
            facts=self._facts.get(engine, b""),
            bonds=self._bonds,
            payee=self._payee,
            due_micros=answer.due_micros,
            ended_unix_s=self._clock_ns() // 1_000_000_000,
            fault=fault[:FAULT_CHARS_MAX],
        )
        await self._kept.keep(kept)

    def _thanks(self, signed: SignedReceipt) -> ReceiptAck:
        digest = receipt_digest(self._separator, signed.receipt)
        return ReceiptAck(request_id=signed.receipt.request_id, receipt=digest)


def wrong_in(
    signed: SignedReceipt,
    *,
    request: Request,
    asked: RequestHash,
    made: GrowingIds,
    ack: SignedAck | None,
    end: EndKind | None = None,
) -> RemoteFault | None:
    """What a receipt says otherwise than what came. asked: the request's hash. made: all ids that came.

    end: how the request ended on this stream, None if it was on an earlier one, which a crash may have cut
    after all. Without it a seller could call whole answers cut, sign for none of their tokens, be paid for
    all by the buyer's own count, and never be checked.

    One for a stream that was cut may be over fewer tokens, where the seller crashed, though not over fewer
    than it acknowledged; or over more, which a link swallowed: then nothing here can say which they were.
    """
    if ack is not None and (said := contradiction(ack.ack, signed)) is not None:
        return RemoteFault(Reason.WRONG_RECEIPT, said)
    response, tokens_out = decode_response(signed.response), len(made)
    if end == "finished" and response.finish in ("cut", "cancelled"):
        return RemoteFault(
            Reason.WRONG_RECEIPT, f"it calls {response.finish} what the seller had said to be finished"
        )
    if end == "stopped" and response.finish == "cut":
        return RemoteFault(Reason.WRONG_RECEIPT, "it calls cut what the buyer had stopped")
    if response.finish == "cut":
        tokens_out = signed.receipt.tokens_out
    root = made.root(tokens_out) if tokens_out <= len(made) else response.output_root
    return check_receipt(
        signed,
        request=request,
        request_hash=asked,
        output_root=root,
        tokens_out=tokens_out,
        previous=response.previous,  # the channel's chain was looked at when it came
    )


def _fault(reason: Reason, message: str) -> ReportFault:
    return ReportFault(reason=reason, message=message)
