"""Scoring again, written slowly from docs/verification.md alone: what a claim is worth by a row of logits."""

import math
from collections.abc import Callable, Sequence

from tests.verify import naive_gumbel as naive
from unhosted.verify.params import SamplingParams

SLACK = 0.5
"""What the specification says; the product has its own constant."""


def _moved(share: float, by: float) -> float:
    return 1.0 if share >= 1 else 1 / (1 + (1 - share) / share * math.exp(-by)) if share > 0 else 0.0


def certain(z: Sequence[float], pool: Sequence[int], params: SamplingParams) -> list[int]:
    """The candidates that survive for certain. pool: those that may take part at all."""
    return [i for i in pool if _survives(z, pool, params, i, -SLACK)]


def possible(z: Sequence[float], pool: Sequence[int], params: SamplingParams, i: int) -> bool:
    """Whether candidate i may have survived, also one that is not in the pool."""
    return z[i] > -math.inf and _survives(z, pool, params, i, SLACK)


def _survives(z: Sequence[float], pool: Sequence[int], params: SamplingParams, i: int, slack: float) -> bool:
    """slack: how much better the candidate is taken to be than it is, and the filters than they are."""
    order = sorted((j for j in pool if z[j] > -math.inf), key=lambda j: (-z[j], j))
    cap = min(params.top_k or 1024, 1024)
    kept = order[:cap]
    if slack < 0:
        if i not in kept or (len(order) > cap and z[i] < z[order[cap]] - slack):
            return False
    elif len(order) >= cap and z[i] < z[order[cap - 1]] - slack:
        return False
    if params.min_p > 0 and z[i] < z[order[0]] + math.log(params.min_p) - slack:
        return False
    if params.top_p >= 1:
        return True
    before = [j for j in kept if (z[j] > z[i] + slack if slack > 0 else z[j] >= z[i] + slack) and j != i]
    mass = sum(math.exp(z[j] - z[order[0]]) for j in before)
    total = sum(math.exp(z[j] - z[order[0]]) for j in kept)
    return not before or mass < _moved(params.top_p, slack) * total


def race(
    z: Sequence[float], pool: Sequence[int], params: SamplingParams, key: bytes, t: int, claimed: int
) -> tuple[float, float, int, dict[int, float], float]:
    """(gap, margin, drawn, scores of the survivors, best of the certain), in logits."""

    def score(i: int) -> float:
        return z[i] + params.temperature * -math.log(-math.log(naive.u_of(naive.x_of(key, t, i))))

    candidates = [i for i in pool if z[i] > -math.inf]
    survivors = naive.surviving(z, params, candidates)
    drawn = naive.drawn(z, survivors, params, key, t)
    if params.temperature == 0:
        ordered = sorted((z[i] for i in candidates), reverse=True)
        best = ordered[0]
        gap = best - ordered[1] if len(ordered) > 1 else math.inf
        margin = best - z[claimed] if z[claimed] > -math.inf else math.inf
        return gap, margin, drawn, {i: z[i] for i in survivors}, best
    scores = {i: score(i) for i in survivors}
    is_possible = claimed in survivors or possible(z, pool, params, claimed)
    sure = certain(z, pool, params)
    if not sure:
        return 0.0, 0.0 if is_possible else math.inf, drawn, scores, -math.inf
    ordered = sorted((score(i) for i in sure), reverse=True)
    gap = ordered[0] - ordered[1] if len(ordered) > 1 else math.inf
    margin = max(0.0, ordered[0] - score(claimed)) if is_possible else math.inf
    return gap, margin, drawn, scores, ordered[0]


def observed(
    logits: Sequence[float],
    params: SamplingParams,
    key: bytes,
    t: int,
    prompt: Sequence[int],
    output: Sequence[int],
    claimed: int,
    allows: Callable[[int], bool] | None = None,
) -> tuple[float, float, int]:
    """(gap, margin, what the checker draws), in logits; infinite where there is none."""
    z = naive.adjusted_logits(logits, params, prompt, output)
    everybody = range(len(z))
    gap, margin, drawn, scores, best = race(z, everybody, params, key, t, claimed)
    if allows is None:
        return gap, margin, drawn
    if not allows(claimed):
        margin = math.inf
    refused = [value for i, value in scores.items() if not allows(i)]
    behind = max(0.0, best - max(refused)) if refused else math.inf
    order = sorted((i for i in everybody if z[i] > -math.inf), key=lambda i: (-z[i], i))
    widths = [width for width in (512, 8192) if width < len(z)] + [len(z)]
    pools = [[i for i in order[:width] if allows(i)] for width in widths]
    pool = next((ids for ids in pools if ids), [])
    again_gap, again_margin, again_drawn, _, _ = race(z, pool, params, key, t, claimed) if pool else (0,) * 5
    if not allows(claimed):
        again_margin = math.inf
    margin = min(margin, max(behind, again_margin))
    if allows(drawn):
        return gap, margin, drawn
    return min(gap, again_gap), margin, again_drawn
