"""The seller's watch over its channels: no close goes by while a voucher of ours is unclaimed.

Two eyes look at the chain. Events, from the last safe block that was noted in the book, tell what happened in
between, also while this node was off. Independent of them every channel with money on it is asked for at
least ten times within its delay: an event that an endpoint swallowed costs a tenth of the delay, no money.

What must be claimed is decided by `market.claims`; claims are carried by `claiming`. When something stands in
the way (no gas, no endpoint, a fee above the value) an alarm says so, in the log, the status and the metrics,
while there is time left.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import trio

from unhosted.market.claims import ClaimPlan
from unhosted.market.ids import Address, ChannelId
from unhosted.market.money import format_usd
from unhosted.node.core.chain import Chain, ChainEvent, ChainUnavailable, Signer
from unhosted.node.core.errors import Refused
from unhosted.node.shell.money.alarms import Alarm, Alarms
from unhosted.node.shell.money.claiming import (
    CLAIMS_IN_FLIGHT_MAX,
    Claimer,
    Seen,
    claim_of,
    fees_now,
    plan_claim,
)
from unhosted.node.shell.money.seller_book import SellerBook
from unhosted.node.shell.money.seller_words import Move, SoldChannel

LOOKS_PER_DELAY = 10
LOOK_S_MAX = 3_600.0
LOOK_S_MIN = 5.0
"""The contract's shortest delay is an hour, so a look is due every six minutes; new money waits no longer
than an hour for a decision."""

NO_GAS_RETRY_S = 60.0
"""Somebody who was told to send gas money does not want to wait for the next hour's look."""

ASKED_AT_ONCE = 8
"""Channels asked for together: a look at a thousand is done in a minute, and no endpoint is flooded."""

RETRY_S = 10.0
"""After an answer that could not be had: endpoints limit who asks more often."""

REFUSED_S = 3_600
"""What the contract refused is asked for again after an hour: a top-up that vanished may be back, and an
endpoint may have lied. Asking costs no gas."""

OUTAGE_ALARM_S = 900.0
"""Endpoints are away for minutes; a quarter of an hour is more than they need to come back."""

OVERDUE_PART = 2
"""A claim that is not safe when half of the delay is gone is told to the operator: half is left to act."""

