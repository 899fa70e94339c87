"""The seller's door: who may open a paid stream, on which channel, and whose transactions are paid for.

A buyer without gas money hands in what it signed; the seller sends it, since without a channel it earns
nothing. It pays that fee, so it looks first: the channel must be for it, slow enough to close, and the
transaction must succeed now, add at least the smallest allocation, and cost no more than a part of that.

A channel has one stream. Two would each count what they deliver beside the other's count, and one voucher
would pay for both answers.
"""

import hashlib
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from unhosted.market.channel_states import OnChain, Phase
from unhosted.market.channels import (
    DELAY_S_SELLER_MIN,
    ChannelConfig,
    Deployment,
    channel_id,
)
from unhosted.market.credit import usable_deposit_micros
from unhosted.market.faults import RemoteFault
from unhosted.market.ids import Address, ChannelId, Signature, address_text
from unhosted.market.messages import Allocation, RelayAnswer, RelayRequest, TopUpOffer
from unhosted.market.money import MICROS_PER_USD, format_usd
from unhosted.node.core.chain import Call, CallReverted, Chain, ChainUnavailable, ChannelFacts, Signer
from unhosted.node.core.errors import Refused
from unhosted.node.core.peering import Channel as Stream
from unhosted.node.core.peering import ChannelBroken
from unhosted.node.shell.chain import calls
from unhosted.node.shell.money.claiming import WEI_PER_COIN
from unhosted.node.shell.money.paid_jobs import Sale
from unhosted.node.shell.money.paid_vouchers import ChannelVouchers
from unhosted.node.shell.money.paid_wire import Hello, decode_stream, encode_stream
from unhosted.node.shell.money.payee import Payee
from unhosted.node.shell.money.seller_book import SellerBook

RELAY_FEE_PART = 20
"""Of what an allocation adds, the most that sending it may cost: of USD 1, a busy day takes a tenth of it."""

RELAY_GAS_MAX = 400_000
"""Deposit and allocation need 190,000 with the genuine token."""

CHAIN_LOOK_S = 2.0
"""Between looks at the channel while its stream is open: about a block."""

CLOSES_MAX = 64
"""Agreed closes that wait for their transaction; the buyer can send one beyond that itself."""

RELAYS_MAX = 4
"""Relays and hellos on one stream before its work begins: an opening and its repetitions."""

RELAYS_WAITING_MAX = 4
"""Of one account, each for some blocks: a buyer has a channel or two to open with one seller."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SellerTerms:
    """allocation_micros_min: the smallest channel, and top-up, worth its fees. delay_s_min: time to claim in.

    credit_micros: what a buyer may hold back until it has checked answers, within a fourth of what it paid
    (`market.credit`); a crash of either end may cost the seller that much more. coin_micros: what the chain's
    coin costs, micro-USDC, for judging fees.
    """

    allocation_micros_min: int = MICROS_PER_USD // 4
    delay_s_min: int = DELAY_S_SELLER_MIN
    credit_micros: int = 0
    coin_micros: Callable[[], int]


def on_chain(*, safe: ChannelFacts, latest: ChannelFacts) -> OnChain:
    """What counts of a channel: of its deposit all that is safe and a little of what is younger, of its end
    the youngest sign. Closed it is only at a safe block, since that gives money back to the buyer's month."""
    deposit = usable_deposit_micros(safe_micros=safe.deposit_micros, latest_micros=latest.deposit_micros)
    phase: Phase = "none"
    if safe.is_closed:
        phase = "closed"
    elif latest.is_closed or latest.close_at_unix_s:
        phase = "closing"
    elif latest.deposit_micros:
        phase = "open"
    return OnChain(
        phase=phase,
        deposit_micros=deposit,
        claimed_micros=safe.claimed_micros,
        close_at_unix_s=latest.close_at_unix_s,
    )


async def look_at(chain: Chain, of: ChannelId) -> OnChain:
    """Raises: ChainUnavailable."""
    safe, latest = await chain.channel(of, at="safe"), await chain.channel(of, at="latest")
    return on_chain(safe=safe, latest=latest)


@dataclass(slots=True, eq=False)
class _Turn:
    """A stream's time on a channel; `is_over` once what it delivered is settled in the book."""

    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    is_over: trio.Event = field(default_factory=trio.Event)


def _id_of(call: Call) -> str:
    return hashlib.sha256(call.data).hexdigest()


