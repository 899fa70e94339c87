"""Pay that a buyer holds back until answers were checked: of its last requests, within the seller's credit.

A seller that cheats loses what is still held when it is found out. An honest one loses nothing: what is held
moves on with the requests, and is paid before the channel closes.
"""

import os
from collections import deque
from collections.abc import Callable

import trio

from unhosted.market.channel_events import Event, HoldChanged
from unhosted.market.channel_states import Channel
from unhosted.market.credit import hold_max_micros
from unhosted.market.ids import ChannelId, RequestId
from unhosted.node.shell.money.end import ChannelEnd
from unhosted.node.shell.money.ledger import Ledger
from unhosted.node.shell.money.paid_writes import AuthoriseWrites
from unhosted.verify.economics import HELD_BACK_REQUESTS, held_back_micros

LET_GO_S = 10.0
"""A commit takes milliseconds; a stream that ended meanwhile never tells."""


class HoldBack:
    """One channel's: the pay of its last `requests`. holds_all: asked after each; True while the seller
    is under suspicion."""

    def __init__(
        self, *, requests: int = HELD_BACK_REQUESTS, holds_all: Callable[[], bool] = lambda: False
    ) -> None:
        self._holds_all = holds_all
        self._dues: deque[int] = deque(maxlen=requests)

    def after(self, due_micros: int, channel: Channel) -> Event:
        """A request ended that owes so much."""
        self._dues.append(due_micros)
        most = hold_max_micros(channel.tally.authorised_micros)
        if self._holds_all():
            return HoldChanged(hold_micros=most)
        return HoldChanged(hold_micros=held_back_micros(tuple(self._dues), credit_micros=most))


async def let_go(end: ChannelEnd, ledger: Ledger, writes: AuthoriseWrites, of: ChannelId) -> None:
    """Pay what was held back, on this stream or before, under a request of its own that costs nothing. Then
    the channel can close.

    Raises: Refused, if the ledger takes no request.
    """
    if _is_paid(end.channel):
        return
    request_id = RequestId(os.urandom(32))
    await ledger.reserve(request_id, of, 0)
    with trio.CancelScope(shield=True), trio.move_on_after(LET_GO_S):
        await end.feed(HoldChanged(hold_micros=0, request_id=request_id))
        await end.wait_until(_is_paid)
        await writes.wait(request_id)
        await end.wait_until(lambda channel: channel.tally.pledged_micros == channel.tally.authorised_micros)
    with trio.CancelScope(shield=True):
        await ledger.finish(request_id, 0)


def _is_paid(channel: Channel) -> bool:
    """Whether all that is due is being authorised, as far as the deposit goes."""
    tally = channel.tally
    return tally.pledged_micros >= min(tally.settled_micros, channel.chain.deposit_micros)
