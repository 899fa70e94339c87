"""Requests to check answers, and what came of them, as the node and a model's process pass them on."""

from typing import Any

from unhosted.node.core.engine_facts import Replay
from unhosted.node.core.inference import CheckedAnswer, CheckRequest
from unhosted.node.shell.engine.wire import (
    pack_constraint,
    pack_sampling,
    unpack_constraint,
    unpack_sampling,
)
from unhosted.verify.observations import Observations


def pack_check(request: CheckRequest) -> list[Any]:
    replay = request.replay
    return [
        list(request.prompt_ids),
        list(request.output_ids),
        pack_sampling(request.sampling),
        pack_constraint(request.constraint),
        request.ignore_eos,
        [replay.ubatch_tokens, replay.output_piece_tokens, replay.kv_type, replay.flash_attention],
    ]


def unpack_check(parts: list[Any]) -> CheckRequest:
    prompt_ids, output_ids, sampling, constraint, ignore_eos, replay = parts
    ubatch_tokens, output_piece_tokens, kv_type, flash_attention = replay
    return CheckRequest(
        prompt_ids=tuple(prompt_ids),
        output_ids=tuple(output_ids),
        sampling=unpack_sampling(sampling),
        constraint=unpack_constraint(constraint),
        ignore_eos=ignore_eos,
        replay=Replay(
            ubatch_tokens=ubatch_tokens,
            output_piece_tokens=output_piece_tokens,
            kv_type=kv_type,
            flash_attention=flash_attention,
        ),
    )


def pack_checked(answer: CheckedAnswer) -> list[Any]:
    seen = answer.seen
    return [
        [
            list(seen.gap_mlogit),
            list(seen.margin_mlogit),
            list(seen.is_match),
            list(seen.logprob_mnat),
            list(seen.rank),
        ],
        answer.text,
        list(answer.end_positions),
        answer.out_of_range,
        list(answer.drawn_ids),
    ]


def unpack_checked(parts: list[Any]) -> CheckedAnswer:
    seen, text, end_positions, out_of_range, drawn_ids = parts
    gaps, margins, matches, logprobs, ranks = map(tuple, seen)
    return CheckedAnswer(
        seen=Observations(
            gap_mlogit=gaps, margin_mlogit=margins, is_match=matches, logprob_mnat=logprobs, rank=ranks
        ),
        text=text,
        end_positions=tuple(end_positions),
        out_of_range=out_of_range,
        drawn_ids=tuple(drawn_ids),
    )
