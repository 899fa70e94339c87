"""Who has money on the local chain. The keys are the published ones of every Ethereum test chain.

Anybody can take what is sent to them on a real chain, so the wallet refuses them everywhere but here. No
imports of ours but names, so that anybody can read the list for just that.
"""

from dataclasses import dataclass
from typing import Literal

from unhosted.market.ids import Address, parse_address

CHAIN_ID = 31337

MNEMONIC = "test test test test test test test test test test test junk"
"""Where the keys come from, at m/44'/60'/0'/0/<index>."""

USDC_MICROS = 1_000_000_000
"""USD 1,000 of test money for each account that gets any."""

ETH_WEI = 10_000 * 10**18

Role = Literal["deployer", "seller", "second_seller", "verifier", "buyer", "operator", "wallet"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DevAccount:
    """A test account. `key`: 32 bytes, public knowledge. Amounts: what a fresh chain gives it."""

    name: str
    role: Role
    address: Address
    key: bytes
    eth_wei: int
    usdc_micros: int
    text: str


def _account(
    name: str, role: Role, address: str, key: str, *, eth: bool, usdc: bool, text: str
) -> DevAccount:
    return DevAccount(
        name=name,
        role=role,
        address=parse_address(address),
        key=bytes.fromhex(key),
        eth_wei=ETH_WEI if eth else 0,
        usdc_micros=USDC_MICROS if usdc else 0,
        text=text,
    )


ACCOUNTS: tuple[DevAccount, ...] = (
    _account(
        "deployer",
        "deployer",
        "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266",
        "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80",
        eth=True,
        usdc=False,
        text="deploys the contracts and pays the fees of whoever has none",
    ),
    _account(
        "seller",
        "seller",
        "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
        "59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d",
        eth=True,
        usdc=True,
        text="sells: is paid in USDC, pays fees in ETH, has USDC for a bond",
    ),
    _account(
        "second_seller",
        "second_seller",
        "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC",
        "5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a",
        eth=True,
        usdc=True,
        text="another seller",
    ),
    *(
        _account(
            f"verifier_{number}",
            "verifier",
            address,
            key,
            eth=True,
            usdc=False,
            text="one of the seven whose verdicts the local bonds believe",
        )
        for number, (address, key) in enumerate(
            (
                (
                    "0x90F79bf6EB2c4f870365E785982E1f101E93b906",
                    "7c852118294e51e653712a81e05800f419141751be58f605c371e15141b007a6",
                ),
                (
                    "0x15d34AAf54267DB7D7c367839AAf71A00a2C6A65",
                    "47e179ec197488593b187f80a00eb0da91f1b9d0b13f8733639f19c30a34926a",
                ),
                (
                    "0x9965507D1a55bcC2695C58ba16FB37d819B0A4dc",
                    "8b3a350cf5c34c9194ca85829a2df0ec3153be0318b5e2d3348e872092edffba",
                ),
                (
                    "0x976EA74026E726554dB657fA54763abd0C3a0aa9",
                    "92db14e403b83dfe3df233f83dfa3a0d7096f21ca9b0d6d6b8d88b2b4ec1564e",
                ),
                (
                    "0x14dC79964da2C08b23698B3D3cc7Ca32193d9955",
                    "4bbbf85ce3377467afe5d46f804f221813b2bb87f24d81f60f1fcdbf7cbf4356",
                ),
                (
                    "0x23618e81E3f5cdF7f54C3d65f7FBc0aBf5B21E8f",
                    "dbda1821b80551c9d65939329250298aa3472ba22feea921c0cf5d620ea67b97",
                ),
                (
                    "0xa0Ee7A142d267C1f36714E4a8F75612F20a79720",
                    "2a871d0798f97d79848a013d4936a73bf4cc922c825d33c1cf7073dff6d409c6",
                ),
            ),
            start=1,
        )
    ),
    _account(
        "buyer",
        "buyer",
        "0xBcd4042DE499D14e55001CcbB24a551F3b954096",
        "f214f2b2cd398c806f84e317254e0f0b801d0643303237d97a22a48e01628897",
        eth=False,
        usdc=True,
        text="owns USDC and no ETH: signs a deposit that somebody else submits",
    ),
    _account(
        "operator",
        "operator",
        "0x71bE63f3384f5fb98995898A86B02Fb2426c5788",
        "701b615bbdfb9de65240bc28bd21bbc0d996645a3dd57e7b12bc2bdf6f192c82",
        eth=False,
        usdc=False,
        text="a key for the buyer's node: has nothing, only signs",
    ),
    _account(
        "wallet",
        "wallet",
        "0xFABB0ac9d68B0B445fB7357272Ff202C5651694a",
        "a267530f49f8280200edf313ee7af6b827f2a8bce2897751d06a843f644967b1",
        eth=True,
        usdc=True,
        text="has both USDC and ETH, as an ordinary wallet does",
    ),
)
ACCOUNT_BY_NAME = {account.name: account for account in ACCOUNTS}
VERIFIERS = tuple(account.address for account in ACCOUNTS if account.role == "verifier")
