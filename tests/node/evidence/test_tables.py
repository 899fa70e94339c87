"""A reader judges by its own calibration: the exact rule where it was measured, else noise, else gross
alone."""

from dataclasses import replace

import pytest

from unhosted.node.core.engine_facts import EngineFacts, engine_class, exact_class
from unhosted.node.core.evidence_verdict import gross_table
from unhosted.node.shell.evidence.tables import table_for
from unhosted.verify.noise import GROSS_MEAN_PPB, NoiseTable, Rule

MODEL = b"\x0d" * 32
OWN = EngineFacts(
    library="llama.cpp b1",
    build="ab" * 32,
    device="cpu:x86-64:avx,avx2,f16c,fma:glibc-2.36",
    weights="q4_1",
)
SELLER = replace(OWN, kv_type="bf16/f16")


class Measured:
    """Tables by rule and pair of classes, as a store gives them for one build."""

    def __init__(self, *known: tuple[Rule, str, str]) -> None:
        self._known = known

    def find_table(
        self, model: bytes, seller_class: str, checker_class: str, *, build: str, rule: Rule = "statistical"
    ) -> NoiseTable | None:
        assert (model, build) == (MODEL, OWN.build)
        if (rule, seller_class, checker_class) not in self._known:
            return None
        table = gross_table(
            MODEL, seller_class=seller_class, checker_class=checker_class, library=OWN.library
        )
        return replace(table, rule=rule, is_gross=False)


def _exact() -> str:
    found = exact_class(SELLER)
    assert found is not None, "the seller's settings are of an exact class, or the test shows nothing"
    return found


def test_the_exact_rule_goes_by_the_class_of_the_sellers_cache() -> None:
    tables = Measured(("exact", _exact(), _exact()), ("statistical", engine_class(SELLER), engine_class(OWN)))
    assert table_for(tables, MODEL, "exact", SELLER, OWN).rule == "exact"
    assert table_for(tables, MODEL, "statistical", SELLER, OWN).rule == "statistical"


def test_an_exact_pair_that_was_not_measured_is_judged_by_noise() -> None:
    tables = Measured(("statistical", engine_class(SELLER), engine_class(OWN)))
    table = table_for(tables, MODEL, "exact", SELLER, OWN)
    assert (table.rule, table.is_gross) == ("statistical", False)


@pytest.mark.parametrize("seller", [None, SELLER])
def test_what_nobody_measured_is_judged_by_gross_differences_alone(seller: EngineFacts | None) -> None:
    table = table_for(Measured(), MODEL, "exact", seller, OWN)
    assert table.is_gross
    assert set(table.mean_max_ppb) == {GROSS_MEAN_PPB}


def test_a_seller_chooses_no_pair_by_what_it_says_of_the_weights() -> None:
    """They are the file's, and the file is the one that the request names."""
    tables = Measured(("statistical", engine_class(SELLER), engine_class(OWN)))
    assert not table_for(tables, MODEL, "statistical", replace(SELLER, weights="q2_k"), OWN).is_gross
