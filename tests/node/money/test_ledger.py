"""The ledger as the node uses it: real files, real commits, and what it refuses."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from tests.node.money.ledger_world import (
    DAY_S,
    DEPLOYMENT,
    NOW_UNIX_S,
    SIGNER,
    Clock,
    config,
    found,
    ledger_in,
    of,
    ready_ledger,
    request,
)
from unhosted.market.channels import SignedVoucher, Voucher
from unhosted.market.ids import Address, ChannelId, Signature
from unhosted.market.money import Micros
from unhosted.node.core.errors import Refused
from unhosted.node.shell.money.ledger import Ledger

ONE, TWO = of(1), of(2)
PATIENCE_S = 30.0


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        with trio.fail_after(PATIENCE_S):
            await main()

    trio.run(bounded)


async def refused(call: Awaitable[object], code: str) -> Refused:
    try:
        await call
    except Refused as error:
        assert error.code == code, error
        return error
    raise AssertionError("it was not refused")


def shown(channel: ChannelId, amount: int) -> SignedVoucher:
    voucher = Voucher(channel_id=channel, amount_micros=Micros(amount))
    return SignedVoucher(voucher=voucher, signature=Signature(bytes(65)))


def test_a_request_is_reserved_authorised_and_finished(tmp_path: Path) -> None:
    async def main() -> None:
        async with ready_ledger(tmp_path) as ledger:
            await ledger.reserve(request(1), ONE, 100)
            assert [await ledger.authorise(request(1), delta) for delta in (30, 20, 0)] == [30, 50, 50]
            row = await ledger.finish(request(1), 45)
            assert (row.authorised_micros, row.due_max_micros) == (50, 45)
            view = await ledger.view()
            assert (view.book.spent_micros, view.book.reserved_micros) == (50, 0)

    run(main)


def test_what_was_answered_is_there_after_a_restart(tmp_path: Path) -> None:
    async def main() -> None:
        async with ready_ledger(tmp_path) as ledger:
            await ledger.reserve(request(1), ONE, 100)
            await ledger.authorise(request(1), 30)
        async with ledger_in(tmp_path) as ledger:
            view = await ledger.view()
            assert (view.book.spent_micros, view.book.reserved_micros, view.book.requests_live) == (30, 0, 0)
            assert not view.book.must_reread
            row = {known.row.channel_id: known.row for known in view.channels}[ONE]
            assert (row.due_min_micros, row.due_max_micros) == (0, 30), "what it used is not known"
            assert (await ledger.note_due(ONE, 10)).due_max_micros == 10

    run(main)


def test_the_cap_refuses_with_the_numbers_and_what_to_do(tmp_path: Path) -> None:
    async def main() -> None:
        async with ready_ledger(tmp_path, cap=120) as ledger:
            await ledger.reserve(request(1), ONE, 100)
            await ledger.authorise(request(1), 60)
            error = await refused(ledger.reserve(request(2), TWO, 21), "cap_reached")
            assert "0.000021" in error.message and "2026-11" in error.message
            assert "unhosted config set public.max-usd-per-month" in error.message
            assert (error.details["spent_micros"], error.details["reserved_micros"]) == (60, 40)
            await ledger.set_cap(0)
            error = await refused(ledger.reserve(request(3), TWO, 1), "cap_reached")
            assert "cap is 0" in error.message

    run(main)


@pytest.mark.parametrize(
    ("code", "act"),
    [
        ("no_funds", lambda ledger: ledger.reserve(request(1), ONE, 501)),
        ("invalid_request", lambda ledger: ledger.reserve(request(1), of(9), 1)),
        ("invalid_request", lambda ledger: ledger.reserve(request(1), ONE, -1)),
        ("invalid_request", lambda ledger: ledger.authorise(request(1), 1)),
        ("invalid_request", lambda ledger: ledger.finish(request(1), 1)),
        ("invalid_request", lambda ledger: ledger.note_deposit(of(9), 1)),
        ("invalid_request", lambda ledger: ledger.note_closed(of(9), 1)),
        ("invalid_request", lambda ledger: ledger.note_due(ONE, 1)),
        ("invalid_request", lambda ledger: ledger.set_cap(-1)),
        (
            "invalid_request",
            lambda ledger: ledger.raise_authorised(shown(ONE, 5), signed_by=Address(b"\x09" * 20)),
        ),
        ("invalid_request", lambda ledger: ledger.raise_authorised(shown(of(9), 5), signed_by=SIGNER)),
    ],
)
def test_what_breaks_a_rule_is_refused_and_changes_nothing(
    tmp_path: Path, code: str, act: Callable[[Ledger], Awaitable[object]]
) -> None:
    async def main() -> None:
        async with ready_ledger(tmp_path) as ledger:
            before = await ledger.view()
            await refused(act(ledger), code)
            assert await ledger.view() == before

    run(main)


def test_a_second_reservation_under_one_id_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with ready_ledger(tmp_path) as ledger:
            await ledger.reserve(request(1), ONE, 10)
            await refused(ledger.reserve(request(1), TWO, 10), "invalid_request")
            await ledger.release(request(1))
            await ledger.release(request(1))

    run(main)


def test_nothing_is_paid_before_the_chains_time_is_known(tmp_path: Path) -> None:
    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            call = ledger.note_channel(DEPLOYMENT, config(1), 100)
            error = await refused(call, "chain_unavailable")
            assert "time" in error.message
            await ledger.note_chain_time(NOW_UNIX_S - 40 * DAY_S)
            await refused(ledger.note_channel(DEPLOYMENT, config(1), 100), "chain_mismatch")
            await ledger.note_chain_time(NOW_UNIX_S)
            await ledger.note_channel(DEPLOYMENT, config(1), 100)

    run(main)


def test_a_clock_set_back_keeps_the_month_and_one_set_forward_opens_none(tmp_path: Path) -> None:
    async def main() -> None:
        clock = Clock()
        async with ready_ledger(tmp_path, cap=100, clock=clock) as ledger:
            await ledger.reserve(request(1), ONE, 100)
            await ledger.authorise(request(1), 100)
            await ledger.finish(request(1), 100)
            for day in (-60, 40, 400, -20_000):
                clock.unix_s = NOW_UNIX_S + day * DAY_S
                await refused(ledger.reserve(request(2), TWO, 1), "cap_reached")
        clock.unix_s = NOW_UNIX_S - 60 * DAY_S
        async with ledger_in(tmp_path, cap=100, clock=clock) as ledger:
            await refused(ledger.reserve(request(2), TWO, 1), "cap_reached")

    run(main)


def test_midnight_in_mid_stream_goes_on_in_the_new_month(tmp_path: Path) -> None:
    async def main() -> None:
        clock = Clock()
        async with ready_ledger(tmp_path, cap=100, clock=clock) as ledger:
            await ledger.reserve(request(1), ONE, 100)
            await ledger.authorise(request(1), 70)
            clock.unix_s += DAY_S
            await ledger.note_chain_time(clock.unix_s)
            await ledger.set_cap(20)
            assert await ledger.authorise(request(1), 20) == 90
            await refused(ledger.authorise(request(1), 1), "cap_reached")
            await ledger.finish(request(1), 90)
            view = await ledger.view()
            assert sorted(view.by_month.values()) == [20, 70]
            lines = [entry for _, entry in await ledger.entries() if entry.kind == "request"]
            assert [(line.counted_micros, line.amount_micros) for line in lines] == [(70, 0), (20, 90)]

    run(main)


def test_a_sellers_voucher_raises_what_is_spent(tmp_path: Path) -> None:
    async def main() -> None:
        async with ready_ledger(tmp_path, cap=100) as ledger:
            row = await ledger.raise_authorised(shown(ONE, 80), signed_by=SIGNER)
            assert row.authorised_micros == 80
            assert (await ledger.raise_authorised(shown(ONE, 20), signed_by=SIGNER)).authorised_micros == 80
            await refused(ledger.reserve(request(1), TWO, 21), "cap_reached")

    run(main)


def test_a_close_gives_back_what_was_not_claimed(tmp_path: Path) -> None:
    async def main() -> None:
        async with ready_ledger(tmp_path, cap=100) as ledger:
            await ledger.reserve(request(1), ONE, 100)
            await ledger.authorise(request(1), 100)
            await ledger.finish(request(1), 100)
            await ledger.note_closed(ONE, 60, transaction=b"\x07" * 32)
            await ledger.note_closed(ONE, 60)
            await ledger.reserve(request(2), TWO, 40)
            await refused(ledger.reserve(request(3), TWO, 1), "cap_reached")
            closed = [entry for _, entry in await ledger.entries() if entry.kind == "closed"]
            assert [(line.amount_micros, line.counted_micros) for line in closed] == [(60, -40)]
            assert closed[0].transaction == b"\x07" * 32

    run(main)


def test_a_found_channel_counts_in_full(tmp_path: Path) -> None:
    async def main() -> None:
        async with ready_ledger(tmp_path) as ledger:
            assert await ledger.note_found(found(3, 250, 10)) == of(3)
            assert (await ledger.view()).book.spent_micros == 250
            await ledger.note_found(found(3, 250, 100, is_closed=True))
            assert (await ledger.view()).book.spent_micros == 100

    run(main)
