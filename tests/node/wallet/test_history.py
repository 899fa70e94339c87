"""The history for the tax office: from real books, exact, in UTC, and harmless in a spreadsheet."""

import csv
import io
from decimal import Decimal
from pathlib import Path

import pytest
import trio

from tests.node.wallet.conftest import Unhosted
from unhosted.market.channels import ChainId, ChannelConfig, Deployment, channel_id
from unhosted.market.ids import Address, ChannelId, RequestId, address_text
from unhosted.node import config as settings
from unhosted.node.core.chain import ChannelFacts
from unhosted.node.shell.money.ledger import open_ledger
from unhosted.node.shell.money.seller_book import open_seller_book
from unhosted.node.shell.money.seller_words import Move, MoveKind
from unhosted.node.shell.wallet.history import COLUMNS, HistoryRow, by_day, cells, of_year, to_csv

NEW_YEAR_2027 = 1_798_761_600
SELLER = Address(b"\x77" * 20)
AT = Deployment(chain_id=ChainId(8453), contract=Address(b"\x33" * 20))
CONFIG = ChannelConfig(
    payer=Address(b"\x55" * 20), signer=Address(b"\x66" * 20), payee=SELLER, delay_s=86_400, salt=bytes(32)
)


def row(unix_s: int, kind: str = "request", **fields: object) -> HistoryRow:
    return HistoryRow(unix_s=unix_s, side="bought", kind=kind, **fields)  # type: ignore[arg-type]


def test_what_was_bought_is_in_the_export(unhosted: Unhosted, home: Path) -> None:
    paths = settings.load().paths
    now_ns = [(NEW_YEAR_2027 - 60) * 10**9]

    async def buy() -> None:
        async with open_ledger(
            paths.ledger_file, paths.ledger_seal_file, cap_micros=5_000_000, clock_ns=lambda: now_ns[0]
        ) as ledger:
            await ledger.note_chain_time(NEW_YEAR_2027 - 60)
            channel = await ledger.note_channel(AT, CONFIG, 1_000_000)
            request = RequestId(b"\x01" * 32)
            await ledger.reserve(request, channel, 500_000)
            await ledger.authorise(request, 300_001)
            await ledger.finish(request, 250_001)
            now_ns[0] += 120 * 10**9
            await ledger.note_chain_time(NEW_YEAR_2027 + 60)
            await ledger.note_closed(channel, 250_001, transaction=b"\x09" * 32)

    trio.run(buy)
    rows = unhosted("wallet", "export", "--json").json
    (request,) = [one for one in rows if one["kind"] == "request"]
    assert request["time_utc"] == "2026-12-31T23:59:00Z" and request["month"] == "2026-12"
    assert (request["amount_usdc"], request["spent_usdc"]) == ("0.250001", "0.300001")
    assert request["counterparty"] == address_text(SELLER) and request["request"] == "0x" + "01" * 32
    (closed,) = [one for one in rows if one["kind"] == "closed"]
    assert (closed["spent_usdc"], closed["transaction"]) == ("-0.05", "0x" + "09" * 32)
    # In all: what the seller has of it.
    assert sum(Decimal(one["spent_usdc"]) for one in rows) == Decimal("0.250001")
    assert [one["kind"] for one in unhosted("wallet", "export", "--json", "--year", "2027").json] == [
        "closed"
    ]
    shown = unhosted("wallet", "history")
    assert "bought: request" in shown.out and "0.300001" in shown.out


