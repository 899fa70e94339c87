"""What a seller signs on a paid stream: acknowledgements and one receipt, each once it is durable.

Nothing that goes out can be contradicted by what is signed later, a crash at any point included: how far a
request has come is in the book before it is acknowledged, and what is in the book is the least that the
receipt is over.
"""

from unhosted.market.acks import SignedAck, StreamAck, ack_digest, ack_due
from unhosted.market.channel_effects import SettleRequest
from unhosted.market.channel_states import cost
from unhosted.market.channels import Deployment
from unhosted.market.eip712 import bonds_separator
from unhosted.market.faults import RemoteFault
from unhosted.market.ids import ChannelId
from unhosted.market.messages import ReceiptAck
from unhosted.market.money import Micros
from unhosted.market.receipts import (
    FinishReason,
    Receipt,
    ReceiptHash,
    Response,
    SignedReceipt,
    decode_response,
    encode_response,
    receipt_digest,
    response_hash,
)
from unhosted.node.core.chain import Signer
from unhosted.node.core.engine_facts import decode_facts, encode_facts, facts_hash
from unhosted.node.shell.money.paid_jobs import Job, Sale
from unhosted.node.shell.money.paid_stream import PaidStream
from unhosted.node.shell.money.paid_wire import AckGiven, EngineStated, ReceiptGiven, WorkAsked
from unhosted.node.shell.money.seller_book import SellerBook
from unhosted.node.shell.money.seller_changes import MakeReceipt
from unhosted.node.shell.money.seller_words import Delivered, Draft


class SellerProofs:
    """Of one channel's stream."""

    def __init__(
        self,
        stream: PaidStream,
        *,
        of: ChannelId,
        book: SellerBook,
        signer: Signer,
        bonds: Deployment,
        sale: Sale,
    ) -> None:
        self._stream, self._of, self._book, self._signer, self._sale = stream, of, book, signer, sale
        self._separator = bonds_separator(bonds)
        self._facts, self._engine = encode_facts(sale.facts), facts_hash(sale.facts)
        self._stated = b""

    async def open_request(self, ask: WorkAsked) -> None:
        """Write down that the request begins, with the draft of its receipt. Raises: Refused."""
        await self._book.open_request(
            ask.terms.request_id, self._of, sequence=ask.sequence, draft=self._draft(ask), facts=self._facts
        )

    async def acknowledge(self, job: Job) -> None:
        """Sign what was sent up to the last whole block, once it is in the book."""
        tokens_out = ack_due(job.acknowledged, job.released)
        delivered = delivered_of(job, tokens_out)
        terms = job.ask.terms
        if not await self._book.note_delivered(terms.request_id, delivered):
            return
        job.acknowledged = tokens_out
        ack = StreamAck(
            request_hash=job.ask.request_hash,
            tokens_out=tokens_out,
            output_root=delivered.output_root,
            engine=self._engine,
            check=self._sale.check,
        )
        signed = SignedAck(ack=ack, signature=self._signer.sign(ack_digest(self._separator, ack)))
        await self._state(self._engine, self._facts)
        await self._stream.send(AckGiven(request_id=terms.request_id, signed=signed))

    def maker(self, job: Job, ending: SettleRequest) -> MakeReceipt:
        """For `SellerBook.settle_request`, which knows the channel's receipt before."""
        return self._maker(self._draft(job.ask), delivered_of(job, ending.tokens_out), _finish(job, ending))

    async def give(self, receipt: SignedReceipt) -> None:
        await self._state(self._engine, self._facts)
        await self._stream.send(ReceiptGiven(signed=receipt))

    async def give_again(self) -> None:
        """At a contact: sign for what a crash cut off, and send whatever the buyer did not confirm."""
        await self._book.sign_cut_off(self._of, lambda draft, delivered: self._maker(draft, delivered, "cut"))
        for receipt, facts in await self._book.unconfirmed(self._of):
            await self._state(decode_response(receipt.response).engine, facts)
            await self._stream.send(ReceiptGiven(signed=receipt))

    async def confirmed(self, ack: ReceiptAck) -> None:
        await self._book.confirm(ack.request_id, self._of)

    async def _state(self, engine: bytes, facts: bytes) -> None:
        """The engine's facts, once until another engine's are needed. Facts of a version of this program that
        wrote them otherwise are left out: the receipt counts without."""
        if engine == self._stated:
            return
        try:
            decoded = decode_facts(facts)
        except RemoteFault:
            return
        self._stated = engine
        await self._stream.send(EngineStated(facts=decoded))

    def _draft(self, ask: WorkAsked) -> Draft:
        return Draft(
            request_id=ask.terms.request_id,
            channel_id=self._of,
            model=ask.request.model,
            request_hash=ask.request_hash,
            tokens_in=ask.terms.tokens_in,
            engine=self._engine,
            check=self._sale.check,
        )

    def _maker(self, draft: Draft, delivered: Delivered, finish: FinishReason) -> MakeReceipt:
        def make(previous: ReceiptHash) -> SignedReceipt:
            response = encode_response(
                Response(
                    output_root=delivered.output_root,
                    finish=finish,
                    engine=draft.engine,
                    check=draft.check,
                    previous=previous,
                )
            )
            receipt = Receipt(
                request_id=draft.request_id,
                channel_id=draft.channel_id,
                model=draft.model,
                request_hash=draft.request_hash,
                response_hash=response_hash(response),
                tokens_in=draft.tokens_in,
                tokens_out=delivered.tokens_out,
                amount_micros=Micros(delivered.due_micros),
            )
            signature = self._signer.sign(receipt_digest(self._separator, receipt))
            return SignedReceipt(receipt=receipt, response=response, signature=signature)

        return make


def delivered_of(job: Job, tokens_out: int) -> Delivered:
    """What so many tokens of it cost, and their root."""
    due_micros = cost(job.ask.terms, tokens_out)
    return Delivered(tokens_out=tokens_out, due_micros=due_micros, output_root=job.made.root(tokens_out))


def _finish(job: Job, ending: SettleRequest) -> FinishReason:
    """The engine's own word for an answer that came to its end. The agreed maximum is an end that this side
    sees before the engine says so."""
    if ending.end == "finished":
        return job.finish or "length"
    return "cancelled" if ending.end == "stopped" else "cut"
