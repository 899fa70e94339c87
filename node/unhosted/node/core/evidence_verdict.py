"""What a reader concludes from evidence that it ran again: from its own numbers and tables alone.

The answers go through the same e-process as a buyer's own checks, from nothing, in the order of the channel.
Its peak is what the bound is on. What the choice of answers could have won is taken off (`evidence_weight`).
Faults that need no statistics convict by themselves.

A prompt counts once. Rounding is deterministic: one honest flip, bought a hundred times with the same prompt
and seed, would look like a hundred, while the bound is on what each token shows given those before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from unhosted.market.offers import CheckClass
from unhosted.node.core.engine_facts import EngineFacts, Replay, replay_for
from unhosted.node.core.evidence import Evidence, OpenedAnswer
from unhosted.node.core.evidence_weight import CONVICT_LOG10_MILLI, evidence_cost_log10_milli
from unhosted.node.core.inference import CheckedAnswer, CheckRequest
from unhosted.node.core.sampling_words import Sampling, decode_sampling
from unhosted.verify.eprocess import EvidenceState, add_answer, log10_e_milli, peak_log10_e_milli
from unhosted.verify.hard_checks import Answer, Finish, HardFault, check_answer, proofs
from unhosted.verify.noise import (
    GAP_EDGES_MLOGIT,
    GROSS_BETS_PPB,
    GROSS_CLIP_MLOGIT,
    GROSS_MEAN_PPB,
    NoiseTable,
)
from unhosted.verify.observations import Observations

APPEAL_LOG10_MILLI = 4_000
"""Below it the seller's own settings explain its tokens: where a buyer's node would not yet hold its pay."""

TRAIL_POINTS_MAX = 64
"""Of the picture; each costs a run over one answer."""

Verdict = Literal["convicts", "clear"]
AppealResult = Literal["exact", "within noise", "not explained", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadAnswer:
    """An answer as this machine saw it. check, replay: how it was read. table: by which it is judged.
    drawn_ids: what this machine draws at each place."""

    check: CheckClass
    replay: Replay
    table: NoiseTable
    seen: Observations
    faults: tuple[HardFault, ...] = ()
    drawn_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """log10_e_milli: the peak of the process, thousandths of a decade. cost_milli: of the choice.

    now_milli: the process after the last answer. proofs: sentences that convict by themselves. trail: tokens
    that count and log10 E in thousandths then, for a picture. repeats: answers that do not count, since their
    prompt did before.
    """

    verdict: Verdict
    tokens: int
    mismatches: int
    log10_e_milli: int
    now_milli: int
    cost_milli: int
    proofs: tuple[str, ...]
    is_gross: bool
    repeats: int
    trail: tuple[tuple[int, int], ...]

    @property
    def left_milli(self) -> int:
        return self.log10_e_milli - self.cost_milli


@dataclass(frozen=True, slots=True, kw_only=True)
class Appeal:
    """Read again as the seller says that it computed. result: `exact`: token for token the same; `within
    noise`: what differs is no more than rounding; `not explained`; `unknown`: some tokens differ, and how
    many rounding explains was not measured for these engines."""

    replay: Replay
    tokens: int
    mismatches: int
    log10_e_milli: int
    result: AppealResult


def sampling_of(answer: OpenedAnswer) -> Sampling:
    """Raises: RemoteFault; `check_evidence` found that before."""
    request = answer.asked
    return decode_sampling(request.sampling, seed=request.seed)


def check_request(answer: OpenedAnswer, replay: Replay) -> CheckRequest:
    sampling = sampling_of(answer)
    return CheckRequest(
        prompt_ids=answer.prompt.ids,
        output_ids=answer.output.ids,
        sampling=sampling.params,
        constraint=sampling.constraint,
        ignore_eos=sampling.ignore_eos,
        replay=replay,
    )


def appeal_replay(seller: EngineFacts, own: EngineFacts) -> Replay:
    """The seller's own settings: those that give its very bits where there are such, else as it declared
    them, token by token as when it decoded."""
    check, replay = replay_for(seller, own)
    if check == "exact":
        return replay
    return Replay(
        ubatch_tokens=seller.ubatch_tokens,
        output_piece_tokens=1,
        kv_type=seller.kv_type,
        flash_attention=seller.flash_attention,
    )


def hard_faults(
    answer: OpenedAnswer, checked: CheckedAnswer, *, is_same_library: bool
) -> tuple[HardFault, ...]:
    """Of an answer that is opened in part, or was never ended, only what it contains is checked.

    is_same_library: whether the seller states the build that read it again here.
    """
    sampling = sampling_of(answer)
    signed = answer.finish if answer.is_whole else None
    # A tool call ends as any other text does.
    finish: Finish = "cut" if signed is None else "stop" if signed == "tool_calls" else signed
    return check_answer(
        Answer(
            output_tokens=len(answer.output.ids),
            finish=finish,
            tokens_counted=len(answer.output.ids),  # the roots were opened: a signed count cannot differ
            tokens_max=answer.asked.terms.tokens_out_max,
            is_same_library=is_same_library,
            stop=sampling.stop,
            ignore_eos=sampling.ignore_eos,
            is_constrained=sampling.constraint is not None,
            text_spelled=checked.text,
            end_positions=checked.end_positions,
            out_of_range=checked.out_of_range,
            margin_mlogit=checked.seen.margin_mlogit,
        )
    )


def judge(evidence: Evidence, read: Sequence[ReadAnswer]) -> Judgement:
    """read: one per answer of the evidence, in its order. Raises: ValueError for another number of them."""
    state = EvidenceState()
    trail = [(0, 0)]
    counted = _counted(evidence, read)
    steps = max(1, TRAIL_POINTS_MAX // max(1, len(counted)))
    for one in counted:
        tokens = one.seen.tokens
        for end in sorted({tokens * step // steps for step in range(1, steps)} - {0, tokens}):
            part = add_answer(state, one.table, one.seen.part(0, end))
            trail.append((part.tokens, log10_e_milli(part)))
        state = add_answer(state, one.table, one.seen)
        trail.append((state.tokens, log10_e_milli(state)))
    sentences = tuple(
        sentence if len(read) == 1 else f"Answer {index + 1}: {sentence}"
        for index, one in enumerate(read)
        for sentence in proofs(one.faults)
    )
    cost_milli = evidence_cost_log10_milli(evidence)
    is_over = peak_log10_e_milli(state) - cost_milli >= CONVICT_LOG10_MILLI
    return Judgement(
        verdict="convicts" if is_over or sentences else "clear",
        tokens=state.tokens,
        mismatches=state.mismatches,
        log10_e_milli=peak_log10_e_milli(state),
        now_milli=log10_e_milli(state),
        cost_milli=cost_milli,
        proofs=sentences,
        is_gross=any(one.table.is_gross for one in read),
        repeats=len(read) - len(counted),
        trail=tuple(trail),
    )


def judge_appeal(evidence: Evidence, read: Sequence[ReadAnswer]) -> Appeal:
    """read: one per answer, with the replay of the seller's own facts."""
    state = EvidenceState()
    for one in _counted(evidence, read):
        state = add_answer(state, one.table, one.seen)
    log10 = peak_log10_e_milli(state)
    result: AppealResult = "exact"
    if log10 >= APPEAL_LOG10_MILLI or any(proofs(one.faults) for one in read):
        result = "not explained"
    elif state.mismatches:
        result = "unknown" if any(one.table.is_gross for one in read) else "within noise"
    return Appeal(
        replay=read[0].replay,
        tokens=state.tokens,
        mismatches=state.mismatches,
        log10_e_milli=log10,
        result=result,
    )


