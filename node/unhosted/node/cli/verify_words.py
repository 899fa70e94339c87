"""Evidence in plain words: what was sold, what came, whether it is chance, and what it does not show."""

from itertools import islice
from typing import TYPE_CHECKING

from unhosted.verify.observations import MARGIN_MLOGIT_MAX

if TYPE_CHECKING:
    from unhosted.node.app_verify import Opened, Rerun
    from unhosted.node.core.evidence_verdict import Appeal

NOTED_MAX = 3
EXPONENT_SHOWN_MAX = 18
"""Beyond it a row of zeros says less than a power."""


def verdict_line(opened: "Opened", result: "Rerun") -> str:
    judgement = result.judgement
    if judgement.verdict == "convicts":
        why = (
            judgement.proofs[0]
            if judgement.proofs
            else f"an honest seller gets this far with a chance of at most 1 in {_odds(judgement.left_milli)}"
        )
        return f"CONVICTS {opened.accused}: {why}"
    return f"DOES NOT CONVICT {opened.accused}: {_why_clear(result)}"


def judged_by(result: "Rerun") -> str:
    rules = sorted({f"{one.table.rule} rule" for one in result.read})
    if result.judgement.is_gross:
        return (
            "gross differences only: this pair of engines was not measured here; `unhosted calibrate` makes"
            " it finer"
        )
    return f"the {' and the '.join(rules)}, by this machine's own calibration"


def noted(result: "Rerun") -> list[str]:
    """What is suspicious and proves nothing by itself."""
    sentences = (fault.sentence for one in result.read for fault in one.faults if not fault.is_proof)
    return list(islice(sentences, NOTED_MAX))


def margin_text(margin_mlogit: int) -> str:
    """In logits; of a token that the sampler's filters leave no way for, a word."""
    return "outside" if margin_mlogit >= MARGIN_MLOGIT_MAX else f"{margin_mlogit / 1_000:.2f}"


def appeal_line(appeal: "Appeal") -> str:
    how = (
        f"token by token, cache {appeal.replay.kv_type}, flash attention"
        f" {'on' if appeal.replay.flash_attention else 'off'}, as the seller declared"
    )
    what = {
        "exact": "all tokens are the same, so these settings explain them",
        "within noise": "what differs is no more than rounding, so these settings explain the tokens",
        "unknown": "whether rounding explains that was not measured for these engines",
        "not explained": "these settings do not explain the tokens either",
    }[appeal.result]
    return f"{how}: {appeal.mismatches:,} of {appeal.tokens:,} differ; {what}"


def explanation(opened: "Opened", result: "Rerun") -> list[str]:
    """Paragraphs."""
    return [
        _sold(opened),
        _served(opened, result),
        _chance(opened, result),
        *([] if result.appeal is None else [_appealed(result.appeal)]),
        _limits(opened),
    ]


def _sold(opened: "Opened") -> str:
    request = opened.evidence.answers[0].asked
    count = len(opened.evidence.answers)
    many = "one answer" if count == 1 else f"{count} answers"
    return (
        f"What was sold. The key {opened.accused} signed {many} of the model b3:{opened.model[:16]}…, paid"
        f" for in a channel of {opened.buyer}. Each request is signed by the buyer and fixes the prompt,"
        f" the sampler and a seed before the seller begins (the first one: seed {request.seed.hex()[:8]}…),"
        " and with these the sampler leaves no choice: at every place the model's numbers say which token"
        " comes. The seller signed the tokens that it sent. Neither side can exchange any of this afterwards."
    )


def _served(opened: "Opened", result: "Rerun") -> str:
    judgement = result.judgement
    share = 100 * judgement.mismatches / max(1, judgement.tokens)
    margins = [margin for one in result.read for margin in one.seen.margin_mlogit]
    outside = sum(margin >= MARGIN_MLOGIT_MAX for margin in margins)
    far = max((margin for margin in margins if margin < MARGIN_MLOGIT_MAX), default=0)
    beyond = f", and {outside:,} could not have been drawn at all" if outside else ""
    proofs = "".join(f" {sentence}" for sentence in (*judgement.proofs, *noted(result)))
    return (
        f"What came. This machine ran the model over the prompts and the {judgement.tokens:,} opened"
        f" tokens, and drew at each place itself. {judgement.mismatches:,} tokens ({share:.1f} %) are"
        f" others; the worst is {far / 1_000:.2f} logits below the one drawn here{beyond}.{proofs}"
    )


def _chance(opened: "Opened", result: "Rerun") -> str:
    judgement = result.judgement
    requests = 0 if opened.chain is None else opened.chain.requests
    base = (
        "Two honest engines round differently, so a few tokens with a near rival differ honestly. How many,"
        " and by how much, was measured for this pair of engines."
        if not judgement.is_gross
        else "How much two honest engines of these kinds differ was not measured here, so only"
        " differences that no rounding makes are counted."
    )
    bet = (
        f" A gambler who bets that the seller strays further than that, at odds that are fair if it is"
        f" honest, would have multiplied the stake by {_times(judgement.log10_e_milli)}. Whoever made the"
        f" file could choose {len(opened.evidence.answers)} of {requests} answers, and how far to open"
        f" them; this could have won {_times(judgement.cost_milli)}, and is taken off. What is left is"
        f" {_times(judgement.left_milli)}; a million convicts, since an honest seller gets there once in a"
        " million lives."
    )
    return f"Is it chance? {base}{bet}"


def _appealed(appeal: "Appeal") -> str:
    return f"The seller's side. Run {appeal_line(appeal)}."


def _limits(opened: "Opened") -> str:
    chain = opened.chain
    links = (
        " The seller's receipts up to the last opened one follow each other without a gap."
        if chain is not None and chain.is_from_start
        else " Not all of the seller's receipts are in the file; the numbers of the requests bound"
        " how many there are."
    )
    return (
        "What it does not show. Which other model or settings were used. That answers which are not opened"
        " were good or bad. That the seller meant it: a broken machine looks the same. That the buyer and"
        " the seller are two people, or that the buyer had no luckier channel with the same seller. That"
        f" the peer {opened.seller} owns the key, beyond having been named in what the key signed.{links}"
        " It is one machine's reading: nothing should be published, and no bond touched, before a second"
        " one on another kind of engine agrees."
    )


def _why_clear(result: "Rerun") -> str:
    judgement = result.judgement
    if judgement.log10_e_milli >= 6_000:
        return (
            "the evidence would be enough had the answers not been chosen by whoever made the file; more of"
            " them are needed"
        )
    if judgement.is_gross:
        return (
            "nothing that rounding could not make, as far as can be said without a calibration for these"
            " engines"
        )
    return "what differs is no more than this machine and an honest seller may differ by rounding"


def _odds(milli: int) -> str:
    exponent = milli // 1_000
    return f"{10**exponent:,}" if 0 <= exponent <= EXPONENT_SHOWN_MAX else f"10^{exponent}"


def _times(milli: int) -> str:
    if milli < 0:
        return "less than 1"
    if milli < 3_000:
        return f"{10 ** (milli / 1_000):.3g}"
    return _odds(milli)
