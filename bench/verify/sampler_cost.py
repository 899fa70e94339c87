"""What drawing one token costs in Python, and what scoring one costs, against the model's own step.

Logits are SmolLM2's own, at a vocabulary of 49,152; at 262,144 they are five copies of such rows, each a
little worse than the one before: the sampler's time depends on the size and on how many ids are near the
best. The share is of one decoding step of one stream on this machine, all in processor time of one thread.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.common import Report, model_file, prompt, save
from unhosted.node.shell.engine.library import load_library
from unhosted.node.shell.engine.llama import Context, Model
from unhosted.verify.history import History
from unhosted.verify.params import SamplingParams
from unhosted.verify.sampler import Sampler
from unhosted.verify.scoring import Scorer

ROWS = 40
PROMPT_TOKENS = 40
LARGE_VOCABULARY = 262_144
SHARE_MAX, LARGE_MS_MAX = 0.02, 1.0
"""The goals."""

SETTINGS = {
    "usual: T 0.8, top_k 40, top_p 0.95, min_p 0.05": SamplingParams(),
    "with repeat and frequency penalties": SamplingParams(repeat_penalty=1.1, frequency_penalty=0.3),
    "greedy": SamplingParams(temperature=0.0),
    "no filter but the cap of 1,024": SamplingParams(top_k=0, top_p=1.0, min_p=0.0),
}
KEY = bytes(32)


def decoded(path: Path) -> tuple[NDArray[np.float32], float]:
    """(ROWS, n_vocab) logits of an answer, and milliseconds of one decoding step."""
    L = load_library()
    L.llama_backend_init()
    model = Model(L, str(path), gpu_layers=0)
    context = Context(model, context_tokens=512, sequences=1, batch_tokens=512, ubatch_tokens=512, threads=1)
    params = SamplingParams()
    sampler, history = Sampler(params, KEY), History(params)
    feed, start = prompt(random.Random("sampler"), PROMPT_TOKENS), 0
    rows, times_s = [], []
    for position in range(ROWS):
        batch, size = context.batch, len(feed)
        batch.token[:size] = feed
        batch.position[:size] = np.arange(start, start + size)
        batch.sequence[:size] = 0
        batch.output[:size] = 0
        batch.output[size - 1] = 1
        began_s = time.process_time()
        if context.decode(size) != 0:
            raise RuntimeError("llama_decode failed")
        rows.append(context.logits(1)[0].copy())
        if position:
            times_s.append(time.process_time() - began_s)
        start += size
        feed = [sampler.draw(rows[-1], position, history)]
    context.close()
    model.close()
    return np.array(rows), 1e3 * statistics.median(times_s)


def enlarged(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """The same rows over a vocabulary of `LARGE_VOCABULARY`."""
    copies = -(-LARGE_VOCABULARY // rows.shape[1])
    parts = [rows - np.float32(0.5 * index) for index in range(copies)]
    return np.ascontiguousarray(np.concatenate(parts, axis=1)[:, :LARGE_VOCABULARY])


def per_token_ms(work: Callable[[int], object], rounds: int) -> float:
    """Processor time of `work(index of a row)`, the fastest round's mean."""
    means_ms = []
    for _ in range(rounds):
        began_s = time.process_time()
        for index in range(ROWS):
            work(index)
        means_ms.append(1e3 * (time.process_time() - began_s) / ROWS)
    return min(means_ms)


def run(report: Report, *, model: str, rounds: int) -> None:
    """Measure and print; see the module's first lines."""
    rows, step_ms = decoded(model_file(model))
    header = ["", "draw, ms", "share of a step", "score, ms"]
    for n_vocab, logits in ((rows.shape[1], rows), (LARGE_VOCABULARY, enlarged(rows))):
        table = []
        for name, params in SETTINGS.items():
            draw_ms, score_ms = _costs(params, logits, rounds)
            report.measurements[f"sampler {n_vocab} {name}"] = [draw_ms, score_ms, step_ms]
            share = f"{draw_ms / (step_ms + draw_ms):.2%}" if logits is rows else ""
            table.append([name, f"{draw_ms:.3f}", share, f"{score_ms:.3f}"])
        report.title(f"The sampler at a vocabulary of {n_vocab:,}")
        report.table(header, table)
    report.note(
        f"A step of {model} takes {step_ms:.1f} ms of one thread. Goals: at most {SHARE_MAX:.0%} of a step, "
        f"at most {LARGE_MS_MAX:g} ms at {LARGE_VOCABULARY:,}."
    )


def _costs(params: SamplingParams, logits: NDArray[np.float32], rounds: int) -> tuple[float, float]:
    """Milliseconds of a draw and of a score."""
    sampler, scorer, history = Sampler(params, KEY), Scorer(params, KEY), History(params)
    claimed: list[int] = []
    for index in range(ROWS):
        claimed.append(sampler.draw(logits[index], index, history))
        history.push(claimed[-1])
    return (
        per_token_ms(lambda index: sampler.draw(logits[index], index, history), rounds),
        per_token_ms(lambda index: scorer.score(logits[index], claimed[index], index, history), rounds),
    )


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--model", default="q8_0", help="a quantization; q8_0 takes the least time for a step")
    made.add_argument("--json", type=Path, help="write every measurement to this file")
    options = made.parse_args()
    report = Report()
    report.machine()
    run(report, model=options.model, rounds=options.rounds)
    save(report, options.json)


if __name__ == "__main__":
    main()
