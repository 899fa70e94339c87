"""Where decoding and reading again give the same bits, and what an engine that sees to it costs.

Every row compares logits, not tokens: a seller's of each decoded position against a checker's of one reading
of all of it. Kinds of weights are tried on small random models, made here and quantized by llama.cpp, whose
sums are those of large ones; caches and ways to be served on SmolLM2 too. Each measurement runs in a process
of its own, since a process has one library and one choice of kernels.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bench.common import Report, parser, save
from bench.servers import tool
from bench.verify.models import GEMMA, MADE_DIR, model_path
from tests.tiny import write_tiny
from unhosted.node.core.engine_facts import EXACT_CACHE
from unhosted.node.shell.engine.library import ENVIRONMENT_VARIABLES, other_libraries, set_environment
from unhosted.node.shell.engine.rowwise import TILES_VARIABLE

WEIGHTS = (
    *("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "iq4_nl"),
    *("q2_k", "q3_k_m", "q4_k_m", "q5_k_m", "q6_k", "iq3_s", "iq4_xs"),
    *("f16", "bf16", "f32"),
)
CACHES = ("f16", EXACT_CACHE, "f16/bf16", "q8_0", "q4_0")
WAYS = ("alone", "one thread", "among others", "beside a prompt", "prefix copied", "resumed", "small pieces")
"""How a seller comes to decode a token: see `_serve`."""

WAYS_OF_LARGE = ("alone", "beside a prompt", "resumed")
READINGS = (512, 63)
SPEED_TOKENS = (500, 2000)
UBATCHES = (48, 60, 63, 64, 128, 512)
PROMPT_TOKENS, OUTPUT_TOKENS = 150, 170
"""The cells pass 256 on the way, from where a lone row may be split between threads."""

LONG_TOKENS = 4000
OTHERS = 3
PIECE_TOKENS = 16
JOB_TIMEOUT_S = 600

Shape = tuple[str, bool, tuple[int, ...]]
"""Cache, whether the kernels are plain, rows at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One measurement in a process: bits of `ways`, or speed when `ubatches` are named. model: a file."""

    model: str
    kv_type: str = "f16"
    flash_attention: bool = True
    is_split: bool = True
    is_plain: bool = False
    library: str = ""
    prompt_tokens: int = PROMPT_TOKENS
    output_tokens: int = OUTPUT_TOKENS
    ways: tuple[str, ...] = WAYS
    ubatches: tuple[int, ...] = ()


def run(report: Report, *, rounds: int = 3, quick: bool = False) -> None:
    """Measure and print; see the module's first lines."""
    libraries = ["", *(str(each.path) for each in other_libraries())]
    small = {weights: str(_small_model(weights)) for weights in WEIGHTS}
    report.title("Bits of decoding against reading again: kinds of weights (small models)")
    jobs = [
        Job(model=small[weights], kv_type=EXACT_CACHE, is_plain=is_plain, library=library, ways=("alone",))
        for library in libraries[: 1 if quick else None]
        for weights in WEIGHTS
        for is_plain in (False, True)
    ]
    _bits_table(report, jobs)
    report.title("Bits of decoding against reading again: caches, and ways to be served (small Q4_0)")
    usual = [
        Job(model=small["q4_0"], kv_type=kv_type, library=one) for one in libraries for kv_type in CACHES
    ]
    odd = [replace(usual[0], is_split=False), replace(usual[0], flash_attention=False)]
    exact = replace(usual[0], kv_type=EXACT_CACHE)
    long = [replace(exact, prompt_tokens=LONG_TOKENS, ways=WAYS[:3]), replace(exact, is_split=False)]
    _bits_table(report, [*usual, *odd, *long])
    if quick:
        return
    report.title("The same, SmolLM2 and Gemma 3 (a mixture of K-quants)")
    real = [
        Job(model=str(model_path(name)), kv_type=EXACT_CACHE, is_plain=name == GEMMA, ways=WAYS_OF_LARGE)
        for name in ("q4_1", "q8_0", "q4_0", GEMMA)
    ]
    f16 = replace(real[0], kv_type="f16", ways=WAYS[:3])
    _bits_table(report, [*real, f16, *(replace(real[0], library=one) for one in libraries[1:])])
    for name in ("q8_0", "q4_0", "q4_1"):
        shapes = [("f16", False, UBATCHES), (EXACT_CACHE, False, (512,)), ("q8_0", False, (512,))]
        speed_table(report, model_path(name), rounds=rounds, shapes=shapes)
    mixed = [("f16", False, (512,)), (EXACT_CACHE, False, (512,)), (EXACT_CACHE, True, (512,))]
    speed_table(report, model_path(GEMMA), rounds=rounds, shapes=mixed)


