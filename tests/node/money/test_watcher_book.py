"""What the watch does when its own disk or an endpoint fails it, and how a claim is planned beside others."""

from dataclasses import replace
from pathlib import Path

import pytest
import trio

from tests.node.chain.stage import SELLER, fake_stage
from tests.node.money.seller_world import AT, config_of, facts, id_of, voucher
from tests.node.money.watch_stage import watched
from unhosted.market.claims import ClaimFees
from unhosted.node.core.chain import Call, CallReverted, ClaimRow, Receipt, Signer
from unhosted.node.core.errors import Refused
from unhosted.node.shell.money import claiming, watcher
from unhosted.node.shell.money.claiming import Seen, claim_of, fees_now, plan_claim
from unhosted.node.shell.money.seller_book import SellerBook
from unhosted.node.shell.money.seller_words import ClaimInFlight, SoldChannel

FEES = ClaimFees(base_micros=10, row_micros=5, payout_micros=10)


def _seen(best_micros: int, **changes: object) -> Seen:
    channel = SoldChannel(
        channel_id=id_of(), deployment=AT, config=config_of(), facts=facts(), best=voucher(best_micros)
    )
    return Seen(channel=replace(channel, **changes), newest=facts())  # type: ignore[arg-type]


def _flying(amount_micros: int, *, pays_out: bool = False) -> ClaimInFlight:
    row = ClaimRow(config=config_of(), voucher=voucher(amount_micros))
    return ClaimInFlight(key="claim:1", begun_unix_s=1, pays_out=pays_out, rows=(row,))


def _planned(seen: Seen, *in_flight: ClaimInFlight, credit_micros: int = 0) -> tuple[int, bool]:
    plan = plan_claim(
        [seen],
        in_flight,
        credit_micros=credit_micros,
        fees=FEES,
        now_unix_s=1_000_000,
        clock_unix_s=1_000_000,
    )
    return len(plan.rows), plan.pays_out


def test_what_is_in_flight_is_not_claimed_again() -> None:
    seen = _seen(50_000)
    assert _planned(seen) == (1, False)
    assert _planned(seen, _flying(50_000)) == (0, False)
    assert _planned(seen, _flying(20_000)) == (1, False)
    assert _planned(replace(seen, newest=facts(claimed_micros=50_000)), _flying(50_000)) == (0, False)


def test_a_payout_in_flight_is_not_repeated() -> None:
    seen = _seen(0)
    assert _planned(seen, credit_micros=2_000_000) == (0, True)
    assert _planned(seen, _flying(1, pays_out=True), credit_micros=2_000_000) == (0, False)


def test_a_channel_that_is_closed_at_the_newest_block_is_not_claimed() -> None:
    assert _planned(replace(_seen(50_000), newest=facts(is_closed=True))) == (0, False)


def test_a_voucher_above_the_newest_deposit_is_not_claimed() -> None:
    assert _planned(replace(_seen(50_000), newest=facts(40_000))) == (0, False)


def test_money_that_waited_a_day_is_claimed_at_a_tenth_of_fee() -> None:
    seen = _seen(500)
    assert _planned(seen) == (0, False)
    waited = replace(seen.channel, since_unix_s=1_000_000 - 86_400)
    assert _planned(replace(seen, channel=waited)) == (1, False)
    set_back = replace(seen.channel, since_unix_s=2_000_000)
    assert _planned(replace(seen, channel=set_back)) == (0, False)


def test_the_same_money_claimed_at_another_time_has_another_key() -> None:
    seen = _seen(50_000)
    plan = plan_claim([seen], (), credit_micros=0, fees=FEES, now_unix_s=10, clock_unix_s=10)
    keys = {claim_of(plan, [seen], payee=SELLER.address, now_unix_s=now).key for now in (10, 11, 11)}
    assert len(keys) == 2
    assert all(key.startswith("claim:") for key in keys)


def test_fees_are_rounded_up_in_micro_usdc() -> None:
    fees = fees_now(10_000_000, 3_000_000_000)  # 0.01 gwei, ETH at USD 3,000
    assert (fees.base_micros, fees.row_micros, fees.payout_micros) == (900, 525, 900)
    assert fees_now(1, 1).row_micros == 1


@pytest.mark.parametrize("method", ["channels", "claims", "note_facts", "begin_claim"])
def test_a_book_that_cannot_be_written_is_an_alarm_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    is_full = False
    real = getattr(SellerBook, method)

    async def fails(self: SellerBook, *arguments: object, **named: object) -> object:
        if is_full:
            raise Refused("disk_full", "the seller's book could not be written, the disk is full")
        return await real(self, *arguments, **named)

    monkeypatch.setattr(SellerBook, method, fails)

    async def main() -> None:
        with trio.fail_after(20):
            await check()

    async def check() -> None:
        nonlocal is_full
        async with watched(fake_stage, tmp_path / "seller.db") as seller:
            await seller.open()
            await seller.promise(500_000)
            is_full = True
            await seller.look()
            assert seller.alarms == {"book_unwritable"}
            is_full = False
            await seller.look()
            await seller.look()
            assert seller.alarms == set()
            assert (await seller.on_chain()).claimed_micros == 500_000

    trio.run(main)


def test_the_book_goes_on_at_the_block_after_the_last_one_noted(tmp_path: Path) -> None:
    async def main() -> None:
        with trio.fail_after(20):
            async with watched(fake_stage, tmp_path / "seller.db") as seller:
                await seller.watcher.note_events((), to_block=7)
                assert await seller.book.cursor(seller.stage.chain.facts.channels) == 8
                assert seller.watcher.status.next_block == 8

    trio.run(main)


def test_what_was_refused_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint that lies once must not cost the voucher."""
    monkeypatch.setattr(watcher, "REFUSED_S", 0)
    monkeypatch.setattr(claiming, "RETRY_S", 0.02)

    async def main() -> None:
        async with watched(fake_stage, tmp_path / "book.db") as seller:
            await seller.open()
            await seller.promise(500_000)

            async def lie(call: Call, signer: Signer, *, key: str) -> Receipt:
                raise CallReverted("BadSig", {"id": seller.id_of()}, "a lie")

            with monkeypatch.context() as lying:
                lying.setattr(seller.stage.chain, "send", lie)
                await seller.look()
            assert seller.alarms == {"claim_refused"}
            await seller.look()
            assert (await seller.on_chain()).claimed_micros == 500_000
            assert seller.alarms == set()

    trio.run(main)
