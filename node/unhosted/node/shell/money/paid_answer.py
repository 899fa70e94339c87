"""What the user of a paid request holds: its tokens as they come, and how it ended."""

import trio

from unhosted.market.acks import SignedAck
from unhosted.market.channel_states import EndKind
from unhosted.market.receipts import SignedReceipt
from unhosted.market.roots import GrowingIds
from unhosted.market.terms import Terms
from unhosted.node.core.errors import Refused
from unhosted.node.shell.money.paid_wire import Tokens, WorkAsked

PIECES_WAITING = 1_024
"""Pieces that the reader has not taken yet. What arrived is paid, so a slower reader holds up the stream, and
with it the tokens that the seller would make."""


class PaidAnswer:
    """Iterate for its token ids, in pieces as they came. Once it ended: `end`, `tokens_out` and `due_micros`,
    exactly what it cost; `receipt` follows a moment later (`receipted`), unless the seller owes one.

    Iteration raises Refused when it ended for another reason than the model's or the reader's. made: all that
    came. ack: the seller's newest signature over it. ask: what was sent, once it was. is_kept: whether prompt
    and output may be written down for a check.
    """

    def __init__(self, terms: Terms, *, salt: bytes, is_kept: bool) -> None:
        """salt: of the request, 32 bytes."""
        self.terms, self.is_kept = terms, is_kept
        self.made = GrowingIds("output", salt=salt)
        self.ask: WorkAsked | None = None
        self.ack: SignedAck | None = None
        self.end: EndKind | None = None
        self.tokens_out = 0
        self.due_micros = 0
        self.receipt: SignedReceipt | None = None
        self.refused: Refused | None = None
        self.was_accepted = False
        self.decided, self.ended, self.receipted = trio.Event(), trio.Event(), trio.Event()
        self._left = False
        self._put, self._pieces = trio.open_memory_channel[tuple[int, ...]](PIECES_WAITING)

    def __aiter__(self) -> "PaidAnswer":
        return self

    async def __anext__(self) -> tuple[int, ...]:
        try:
            return await self._pieces.receive()
        except trio.EndOfChannel:
            if self.refused is not None:
                raise self.refused from None
            raise StopAsyncIteration from None

    @property
    def acknowledged(self) -> int:
        """Tokens under the seller's signature so far."""
        return 0 if self.ack is None else self.ack.ack.tokens_out

    async def take(self, tokens: Tokens) -> None:
        """Tokens from the seller; repeated ones, ones after a gap and ones too many are dropped."""
        received = len(self.made)
        new = tokens.ids[received - tokens.position :] if tokens.position <= received else ()
        new = new[: self.terms.tokens_out_max - received]
        if not new or self.ended.is_set():
            return
        self.made.extend(new)
        if not self._left:
            try:
                await self._put.send(new)
            except trio.BrokenResourceError:
                self._left = True

    def refuse(self, why: Refused) -> None:
        """The first reason is the one that is told."""
        self.refused = self.refused or why

    def leave(self) -> None:
        """Nobody reads on: what still comes is paid, and dropped."""
        self._left = True
        self._pieces.close()

    def finish(self, end: EndKind, *, tokens_out: int, due_micros: int) -> None:
        self.end, self.tokens_out, self.due_micros = end, tokens_out, due_micros
        self._put.close()
        self.decided.set()
        self.ended.set()
