"""`unhosted wallet deploy`: the check-list and the deployment, without naming the shell."""

import tomllib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unhosted.contracts import artifact
from unhosted.market.ids import Address, address_text, parse_address
from unhosted.market.money import parse_usd
from unhosted.node import app_wallet
from unhosted.node.app_wallet import WalletKeys
from unhosted.node.config import Config
from unhosted.node.core.chain import CallReverted, ChainUnavailable
from unhosted.node.core.errors import Refused
from unhosted.node.shell.chain.addresses import BondsTerms
from unhosted.node.shell.chain.chains import ChainEntry
from unhosted.node.shell.chain.deploy import Deployer, Part, Plan, open_deployer

AUDITED = False
"""Whether somebody outside the project has audited the contracts. The mainnet rules hang on it."""

FILE_BYTES_MAX = 64 * 1024

TERMS_EXAMPLE = (
    'sink = "0x…", verifiers = ["0x…", …], quorum = 4, appeal_quorum = 6, slash_max_usd = "100",'
    " appeal_window_s = 259200, unbond_s = 604800"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartInfo:
    """A contract on the check-list. code_hash: keccak-256 of its init code."""

    name: str
    address: str
    code_hash: str
    runtime_bytes: int
    is_deployed: bool
    gas: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Checklist:
    """What was checked and what would be done. cost_wei is an estimate, without a rollup's data fee."""

    chain: str
    title: str
    chain_id: int
    is_test: bool
    token: str
    token_domain: str
    parts: tuple[PartInfo, ...]
    sender: str
    balance_wei: int
    coin: str
    price_wei: int
    gas: int
    cost_wei: int
    compiler: str
    optimizer_runs: int
    is_audited: bool

    @property
    def is_done(self) -> bool:
        return all(part.is_deployed for part in self.parts)

    @property
    def is_affordable(self) -> bool:
        return self.balance_wei >= self.cost_wei


class Deployment:
    """One run of the command. `keys` is asked for the password once, and only when something is sent."""

    def __init__(self, deployer: Deployer, entry: ChainEntry, keys: WalletKeys) -> None:
        self._deployer, self._entry, self._keys = deployer, entry, keys
        self._plan: Plan | None = None

    async def checklist(self, bonds: BondsTerms | None) -> Checklist:
        """Raises: Refused with what does not fit."""
        sender = await self._keys.operator_address()
        plan = self._plan = await self._deployer.plan(sender=sender, bonds=bonds)
        compiled = artifact("Channels")
        optimizer: Any = compiled.settings["optimizer"]
        return Checklist(
            chain=self._entry.name,
            title=self._entry.title,
            chain_id=self._entry.chain_id,
            is_test=self._entry.is_test,
            token=address_text(self._entry.token.contract),
            token_domain=f"{self._entry.token.name}, version {self._entry.token.version}",
            parts=tuple(_info(part) for part in plan.parts),
            sender=address_text(plan.sender),
            balance_wei=plan.balance_wei,
            coin=self._entry.coin,
            price_wei=plan.price_wei,
            gas=plan.gas,
            cost_wei=plan.cost_wei,
            compiler=compiled.compiler,
            optimizer_runs=int(optimizer["runs"]),
            is_audited=AUDITED,
        )

    async def run(self, report: Callable[[PartInfo], None]) -> None:
        """Do what the check-list says. Raises: Refused."""
        assert self._plan is not None, "the check-list comes first"
        signer = await self._keys.operator()
        await self._deployer.deploy(self._plan, signer, report=lambda part: report(_info(part)))


@asynccontextmanager
async def open_deployment(
    config: Config, *, prompt: Callable[[str], str] | None
) -> AsyncIterator[Deployment]:
    """The chain of the settings. Raises: Refused, also out of the block."""
    if config.offline:
        raise Refused("offline", "a chain is outside this machine and --offline forbids it: leave that out")
    entry = app_wallet.chain_entry(config)
    keys = WalletKeys(config=config, chain_id=entry.chain_id, prompt=prompt)
    try:
        async with open_deployer(
            entry, config.chain_rpc_urls, journal_path=config.paths.transactions_file
        ) as deployer:
            yield Deployment(deployer, entry, keys)
    except ChainUnavailable as error:
        raise Refused("chain_unavailable", str(error)) from None
    except CallReverted as error:
        raise Refused(
            "chain_mismatch", f"{error}; nothing was deployed by it, run the command again"
        ) from None


def read_terms(path: Path) -> BondsTerms:
    """The terms of Bonds from a TOML file. Raises: Refused that names the field."""
    try:
        with path.open("rb") as file:
            fields = tomllib.loads(file.read(FILE_BYTES_MAX).decode())
    except OSError as error:
        raise Refused("invalid_request", f"{path} cannot be read: {error.strerror}", field="bonds") from None
    except ValueError as error:
        raise Refused("invalid_request", f"{path} is not TOML: {error}", field="bonds") from None
    try:
        return BondsTerms(
            sink=parse_address(_text(fields, "sink")),
            verifiers=tuple(parse_address(str(one)) for one in fields["verifiers"]),
            quorum=_number(fields, "quorum"),
            appeal_quorum=_number(fields, "appeal_quorum"),
            slash_max_micros=parse_usd(_text(fields, "slash_max_usd")),
            appeal_window_s=_number(fields, "appeal_window_s"),
            unbond_s=_number(fields, "unbond_s"),
        )
    except (KeyError, ValueError, TypeError) as error:
        message = f"{path} does not hold the terms of Bonds ({error}); needed are {TERMS_EXAMPLE}"
        raise Refused("invalid_request", message, field="bonds") from None


def _text(fields: dict[str, Any], name: str) -> str:
    if not isinstance(fields[name], str):
        raise ValueError(f"{name} is not a text")
    return str(fields[name])


def _number(fields: dict[str, Any], name: str) -> int:
    if not isinstance(fields[name], int) or isinstance(fields[name], bool) or fields[name] < 0:
        raise ValueError(f"{name} is not a whole number")
    return int(fields[name])


def _info(part: Part) -> PartInfo:
    return PartInfo(
        name=part.name,
        address=address_text(Address(part.address)),
        code_hash="0x" + part.code_hash.hex(),
        runtime_bytes=len(part.runtime_code),
        is_deployed=part.is_deployed,
        gas=part.gas,
    )
