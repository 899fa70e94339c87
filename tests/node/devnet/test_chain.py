"""What both engines promise: contracts at their addresses, money, time, and a state that is still there."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.devchain import DevChain, Engine, dev_chain, wait_for_block
from unhosted.contracts import artifact
from unhosted.market.eip712 import bonds_separator, channels_separator, token_separator
from unhosted.market.ids import Address, address_text
from unhosted.node.core.errors import Refused
from unhosted.node.shell.chain.deploy import bonds_runtime, channels_runtime
from unhosted.node.shell.devnet import contracts as deployment
from unhosted.node.shell.devnet.accounts import ACCOUNTS, USDC_MICROS
from unhosted.node.shell.devnet.anvil import AnvilChain
from unhosted.node.shell.devnet.contracts import BONDS_TERMS, deploy, dev_contracts, selector
from unhosted.node.shell.devnet.engines import start_engine
from unhosted.node.shell.devnet.rpc import LocalRpc, RpcFault

ENGINES: tuple[Engine, ...] = ("anvil", "python")
both = pytest.mark.parametrize("engine", ENGINES)


def code(chain: DevChain, address: bytes) -> bytes:
    return bytes.fromhex(chain.rpc.call("eth_getCode", "0x" + address.hex(), "latest")[2:])


def wei(chain: DevChain, name: str) -> int:
    return int(chain.rpc.call("eth_getBalance", address_text(chain.account(name).address), "latest"), 16)


def genesis(chain: DevChain) -> str:
    return str(chain.rpc.call("eth_getBlockByNumber", "0x0", False)["hash"])


@both
@pytest.mark.slow
def test_the_contracts_stand_where_they_were_computed(engine: Engine) -> None:
    with dev_chain(engine) as chain:
        assert chain.contracts == dev_contracts()
        assert code(chain, chain.contracts.channels) == channels_runtime(
            chain.channels, chain.contracts.token
        )
        assert code(chain, chain.contracts.bonds) == bonds_runtime(
            chain.bonds, chain.contracts.token, BONDS_TERMS
        )
        domains = {
            chain.contracts.token: ("DOMAIN_SEPARATOR()", token_separator(chain.token)),
            chain.contracts.channels: ("domainSeparator()", channels_separator(chain.channels)),
            chain.contracts.bonds: ("domainSeparator()", bonds_separator(chain.bonds)),
        }
        for address, (name, separator) in domains.items():
            assert chain.call(address, selector(name)) == separator


@both
@pytest.mark.slow
def test_the_accounts_have_what_the_table_says_and_a_second_set_up_gives_nothing(engine: Engine) -> None:
    with dev_chain(engine) as chain:
        for account in ACCOUNTS:
            assert chain.usdc_balance(account.address) == account.usdc_micros, account.name
            assert (wei(chain, account.name) > 0) == (account.eth_wei > 0), account.name
        before = chain.head()
        deploy(chain.rpc)
        assert chain.head() == before


@both
@pytest.mark.slow
def test_time_passes_on_demand_and_a_snapshot_brings_it_back(engine: Engine) -> None:
    with dev_chain(engine) as chain:
        number, at_s = chain.head()
        snapshot = chain.snapshot()
        chain.warp(86_400)
        assert chain.head()[0] == number + 1
        assert chain.head()[1] >= at_s + 86_400
        chain.warp_to(2_000_000_000)
        assert chain.head() == (number + 2, 2_000_000_000)
        chain.mint(chain.account("operator").address, 7)
        chain.revert(snapshot)
        assert chain.head() == (number, at_s)
        assert chain.usdc_balance(chain.account("operator").address) == 0


@both
@pytest.mark.slow
def test_the_safe_block_is_as_far_behind_as_asked(engine: Engine) -> None:
    with dev_chain(engine, epoch_slots=2) as chain:
        safe = chain.rpc.call("eth_getBlockByNumber", "safe", False)
        assert int(safe["number"], 16) == chain.head()[0] - 2
    with dev_chain(engine) as chain:
        safe = chain.rpc.call("eth_getBlockByNumber", "safe", False)
        assert int(safe["number"], 16) == chain.head()[0]


@both
@pytest.mark.slow
def test_a_restart_goes_on_with_the_same_chain_and_time_does_not_go_back(
    engine: Engine, tmp_path: Path
) -> None:
    with dev_chain(engine, state_dir=tmp_path) as chain:
        chain.mint(chain.account("operator").address, 5)
        chain.warp(10 * 86_400)
        before, first = chain.head(), genesis(chain)
        minted = chain.rpc.call("eth_getLogs", {"fromBlock": "0x0", "toBlock": "latest"})
    with dev_chain(engine, state_dir=tmp_path) as chain:
        assert chain.head() == before
        assert genesis(chain) == first
        assert chain.usdc_balance(chain.account("operator").address) == 5
        assert chain.rpc.call("eth_getLogs", {"fromBlock": "0x0", "toBlock": "latest"}) == minted
        receipt = chain.rpc.call("eth_getTransactionReceipt", minted[-1]["transactionHash"])
        assert receipt["status"] == "0x1"
        chain.mint(chain.account("operator").address, 5)
        assert chain.head()[1] >= before[1]


@both
@pytest.mark.slow
def test_spent_test_money_is_not_filled_up_by_a_restart(engine: Engine, tmp_path: Path) -> None:
    with dev_chain(engine, state_dir=tmp_path) as chain:
        seller = chain.account("seller").address
        data = selector("transfer(address,uint256)") + bytes(31) + b"\1" + USDC_MICROS.to_bytes(32, "big")
        chain.send(sender=seller, to=chain.contracts.token, data=data)
        assert chain.usdc_balance(seller) == 0
    with dev_chain(engine, state_dir=tmp_path) as chain:
        assert chain.usdc_balance(seller) == 0


@both
@pytest.mark.slow
def test_blocks_come_at_intervals_when_asked(engine: Engine) -> None:
    with dev_chain(engine, block_time_s=1) as chain:
        wait_for_block(chain, chain.head()[0] + 1)


@pytest.mark.slow
def test_anvil_that_was_killed_goes_on_from_the_last_whole_state(tmp_path: Path) -> None:
    with dev_chain("anvil", state_dir=tmp_path) as chain:
        before = chain.head()
    state = tmp_path / "anvil.json"
    with dev_chain("anvil", state_dir=tmp_path):
        pass  # keeps a copy of what it read
    state.write_bytes(state.read_bytes()[:-100])  # as a kill in the middle of writing leaves it
    with dev_chain("anvil", state_dir=tmp_path) as chain:
        assert chain.head() == before
    state.write_text("{")
    (tmp_path / "anvil.json.before").unlink()
    with pytest.raises(Refused, match="damaged and so is its copy; start anew with --reset"):
        start_engine("anvil", state_dir=tmp_path)


@pytest.mark.slow
def test_an_anvil_that_dies_is_noticed_and_leaves_nothing_behind(tmp_path: Path) -> None:
    chain = start_engine("anvil", state_dir=tmp_path)
    assert isinstance(chain, AnvilChain)
    children = subprocess.run(
        ["pgrep", "-P", str(chain._process.pid), "anvil"], capture_output=True, text=True, check=True
    )
    [anvil] = children.stdout.split()
    os.kill(int(anvil), signal.SIGKILL)
    assert chain.wait() == 128 + signal.SIGKILL
    assert not chain.is_running
    chain.stop()
    with pytest.raises(ProcessLookupError):
        os.killpg(chain._process.pid, 0)


@pytest.mark.slow
def test_an_embedded_chain_of_another_program_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "python.db"
    path.write_bytes(b"somebody's notes, long enough to be no empty file" * 40)
    with pytest.raises(Refused, match=r"cannot be read as a local chain.*--reset"):
        start_engine("python", state_dir=tmp_path)
    assert path.read_bytes().startswith(b"somebody's notes")


@both
@pytest.mark.slow
def test_a_chain_that_somebody_else_began_is_refused(engine: Engine) -> None:
    running = start_engine(engine)
    try:
        with LocalRpc(running.port) as rpc:
            seller, deployer = ACCOUNTS[1].address, ACCOUNTS[0].address
            deployment.give_eth(rpc, seller, 1, sender=deployer)
            with pytest.raises(Refused, match=r"has sent 1 transactions.*--reset"):
                deploy(rpc)
    finally:
        running.stop()


@both
@pytest.mark.slow
def test_the_deployment_proxy_is_the_public_one(engine: Engine) -> None:
    """Its presigned transaction makes exactly the code that both engines begin with."""
    with dev_chain(engine) as chain:
        creation = bytes.fromhex("604580600e600039806000f350fe") + code(
            chain, bytes.fromhex("4e59b44847b379578588920cA78FbF26c0B4956C")
        )
        made = chain.rpc.call("eth_call", {"data": "0x" + creation.hex()}, "latest")
        assert bytes.fromhex(made[2:]) == creation[14:]
        raw = (
            "f8a58085174876e800830186a08080b853" + creation.hex() + "1b" + "a0" + "22" * 32 + "a0" + "22" * 32
        )
        # Whoever recovers its sender finds the account that stands behind the proxy everywhere.
        with pytest.raises(RpcFault, match="Insufficient funds"):
            chain.rpc.call("eth_sendRawTransaction", "0x" + raw)
        chain.give_eth(_proxy_deployer(), 10**17)
        sent = chain.rpc.call("eth_sendRawTransaction", "0x" + raw)
        chain.mine()
        receipt = chain.rpc.call("eth_getTransactionReceipt", sent)
        # The address is taken already, by the same proxy: the creation fails, and names it.
        assert receipt["from"] == "0x" + _proxy_deployer().hex()


def _proxy_deployer() -> Address:
    return Address(bytes.fromhex("3fab184622dc19b6109349b94811493bf2a45362"))


def test_the_artifacts_fit_one_transaction() -> None:
    for name in ("TestUSDC", "Channels", "Bonds"):
        assert len(artifact(name).creation_code) < 49_152  # EIP-3860
