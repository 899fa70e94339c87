"""Evidence: answers of one seller that anybody with the model's file can read again, and what they prove
then.

A file holds what was signed (the buyer's requests, the seller's receipts or stream acknowledgements), the
token ids, opened whole or as a prefix, and what the seller said of its engine. What the checker saw and the
noise table it used are there too, but nobody has to believe them: a reader runs the tokens again, uses a
table of its own choice, and comes to its own number. `evidence_checks` says what must agree before that.

Ids come as `roots.Prefix`, never with the secret salt: what stays shut cannot be guessed.

One file is for one seller's key, one model and one channel: the channel's numbering of requests shows how
many answers there were to choose from, and `evidence_weight` charges for that choice.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from unhosted.market.acks import SignedAck
from unhosted.market.channels import Deployment
from unhosted.market.ids import ADDRESS_BYTES, ID_BYTES, Address
from unhosted.market.offers import CheckClass
from unhosted.market.receipts import FinishReason, ReceiptHash, SignedReceipt, decode_response, receipt_hash
from unhosted.market.requests import Request, RequestHash, decode_request, request_hash
from unhosted.market.roots import Prefix
from unhosted.market.signed import Signed
from unhosted.market.terms import check_range, check_size
from unhosted.node.core.engine_facts import EngineFacts, Replay
from unhosted.verify.noise import NoiseTable

ANSWERS_MAX = 256
"""Opened answers of one file: at 2 % checked, those of 12,800 requests. More is not needed to prove
anything."""

OTHERS_MAX = 2_048
"""Receipts of answers that stay shut: half a kilobyte each."""

TOKENS_MAX = 1 << 18
"""Opened ids of one file, prompts included: minutes of reading on a small machine, not days."""

PPM = 1_000_000

How = Literal["probation", "drawn", "always", "asked", "unknown"]
"""Why an answer was checked: all of a new seller's are; drawn by chance; its buyer has all checked; its buyer
asked for this one; or nobody wrote it down."""

HOWS: tuple[str, ...] = get_args(How)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """What the checker saw, one entry per opened output token. For people: no verdict reads it.

    gap_mlogit, margin_mlogit: as `verify.observations`. is_match: whether the checker drew the same token.
    """

    gap_mlogit: tuple[int, ...]
    margin_mlogit: tuple[int, ...]
    is_match: tuple[bool, ...]

    def __post_init__(self) -> None:
        if not len(self.gap_mlogit) == len(self.margin_mlogit) == len(self.is_match):
            raise ValueError("gap_mlogit, margin_mlogit and is_match are of different lengths")


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedAnswer:
    """One answer, opened as far as its buyer chose: the prompt whole, the output whole or a prefix.

    request: the body with the buyer's Ed25519 signature. word: the seller's receipt, or, of a stream that was
    cut before it, its last acknowledgement. facts: the seller's encoded engine facts, empty if it never
    stated them. chance_ppm: of being checked, when it was drawn.
    """

    request: Signed
    word: SignedReceipt | SignedAck
    facts: bytes
    prompt: Prefix
    output: Prefix
    how: How = "unknown"
    chance_ppm: int = 0
    reported: Reported | None = None

    def __post_init__(self) -> None:
        if self.prompt.side != "prompt" or self.output.side != "output":
            raise ValueError("a proof of the prompt and one of the output are needed, in this order")
        if not self.output.ids:
            raise ValueError("an answer without an opened token proves nothing")
        if self.how not in HOWS:
            raise ValueError(f"how {self.how!r} is none of {', '.join(HOWS)}")
        check_range("chance_ppm", self.chance_ppm, 0, PPM)
        if self.reported is not None and len(self.reported.is_match) != len(self.output.ids):
            raise ValueError(
                f"a report of {len(self.reported.is_match)} tokens on {len(self.output.ids)} opened ones"
            )

    @property
    def asked(self) -> Request:
        """Raises: RemoteFault if the body is no request."""
        return decode_request(self.request.body)

    @property
    def request_hash(self) -> RequestHash:
        return request_hash(self.request.body)

    @property
    def receipt(self) -> SignedReceipt | None:
        return self.word if isinstance(self.word, SignedReceipt) else None

    @property
    def receipt_hash(self) -> ReceiptHash | None:
        return None if self.receipt is None else receipt_hash(self.receipt)

    @property
    def is_whole(self) -> bool:
        """Whether all that the seller signed is opened."""
        return len(self.output.ids) == self.output.count

    @property
    def engine(self) -> bytes:
        """The hash of its facts that the seller signed. Raises: RemoteFault if the response is no message."""
        if isinstance(self.word, SignedReceipt):
            return decode_response(self.word.response).engine
        return self.word.ack.engine

    @property
    def check(self) -> CheckClass:
        """The class that the seller sold. Raises: RemoteFault if the response is no message."""
        if isinstance(self.word, SignedReceipt):
            return decode_response(self.word.response).check
        return self.word.ack.check

    @property
    def finish(self) -> FinishReason | None:
        """Why the answer ended, as the seller signed it; None when it never signed an end.

        Raises: RemoteFault if the response is no message.
        """
        if isinstance(self.word, SignedReceipt):
            return decode_response(self.word.response).finish
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What the one who made the file found. log10_e_milli: thousandths of a decade of its own E.

    engine: of the checker. calibration: what the table is known by. A word, not a proof.
    """

    engine: EngineFacts
    check: CheckClass
    replay: Replay
    calibration: bytes
    table: NoiseTable
    log10_e_milli: int
    made_unix_s: int

    def __post_init__(self) -> None:
        check_size("calibration", self.calibration, ID_BYTES)
        check_range("log10_e_milli", self.log10_e_milli, -(1 << 53), 1 << 53)
        check_range("made_unix_s", self.made_unix_s, 0, 1 << 40)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """bonds: whose EIP-712 domain the receipts are signed in. accused: the key that signed them.

    answers: in the order of the channel. others: receipts of the same channel that stay shut, so that the
    seller's chain of receipts can be followed through.
    """

    bonds: Deployment
    accused: Address
    answers: tuple[OpenedAnswer, ...]
    others: tuple[SignedReceipt, ...] = ()
    report: Report | None = None

    def __post_init__(self) -> None:
        check_size("accused", self.accused, ADDRESS_BYTES)
        check_range("answers", len(self.answers), 1, ANSWERS_MAX)
        check_range("others", len(self.others), 0, OTHERS_MAX)
        check_range("opened tokens", self.tokens, 1, TOKENS_MAX)

    @property
    def tokens(self) -> int:
        """Opened ids, of prompts and outputs: what a reader has to compute."""
        return sum(len(answer.prompt.ids) + len(answer.output.ids) for answer in self.answers)

    @property
    def output_tokens(self) -> int:
        return sum(len(answer.output.ids) for answer in self.answers)
