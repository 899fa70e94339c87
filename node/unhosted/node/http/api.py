"""The app: which handler answers which path, behind the gate."""

import secrets

import trio
from starlette.exceptions import HTTPException
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from unhosted.node.core.service import Node
from unhosted.node.http import checks, control, deposits, page, peers
from unhosted.node.http.chat import chat_completions
from unhosted.node.http.completions import completions
from unhosted.node.http.embeddings import embeddings
from unhosted.node.http.errors import Rejected
from unhosted.node.http.events import Events
from unhosted.node.http.exchange import Exchange, Handler, send_json
from unhosted.node.http.gate import Gate
from unhosted.node.http.messages import count_tokens, messages
from unhosted.node.http.pulling import pull
from unhosted.node.http.responses import responses
from unhosted.node.http.settings import HttpSettings


def create_app(node: Node, settings: HttpSettings, *, closing: trio.Event) -> ASGIApp:
    """The ASGI app over `node`: run it under trio, and in one process, since the gate counts requests.

    closing: set when the server stops; streams that would never end by themselves then do.
    """
    router = Router(routes=_routes(Events(closing)), default=_no_route, redirect_slashes=False)

    async def route(scope: Scope, receive: Receive, send: Send) -> None:
        # Starlette raises for a wrong method only below an app; it is then answered in our shape.
        scope["app"] = route
        try:
            await router(scope, receive, send)
        except HTTPException as error:
            raise Rejected(
                error.status_code,
                "method_not_allowed",
                f"{scope['method']} is not a method of {scope['path']}",
            ) from None

    return Gate(route, node, settings, page_token=secrets.token_urlsafe(32))


async def openapi(exchange: Exchange) -> None:
    # Built on demand: the schemas of all bodies take memory and time that serving does not need.
    from unhosted.node.http.openapi import document

    await send_json(exchange.send, document())


def _routes(events: Events) -> list[Route]:
    return [
        _route("/v1/chat/completions", chat_completions, "POST"),
        _route("/v1/completions", completions, "POST"),
        _route("/v1/embeddings", embeddings, "POST"),
        _route("/v1/messages", messages, "POST"),
        _route("/v1/messages/count_tokens", count_tokens, "POST"),
        _route("/v1/responses", responses, "POST"),
        _route("/v1/models", control.list_models),
        _route("/v1/models/{model:path}", control.get_model),
        _route("/health", control.health),
        _route("/health/ready", control.health_ready),
        _route("/metrics", control.metrics),
        _route("/openapi.json", openapi),
        _route("/api/status", control.status),
        _route("/api/models", control.api_models),
        _route("/api/models/load", control.load_model, "POST"),
        _route("/api/models/unload", control.unload_model, "POST"),
        _route("/api/pull", pull, "POST"),
        _route("/api/events", events.handle),
        _route("/api/peers", peers.list_peers),
        # A name may have a slash in it.
        _route("/api/peers/{peer:path}/allow", peers.allow_peer, "POST"),
        _route("/api/peers/{peer:path}", peers.remove_peer, "DELETE"),
        _route("/api/pair", peers.pair, "POST"),
        _route("/api/pair/{pairing}", peers.get_pairing),
        _route("/api/pair/{pairing}", peers.cancel_pairing, "DELETE"),
        _route("/api/pair/{pairing}/confirm", peers.confirm_pairing, "POST"),
        _route("/api/pair/{pairing}/qr.svg", peers.pairing_qr),
        _route("/api/drain", peers.drain, "POST"),
        _route("/api/receipts", checks.list_receipts),
        _route("/api/receipts/{receipt}", checks.get_receipt),
        _route("/api/checks", checks.list_checks),
        _route("/api/checks", checks.start_checks, "POST"),
        _route("/api/checks/words", checks.ask_peer, "POST"),
        _route("/api/checks/{seller}", checks.forgive, "DELETE"),
        _route("/api/wallet/funding", deposits.list_deposits),
        _route("/api/wallet/funding/{deposit}", deposits.sign_deposit, "POST"),
        _route("/", page.index),
        _route("/wallet", page.wallet),
        *(_route(f"/{name}", page.asset) for name in page.ASSETS),
    ]


def _route(path: str, handler: Handler, *methods: str) -> Route:
    return Route(path, _Endpoint(handler), methods=methods or ("GET",))


class _Endpoint:
    """A handler as the ASGI app that Starlette routes to."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._handler(scope["unhosted.exchange"])


async def _no_route(scope: Scope, receive: Receive, send: Send) -> None:
    raise Rejected(
        404, "not_found", f"there is nothing at {scope['path'][:200]}; GET /openapi.json lists the paths"
    )
