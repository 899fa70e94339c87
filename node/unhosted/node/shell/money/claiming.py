"""Turning vouchers into money: what a claim costs, and one that was decided carried until it is safe.

A claim is written into the book before it is sent, under the key that the chain adapter knows it by. Sent
again under the same key it is the same transaction, so it is simply sent until its block is safe: what a
reorganisation takes back is repeated by that, and what a crash cut off goes on.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import trio

from unhosted.market.claims import OLD_S, Claimable, ClaimFees, ClaimPlan, decide
from unhosted.market.eip712 import keccak256
from unhosted.market.ids import Address, ChannelId
from unhosted.market.money import format_usd
from unhosted.node.core.chain import (
    Call,
    CallReverted,
    Chain,
    ChainUnavailable,
    ChannelFacts,
    ClaimRow,
    Signer,
)
from unhosted.node.core.errors import Refused
from unhosted.node.shell.money.alarms import Alarms
from unhosted.node.shell.money.seller_book import SellerBook
from unhosted.node.shell.money.seller_words import ClaimInFlight, SoldChannel

GAS_BASE = 30_000
GAS_ROW = 17_500
GAS_PAYOUT = 30_000
"""Measured on TestUSDC and the genuine token: a claim to credit 45,300, a row in a batch 17,500, a payout in
the same call 25,200. These decide whether a claim is worth it; the chain adapter asks for the real ones."""

CLAIMS_IN_FLIGHT_MAX = 4
"""They wait for each other's nonces; more are decided again, with more rows, once one is through."""

WEI_PER_COIN = 10**18
RETRY_S = 15.0
"""Between looks at a claim that is not safe yet, or could not be sent."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A channel of ours as it is now. newest: at the newest block, which may vanish: a claim for nothing
    costs a fee, a close that was believed too late costs the money."""

    channel: SoldChannel
    newest: ChannelFacts

    @property
    def close_at_unix_s(self) -> int:
        return self.newest.close_at_unix_s or self.channel.facts.close_at_unix_s

    def unclaimed_micros(self, *, flying_micros: int = 0) -> int:
        """What one more claim would bring, beside one in flight over `flying_micros` in all."""
        best_micros, facts = self.channel.best_micros, self.channel.facts
        if facts.is_closed or self.newest.is_closed:
            return 0
        if best_micros > min(facts.deposit_micros, self.newest.deposit_micros):
            return 0
        claimed_micros = max(facts.claimed_micros, self.newest.claimed_micros, flying_micros)
        return max(best_micros - claimed_micros, 0)


