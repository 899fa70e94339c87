"""`core.chain.Chain` over JSON-RPC endpoints.

async with open_chain(entry, urls, journal_path=…) as chain:
    nursery.start_soon(chain.run)
    receipt = await chain.send(calls.payout(at, payee), signer, key=f"payout:{day}")
"""

import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from unhosted.market.ids import Address, ChannelId
from unhosted.node.core.chain import (
    AccountFacts,
    BlockTag,
    Call,
    ChainFacts,
    ChannelFacts,
    EventBatch,
    Head,
    Receipt,
    Signer,
)
from unhosted.node.shell.chain.abi import channels_abi, decode, function_call
from unhosted.node.shell.chain.answers import block
from unhosted.node.shell.chain.chains import ChainEntry, facts_of
from unhosted.node.shell.chain.checking import check_chain, read
from unhosted.node.shell.chain.estimating import estimate, market_now
from unhosted.node.shell.chain.following import Follower
from unhosted.node.shell.chain.pool import Endpoint, Pool, PoolPolicy
from unhosted.node.shell.chain.receipts import balance_of
from unhosted.node.shell.chain.sending import Sending, SendingPolicy
from unhosted.node.shell.chain.transactions import Journal, Transaction

HISTORY_MAX = 10_000
"""Transactions in one answer of `transactions`; older ones by `before_id`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointStatus:
    """For status pages. `host` is all that may be shown; `sentence` is empty when it is well."""

    host: str
    is_well: bool
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the adapter knows of time and chance: given, so that tests decide."""

    clock: Callable[[], float] = trio.current_time
    unix_now: Callable[[], float] = time.time
    chance: Callable[[], float] = random.random


class WebChain:
    """Made by `open_chain`. Reads may run at any time and in any number."""

    def __init__(self, pool: Pool, entry: ChainEntry, facts: ChainFacts, sending: Sending) -> None:
        self._pool, self._entry, self._facts, self._sending = pool, entry, facts, sending

    @property
    def facts(self) -> ChainFacts:
        return self._facts

    def endpoints(self) -> list[EndpointStatus]:
        return [
            EndpointStatus(
                host=one.transport.host, is_well=one.health.kind is None, sentence=one.health.sentence
            )
            for one in self._pool.endpoints
        ]

    async def head(self) -> Head:
        views = await self._pool.survey()
        newest = max((view.head for view in views), key=lambda one: one.number)
        return Head(
            number=newest.number,
            timestamp_unix_s=newest.timestamp_unix_s,
            safe_number=min(view.safe_number for view in views),
        )

    async def account(self, payer: Address, *, at: BlockTag = "latest") -> AccountFacts:
        free, operator, limit, used, month = await self._view("accounts", payer, at=at)
        return AccountFacts(
            free_micros=free, operator=Address(operator), limit_micros=limit, used_micros=used, month=month
        )

    async def channel(self, channel_id: ChannelId, *, at: BlockTag = "latest") -> ChannelFacts:
        deposit, claimed, close_at, is_closed = await self._view("channels", channel_id, at=at)
        return ChannelFacts(
            deposit_micros=deposit, claimed_micros=claimed, close_at_unix_s=close_at, is_closed=is_closed
        )

    async def credit(self, payee: Address) -> int:
        return int((await self._view("credit", payee, at="latest"))[0])

    async def usdc_balance(self, holder: Address) -> int:
        call = function_call("balanceOf(address)", holder)
        return await read(self._pool, self._facts.token.contract, call, _number, at="latest")

    async def is_authorization_used(self, owner: Address, nonce: bytes) -> bool:
        """Whether an EIP-3009 signature with this nonce was used or cancelled."""
        call = function_call("authorizationState(address,bytes32)", owner, nonce)
        return bool(await read(self._pool, self._facts.token.contract, call, _number, at="latest"))

    async def gas_balance(self, holder: Address) -> int:
        return await balance_of(self._pool, holder)

    async def gas_price(self) -> int:
        return (await market_now(self._pool, self._entry)).price_wei

    async def check(self, call: Call, *, sender: Address) -> int:
        return await estimate(self._pool, call, sender=sender)

    async def send(self, call: Call, signer: Signer, *, key: str) -> Receipt:
        return await self._sending.send(call, signer, key=key)

    def events(self, *, from_block: int) -> AsyncIterator[EventBatch]:
        return Follower(self._pool, self._entry, self._facts, from_block=from_block)

    async def transactions(
        self, *, limit: int = HISTORY_MAX, before_id: int | None = None
    ) -> list[Transaction]:
        """What this node sent on this chain, the newest first. Needs no endpoint."""
        return await self._sending.history(limit=min(limit, HISTORY_MAX), before_id=before_id)

    async def run(self) -> None:
        """Goes on with what was sent until it is safe; for ever, in the program's nursery."""
        await self._sending.run()

    async def settle(self) -> None:
        """One turn of `run`. Raises: ChainUnavailable."""
        await self._sending.settle()

    async def _view(self, name: str, *arguments: object, at: BlockTag) -> tuple[Any, ...]:
        def decoder(value: bytes) -> tuple[Any, ...]:
            return channels_abi().decode_result(name, value)

        call = channels_abi().encode_call(name, *arguments)
        return await read(self._pool, self._facts.channels.contract, call, decoder, at=at)


@asynccontextmanager
async def open_chain(
    entry: ChainEntry,
    urls: Sequence[str] = (),
    *,
    journal_path: Path,
    surroundings: Surroundings | None = None,
    pool_policy: PoolPolicy | None = None,
    sending_policy: SendingPolicy | None = None,
) -> AsyncIterator[WebChain]:
    """The chain at these endpoints (without any, at the table's), checked to be the one of `entry`.

    journal_path: the SQLite file of sent transactions; several processes may share it.
    Raises: Refused(chain_mismatch, ledger_damaged, invalid_request); ChainUnavailable.
    """
    around = surroundings or Surroundings()
    pool = Pool(
        entry,
        urls or entry.rpc_urls,
        clock=around.clock,
        unix_now=around.unix_now,
        chance=around.chance,
        policy=pool_policy,
    )
    try:
        facts = facts_of(entry)
        await check_chain(pool, entry, facts)
        network = await _network(pool, entry)
        journal = await trio.to_thread.run_sync(lambda: Journal(journal_path, network=network))
        try:
            sending = Sending(
                pool, journal, entry, clock=around.clock, unix_now=around.unix_now, policy=sending_policy
            )
            yield WebChain(pool, entry, facts, sending)
        finally:
            journal.close()
    finally:
        pool.close()


async def _network(pool: Pool, entry: ChainEntry) -> bytes:
    """What the journal calls this chain. A local one is also known by its first block: after a reset, what
    was sent on the one before must not be sent again."""
    name = entry.chain_id.to_bytes(8, "big")
    if entry.block_time_ms:
        return name

    async def ask(endpoint: Endpoint, _: int) -> bytes:
        return (await pool.ask_at(endpoint, "eth_getBlockByNumber", "0x0", False, parse=block)).hash

    return name + await pool.agreed(ask, at="latest")


def _number(value: bytes) -> int:
    return int(decode(("uint256",), value)[0])
