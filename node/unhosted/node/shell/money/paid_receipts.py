"""Receipts on a paid stream: how the seller makes one, and what the buyer takes for one."""

from collections import OrderedDict
from dataclasses import dataclass

from unhosted.market.channel_effects import ReportFault, SettleRequest
from unhosted.market.channels import Deployment
from unhosted.market.eip712 import bonds_separator
from unhosted.market.faults import Reason
from unhosted.market.ids import Address, RequestId
from unhosted.market.messages import ReceiptAck
from unhosted.market.money import Micros
from unhosted.market.offers import CheckClass
from unhosted.market.receipts import (
    FinishReason,
    Receipt,
    ReceiptHash,
    Response,
    SignedReceipt,
    encode_response,
    receipt_digest,
    response_hash,
)
from unhosted.market.roots import ids_root
from unhosted.node.core.chain import Signer
from unhosted.node.shell.keys.signer import recover
from unhosted.node.shell.money.paid_answer import PaidAnswer
from unhosted.node.shell.money.paid_wire import WorkAsked
from unhosted.node.shell.money.seller_book import MakeReceipt

RECEIPTS_DUE_MAX = 128
"""Requests that have no receipt yet: as many as may be live at once, and as many that ended."""


class ReceiptsDue:
    def __init__(self, bonds: Deployment, *, payee: Address) -> None:
        self._separator = bonds_separator(bonds)
        self._payee = payee
        self._due: OrderedDict[RequestId, PaidAnswer] = OrderedDict()
        self._early: dict[RequestId, SignedReceipt] = {}

    def expect(self, answer: PaidAnswer) -> None:
        """A request was opened; the oldest that never got its receipt makes room."""
        self._due[answer.terms.request_id] = answer
        while len(self._due) > RECEIPTS_DUE_MAX:
            request_id, _ = self._due.popitem(last=False)
            self._early.pop(request_id, None)

    def ended(self, answer: PaidAnswer) -> ReceiptAck | ReportFault | None:
        """The request ended; its receipt may have been faster than the writing down of its end."""
        early = self._early.pop(answer.terms.request_id, None)
        return None if early is None else self.take(early)

    def take(self, signed: SignedReceipt) -> ReceiptAck | ReportFault | None:
        """The word of thanks, once the receipt is in its answer; or what is wrong. None: not due, not yet."""
        receipt = signed.receipt
        answer = self._due.get(receipt.request_id)
        if answer is None:
            return None
        if not answer.ended.is_set():
            self._early[receipt.request_id] = signed
            return None
        del self._due[receipt.request_id]
        digest = receipt_digest(self._separator, receipt)
        if recover(digest, signed.signature) != self._payee:
            return ReportFault(reason=Reason.WRONG_SIGNATURE, message="a receipt that the payee did not sign")
        said = (receipt.tokens_in, receipt.tokens_out, receipt.amount_micros)
        ours = (answer.terms.tokens_in, answer.tokens_out, answer.due_micros)
        if said != ours:
            message = f"a receipt over {said}, we count {ours} (tokens in, out, micro-USDC)"
            return ReportFault(reason=Reason.WRONG_RECEIPT, message=message)
        answer.receipt = signed
        answer.receipted.set()
        return ReceiptAck(request_id=receipt.request_id, receipt=digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What a receipt is for. ids: all that were released. engine: BLAKE3 of the engine's description."""

    ask: WorkAsked
    ids: tuple[int, ...]
    ending: SettleRequest
    engine: bytes
    check: CheckClass


def receipt_maker(made: Made, signer: Signer, separator: bytes) -> MakeReceipt:
    """For `SellerBook.settle_request`, which knows the channel's receipt before. separator: of the bonds."""
    ask, terms, ending = made.ask, made.ask.terms, made.ending

    def make(previous: ReceiptHash) -> SignedReceipt:
        response = encode_response(
            Response(
                output_root=ids_root("output", made.ids, salt=ask.salt),
                finish=_finish(ending, terms.tokens_out_max),
                engine=made.engine,
                check=made.check,
                previous=previous,
            )
        )
        receipt = Receipt(
            request_id=terms.request_id,
            channel_id=terms.channel_id,
            model=ask.model,
            request_hash=ask.request_hash,
            response_hash=response_hash(response),
            tokens_in=terms.tokens_in,
            tokens_out=ending.tokens_out,
            amount_micros=Micros(ending.due_micros),
        )
        signature = signer.sign(receipt_digest(separator, receipt))
        return SignedReceipt(receipt=receipt, response=response, signature=signature)

    return make


def _finish(ending: SettleRequest, tokens_out_max: int) -> FinishReason:
    if ending.end == "finished":
        return "length" if ending.tokens_out >= tokens_out_max else "stop"
    return "cancelled" if ending.end == "stopped" else "cut"
