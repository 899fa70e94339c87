"""What checking costs: against generating on the same engine, and for a user who comes meanwhile.

Rounds are interleaved. Generating: one stream after another, 200 tokens each. Checking: the receipts of
eight such answers in one call, prompts of about 60 tokens. Both by the product's own engine on the same
model with all threads, output tokens per second, prompts included in the time. Then a user's requests, one on
an engine that is idle and one on an engine that checks all the while.
"""

import argparse
import random
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path

import psutil
import trio

from bench.common import Report, model_file, prompt, ratio_cell, save
from unhosted.node.core.engine_facts import EXACT_CACHE, Replay
from unhosted.node.core.inference import CheckRequest, GenerateRequest
from unhosted.node.shell.engine.child import LoadOrder
from unhosted.node.shell.engine.environment import child_environment
from unhosted.node.shell.engine.host import EngineHost
from unhosted.verify.params import SamplingParams

PROMPT_TOKENS, OUTPUT_TOKENS = 60, 200
RECEIPTS = 8
CELLS_MAX = 16_384
CHECK_SHARE = 0.03
"""Of a buyer's tokens are checked in the long run."""

USER_PROMPT_TOKENS, USER_OUTPUT_TOKENS = 100, 64
REQUESTS_PER_ROUND = 4
GOALS = {"q8_0": 2.5, "q4_1": 1.7}
SLOWER_MAX = 0.05

_NAMES = count(1)


@asynccontextmanager
async def running(path: Path, kv_type: str) -> AsyncIterator[EngineHost]:
    """The product's engine on one model."""
    order = LoadOrder(
        path=str(path),
        slots=4,
        context_tokens=1024,
        batch_tokens=512,
        ubatch_tokens=512,
        threads=0,
        kv_type=kv_type,
        gpu_layers=0,
        queue_max=64,
    )
    host = EngineHost(path.stem, order, environment=child_environment())
    async with trio.open_nursery() as nursery:
        await nursery.start(host.run)
        yield host
        host.close()


async def generate(host: EngineHost, ids: Sequence[int], tokens: int) -> tuple[tuple[int, ...], float, float]:
    """The output, seconds to its first token, and seconds from there to its end."""
    asked = GenerateRequest(
        request_id=f"bench-{next(_NAMES)}",
        prompt=tuple(ids),
        max_tokens=tokens,
        ignore_eos=True,
        use_prefix_cache=False,
        sampling=SamplingParams(temperature=0.7, seed=bytes(32)),
    )
    started_s = first_s = time.perf_counter()
    output: list[int] = []
    async with host.open_stream(asked) as stream:
        async for delta in stream:
            if not output and delta.token_ids:
                first_s = time.perf_counter()
            output += delta.token_ids
    return tuple(output), first_s - started_s, time.perf_counter() - first_s


def receipt(ids: Sequence[int], output: tuple[int, ...], kv_type: str) -> CheckRequest:
    return CheckRequest(
        prompt_ids=tuple(ids),
        output_ids=output,
        sampling=SamplingParams(temperature=0.7, seed=bytes(32)),
        ignore_eos=True,
        replay=Replay(kv_type=kv_type),
    )


@dataclass(slots=True)
class Speeds:
    """Of each round: output tokens per second, and processor milliseconds of the engine per output token."""

    generated: list[float] = field(default_factory=list)
    checked: list[float] = field(default_factory=list)
    generated_cpu_ms: list[float] = field(default_factory=list)
    checked_cpu_ms: list[float] = field(default_factory=list)
    mismatches: int = 0


