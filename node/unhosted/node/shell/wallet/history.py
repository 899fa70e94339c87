"""Everything that moved money, in one list, for its owner and for the tax office.

Amounts are exact decimals of USDC, fees are wei of the chain's own coin, times are UTC. Prompts, answers and
names of models are not in it.
"""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from unhosted.market.money import format_usd
from unhosted.node.shell.wallet.times import utc_text

Side = Literal["bought", "sold", "moved"]
"""moved: between an account and the contract, where nobody earns anything."""

COLUMNS = (
    "time_utc",
    "side",
    "kind",
    "amount_usdc",
    "spent_usdc",
    "earned_usdc",
    "month",
    "counterparty",
    "channel",
    "request",
    "transaction",
    "fee_wei",
    "chain",
)

_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryRow:
    """One event. unix_s: 0 where no book says when. amount: what the event is about, such as a deposit.

    spent: what it adds to what this node spent, negative where a channel gives something back. earned: what
    it adds to what is this seller's own. Texts are empty where there is none.
    """

    unix_s: int
    side: Side
    kind: str
    amount_micros: int = 0
    spent_micros: int = 0
    earned_micros: int = 0
    month: str = ""
    counterparty: str = ""
    channel: str = ""
    request: str = ""
    transaction: str = ""
    fee_wei: int | None = None
    chain: str = ""


def of_year(rows: Iterable[HistoryRow], year: int | None) -> list[HistoryRow]:
    """Those of a calendar year in UTC, oldest first; None: all. What has no time could be of any year."""
    chosen = (row for row in rows if year is None or not row.unix_s or _year(row) == year)
    return sorted(chosen, key=lambda row: row.unix_s)


def _year(row: HistoryRow) -> int:
    return int(utc_text(row.unix_s)[:4])


def by_day(rows: Sequence[HistoryRow]) -> list[HistoryRow]:
    """Requests of a day and counterparty put together; what moved deposits stays as it is."""
    days: dict[tuple[str, str, str, str], HistoryRow] = {}
    kept: list[HistoryRow] = []
    for row in rows:
        if not row.request:
            kept.append(row)
            continue
        key = (utc_text(row.unix_s)[:10], row.side, row.kind, row.counterparty)
        sum_ = days.get(key)
        days[key] = (
            replace(row, request="", channel="", transaction="")
            if sum_ is None
            else replace(
                sum_,
                amount_micros=sum_.amount_micros + row.amount_micros,
                spent_micros=sum_.spent_micros + row.spent_micros,
                earned_micros=sum_.earned_micros + row.earned_micros,
            )
        )
    return sorted([*kept, *days.values()], key=lambda row: row.unix_s)


def cells(row: HistoryRow) -> dict[str, str]:
    """A row by column, as text; the same in CSV, JSON and on the terminal."""
    return {
        "time_utc": utc_text(row.unix_s) if row.unix_s else "",
        "side": row.side,
        "kind": row.kind,
        "amount_usdc": format_usd(row.amount_micros),
        "spent_usdc": format_usd(row.spent_micros),
        "earned_usdc": format_usd(row.earned_micros),
        "month": row.month,
        "counterparty": row.counterparty,
        "channel": row.channel,
        "request": row.request,
        "transaction": row.transaction,
        "fee_wei": "" if row.fee_wei is None else str(row.fee_wei),
        "chain": row.chain,
    }


def to_csv(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows of `cells` as RFC 4180 has it, with a head; what a spreadsheet would run is made text."""
    written = io.StringIO()
    writer = csv.writer(written)
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow([_harmless(row[column]) for column in COLUMNS])
    return written.getvalue()


def _harmless(cell: str) -> str:
    is_formula = cell.startswith(_FORMULA_STARTS) and not _NUMBER.fullmatch(cell)
    return f"'{cell}" if is_formula else cell
