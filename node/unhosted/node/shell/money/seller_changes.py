"""Changes to the rows of the seller's book that several of its methods make."""

import sqlite3
from collections.abc import Callable
from dataclasses import replace

from unhosted.market.fields import WIRE_MICROS_MAX
from unhosted.market.ids import RequestId
from unhosted.market.receipts import ReceiptHash, SignedReceipt, encode_receipt, receipt_hash
from unhosted.node.core.chain import ChannelFacts
from unhosted.node.core.errors import LocalFault, Refused
from unhosted.node.shell.money import seller_drafts as drafts
from unhosted.node.shell.money import seller_tables as tables
from unhosted.node.shell.money.seller_words import Delivered, SoldChannel, SoldRequest

CHANNELS_OPEN_MAX = 10_000
"""Each is looked at on the chain every few hours; a home seller has some tens of buyers."""

MakeReceipt = Callable[[ReceiptHash], SignedReceipt]
"""From the hash of the channel's receipt before: builds and signs. Runs in the writer's thread, at most once
for each request."""


def check_room(database: sqlite3.Connection) -> None:
    count = database.execute("SELECT count(*) FROM channels WHERE is_closed = 0").fetchone()[0]
    if count >= CHANNELS_OPEN_MAX:
        raise Refused(
            "overloaded",
            f"{count} channels are open, at most {CHANNELS_OPEN_MAX} are served; try another seller",
        )


def checked(facts: ChannelFacts) -> ChannelFacts:
    if facts.deposit_micros > WIRE_MICROS_MAX:
        raise Refused(
            "invalid_request",
            f"a deposit of {facts.deposit_micros} micro-USDC is more than all there is, {WIRE_MICROS_MAX} is"
            " the most that is counted; look at the chain's endpoint",
        )
    return facts


def put_facts(database: sqlite3.Connection, channel: SoldChannel, facts: ChannelFacts) -> SoldChannel:
    changed = replace(channel, facts=checked(facts))
    if changed.claimable_micros == 0:
        changed = replace(changed, since_unix_s=0)
    tables.write_channel(database, changed)
    return changed


def put_delivered(database: sqlite3.Connection, request_id: RequestId, delivered: Delivered) -> bool:
    """Never back."""
    drafted = drafts.read_draft(database, request_id)
    if drafted is None:
        return False
    if delivered.tokens_out >= drafted[1].tokens_out:
        drafts.write_draft(database, drafted[0], delivered)
    return True


def put_receipt(
    database: sqlite3.Connection,
    channel: SoldChannel,
    request: SoldRequest,
    make_receipt: MakeReceipt,
    due_micros: int,
) -> SignedReceipt:
    """Sign it after the channel's last one, and store it as the request's only one, to be confirmed."""
    receipt = make_receipt(channel.last_receipt)
    _check_receipt(receipt, request, due_micros)
    tables.write_channel(database, replace(channel, last_receipt=receipt_hash(receipt)))
    tables.write_request(database, replace(request, receipt=encode_receipt(receipt)))
    drafts.add_unconfirmed(database, request.request_id, request.channel_id)
    return receipt


def _check_receipt(receipt: SignedReceipt, request: SoldRequest, due_micros: int) -> None:
    signed = receipt.receipt
    if (signed.request_id, signed.channel_id) != (request.request_id, request.channel_id):
        raise LocalFault("a receipt was made for another request or channel")
    if signed.amount_micros != due_micros:
        raise LocalFault(f"a receipt over {signed.amount_micros}, {due_micros} micro-USDC are due")
