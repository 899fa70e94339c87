"""Noise tables: how far an honest seller's tokens stray from a checker's own, measured, as integers.

A table is for one model, one class of seller engine and one class of checker engine, under one version of
the library. It says, for each bin of the checker's own gap, the greatest mean of X that honesty explains, and
how much a bet on more than that stakes. X is min(margin, clip) / clip in the statistical rule, and 1 for a
mismatch in the exact one. `fitting` makes tables from observations, `eprocess` bets by them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Rule = Literal["exact", "statistical"]
"""`exact`: both engines round alike, so that honest tokens never differ. `statistical`: within noise."""

GAP_EDGES_MLOGIT = (0, 20, 50, 100, 200, 400, 800, 1_600, 3_200)
"""Lower edges of the bins; the last is open. A token with a gap of 3 logits hardly ever flips honestly, one
with a gap of 0.01 flips half the time."""

PPB = 1_000_000_000
"""Means are in parts per billion of X, which is 0 to 1."""

CLASS_CHARS_MAX = 200

BET_ROWS_MAX = 4
"""A state keeps an account for each row, and an average over more rows than alternatives only dilutes."""

GROSS_MEAN_PPB = 150_000_000
"""What an engine that nobody measured may do: thirty times the mean of the worst pair that was. Another
model, another seed or broken weights pass it; a near quantization does not, nor is it convicted by
guess."""

GROSS_CLIP_MLOGIT = 1_000
GROSS_BETS_PPB = tuple(
    tuple(stake * PPB // 1_000 for stake in row)
    for row in ((570, 540, 530, 520, 490, 470, 330, 120, 0), (300, 300, 300, 300, 300, 300, 200, 60, 0))
)
"""Rows of stakes by bin: for another model or seed, and for broken weights. Beyond a gap of 3 logits even
these differ too seldom to stand out from 0.15."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseTable:
    """model: BLAKE3 of the GGUF, 32 bytes. seller_class, checker_class: `core.engine_facts.engine_class`.

    library: of the checker, as its facts name it; another one voids the table. clip_mlogit: where margins are
    cut. mean_max_ppb: one per bin. bets_ppb: rows of stakes, one per bin each, as parts per billion of the
    largest that keeps wealth positive (`stake / mean_max`); the process is the average over rows.
    tokens: measured in each bin. held_out_growth_nnat: nanonats per token on prompts that were not used to
    fit, must be negative. is_gross: made for an unknown pair from the worst known row; only gross verdicts
    rest on it. mismatch_max_ppb: the greatest share of honest tokens that differ; the plain test beside the
    process reads it, no verdict does.
    """

    model: bytes
    seller_class: str
    checker_class: str
    library: str
    rule: Rule
    clip_mlogit: int
    mean_max_ppb: tuple[int, ...]
    bets_ppb: tuple[tuple[int, ...], ...]
    tokens: tuple[int, ...]
    held_out_growth_nnat: int
    is_gross: bool = False
    mismatch_max_ppb: int = 60_000_000

    def __post_init__(self) -> None:
        bins = len(GAP_EDGES_MLOGIT)
        if len(self.model) != 32:
            raise ValueError(f"model of {len(self.model)} bytes: 32 are needed")
        if self.rule not in ("exact", "statistical"):
            raise ValueError(f"rule {self.rule!r} is neither exact nor statistical")
        if not 0 < self.clip_mlogit <= 100_000:
            raise ValueError(f"clip_mlogit {self.clip_mlogit} is outside 1 to 100000")
        for name, row in (
            ("mean_max_ppb", self.mean_max_ppb),
            ("tokens", self.tokens),
            *(("bets_ppb", bets) for bets in self.bets_ppb),
        ):
            if len(row) != bins:
                raise ValueError(f"{name} has {len(row)} bins, {bins} are needed")
        if not 1 <= len(self.bets_ppb) <= BET_ROWS_MAX:
            raise ValueError(f"bets_ppb has {len(self.bets_ppb)} rows, 1 to {BET_ROWS_MAX} are needed")
        if not all(0 < mean < PPB for mean in self.mean_max_ppb):
            raise ValueError("mean_max_ppb has a bin outside 1 to 999999999")
        if not all(0 <= bet < PPB for bets in self.bets_ppb for bet in bets):
            raise ValueError("bets_ppb has a bin outside 0 to 999999999")
        if not 0 < self.mismatch_max_ppb < PPB:
            raise ValueError(f"mismatch_max_ppb {self.mismatch_max_ppb} is outside 1 to 999999999")
        for name in ("seller_class", "checker_class", "library"):
            if len(getattr(self, name)) > CLASS_CHARS_MAX:
                raise ValueError(f"{name} is longer than {CLASS_CHARS_MAX} characters")


def worst_of(tables: Sequence[NoiseTable], *, seller_class: str, checker_class: str) -> NoiseTable:
    """For a pair of engines that nobody measured, from all that is known of the model: gross verdicts only.

    The margin decides, never the exact rule, which would convict every engine that rounds otherwise. Each
    bin allows the worst known mean, and GROSS_MEAN_PPB at least; since X is at most 1 for a mismatch and 0
    otherwise, evidence also says that more than that share of the tokens differ.
    Raises: ValueError without a table, or if they are of several models.
    """
    if not tables:
        raise ValueError("there is no table to take the worst of")
    if len({one.model for one in tables}) != 1:
        raise ValueError("the tables are of several models")
    known = [one for one in tables if one.rule == "statistical"]
    means = [
        max(GROSS_MEAN_PPB, *(min(PPB - 1, _at_gross_clip(one, bin_index)) for one in known), 0)
        for bin_index in range(len(GAP_EDGES_MLOGIT))
    ]
    return NoiseTable(
        model=tables[0].model,
        seller_class=seller_class,
        checker_class=checker_class,
        library=tables[0].library,
        rule="statistical",
        clip_mlogit=GROSS_CLIP_MLOGIT,
        mean_max_ppb=tuple(means),
        bets_ppb=GROSS_BETS_PPB,
        tokens=(0,) * len(means),
        held_out_growth_nnat=max(one.held_out_growth_nnat for one in tables),
        is_gross=True,
        mismatch_max_ppb=max(GROSS_MEAN_PPB, *(one.mismatch_max_ppb for one in tables)),
    )


def _at_gross_clip(table: NoiseTable, bin_index: int) -> int:
    """The table's mean if margins were cut at GROSS_CLIP_MLOGIT: at most this, whatever they were."""
    mean = table.mean_max_ppb[bin_index]
    if table.clip_mlogit <= GROSS_CLIP_MLOGIT:
        return mean  # min(m, C)/C falls as C rises
    return -(-mean * table.clip_mlogit // GROSS_CLIP_MLOGIT)
