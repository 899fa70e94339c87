"""The wallet's settings: what they may be, and what of them is never shown."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.node.wallet.conftest import Unhosted
from tests.node.wallet.test_keystore import child_environment
from unhosted.node import config as settings
from unhosted.node.app_wallet import check_acknowledged, key_settings, owner_address
from unhosted.node.core.errors import Refused

ADDRESS = "0xBcd4042DE499D14e55001CcbB24a551F3b954096"


def test_endpoints_are_kept_whole_and_shown_without_what_could_be_a_key(
    unhosted: Unhosted, home: Path
) -> None:
    urls = (
        "https://me:PASSWORD7@rpc.example/v2/SECRETKEY,http://localhost:8545,https://b.example/?key=SECRETKEY"
    )
    done = unhosted("config", "set", "chain.rpc-urls", urls, "--json")
    shown = [done, unhosted("config", "list"), unhosted("config", "get", "chain.rpc-urls", "--json")]
    assert all(one.code == 0 for one in shown)
    assert not any(word in one.out + one.err for one in shown for word in ("SECRETKEY", "PASSWORD7"))
    assert shown[2].json["value"] == [
        "https://rpc.example/…",
        "http://localhost:8545",
        "https://b.example/…",
    ]
    assert list(settings.load().chain_rpc_urls) == urls.split(",")
    assert "SECRETKEY" in (home / "home" / "config.toml").read_text()
    assert "SECRETKEY" not in repr(settings.load())


@pytest.mark.parametrize("url", ["ftp://SECRETKEY", "SECRETKEY", "https://", "http://[SECRETKEY"])
def test_an_endpoint_that_is_none_is_refused_without_being_repeated(unhosted: Unhosted, url: str) -> None:
    refused = unhosted("config", "set", "chain.rpc-urls", url)
    assert refused.code == 1 and "http:// or https:// addresses" in refused.err
    assert "SECRETKEY" not in refused.err


@pytest.mark.parametrize("text", [ADDRESS, ADDRESS.lower(), "0x" + ADDRESS[2:].upper()])
def test_an_address_is_kept_with_its_capitals(unhosted: Unhosted, text: str) -> None:
    assert unhosted("config", "set", "wallet.payee", text).code == 0
    assert settings.load().wallet_payee == ADDRESS


@pytest.mark.parametrize(
    "text", ["0x12", ADDRESS[:-1] + "7", "0x" + "00" * 20, "vitalik.eth", ADDRESS.replace("B", "b", 1)]
)
def test_an_address_with_a_mistake_is_refused(unhosted: Unhosted, text: str) -> None:
    assert unhosted("config", "set", "wallet.owner", text).code == 1


def test_the_short_names_of_key_and_password_file_win(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNHOSTED_WALLET_KEYSTORE", "a.json")
    monkeypatch.setenv("UNHOSTED_KEYSTORE", "b.json")
    monkeypatch.setenv("UNHOSTED_PASSWORD_FILE", "p")
    found = key_settings(settings.load())
    assert (found.keystore, found.is_keystore_named, found.password_file) == (Path("b.json"), True, Path("p"))
    assert settings.strange_variables({"UNHOSTED_KEYSTORE": "", "UNHOSTED_KEYSTROE": ""}) == (
        "UNHOSTED_KEYSTROE",
    )


def test_real_money_needs_a_yes_and_test_money_does_not(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, wants_yes in (("base", True), ("ethereum", True), ("base-sepolia", False), ("local", False)):
        config = settings.load({"chain_name": name})
        if wants_yes:
            with pytest.raises(Refused, match=r"nobody outside the project has audited.*accept-unaudited"):
                check_acknowledged(config)
            check_acknowledged(
                settings.load({"chain_name": name, "wallet.accept-unaudited-contracts": "true"})
            )
        else:
            check_acknowledged(config)


def test_an_unknown_chain_names_those_there_are(unhosted: Unhosted) -> None:
    refused = unhosted("wallet", "show", "--chain", "bsae")
    assert refused.code == 1 and "base" in refused.err


def test_an_owner_whose_key_everybody_has_is_refused_off_the_local_chain(home: Path) -> None:
    assert owner_address(settings.load({"chain_name": "local"}), ADDRESS)
    with pytest.raises(Refused, match="is published"):
        owner_address(settings.load({"chain_name": "base"}), ADDRESS)


PROGRAM = """
import sys, trio
from unhosted.node.app_node import AppNode
from unhosted.node.app_wallet_page import DepositDesk
from unhosted.node import config
from unhosted.node.core.errors import Refused
desk = DepositDesk(config.load({"offline": "true"}))
assert trio.run(desk.waiting) == []
try:
    trio.run(desk.sign, "0" * 16, b"")
except Refused as refused:
    assert refused.code == "offline"
loaded = {"web3", "eth_abi", "eth_account", "coincurve", "eth_keyfile"} & set(sys.modules)
loaded |= {name for name in sys.modules if name.startswith("unhosted.node.shell.chain")}
print(sorted(loaded))
"""

SERVE = """
import logging, trio
trio.run = lambda *args: logging.getLogger("a").warning("key=%s", "ab" * 32)
from unhosted.node.cli.main import run_command
run_command(["serve", "--port", "0"])
"""


@pytest.mark.slow
def test_offline_loads_no_code_of_chain_or_keys(home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=child_environment(), timeout=60
    )
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


@pytest.mark.slow
def test_the_node_logs_no_key(home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SERVE], capture_output=True, text=True, env=child_environment(), timeout=60
    )
    assert "key=[concealed]" in done.stderr and "abab" not in done.stderr
