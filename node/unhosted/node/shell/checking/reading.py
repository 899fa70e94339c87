"""Kept answers read again on this machine's engine, and what was found, for the rules to judge.

All that came is read, signed or not. A second reading takes other shapes of computation than the first, so
that a fault of ours, in an engine or in memory, hardly does the same twice.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from unhosted.market.faults import RemoteFault
from unhosted.market.offers import CheckClass
from unhosted.market.receipts import decode_response
from unhosted.node.core.checks_words import Findings, ToRead
from unhosted.node.core.engine_facts import EngineFacts, Replay, decode_facts, replay_for
from unhosted.node.core.errors import Code, Refused
from unhosted.node.core.inference import CheckedAnswer, CheckRequest, Engines
from unhosted.node.shell.money.kept_words import KeptAnswer
from unhosted.verify.hard_checks import Answer, Finish, HardFault, check_answer
from unhosted.verify.noise import NoiseTable

_LOG = logging.getLogger(__name__)

FindTable = Callable[[bytes, CheckClass, EngineFacts | None, EngineFacts], NoiseTable | None]
"""The table by which to judge: model, class of the reading, facts of the seller if it stated them, ours.
Blocks, and may read small files."""

LASTING: frozenset[Code] = frozenset(
    {"model_not_found", "context_length_exceeded", "invalid_request", "not_supported", "digest_mismatch"}
)
"""Refusals that trying again does not change; memory, time and engines do change."""

PIECE_TOKENS_MIN = 2
"""A lone row takes another way through some kernels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NotRead:
    """For a reason of ours."""

    why: str
    may_retry: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    kept: KeptAnswer
    tokens: int
    check: CheckClass
    replay: Replay
    seller: EngineFacts | None


class Reader:
    """Reads answers of one model together. engines: `Engines` of this machine."""

    def __init__(self, engines: Engines, find_table: FindTable) -> None:
        self._engines = engines
        self._find_table = find_table

    async def read(
        self, model: bytes, answers: Sequence[tuple[KeptAnswer, ToRead]]
    ) -> list[Findings | NotRead]:
        """One for each, in order; whatever goes wrong is said in its place."""
        name = f"b3:{model.hex()}"
        try:
            own = await self._engines.facts(name)
        except Refused as refused:
            return [_not_read(refused)] * len(answers)
        plans = [_plan(kept, read, own) for kept, read in answers]
        try:
            seen = await self._engines.check(name, [_request(plan) for plan in plans])
        except Refused as refused:
            if len(plans) == 1 and (shorter := _within_context(plans[0], answers[0][1], refused)) is not None:
                return await self.read(model, [(plans[0].kept, shorter)])
            if len(plans) == 1 or refused.code == "overloaded":
                return [_not_read(refused)] * len(plans)
            # One of them may be what cannot be read: it must not keep the others from it.
            return [one for answer in answers for one in await self.read(model, [answer])]
        return [self._findings(model, plan, own, one) for plan, one in zip(plans, seen, strict=True)]

    def _findings(self, model: bytes, plan: _Plan, own: EngineFacts, seen: CheckedAnswer) -> Findings:
        is_scored = seen.out_of_range is None and seen.seen.tokens > 0
        return Findings(
            check=plan.check,
            seen=seen.seen,
            table=self._find_table(model, plan.check, plan.seller, own) if is_scored else None,
            faults=_faults(plan, seen, own),
        )


def second_replay(first: Replay) -> Replay:
    """Other shapes of computation, in the same class of rounding."""
    piece_tokens = max(PIECE_TOKENS_MIN, first.output_piece_tokens // 2)
    if first.output_piece_tokens < first.ubatch_tokens:
        return replace(first, output_piece_tokens=piece_tokens)
    return replace(first, ubatch_tokens=piece_tokens, output_piece_tokens=piece_tokens)


def _plan(kept: KeptAnswer, read: ToRead, own: EngineFacts) -> _Plan:
    seller = _seller_facts(kept)
    check: CheckClass = "statistical"
    replay = Replay(flash_attention=own.flash_attention)
    if seller is not None:
        check, replay = replay_for(seller, own)
    return _Plan(
        kept=kept,
        # All that came, signed or not: the stream was the seller's own, and whoever "crashes" before it signs
        # must not be free of checks. What a file may show others is another matter (`shell.evidence.making`).
        tokens=min(read.output_tokens, len(kept.output_ids)),
        check=check,
        replay=second_replay(replay) if read.is_second else replay,
        seller=seller,
    )


def _within_context(plan: _Plan, read: ToRead, refused: Refused) -> ToRead | None:
    """What can be read of an answer that is too long for the model: a seller that sends more than the model
    can hold must not be free of checks for it. None where no part fits, or something else is wrong."""
    room = refused.details.get("context_tokens")
    if refused.code != "context_length_exceeded" or not isinstance(room, int):
        return None
    tokens = min(plan.tokens - 1, room - len(plan.kept.prompt_ids))
    return replace(read, output_tokens=tokens) if tokens > 0 else None


def _seller_facts(kept: KeptAnswer) -> EngineFacts | None:
    if not kept.facts:
        return None
    try:
        return decode_facts(kept.facts)
    except RemoteFault:
        return None  # what nobody understands is as good as nothing stated


def _request(plan: _Plan) -> CheckRequest:
    sampling = plan.kept.sampling
    return CheckRequest(
        prompt_ids=plan.kept.prompt_ids,
        output_ids=plan.kept.output_ids[: plan.tokens],
        sampling=sampling.params,
        constraint=sampling.constraint,
        ignore_eos=sampling.ignore_eos,
        replay=plan.replay,
    )


def _faults(plan: _Plan, seen: CheckedAnswer, own: EngineFacts) -> tuple[HardFault, ...]:
    """An answer that was read in part has no end of its own."""
    kept, sampling = plan.kept, plan.kept.sampling
    finish = _finish(kept) if plan.tokens == len(kept.output_ids) else "cut"
    faults = check_answer(
        Answer(
            output_tokens=plan.tokens,
            finish=finish,
            tokens_counted=plan.tokens,  # the buyer compared counts when the receipt came
            tokens_max=kept.request.terms.tokens_out_max,
            is_same_library=plan.seller is not None and plan.seller.build == own.build,
            stop=sampling.stop,
            ignore_eos=sampling.ignore_eos,
            is_constrained=sampling.constraint is not None,
            text_spelled=seen.text,
            end_positions=seen.end_positions,
            out_of_range=seen.out_of_range,
            margin_mlogit=seen.seen.margin_mlogit,
        )
    )
    if kept.fault:
        signed = HardFault(
            name="count_differs", sentence=f"Its receipt is wrong: {kept.fault}.", is_proof=False
        )
        return (*faults, signed)
    return faults


def _finish(kept: KeptAnswer) -> Finish:
    if kept.receipt is None or kept.fault:
        return "cut"
    finish = decode_response(kept.receipt.response).finish
    return "stop" if finish == "tool_calls" else finish  # a call ends as any other text does


def _not_read(refused: Refused) -> NotRead:
    _LOG.info("check_failed code=%s", refused.code)
    return NotRead(why=refused.message, may_retry=refused.code not in LASTING)
