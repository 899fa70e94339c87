"""Bringing the contracts onto a chain: the plan, the deed, and everything that is in the way."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.devchain import Engine
from unhosted.contracts import artifact
from unhosted.market.ids import Address, address_text
from unhosted.node import app_deploy
from unhosted.node.cli import main
from unhosted.node.core.chain import ChainUnavailable
from unhosted.node.core.errors import Refused
from unhosted.node.shell.chain.addresses import DEPLOYMENT_PROXY, bonds_address, channels_address
from unhosted.node.shell.chain.chains import ChainEntry, chain_by_name
from unhosted.node.shell.chain.deploy import Deployer, Part, Plan, open_deployer
from unhosted.node.shell.devnet.accounts import ACCOUNT_BY_NAME
from unhosted.node.shell.devnet.contracts import (
    BONDS_TERMS,
    DEPLOY_GAS,
    TOKEN_NAME,
    _string_argument,
    send,
)
from unhosted.node.shell.devnet.engines import start_engine
from unhosted.node.shell.devnet.rpc import LocalRpc
from unhosted.node.shell.keys.signer import KeySigner

LOCAL = chain_by_name("local")
SELLER = KeySigner(ACCOUNT_BY_NAME["seller"].key)
TIMEOUT_S = 60.0


@contextmanager
def bare_chain(engine: Engine = "anvil") -> Iterator[LocalRpc]:
    """A chain with USDC and nothing else of ours."""
    running = start_engine(engine)
    try:
        with LocalRpc(running.port) as rpc:
            data = artifact("TestUSDC").creation_code + _string_argument(TOKEN_NAME)
            deployer = ACCOUNT_BY_NAME["deployer"].address
            send(rpc, sender=deployer, to=None, data=data, gas=DEPLOY_GAS)
            yield rpc
    finally:
        running.stop()


def on(
    rpc: LocalRpc, journal: Path, work: Callable[[Deployer], Awaitable[Any]], entry: ChainEntry = LOCAL
) -> Any:
    async def main() -> Any:
        url = f"http://127.0.0.1:{rpc.port}"
        with trio.fail_after(TIMEOUT_S):
            async with open_deployer(entry, [url], journal_path=journal) as deployer:
                return await work(deployer)

    return trio.run(main)


async def plan_and_deploy(deployer: Deployer) -> tuple[Plan, list[str]]:
    plan = await deployer.plan(sender=SELLER.address, bonds=BONDS_TERMS)
    done: list[str] = []
    await deployer.deploy(plan, SELLER, report=lambda part: done.append(part.name))
    return plan, done


def code(rpc: LocalRpc, address: Address) -> bytes:
    return bytes.fromhex(rpc.call("eth_getCode", address_text(address), "latest")[2:])


def count(rpc: LocalRpc, address: Address) -> int:
    return int(rpc.call("eth_getTransactionCount", address_text(address), "latest"), 16)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["anvil", "python"])
def test_two_deployments_do_the_work_of_one(engine: Engine, tmp_path: Path) -> None:
    with bare_chain(engine) as rpc:
        plan, done = on(rpc, tmp_path / "journal.db", plan_and_deploy)
        assert done == ["Channels", "Bonds"]
        assert [part.is_deployed for part in plan.parts] == [False, False]
        assert plan.parts[0].address == channels_address(LOCAL.token.contract)
        assert plan.parts[1].address == bonds_address(LOCAL.token.contract, BONDS_TERMS)
        assert [code(rpc, part.address) for part in plan.parts] == [part.runtime_code for part in plan.parts]
        assert count(rpc, SELLER.address) == 2
        again, _ = on(rpc, tmp_path / "journal.db", plan_and_deploy)
        assert [part.is_deployed for part in again.parts] == [True, True]
        assert again.gas == 0
        # Nor does another machine with an empty journal.
        on(rpc, tmp_path / "other.db", plan_and_deploy)
        assert count(rpc, SELLER.address) == 2


@pytest.mark.slow
def test_the_estimate_is_what_it_costs(tmp_path: Path) -> None:
    with bare_chain() as rpc:
        plan, _ = on(rpc, tmp_path / "journal.db", plan_and_deploy)
        head = int(rpc.call("eth_blockNumber"), 16)
        blocks = (rpc.call("eth_getBlockByNumber", hex(number), False) for number in (head - 1, head))
        used = [int(block["gasUsed"], 16) for block in blocks]
        assert used == pytest.approx([part.gas for part in plan.parts], rel=0.02)


@pytest.mark.slow
def test_other_code_at_the_address_is_refused(tmp_path: Path) -> None:
    with bare_chain() as rpc:
        address = channels_address(LOCAL.token.contract)
        rpc.call("anvil_setCode", address_text(address), "0x60016002")
        with pytest.raises(Refused, match="is not Channels: keccak-256 0x"):
            on(rpc, tmp_path / "journal.db", plan_and_deploy)
        assert count(rpc, SELLER.address) == 0


@pytest.mark.slow
def test_a_chain_without_the_proxy_or_with_another_token_gets_nothing(tmp_path: Path) -> None:
    with bare_chain() as rpc:
        other = replace(LOCAL, token=replace(LOCAL.token, name="USDC"))
        with pytest.raises(Refused, match=r"EIP-712 domain 0x.*nothing is deployed"):
            on(rpc, tmp_path / "journal.db", plan_and_deploy, other)
        gone = replace(LOCAL, token=replace(LOCAL.token, contract=SELLER.address))
        with pytest.raises(Refused, match="there is no USDC at"):
            on(rpc, tmp_path / "journal.db", plan_and_deploy, gone)
        with pytest.raises(Refused, match="it is chain 31337, Base is chain 8453"):
            on(rpc, tmp_path / "journal.db", plan_and_deploy, chain_by_name("base"))
        rpc.call("anvil_setCode", address_text(DEPLOYMENT_PROXY), "0x")
        with pytest.raises(Refused, match="has no deployment proxy"):
            on(rpc, tmp_path / "journal.db", plan_and_deploy)
        assert count(rpc, SELLER.address) == 0


@pytest.mark.slow
def test_a_key_without_gas_money_is_told_both_numbers(tmp_path: Path) -> None:
    operator = KeySigner(ACCOUNT_BY_NAME["operator"].key)

    async def work(deployer: Deployer) -> None:
        plan = await deployer.plan(sender=operator.address, bonds=None)
        assert plan.balance_wei == 0 and plan.cost_wei > 0
        await deployer.deploy(plan, operator, report=lambda part: None)

    with bare_chain() as rpc, pytest.raises(Refused) as refused:
        on(rpc, tmp_path / "journal.db", work)
    assert refused.value.code == "no_gas"


@pytest.mark.slow
def test_whoever_was_quicker_did_it_for_all(tmp_path: Path) -> None:
    """Between the plan and the deed somebody else deploys the same: the deed finds it and is content."""

    async def work(deployer: Deployer) -> list[Part]:
        plan = await deployer.plan(sender=SELLER.address, bonds=None)
        wallet = KeySigner(ACCOUNT_BY_NAME["wallet"].key)
        rpc.call("anvil_setBalance", address_text(wallet.address), hex(10**18))
        await deployer.deploy(plan, wallet, report=lambda part: None)
        done: list[Part] = []
        async with open_deployer(LOCAL, [url], journal_path=tmp_path / "second.db") as second:
            await second.deploy(plan, SELLER, report=done.append)
        return done

    with bare_chain() as rpc:
        url = f"http://127.0.0.1:{rpc.port}"
        assert [part.name for part in on(rpc, tmp_path / "first.db", work)] == ["Channels"]
        assert count(rpc, SELLER.address) == 0


@pytest.mark.slow
def test_a_dead_endpoint_is_not_a_lack_of_money(tmp_path: Path) -> None:
    with bare_chain() as rpc:
        pass
    with pytest.raises(ChainUnavailable, match="says nothing about funds"):
        on(rpc, tmp_path / "journal.db", plan_and_deploy)


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


Deploy = Callable[..., Said]


@pytest.fixture
def unhosted_deploy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Deploy:
    """`unhosted wallet deploy` in this process, where nobody can be asked."""

    def run(rpc: LocalRpc, *arguments: str, key: str | None = "seller") -> Said:
        monkeypatch.setattr(sys, "stdin", io.StringIO(""))
        for name, value in environment(rpc, tmp_path, key).items():
            monkeypatch.setenv(name, value)
        code = main.run_command(["wallet", "deploy", *arguments])
        out, err = capsys.readouterr()
        return Said(code, out, err)

    return run


def environment(rpc: LocalRpc, home: Path, key: str | None) -> dict[str, str]:
    environ = {"UNHOSTED_HOME": str(home), "UNHOSTED_CHAIN_RPC_URLS": f"http://127.0.0.1:{rpc.port}"}
    return environ if key is None else environ | {"UNHOSTED_PRIVATE_KEY": ACCOUNT_BY_NAME[key].key.hex()}


@pytest.mark.slow
def test_the_command_checks_first_and_a_dry_run_sends_nothing(unhosted_deploy: Deploy) -> None:
    with bare_chain() as rpc:
        dry = unhosted_deploy(rpc, "--chain", "local", "--dry-run")
        assert dry.code == 0, dry.err
        for word in ("31337", "to be deployed", "NO: nobody outside", "optimizer runs", "a dry run"):
            assert word in dry.out + dry.err
        unasked = unhosted_deploy(rpc, "--chain", "local")
        assert unasked.code == 1 and "add --yes" in unasked.err
        poor = unhosted_deploy(rpc, "--chain", "local", "--yes", key="operator")
        assert poor.code == 1 and "holds 0: send some there" in poor.err
        assert count(rpc, SELLER.address) == 0
        done = unhosted_deploy(rpc, "--chain", "local", "--yes", "--json")
        assert done.code == 0, done.err
        shown = json.loads(done.out)
        assert shown["is_done"] is True
        assert shown["parts"][0]["address"] == address_text(channels_address(LOCAL.token.contract))
        assert code(rpc, channels_address(LOCAL.token.contract))
        again = unhosted_deploy(rpc, "--chain", "local")
        assert again.code == 0 and "everything stands already, byte for byte" in again.err


@pytest.mark.slow
def test_real_money_needs_an_acknowledgement(unhosted_deploy: Deploy) -> None:
    with bare_chain() as rpc:
        done = unhosted_deploy(rpc, "--chain", "base", "--yes", key=None)
        assert done.code == 1 and "nobody outside the project has audited" in done.err
        # With it, the next thing in the way is that the endpoint is no Base.
        taken = unhosted_deploy(rpc, "--chain", "base", "--yes", "--i-understand-this-is-unaudited", key=None)
        assert taken.code == 1 and "Base is chain 8453" in taken.err


@pytest.mark.slow
def test_a_killed_deployment_goes_on_without_a_second_transaction(
    tmp_path: Path, unhosted_deploy: Deploy
) -> None:
    """Killed while its transaction waits for a block; the next run follows the same one."""
    with bare_chain() as rpc:
        rpc.call("evm_setAutomine", False)
        path = {"PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
        first = subprocess.Popen(
            [sys.executable, "-m", "unhosted.node", "wallet", "deploy", "--chain", "local", "--yes"],
            env=os.environ | path | environment(rpc, tmp_path, "seller"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        seller, deadline = address_text(SELLER.address), time.monotonic() + TIMEOUT_S
        while int(rpc.call("eth_getTransactionCount", seller, "pending"), 16) == 0:
            assert first.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        first.send_signal(signal.SIGKILL)
        first.wait(TIMEOUT_S)
        rpc.call("evm_setAutomine", True)
        second = unhosted_deploy(rpc, "--chain", "local", "--yes")
        assert second.code == 0, second.err
        assert code(rpc, channels_address(LOCAL.token.contract))
        assert count(rpc, SELLER.address) == 1


def test_terms_are_read_and_what_is_missing_is_named(tmp_path: Path) -> None:
    path = tmp_path / "terms.toml"
    path.write_text(
        f'sink = "{address_text(SELLER.address)}"\nverifiers = ["{address_text(SELLER.address)}"]\n'
        'quorum = 1\nappeal_quorum = 1\nslash_max_usd = "2.5"\nappeal_window_s = 60\nunbond_s = 120\n'
    )
    terms = app_deploy.read_terms(path)
    assert (terms.slash_max_micros, terms.verifiers) == (2_500_000, (SELLER.address,))
    path.write_text(path.read_text().replace("quorum = 1\nappeal", "quorum = -1\nappeal"))
    with pytest.raises(Refused, match="quorum is not a whole number"):
        app_deploy.read_terms(path)
    path.write_text('sink = "x"')
    with pytest.raises(Refused, match="'x' is not an address"):
        app_deploy.read_terms(path)
    with pytest.raises(Refused, match="cannot be read"):
        app_deploy.read_terms(tmp_path / "gone.toml")
