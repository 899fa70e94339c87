"""What this node's books say, for the wallet: read while a node may be running, and nothing is changed."""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from unhosted.node.config import Config

if TYPE_CHECKING:
    from unhosted.node.shell.money.ledger_words import LedgerView


async def ledger_view(config: Config) -> "LedgerView | None":
    """The buyer's ledger; None while nothing was ever bought. Raises: Refused (ledger_damaged)."""
    from unhosted.node.shell.money.ledger_reading import read_view

    return await trio.to_thread.run_sync(read_view, config.paths.ledger_file)


def in_channels_micros(view: "LedgerView | None") -> int:
    """What lies in channels that are not closed, claimed or not."""
    channels = () if view is None else view.channels
    return sum(channel.row.deposit_micros for channel in channels if not channel.row.is_closed)


def unspent_micros(view: "LedgerView | None") -> int:
    """Of that, what no voucher has promised to a seller."""
    rows = [] if view is None else [channel.row for channel in view.channels]
    return sum(max(row.deposit_micros - row.authorised_micros, 0) for row in rows if not row.is_closed)


async def history_cells(config: Config, *, year: int | None, wants_days: bool) -> list[dict[str, str]]:
    """Everything in the books, oldest first, as texts by column. Raises: Refused (ledger_damaged)."""
    from unhosted.node.shell.wallet.books import read_rows
    from unhosted.node.shell.wallet.history import by_day, cells, of_year

    paths = config.paths
    read = partial(
        read_rows,
        ledger=paths.ledger_file,
        sales=paths.sales_file,
        transactions=paths.transactions_file,
        deposits=paths.deposits_dir,
    )
    rows = of_year(await trio.to_thread.run_sync(read), year)
    return [cells(row) for row in (by_day(rows) if wants_days else rows)]


def csv_text(rows: Sequence[Mapping[str, str]]) -> str:
    from unhosted.node.shell.wallet.history import to_csv

    return to_csv(rows)


def write_private_text(path: Path, text: str) -> None:
    """A file that others of this machine cannot read: it says who was paid what."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
