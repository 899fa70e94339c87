"""What travels on `/unhosted/check/1`: a peer asks another to read evidence again and sign what it finds.

The asker names the evidence by its hash and says how large it is (`Ask`); nothing of a prompt or an answer is
in that. The reader refuses (`No`) or lets it come (`Go`); then the file follows in pieces (`Piece`), and the
reader's signed word (`Word`) ends it. So a reader that lacks the model, is busy or does not want to never
sees what somebody wrote.

Before any of it the asker's user consents (`Consent`), each time anew: to this evidence, to this reader. A
consent is for one sending and not for long. `disclosure` says what the reader will learn.
"""

from dataclasses import dataclass

from unhosted.market.cbor import encode
from unhosted.market.faults import Reason, RemoteFault
from unhosted.market.fields import Fields, read_message
from unhosted.market.signed import FRAME_BYTES, Signed, decode_signed, encode_signed
from unhosted.node.core.confirmation_wire import CONFIRMATION_BYTES_MAX
from unhosted.node.core.evidence import TOKENS_MAX, Evidence
from unhosted.node.core.evidence_wire import EVIDENCE_BYTES_MAX, EvidenceHash
from unhosted.node.core.peering import PeerId

PROTOCOL = "/unhosted/check/1"
VERSION = 1

PIECE_BYTES_MAX = 256 << 10
"""Of a file in one message: a quarter of a second of a slow line."""

MESSAGE_BYTES_MAX = PIECE_BYTES_MAX + 1_024
WHY_CHARS_MAX = 400
KIND_CHARS_MAX = 16

CONSENT_NS = 600 * 1_000_000_000
"""From a yes to the sending: who said it still knows what for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """size_bytes, tokens: of the file, and of prompts and answers opened in it. model: BLAKE3 of the GGUF."""

    evidence: EvidenceHash
    model: bytes
    size_bytes: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Go:
    """The reader takes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class No:
    """The reader does not, or not any more. why: for people. retry_after_s: 0 where asking again is vain."""

    why: str
    retry_after_s: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """The next bytes of the file."""

    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """The body of a vote under the reader's identity (`confirmation_wire`)."""

    signed: Signed


Message = Ask | Go | No | Piece | Word


@dataclass(frozen=True, slots=True, kw_only=True)
class Disclosure:
    """What a reader of evidence learns, in numbers: whole prompts, and of the outputs what is opened."""

    answers: int
    prompt_tokens: int
    output_tokens: int
    shut_tokens: int
    model: bytes
    seller: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Consent:
    """The user's yes: this evidence may go to this peer, once."""

    evidence: EvidenceHash
    peer: PeerId
    given_ns: int

    def covers(self, evidence: EvidenceHash, peer: PeerId, now_ns: int) -> bool:
        """A clock that was set back makes a consent void."""
        is_fresh = 0 <= now_ns - self.given_ns <= CONSENT_NS
        return is_fresh and (self.evidence, self.peer) == (evidence, peer)


def disclosure(evidence: Evidence) -> Disclosure:
    """Raises: RemoteFault for what is no request; who made the evidence knows that it is one."""
    asked = evidence.answers[0].asked
    return Disclosure(
        answers=len(evidence.answers),
        prompt_tokens=sum(len(answer.prompt.ids) for answer in evidence.answers),
        output_tokens=evidence.output_tokens,
        shut_tokens=sum(answer.output.count - len(answer.output.ids) for answer in evidence.answers),
        model=asked.model,
        seller=asked.seller,
    )


def encode_check(message: Message) -> bytes:
    match message:
        case Ask():
            return _encode(
                "ask",
                {
                    "evidence": message.evidence,
                    "model": message.model,
                    "bytes": message.size_bytes,
                    "tokens": message.tokens,
                },
            )
        case Go():
            return _encode("go", {})
        case No():
            return _encode("no", {"why": message.why[:WHY_CHARS_MAX], "retry": message.retry_after_s})
        case Piece():
            return _encode("piece", {"data": message.data})
        case Word():
            return _encode("word", {"signed": encode_signed(message.signed)})


def decode_check(data: bytes) -> Message:
    """Raises: RemoteFault, and nothing else, whatever the bytes are."""
    return read_message(data, bytes_max=MESSAGE_BYTES_MAX, version=VERSION, unpack=_unpack)


def _encode(kind: str, fields: dict[str, object]) -> bytes:
    return encode({"v": VERSION, "k": kind, **fields})


def _unpack(fields: Fields) -> Message:
    match fields.text("k", chars_max=KIND_CHARS_MAX):
        case "ask":
            return Ask(
                evidence=EvidenceHash(fields.exactly("evidence")),
                model=fields.exactly("model"),
                size_bytes=fields.uint("bytes", least=1, most=EVIDENCE_BYTES_MAX),
                tokens=fields.uint("tokens", least=1, most=TOKENS_MAX),
            )
        case "go":
            return Go()
        case "no":
            why = fields.text("why", chars_max=WHY_CHARS_MAX)
            return No(why=why, retry_after_s=fields.uint("retry", most=1 << 20))
        case "piece":
            data = fields.data("data", bytes_max=PIECE_BYTES_MAX)
            if not data:
                raise fields.wrong("data", "an empty piece brings nothing")
            return Piece(data=data)
        case "word":
            framed = fields.data("signed", bytes_max=CONFIRMATION_BYTES_MAX + FRAME_BYTES)
            return Word(signed=decode_signed(framed, body_bytes_max=CONFIRMATION_BYTES_MAX))
        case kind:
            raise RemoteFault(Reason.MALFORMED, f"k: {kind!r} is none of ask, go, no, piece, word")
