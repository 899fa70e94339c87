"""The picture of evidence: margins of every token, and how log10 E grew. Needs matplotlib, which is
optional."""

import os
from pathlib import Path

from unhosted.node.core.errors import Refused
from unhosted.node.core.evidence_verdict import Judgement, ReadAnswer
from unhosted.node.core.evidence_weight import CONVICT_LOG10_MILLI

SIZE_INCHES = (10.0, 6.0)
DOTS_PER_INCH = 100
"""1,000 x 600: readable in a browser, some 60 kB."""


def draw_picture(path: Path, read: tuple[ReadAnswer, ...], judgement: Judgement, *, title: str) -> None:
    """Write a PNG. Raises: Refused without matplotlib. OSError."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise Refused(
            "not_supported",
            "--plot needs matplotlib, which is not installed: `pip install 'unhosted[plots]'`; without"
            " --plot the margins are drawn in the terminal",
        ) from None
    figure = Figure(figsize=SIZE_INCHES, dpi=DOTS_PER_INCH, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    margins, growth = figure.subplots(2, 1, sharex=True)
    figure.suptitle(title, fontsize=11)
    start = 0
    for index, one in enumerate(read):
        clip = one.table.clip_mlogit / 1_000
        places = range(start + 1, start + one.seen.tokens + 1)
        heights = [min(margin / 1_000, clip) for margin in one.seen.margin_mlogit]
        margins.vlines(places, 0, heights, colors=f"C{index % 2}", linewidth=1.0)
        start += one.seen.tokens
    margins.set_ylabel("margin, logits (cut)")
    margins.set_ylim(bottom=0)
    growth.plot(
        [tokens for tokens, _ in judgement.trail], [log10 / 1_000 for _, log10 in judgement.trail], color="C3"
    )
    needed = (CONVICT_LOG10_MILLI + judgement.cost_milli) / 1_000
    growth.axhline(needed, color="black", linestyle="--", linewidth=0.8, label=f"convicts above {needed:.1f}")
    growth.axhline(0, color="grey", linewidth=0.5)
    growth.set_ylabel("log10 E")
    growth.set_xlabel("tokens that were read again")
    growth.legend(loc="best", fontsize=8)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(draft, "xb") as file:
            canvas.print_png(file)  # type: ignore[no-untyped-call]
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
