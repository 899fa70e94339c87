"""The table of chains: what a node expects to find at an endpoint before it believes it."""

import functools
import tomllib
from dataclasses import dataclass, replace
from importlib import resources

from unhosted.market.channels import ChainId, Deployment
from unhosted.market.eip712 import TokenDomain
from unhosted.market.ids import Address, parse_address
from unhosted.node.core.chain import ChainFacts
from unhosted.node.core.errors import Refused
from unhosted.node.shell.chain.addresses import channels_address

LOCAL_CHAIN_ID = 31337
WEI_PER_GWEI = 1_000_000_000
LAG_S = 60
"""An endpoint this far behind another, or behind the clock where blocks are regular, tells of the past."""
LAG_BLOCKS_MIN = 3
"""Two honest nodes differ by a block or two at any instant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainEntry:
    """A chain as `chains.toml` has it; `channels` and `bonds` are None where it does not name them."""

    name: str
    title: str
    coin: str
    chain_id: ChainId
    token: TokenDomain
    confirmations: int
    has_safe_tag: bool
    block_time_ms: int
    fee_per_gas_wei_max: int
    explorer_url: str
    is_test: bool
    rpc_urls: tuple[str, ...]
    channels: Address | None = None
    bonds: Address | None = None

    @property
    def lag_blocks(self) -> int:
        """How far behind another endpoint one may be."""
        if not self.block_time_ms:
            return LAG_BLOCKS_MIN
        return max(LAG_BLOCKS_MIN, LAG_S * 1000 // self.block_time_ms)

    def with_contracts(
        self, *, token: Address | None = None, channels: Address, bonds: Address | None = None
    ) -> "ChainEntry":
        """The same chain with contracts elsewhere, as on a development chain."""
        domain = self.token if token is None else replace(self.token, contract=token)
        return replace(self, token=domain, channels=channels, bonds=bonds)


def facts_of(entry: ChainEntry) -> ChainFacts:
    """With the contracts where the table has them, or else where everybody's deployment ends up."""
    channels = entry.channels or channels_address(entry.token.contract)
    bonds = entry.bonds or (_local_bonds() if entry.chain_id == LOCAL_CHAIN_ID else None)
    return ChainFacts(
        name=entry.name,
        chain_id=entry.chain_id,
        token=entry.token,
        channels=Deployment(chain_id=entry.chain_id, contract=channels),
        bonds=None if bonds is None else Deployment(chain_id=entry.chain_id, contract=bonds),
        confirmations=entry.confirmations,
        explorer_url=entry.explorer_url,
        is_test=entry.is_test,
    )


def _local_bonds() -> Address:
    from unhosted.node.shell.devnet.contracts import dev_contracts

    return dev_contracts().bonds


@functools.cache
def chains() -> dict[str, ChainEntry]:
    """By name, in the order of the file."""
    text = resources.files(__package__).joinpath("chains.toml").read_text("utf-8")
    return {name: _entry(name, fields) for name, fields in tomllib.loads(text).items()}


def chain_by_name(name: str) -> ChainEntry:
    """Raises: Refused(invalid_request) that names the chains there are."""
    entry = chains().get(name)
    if entry is None:
        raise Refused(
            "invalid_request",
            f"no chain is called {name[:40]!r}: set chain.name to one of {', '.join(chains())}",
            field="chain.name",
        )
    return entry


def _entry(name: str, fields: dict[str, object]) -> ChainEntry:
    def text(key: str) -> str:
        value = fields[key]
        if not isinstance(value, str):
            raise ValueError(f"chains.toml: {name}.{key} is not a text")
        return value

    def number(key: str) -> int:
        value = fields[key]
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ValueError(f"chains.toml: {name}.{key} is not a whole number")
        return value

    def contract(key: str) -> Address | None:
        return parse_address(text(key)) if key in fields else None

    urls = fields["rpc_urls"]
    if not isinstance(urls, list) or not urls:
        raise ValueError(f"chains.toml: {name}.rpc_urls is empty")
    chain_id = ChainId(number("chain_id"))
    return ChainEntry(
        name=name,
        title=text("title"),
        coin=text("coin"),
        chain_id=chain_id,
        token=TokenDomain(
            name=text("usdc_name"),
            version=text("usdc_version"),
            chain_id=chain_id,
            contract=parse_address(text("usdc")),
        ),
        confirmations=number("confirmations"),
        has_safe_tag=fields["has_safe_tag"] is True,
        block_time_ms=number("block_time_ms"),
        fee_per_gas_wei_max=number("fee_per_gas_gwei_max") * WEI_PER_GWEI,
        explorer_url=text("explorer_url"),
        is_test=fields["is_test"] is True,
        rpc_urls=tuple(str(url) for url in urls),
        channels=contract("channels"),
        bonds=contract("bonds"),
    )
