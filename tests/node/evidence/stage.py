"""A buyer, a seller and their channel: answers as a buyer keeps them, signed by real keys on both sides."""

from dataclasses import dataclass, field

from unhosted.market.acks import SignedAck, StreamAck, ack_digest
from unhosted.market.channels import ChainId, Deployment
from unhosted.market.eip712 import bonds_separator
from unhosted.market.ids import Address, ChannelId, ModelHash, PeerText, RequestId
from unhosted.market.money import Price, cost_micros
from unhosted.market.quotes import QuoteId
from unhosted.market.receipts import (
    NO_RECEIPT,
    FinishReason,
    Receipt,
    ReceiptHash,
    Response,
    SignedReceipt,
    encode_response,
    receipt_digest,
    receipt_hash,
    response_hash,
)
from unhosted.market.requests import Request, encode_request, request_bytes_to_sign, request_hash
from unhosted.market.roots import ids_root
from unhosted.market.signed import Signed
from unhosted.market.terms import Terms
from unhosted.node.core.engine_facts import EngineFacts, encode_facts, facts_hash
from unhosted.node.core.sampling_words import Sampling, encode_sampling
from unhosted.node.shell.keys.identity import Identity, new_identity
from unhosted.node.shell.keys.signer import KeySigner
from unhosted.node.shell.money.kept_words import KeptAnswer
from unhosted.verify.params import SamplingParams

BONDS = Deployment(chain_id=ChainId(31337), contract=Address(b"\xbb" * 20))
SEPARATOR = bonds_separator(BONDS)
PRICE = Price(in_micros_per_mtok=1_000_000, out_micros_per_mtok=2_000_000)
CHANNEL = ChannelId(b"\x0c" * 32)
FACTS = EngineFacts(library="llama.cpp b1", build="ab" * 32, device="cpu:x86-64:avx2", weights="f16")
SEED = b"\x05" * 32


@dataclass
class Channel:
    """One channel of one buyer and one seller; `sell` makes the next answer of it."""

    model: bytes = b"\x0d" * 32
    facts: EngineFacts = FACTS
    buyer: Identity = field(default_factory=new_identity)
    seller: Identity = field(default_factory=new_identity)
    key: KeySigner = field(default_factory=lambda: KeySigner(b"\x11" * 32))
    sequence: int = 0
    previous: ReceiptHash = NO_RECEIPT
    receipts: list[SignedReceipt] = field(default_factory=list)

    def sell(
        self,
        prompt_ids: tuple[int, ...],
        output_ids: tuple[int, ...],
        *,
        params: SamplingParams | None = None,
        finish: FinishReason = "length",
        tokens_out_max: int | None = None,
        is_cut: bool = False,
    ) -> KeptAnswer:
        """is_cut: no receipt comes, only the acknowledgement of the whole blocks."""
        self.sequence += 1
        salt = bytes([self.sequence]) * 32
        params = params or SamplingParams(seed=SEED)
        request = Request(
            buyer=PeerText(self.buyer.peer),
            seller=PeerText(self.seller.peer),
            quote=QuoteId(b"\x77" * 32),
            model=ModelHash(self.model),
            terms=Terms(
                request_id=RequestId(self.sequence.to_bytes(32, "big")),
                channel_id=CHANNEL,
                price=PRICE,
                tokens_in=len(prompt_ids),
                tokens_out_max=tokens_out_max or len(output_ids),
                window_tokens=64,
            ),
            prompt_root=ids_root("prompt", prompt_ids, salt=salt),
            sampling=encode_sampling(Sampling(params=params)),
            seed=params.seed,
            channel_sequence=self.sequence,
            sent_unix_s=1_700_000_000,
        )
        body = encode_request(request)
        ack = self._ack(body, output_ids, salt)
        receipt = None if is_cut else self._receipt(request, body, output_ids, salt, finish)
        return KeptAnswer(
            signed_request=Signed(body=body, signature=self.buyer.sign(request_bytes_to_sign(body))),
            salt=salt,
            prompt_ids=prompt_ids,
            output_ids=output_ids,
            ack=ack,
            receipt=receipt,
            facts=encode_facts(self.facts),
            bonds=BONDS,
            payee=self.key.address,
            due_micros=0 if receipt is None else receipt.receipt.amount_micros,
            ended_unix_s=1_700_000_001,
        )

    def _ack(self, body: bytes, output_ids: tuple[int, ...], salt: bytes) -> SignedAck | None:
        whole = len(output_ids) - len(output_ids) % 64
        if whole == 0:
            return None
        ack = StreamAck(
            request_hash=request_hash(body),
            tokens_out=whole,
            output_root=ids_root("output", output_ids[:whole], salt=salt),
            engine=facts_hash(self.facts),
            check="statistical",
        )
        return SignedAck(ack=ack, signature=self.key.sign(ack_digest(SEPARATOR, ack)))

    def _receipt(
        self, request: Request, body: bytes, output_ids: tuple[int, ...], salt: bytes, finish: FinishReason
    ) -> SignedReceipt:
        response = encode_response(
            Response(
                output_root=ids_root("output", output_ids, salt=salt),
                finish=finish,
                engine=facts_hash(self.facts),
                check="statistical",
                previous=self.previous,
            )
        )
        tokens_in, tokens_out = request.terms.tokens_in, len(output_ids)
        receipt = Receipt(
            request_id=request.terms.request_id,
            channel_id=request.terms.channel_id,
            model=request.model,
            request_hash=request_hash(body),
            response_hash=response_hash(response),
            tokens_in=tokens_in,
            tokens_out=tokens_out,
            amount_micros=cost_micros(request.terms.price, tokens_in=tokens_in, tokens_out=tokens_out),
        )
        signed = signed_by(self.key, receipt, response)
        self.previous = receipt_hash(signed)
        self.receipts.append(signed)
        return signed


def signed_by(key: KeySigner, receipt: Receipt, response: bytes) -> SignedReceipt:
    return SignedReceipt(
        receipt=receipt, response=response, signature=key.sign(receipt_digest(SEPARATOR, receipt))
    )


def ids(start: int, count: int) -> tuple[int, ...]:
    """Ids that stand nowhere else by chance."""
    return tuple(1_000_003 * (start + index) % 50_021 + 100_000 for index in range(count))