async def measure_speeds(host: EngineHost, kv_type: str, rounds: int, draw: random.Random) -> Speeds:
    receipts = []
    for _ in range(RECEIPTS):
        ids = prompt(draw, PROMPT_TOKENS)
        receipts.append(receipt(ids, (await generate(host, ids, OUTPUT_TOKENS))[0], kv_type))
    speeds, engine, tokens = Speeds(), psutil.Process(host.pid), RECEIPTS * OUTPUT_TOKENS
    for _ in range(rounds):
        before_s = _cpu_s(engine)
        _, first_s, rest_s = await generate(host, prompt(draw, PROMPT_TOKENS), OUTPUT_TOKENS)
        between_s, started_s = _cpu_s(engine), time.perf_counter()
        answers = await host.check(receipts, CELLS_MAX)
        speeds.checked.append(tokens / (time.perf_counter() - started_s))
        speeds.checked_cpu_ms.append(1e3 * (_cpu_s(engine) - between_s) / tokens)
        speeds.generated.append(OUTPUT_TOKENS / (first_s + rest_s))
        speeds.generated_cpu_ms.append(1e3 * (between_s - before_s) / OUTPUT_TOKENS)
        speeds.mismatches = sum(answer.seen.mismatches for answer in answers)
    return speeds


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def measure_user(
    host: EngineHost, kv_type: str, rounds: int, draw: random.Random
) -> dict[str, list[float]]:
    """A user's seconds to the first token and tokens/s after it, without and with a check beside."""
    found: dict[str, list[float]] = {name: [] for name in ("first alone", "first beside", "alone", "beside")}
    work = [
        receipt(prompt(draw, PROMPT_TOKENS), tuple(prompt(draw, 2 * OUTPUT_TOKENS)), kv_type)
        for _ in range(64)
    ]

    async def ask(suffix: str) -> None:
        for _ in range(REQUESTS_PER_ROUND):
            # A user thinks before the next request, at no fixed moment of a check.
            await trio.sleep(draw.uniform(0.3, 1.0))
            _, first_s, rest_s = await generate(host, prompt(draw, USER_PROMPT_TOKENS), USER_OUTPUT_TOKENS)
            found[f"first {suffix}"].append(first_s)
            found[suffix].append((USER_OUTPUT_TOKENS - 1) / rest_s)

    async def beside() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(host.check, work, CELLS_MAX)
            await ask("beside")
            if not host.is_checking:
                raise RuntimeError("the check ended before the user's requests did: give it more to do")
            nursery.cancel_scope.cancel()

    await ask("alone")
    for name in found:
        found[name].clear()  # the engine's first steps choose its threads
    for turn in range(rounds):
        steps: list[Callable[[], Awaitable[None]]] = [lambda: ask("alone"), beside]
        for step in steps if turn % 2 else reversed(steps):
            await step()
    return found


def run(report: Report, *, models: Sequence[str], rounds: int, user_rounds: int) -> None:
    """Measure and print; see the module's first lines."""
    speed_rows, user_rows = [], []
    for model in models:
        for kv_type in ("f16", EXACT_CACHE):
            draw = random.Random(f"{model} {kv_type}")

            async def measure(kv_type: str = kv_type, model: str = model, draw: random.Random = draw) -> None:
                async with running(model_file(model), kv_type) as host:
                    speeds = await measure_speeds(host, kv_type, rounds, draw)
                    speed_rows.append(_speed_row(report, model, kv_type, speeds))
                    if user_rounds and kv_type == "f16":
                        found = await measure_user(host, kv_type, user_rounds, draw)
                        report.measurements[f"check beside a user {model}"] = found
                        user_rows.append(_user_row(model, found))

            trio.run(measure)
    report.title("Checking against generating, output tokens/s on this machine")
    header = ["", "generated", "checked", "checked / generated", "in processor time", "goal"]
    report.table([*header, f"cost at p = {CHECK_SHARE:.0%}", "mismatches"], speed_rows)
    if user_rows:
        report.title("A user's request beside a check")
        report.table(
            ["", "first token, ms", "with a check", "slower", "tokens/s", "with a check", "slower"], user_rows
        )
        report.note(f"The goal is at most {SLOWER_MAX:.0%} slower.")


def _speed_row(report: Report, model: str, kv_type: str, speeds: Speeds) -> list[str]:
    report.measurements[f"check cost {model} {kv_type}"] = asdict(speeds)
    ratio = statistics.median(
        mine / other for mine, other in zip(speeds.checked, speeds.generated, strict=True)
    )
    return [
        f"{model}, KV {kv_type}",
        f"{statistics.median(speeds.generated):.1f}",
        f"{statistics.median(speeds.checked):.1f}",
        ratio_cell(speeds.checked, speeds.generated),
        ratio_cell(speeds.generated_cpu_ms, speeds.checked_cpu_ms),
        f"{GOALS[model]}" if model in GOALS else "",
        f"{CHECK_SHARE / ratio:.1%}",
        f"{speeds.mismatches} of {RECEIPTS * OUTPUT_TOKENS}",
    ]


def _user_row(model: str, found: dict[str, list[float]]) -> list[str]:
    first_alone, first_beside = (statistics.median(found[f"first {one}"]) for one in ("alone", "beside"))
    alone, beside = (statistics.median(found[one]) for one in ("alone", "beside"))
    return [
        f"{model}, {len(found['alone'])} requests each",
        f"{1e3 * first_alone:.0f}",
        f"{1e3 * first_beside:.0f}",
        f"**{first_beside / first_alone - 1:+.1%}**",
        f"{alone:.1f}",
        f"{beside:.1f}",
        f"**{alone / beside - 1:+.1%}**",
    ]


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--user-rounds", type=int, default=5, help="rounds of four requests; 0 for none")
    made.add_argument("--models", default="q8_0,q4_1", help="quantizations, with commas between")
    made.add_argument("--json", type=Path, help="write every measurement to this file")
    options = made.parse_args()
    report = Report()
    report.machine()
    run(
        report,
        models=options.models.split(","),
        rounds=options.rounds,
        user_rounds=options.user_rounds,
    )
    save(report, options.json)


if __name__ == "__main__":
    main()
