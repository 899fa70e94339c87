"""By which noise table a reader judges: its own calibration's, never one that came with the evidence."""

from dataclasses import replace
from typing import Protocol

from unhosted.market.offers import CheckClass
from unhosted.node.core.engine_facts import EngineFacts, engine_class, exact_class
from unhosted.node.core.evidence_verdict import gross_table
from unhosted.verify.noise import NoiseTable, Rule

UNKNOWN_CLASS = "unknown"
"""Of a seller that never stated its engine."""


class Tables(Protocol):
    """`shell.calibrating.store.CalibrationStore`."""

    def find_table(
        self, model: bytes, seller_class: str, checker_class: str, *, build: str, rule: Rule = "statistical"
    ) -> NoiseTable | None: ...


def table_for(
    tables: Tables, model: bytes, check: CheckClass, seller: EngineFacts | None, own: EngineFacts
) -> NoiseTable:
    """The exact rule's where both engines are in one exact class and it was measured, else the statistical
    one's; for engines or models that nobody measured here, the one for gross differences. Blocking.

    The types of the weights are the file's, whose hash the request names: what the seller says of them counts
    for nothing, or it would choose a pair that nobody measured.
    """
    exact = None if seller is None or check != "exact" else exact_class(seller)
    if exact is not None:
        # One class for both: this machine's own may be another until its cache is as the seller's.
        table = tables.find_table(model, exact, exact, build=own.build, rule="exact")
        if table is not None:
            return table
    seller_class = UNKNOWN_CLASS if seller is None else engine_class(replace(seller, weights=own.weights))
    known = tables.find_table(model, seller_class, engine_class(own), build=own.build)
    return known or gross_table(
        model, seller_class=seller_class, checker_class=engine_class(own), library=own.library
    )
