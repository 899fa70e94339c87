"""/api/pull: the node fetches a model, from paired machines or its origin, and tells how far it is."""

import dataclasses
import json
from collections.abc import Mapping

import trio

from unhosted.node.core.errors import Refused
from unhosted.node.core.model_ref import REF_CHARS_MAX
from unhosted.node.core.service import ModelEntry
from unhosted.node.http.errors import error_body, fault_of
from unhosted.node.http.exchange import Exchange, Header
from unhosted.node.http.parsing import Body, invalid, parse

_HEADERS: tuple[Header, ...] = (
    (b"content-type", b"application/x-ndjson; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
)


class PullBody(Body):
    """model: a reference as `unhosted pull` takes it. name: what to call it here."""

    model: str
    name: str | None = None


async def pull(exchange: Exchange) -> None:
    """Lines of JSON: {"progress": …} while it goes on, then {"model": …} or {"error": …}.

    A client that leaves stops the pull; what has arrived is kept for the next one.
    """
    body = parse(PullBody, exchange.body)
    if not body.model.strip() or len(body.model) > REF_CHARS_MAX:
        raise invalid(
            "model", f"must have 1 to {REF_CHARS_MAX} characters; `unhosted list --all` shows names"
        )
    fetching = _Fetching(exchange, body)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fetching.watch, nursery.cancel_scope)
        nursery.start_soon(fetching.fetch)
        await fetching.write()
        nursery.cancel_scope.cancel()
    if fetching.refused is not None and not fetching.has_begun:
        raise fetching.refused


class _Fetching:
    """One pull and its reader. Only the newest progress is kept: a slow reader misses some, holds up none."""

    def __init__(self, exchange: Exchange, body: PullBody) -> None:
        self.refused: Refused | None = None
        self.has_begun = False
        self._exchange = exchange
        self._body = body
        self._news = trio.Event()
        self._progress: dict[str, object] | None = None
        self._entry: ModelEntry | None = None
        self._is_ending = False

    async def fetch(self) -> None:
        body = self._body
        try:
            self._entry = await self._exchange.node.pull(body.model, self._report, name=body.name)
        except Refused as refused:
            self.refused = refused
        self._news.set()

    def _report(self, progress: Mapping[str, object]) -> None:
        self._progress = dict(progress)
        self._news.set()

    async def watch(self, scope: trio.CancelScope) -> None:
        while (await self._exchange.receive())["type"] != "http.disconnect":
            pass
        # The end of a whole response is reported as a disconnect too, from within the send that ends it.
        if not self._is_ending:
            scope.cancel()

    async def write(self) -> None:
        while True:
            await self._news.wait()
            self._news = trio.Event()
            while self._progress is not None:
                progress, self._progress = self._progress, None
                await self._line({"progress": progress})
            if self._entry is not None:
                await self._line({"model": dataclasses.asdict(self._entry)}, is_last=True)
                return
            if self.refused is not None:
                if self.has_begun:
                    await self._line(error_body(fault_of(self.refused), "openai"), is_last=True)
                return

    async def _line(self, value: Mapping[str, object], *, is_last: bool = False) -> None:
        send = self._exchange.send
        if not self.has_begun:
            self.has_begun = True
            await send({"type": "http.response.start", "status": 200, "headers": list(_HEADERS)})
        data = json.dumps(value, separators=(",", ":")).encode() + b"\n"
        self._is_ending = is_last
        await send({"type": "http.response.body", "body": data, "more_body": not is_last})
