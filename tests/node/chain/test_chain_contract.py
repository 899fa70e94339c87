"""The adapter over a real anvil, and the fake that other tests use, keep the same promises."""

from pathlib import Path

import pytest

from tests.devchain import DevChain
from tests.node.chain.chain_contract import MONEY_CHECKS, Check, run
from tests.node.chain.chain_contract_blocks import BLOCK_CHECKS
from tests.node.chain.stage import fake_stage, real_stages

CHECKS = (*MONEY_CHECKS, *BLOCK_CHECKS)


def _name(check: Check) -> str:
    return getattr(check, "__name__", "check")


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS, ids=_name)
def test_the_adapter_over_anvil(check: Check, dev: DevChain, tmp_path: Path) -> None:
    run(check, real_stages(dev, tmp_path))


@pytest.mark.parametrize("check", CHECKS, ids=_name)
def test_the_fake(check: Check) -> None:
    run(check, fake_stage)
