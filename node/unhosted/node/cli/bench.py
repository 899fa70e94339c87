"""`unhosted bench`: how fast a model reads and writes here, the same way every time."""

import dataclasses
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from unhosted.node.cli.common import json_option, load_config, model_argument, offline_option
from unhosted.node.cli.output import Column, note, write_json, write_table
from unhosted.node.config import Config
from unhosted.node.core.errors import Refused

if TYPE_CHECKING:
    from unhosted.node.core.service import CompletionRequest, Node

STREAMS_MAX = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One measurement. first_token_ns: of the slowest stream; decode_ns: from there to its last token."""

    prompt_tokens: int
    completion_tokens: int
    first_token_ns: int
    decode_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Medians over the rounds, all streams together."""

    streams: int
    prompt_tokens: int
    completion_tokens: int
    first_token_ms: float
    prefill_tokens_per_s: float
    decode_tokens_per_s: float


@click.command()
@model_argument(required=False)
@click.option("--prompt-tokens", type=click.IntRange(1, 1 << 20), default=128, show_default=True)
@click.option("--tokens", type=click.IntRange(2, 1 << 16), default=64, show_default=True, help="To generate.")
@click.option("--streams", default="1,4", show_default=True, help="Requests at once, with commas between.")
@click.option("--rounds", type=click.IntRange(1, 1000), default=5, show_default=True)
@json_option
@offline_option
def bench(
    model: str | None,
    prompt_tokens: int,
    tokens: int,
    streams: str,
    rounds: int,
    as_json: bool,
    offline: bool | None,
) -> None:
    """Measure the speed of MODEL on this machine: medians, in this process, with the settings in force.

    Prompts differ in every round, so that no cache helps; generation is greedy and goes on to the last token.
    """
    counts = _read_streams(streams)
    config = load_config(offline=offline)
    config = dataclasses.replace(config, slots=max(config.slots, *counts))
    name = model or config.default_model
    import trio

    rows = trio.run(_measure, config, name, prompt_tokens, tokens, counts, rounds)
    if as_json:
        write_json({"model": name, "rounds": rounds, "rows": [dataclasses.asdict(row) for row in rows]})
        return
    columns: list[Column] = [
        ("STREAMS", "right"),
        ("PROMPT", "right"),
        ("OUTPUT", "right"),
        ("FIRST TOKEN", "right"),
        ("READS", "right"),
        ("WRITES", "right"),
    ]
    cells = [
        (
            str(row.streams),
            str(row.prompt_tokens),
            str(row.completion_tokens),
            f"{row.first_token_ms:.0f} ms",
            f"{row.prefill_tokens_per_s:.0f} tokens/s",
            f"{row.decode_tokens_per_s:.1f} tokens/s",
        )
        for row in rows
    ]
    write_table(columns, cells)


async def _measure(
    config: Config, model: str, prompt_tokens: int, tokens: int, counts: Sequence[int], rounds: int
) -> list[Row]:
    from unhosted.node import app, app_facts

    rows = []
    async with app.open_node(config, offline=config.offline) as node:
        await node.load(model)
        serial = 0
        for streams in counts:
            measured = []
            for round_number in range(rounds + 1):
                requests = [
                    _request(model, prompt_tokens, tokens, serial + index) for index in range(streams)
                ]
                serial += streams
                done = await _round(node, requests)
                if round_number:  # the first one warms caches and pages up
                    measured.append(done)
            rows.append(_row(streams, measured))
            note(f"{streams} at once: done")
    installed = app_facts.find_installed(app.model_store(config), model)
    if installed is not None and rows[0].streams == 1:
        app_facts.save_speed(
            config,
            installed.entry.blake3,
            decode_tokens_per_s=rows[0].decode_tokens_per_s,
            prefill_tokens_per_s=rows[0].prefill_tokens_per_s,
        )
    return rows


async def _round(node: "Node", requests: "Sequence[CompletionRequest]") -> Round:
    import trio

    firsts: list[int] = []
    counts: list[tuple[int, int]] = []
    started_ns = time.perf_counter_ns()

    async def one(request: "CompletionRequest") -> None:
        is_first = True
        async with node.open_completion(request) as stream:
            async for delta in stream:
                if is_first and delta.token_ids:
                    is_first = False
                    firsts.append(time.perf_counter_ns() - started_ns)
                if delta.usage is not None:
                    counts.append((delta.usage.prompt_tokens, delta.usage.completion_tokens))

    async with trio.open_nursery() as nursery:
        for request in requests:
            nursery.start_soon(one, request)
    total_ns = time.perf_counter_ns() - started_ns
    if len(firsts) != len(requests):
        raise Refused("engine_failed", "a stream ended without a token; see the engine's log")
    return Round(
        prompt_tokens=sum(prompt for prompt, _ in counts),
        completion_tokens=sum(completion for _, completion in counts),
        first_token_ns=max(firsts),
        decode_ns=total_ns - max(firsts),
    )


def _row(streams: int, measured: Sequence[Round]) -> Row:
    def median(values: Sequence[float]) -> float:
        return float(statistics.median(values))

    return Row(
        streams=streams,
        prompt_tokens=measured[0].prompt_tokens // streams,
        completion_tokens=measured[0].completion_tokens // streams,
        first_token_ms=median([one.first_token_ns / 1e6 for one in measured]),
        prefill_tokens_per_s=median([one.prompt_tokens * 1e9 / one.first_token_ns for one in measured]),
        decode_tokens_per_s=median(
            [(one.completion_tokens - streams) * 1e9 / max(1, one.decode_ns) for one in measured]
        ),
    )


def _request(model: str, prompt_tokens: int, tokens: int, serial: int) -> "CompletionRequest":
    """Token ids by a rule: the same on every machine, another beginning for every request."""
    from unhosted.node.core.service import CompletionRequest, Options
    from unhosted.verify.params import SamplingParams

    # Ids 100 to 355 are ordinary tokens in every vocabulary of a useful size.
    ids = tuple(100 + (serial * 37 + index * 101 + serial // 256) % 256 for index in range(prompt_tokens))
    options = Options(
        sampling=SamplingParams(temperature=0.0),
        max_tokens=tokens,
        ignore_eos=True,
        use_prefix_cache=False,
        radius="local",
    )
    return CompletionRequest(model=model, prompt=ids, options=options)


def _read_streams(text: str) -> list[int]:
    words = [word.strip() for word in text.split(",")]
    if not words or not all(word.isdecimal() and 1 <= int(word) <= STREAMS_MAX for word in words):
        raise click.UsageError(f"--streams {text!r}: numbers from 1 to {STREAMS_MAX}, with commas between")
    return [int(word) for word in words]
