"""What can be held against an answer without statistics: its end, its counts, its ids and its text.

Two kinds of fault:

- Proof. Two readers with the same request, receipt, ids and GGUF always agree on it: no logits and no noise
  are in it. An id outside the vocabulary, ids after the end, a count above what was asked, `length` before
  the limit, `stop` without anything that stops, text that the ids do not spell. Which ids end a generation,
  and what a control id spells, is the library's word more than the GGUF's: it knows some by their names, and
  each version knows others. So what rests on that is proof only where seller and reader have one build.
- Suspicion. Two readers may see it differently. An end before the limit without a reason is proof only where
  it is known that the seller's context had room for more. An end of generation that the model was far from
  drawing rests on logits: honest noise hardly ever does that, but mixtures of experts have rare jumps of many
  logits, so one token convicts nobody. It already counts as X near 1 in `eprocess`, as does every place where
  the model would have ended and the seller went on, since there the claimed token has a margin. Named here it
  makes the checker look again.

An answer that was cut or cancelled has no end of its own: only what it contains is checked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Finish = Literal["stop", "length", "cancelled", "cut"]

FaultName = Literal[
    "id_outside_vocabulary",
    "ids_after_end",
    "too_many_tokens",
    "length_below_limit",
    "stop_without_reason",
    "went_on_after_stop",
    "text_differs",
    "count_differs",
    "end_unlikely",
]

END_MARGIN_MLOGIT_MAX = 1_000
"""Of an honest end: 0.004 % of honest tokens were above it, and 20 of 20 forged ends."""

TOKEN_CHARS_MAX = 256
"""What one id may add to a text: the longest pieces of known vocabularies are runs of 128 spaces. A stop text
that ends this near to the end of the output may have ended with the last id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HardFault:
    """name: for programs. sentence: for people. is_proof: convicts by itself; else it is a suspicion.

    position: of the output token that it is about, None if it is about the whole.
    """

    name: FaultName
    sentence: str
    is_proof: bool
    position: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What was asked, what the seller signed, and what this machine read.

    finish: as signed, or `cut` if the stream ended without a receipt. tokens_counted: as signed or
    acknowledged. tokens_max: of the request; None if it set no limit. room_tokens: how many output tokens the
    context that the seller signed (in its offer) leaves after the prompt; None if that is not known, and then
    an early end may be a full context and proves nothing. is_same_library: whether the seller states the very
    build that the reader has, so that both know the same ids for ends. is_constrained: a grammar was asked
    for; at its end only an end id is allowed, so `ignore_eos` cannot be kept there. text_delivered: None if
    the seller sends ids alone, then the buyer spells them itself and nothing can differ. text_spelled: of
    all ids, stop text included. text_before_last: without the last id; None if nobody spelled it.
    end_positions, out_of_range, margin_mlogit: as `CheckedAnswer` has them; margin_mlogit may be empty when
    nothing was scored.
    """

    output_tokens: int
    finish: Finish
    tokens_counted: int
    tokens_max: int | None
    room_tokens: int | None = None
    is_same_library: bool = True
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    is_constrained: bool = False
    text_delivered: str | None = None
    text_spelled: str = ""
    text_before_last: str | None = None
    end_positions: tuple[int, ...] = ()
    out_of_range: int | None = None
    margin_mlogit: Sequence[int] = ()


def check_answer(answer: Answer) -> tuple[HardFault, ...]:
    """All faults, proofs first. An empty answer is faultless unless it claims an end or tokens."""
    faults: list[HardFault] = []
    if answer.tokens_counted != answer.output_tokens:
        faults.append(
            _proof(
                "count_differs",
                f"The seller signed {answer.tokens_counted} output tokens and sent {answer.output_tokens}.",
            )
        )
    if answer.out_of_range is not None:
        faults.append(
            _proof(
                "id_outside_vocabulary",
                f"Token {answer.out_of_range} of the output is an id that the model does not have.",
                answer.out_of_range,
            )
        )
        return tuple(faults)  # nothing was scored or spelled
    if answer.tokens_max is not None and answer.output_tokens > answer.tokens_max:
        faults.append(
            _proof(
                "too_many_tokens",
                f"The output has {answer.output_tokens} tokens, at most {answer.tokens_max} were asked for.",
                answer.tokens_max,
            )
        )
    faults += [fault for fault in (_after_end(answer), _after_stop(answer)) if fault is not None]
    faults += [fault for fault in (_finish(answer), _text(answer)) if fault is not None]
    unlikely = _end_margin(answer)
    if unlikely is not None:
        faults.append(unlikely)
    return tuple(sorted(faults, key=lambda fault: not fault.is_proof))


def proofs(faults: Sequence[HardFault]) -> tuple[str, ...]:
    """The sentences of those that convict by themselves."""
    return tuple(fault.sentence for fault in faults if fault.is_proof)


def _ends_count(answer: Answer) -> bool:
    return answer.is_constrained or not answer.ignore_eos


def _after_end(answer: Answer) -> HardFault | None:
    # With a grammar and `ignore_eos` an end id that the grammar did not ask for may stand in the middle of
    # nothing: the sampler ends at the first one there too, so the rule is the same.
    if not answer.end_positions or not _ends_count(answer):
        return None
    first = answer.end_positions[0]
    if first == answer.output_tokens - 1:
        return None
    return HardFault(
        name="ids_after_end",
        sentence=f"Token {first} ends the generation, and {answer.output_tokens - 1 - first} more were sent "
        "after it.",
        is_proof=answer.is_same_library,
        position=first + 1,
    )


def _stop_span(text: str, stop: tuple[str, ...]) -> tuple[int, int] | None:
    """Start and end of the stop text that is complete first, as the engine looks for it; None if none is."""
    ends = [(at + len(one), at) for one in stop if one and (at := text.find(one)) >= 0]
    if not ends:
        return None
    end, start = min(ends)
    return start, end


def _after_stop(answer: Answer) -> HardFault | None:
    span = _stop_span(answer.text_spelled, answer.stop)
    if span is None:
        return None
    rest = len(answer.text_spelled) - span[1]
    if answer.text_before_last is not None:
        went_on = _stop_span(answer.text_before_last, answer.stop) is not None
    else:
        went_on = rest > TOKEN_CHARS_MAX
    if not went_on:
        return None
    return HardFault(
        name="went_on_after_stop",
        sentence=f"A stop text is complete after {span[1]} characters, and the output goes on for {rest} "
        "more.",
        is_proof=answer.is_same_library,
    )


def _finish(answer: Answer) -> HardFault | None:
    if answer.finish == "length":
        if answer.tokens_max is None or answer.output_tokens >= answer.tokens_max or _is_full(answer):
            return None
        return _early(
            answer,
            "length_below_limit",
            f"The seller says that the limit ended the output, which has {answer.output_tokens} tokens of "
            f"{answer.tokens_max}.",
        )
    if answer.finish != "stop" or (answer.end_positions and _ends_count(answer)):
        return None
    if _stop_span(answer.text_spelled, answer.stop) is not None or _is_full(answer):
        return None
    return _early(
        answer,
        "stop_without_reason",
        "The seller says that the output ended by itself, but neither an end id nor a stop text is in it.",
    )


def _is_full(answer: Answer) -> bool:
    return answer.room_tokens is not None and answer.output_tokens >= answer.room_tokens


def _early(answer: Answer, name: FaultName, sentence: str) -> HardFault:
    is_proof = answer.room_tokens is not None and (name != "stop_without_reason" or answer.is_same_library)
    return HardFault(name=name, sentence=sentence, is_proof=is_proof)


def _text(answer: Answer) -> HardFault | None:
    if answer.text_delivered is None:
        return None
    expected = answer.text_spelled
    span = _stop_span(expected, answer.stop)
    if span is not None:
        expected = expected[: span[0]]
    if answer.text_delivered == expected:
        return None
    if answer.finish in ("cut", "cancelled") and expected.startswith(answer.text_delivered):
        return None  # text lags behind ids by half a character or half a stop text
    return HardFault(
        name="text_differs",
        sentence="The text that was delivered is not what the ids spell.",
        is_proof=answer.is_same_library,
    )


def _end_margin(answer: Answer) -> HardFault | None:
    if not answer.end_positions or not _ends_count(answer) or not answer.margin_mlogit:
        return None
    first = answer.end_positions[0]
    if first >= len(answer.margin_mlogit) or answer.margin_mlogit[first] <= END_MARGIN_MLOGIT_MAX:
        return None
    return HardFault(
        name="end_unlikely",
        sentence=f"Token {first} ends the generation where the model was "
        f"{answer.margin_mlogit[first] / 1_000:.1f} logits from ending it.",
        is_proof=False,
        position=first,
    )


def _proof(name: FaultName, sentence: str, position: int | None = None) -> HardFault:
    return HardFault(name=name, sentence=sentence, is_proof=True, position=position)
