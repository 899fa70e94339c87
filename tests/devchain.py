"""A running chain with our contracts, for every test that needs one.

    with dev_chain() as chain:
        chain.mint(address, 5_000_000)
        chain.warp(3600)
        Web3(HTTPProvider(chain.url))

Real anvil (0.3 s) or the embedded machine (some seconds); both are the product's own code, and stop with the
block. One chain object is for one thread at a time; its `url` is for everybody.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from unhosted.market.channels import ChainId, Deployment
from unhosted.market.eip712 import TokenDomain
from unhosted.market.ids import Address, address_text
from unhosted.node.core.chain import ChainFacts
from unhosted.node.shell.devnet import contracts as deployment
from unhosted.node.shell.devnet.accounts import ACCOUNT_BY_NAME, CHAIN_ID, DevAccount
from unhosted.node.shell.devnet.contracts import DevContracts
from unhosted.node.shell.devnet.engines import start_engine
from unhosted.node.shell.devnet.rpc import LocalRpc

Engine = Literal["anvil", "python"]


class DevChain:
    """A local chain: where it is, who has what, and hands on its clock."""

    def __init__(self, rpc: LocalRpc, contracts: DevContracts, url: str) -> None:
        self.rpc = rpc
        self.url = url
        self.contracts = contracts
        self.channels = Deployment(chain_id=ChainId(CHAIN_ID), contract=contracts.channels)
        self.bonds = Deployment(chain_id=ChainId(CHAIN_ID), contract=contracts.bonds)
        self.token = TokenDomain(
            name=deployment.TOKEN_NAME, version="2", chain_id=ChainId(CHAIN_ID), contract=contracts.token
        )

    @property
    def facts(self) -> ChainFacts:
        return ChainFacts(
            name="local",
            chain_id=ChainId(CHAIN_ID),
            token=self.token,
            channels=self.channels,
            bonds=self.bonds,
            confirmations=0,
            explorer_url="",
            is_test=True,
        )

    def account(self, name: str) -> DevAccount:
        """`buyer` has USDC and no ETH, `operator` nothing, `seller`, `second_seller`, `wallet` both,
        `deployer` and `verifier_1` to `verifier_7` ETH."""
        return ACCOUNT_BY_NAME[name]

    def mint(self, to: Address, amount_micros: int) -> None:
        deployment.mint(self.rpc, self.contracts.token, to, amount_micros)

    def give_eth(self, to: Address, amount_wei: int) -> None:
        sender = self.account("deployer").address
        deployment.give_eth(self.rpc, to, amount_wei, sender=sender)

    def send(
        self, *, sender: Address, to: Address | None, data: bytes, gas: int = 2_000_000
    ) -> dict[str, Any]:
        """A transaction by one of the ten accounts that the engine holds keys of. Raises: Refused."""
        return deployment.send(self.rpc, sender=sender, to=to, data=data, gas=gas)

    def call(self, to: Address, data: bytes, *, sender: Address | None = None) -> bytes:
        """eth_call at the latest block. Raises RpcFault with the revert data."""
        fields = {"to": address_text(to), "data": "0x" + data.hex()}
        if sender is not None:
            fields["from"] = address_text(sender)
        return bytes.fromhex(self.rpc.call("eth_call", fields, "latest")[2:])

    def usdc_balance(self, holder: Address) -> int:
        data = deployment.selector("balanceOf(address)") + holder.rjust(32, b"\0")
        return int.from_bytes(self.call(self.contracts.token, data), "big")

    def head(self) -> tuple[int, int]:
        """Number and UTC seconds of the latest block."""
        block = self.rpc.call("eth_getBlockByNumber", "latest", False)
        return int(block["number"], 16), int(block["timestamp"], 16)

    def warp(self, seconds: int) -> None:
        """Let time pass on the chain, and mine a block in the new time."""
        self.rpc.call("evm_increaseTime", seconds)
        self.rpc.call("evm_mine")

    def warp_to(self, unix_s: int) -> None:
        self.rpc.call("evm_setNextBlockTimestamp", unix_s)
        self.rpc.call("evm_mine")

    def mine(self, blocks: int = 1) -> None:
        for _ in range(blocks):
            self.rpc.call("evm_mine")

    def snapshot(self) -> str:
        return str(self.rpc.call("evm_snapshot"))

    def revert(self, snapshot: str) -> None:
        """Back to a snapshot, which is used up by it."""
        assert self.rpc.call("evm_revert", snapshot) is True


@contextmanager
def dev_chain(
    engine: Engine = "anvil",
    *,
    state_dir: Path | None = None,
    block_time_s: int = 0,
    epoch_slots: int = 0,
    port: int = 0,
) -> Iterator[DevChain]:
    """A fresh chain, or the one that `state_dir` holds. epoch_slots: blocks from `latest` to `safe`."""
    running = start_engine(
        engine, port=port, state_dir=state_dir, block_time_s=block_time_s, epoch_slots=epoch_slots
    )
    try:
        with LocalRpc(running.port) as rpc:
            yield DevChain(rpc, deployment.deploy(rpc, mines_at_once=block_time_s == 0), running.url)
    finally:
        running.stop()


def wait_for_block(chain: DevChain, number: int, *, timeout_s: float = 20.0) -> None:
    """Until the chain is at least that long: for chains that mine at intervals."""
    deadline = time.monotonic() + timeout_s
    while chain.head()[0] < number:
        if time.monotonic() > deadline:
            raise TimeoutError(f"block {number} did not come within {timeout_s} s")
        time.sleep(0.02)
