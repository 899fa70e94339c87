"""The buyer's way to a channel: what its operator key signs, in which order, and how the chain is followed.

The ledger hears of a channel before anything about it is signed: one that it does not know would count with
its whole deposit when the chain shows it. The operator signs; the seller, who wants to be paid, sends.
"""

import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from unhosted.market.channel_states import OnChain
from unhosted.market.channels import DELAY_S_DEFAULT, ChannelConfig
from unhosted.market.eip712 import allocate_digest, channels_separator
from unhosted.market.ids import Address, ChannelId, address_text
from unhosted.market.messages import Allocation, DepositAuthorisation, RelayAnswer, RelayRequest
from unhosted.market.money import MICROS_PER_USD, Micros
from unhosted.node.core.chain import Chain, ChainUnavailable, Signer
from unhosted.node.core.errors import Refused
from unhosted.node.core.peering import Channel as Stream
from unhosted.node.shell.money.kept_answers import KeptAnswers
from unhosted.node.shell.money.ledger import Ledger
from unhosted.node.shell.money.ledger_words import KnownChannel
from unhosted.node.shell.money.paid_hold import HoldBack
from unhosted.node.shell.money.paid_wire import decode_stream, encode_stream
from unhosted.node.shell.money.payer import Payer
from unhosted.node.shell.money.selling import CHAIN_LOOK_S, look_at
from unhosted.node.shell.peers.identity import Identity

ALLOCATION_MICROS = MICROS_PER_USD
"""Of a new channel, and of each top-up: settling it costs about 0.6 % on a busy day."""

ALLOCATION_LIFE_S = 3_600
"""A signed allocation that nobody sends lapses: it must not move money when it is long forgotten."""

RELAY_WAIT_S = 120.0
"""For the seller's transaction: some blocks, and one replacement."""

_LOG = logging.getLogger(__name__)


