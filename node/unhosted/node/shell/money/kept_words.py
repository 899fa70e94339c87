"""What a buyer keeps of the answers that it paid for until they are checked, as values and as bytes."""

from dataclasses import dataclass
from typing import Any, cast, get_args

from unhosted.market.acks import SignedAck, decode_ack, encode_ack
from unhosted.market.cbor import decode, encode
from unhosted.market.channels import ChainId, Deployment
from unhosted.market.fields import WIRE_MICROS_MAX, Fields
from unhosted.market.ids import PEER_SIGNATURE_BYTES, Address, ChannelId, ModelHash, PeerText, RequestId
from unhosted.market.months import UNIX_S_MAX
from unhosted.market.offers import CHAIN_ID_MAX
from unhosted.market.receipts import ReceiptHash, SignedReceipt, decode_receipt, encode_receipt, receipt_hash
from unhosted.market.requests import Request, decode_request
from unhosted.market.signed import Signed
from unhosted.node.core.sampling_words import Sampling, decode_sampling
from unhosted.node.shell.money.paid_wire import pack_ids, unpack_ids
from unhosted.verify.selection import Wish

CONTENT_BYTES_MAX = 12 << 20
"""Prompt and output at their most, 4 MiB each, the request, and room."""

CONTENT_ITEMS_MAX = 64
OUTCOME_CHARS_MAX = 64
FAULT_CHARS_MAX = 240


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptAnswer:
    """An answer with all that is needed to check it, and to show a third party what was asked and delivered.

    salt: of both roots, secret. output_ids: all that came. ack: the last one, if any. receipt: None if the
    stream was cut and the seller did not come back. fault: what the receipt says otherwise than what came, in
    words; empty is usual. facts: of the engine as encoded, empty if the seller stated none. bonds: whose
    domain ack and receipt are signed in. payee: who signed them. wish: whether the buyer wants it checked.
    checked_unix_s: 0 before the check; outcome: a word of who checked.
    """

    signed_request: Signed
    salt: bytes
    prompt_ids: tuple[int, ...]
    output_ids: tuple[int, ...]
    ack: SignedAck | None
    receipt: SignedReceipt | None
    facts: bytes
    bonds: Deployment
    payee: Address
    due_micros: int
    ended_unix_s: int
    fault: str = ""
    wish: Wish = "auto"
    checked_unix_s: int = 0
    outcome: str = ""

    @property
    def request(self) -> Request:
        return decode_request(self.signed_request.body)

    @property
    def sampling(self) -> Sampling:
        """With the request's seed."""
        request = self.request
        return decode_sampling(request.sampling, seed=request.seed)

    @property
    def request_id(self) -> RequestId:
        return self.request.terms.request_id

    @property
    def channel_id(self) -> ChannelId:
        return self.request.terms.channel_id

    @property
    def seller(self) -> PeerText:
        return self.request.seller

    @property
    def model(self) -> ModelHash:
        return self.request.model

    @property
    def receipt_hash(self) -> ReceiptHash | None:
        return None if self.receipt is None else receipt_hash(self.receipt)

    @property
    def proven_tokens(self) -> int:
        """`output_ids` up to here are under the seller's signature."""
        acknowledged = 0 if self.ack is None else self.ack.ack.tokens_out
        if self.receipt is None or self.fault:
            return acknowledged
        tokens_out = self.receipt.receipt.tokens_out
        return tokens_out if tokens_out <= len(self.output_ids) else acknowledged


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptLine:
    """A receipt that came. number: grows with each that came, over all channels. seller: its peer id. is_gap:
    it does not follow the one before it on its channel. is_kept: prompt and output are there.
    """

    number: int
    receipt: SignedReceipt
    receipt_hash: ReceiptHash
    seller: str
    payee: Address
    bonds: Deployment
    came_unix_s: int
    is_gap: bool
    is_kept: bool
    checked_unix_s: int
    outcome: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondReceipt:
    """Two receipts that differ for one request, both by `payee`: what `Bonds.slashEquivocation` takes."""

    first: SignedReceipt
    second: SignedReceipt
    payee: Address
    bonds: Deployment
    came_unix_s: int


def encode_content(answer: KeptAnswer) -> bytes:
    """All but what the check adds."""
    return encode(
        {
            "body": answer.signed_request.body,
            "sig": answer.signed_request.signature,
            "salt": answer.salt,
            "prompt": pack_ids(answer.prompt_ids),
            "output": pack_ids(answer.output_ids),
            "ack": None if answer.ack is None else encode_ack(answer.ack),
            "receipt": None if answer.receipt is None else encode_receipt(answer.receipt),
            "facts": answer.facts,
            "chain": answer.bonds.chain_id,
            "contract": answer.bonds.contract,
            "payee": answer.payee,
            "due": answer.due_micros,
            "ended": answer.ended_unix_s,
            "fault": answer.fault,
            "wish": answer.wish,
        }
    )


def decode_content(data: bytes, *, checked_unix_s: int, outcome: str) -> KeptAnswer:
    """Raises: ValueError or RemoteFault for what `encode_content` did not make."""
    values: Any = decode(data, bytes_max=CONTENT_BYTES_MAX, items_max=CONTENT_ITEMS_MAX)
    fields = Fields(values, "kept answer")

    def data_of(key: str) -> bytes:
        return fields.data(key, bytes_max=CONTENT_BYTES_MAX)

    return KeptAnswer(
        signed_request=Signed(
            body=data_of("body"), signature=fields.exactly("sig", size_bytes=PEER_SIGNATURE_BYTES)
        ),
        salt=fields.exactly("salt"),
        prompt_ids=unpack_ids(data_of("prompt")),
        output_ids=unpack_ids(data_of("output")),
        ack=decode_ack(data_of("ack")) if fields.has("ack") else None,
        receipt=decode_receipt(data_of("receipt")) if fields.has("receipt") else None,
        facts=data_of("facts"),
        bonds=Deployment(
            chain_id=ChainId(fields.uint("chain", most=CHAIN_ID_MAX)), contract=fields.address("contract")
        ),
        payee=fields.address("payee"),
        due_micros=fields.uint("due", most=WIRE_MICROS_MAX),
        ended_unix_s=fields.uint("ended", most=UNIX_S_MAX),
        fault=fields.text("fault", chars_max=FAULT_CHARS_MAX),
        wish=cast(Wish, fields.word("wish", among=get_args(Wish))),
        checked_unix_s=checked_unix_s,
        outcome=outcome,
    )
