"""Time to first token: cold, beside 16 decoding streams, and with a prefix that another request brought.

Both servers have 17 slots of 2,304 tokens, so that the measured request finds a slot beside 16 others, which
decode all the time. The prefix rows allow both servers their cache; all other requests forbid it. `same
slot`: the request that brought the prefix has ended. `other slot`: it is still being answered, so its slot
is taken and the prefix has to be shared.
"""

import random
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from bench.client import ask, completion, others
from bench.common import Report, model_file, parser, prompt, ratio_cell, save
from bench.servers import Server, Setup, busy_loops, llama_server, unhosted

OTHER_STREAMS = 16
SLOTS, CONTEXT_TOKENS = OTHER_STREAMS + 1, 2304
PREFIX_TOKENS, TAIL_TOKENS = 1500, 24
OTHER_OUTPUT_TOKENS = 2048
"""More than a round lasts: the other streams never end by themselves."""

Measure = Callable[[Server, random.Random], float]


def first_token_ms(server: Server, ids: Sequence[int], *, cache: bool = False) -> float:
    """Milliseconds to the first text. Raises: ValueError if the answer failed."""
    (answer,) = ask(server.address, [completion(ids, 4, model=server.model, cache=cache)])
    if (answer.status, answer.tokens) != (200, 4):
        raise ValueError(f"{server.name} answered {answer.status} with {answer.tokens} tokens")
    return answer.first_text_s * 1e3


def cold(tokens: int) -> Measure:
    return lambda server, draw: first_token_ms(server, prompt(draw, tokens))


def prefix_same_slot(server: Server, draw: random.Random) -> float:
    prefix = prompt(draw, PREFIX_TOKENS)
    first_token_ms(server, prefix + prompt(draw, TAIL_TOKENS), cache=True)
    return first_token_ms(server, prefix + prompt(draw, TAIL_TOKENS), cache=True)


def prefix_other_slot(server: Server, draw: random.Random) -> float:
    prefix = prompt(draw, PREFIX_TOKENS)
    room = CONTEXT_TOKENS - PREFIX_TOKENS - TAIL_TOKENS - 1
    first = completion(prefix + prompt(draw, TAIL_TOKENS), room, model=server.model, cache=True)
    with others(server.address, [first]):
        return first_token_ms(server, prefix + prompt(draw, TAIL_TOKENS), cache=True)


def beside_others(server: Server, draw: random.Random) -> dict[str, float]:
    bodies = [
        completion(prompt(draw, 128), OTHER_OUTPUT_TOKENS, model=server.model) for _ in range(OTHER_STREAMS)
    ]
    with others(server.address, bodies):
        return {
            f"{tokens:,}-token prompt, {OTHER_STREAMS} others": first_token_ms(server, prompt(draw, tokens))
            for tokens in (128, 2000)
        }


def one_round(server: Server, draw: random.Random) -> dict[str, float]:
    """All rows once."""
    return {
        "128-token prompt": cold(128)(server, draw),
        "2,000-token prompt": cold(2000)(server, draw),
        **beside_others(server, draw),
        "1,524-token prompt": cold(PREFIX_TOKENS + TAIL_TOKENS)(server, draw),
        "1,500 of 1,524 shared, same slot": prefix_same_slot(server, draw),
        "1,500 of 1,524 shared, other slot": prefix_other_slot(server, draw),
    }


def run(report: Report, *, models: Sequence[str], rounds: int, busy: int = 0) -> None:
    """Measure and print; see the module's first lines."""
    for model in models:
        report.title(f"Time to first token in ms, {model}{f', {busy} busy loops beside' if busy else ''}")
        setup, draw = (
            Setup(model=model_file(model), slots=SLOTS, context_tokens=CONTEXT_TOKENS),
            random.Random(model),
        )
        measured: dict[str, list[dict[str, float]]] = {"unhosted": [], "llama-server": []}
        with ExitStack() as stack:
            servers = [stack.enter_context(unhosted(setup)), stack.enter_context(llama_server(setup))]
            for server in servers:
                cold(128)(server, draw)
            stack.enter_context(busy_loops(busy))
            for turn in range(rounds):
                for server in servers if turn % 2 == 0 else servers[::-1]:
                    measured[server.name].append(one_round(server, draw))
        report.measurements[f"latency busy={busy} {model}"] = measured
        _print(report, measured)


def _print(report: Report, measured: dict[str, list[dict[str, float]]]) -> None:
    rows = []
    ours, theirs = measured["unhosted"], measured["llama-server"]
    for name in ours[0]:
        mine, other = [row[name] for row in ours], [row[name] for row in theirs]
        cells = [f"{statistics.median(values):.0f}" for values in (mine, other)]
        rows.append([name, *cells, ratio_cell(mine, other), _share_of_cold(name, ours)])
    report.table(["", "unhosted", "llama-server", "ratio (less is better)", "of its cold time"], rows)


def _share_of_cold(name: str, rounds: Sequence[dict[str, float]]) -> str:
    if "shared" not in name:
        return ""
    return f"1/{1 / statistics.median(row[name] / row['1,524-token prompt'] for row in rounds):.0f}"


def main() -> None:
    options = parser("Time to first token, side by side.").parse_args()
    report = Report()
    report.machine()
    run(report, models=options.models.split(","), rounds=options.rounds, busy=options.busy)
    save(report, options.json)


if __name__ == "__main__":
    main()