def speed_table(report: Report, model: Path, *, rounds: int, shapes: Sequence[Shape]) -> None:
    """Prompt tokens per second of one core's time, by cache, kernels and the rows of a computation."""
    report.title(f"Reading prompts, {model.stem}, tokens per second of processor time, one thread")
    speeds: dict[tuple[str, bool, int, int], list[float]] = {}
    for _ in range(rounds):
        for kv_type, is_plain, ubatches in shapes:
            for tokens in SPEED_TOKENS:
                job = Job(model=str(model), kv_type=kv_type, is_plain=is_plain, ubatches=ubatches)
                for ubatch, speed in measure(replace(job, prompt_tokens=tokens)):
                    speeds.setdefault((kv_type, is_plain, ubatch, tokens), []).append(speed)
    report.measurements[f"exactness speed {model.stem}"] = {str(key): all_ for key, all_ in speeds.items()}
    rows = []
    for kv_type, is_plain, ubatches in shapes:
        for ubatch in ubatches:
            found = (speeds[kv_type, is_plain, ubatch, tokens] for tokens in SPEED_TOKENS)
            kernels = "plain" if is_plain else "usual"
            rows.append(
                [kv_type, kernels, str(ubatch), *(f"{statistics.median(each):.0f}" for each in found)]
            )
    columns = [f"{tokens} tokens" for tokens in SPEED_TOKENS]
    report.table(["cache", "kernels", "rows at once", *columns], rows)


def measure(job: Job) -> list[Any]:
    """What the job's process found."""
    environment = {name: value for name, value in os.environ.items() if name not in ENVIRONMENT_VARIABLES}
    named = job.library or next(
        (os.environ[name] for name in ENVIRONMENT_VARIABLES if name in os.environ), ""
    )
    if named:
        environment[ENVIRONMENT_VARIABLES[0]] = named
    environment[TILES_VARIABLE] = "0" if job.is_plain else "1"
    environment["PYTHONPATH"] = os.pathsep.join(part for part in sys.path if part)
    command = [sys.executable, "-m", "bench.verify.exactness", "--job", json.dumps(asdict(job))]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True, timeout=JOB_TIMEOUT_S
    )
    found: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _bits_table(report: Report, jobs: Iterable[Job]) -> None:
    rows = []
    for job in jobs:
        for way, compared, *differing in measure(job):
            cells = ["equal" if not many else f"{many} differ" for many in differing]
            kind = "plain" if job.is_plain else "usual"
            split = ("" if job.is_split else ", unified") + ("" if job.flash_attention else ", no flash")
            where = Path(job.library).name or "first library"
            name = f"{Path(job.model).stem}, {job.kv_type}{split}, {kind}, {where}"
            if job.prompt_tokens != PROMPT_TOKENS:
                name += f", {job.prompt_tokens} tokens"
            rows.append([name, way, str(compared), *cells])
            report.measurements[f"exactness {name}, {way}"] = [compared, *differing]
    header = ["weights, cache, kernels, library", "decoded", "rows"]
    report.table([*header, *(f"read {rows_} at once" for rows_ in READINGS)], rows)


def _small_model(weights: str) -> Path:
    original = MADE_DIR / "small-f32.gguf"
    made = MADE_DIR / f"small-{weights}.gguf"
    MADE_DIR.mkdir(parents=True, exist_ok=True)
    if not original.exists():
        # Rows of 256 and 512: what every block size divides.
        write_tiny(original, embedding=256, feed_forward=512, context=8192, half=False)
    if not made.exists():
        part = made.with_suffix(".part")
        command = [tool("llama-quantize"), "--pure", original, part, weights.upper()]
        subprocess.run([str(word) for word in command], check=True, capture_output=True)
        part.rename(made)
    return made


# ---- in the job's process


