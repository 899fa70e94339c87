"""How commands show things: for people on a terminal, plain in a pipe, JSON when asked."""

import json
import sys
from collections.abc import Sequence
from typing import Literal

import click

Column = tuple[str, Literal["left", "right"]]


def is_terminal() -> bool:
    """Whether stdout is a terminal that takes colour and movement."""
    import os

    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def is_error_terminal() -> bool:
    return sys.stderr.isatty()


def write_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def note(text: str) -> None:
    """A line for people beside the result: on stderr, so that a pipe gets the result alone."""
    click.echo(text, err=True)


def write_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Rows under headings; on a terminal a cell that is too wide folds, in a pipe lines stay whole."""
    if is_terminal():
        from rich.console import Console
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="bold")
        for title, side in columns:
            table.add_column(title, justify=side, overflow="fold")
        for row in rows:
            table.add_row(*(printable(cell) for cell in row))
        Console(markup=False, highlight=False, emoji=False).print(table)
        return
    lines = [[title for title, _ in columns], *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    for line in lines:
        cells = (
            cell.rjust(width) if side == "right" else cell.ljust(width)
            for cell, width, (_, side) in zip(line, widths, columns, strict=True)
        )
        click.echo("  ".join(cells).rstrip())


def write_facts(facts: Sequence[tuple[str, str]]) -> None:
    """Names and values, one a line."""
    width = max((len(name) for name, _ in facts), default=0)
    for name, value in facts:
        click.echo(f"{name.ljust(width)}  {printable(value)}")


def printable(text: str) -> str:
    """`text` without control characters: names of models come from files that others wrote."""
    return "".join(char if char.isprintable() else "�" for char in text)


def printable_answer(text: str) -> str:
    """A model's words for a terminal: escape sequences lose their escape, line breaks and tabs stay."""
    return "".join(char if char in "\n\t" or char.isprintable() else "�" for char in text)


def human_size(size_bytes: int) -> str:
    """Decimal units, as disks and downloads are sold."""
    amount, units = float(size_bytes), ["B", "kB", "MB", "GB", "TB"]
    while amount >= 1000 and len(units) > 1:
        amount, units = amount / 1000, units[1:]
    return f"{amount:.0f} {units[0]}" if units[0] == "B" or amount >= 100 else f"{amount:.1f} {units[0]}"


def human_count(count: int | None) -> str:
    """Parameters as people say them: 135M, 8.0B."""
    if count is None:
        return "?"
    for scale, unit in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count >= scale:
            amount = count / scale
            return f"{amount:.0f}{unit}" if amount >= 100 else f"{amount:.1f}{unit}"
    return str(count)


def human_duration(duration_s: float) -> str:
    minutes, seconds = divmod(round(duration_s), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
