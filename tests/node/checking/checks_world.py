"""Answers without an engine: honest readings and others, and a world that carries out what rules want."""

import hashlib
from dataclasses import dataclass, field

from unhosted.market.ids import RequestId
from unhosted.node.core import checks
from unhosted.node.core.checks import step
from unhosted.node.core.checks_words import (
    JOBS_MAX,
    PAIRS_MAX,
    PROMPT_BYTES,
    CheckDone,
    CheckFailed,
    CheckWanted,
    CountPrompt,
    Effect,
    Event,
    Findings,
    Limits,
    MakeEvidence,
    PairKey,
    Prompt,
    ReceiptCame,
    Record,
    RunChecks,
    StageChanged,
    State,
    Tell,
    ToRead,
)
from unhosted.verify.hard_checks import HardFault
from unhosted.verify.noise import GAP_EDGES_MLOGIT, NoiseTable
from unhosted.verify.observations import Observations
from unhosted.verify.selection import ENTROPY_BYTES, Wish

MODEL = bytes(range(32))
OTHER_MODEL = bytes(32)
SELLER = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
PAIR = PairKey(seller=SELLER, model=MODEL)
BINS = len(GAP_EDGES_MLOGIT)
TABLE = NoiseTable(
    model=MODEL,
    seller_class="a",
    checker_class="b",
    library="c",
    rule="statistical",
    clip_mlogit=500,
    mean_max_ppb=(20_000_000,) * BINS,
    bets_ppb=((200_000_000,) * BINS,),
    tokens=(1_000,) * BINS,
    held_out_growth_nnat=-1,
)
PROOF = HardFault(name="ids_after_end", sentence="It went on after its end.", is_proof=True)
EVERY = b"\x00" * ENTROPY_BYTES
"""Entropy that is drawn at any chance, and reads no deeper than it must."""


def request_id(number: int) -> RequestId:
    return RequestId(hashlib.blake2b(number.to_bytes(8, "big"), digest_size=32).digest())


def seen(tokens: int, *, wrong: int = 0) -> Observations:
    """The first `wrong` tokens are a logit from what the checker draws."""
    return Observations(
        gap_mlogit=(900,) * tokens,
        margin_mlogit=(1_000,) * wrong + (0,) * (tokens - wrong),
        is_match=(False,) * wrong + (True,) * (tokens - wrong),
        logprob_mnat=(-100,) * tokens,
        rank=(0,) * tokens,
    )


def came(
    number: int,
    *,
    pair: PairKey = PAIR,
    tokens_in: int = 20,
    tokens_out: int = 50,
    due_micros: int = 100,
    wish: Wish = "auto",
    entropy: bytes = EVERY,
) -> ReceiptCame:
    return ReceiptCame(
        request_id=request_id(number),
        pair=pair,
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        due_micros=due_micros,
        wish=wish,
        entropy=entropy,
    )


@dataclass
class World:
    """Applies events, and keeps what was wanted. `reads`: of the batch that runs."""

    state: State = field(default_factory=lambda: State(limits=Limits(tokens_per_hour=10**9)))
    now_ns: int = 1_700_000_000_000_000_000
    records: dict[RequestId, list[Record]] = field(default_factory=dict)
    changes: list[StageChanged] = field(default_factory=list)
    evidence: list[MakeEvidence] = field(default_factory=list)
    told: list[Tell] = field(default_factory=list)
    reads: list[ToRead] = field(default_factory=list)
    batches: int = 0
    prompts: dict[RequestId, bytes] = field(default_factory=dict)
    counted: set[tuple[PairKey, Prompt]] = field(default_factory=set)

    def happens(self, event: Event) -> tuple[Effect, ...]:
        self.state, effects = step(self.state, event, self.now_ns)
        for effect in effects:
            match effect:
                case Record():
                    self.records.setdefault(effect.request_id, []).append(effect)
                case CountPrompt():
                    self.counted.add((effect.pair, effect.prompt))
                case StageChanged():
                    self.changes.append(effect)
                case MakeEvidence():
                    self.evidence.append(effect)
                case Tell():
                    self.told.append(effect)
                case RunChecks():
                    assert not self.reads, "a batch begins while another one runs"
                    self.reads = list(effect.reads)
                    self.batches += 1
        return effects

    def done(self, findings: Findings, *, index: int = 0) -> ToRead:
        read = self.reads.pop(index)
        return self.finished(read, findings)

    def finished(self, read: ToRead, findings: Findings) -> ToRead:
        """Each answer is to another prompt, unless `prompts` says otherwise."""
        pair = self.state.jobs[read.request_id].pair if read.request_id in self.state.jobs else PAIR
        prompt = Prompt(self.prompts.get(read.request_id, read.request_id[:PROMPT_BYTES]))
        self.happens(
            CheckDone(
                request_id=read.request_id,
                findings=findings,
                prompt=prompt,
                is_repeat=(pair, prompt) in self.counted,
            )
        )
        return read

    def failed(self, *, may_retry: bool, why: str = "no memory") -> ToRead:
        read = self.reads.pop(0)
        self.happens(CheckFailed(request_id=read.request_id, why=why, may_retry=may_retry))
        return read

    def last(self, number: int) -> Record:
        return self.records[request_id(number)][-1]


def clean(tokens: int = 50) -> Findings:
    return Findings(check="statistical", seen=seen(tokens), table=TABLE)


def cheated(tokens: int = 50, *, wrong: int = 20) -> Findings:
    return Findings(check="statistical", seen=seen(tokens, wrong=wrong), table=TABLE)


def wanted(number: int, *, pair: PairKey = PAIR) -> CheckWanted:
    return CheckWanted(
        request_id=request_id(number), pair=pair, tokens_in=20, tokens_out=50, due_micros=100, entropy=EVERY
    )


class Bounds:
    """Smaller ones, so that a test reaches them."""

    def __init__(self, *, jobs: int = JOBS_MAX, pairs: int = PAIRS_MAX) -> None:
        self._smaller = {"JOBS_MAX": jobs, "PAIRS_MAX": pairs}
        self._usual = {"JOBS_MAX": JOBS_MAX, "PAIRS_MAX": PAIRS_MAX}

    def __enter__(self) -> None:
        vars(checks).update(self._smaller)

    def __exit__(self, *_: object) -> None:
        vars(checks).update(self._usual)
