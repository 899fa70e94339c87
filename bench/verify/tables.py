"""The measured rows as Markdown, and their places in docs/verification.md."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.common import Report
from bench.servers import BenchError
from bench.verify.cheats import Cheat
from bench.verify.power import REPEATS_MAX, STREAMS, Calm, Power

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "verification.md"
CAUGHT_WITHIN = 5_000
NOT_REACHED = "–"
Row = Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """name: of its place in the document."""

    name: str
    title: str
    header: Row
    rows: tuple[Row, ...]
    note: str = ""


def honest_table(
    rows: Iterable[tuple[str, str, str, Calm | None, Calm | None, str]], repeated_tokens: int | None
) -> Table:
    """rows: rule, seller, checker; on held-out prompts; on all, many orders; why there is no table.

    repeated_tokens: of `power.repeated`, for the first row.
    """
    lines: list[Row] = []
    for rule, seller, checker, held_out, everything, refusal in rows:
        if held_out is None or everything is None:
            lines.append([f"{seller} / {checker}", rule, *[NOT_REACHED] * 6, refusal])
            continue
        lines.append(
            [
                f"{seller} / {checker}",
                rule,
                f"{everything.tokens:,}",
                f"{100 * everything.mismatch:.2f} %",
                f"{everything.mean_x:.4f}",
                f"{held_out.tokens:,}",
                f"{held_out.growth_nnat / 1e9:.4f}",
                f"{everything.peak_log10_milli / 1e3:.1f}",
                f"{everything.accused} of {everything.streams}",
            ]
        )
    return Table(
        name="honest",
        title="Honest sellers",
        header=[
            "seller / checker",
            "rule",
            "tokens",
            "differ",
            "mean X",
            "held out",
            "growth, nat per token",
            "highest log10 E",
            "accused",
        ],
        rows=tuple(lines),
        note="Growth is that of the row of bets that does best, on prompts that the table was not fitted on. "
        "Highest and accused are over shuffled orders of all answers, each prompt once. "
        + _repeats(repeated_tokens),
    )


def kinds_table(rows: Iterable[tuple[str, Calm]]) -> Table:
    """rows: a part of the first pair's honest answers, by its name."""
    return Table(
        name="kinds",
        title="The same honest sellers, by temperature and kind of prompt",
        header=["answers", "tokens", "differ", "mean X", "growth, nat per token", "highest log10 E"],
        rows=tuple(
            [
                name,
                f"{one.tokens:,}",
                f"{100 * one.mismatch:.2f} %",
                f"{one.mean_x:.4f}",
                f"{one.growth_nnat / 1e9:.4f}",
                f"{one.peak_log10_milli / 1e3:.1f}",
            ]
            for name, one in rows
        ),
        note="All sellers of the first class together, read by the usual checker.",
    )


def cheats_table(rows: Iterable[tuple[Cheat, Power | None, Power | None]]) -> Table:
    """rows: a cheat by the statistical rule and by the exact one."""
    lines: list[Row] = []
    for cheat, statistical, exact in rows:
        goal = f"≤ {cheat.goal_tokens:,}" if cheat.goal_tokens else NOT_REACHED
        lines.append([cheat.title, *_cells(statistical), goal, *_cells(exact)])
    return Table(
        name="cheats",
        title="Sellers who cheat: delivered tokens until E reaches a million",
        header=[
            "cheat",
            "differ",
            "mean X",
            "median",
            "90 %",
            "caught in 5,000",
            "plain test, median",
            "goal",
            "exact: differ",
            "mean X",
            "median",
            "90 %",
            "caught in 5,000",
            "plain test, median",
        ],
        rows=tuple(lines),
        note=f"Over {STREAMS} orders of each cheat's answers. {NOT_REACHED}: not reached by these answers.",
    )


def hard_table(rows: Iterable[tuple[str, int, int, int, int]]) -> Table:
    """rows: cheat, answers, tokens, how many answers have a hard fault, least margin of a forged end."""
    return Table(
        name="hard",
        title="Faults that need no statistics",
        header=["cheat", "answers", "tokens", "with a hard fault", "least margin of the end, logits"],
        rows=tuple(
            [name, f"{answers}", f"{tokens:,}", f"{faults}", f"{margin / 1e3:.1f}"]
            for name, answers, tokens, faults, margin in rows
        ),
    )


def show(report: Report, table: Table) -> None:
    report.title(table.title)
    report.table(table.header, table.rows)
    if table.note:
        report.note(table.note)


def as_markdown(table: Table) -> str:
    aligned = ["---", *("---:" for _ in table.header[1:])]
    lines = [f"| {' | '.join(line)} |" for line in (table.header, aligned, *table.rows)]
    return "\n".join(lines) + (f"\n\n{table.note}" if table.note else "")


def write(tables: Iterable[Table], document: Path = DOCUMENT) -> None:
    """Put each between its markers. Raises: BenchError if the document has no place for one."""
    text = document.read_text("utf-8")
    for table in tables:
        start, end = (f"<!-- {word} of bench.verify {table.name} -->" for word in ("start", "end"))
        before, found, rest = text.partition(start)
        _, closed, after = rest.partition(end)
        if not (found and closed):
            raise BenchError(f"{document.name} has no lines {start} and {end} to put the table between")
        text = f"{before}{start}\n{as_markdown(table)}\n{end}{after}"
    document.write_text(text, "utf-8")


def measurements(rows: Mapping[str, Power]) -> dict[str, object]:
    """What the tables are made of, for --json."""
    return {
        name: {
            "tokens": one.tokens,
            "baseline_tokens": one.baseline_tokens,
            "mismatch": one.mismatch,
            "mean_x": one.mean_x,
        }
        for name, one in rows.items()
    }


def _cells(found: Power | None) -> list[str]:
    if found is None:
        return [NOT_REACHED] * 6
    return [
        f"{100 * found.mismatch:.1f} %",
        f"{found.mean_x:.4f}",
        _count(found.quantile(0.5)),
        _count(found.quantile(0.9)),
        f"{100 * found.share_within(CAUGHT_WITHIN):.0f} %",
        _count(found.quantile(0.5, of_baseline=True)),
    ]


def _repeats(tokens: int | None) -> str:
    if tokens is None:
        return (
            f"Rounding repeats itself, so the worst of these answers was also counted {REPEATS_MAX} times: "
            "that convicts nobody here. A prompt counts once all the same, for a worse one may exist."
        )
    return (
        "Rounding repeats itself: were the worst of these prompts bought again and counted each time, "
        f"an honest seller would be convicted after {tokens:,} tokens. So a prompt counts once."
    )


def _count(tokens: int | None) -> str:
    return NOT_REACHED if tokens is None else f"{tokens:,}"
