"""`gumbel-v1` again, written slowly from docs/sampler.md alone, and the test vectors it gives.

Nothing here is shared with the product but the parameters' names. To write the vectors anew:
python -m tests.verify.naive_gumbel (with the source roots on the path).
"""

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unhosted.verify.params import SamplingParams

VECTORS = Path(__file__).parent.parent / "vectors" / "gumbel_v1.json"


def key_of(core_hash: bytes, seed: bytes) -> bytes:
    return hashlib.blake2b(core_hash + seed, digest_size=32, person=b"p2p/gumbel-v1\0\0\0").digest()


def x_of(key: bytes, position: int, token_id: int) -> int:
    message = position.to_bytes(4, "little") + token_id.to_bytes(4, "little")
    return int.from_bytes(hashlib.blake2b(message, digest_size=8, key=key).digest(), "little")


def u_of(x: int) -> float:
    return math.ldexp((x >> 12) + 0.5, -52)


def adjusted_logits(
    logits: Sequence[float], params: SamplingParams, prompt: Sequence[int], output: Sequence[int]
) -> list[float]:
    z = [float(value) for value in logits]
    for token_id, bias in params.logit_bias:
        z[token_id] += bias
    seen = [*prompt, *output]
    window = set(seen[-params.repeat_last_tokens :]) if params.repeat_last_tokens else set()
    for token_id in window:
        value = z[token_id]
        z[token_id] = value * params.repeat_penalty if value <= 0 else value / params.repeat_penalty
    for token_id in set(output):
        z[token_id] -= output.count(token_id) * params.frequency_penalty + params.presence_penalty
    return z


def surviving(z: Sequence[float], params: SamplingParams, allowed: Sequence[int] | None = None) -> list[int]:
    pool = [i for i in (range(len(z)) if allowed is None else allowed) if z[i] > -math.inf]
    pool.sort(key=lambda i: (-z[i], i))
    pool = pool[: min(params.top_k or 1024, 1024)]
    weights = [math.exp(z[i] - z[pool[0]]) for i in pool]
    sums = []
    total = 0.0
    for weight in weights:
        total += weight
        sums.append(total)
    if params.top_p < 1:
        count = 1 + sum(1 for value in sums if value < params.top_p * total)
        pool, weights = pool[:count], weights[:count]
    return [i for i, weight in zip(pool, weights, strict=True) if weight >= params.min_p]


def drawn(z: Sequence[float], survivors: Sequence[int], params: SamplingParams, key: bytes, t: int) -> int:
    if params.temperature == 0:
        return min(survivors, key=lambda i: (-z[i], i))
    scores = {i: z[i] + params.temperature * -math.log(-math.log(u_of(x_of(key, t, i)))) for i in survivors}
    return min(survivors, key=lambda i: (-scores[i], i))


def logits_by_rule(case: int, n_vocab: int) -> list[float]:
    """Exact in float32: 16 bits of a hash of (case, id), over 4096, minus 8."""
    row = []
    for i in range(n_vocab):
        h = (i * 2654435761 + case * 40503 + 12345) % 2**32
        h ^= h >> 15
        h = h * 2246822519 % 2**32
        h ^= h >> 13
        row.append((h >> 16) / 4096.0 - 8.0)
    return row


CASES: tuple[dict[str, Any], ...] = (
    {"params": {}},
    {"params": {"temperature": 0.0}},
    {"params": {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}},
    {"params": {"temperature": 0.7, "top_k": 8, "top_p": 1.0, "min_p": 0.0}},
    {"params": {"temperature": 1.5, "top_k": 200, "top_p": 0.5, "min_p": 0.0}},
    {"params": {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.2}},
    {"params": {"temperature": 1.0, "top_p": 0.0, "min_p": 0.0}},
    {"params": {"temperature": 5.0, "top_k": 1}},
    {
        "params": {
            "top_k": 60,
            "top_p": 1.0,
            "min_p": 0.0,
            "logit_bias": [[3, 4.5], [17, -100.0], [999, 20.25]],
        }
    },
    {"params": {"temperature": 0.0, "repeat_penalty": 1.5, "repeat_last_tokens": 6}},
    {
        "params": {
            "top_k": 30,
            "top_p": 1.0,
            "min_p": 0.0,
            "repeat_penalty": 1.25,
            "repeat_last_tokens": 5,
            "frequency_penalty": 0.5,
            "presence_penalty": -0.25,
        }
    },
    {"params": {"top_k": 100, "frequency_penalty": -2.0, "presence_penalty": 2.0, "repeat_last_tokens": 0}},
)


def params_of(fields: dict[str, Any]) -> SamplingParams:
    fields = dict(fields)
    fields["logit_bias"] = tuple((i, bias) for i, bias in fields.get("logit_bias", ()))
    fields["seed"] = bytes.fromhex(fields["seed"])
    return SamplingParams(**fields)


def vectors() -> list[dict[str, Any]]:
    made = []
    for number, case in enumerate(CASES):
        core_hash = hashlib.sha256(b"core %d" % number).digest() if number % 3 else bytes(32)
        seed = hashlib.sha256(b"seed %d" % number).digest()
        fields = {**case["params"], "seed": seed.hex()}
        params = params_of(fields)
        n_vocab = 3000 if number % 2 == 0 else 1000
        row = logits_by_rule(number, n_vocab)
        best = sorted(range(n_vocab), key=lambda i: -row[i])
        prompt, output = [5, 6, 7, best[0], best[1]], [best[0], best[2], best[0], 9]
        key = key_of(core_hash, seed)
        z = adjusted_logits(row, params, prompt, output)
        pool = surviving(z, params)
        positions = (0, 1, 4, 65_537)
        made.append(
            {
                "case": number,
                "core_hash": core_hash.hex(),
                "n_vocab": n_vocab,
                "params": fields,
                "prompt": prompt,
                "output": output,
                "key": key.hex(),
                "survivors": None if params.temperature == 0 else pool,
                "draws": [
                    {
                        "position": t,
                        "x_of_best": f"{x_of(key, t, pool[0]):016x}",
                        "u_of_best": u_of(x_of(key, t, pool[0])).hex(),
                        "token": drawn(z, pool, params, key, t),
                    }
                    for t in positions
                ],
            }
        )
    return made


if __name__ == "__main__":
    VECTORS.write_text(json.dumps({"sampler": "gumbel-v1", "vectors": vectors()}, indent=1) + "\n")