def test_what_was_sold_is_earned_when_it_is_claimed_and_only_once(unhosted: Unhosted, home: Path) -> None:
    paths = settings.load().paths
    of, request = channel_id(AT, CONFIG), RequestId(b"\x02" * 32)

    def move(kind: MoveKind, amount_micros: int, block: int, *, channel: ChannelId | None = of) -> Move:
        return Move(
            kind=kind,
            amount_micros=amount_micros,
            channel_id=channel,
            block_number=block,
            transaction=bytes([block]) * 32,
            log_index=0,
        )

    async def sell() -> None:
        async with open_seller_book(paths.sales_file, clock_ns=lambda: NEW_YEAR_2027 * 10**9) as book:
            facts = ChannelFacts(deposit_micros=900, claimed_micros=0, close_at_unix_s=0, is_closed=False)
            await book.note_channel(AT, CONFIG, facts)
            await book.open_request(request, of, sequence=1)
            await book.settle_request(
                request, tokens_out=9, due_micros=500, end="finished", make_receipt=None
            )
            moves = [
                move("claimed", 300, 1),
                move("paid", 300, 2, channel=None),
                move("claimed", 450, 3),
                move("closed", 500, 4),
            ]
            await book.note_moves(AT, moves, next_block=5)

    trio.run(sell)
    rows = unhosted("wallet", "export", "--json").json
    told = {(one["kind"], one["amount_usdc"], one["earned_usdc"]) for one in rows}
    assert told == {
        ("request", "0.0005", "0.00"),
        ("claimed", "0.0003", "0.0003"),
        ("payout", "0.0003", "0.00"),
        ("claimed", "0.00045", "0.00015"),
        ("closed", "0.0005", "0.00005"),
    }
    (sold,) = [one for one in rows if one["kind"] == "request"]
    assert sold["counterparty"] == address_text(CONFIG.payer) and sold["time_utc"] == "2027-01-01T00:00:00Z"


def test_csv_and_a_file_hold_the_same_and_only_the_owner_reads_it(unhosted: Unhosted, home: Path) -> None:
    empty = unhosted("wallet", "export", "--csv")
    assert empty.out == ",".join(COLUMNS) + "\r\n"
    assert unhosted("wallet", "export", "--out", "all.csv").code == 0
    assert (home / "all.csv").stat().st_mode & 0o777 == 0o600
    assert (home / "all.csv").read_bytes().decode() == empty.out
    assert unhosted("wallet", "export", "--csv", "--json").code == 2


def test_nothing_is_said_to_be_nothing(unhosted: Unhosted) -> None:
    shown = unhosted("wallet", "history")
    assert shown.out == "" and "nothing was paid" in shown.err


def test_a_year_is_a_year_in_utc() -> None:
    rows = [row(NEW_YEAR_2027), row(NEW_YEAR_2027 - 1), row(0, "claimed")]
    assert [one.unix_s for one in of_year(rows, 2026)] == [0, NEW_YEAR_2027 - 1]
    assert [one.unix_s for one in of_year(rows, 2027)] == [0, NEW_YEAR_2027]
    assert len(of_year(rows, None)) == 3
    assert cells(rows[2])["time_utc"] == ""  # of any year, since nobody wrote down when


def test_requests_of_a_day_and_a_seller_are_put_together() -> None:
    morning = NEW_YEAR_2027 + 1
    rows = [
        row(morning, counterparty="a", request="1", spent_micros=5),
        row(morning + 9, counterparty="a", request="2", spent_micros=7),
        row(morning + 9, counterparty="b", request="3", spent_micros=11),
        row(morning + 86_400, counterparty="a", request="4", spent_micros=13),
        row(morning + 1, "opened", channel="c"),
    ]
    days = by_day(rows)
    assert [(one.kind, one.counterparty, one.spent_micros) for one in days] == [
        ("request", "a", 12),
        ("opened", "", 0),
        ("request", "b", 11),
        ("request", "a", 13),
    ]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_a_cell_that_a_spreadsheet_would_run_is_made_text(start: str) -> None:
    made = to_csv([cells(row(1, counterparty=start + "cmd|' /C calc'!A0", spent_micros=-50_000))])
    (shown,) = csv.DictReader(io.StringIO(made, newline=""))
    assert shown["counterparty"].startswith("'" + start)
    assert shown["spent_usdc"] == "-0.05"  # a number stays one
