"""The seller's book as a file: one process at a time, one transaction after the other, and a start after a
crash."""

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

from unhosted.node.shell.money import seller_drafts as drafts
from unhosted.node.shell.money import seller_tables as tables
from unhosted.node.shell.money.database import RowDamaged, alone, broken, explained, transaction
from unhosted.node.shell.money.seller_tables import SELLER_KIND

_LOG = logging.getLogger(__name__)


def only_this_process(path: Path) -> AbstractContextManager[None]:
    """Two sellers on one book would count the same voucher twice."""
    return alone(path, SELLER_KIND, then="stop that node first, or give this one another UNHOSTED_HOME")


@contextmanager
def batch(path: Path, database: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """One transaction. Raises: Refused if nothing of it happened."""
    with explained(path, SELLER_KIND):
        try:
            with transaction(database):
                yield database
        except RowDamaged as damage:
            raise broken(path, SELLER_KIND, str(damage)) from damage


def end_cut_off(path: Path, database: sqlite3.Connection, now_unix_s: int) -> None:
    """Settle the requests of the process before, with what stands in the book; and read every row once.

    Their receipts are signed at the next contact: there is no key here.
    """
    with batch(path, database):
        cut_off = list(tables.read_live(database))
        for request in cut_off:
            channel = tables.read_channel(database, request.channel_id)
            if channel is None:
                raise RowDamaged(f"request {request.request_id.hex()[:8]} has no channel")
            settled_micros = channel.settled_micros + request.due_micros
            tables.write_channel(database, replace(channel, settled_micros=settled_micros))
            drafted = drafts.read_draft(database, request.request_id)
            tokens_out = 0
            if drafted is not None:
                tokens_out = drafted[1].tokens_out
                if not request.due_micros:
                    drafts.delete_draft(database, request.request_id)
            ended = replace(request, end="lost", ended_unix_s=now_unix_s, tokens_out=tokens_out)
            tables.write_request(database, ended)
        list(tables.read_channels(database, with_closed=True))
    if cut_off:
        _LOG.warning("requests_cut_off count=%d", len(cut_off))