def _counted(evidence: Evidence, read: Sequence[ReadAnswer]) -> list[ReadAnswer]:
    """The first answer to each prompt. Raises: ValueError unless there is one reading per answer."""
    if len(read) != len(evidence.answers):
        raise ValueError(f"{len(read)} read answers, the evidence has {len(evidence.answers)}")
    seen: set[tuple[int, ...]] = set()
    counted = []
    for answer, one in zip(evidence.answers, read, strict=True):
        if answer.prompt.ids not in seen:
            seen.add(answer.prompt.ids)
            counted.append(one)
    return counted


def gross_table(model: bytes, *, seller_class: str, checker_class: str, library: str) -> NoiseTable:
    """For a pair of engines of a model of which nothing was measured here: only what no engine does by
    rounding counts. It rests on nothing that came with the evidence."""
    bins = len(GAP_EDGES_MLOGIT)
    return NoiseTable(
        model=model,
        seller_class=seller_class,
        checker_class=checker_class,
        library=library,
        rule="statistical",
        clip_mlogit=GROSS_CLIP_MLOGIT,
        mean_max_ppb=(GROSS_MEAN_PPB,) * bins,
        bets_ppb=GROSS_BETS_PPB,
        tokens=(0,) * bins,
        held_out_growth_nnat=-1,
        is_gross=True,
        mismatch_max_ppb=GROSS_MEAN_PPB,
    )
