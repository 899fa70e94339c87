"""A close that was offered, and the answer that its asker waits for."""

import trio

from unhosted.market.messages import CloseSigned
from unhosted.node.core.errors import Refused

CLOSE_S = 30.0
"""The seller looks at its book, and signs; who waits longer asks the contract."""


class CloseAsked:
    def __init__(self) -> None:
        self._done: trio.Event | None = None
        self._result: CloseSigned | Refused | None = None

    def begin(self) -> None:
        self._done, self._result = trio.Event(), None

    def answer(self, result: CloseSigned | Refused) -> None:
        """The first one counts; nothing happens if nobody waits."""
        if self._done is not None and self._result is None:
            self._result = result
            self._done.set()

    async def wait(self) -> CloseSigned:
        """Raises: Refused."""
        assert self._done is not None
        with trio.move_on_after(CLOSE_S):
            await self._done.wait()
        result, self._done = self._result, None
        if result is None:
            raise Refused("no_provider", "the seller does not answer the close; ask the contract for it")
        if isinstance(result, Refused):
            raise result
        return result
