"""Noise tables: how far an honest seller's tokens stray from a checker's own, measured, as integers.

A table is for one model, one class of seller engine and one class of checker engine, under one version of
the library. It says, for each bin of the checker's own gap, the greatest mean of X that honesty explains, and
how much a bet on more than that stakes. X is min(margin, clip) / clip in the statistical rule, and 1 for a
mismatch in the exact one. `fitting` makes tables from observations, `eprocess` bets by them.
"""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseTable:
    """model: BLAKE3 of the GGUF, 32 bytes. seller_class, checker_class: `core.engine_facts.engine_class`.

    library: of the checker, as its facts name it; another one voids the table. clip_mlogit: where margins are
    cut. mean_max_ppb: one per bin. bets_ppb: rows of stakes, one per bin each, as parts per billion of the
    largest that keeps wealth positive (`stake / mean_max`); the process is the average over rows.
    tokens: measured in each bin. held_out_growth_nnat: nanonats per token on prompts that were not used to
    fit, must be negative. is_gross: made for an unknown pair from the worst known row; only gross verdicts
    rest on it.
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

    def __post_init__(self) -> None:
        bins = len(GAP_EDGES_MLOGIT)
        if len(self.model) != 32:
            raise ValueError(f"model of {len(self.model)} bytes: 32 are needed")
        if not 0 < self.clip_mlogit <= 100_000:
            raise ValueError(f"clip_mlogit {self.clip_mlogit} is outside 1 to 100000")
        for name, row in (
            ("mean_max_ppb", self.mean_max_ppb),
            ("tokens", self.tokens),
            *(("bets_ppb", bets) for bets in self.bets_ppb),
        ):
            if len(row) != bins:
                raise ValueError(f"{name} has {len(row)} bins, {bins} are needed")
        if not self.bets_ppb:
            raise ValueError("bets_ppb is empty: a table without a bet proves nothing")
        if not all(0 < mean < PPB for mean in self.mean_max_ppb):
            raise ValueError("mean_max_ppb has a bin outside 1 to 999999999")
        if not all(0 <= bet < PPB for bets in self.bets_ppb for bet in bets):
            raise ValueError("bets_ppb has a bin outside 0 to 999999999")
        for name in ("seller_class", "checker_class", "library"):
            if len(getattr(self, name)) > CLASS_CHARS_MAX:
                raise ValueError(f"{name} is longer than {CLASS_CHARS_MAX} characters")
