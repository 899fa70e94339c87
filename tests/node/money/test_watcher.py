"""The seller's watch, over the fake chain and a real anvil: what is owed is claimed before a close ends."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.devchain import DevChain, dev_chain
from tests.fake_chain import FakeChain
from tests.node.chain.stage import SELLER, Opener, Stage, fake_stage, real_stages
from tests.node.money.seller_world import DAY_S
from tests.node.money.watch_stage import Watched, wait_until, watched
from unhosted.market.channels import SignedVoucher
from unhosted.market.claims import PAYOUT_MICROS
from unhosted.market.eip712 import channels_separator, voucher_digest
from unhosted.node.core.chain import ClaimRow
from unhosted.node.shell.chain import calls
from unhosted.node.shell.keys.signer import KeySigner
from unhosted.node.shell.money import claiming, watcher
from unhosted.node.shell.money.seller_words import ClaimInFlight

Check = Callable[[Opener, Path], Awaitable[None]]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claiming, "RETRY_S", 0.02)


async def a_close_that_is_asked_for_is_claimed_before_it_can_end(opener: Opener, path: Path) -> None:
    async with watched(opener, path) as seller:
        await seller.open(delay_s=DAY_S)
        await seller.promise(600)  # far below what a claim is worth otherwise
        seller.nursery.start_soon(seller.watcher.run)
        await wait_until(lambda: seller.watcher.status.next_block > 0)
        assert (await seller.on_chain()).claimed_micros == 0
        await seller.request_close()
        await _claimed(seller, 600)
        seller.stage.warp(DAY_S)
        await seller.finalize()
        facts = await seller.on_chain()
        assert facts.is_closed and facts.claimed_micros == 600


async def a_close_is_seen_without_any_event(opener: Opener, path: Path) -> None:
    async with watched(opener, path) as seller:
        await seller.open()
        await seller.promise(600)
        await seller.look()
        assert (await seller.on_chain()).claimed_micros == 0
        await seller.request_close()
        await seller.look()
        assert (await seller.on_chain()).claimed_micros == 600
        assert await seller.book.claims() == []


async def money_that_is_worth_its_fee_is_claimed_and_paid_out(opener: Opener, path: Path) -> None:
    async with watched(opener, path) as seller:
        await seller.open(deposit_micros=2 * PAYOUT_MICROS)
        await seller.promise(1_000)
        await seller.look()
        assert (await seller.on_chain()).claimed_micros == 0
        await seller.promise(900_000)
        await seller.look()
        assert (await seller.on_chain()).claimed_micros == 900_000
        assert await seller.stage.chain.usdc_balance(SELLER.address) == 0
        await seller.promise(1_100_000)
        await seller.look()
        assert await seller.stage.chain.usdc_balance(SELLER.address) == 1_100_000
        assert await seller.stage.chain.credit(SELLER.address) == 0


async def several_channels_are_claimed_in_one_transaction(opener: Opener, path: Path) -> None:
    async with watched(opener, path) as seller:
        await seller.open(count=3, deposit_micros=100_000)
        for number in (1, 2, 3):
            await seller.promise(50_000 + number, number)
        before = (await seller.stage.chain.head()).number
        await seller.look()
        assert (await seller.stage.chain.head()).number == before + 1
        assert [(await seller.on_chain(number)).claimed_micros for number in (1, 2, 3)] == [
            50_001,
            50_002,
            50_003,
        ]
        await seller.look()
        assert (await seller.stage.chain.head()).number == before + 1


async def a_claim_that_a_reorganisation_took_back_is_repeated(opener: Opener, path: Path) -> None:
    async with watched(opener, path, confirmations=3) as seller:
        await seller.open()
        seller.stage.mine(4)
        await seller.promise(200_000)
        await seller.watcher.look(seller.nursery)  # notes what is safe now
        await _claimed_unsafe(seller, 200_000)
        seller.stage.undo(1)
        await _claimed_unsafe(seller, 200_000)
        assert len(await seller.book.claims()) == 1
        seller.stage.mine(4)
        await wait_until(lambda: seller.watcher.status.in_flight == 0)
        channel = await seller.book.channel(seller.id_of())
        assert channel is not None and channel.facts.claimed_micros == 200_000
        assert await seller.book.claims() == []


async def a_row_that_the_contract_refuses_does_not_hold_up_the_others(opener: Opener, path: Path) -> None:
    async with watched(opener, path) as seller:
        await seller.open(count=3, deposit_micros=100_000)
        for number in (1, 3):
            await seller.promise(50_000, number)
        unsigned = seller.voucher(50_000, 2).voucher
        digest = voucher_digest(channels_separator(seller.stage.chain.facts.channels), unsigned)
        forged = SignedVoucher(voucher=unsigned, signature=SELLER.sign(digest))
        await seller.book.store_voucher(forged, live_micros={})
        seller.nursery.start_soon(seller.watcher.run)
        for number in (1, 3):
            await _claimed(seller, 50_000, number)
        assert (await seller.on_chain(2)).claimed_micros == 0


async def a_claim_without_gas_is_an_alarm_until_there_is_some(opener: Opener, path: Path) -> None:
    poor = KeySigner(bytes(31) + b"\x77")
    async with watched(opener, path, signer=poor) as seller:
        await seller.open()
        await seller.promise(500_000)
        pause_s = await seller.look()
        assert seller.alarms == {"no_gas"}
        assert await seller.book.claims() == []
        assert await seller.look() <= 60 < pause_s
        (alarm,) = seller.watcher.status.alarms
        assert "0.50 USD cannot be claimed" in alarm.message


async def a_close_with_less_than_a_claim_costs_is_an_alarm(opener: Opener, path: Path) -> None:
    async with watched(opener, path) as seller:
        await seller.open()
        await seller.promise(500)
        await seller.request_close()
        seller.coin_micros = 10**10
        await seller.look()
        assert seller.alarms == {"claim_given_up"}
        seller.coin_micros = 10**6
        await seller.look()
        assert seller.alarms == set()
        assert (await seller.on_chain()).claimed_micros == 500


async def what_happened_while_the_node_was_off_is_caught_up_with(opener: Opener, path: Path) -> None:
    async with opener(0) as stage:

        @asynccontextmanager
        async def same(confirmations: int) -> AsyncIterator[Stage]:
            yield stage

        async with watched(same, path) as seller:
            await seller.open()
            await seller.promise(400_000)
            seller.nursery.start_soon(seller.watcher.run)
            await _claimed(seller, 400_000)
            await wait_until(lambda: seller.watcher.status.in_flight == 0)
            await wait_until_async(lambda: _has_moves(seller, 1))
        await seller.request_close()
        stage.warp(DAY_S)
        await seller.finalize()
        async with watched(same, path) as seller:
            seller.nursery.start_soon(seller.watcher.run)
            await wait_until_async(lambda: _has_moves(seller, 2))
            kinds = [(move.kind, move.amount_micros) for move in await seller.book.moves()]
            assert kinds == [("claimed", 400_000), ("closed", 400_000)]
            channel = await seller.book.channel(seller.id_of())
            assert channel is not None and channel.facts.is_closed
            assert (await seller.book.earnings()).lost_micros == 0


CHECKS: list[Check] = [
    a_close_that_is_asked_for_is_claimed_before_it_can_end,
    a_close_is_seen_without_any_event,
    money_that_is_worth_its_fee_is_claimed_and_paid_out,
    several_channels_are_claimed_in_one_transaction,
    a_claim_that_a_reorganisation_took_back_is_repeated,
    a_row_that_the_contract_refuses_does_not_hold_up_the_others,
    a_claim_without_gas_is_an_alarm_until_there_is_some,
    a_close_with_less_than_a_claim_costs_is_an_alarm,
    what_happened_while_the_node_was_off_is_caught_up_with,
]


def _name(check: Check) -> str:
    return getattr(check, "__name__", "check")


@pytest.fixture(scope="module")
def _running() -> Iterator[DevChain]:
    with dev_chain() as dev:
        yield dev


@pytest.fixture
def dev(_running: DevChain) -> Iterator[DevChain]:
    snapshot = _running.snapshot()
    yield _running
    _running.revert(snapshot)


@pytest.mark.parametrize("check", CHECKS, ids=_name)
def test_on_the_fake_chain(check: Check, tmp_path: Path) -> None:
    _run(check, fake_stage, tmp_path / "seller.db")


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS, ids=_name)
def test_on_anvil(check: Check, dev: DevChain, tmp_path: Path) -> None:
    _run(check, real_stages(dev, tmp_path), tmp_path / "seller.db")


def _run(check: Check, opener: Opener, path: Path) -> None:
    async def main() -> None:
        with trio.fail_after(30):
            await check(opener, path)

    trio.run(main)


async def wait_until_async(is_so: Callable[[], Awaitable[bool]]) -> None:
    with trio.fail_after(10):
        while not await is_so():
            await trio.sleep(0.005)


async def _claimed(seller: Watched, amount_micros: int, number: int = 1) -> None:
    async def is_so() -> bool:
        return (await seller.on_chain(number)).claimed_micros == amount_micros

    await wait_until_async(is_so)


async def _claimed_unsafe(seller: Watched, amount_micros: int) -> None:
    await _claimed(seller, amount_micros)
    safe = await seller.stage.chain.channel(seller.id_of(), at="safe")
    assert safe.claimed_micros == 0


async def _has_moves(seller: Watched, count: int) -> bool:
    return len(await seller.book.moves()) == count


def test_a_dead_endpoint_is_an_alarm_and_the_close_is_claimed_when_it_is_back(tmp_path: Path) -> None:
    clock = MockClock(rate=1.0)

    async def main() -> None:
        async with watched(fake_stage, tmp_path / "seller.db") as seller:
            chain = seller.stage.chain
            assert isinstance(chain, FakeChain)
            await seller.open()
            await seller.promise(600)
            await seller.look()
            await seller.request_close()
            chain.outage = "rpc.example did not answer in 10 s; name another endpoint"
            await seller.look()
            assert seller.alarms == set()  # endpoints are away for moments all the time
            clock.jump(watcher.OUTAGE_ALARM_S)
            assert await seller.look() == watcher.RETRY_S
            (alarm,) = seller.watcher.status.alarms
            assert alarm.kind == "chain_unreachable"
            assert "could be closed unseen. rpc.example" in alarm.message
            chain.outage = ""
            await seller.look()
            assert seller.alarms == set()
            assert (await seller.on_chain()).claimed_micros == 600

    trio.run(main, clock=clock)


def test_a_claim_that_is_not_safe_at_half_of_the_delay_is_an_alarm(tmp_path: Path) -> None:
    async def check(opener: Opener, path: Path) -> None:
        async with watched(opener, path, confirmations=4) as seller:
            await seller.open(delay_s=3_600)
            seller.stage.mine(5)
            await seller.promise(600)
            await seller.request_close()
            await seller.watcher.look(seller.nursery)
            await _claimed_unsafe(seller, 600)
            assert seller.alarms == set()
            seller.stage.warp(1_801)
            await seller.watcher.look(seller.nursery)
            assert seller.alarms == {"claim_overdue"}
            (alarm,) = seller.watcher.status.alarms
            assert "0.0006 USD on 1 channels is not claimed yet" in alarm.message
            seller.stage.mine(5)
            await wait_until(lambda: seller.watcher.status.in_flight == 0)
            await seller.watcher.look(seller.nursery)
            assert seller.alarms == set()

    _run(check, fake_stage, tmp_path / "seller.db")


def test_a_claim_that_a_crash_cut_off_is_sent_once(tmp_path: Path) -> None:
    """The node ends between the book and the chain, and between the chain and the book."""

    async def check(opener: Opener, path: Path) -> None:
        async with opener(0) as stage:
            chain = stage.chain
            assert isinstance(chain, FakeChain)

            @asynccontextmanager
            async def same(confirmations: int) -> AsyncIterator[Stage]:
                yield stage

            async with watched(same, path) as seller:
                await seller.open()
                await seller.promise(500_000)
                claim = ClaimInFlight(
                    key="claim:cut-off",
                    begun_unix_s=1,
                    pays_out=False,
                    rows=(ClaimRow(config=seller.config_of(), voucher=seller.voucher(500_000)),),
                )
                await seller.book.begin_claim(claim)
            sent = chain.sent
            async with watched(same, path) as seller:
                await seller.look()
                assert chain.sent == sent + 1
                assert (await seller.on_chain()).claimed_micros == 500_000
                await seller.book.begin_claim(claim)  # as if its end had not been noted
            async with watched(same, path) as seller:
                await seller.look()
                assert chain.sent == sent + 1
                assert await seller.book.claims() == []

    _run(check, fake_stage, tmp_path / "seller.db")


def test_no_claim_has_more_rows_than_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unhosted.market.claims.ROWS_MAX", 2)

    async def check(opener: Opener, path: Path) -> None:
        async with watched(opener, path) as seller:
            await seller.open(count=5, deposit_micros=100_000)
            for number in range(1, 6):
                await seller.promise(50_000, number)
            before = (await seller.stage.chain.head()).number
            await seller.look()
            await seller.look()
            assert (await seller.stage.chain.head()).number == before + 3
            for number in range(1, 6):
                assert (await seller.on_chain(number)).claimed_micros == 50_000

    _run(check, fake_stage, tmp_path / "seller.db")


def test_a_channel_that_closes_in_agreement_is_left_to_the_buyer_for_a_day(tmp_path: Path) -> None:
    async def check(opener: Opener, path: Path) -> None:
        async with watched(opener, path) as seller:
            await seller.open()
            await seller.promise(500_000)
            await seller.book.note_winding_up(seller.id_of())
            await seller.look()
            assert (await seller.on_chain()).claimed_micros == 0
            await seller.request_close()
            await seller.look()
            assert (await seller.on_chain()).claimed_micros == 500_000

    _run(check, fake_stage, tmp_path / "seller.db")


def test_a_short_delay_is_looked_at_ten_times_within_it(tmp_path: Path) -> None:
    async def check(opener: Opener, path: Path) -> None:
        async with watched(opener, path) as seller:
            await seller.open(delay_s=3_600)
            assert await seller.look() == 3_600  # nothing is on it yet
            await seller.promise(600)
            assert await seller.look() == 360

    _run(check, fake_stage, tmp_path / "seller.db")


@pytest.mark.slow
def test_the_gas_that_decisions_go_by_is_what_the_contract_uses(tmp_path: Path, dev: DevChain) -> None:
    async def check(opener: Opener, path: Path) -> None:
        async with watched(opener, path) as seller:
            await seller.open(count=4, deposit_micros=100_000)
            chain = seller.stage.chain
            rows = [
                ClaimRow(config=seller.config_of(number), voucher=seller.voucher(50_000, number))
                for number in (1, 2, 3, 4)
            ]
            at = chain.facts.channels
            for count, pays_out in ((1, False), (4, False), (4, True)):
                call = calls.claim(at, SELLER.address, rows[:count], payout=pays_out)
                used = await chain.check(call, sender=SELLER.address)
                counted = claiming.GAS_BASE + count * claiming.GAS_ROW + pays_out * claiming.GAS_PAYOUT
                assert 0.7 < counted / used < 1.3, (count, pays_out, used)

    _run(check, real_stages(dev, tmp_path), tmp_path / "seller.db")
