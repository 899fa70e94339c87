"""The wallet page in a real browser, with a wallet that really signs: over the real desk, files and keys."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from eth_account import Account
from eth_account.messages import encode_typed_data
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import TIMEOUT_MS
from tests.fakes import FakeNode, served_in_thread
from unhosted.market.channels import ChainId, Deployment
from unhosted.market.eip712 import TokenDomain
from unhosted.market.ids import Address, address_text, parse_address
from unhosted.market.money import Micros
from unhosted.node.app_wallet_page import DepositDesk
from unhosted.node.config import Config, Paths
from unhosted.node.core.funding import DepositRequest
from unhosted.node.http.settings import HttpSettings
from unhosted.node.shell.keys.signer import recover
from unhosted.node.shell.wallet.deposits import DepositFiles

pytestmark = pytest.mark.slow
expect.set_options(timeout=TIMEOUT_MS)

OWNER = Account.from_key(bytes(range(1, 33)))
OTHER = Account.from_key(bytes(range(2, 34)))
BASE_SEPOLIA, LOCAL = 84532, 31337
NOW = 1_900_000_000

WALLET = """
window.ethereum = {
  request: async ({method, params}) => {
    const told = JSON.parse(await window.walletRequest(JSON.stringify([method, params || []])));
    if (told.error) throw Object.assign(new Error(told.error.message), told.error);
    return told.result;
  }
};
"""


class Wallet:
    """An EIP-1193 provider outside the page: accounts, a chain, and a user who may say no."""

    def __init__(self) -> None:
        self.accounts = [OWNER]
        self.chain_id = BASE_SEPOLIA
        self.can_switch = True
        self.says_no = False
        self.asked: list[str] = []

    def request(self, text: str) -> str:
        method, params = json.loads(text)
        self.asked.append(method)
        if method in ("eth_requestAccounts", "eth_signTypedData_v4") and self.says_no:
            return json.dumps({"error": {"code": 4001, "message": "User rejected the request."}})
        return json.dumps({"result": getattr(self, method)(*params)})

    def eth_requestAccounts(self) -> list[str]:
        return [account.address.lower() for account in self.accounts]  # as some wallets do

    def eth_chainId(self) -> str:
        return hex(self.chain_id)

    def wallet_switchEthereumChain(self, wanted: dict[str, str]) -> None:
        if self.can_switch:
            self.chain_id = int(wanted["chainId"], 16)

    def eth_signTypedData_v4(self, account: str, data: str) -> str:
        signer = next(one for one in self.accounts if one.address.lower() == account.lower())
        message = encode_typed_data(full_message=json.loads(data))
        return "0x" + bytes(signer.sign_message(message).signature).hex()


@pytest.fixture
def desk(tmp_path: Path) -> DepositDesk:
    paths = Paths(config_dir=tmp_path, data_dir=tmp_path / "data", state_dir=tmp_path / "state")
    return DepositDesk(Config(paths=paths))


def wait_for_signature(tmp_path: Path, *, salt: bytes = b"\x07" * 32) -> DepositRequest:
    request = DepositRequest(
        chain_name="base-sepolia",
        title="Base Sepolia",
        token=TokenDomain(
            name="USDC", version="2", chain_id=ChainId(BASE_SEPOLIA), contract=Address(b"\x22" * 20)
        ),
        channels=Deployment(chain_id=ChainId(BASE_SEPOLIA), contract=Address(b"\x33" * 20)),
        owner=parse_address(OWNER.address),
        operator=Address(b"\x44" * 20),
        amount_micros=Micros(4_250_000),
        limit_micros=Micros(5_000_000),
        valid_after_unix_s=0,
        valid_before_unix_s=1 << 33,
        salt=salt,
    )
    DepositFiles(tmp_path / "state" / "deposits").save(request, now_unix_s=NOW)
    return request


@contextmanager
def opened(browser: Browser, desk: DepositDesk, wallet: Wallet | None, fragment: str = "") -> Iterator[Page]:
    node = FakeNode()
    node.wallet = desk  # type: ignore[assignment]
    with served_in_thread(node) as address, browser.new_context() as context:
        context.set_default_timeout(TIMEOUT_MS)
        page = context.new_page()
        problems: list[str] = []
        page.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        if wallet is not None:
            page.expose_function("walletRequest", wallet.request)
            page.add_init_script(WALLET)
        page.goto(f"{address.url}/wallet{fragment}")
        yield page
        assert [line for line in problems if "status of 400" not in line] == []


def test_the_owner_reads_signs_and_the_node_keeps_the_signature(
    browser: Browser, desk: DepositDesk, tmp_path: Path
) -> None:
    request, wallet = wait_for_signature(tmp_path), Wallet()
    wallet.chain_id = LOCAL  # the page asks it to change over
    with opened(browser, desk, wallet) as page:
        card = page.locator("#deposits li")
        expect(card).to_contain_text(f"Move USD 4.25 (USDC) of {OWNER.address}")
        expect(card).to_contain_text("at most USD 5.00 of it to sellers in a calendar month")
        expect(card).to_contain_text(address_text(request.operator))
        page.get_by_role("button", name="Sign with the browser's wallet").click()
        expect(card.get_by_text(f"unhosted wallet fund --send {request.deposit_id}")).to_be_visible()
        page.reload()
        expect(card.get_by_text("Signed.")).to_be_visible()
        expect(page.get_by_role("button")).to_have_count(0)
    assert wallet.asked[0] == "eth_requestAccounts" and "wallet_switchEthereumChain" in wallet.asked
    kept = DepositFiles(tmp_path / "state" / "deposits").load(request.deposit_id)
    assert kept.signature is not None
    assert recover(request.digest, kept.signature) == request.owner


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"says_no": True}, "You said no in the wallet; nothing was signed."),
        ({"accounts": [OTHER]}, f"Choose {OWNER.address} in it"),
        ({"accounts": []}, "Your wallet offers no account"),
        ({"chain_id": LOCAL, "can_switch": False}, "Switch your wallet to Base Sepolia (chain 84532)"),
    ],
    ids=["no", "other account", "no account", "other chain"],
)
def test_what_went_wrong_is_said_and_can_be_tried_again(
    browser: Browser, desk: DepositDesk, tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    request, wallet = wait_for_signature(tmp_path), Wallet()
    before = {name: getattr(wallet, name) for name in change}
    for name, value in change.items():
        setattr(wallet, name, value)
    with opened(browser, desk, wallet) as page:
        page.get_by_role("button", name="Sign").click()
        expect(page.get_by_role("alert")).to_contain_text(told)
        assert DepositFiles(tmp_path / "state" / "deposits").load(request.deposit_id).signature is None
        for name, value in before.items():
            setattr(wallet, name, value)
        page.get_by_role("button", name="Sign").click()
        expect(page.locator("#deposits .done")).to_contain_text("Signed.")
        expect(page.get_by_role("alert")).to_be_hidden()


def test_without_a_wallet_it_says_what_to_do(browser: Browser, desk: DepositDesk, tmp_path: Path) -> None:
    wait_for_signature(tmp_path)
    with opened(browser, desk, None) as page:
        expect(page.get_by_text("No wallet was found in this browser")).to_be_visible()
        expect(page.get_by_role("button", name="Sign")).to_be_disabled()


def test_the_deposit_of_the_address_stands_first(browser: Browser, desk: DepositDesk, tmp_path: Path) -> None:
    wait_for_signature(tmp_path)
    second = wait_for_signature(tmp_path, salt=b"\x08" * 32)
    with opened(browser, desk, Wallet(), f"#{second.deposit_id}") as page:
        expect(page.locator("#deposits h2").first).to_have_text(f"Deposit {second.deposit_id}")
        expect(page.locator("#deposits h2")).to_have_count(2)
        expect(page.locator("#state")).to_have_text("2 deposits wait")


def test_nothing_waits_and_the_page_says_how_to_ask(browser: Browser, desk: DepositDesk) -> None:
    with opened(browser, desk, Wallet()) as page:
        expect(page.get_by_text("No deposit waits for a signature.")).to_be_visible()


def test_other_machines_do_not_get_the_page() -> None:
    async def status(path: str) -> int:
        import httpx

        async with httpx.AsyncClient(headers={"authorization": "Bearer " + "k" * 32}) as client:
            return (await client.get(f"http://127.0.0.1:{port}{path}")).status_code

    with served_in_thread(FakeNode(), HttpSettings(host="0.0.0.0", port=0, token="k" * 32)) as address:
        port = address.port
        assert [trio.run(status, path) for path in ("/wallet", "/api/wallet/funding", "/")] == [403, 403, 200]
