"""Evidence made of what the buyer kept: opened answers, with the channel's other receipts shut beside
them."""

from collections.abc import Mapping, Sequence

from unhosted.market.acks import SignedAck
from unhosted.market.ids import RequestId
from unhosted.market.receipts import ReceiptHash, SignedReceipt, receipt_hash
from unhosted.market.roots import open_prefix
from unhosted.node.core.errors import Refused
from unhosted.node.core.evidence import (
    ANSWERS_MAX,
    OTHERS_MAX,
    TOKENS_MAX,
    Evidence,
    How,
    OpenedAnswer,
    Report,
    Reported,
)
from unhosted.node.shell.money.kept_words import KeptAnswer
from unhosted.verify.observations import Observations


def make_evidence(
    kept: Sequence[KeptAnswer],
    *,
    chain: Sequence[SignedReceipt] = (),
    draws: Mapping[RequestId, tuple[How, int]] | None = None,
    seen: Mapping[RequestId, Observations] | None = None,
    report: Report | None = None,
    prefix_tokens: int | None = None,
) -> Evidence:
    """Of answers of one seller's key, one model and one channel, in any order.

    chain: the channel's receipts, in order; those of other requests go in shut. draws: why each was checked,
    and with which chance in parts per million. seen: what was seen of each. prefix_tokens: of each output are
    opened, rounded up to whole blocks; None opens all.
    Raises: Refused if an answer carries no signature of the seller, or more than a reader takes.
    """
    if not 1 <= len(kept) <= ANSWERS_MAX:
        raise Refused("invalid_request", f"{len(kept)} answers: evidence opens 1 to {ANSWERS_MAX}")
    ordered = sorted(kept, key=lambda one: one.request.channel_sequence)
    first = ordered[0]
    for name in ("seller", "model", "channel_id", "payee", "bonds"):
        if any(getattr(one, name) != getattr(first, name) for one in ordered):
            raise Refused(
                "invalid_request",
                f"the answers differ in {name}: evidence is for one seller's key, one model and one channel;"
                " make a file for each",
            )
    opened_ids = {one.request_id for one in ordered}
    answers = tuple(
        _opened(
            one,
            draw=(draws or {}).get(one.request_id, ("unknown", 0)),
            seen=(seen or {}).get(one.request_id),
            prefix_tokens=prefix_tokens,
        )
        for one in ordered
    )
    tokens = sum(len(one.prompt.ids) + len(one.output.ids) for one in answers)
    if tokens > TOKENS_MAX:
        raise Refused(
            "invalid_request",
            f"{tokens} tokens would be opened, at most {TOKENS_MAX} are read: open fewer answers, or a"
            " prefix",
        )
    return Evidence(
        bonds=first.bonds,
        accused=first.payee,
        answers=answers,
        others=_others(chain, opened_ids, last=answers[-1].receipt_hash),
        report=report,
    )


def _opened(
    kept: KeptAnswer, *, draw: tuple[How, int], seen: Observations | None, prefix_tokens: int | None
) -> OpenedAnswer:
    # A receipt that contradicts what came is no commitment to it; the acknowledgement before it may be.
    proven, receipt = kept.proven_tokens, kept.receipt
    is_receipt = receipt is not None and not kept.fault and receipt.receipt.tokens_out == proven
    word: SignedReceipt | SignedAck | None = receipt if is_receipt else kept.ack
    if word is None or proven == 0:
        raise Refused(
            "invalid_request",
            f"the seller signed no token of request {kept.request_id.hex()[:8]}: there is nothing to prove",
        )
    ids = kept.output_ids[:proven]
    count = len(ids) if prefix_tokens is None else max(1, min(prefix_tokens, len(ids)))
    output = open_prefix("output", ids, salt=kept.salt, count=count)
    prompt = open_prefix("prompt", kept.prompt_ids, salt=kept.salt, count=len(kept.prompt_ids))
    part = None if seen is None or seen.tokens < len(output.ids) else seen.part(0, len(output.ids))
    return OpenedAnswer(
        request=kept.signed_request,
        word=word,
        facts=kept.facts,
        prompt=prompt,
        output=output,
        how=draw[0],
        chance_ppm=draw[1],
        reported=None
        if part is None
        else Reported(gap_mlogit=part.gap_mlogit, margin_mlogit=part.margin_mlogit, is_match=part.is_match),
    )


def _others(
    chain: Sequence[SignedReceipt], opened: set[RequestId], *, last: ReceiptHash | None
) -> tuple[SignedReceipt, ...]:
    """The newest that a file has room for, up to the last opened one: what came later does not count."""
    before: list[SignedReceipt] = []
    for signed in chain:
        if signed.receipt.request_id not in opened:
            before.append(signed)
        elif receipt_hash(signed) == last:
            break
    return tuple(before[-OTHERS_MAX:])
