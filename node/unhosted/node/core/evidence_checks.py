"""What must agree in evidence before anybody reads its tokens again.

Each answer: the buyer signed the request, the seller's key signed the receipt or the acknowledgement, and the
two hold each other: model, channel, counts, price, root of the prompt, root of the output, hash of the
engine's facts. The request binds seed and sampler. So no part of an answer can be exchanged afterwards, by
either side. All answers: one seller's key, one seller and buyer, one model, one channel, each request once,
numbered upwards.

A fault is a reason not to look further: a file that contradicts itself proves nothing about anybody. The
report in it is not looked at here, nor anywhere where something is decided.

Not checked, since no file can show it: that the key belongs to the peer that the request names (whoever signs
a receipt over a request takes that name upon itself), and that the buyer and the seller are two people.
"""

from collections.abc import Callable
from dataclasses import dataclass

from unhosted.market.acks import SignedAck, ack_digest
from unhosted.market.eip712 import bonds_separator
from unhosted.market.faults import RemoteFault
from unhosted.market.ids import Address, Digest, PeerText, Signature
from unhosted.market.receipts import (
    NO_RECEIPT,
    ReceiptHash,
    SignedReceipt,
    check_receipt,
    decode_response,
    receipt_digest,
    receipt_hash,
)
from unhosted.market.requests import Request, request_bytes_to_sign
from unhosted.market.roots import prefix_root
from unhosted.node.core.engine_facts import decode_facts, encode_facts, facts_hash
from unhosted.node.core.evidence import Evidence, OpenedAnswer
from unhosted.node.core.sampling_words import check_verifiable, decode_sampling

Recover = Callable[[Digest, Signature], Address | None]
"""Who signed a digest with a chain key; None for no valid signature."""

