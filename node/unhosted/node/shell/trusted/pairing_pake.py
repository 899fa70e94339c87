"""SPAKE2 on the one-time code, bound to both ids: PyPI `spake2` in a thread, 8 ms a side."""

from collections.abc import Callable
from typing import Any

import trio

from unhosted.node.core.pairing_words import FinishPake, MakePake, PakeFailed, PakeReady
from unhosted.node.core.peering import PeerId

COMPUTING_MAX = 1
"""At once: it is pure Python, so more of them only share one core's time with everything else."""


class Pakes:
    """The exchanges under way. Their secrets live here until the key is made, and nowhere else."""

    def __init__(self, own: PeerId, entropy: Callable[[int], bytes]) -> None:
        self._own = own
        self._entropy = entropy
        self._limiter = trio.CapacityLimiter(COMPUTING_MAX)
        self._begun: dict[int, tuple[Any, bytes]] = {}

    async def compute(self, effect: MakePake | FinishPake) -> PakeReady | PakeFailed:
        """Our message, and the key if theirs is here."""
        if isinstance(effect, MakePake):
            return await trio.to_thread.run_sync(self._make, effect, limiter=self._limiter)
        return await trio.to_thread.run_sync(self._finish, effect, limiter=self._limiter)

    def forget(self, channel: int) -> None:
        self._begun.pop(channel, None)

    def _make(self, effect: MakePake) -> PakeReady | PakeFailed:
        from spake2 import SPAKE2_A, SPAKE2_B

        ids = (self._own, effect.peer) if effect.role == "join" else (effect.peer, self._own)
        side = SPAKE2_A if effect.role == "join" else SPAKE2_B
        exchange = side(
            effect.code.encode(), idA=ids[0].encode(), idB=ids[1].encode(), entropy_f=self._entropy
        )
        message = exchange.start()
        self._begun[effect.channel] = exchange, message
        if effect.theirs is None:
            return PakeReady(channel=effect.channel, pake=message, key=None)
        return self._finish(FinishPake(channel=effect.channel, theirs=effect.theirs))

    def _finish(self, effect: FinishPake) -> PakeReady | PakeFailed:
        begun = self._begun.pop(effect.channel, None)
        if begun is None:
            return PakeFailed(channel=effect.channel)
        exchange, message = begun
        try:
            key = exchange.finish(effect.theirs)
        except (
            Exception
        ):  # the wrong side, our own message, no point of the curve or of the group: of many kinds
            return PakeFailed(channel=effect.channel)
        return PakeReady(channel=effect.channel, pake=message, key=key)
