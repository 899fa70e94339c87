"""A chain under test and hands on it: the adapter over a real anvil, or the fake."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from tests.devchain import DevChain
from tests.fake_chain import FakeChain
from unhosted.market.channels import ChannelConfig, SignedVoucher, Voucher, channel_id
from unhosted.market.eip712 import (
    allocate_digest,
    channels_separator,
    deposit_nonce,
    receive_digest,
    voucher_digest,
)
from unhosted.market.ids import Address, ChannelId
from unhosted.market.money import Micros
from unhosted.node.core.chain import Chain, ChainFacts, ClaimRow
from unhosted.node.shell.chain.adapter import WebChain, open_chain
from unhosted.node.shell.chain.calls import DepositAuthorization
from unhosted.node.shell.chain.chains import ChainEntry, chain_by_name
from unhosted.node.shell.chain.pool import PoolPolicy
from unhosted.node.shell.chain.sending import SendingPolicy
from unhosted.node.shell.devnet.contracts import selector
from unhosted.node.shell.keys.signer import KeySigner

FAST = SendingPolicy(poll_s=0.02, resend_s=0.1, stuck_s=0.3, settle_s=0.05)
PATIENT = SendingPolicy(poll_s=0.02, resend_s=0.2, stuck_s=600, settle_s=0.05)
"""As FAST, but never raises a fee."""
HASTY = PoolPolicy(timeout_s=2.0, rounds=2, pause_s=0.02)
FOREVER_UNIX_S = (1 << 40) - 1

OWNER, OPERATOR, SELLER, STRANGER = (KeySigner(bytes(31) + bytes((number,))) for number in (11, 12, 13, 14))
"""OWNER has USDC and OPERATOR nothing; SELLER and STRANGER have gas."""

FUNDS_MICROS = 10_000_000
GAS_WEI = 10**18


class Stage(Protocol):
    @property
    def chain(self) -> Chain: ...

    def mine(self, blocks: int = 1) -> None: ...

    def warp(self, seconds: int) -> None: ...

    def undo(self, blocks: int) -> None:
        """These blocks never were; empty ones are in their place."""
        ...

    def pause_token(self) -> None: ...

    def blacklist(self, who: Address) -> None: ...


Opener = Callable[[int], AbstractAsyncContextManager[Stage]]
"""Opens a stage whose chain wants so many confirmations."""


@dataclass(slots=True)
class FakeStage:
    chain: FakeChain

    def mine(self, blocks: int = 1) -> None:
        self.chain.mine(blocks)

    def warp(self, seconds: int) -> None:
        self.chain.warp(seconds)

    def undo(self, blocks: int) -> None:
        self.chain.undo(blocks)

    def pause_token(self) -> None:
        self.chain.token().is_paused = True

    def blacklist(self, who: Address) -> None:
        self.chain.token().blacklisted.add(who)


@dataclass(slots=True)
class RealStage:
    chain: WebChain
    dev: DevChain

    def mine(self, blocks: int = 1) -> None:
        self.dev.mine(blocks)

    def warp(self, seconds: int) -> None:
        self.dev.warp(seconds)

    def undo(self, blocks: int) -> None:
        self.dev.rpc.call("anvil_reorg", blocks, [])

    def pause_token(self) -> None:
        self._token(selector("setPaused(bool)") + (1).to_bytes(32, "big"))

    def blacklist(self, who: Address) -> None:
        self._token(selector("setBlacklisted(address,bool)") + who.rjust(32, b"\0") + (1).to_bytes(32, "big"))

    def _token(self, data: bytes) -> None:
        self.dev.send(sender=self.dev.account("deployer").address, to=self.dev.contracts.token, data=data)


@asynccontextmanager
async def fake_stage(confirmations: int) -> AsyncIterator[FakeStage]:
    chain = FakeChain(confirmations=confirmations)
    chain.mint(OWNER.address, FUNDS_MICROS)
    for signer in (SELLER, STRANGER):
        chain.give_gas(signer.address, GAS_WEI)
    yield FakeStage(chain)


def local_entry(dev: DevChain, *, confirmations: int = 0, block_time_ms: int = 0) -> ChainEntry:
    entry = replace(chain_by_name("local"), confirmations=confirmations, block_time_ms=block_time_ms)
    contracts = dev.contracts
    return entry.with_contracts(token=contracts.token, channels=contracts.channels, bonds=contracts.bonds)


def fund(dev: DevChain) -> None:
    dev.mint(OWNER.address, FUNDS_MICROS)
    for signer in (SELLER, STRANGER):
        dev.give_eth(signer.address, GAS_WEI)


def real_stages(dev: DevChain, folder: Path) -> Opener:
    @asynccontextmanager
    async def open_stage(confirmations: int) -> AsyncIterator[RealStage]:
        fund(dev)
        entry = local_entry(dev, confirmations=confirmations)
        async with open_chain(
            entry, [dev.url], journal_path=folder / "sent.db", pool_policy=HASTY, sending_policy=FAST
        ) as chain:
            yield RealStage(chain, dev)

    return open_stage


def config_of(*, salt: int = 1, delay_s: int = 86_400) -> ChannelConfig:
    return ChannelConfig(
        payer=OWNER.address,
        signer=OPERATOR.address,
        payee=SELLER.address,
        delay_s=delay_s,
        salt=salt.to_bytes(32, "big"),
    )


def id_of(facts: ChainFacts, config: ChannelConfig) -> ChannelId:
    return channel_id(facts.channels, config)


def authorization(
    facts: ChainFacts,
    *,
    value_micros: int,
    limit_micros: int,
    operator: Address = OPERATOR.address,
    salt: int = 7,
) -> DepositAuthorization:
    """The owner's, signed as its wallet would."""
    salt_bytes = salt.to_bytes(32, "big")
    nonce = deposit_nonce(operator, limit_micros=limit_micros, salt=salt_bytes)
    signed = receive_digest(
        facts.token,
        payer=OWNER.address,
        payee=facts.channels.contract,
        value_micros=value_micros,
        valid_after_unix_s=0,
        valid_before_unix_s=FOREVER_UNIX_S,
        nonce=nonce,
    )
    return DepositAuthorization(
        payer=OWNER.address,
        value_micros=value_micros,
        valid_after_unix_s=0,
        valid_before_unix_s=FOREVER_UNIX_S,
        operator=operator,
        limit_micros=limit_micros,
        salt=salt_bytes,
        signature=OWNER.sign(signed),
    )


def allocation(
    facts: ChainFacts, config: ChannelConfig, *, total_micros: int, signer: KeySigner = OPERATOR
) -> bytes:
    separator = channels_separator(facts.channels)
    return signer.sign(
        allocate_digest(
            separator,
            id_of(facts, config),
            total_micros=total_micros,
            valid_before_unix_s=FOREVER_UNIX_S,
        )
    )


def row(
    facts: ChainFacts, config: ChannelConfig, *, amount_micros: int, signer: KeySigner = OPERATOR
) -> ClaimRow:
    voucher = Voucher(channel_id=id_of(facts, config), amount_micros=Micros(amount_micros))
    signature = signer.sign(voucher_digest(channels_separator(facts.channels), voucher))
    return ClaimRow(config=config, voucher=SignedVoucher(voucher=voucher, signature=signature))