REQUESTS_KEPT_S = 400 * 86_400
"""Ended requests of closed channels, with their receipts: longer than a tax year."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchStatus:
    """For `unhosted earnings` and /metrics. in_flight: claims that are not safe. next_block: the first whose
    events were not noted."""

    alarms: tuple[Alarm, ...]
    credit_micros: int
    in_flight: int
    next_block: int
    looked_at_unix_s: int


class SellerWatcher:
    """One per chain and payee; `run` in the program's nursery. Tests call `look` instead.

    coin_micros: what one whole coin of the chain costs in micro-USDC, asked at each decision. on_channel:
    told what a safe block says of a channel; on_alarms: told of all alarms when one begins, changes or ends.
    """

    def __init__(
        self,
        *,
        chain: Chain,
        book: SellerBook,
        signer: Signer,
        payee: Address,
        coin_micros: Callable[[], int],
        clock_ns: Callable[[], int] = time.time_ns,
        on_channel: Callable[[SoldChannel], None] = lambda channel: None,
        on_alarms: Callable[[tuple[Alarm, ...]], None] = lambda alarms: None,
    ) -> None:
        self._chain, self._book, self._payee = chain, book, payee
        self._coin_micros, self._clock_ns, self._on_channel = coin_micros, clock_ns, on_channel
        self._alarms = Alarms(now_unix_s=self._now_unix_s, on_change=on_alarms)
        self._claimer = Claimer(
            chain=chain, book=book, signer=signer, payee=payee, alarms=self._alarms, on_done=self._claim_done
        )
        self._wake = trio.Event()
        self._carried: set[str] = set()
        self._best: dict[ChannelId, int] = {}
        self._refused: dict[ChannelId, tuple[int, int]] = {}
        self._answered_at = trio.current_time()
        self._status = WatchStatus(alarms=(), credit_micros=0, in_flight=0, next_block=0, looked_at_unix_s=0)

    @property
    def status(self) -> WatchStatus:
        return replace(self._status, alarms=self._alarms.all, in_flight=len(self._carried))

    def look_soon(self) -> None:
        """A close was asked for, or a claim is through: do not wait for the next turn."""
        self._wake.set()

    async def run(self) -> None:
        """For ever: what stands in the way is an alarm, and is tried again."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow)
            while True:
                self._wake = trio.Event()
                pause_s = await self.look(nursery)
                with trio.move_on_after(pause_s):
                    await self._wake.wait()

    async def look(self, nursery: trio.Nursery) -> float:
        """One turn: ask for every channel with money on it, decide, and send in `nursery`.

        Returns the seconds until the next one is due.
        """
        try:
            for claim in await self._book.claims():
                self._carry_in(nursery, claim.key)
            channels = await self._channels()
            seen = await self._ask_all([channel for channel in channels if self._is_watched(channel)])
            self._best = {one.channel.channel_id: one.channel.best_micros for one in seen}
            await self._decide(nursery, seen)
            cut_unix_s = self._now_unix_s() - REQUESTS_KEPT_S
            await self._book.forget_requests(before_unix_s=max(cut_unix_s, 0))
        except ChainUnavailable as fault:
            self._note_outage(fault)
            return RETRY_S
        except Refused as refused:
            self._alarms.begin("book_unwritable", refused.message)
            return RETRY_S
        self._alarms.end("book_unwritable")
        self._note_answer()
        self._status = replace(self._status, looked_at_unix_s=self._now_unix_s())
        pause_s = _pause_s(seen)
        return min(pause_s, NO_GAS_RETRY_S) if self._alarms.is_on("no_gas") else pause_s

    async def note_events(self, events: Sequence[ChainEvent], *, to_block: int) -> None:
        """What safe blocks say, up to and including `to_block`, which the book goes on behind."""
        ours = await self._book.channel_ids(self._chain.facts.channels, self._payee)
        moves = []
        touched: dict[ChannelId, None] = {}
        for event in events:
            of = event.values.get("id")
            if isinstance(of, bytes) and of in ours:
                touched[ChannelId(of)] = None
            move = _move(event, ours, self._payee)
            if move is not None:
                moves.append(move)
        for of in touched:
            await self._refresh(of)
        await self._book.note_moves(self._chain.facts.channels, moves, next_block=to_block + 1)
        self._status = replace(self._status, next_block=to_block + 1)
        if touched:
            self.look_soon()

    async def _follow(self) -> None:
        while True:
            try:
                from_block = await self._book.cursor(self._chain.facts.channels)
                if from_block is None:  # nothing was sold before now: there is nothing to catch up with
                    from_block = (await self._chain.head()).safe_number
                async for batch in self._chain.events(from_block=from_block):
                    await self.note_events(batch.events, to_block=batch.to_block)
                    self._note_answer()
            except ChainUnavailable as fault:
                self._note_outage(fault)
            except Refused as refused:
                self._alarms.begin("book_unwritable", refused.message)
            await trio.sleep(RETRY_S)

    async def _channels(self) -> list[SoldChannel]:
        at = self._chain.facts.channels
        return [
            channel
            for channel in await self._book.channels()
            if channel.deployment == at and channel.config.payee == self._payee
        ]

    async def _ask_all(self, channels: Sequence[SoldChannel]) -> list[Seen]:
        """In the order given, some at a time. Raises: ChainUnavailable, Refused."""
        seen: list[Seen] = []
        for start in range(0, len(channels), ASKED_AT_ONCE):
            batch = channels[start : start + ASKED_AT_ONCE]
            found: dict[ChannelId, Seen] = {}
            faults: list[Exception] = []
            async with trio.open_nursery() as nursery:
                for channel in batch:
                    nursery.start_soon(self._ask, channel.channel_id, found, faults)
            if faults:
                raise faults[0]
            seen += [found[channel.channel_id] for channel in batch]
        return seen

    async def _ask(self, of: ChannelId, found: dict[ChannelId, Seen], faults: list[Exception]) -> None:
        try:
            channel = await self._refresh(of)
            found[of] = Seen(channel=channel, newest=await self._chain.channel(of, at="latest"))
        except (ChainUnavailable, Refused) as fault:  # not raised here: a nursery would wrap it
            faults.append(fault)

    async def _refresh(self, of: ChannelId) -> SoldChannel:
        channel = await self._book.note_facts(of, await self._chain.channel(of, at="safe"))
        self._on_channel(channel)
        return channel

    async def _decide(self, nursery: trio.Nursery, seen: Sequence[Seen]) -> None:
        credit_micros = await self._chain.credit(self._payee)
        self._status = replace(self._status, credit_micros=credit_micros)
        now_unix_s = (await self._chain.head()).timestamp_unix_s
        fees = fees_now(await self._chain.gas_price(), self._coin_micros())
        while True:
            in_flight = await self._book.claims()
            plan = plan_claim(
                seen,
                in_flight,
                credit_micros=credit_micros,
                fees=fees,
                now_unix_s=now_unix_s,
                clock_unix_s=self._now_unix_s(),
            )
            self._note_plan(plan, seen, now_unix_s)
            is_idle = not plan.rows and not plan.pays_out
            if is_idle or len(in_flight) >= CLAIMS_IN_FLIGHT_MAX:
                return
            claim = claim_of(plan, seen, payee=self._payee, now_unix_s=now_unix_s)
            await self._book.begin_claim(claim)
            self._carry_in(nursery, claim.key)
            _LOG.info("claim_begun key=%s rows=%d", claim.key, len(claim.rows))
            if plan.left_over == 0:
                return

    def _is_watched(self, channel: SoldChannel) -> bool:
        """With a voucher that is not claimed; one that was refused waits for a better one, or for an hour."""
        refused_micros, until_unix_s = self._refused.get(channel.channel_id, (-1, 0))
        is_refused = refused_micros == channel.best_micros and self._now_unix_s() < until_unix_s
        return channel.best_micros > channel.facts.claimed_micros and not is_refused

    def _claim_done(self, refused: ChannelId | None) -> None:
        if refused is not None:
            self._refused[refused] = (self._best.get(refused, 0), self._now_unix_s() + REFUSED_S)
        self.look_soon()

    def _carry_in(self, nursery: trio.Nursery, key: str) -> None:
        if key not in self._carried:
            self._carried.add(key)
            nursery.start_soon(self._carry, key)

    async def _carry(self, key: str) -> None:
        try:
            for claim in await self._book.claims():
                if claim.key == key:
                    await self._claimer.carry(claim)
        except Refused as refused:  # of the book: the claim stays in it, and the next look carries it on
            self._alarms.begin("book_unwritable", refused.message)
        finally:
            self._carried.discard(key)

    def _note_plan(self, plan: ClaimPlan, seen: Sequence[Seen], now_unix_s: int) -> None:
        by_id = {one.channel.channel_id: one for one in seen}
        given_up_micros = sum(by_id[of].unclaimed_micros() for of in plan.given_up)
        if plan.given_up:
            self._alarms.begin(
                "claim_given_up",
                f"{len(plan.given_up)} channels close with {format_usd(given_up_micros)} USD on them, less"
                " than a claim costs now; it is lost unless gas gets cheaper before they close",
            )
        else:
            self._alarms.end("claim_given_up")
        overdue = [
            one
            for one in seen
            if _is_overdue(one, now_unix_s) and one.channel.channel_id not in plan.given_up
        ]
        if overdue:
            first = min(overdue, key=lambda one: one.close_at_unix_s)
            left_s = max(first.close_at_unix_s - now_unix_s, 0)
            worth = format_usd(sum(one.channel.claimable_micros for one in overdue))
            self._alarms.begin(
                "claim_overdue",
                f"{worth} USD on {len(overdue)} channels is not claimed yet, and the first can be closed in"
                f" {left_s} s: look at the gas of the claiming key and at the RPC endpoints now",
            )
        else:
            self._alarms.end("claim_overdue")

    def _note_outage(self, fault: ChainUnavailable) -> None:
        away_s = trio.current_time() - self._answered_at
        _LOG.warning("chain_unavailable away_s=%d reason=%s", away_s, fault)
        if away_s >= OUTAGE_ALARM_S:
            self._alarms.begin(
                "chain_unreachable",
                f"no endpoint has answered for {OUTAGE_ALARM_S:.0f} s or longer: a channel with vouchers that"
                f" wait to be claimed could be closed unseen. {fault}",
            )

    def _note_answer(self) -> None:
        self._answered_at = trio.current_time()
        self._alarms.end("chain_unreachable")

    def _now_unix_s(self) -> int:
        return self._clock_ns() // 1_000_000_000


