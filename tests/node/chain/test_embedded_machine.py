"""The adapter over the Ethereum machine in Python, for those who have no anvil."""

from pathlib import Path

import pytest

from tests.devchain import dev_chain
from tests.node.chain.chain_contract import a_claim_is_paid_once, run
from tests.node.chain.chain_contract_blocks import events_come_in_order_once_and_from_where_one_stopped
from tests.node.chain.stage import real_stages

pytestmark = pytest.mark.slow


def test_a_channel_lives_on_the_machine_in_python(tmp_path: Path) -> None:
    with dev_chain("python") as dev:
        snapshot = dev.snapshot()
        run(a_claim_is_paid_once, real_stages(dev, tmp_path))
        dev.revert(snapshot)
        run(events_come_in_order_once_and_from_where_one_stopped, real_stages(dev, tmp_path / "other"))