def _work(job: Job) -> list[Any]:
    from unhosted.node.shell.engine.library import load_library
    from unhosted.node.shell.engine.llama import Model

    set_environment()
    L = load_library()
    L.llama_backend_init()
    model = Model(L, job.model, gpu_layers=0, repacks=not job.is_plain)
    count = job.prompt_tokens + job.output_tokens
    text = Path(__file__).read_text()
    ids = model.tokenize(text, add_special=False)
    ids = (ids * (count // len(ids) + 1))[:count]
    if job.ubatches:
        return [[ubatch, _speed(model, job, ids, ubatch)] for ubatch in job.ubatches]
    readings = [_Reader(model, job, ubatch=ubatch).read(ids) for ubatch in READINGS]
    found: list[Any] = []
    for way in job.ways:
        served = _serve(model, job, ids, way)
        differing = [int((served != reading[-len(served) :]).any(axis=1).sum()) for reading in readings]
        found.append([way, len(served), *differing])
    return found


def _speed(model: Any, job: Job, ids: Sequence[int], ubatch: int) -> float:
    reader = _Reader(model, job, ubatch=ubatch, threads=1)
    started_s = time.process_time()
    reader.feed(0, 0, ids[: job.prompt_tokens])
    return job.prompt_tokens / (time.process_time() - started_s)


def _serve(model: Any, job: Job, ids: Sequence[int], way: str) -> Any:
    """(decoded tokens, n_vocab) bits of the logits that a seller draws from, to the end of the output.

    alone, one thread: the only request. among others: three more decode in the same steps. beside a prompt:
    somebody's prompt is read in the same steps. prefix copied: the prompt was read in another slot. resumed:
    half of the output is read again in pieces of 16, the rest is decoded. small pieces: the prompt came in
    pieces of 41.
    """
    import numpy as np

    reader = _Reader(model, job, ubatch=512, threads=1 if way == "one thread" else 2)
    prompt = job.prompt_tokens
    rows = []
    if way == "prefix copied":
        reader.feed(1, 0, ids[: prompt + 5])
        reader.context.copy_cells(1, 0, prompt - 1)
        rows.append(reader.feed(0, prompt - 1, ids[prompt - 1 : prompt]))
    else:
        rows.append(reader.feed(0, 0, ids[:prompt], piece=41 if way == "small pieces" else 512))
    begin = prompt
    if way == "resumed":
        begin = prompt + job.output_tokens // 2
        for start in range(prompt, begin, PIECE_TOKENS):
            reader.feed(0, start, ids[start : min(begin, start + PIECE_TOKENS)])
        rows = []
    if way == "among others":
        for other in range(1, 1 + OTHERS):
            reader.feed(other, 0, ids[other : prompt + other])
    for at in range(begin, len(ids) - 1):
        others: list[tuple[int, int, Sequence[int]]] = []
        if way == "among others":
            others = [(other, at, ids[at + other - 4 : at + other - 3]) for other in range(1, 1 + OTHERS)]
        elif way == "beside a prompt":
            start = (at - begin) % 4 * 64
            if start == 0:
                reader.context.keep_cells(1, 0)
            others = [(1, start, ids[start : start + 64])]
        rows.append(reader.step([(0, at, ids[at : at + 1]), *others]))
    reader.close()
    return np.array(rows).view(np.uint32)


class _Reader:
    """A context, and feeding it."""

    def __init__(self, model: Any, job: Job, *, ubatch: int, threads: int = 2) -> None:
        from unhosted.node.shell.engine.llama import Context

        self.prompt_tokens = job.prompt_tokens
        self.context = Context(
            model,
            context_tokens=(job.prompt_tokens + job.output_tokens + 256) * (1 + OTHERS),
            sequences=1 + OTHERS,
            batch_tokens=max(512, ubatch) + 64,
            ubatch_tokens=ubatch,
            threads=threads,
            kv_type=job.kv_type,
            flash_attention=job.flash_attention,
            split=job.is_split,
        )

    def step(self, feeds: Sequence[tuple[int, int, Sequence[int]]], *, draws: int = 1) -> Any:
        """One computation: (sequence, start, ids) each. Gives the first feed's last `draws` rows."""
        batch, count, first = self.context.batch, 0, 0
        for sequence, start, ids in feeds:
            for offset, token_id in enumerate(ids):
                batch.token[count], batch.position[count] = token_id, start + offset
                batch.sequence[count], batch.output[count] = sequence, 0
                count += 1
            first = first or count
        batch.output[first - draws : first] = 1
        code = self.context.decode(count)
        if code != 0:
            raise RuntimeError(f"llama_decode answered {code}")
        rows = self.context.logits(draws).copy()
        return rows if draws > 1 else rows[0]

    def feed(self, sequence: int, start: int, ids: Sequence[int], *, piece: int = 512) -> Any:
        """Ids in pieces. Gives the last row."""
        row = None
        for at in range(0, len(ids), piece):
            row = self.step([(sequence, start + at, ids[at : at + piece])])
        return row

    def read(self, ids: Sequence[int]) -> Any:
        """(output tokens, n_vocab) bits of one reading of everything."""
        import numpy as np

        prompt = self.prompt_tokens
        self.feed(0, 0, ids[: prompt - 1])
        rest = ids[prompt - 1 : -1]
        rows = [
            np.atleast_2d(
                self.step([(0, prompt - 1 + at, rest[at : at + 512])], draws=len(rest[at : at + 512]))
            )
            for at in range(0, len(rest), 512)
        ]
        self.close()
        return np.concatenate(rows).view(np.uint32)

    def close(self) -> None:
        self.context.close()


def main() -> None:
    made: argparse.ArgumentParser = parser("Where reading again gives the same bits as decoding.")
    made.add_argument("--job", help=argparse.SUPPRESS)
    made.add_argument("--quick", action="store_true", help="small models and one library")
    options = made.parse_args()
    if options.job:
        values = json.loads(options.job)
        job = Job(**{**values, "ways": tuple(values["ways"]), "ubatches": tuple(values["ubatches"])})
        sys.stdout.write(json.dumps(_work(job)) + "\n")
        return
    report = Report()
    report.machine()
    run(report, rounds=options.rounds, quick=options.quick)
    save(report, options.json)


if __name__ == "__main__":
    main()
