"""Answers as a buyer keeps them, and a kept store in memory that behaves as the one on the disk does."""

import hashlib
from dataclasses import dataclass, field, replace

from unhosted.market.channels import ChainId, Deployment
from unhosted.market.ids import Address, ChannelId, ModelHash, PeerText, RequestId, Signature, parse_peer
from unhosted.market.money import Micros, Price, cost_micros
from unhosted.market.receipts import (
    NO_RECEIPT,
    FinishReason,
    Receipt,
    Response,
    SignedReceipt,
    encode_response,
    response_hash,
)
from unhosted.market.requests import NO_QUOTE, Request, encode_request, request_hash
from unhosted.market.roots import ids_root
from unhosted.market.signed import Signed
from unhosted.market.terms import Terms
from unhosted.node.core.engine_facts import EngineFacts, encode_facts, facts_hash
from unhosted.node.core.sampling_words import Sampling, encode_sampling
from unhosted.node.shell.money.kept_words import KeptAnswer
from unhosted.verify.params import SamplingParams
from unhosted.verify.selection import Wish

BUYER = parse_peer("12D3KooWBVG8eZjZqHSd8v2W3gCmXkfW5kyKWJgzBQPWAFYZxzWm")
SELLER = parse_peer("12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN")
CHEAT = parse_peer("12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6cheat"[:52])
PRICE = Price(in_micros_per_mtok=1_000_000, out_micros_per_mtok=2_000_000)
BONDS = Deployment(chain_id=ChainId(31_337), contract=Address(bytes(range(20))))
FACTS = EngineFacts(library="llama.cpp b1", build="ab" * 32, device="cpu:x86-64:avx2:glibc", weights="q4_1")


def answer_of(
    number: int,
    *,
    model: bytes = bytes(range(32)),
    prompt_ids: tuple[int, ...] | None = None,
    output_ids: tuple[int, ...] = (1, 2, 3, 4),
    sampling: Sampling | None = None,
    facts: EngineFacts | None = FACTS,
    finish: FinishReason = "length",
    tokens_out_max: int | None = None,
    wish: Wish = "auto",
    seller: PeerText = SELLER,
) -> KeptAnswer:
    """One whose roots and counts agree, each to a prompt of its own; nobody checks its signatures here."""
    prompt_ids = (5, 6, 7 + number) if prompt_ids is None else prompt_ids
    mark = hashlib.blake2b(number.to_bytes(8, "big"), digest_size=32).digest()
    sampling = sampling or Sampling(params=SamplingParams(seed=mark))
    terms = Terms(
        request_id=RequestId(mark),
        channel_id=ChannelId(hashlib.blake2b(seller.encode(), digest_size=32).digest()),
        price=PRICE,
        tokens_in=len(prompt_ids),
        tokens_out_max=tokens_out_max or max(1, len(output_ids)),
        window_tokens=64,
    )
    request = Request(
        buyer=BUYER,
        seller=seller,
        quote=NO_QUOTE,
        model=ModelHash(model),
        terms=terms,
        prompt_root=ids_root("prompt", prompt_ids, salt=mark),
        sampling=encode_sampling(sampling),
        seed=sampling.params.seed,
        channel_sequence=number + 1,
        sent_unix_s=1_700_000_000 + number,
    )
    body = encode_request(request)
    response = encode_response(
        Response(
            output_root=ids_root("output", output_ids, salt=mark),
            finish=finish,
            engine=bytes(32) if facts is None else facts_hash(facts),
            check="statistical",
            previous=NO_RECEIPT,
        )
    )
    due = cost_micros(PRICE, tokens_in=len(prompt_ids), tokens_out=len(output_ids))
    receipt = Receipt(
        request_id=terms.request_id,
        channel_id=terms.channel_id,
        model=request.model,
        request_hash=request_hash(body),
        response_hash=response_hash(response),
        tokens_in=len(prompt_ids),
        tokens_out=len(output_ids),
        amount_micros=Micros(due),
    )
    return KeptAnswer(
        signed_request=Signed(body=body, signature=bytes(64)),
        salt=mark,
        prompt_ids=prompt_ids,
        output_ids=output_ids,
        ack=None,
        receipt=SignedReceipt(receipt=receipt, response=response, signature=Signature(bytes(65))),
        facts=b"" if facts is None else encode_facts(facts),
        bonds=BONDS,
        payee=Address(bytes(20)),
        due_micros=due,
        ended_unix_s=1_700_000_010 + number,
        wish=wish,
    )


@dataclass
class MemoryAnswers:
    """As `KeptAnswers`, in memory. marks: every call of mark_checked."""

    kept: dict[RequestId, KeptAnswer] = field(default_factory=dict)
    marks: list[tuple[RequestId, str]] = field(default_factory=list)

    def keep(self, *answers: KeptAnswer) -> None:
        self.kept.update({answer.request_id: answer for answer in answers})

    async def next_unchecked(self, after: int = 0) -> tuple[int, KeptAnswer] | None:
        for number, answer in enumerate(self.kept.values(), start=1):
            if number > after and not answer.checked_unix_s:
                return number, answer
        return None

    async def of_request(self, request_id: RequestId) -> KeptAnswer | None:
        return self.kept.get(request_id)

    async def mark_checked(
        self, request_id: RequestId, *, outcome: str, now_unix_s: int | None = None
    ) -> bool:
        self.marks.append((request_id, outcome))
        if request_id not in self.kept:
            return False
        checked = replace(self.kept[request_id], checked_unix_s=now_unix_s or 1, outcome=outcome)
        self.kept[request_id] = checked
        return True
