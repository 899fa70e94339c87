"""What is left of E when the answers were chosen by somebody who wants to convict.

The buyer decides which of its answers it opens, and how far. If it picked the k worst of n, E over those is
no evidence: of a million honest answers some look bad. So a reader shares its belief out beforehand: equally
over k = 0 to n, for each k equally over all choices of k answers out of n, and for an answer that is opened
only in part equally over the blocks at which it could end (for one that was cut: over all that were asked
for). The gambler of each choice has the e-process of that choice, and the sum over all, each weighted by its
share, is an e-process again (the weights are those of an urn: the next answer is in the choice with a chance
that depends on how many were before, so nothing is won by waiting). What the opened choice alone contributes
is

    E / ((n + 1) * C(n, k) * b1 * b2 * ...)            b: of each answer, as said; 1 for a whole one

and the whole is at least that. It must reach the threshold. n is the number of the last opened request in its
channel, which the buyer signed and the seller let only rise: answers that are hidden count, too.

Against one answer of one this costs a factor of 2, against 3 of the first 3 a factor of 4, against 20 of
1,000 a factor of 10^45, where a cheat that is caught within 300 tokens brings 10^80 in twenty answers of 200.

Not covered: a buyer with many channels to one seller who opens files of the unlucky one only. Channels cost
deposits, stand on the chain, and the seller knows them.
"""

from collections.abc import Sequence
from decimal import ROUND_CEILING, Context, Decimal
from math import comb, prod

from unhosted.market.roots import BLOCK_IDS
from unhosted.node.core.evidence import Evidence, OpenedAnswer

CONVICT_LOG10_MILLI = 6_000
"""A million to one, in thousandths of a decade."""

_DIGITS = Context(prec=28, Emax=1_000_000, Emin=-1_000_000)
"""Named, so that the caller's own decimal context changes nothing here; 25 digits more than are kept."""


def choice_cost_log10_milli(*, requests: int, opened: int, ends: Sequence[int] = ()) -> int:
    """Thousandths of a decade that are taken off log10 E, rounded up.

    requests: n. opened: k. ends: blocks at which each answer that is opened in part could have ended.
    """
    if not 0 < opened <= requests:
        raise ValueError(f"{opened} opened answers out of {requests} requests")
    choices = (requests + 1) * comb(requests, opened) * prod(ends)
    return int((_DIGITS.log10(Decimal(choices)) * 1_000).to_integral_value(ROUND_CEILING))


def evidence_cost_log10_milli(evidence: Evidence) -> int:
    """Of the choices that whoever made the file had."""
    return choice_cost_log10_milli(
        requests=evidence.answers[-1].asked.channel_sequence,
        opened=len(evidence.answers),
        ends=[_ends(answer) for answer in evidence.answers],
    )


def _ends(answer: OpenedAnswer) -> int:
    if answer.receipt is None:  # of an acknowledged stream any earlier acknowledgement would have done, too
        return -(-answer.asked.terms.tokens_out_max // BLOCK_IDS)
    return 1 if answer.is_whole else -(-answer.output.count // BLOCK_IDS)