def _pause_s(seen: Sequence[Seen]) -> float:
    delays_s = [one.channel.config.delay_s / LOOKS_PER_DELAY for one in seen]
    return max(LOOK_S_MIN, min([LOOK_S_MAX, *delays_s]))


def _is_overdue(one: Seen, now_unix_s: int) -> bool:
    """By what is safe: a claim that can still vanish is no claim yet."""
    if not one.close_at_unix_s or not one.channel.claimable_micros:
        return False
    return one.close_at_unix_s - now_unix_s <= one.channel.config.delay_s // OVERDUE_PART


def _move(event: ChainEvent, ours: set[ChannelId], payee: Address) -> Move | None:
    """What an event says of our money: claimed and closed are cumulative per channel, paid is one payout."""
    values = event.values
    of = values.get("id")
    if event.name == "Paid" and values.get("payee") == payee:
        kind, amount, channel = "paid", values.get("value"), None
    elif event.name == "Claimed" and of in ours:
        kind, amount, channel = "claimed", values.get("amount"), of
    elif event.name == "Closed" and of in ours:
        kind, amount, channel = "closed", values.get("claimed"), of
    else:
        return None
    if not isinstance(amount, int):
        return None
    return Move(
        kind=kind,  # type: ignore[arg-type]
        amount_micros=amount,
        channel_id=channel,  # type: ignore[arg-type]
        block_number=event.block_number,
        transaction=event.transaction,
        log_index=event.log_index,
    )
