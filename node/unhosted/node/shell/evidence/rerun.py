"""Evidence run again on this machine's engine, a few answers at a time, and a closer look at the worst
tokens."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from heapq import nlargest

from unhosted.market.offers import CheckClass
from unhosted.node.core.engine_facts import EngineFacts, Replay, decode_facts, replay_for
from unhosted.node.core.evidence import Evidence, OpenedAnswer
from unhosted.node.core.evidence_verdict import (
    ReadAnswer,
    appeal_replay,
    check_request,
    hard_faults,
)
from unhosted.node.core.inference import CheckRequest, Engines
from unhosted.verify.noise import NoiseTable
from unhosted.verify.params import SamplingParams

BATCH_ANSWERS_MAX = 8
"""Read together: more share little, and their cache takes more memory."""

BATCH_TOKENS_MAX = 8_192
"""Of one batch, prompts included: what a small machine has room for beside its own work."""

WORST_MAX = 8
"""Tokens that are looked at closely, each with a computation of its own."""

FindTable = Callable[[CheckClass, EngineFacts | None, EngineFacts], NoiseTable]
"""The table by which to judge: class of the reading, facts of the seller if it stated them, facts of ours."""

Progress = Callable[[int, int], None]
"""Answers read, and all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorstToken:
    """answer, position: counted from 0. served: the text of the token that came; drawn: of the one that this
    machine draws there. margin_mlogit: how far the first is below the second."""

    answer: int
    position: int
    served_id: int
    served: str
    drawn_id: int
    drawn: str
    margin_mlogit: int
    gap_mlogit: int
    rank: int


def seller_facts(answer: OpenedAnswer) -> EngineFacts | None:
    """What the seller said of its engine. Raises: RemoteFault; `check_evidence` found that before."""
    return decode_facts(answer.facts) if answer.facts else None


async def read_again(
    evidence: Evidence,
    engines: Engines,
    model: str,
    *,
    find_table: FindTable,
    is_appeal: bool = False,
    progress: Progress = lambda done, total: None,
) -> tuple[ReadAnswer, ...]:
    """Every answer, in order. model: a name of the engines' for the model that the evidence is of.

    is_appeal: as the seller says that it computed, and not as suits this machine. Raises: Refused.
    """
    own = await engines.facts(model)
    plans = [_plan(answer, own, is_appeal=is_appeal) for answer in evidence.answers]
    read: list[ReadAnswer] = []
    for batch in _batches(evidence.answers, [replay for _, replay in plans]):
        requests = [check_request(evidence.answers[index], plans[index][1]) for index in batch]
        for index, checked in zip(batch, await engines.check(model, requests), strict=True):
            answer, (check, replay) = evidence.answers[index], plans[index]
            seller = seller_facts(answer)
            read.append(
                ReadAnswer(
                    check=check,
                    replay=replay,
                    table=find_table(check, seller, own),
                    seen=checked.seen,
                    drawn_ids=checked.drawn_ids,
                    faults=hard_faults(
                        answer, checked, is_same_library=seller is not None and seller.build == own.build
                    ),
                )
            )
        progress(len(read), len(evidence.answers))
    return tuple(read)


async def look_closely(
    evidence: Evidence, read: Sequence[ReadAnswer], engines: Engines, model: str, *, count: int = WORST_MAX
) -> tuple[WorstToken, ...]:
    """The tokens with the greatest margins, worst first. Raises: Refused."""
    places = (
        (margin, -index, -position)
        for index, one in enumerate(read)
        for position, margin in enumerate(one.seen.margin_mlogit)
        if margin > 0
    )
    worst = [(-index, -position) for _, index, position in nlargest(min(count, WORST_MAX), places)]
    served_ids = [evidence.answers[index].output.ids[position] for index, position in worst]
    drawn_ids = [read[index].drawn_ids[position] for index, position in worst]
    texts = await _spell(engines, model, {*served_ids, *drawn_ids})
    return tuple(
        WorstToken(
            answer=index,
            position=position,
            served_id=served_id,
            served=texts[served_id],
            drawn_id=drawn_id,
            drawn=texts[drawn_id],
            margin_mlogit=read[index].seen.margin_mlogit[position],
            gap_mlogit=read[index].seen.gap_mlogit[position],
            rank=read[index].seen.rank[position],
        )
        for (index, position), served_id, drawn_id in zip(worst, served_ids, drawn_ids, strict=True)
    )


def _plan(answer: OpenedAnswer, own: EngineFacts, *, is_appeal: bool) -> tuple[CheckClass, Replay]:
    seller = seller_facts(answer)
    if seller is None:
        return "statistical", Replay()
    check, replay = replay_for(seller, own)
    return check, appeal_replay(seller, own) if is_appeal else replay


def _batches(answers: Sequence[OpenedAnswer], replays: Sequence[Replay]) -> list[list[int]]:
    """Neighbours that are read in one way; one that is longer than a batch stands alone."""
    batches: list[list[int]] = []
    tokens = 0
    for index, answer in enumerate(answers):
        own_tokens = len(answer.prompt.ids) + len(answer.output.ids)
        fits = (
            batches
            and replays[batches[-1][0]] == replays[index]
            and len(batches[-1]) < BATCH_ANSWERS_MAX
            and tokens + own_tokens <= BATCH_TOKENS_MAX
        )
        if not fits:
            batches.append([])
            tokens = 0
        batches[-1].append(index)
        tokens += own_tokens
    return batches


async def _spell(engines: Engines, model: str, ids: Collection[int]) -> dict[int, str]:
    """The text of each id by itself; empty for control tokens."""
    requests = [
        CheckRequest(prompt_ids=(one,), output_ids=(one,), sampling=SamplingParams(), ignore_eos=True)
        for one in ids
    ]
    texts: list[str] = []
    for start in range(0, len(requests), BATCH_ANSWERS_MAX):
        part = await engines.check(model, requests[start : start + BATCH_ANSWERS_MAX])
        texts += [one.text for one in part]
    return dict(zip(ids, texts, strict=True))
