"""The words of checking answers: what happened, what is to be done, and what is known of each pair.

A pair is a seller and a model: evidence adds up over its answers. An answer is named by its request: one has
one receipt. What a check found is a value that was made elsewhere (`Findings`); these rules never see a
token.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NewType

from unhosted.market.ids import RequestId
from unhosted.market.offers import CheckClass
from unhosted.verify.eprocess import EvidenceState
from unhosted.verify.hard_checks import HardFault
from unhosted.verify.noise import NoiseTable
from unhosted.verify.observations import Observations
from unhosted.verify.selection import History, Wish
from unhosted.verify.verdicts import Response, Stage

JOBS_MAX = 1_024
"""Receipts that wait for a check. A busy buyer has a few a minute and probation ends after ten; beyond this
the ones worth least are given up, and recorded as not checked."""

PAIRS_MAX = 4_096
"""Sellers times models that a buyer ever paid, and more than the jobs, so that one waits for nothing; beyond,
those without suspicion that were quiet longest are forgotten, and begin again with their probation."""

BATCH_MAX = 8
"""Answers that the engine reads together: more share little, and a step of theirs would be longer."""

ATTEMPTS_MAX = 3
"""How often a check is begun that fails for reasons of our own."""

SUSPECTS_MAX = 64
"""Answers of a pair that weigh most against it: those that a second reading must confirm."""

PROMPT_BYTES = 16
"""Of what tells prompts apart: two of a buyer's, by accident alike, would cost one answer's evidence."""

Prompt = NewType("Prompt", bytes)
"""A hash of a prompt's ids. Rounding is deterministic: the same prompt and seed give an honest seller the
same honest flip each time, and bought a hundred times it would look like a hundred. A pair's evidence has a
bound only over answers to prompts that it did not have before: each counts once."""

Status = Literal["waiting", "not_drawn", "not_checked", "checked", "faulty"]
"""`faulty`: what a receipt says contradicts itself, whatever the noise. `not_checked`: for a reason of
ours."""

How = Literal["probation", "drawn", "always", "asked"]
"""Why a receipt is checked: drawn by chance, or because the buyer said so before or after."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class PairKey:
    """seller: its peer id. model: BLAKE3 of the GGUF."""

    seller: str
    model: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A receipt that waits, or whose check runs. is_second: to confirm what a first reading found.
    is_asked: the user wants it now, drawn or not.

    is_repeat: its prompt was counted before for its pair, so that it is no evidence (`Prompt`).

    entropy: of its draw; its low bits decide how much of a long answer is read. not_before: after a failure.
    """

    request_id: RequestId
    pair: PairKey
    tokens_in: int
    tokens_out: int
    due_micros: int
    how: How
    chance_ppm: int
    entropy: bytes = field(repr=False)
    order: int
    attempts: int = 0
    not_before_ns: int = 0
    is_asked: bool = False
    is_second: bool = False
    is_repeat: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """A checked answer, by the job that it was, and how much it weighs alone against its pair, in
    nanonats."""

    job: Job
    weight_nnat: int
    is_read_twice: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """What is known of a seller with a model.

    evidence: of first readings. confirming: of second readings, on other settings, of the suspects alone.
    proof, proof_confirmed: the first sentence of a fault that needs no statistics, as read once and twice.
    is_gross: the newest answer was judged by a table of other engines. suspects: those that weigh most,
    heaviest first.
    """

    history: History = field(default_factory=History)
    stage: Stage = Stage.CLEAR
    evidence: EvidenceState = field(default_factory=EvidenceState)
    confirming: EvidenceState = field(default_factory=EvidenceState)
    proof: str = ""
    proof_confirmed: str = ""
    is_gross: bool = False
    suspects: tuple[Suspect, ...] = ()
    changed_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What checking may cost this machine. tokens_per_hour: prompt and answer together, saved up to an hour's
    worth; checks that the user asked for by hand and second readings are not counted against it.
    answer_tokens: of one answer that are read, on average; longer ones are read up to a depth that is drawn.
    """

    tokens_per_hour: int = 200_000
    answer_tokens: int = 4_096

    def __post_init__(self) -> None:
        if not (0 <= self.tokens_per_hour <= 1 << 40 and 1 <= self.answer_tokens <= 1 << 20):
            raise ValueError(f"{self} is out of range: 0 to 2^40 tokens an hour, 1 to 2^20 of an answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """pairs and jobs by key; paces: tokens a second by model; running: of the jobs, those that an engine
    reads now. left: tokens of the allowance, at `filled_ns`. order: of the newest job."""

    limits: Limits = field(default_factory=Limits)
    paces: Mapping[bytes, int] = field(default_factory=dict)
    pairs: Mapping[PairKey, Pair] = field(default_factory=dict)
    jobs: Mapping[RequestId, Job] = field(default_factory=dict)
    running: frozenset[RequestId] = frozenset()
    left_tokens: int = 0
    filled_ns: int = 0
    order: int = 0


# ---- what happened


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptCame:
    """A receipt that was never seen here. entropy: 32 fresh bytes of this machine, drawn after it came."""

    request_id: RequestId
    pair: PairKey
    tokens_in: int
    tokens_out: int
    due_micros: int
    wish: Wish
    entropy: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckWanted:
    """The user wants one that was not checked yet, drawn or not, to be checked now."""

    request_id: RequestId
    pair: PairKey
    tokens_in: int
    tokens_out: int
    due_micros: int
    entropy: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """seen: of the tokens that were read, which may be a prefix. table: None where nothing is known of the
    noise between the seller's engine and ours; then only the faults count."""

    check: CheckClass
    seen: Observations
    table: NoiseTable | None = None
    faults: tuple[HardFault, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckDone:
    """is_repeat: whether an answer to this prompt was counted before for this pair; who keeps the record of
    them says so (`CountPrompt`)."""

    request_id: RequestId
    findings: Findings
    prompt: Prompt
    is_repeat: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckFailed:
    """For a reason of ours: no memory, no model, an engine that died. Nobody is blamed for it."""

    request_id: RequestId
    why: str
    may_retry: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRead:
    """How fast this machine read answers of a model just now, prompts included."""

    model: bytes
    tokens_per_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgiven:
    """The user starts again with a pair, as if nothing was known of it."""

    pair: PairKey


@dataclass(frozen=True, slots=True, kw_only=True)
class TimePassed:
    """Nothing happened; what waits may be due."""


Event = ReceiptCame | CheckWanted | CheckDone | CheckFailed | BatchRead | Forgiven | TimePassed


# ---- what is to be done


@dataclass(frozen=True, slots=True, kw_only=True)
class ToRead:
    """output_tokens: from the first on, the whole answer or a prefix. is_second: on other settings than the
    first reading had."""

    request_id: RequestId
    output_tokens: int
    is_second: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RunChecks:
    """Read these together; each is answered by a `CheckDone` or a `CheckFailed`."""

    model: bytes
    reads: tuple[ToRead, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is known of one receipt now. tokens: read; mismatches: among them. log10_e_milli: of its pair."""

    request_id: RequestId
    pair: PairKey
    status: Status
    why: str
    how: How
    chance_ppm: int
    tokens: int = 0
    mismatches: int = 0
    log10_e_milli: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CountPrompt:
    """From now on, answers of the pair to this prompt are repeats. Also told of a repeat: what is repeated
    must not be forgotten for being old."""

    pair: PairKey
    prompt: Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class StageChanged:
    """response: what is to be done at the stage after. why: for the user."""

    pair: PairKey
    before: Stage
    after: Stage
    response: Response
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeEvidence:
    """Two readings on different settings agree. Goes to a file of the user's; nothing is published."""

    pair: PairKey
    request_ids: tuple[RequestId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tell:
    """A sentence for the user, about a pair."""

    pair: PairKey
    text: str


Effect = RunChecks | Record | CountPrompt | StageChanged | MakeEvidence | Tell
