"""/api/events: what changes around this node, as server-sent events, so that a page need not ask again."""

import dataclasses

import trio

from unhosted.node.http.collected import event
from unhosted.node.http.errors import RETRY_AFTER_S, Rejected
from unhosted.node.http.exchange import Exchange, Header

SUBSCRIBERS_MAX = 32
"""Windows that a household leaves open; each costs a connection and a copy of every change."""

CALM_S = 0.25
"""Changes come in bursts, one connection makes several; more often nobody can read it."""

_HEADERS: tuple[Header, ...] = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    # nginx holds a stream back until its buffer is full unless told otherwise.
    (b"x-accel-buffering", b"no"),
)


class Events:
    """The subscribers of one app. `closing`: the node stops; they are told by the stream's end."""

    def __init__(self, closing: trio.Event) -> None:
        self._closing = closing
        self._subscribers = 0

    async def handle(self, exchange: Exchange) -> None:
        """An event `peers` at once and after each change, with the same JSON as /api/peers."""
        if self._subscribers >= SUBSCRIBERS_MAX:
            raise Rejected(
                503,
                "overloaded",
                f"{self._subscribers} windows listen already, at most {SUBSCRIBERS_MAX}; close some",
                retry_after_s=RETRY_AFTER_S,
            )
        self._subscribers += 1
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_at, self._closing, nursery.cancel_scope)
                nursery.start_soon(_cancel_when_gone, exchange, nursery.cancel_scope)
                await _tell(exchange)
        finally:
            self._subscribers -= 1
        if self._closing.is_set():
            await exchange.send({"type": "http.response.body", "body": b"", "more_body": False})


async def _tell(exchange: Exchange) -> None:
    node, send = exchange.node, exchange.send
    await send({"type": "http.response.start", "status": 200, "headers": list(_HEADERS)})
    change = 0
    while True:
        with trio.move_on_after(exchange.settings.quiet_s) as silence:
            change = await node.wait_change(change)
        data = b": nothing has changed\n\n"
        if not silence.cancelled_caught:
            peers = [dataclasses.asdict(peer) for peer in node.peers()]
            data = event({"change": change, "peers": peers}, "peers")
        # Not to be cut in the middle: the end of the stream is still to be said on this connection.
        with trio.CancelScope(shield=True):
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await trio.sleep(CALM_S)


async def _cancel_at(closing: trio.Event, scope: trio.CancelScope) -> None:
    await closing.wait()
    scope.cancel()


async def _cancel_when_gone(exchange: Exchange, scope: trio.CancelScope) -> None:
    while (await exchange.receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