def fees_now(price_wei: int, coin_micros: int) -> ClaimFees:
    """What gas costs in micro-USDC. coin_micros: of one whole coin of the chain, ETH mostly."""

    def micros(gas: int) -> int:
        return -(-gas * price_wei * coin_micros // WEI_PER_COIN)

    return ClaimFees(
        base_micros=micros(GAS_BASE), row_micros=micros(GAS_ROW), payout_micros=micros(GAS_PAYOUT)
    )


def plan_claim(
    seen: Sequence[Seen],
    in_flight: Sequence[ClaimInFlight],
    *,
    credit_micros: int,
    fees: ClaimFees,
    now_unix_s: int,
    clock_unix_s: int,
) -> ClaimPlan:
    """What to send now for one payee. What is in flight counts as claimed, and its payout as paid.

    now_unix_s: the chain's, which closes go by. clock_unix_s: our own, by which vouchers were stored.
    """
    flying = {
        row.voucher.voucher.channel_id: row.voucher.voucher.amount_micros
        for claim in in_flight
        for row in claim.rows
    }
    rows = [
        Claimable(
            channel_id=one.channel.channel_id,
            unclaimed_micros=one.unclaimed_micros(flying_micros=flying.get(one.channel.channel_id, 0)),
            since_unix_s=now_unix_s - _age_s(one.channel, clock_unix_s),
            close_at_unix_s=one.close_at_unix_s,
        )
        for one in seen
        if not _is_closing_in_agreement(one, clock_unix_s)
    ]
    if any(claim.pays_out for claim in in_flight):
        credit_micros = 0
    return decide(rows, credit_micros=credit_micros, fees=fees, now_unix_s=now_unix_s)


def _age_s(channel: SoldChannel, clock_unix_s: int) -> int:
    """How long the first unclaimed voucher has waited; 0 by a clock that was set back."""
    return max(clock_unix_s - channel.since_unix_s, 0) if channel.since_unix_s else 0


def _is_closing_in_agreement(one: Seen, clock_unix_s: int) -> bool:
    """We signed a close at what is due, perhaps below the voucher: it is the buyer's turn, for a day."""
    is_new = _age_s(one.channel, clock_unix_s) < OLD_S
    return one.channel.is_winding_up and not one.close_at_unix_s and is_new


def claim_of(plan: ClaimPlan, seen: Sequence[Seen], *, payee: Address, now_unix_s: int) -> ClaimInFlight:
    """The plan with its vouchers, under a key of its own: the same money may be claimed again some day."""
    by_id: dict[ChannelId, SoldChannel] = {one.channel.channel_id: one.channel for one in seen}
    rows = []
    for of in plan.rows:
        channel = by_id[of]
        if channel.best is not None:  # without a voucher nothing is claimable, so it is never planned
            rows.append(ClaimRow(config=channel.config, voucher=channel.best))
    amounts = b"".join(
        row.voucher.voucher.channel_id + row.voucher.voucher.amount_micros.to_bytes(12, "big") for row in rows
    )
    mark = keccak256(payee + now_unix_s.to_bytes(8, "big") + amounts).hex()[:24]
    kind = "claim" if rows else "payout"
    return ClaimInFlight(
        key=f"{kind}:{mark}", begun_unix_s=now_unix_s, pays_out=plan.pays_out, rows=tuple(rows)
    )


class Claimer:
    """Carries claims. signer: pays the gas; it need not be the payee, since money can only go there.

    on_done: told when another decision is worth while: the channel that the contract refused, or None.
    """

    def __init__(
        self,
        *,
        chain: Chain,
        book: SellerBook,
        signer: Signer,
        payee: Address,
        alarms: Alarms,
        on_done: Callable[[ChannelId | None], None],
    ) -> None:
        self._chain, self._book, self._signer, self._payee = chain, book, signer, payee
        self._alarms, self._on_done = alarms, on_done

    async def carry(self, claim: ClaimInFlight) -> None:
        """Until it is at a safe block and noted in the book, or will never be in any."""
        call = self._call(claim)
        while True:
            try:
                receipt = await self._chain.send(call, self._signer, key=claim.key)
                self._alarms.end("no_gas")
                if receipt.is_safe:
                    await self._note(claim)
                    self._alarms.end("claim_refused")
                    _LOG.info("claim_safe key=%s rows=%d", claim.key, len(claim.rows))
                    return self._on_done(None)
            except ChainUnavailable as fault:
                _LOG.warning("claim_waits key=%s reason=%s", claim.key, fault)
            except CallReverted as fault:
                return await self._refused(claim, fault)
            except Refused as refused:
                if refused.code == "no_gas":
                    # Nothing was sent: by the next look other rows may be more urgent.
                    self._alarms.begin("no_gas", f"{_worth(claim)} USD cannot be claimed: {refused}")
                    return await self._book.end_claim(claim.key)
                _LOG.warning("claim_waits key=%s reason=%s", claim.key, refused)
            await trio.sleep(RETRY_S)

    async def _refused(self, claim: ClaimInFlight, fault: CallReverted) -> None:
        self._alarms.begin(
            "claim_refused",
            f"a claim of {_worth(claim)} USD on {len(claim.rows)} channels was refused ({fault}); the others"
            " are claimed without the one that it names",
        )
        await self._book.end_claim(claim.key)
        of = fault.values.get("id")
        if isinstance(of, bytes):
            self._on_done(ChannelId(of))

    async def _note(self, claim: ClaimInFlight) -> None:
        for row in claim.rows:
            of = row.voucher.voucher.channel_id
            await self._book.note_facts(of, await self._chain.channel(of, at="safe"))
        await self._book.end_claim(claim.key)

    def _call(self, claim: ClaimInFlight) -> Call:
        from unhosted.node.shell.chain import calls

        at = self._chain.facts.channels
        if not claim.rows:
            return calls.payout(at, self._payee)
        return calls.claim(at, self._payee, claim.rows, payout=claim.pays_out)


def _worth(claim: ClaimInFlight) -> str:
    return format_usd(sum(row.voucher.voucher.amount_micros for row in claim.rows))
