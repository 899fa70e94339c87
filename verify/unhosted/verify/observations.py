"""What a checker sees of an answer: a few integers for each token, from its own logits.

Scores are z' + T * g (adjusted logits plus scaled noise, `sampler`), so differences of them are in logits,
and numeric noise has one scale at every temperature. They are rounded to thousandths of a logit once, here:
every decision after this point is on integers, and two platforms that saw the same logits decide alike.

No numpy here: the node reads these without loading it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import chain

MARGIN_MLOGIT_MAX = 100_000
"""100 logits, and what a claim outside the loose survivors gets: nothing honest comes near."""

GAP_MLOGIT_MAX = 100_000
RANK_MAX = 1 << 20
LOGPROB_MNAT_MIN = -200_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Observations:
    """One entry per output token, all five of one length.

    gap_mlogit: best score of the strict survivors less the second best; it does not depend on the claim,
    which is why a rule may condition on it. margin_mlogit: best score less the claimed token's, 0 to
    MARGIN_MLOGIT_MAX. is_match: whether the claimed token is the one that the checker itself draws.
    logprob_mnat: thousandths of a nat, of the claimed token at temperature 1. rank: of the claimed token by
    adjusted logit, 0 for the best. The last two are for people; no verdict reads them.
    """

    gap_mlogit: tuple[int, ...]
    margin_mlogit: tuple[int, ...]
    is_match: tuple[bool, ...]
    logprob_mnat: tuple[int, ...]
    rank: tuple[int, ...]

    def __post_init__(self) -> None:
        tokens = len(self.gap_mlogit)
        for name in ("margin_mlogit", "is_match", "logprob_mnat", "rank"):
            if len(getattr(self, name)) != tokens:
                raise ValueError(f"{name} of {len(getattr(self, name))} tokens, gap_mlogit of {tokens}")
        for name, values, least, most in (
            ("gap_mlogit", self.gap_mlogit, 0, GAP_MLOGIT_MAX),
            ("margin_mlogit", self.margin_mlogit, 0, MARGIN_MLOGIT_MAX),
            ("logprob_mnat", self.logprob_mnat, LOGPROB_MNAT_MIN, 0),
            ("rank", self.rank, 0, RANK_MAX),
        ):
            if values and not least <= min(values) <= max(values) <= most:
                raise ValueError(f"{name} {min(values)} to {max(values)} is outside {least} to {most}")

    @property
    def tokens(self) -> int:
        return len(self.gap_mlogit)

    @property
    def mismatches(self) -> int:
        return sum(not one for one in self.is_match)

    def part(self, start: int, end: int) -> "Observations":
        """Of the tokens from `start` up to `end`."""
        return Observations(**{one.name: getattr(self, one.name)[start:end] for one in fields(self)})


def joined(parts: Sequence[Observations]) -> Observations:
    """One after the other."""
    return Observations(
        **{
            one.name: tuple(chain.from_iterable(getattr(part, one.name) for part in parts))
            for one in fields(Observations)
        }
    )