IsSigned = Callable[[PeerText, bytes, bytes], bool]
"""Whether the peer signed the message with its identity: peer, message, signature."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceFault:
    """answer: counted from 0, None for the file as a whole. text: what does not agree."""

    answer: int | None
    text: str

    def __str__(self) -> str:
        return self.text if self.answer is None else f"answer {self.answer + 1}: {self.text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """How much of the channel a file shows.

    requests: the number of the last opened one, so at most as many answers there were to choose from.
    linked: receipts that follow each other up to the last opened one without a gap. is_from_start: the first
    of those is the channel's first.
    """

    requests: int
    linked: int
    is_from_start: bool


def check_evidence(evidence: Evidence, *, recover: Recover, is_signed: IsSigned) -> tuple[EvidenceFault, ...]:
    """All that does not agree; empty for a file that is worth reading again."""
    faults: list[EvidenceFault] = []
    requests: list[Request] = []
    for index, answer in enumerate(evidence.answers):
        try:
            request = answer.asked
            text = _fault_of(evidence, answer, request, recover=recover, is_signed=is_signed)
        except (RemoteFault, ValueError) as fault:
            text = str(fault)
        else:
            requests.append(request)
        if text is not None:
            faults.append(EvidenceFault(answer=index, text=text))
    for signed in evidence.others:
        if recover(receipt_digest(bonds_separator(evidence.bonds), signed.receipt), signed.signature) != (
            evidence.accused
        ):
            faults.append(EvidenceFault(answer=None, text="a shut receipt is not signed by the accused key"))
            break
    if not faults:
        faults += [EvidenceFault(answer=None, text=text) for text in _whole_faults(evidence, requests)]
    return tuple(faults)


def chain_of(evidence: Evidence) -> Chain:
    """Raises: RemoteFault if a body is no message; `check_evidence` found that before."""
    receipts = [answer.receipt for answer in evidence.answers]
    known = {receipt_hash(one): one for one in (*receipts, *evidence.others) if one is not None}
    last = next((one for one in reversed(receipts) if one is not None), None)
    linked, previous = 0, NO_RECEIPT if last is None else receipt_hash(last)
    # Hashes cannot be made to run in a circle, and each step takes one receipt of a bounded number.
    while (one := known.pop(previous, None)) is not None:
        linked += 1
        previous = decode_response(one.response).previous
    return Chain(
        requests=evidence.answers[-1].asked.channel_sequence,
        linked=linked,
        is_from_start=linked > 0 and previous == NO_RECEIPT,
    )


def _fault_of(
    evidence: Evidence, answer: OpenedAnswer, request: Request, *, recover: Recover, is_signed: IsSigned
) -> str | None:
    if not is_signed(request.buyer, request_bytes_to_sign(answer.request.body), answer.request.signature):
        return "the request is not signed by the buyer that it names"
    if (unfit := check_verifiable(decode_sampling(request.sampling, seed=request.seed))) is not None:
        return f"what was asked for cannot be judged: {unfit.message}"
    if answer.prompt.count != request.terms.tokens_in or len(answer.prompt.ids) != answer.prompt.count:
        return f"the prompt is opened for {len(answer.prompt.ids)} of {request.terms.tokens_in} tokens"
    if prefix_root(answer.prompt) != request.prompt_root:
        return "the prompt is not the one that the request was signed over"
    separator = bonds_separator(evidence.bonds)
    if isinstance(answer.word, SignedReceipt):
        fault = _receipt_fault(answer.word, request, answer)
        digest = receipt_digest(separator, answer.word.receipt)
    else:
        fault = _ack_fault(answer.word, request, answer)
        digest = ack_digest(separator, answer.word.ack)
    if fault is not None:
        return fault
    if recover(digest, answer.word.signature) != evidence.accused:
        return "what the seller is said to have signed is not signed by the accused key"
    if answer.facts:
        facts = decode_facts(answer.facts)
        if encode_facts(facts) != answer.facts or facts_hash(facts) != answer.engine:
            return "the engine's facts are not those that the seller signed the hash of"
    return None


def _receipt_fault(signed: SignedReceipt, request: Request, answer: OpenedAnswer) -> str | None:
    response = decode_response(signed.response)
    fault = check_receipt(
        signed,
        request=request,
        request_hash=answer.request_hash,
        output_root=prefix_root(answer.output),
        tokens_out=answer.output.count,
        previous=response.previous,  # of its place in the channel: `chain_of` follows it
    )
    return None if fault is None else f"the receipt says otherwise: {fault.message}"


def _ack_fault(signed: SignedAck, request: Request, answer: OpenedAnswer) -> str | None:
    ack = signed.ack
    if ack.request_hash != answer.request_hash:
        return "the acknowledgement is of another request"
    if ack.tokens_out != answer.output.count or ack.output_root != prefix_root(answer.output):
        return "the acknowledgement is of other tokens"
    if ack.tokens_out > request.terms.tokens_out_max:
        return f"{ack.tokens_out} tokens, at most {request.terms.tokens_out_max} were agreed"
    return None


def _whole_faults(evidence: Evidence, requests: list[Request]) -> list[str]:
    first = requests[0]
    faults = []
    for name, is_one in (
        ("buyers", all(one.buyer == first.buyer for one in requests)),
        ("sellers", all(one.seller == first.seller for one in requests)),
        ("models", all(one.model == first.model for one in requests)),
        ("channels", all(one.terms.channel_id == first.terms.channel_id for one in requests)),
    ):
        if not is_one:
            faults.append(f"the answers are of several {name}: one file is for one of each")
    sequences = [one.channel_sequence for one in requests]
    if sequences != sorted(set(sequences)):
        faults.append("the answers do not stand in the order of the channel, each once")
    if len({one.terms.request_id for one in requests}) != len(requests):
        faults.append("two answers are for one request")
    if any(one.receipt.channel_id != first.terms.channel_id for one in evidence.others):
        faults.append("a shut receipt is of another channel")
    by_request: dict[bytes, ReceiptHash] = {}
    for signed in (*(one.receipt for one in evidence.answers), *evidence.others):
        if signed is not None and (
            by_request.setdefault(signed.receipt.request_id, receipt_hash(signed)) != receipt_hash(signed)
        ):
            faults.append(
                "two different receipts are for one request: that is proof by itself, and the contract takes"
                " it; the answers in this file are not needed for it"
            )
    return faults