class SellerDoor:
    """Answers paid streams: `answer` is the handler of their protocol."""

    def __init__(
        self, chain: Chain, book: SellerBook, signer: Signer, *, sale: Sale, terms: SellerTerms
    ) -> None:
        """signer: the payee's key, which also pays the fees. Raises: Refused without bonds to sign for."""
        bonds = chain.facts.bonds
        if bonds is None:
            raise Refused(
                "chain_mismatch",
                f"no Bonds contract is known on {chain.facts.name}, and receipts are signed for it;"
                " deploy it with `unhosted wallet deploy`",
            )
        self._chain, self._book, self._signer = chain, book, signer
        self._sale, self._terms, self._bonds = sale, terms, bonds
        self._accounts: dict[Address, trio.Lock] = {}
        self._turns: dict[ChannelId, _Turn] = {}
        self._closing, self._closes = trio.open_memory_channel[tuple[ChannelConfig, int, Signature]](
            CLOSES_MAX
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled: send the closes that were agreed on. One that fails is the watcher's to claim, and
        the buyer's to send: both signatures are with it, too."""
        task_status.started()
        async for config, amount_micros, voucher in self._closes:
            call = calls.close(
                self._chain.facts.channels, config, amount_micros=amount_micros, voucher=voucher
            )
            try:
                await self._chain.send(call, self._signer, key=f"close:{_id_of(call)}")
            except (CallReverted, ChainUnavailable, Refused) as why:
                _LOG.warning("close_failed why=%s", why)

    async def answer(self, stream: Stream) -> None:
        """One stream: relays first, if the buyer wants any, then the channel's business until it ends."""
        try:
            for _ in range(RELAYS_MAX):
                data = await stream.receive()
                message = None if data is None else decode_stream(data)
                if isinstance(message, Hello):
                    return await self._serve(stream, message)
                if not isinstance(message, RelayRequest):
                    return
                await stream.send(encode_stream(await self.relay(message)))
        except* RemoteFault as faults:
            for fault in faults.exceptions:
                _LOG.warning("buyer_fault why=%s", fault)
        except* ChannelBroken as broken:
            _LOG.info("paid_stream_broken why=%s", broken.exceptions[0])
        except* Refused as refused:  # the book cannot be written, which the watcher tells the operator
            _LOG.error("paid_stream_refused why=%s", refused.exceptions[0])

    async def relay(self, request: RelayRequest) -> RelayAnswer:
        """Send a buyer's deposit and allocation, or say why not. The answer's text is for people."""
        of = channel_id(request.deployment, request.config)
        try:
            self._check_config(request.deployment, request.config)
            async with self._account(request.config.payer):
                return await self._send(of, request.allocation, self._opening(request))
        except Refused as why:
            return RelayAnswer(channel_id=of, transaction=None, message=why.message)
        except CallReverted as reverted:
            return RelayAnswer(
                channel_id=of, transaction=None, message=f"the chain does not take it: {reverted}"
            )
        except ChainUnavailable:
            message = "the seller reaches no RPC endpoint that it can believe; ask again later"
            return RelayAnswer(channel_id=of, transaction=None, message=message)

    @asynccontextmanager
    async def _account(self, payer: Address) -> AsyncIterator[None]:
        """One relay after the other out of one account: together all of them would be found to succeed, on
        money that is enough for the first."""
        lock = self._accounts.setdefault(payer, trio.Lock())
        if lock.statistics().tasks_waiting >= RELAYS_WAITING_MAX:
            raise Refused(
                "overloaded", "relays of this account wait already; ask again when they are through"
            )
        try:
            async with lock:
                yield
        finally:
            if not lock.locked() and not lock.statistics().tasks_waiting:
                self._accounts.pop(payer, None)

    async def top_up(self, config: ChannelConfig, offer: TopUpOffer) -> RelayAnswer:
        """The same for a channel that is open."""
        return await self.relay(
            RelayRequest(deployment=self._chain.facts.channels, config=config, allocation=offer.allocation)
        )

    async def _send(self, of: ChannelId, allocation: Allocation, call: Call) -> RelayAnswer:
        held_micros = (await self._chain.channel(of)).deposit_micros
        added_micros = allocation.total_micros - held_micros
        if added_micros < self._terms.allocation_micros_min:
            raise Refused(
                "invalid_request",
                f"an allocation of {format_usd(allocation.total_micros)} USD for a channel that holds"
                f" {format_usd(held_micros)}; this seller sends what adds"
                f" {format_usd(self._terms.allocation_micros_min)} or more",
            )
        gas = await self._chain.check(call, sender=self._signer.address)
        fee_wei = gas * await self._chain.gas_price()
        fee_micros = -(-fee_wei * self._terms.coin_micros() // WEI_PER_COIN)
        if gas > RELAY_GAS_MAX or fee_micros * RELAY_FEE_PART > added_micros:
            raise Refused(
                "no_gas",
                f"sending it costs {gas} gas, {format_usd(fee_micros)} USD, more than a {RELAY_FEE_PART}th"
                f" of the {format_usd(added_micros)} USD that it adds; allocate more",
            )
        receipt = await self._chain.send(call, self._signer, key=f"relay:{_id_of(call)}")
        return RelayAnswer(channel_id=of, transaction=receipt.transaction)

    def _opening(self, request: RelayRequest) -> Call:
        at, config, allocation = self._chain.facts.channels, request.config, request.allocation
        allocate = calls.allocate(
            at,
            config,
            total_micros=allocation.total_micros,
            valid_before_unix_s=allocation.valid_before_unix_s,
            signature=allocation.signature,
        )
        if request.deposit is None:
            return allocate
        deposit = calls.deposit_with_authorization(
            at,
            calls.DepositAuthorization(
                payer=config.payer,
                value_micros=request.deposit.value_micros,
                valid_after_unix_s=request.deposit.valid_after_unix_s,
                valid_before_unix_s=request.deposit.valid_before_unix_s,
                operator=request.deposit.operator,
                limit_micros=request.deposit.limit_micros,
                salt=request.deposit.salt,
                signature=request.deposit.signature,
            ),
        )
        return calls.multicall(at, [deposit, allocate], purpose="open for a buyer")

    def _check_config(self, deployment: Deployment, config: ChannelConfig) -> None:
        """Raises: Refused with the rule."""
        ours = self._chain.facts.channels
        if deployment != ours:
            raise Refused(
                "chain_mismatch",
                f"a channel on chain {deployment.chain_id} at {address_text(deployment.contract)}; sold here"
                f" is on chain {ours.chain_id} at {address_text(ours.contract)}",
            )
        if config.payer == self._signer.address:
            # The contract takes the sender's word for its own account, without a signature.
            raise Refused("invalid_request", "a channel out of this seller's own account")
        if config.payee != self._signer.address:
            raise Refused("invalid_request", f"a channel for {address_text(config.payee)}, not this seller")
        if config.delay_s < self._terms.delay_s_min:
            raise Refused(
                "invalid_request",
                f"a channel that closes after {config.delay_s} s; this seller needs"
                f" {self._terms.delay_s_min}",
            )

    async def _serve(self, stream: Stream, hello: Hello) -> None:
        try:
            self._check_config(hello.deployment, hello.config)
            of = channel_id(hello.deployment, hello.config)
            if ChannelVouchers(hello.deployment, of).hello_by(hello.contact, hello.signature) != (
                hello.config.signer
            ):
                raise Refused("invalid_request", "the hello is not signed by the channel's signer")
            safe = await self._chain.channel(of, at="safe")
            latest = await self._chain.channel(of, at="latest")
            if latest.deposit_micros < self._terms.allocation_micros_min:
                raise Refused(
                    "no_funds",
                    f"the channel holds {format_usd(latest.deposit_micros)} USD on the chain, the least here"
                    f" is {format_usd(self._terms.allocation_micros_min)}",
                )
            async with self._turn(of):
                await self._serve_alone(stream, hello, safe=safe, seen=on_chain(safe=safe, latest=latest))
        except (Refused, ChainUnavailable) as why:
            _LOG.info("paid_stream_refused why=%s", why)

    @asynccontextmanager
    async def _turn(self, of: ChannelId) -> AsyncIterator[None]:
        """The channel for one stream alone. The newest wins: the one before may hang on a dead link."""
        mine, before = _Turn(), self._turns.get(of)
        self._turns[of] = mine
        try:
            if before is not None:
                before.scope.cancel()
                with trio.CancelScope(shield=True):  # it is brief; going on beside it would count twice
                    await before.is_over.wait()
            with mine.scope:
                yield
        finally:
            mine.is_over.set()
            if self._turns.get(of) is mine:
                del self._turns[of]

    async def _serve_alone(self, stream: Stream, hello: Hello, *, safe: ChannelFacts, seen: OnChain) -> None:
        """With the account as the stream before has left it."""
        of = channel_id(hello.deployment, hello.config)
        sold = await self._book.note_channel(hello.deployment, hello.config, safe)
        payee = Payee(
            stream,
            hello=hello,
            sold=sold,
            chain=seen,
            bonds=self._bonds,
            book=self._book,
            signer=self._signer,
            sale=self._sale,
            credit_micros=self._terms.credit_micros,
            top_up=lambda offer: self.top_up(hello.config, offer),
            on_close=lambda amount, voucher: self._close_soon(hello.config, amount, voucher),
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow, payee, of)
            await payee.run()
            nursery.cancel_scope.cancel()

    def _close_soon(self, config: ChannelConfig, amount_micros: int, voucher: Signature) -> None:
        try:
            self._closing.send_nowait((config, amount_micros, voucher))
        except trio.WouldBlock:
            _LOG.warning("close_left_to_the_buyer payer=%s", config.payer.hex()[:8])

    async def _follow(self, payee: Payee, of: ChannelId) -> None:
        while True:
            await trio.sleep(CHAIN_LOOK_S)
            try:
                seen = await look_at(self._chain, of)
            except ChainUnavailable as why:  # what is paid stays paid; nothing new can be learnt
                _LOG.warning("chain_unavailable why=%s", why)
                continue
            await payee.note_chain(seen)
