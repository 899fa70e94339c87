"""A seller that is killed has lost no voucher that it answered, and signs no second receipt."""

from pathlib import Path

import pytest

from tests.node.money.crash_seller import run

pytestmark = pytest.mark.slow


def test_kills_lose_no_voucher_and_no_receipt(tmp_path: Path) -> None:
    outcome = run(tmp_path / "seller.db", kills=5)
    assert outcome.violations == []
    assert outcome.kills == 5 and outcome.vouchers > 20 and outcome.receipts > 0


def test_a_seller_that_lets_out_before_it_wrote_is_caught(tmp_path: Path) -> None:
    outcome = run(tmp_path / "seller.db", kills=30, lets_out_first=True)
    assert outcome.violations != []