class Buyer:
    """Channels of one account with sellers, paid from one ledger."""

    def __init__(
        self,
        chain: Chain,
        ledger: Ledger,
        operator: Signer,
        *,
        payer: Address,
        identity: Identity,
        kept: KeptAnswers,
    ) -> None:
        """operator: signs vouchers and allocations. payer: the account's owner, whose key is elsewhere.
        identity: signs requests; the streams are its own. kept: where answers wait for their check.

        Raises: Refused without bonds, for which receipts are signed.
        """
        if chain.facts.bonds is None:
            raise Refused("chain_mismatch", f"no Bonds contract is known on {chain.facts.name}")
        self._chain, self._ledger, self._operator = chain, ledger, operator
        self._payer, self._bonds = payer, chain.facts.bonds
        self._identity, self._kept = identity, kept
        self._separator = channels_separator(chain.facts.channels)

    async def open_channel(
        self,
        stream: Stream,
        payee: Address,
        *,
        total_micros: int = ALLOCATION_MICROS,
        deposit: DepositAuthorisation | None = None,
        delay_s: int = DELAY_S_DEFAULT,
    ) -> ChannelId:
        """A new channel to `payee`, sent by the seller at the other end of `stream`.

        deposit: the owner's, if the account has too little. Returns when a block holds it.
        Raises: Refused with the seller's words; RemoteFault; ChannelBroken; ChainUnavailable.
        """
        config = ChannelConfig(
            payer=self._payer,
            signer=self._operator.address,
            payee=payee,
            delay_s=delay_s,
            salt=os.urandom(32),
        )
        at = self._chain.facts.channels
        await self._ledger.note_chain_time((await self._chain.head()).timestamp_unix_s)
        of = await self._ledger.note_channel(at, config, 0)
        request = RelayRequest(
            deployment=at,
            config=config,
            allocation=await self._allocation(of, total_micros),
            deposit=deposit,
        )
        data = None
        with trio.move_on_after(RELAY_WAIT_S):
            await stream.send(encode_stream(request))
            data = await stream.receive()
        answer = None if data is None else decode_stream(data)
        if not isinstance(answer, RelayAnswer) or answer.channel_id != of:
            raise Refused("no_provider", "the seller did not say whether it opened the channel")
        if answer.transaction is None:
            raise Refused("no_provider", f"the seller opens no channel: {answer.message}")
        seen = await self._chain.channel(of)
        if seen.deposit_micros < total_micros:
            raise Refused(
                "no_provider",
                f"the seller names transaction 0x{answer.transaction.hex()}, but the channel holds"
                f" {seen.deposit_micros} of {total_micros} micro-USDC; ask another seller",
            )
        await self._ledger.note_deposit(of, seen.deposit_micros, transaction=answer.transaction)
        return of

    @asynccontextmanager
    async def pay(
        self, stream: Stream, of: ChannelId, *, holds_all: Callable[[], bool] = lambda: False
    ) -> AsyncIterator[Payer]:
        """The channel's business on a stream to its seller, once both ends agree on what is settled.

        Pay of the last requests is held back as far as the seller gives credit. holds_all: True while checks
        make the seller look as if it cheated; then as much as it lets stand.

        Raises: Refused, ChainUnavailable.
        """
        await self._ledger.note_chain_time((await self._chain.head()).timestamp_unix_s)
        now = await look_at(self._chain, of)
        payer = Payer(
            stream,
            known=await self._catch_up(of, now),
            bonds=self._bonds,
            chain=now,
            ledger=self._ledger,
            kept=self._kept,
            signer=self._operator,
            identity=self._identity,
            top_up=lambda needed: self._top_up(payer, of, needed),
            hold=HoldBack(holds_all=holds_all),
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(payer.run)
            nursery.start_soon(self._follow, payer, of)
            yield payer
            nursery.cancel_scope.cancel()

    async def _catch_up(self, of: ChannelId, now: OnChain) -> KnownChannel:
        """With what happened while no stream was open: an allocation that was sent late, a close."""
        known = await self._known(of)
        if now.phase == "closed":
            await self._ledger.note_closed(of, now.claimed_micros)
        elif now.deposit_micros > known.row.deposit_micros:
            await self._ledger.note_deposit(of, now.deposit_micros, claimed_micros=now.claimed_micros)
        return await self._known(of)

    async def _known(self, of: ChannelId) -> KnownChannel:
        for known in (await self._ledger.view()).channels:
            if known.row.channel_id == of:
                self._check_ours(known)
                return known
        raise Refused("invalid_request", f"the ledger knows no channel {of.hex()[:8]}")

    def _check_ours(self, known: KnownChannel) -> None:
        """The ledger outlives a change of chain or key. Raises: Refused."""
        at, signer = self._chain.facts.channels, self._operator.address
        if known.deployment != at:
            raise Refused(
                "chain_mismatch",
                f"the channel is on chain {known.deployment.chain_id} in"
                f" {address_text(known.deployment.contract)}, and the settings name chain {at.chain_id} and"
                f" {address_text(at.contract)}: set chain.name, or open a channel there",
            )
        if known.config.signer != signer:
            raise Refused(
                "key_refused",
                f"vouchers of the channel are signed by {address_text(known.config.signer)}, and this node's"
                f" key is {address_text(signer)}: put that key back, or open another channel",
            )

    async def _allocation(self, of: ChannelId, total_micros: int) -> Allocation:
        """By the chain's own clock, since it is the chain that judges."""
        before = (await self._chain.head()).timestamp_unix_s + ALLOCATION_LIFE_S
        digest = allocate_digest(self._separator, of, total_micros=total_micros, valid_before_unix_s=before)
        return Allocation(
            total_micros=Micros(total_micros),
            valid_before_unix_s=before,
            signature=self._operator.sign(digest),
        )

    async def _top_up(self, payer: Payer, of: ChannelId, needed_micros: int) -> None:
        """What cannot be had is no fault: the channel then runs out, with a reason of its own."""
        try:
            now = await self._chain.channel(of)
            total = now.deposit_micros + max(ALLOCATION_MICROS, needed_micros)
            await payer.offer_top_up(await self._allocation(of, total))
        except ChainUnavailable as why:
            _LOG.warning("top_up_failed why=%s", why)

    async def _follow(self, payer: Payer, of: ChannelId) -> None:
        seen = payer.end.channel.chain
        while True:
            await trio.sleep(CHAIN_LOOK_S)
            try:
                await self._ledger.note_chain_time((await self._chain.head()).timestamp_unix_s)
                now: OnChain = await look_at(self._chain, of)
            except ChainUnavailable as why:
                _LOG.warning("chain_unavailable why=%s", why)
                continue
            if now != seen and now.phase != "closed":
                await self._ledger.note_deposit(of, now.deposit_micros, claimed_micros=now.claimed_micros)
            seen = now
            await payer.note_chain(now)
