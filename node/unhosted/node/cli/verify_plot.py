"""The picture of margins for a terminal: the greatest of each column, in eighths of a row."""

from collections.abc import Sequence

EIGHTHS = " ▁▂▃▄▅▆▇█"
ROWS = 6
WIDTH_MIN = 20
WIDTH_MAX = 200
LABEL_CHARS = 9
"""`12.34 ┤ ` before the columns."""


def margin_plot(margins_mlogit: Sequence[int], *, top_mlogit: int, width: int) -> list[str]:
    """Lines of at most `width` characters. top: where margins are cut. Empty without a token."""
    width = max(WIDTH_MIN, min(width, WIDTH_MAX))
    if not margins_mlogit:
        return []
    columns = min(width - LABEL_CHARS, len(margins_mlogit))
    tokens = len(margins_mlogit)
    heights = []
    for column in range(columns):
        part = margins_mlogit[column * tokens // columns : (column + 1) * tokens // columns]
        height = min(max(part), top_mlogit)
        # Rounded up: what is not nothing must not look like nothing.
        heights.append(-(-height * ROWS * 8 // top_mlogit))
    lines = []
    for row in range(ROWS - 1, -1, -1):
        bar = "".join(EIGHTHS[max(0, min(8, height - row * 8))] for height in heights)
        if row == ROWS - 1:
            label = f"{top_mlogit / 1_000:6.2f} ┤ "
        else:
            label = "  0.00 ┤ " if row == 0 else "       │ "
        lines.append((label + bar).rstrip())
    last = f"token {tokens:,}"
    ruler = "token 1" + last.rjust(max(len(last) + 1, columns - len("token 1")))
    lines.append((" " * LABEL_CHARS + ruler)[:width])
    return lines
