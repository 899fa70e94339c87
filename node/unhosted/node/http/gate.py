"""Who may ask, and how much: every request passes here before anything reads its body's meaning.

In this order: the Host header (against DNS rebinding), the Origin (against other sites' pages), the key,
the page's token, the number of requests under way, the size of the body. A refusal of any kind that
reaches the gate leaves it as JSON in the dialect of the path. Not handled here: TLS (put a proxy in front),
and rate limits per client (the queue behind is bounded, and keys are the owner's).
"""

import base64
import binascii
import hmac
import logging
import traceback
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import urlsplit

import trio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unhosted.node.core.errors import LocalFault, Refused
from unhosted.node.core.service import Node
from unhosted.node.http.errors import RETRY_AFTER_S, Fault, Rejected, fault_of
from unhosted.node.http.exchange import Exchange, Header, dialect_of, send_fault
from unhosted.node.http.settings import (
    BODIES_BYTES_MAX,
    BODY_TIMEOUT_S,
    DRAIN_S,
    HttpSettings,
    is_address,
    is_loopback_host,
)

log = logging.getLogger(__name__)

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_CORS_PREFLIGHT: tuple[Header, ...] = (
    (b"access-control-allow-methods", b"GET, POST, DELETE, OPTIONS"),
    (b"access-control-max-age", b"600"),
)
_EXPOSED = (
    b"x-unhosted-ring, x-unhosted-served-by, x-unhosted-cost-micros, x-unhosted-check, x-unhosted-receipt"
)


class Gate:
    """The outermost ASGI app. `inner` finds its `Exchange` in the scope, under `unhosted.exchange`."""

    def __init__(self, inner: ASGIApp, node: Node, settings: HttpSettings, page_token: str) -> None:
        self._inner = inner
        self._node = node
        self._settings = settings
        self._page_token = page_token
        self._requests = 0
        self._bodies_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            return
        headers: Mapping[bytes, bytes] = {name.lower(): value for name, value in scope["headers"]}
        answered = _Answered(send, self._cors(headers))
        started_at = trio.current_time()
        shown_path = _shown(scope["path"].encode())
        try:
            await self._answer(scope, headers, receive, answered)
        finally:
            # What was asked and answered is nobody's business, and a query may hold some of it.
            log.info(
                "request method=%s path=%s status=%s ms=%d",
                scope["method"],
                shown_path,
                answered.status or "none",
                (trio.current_time() - started_at) * 1000,
            )

    async def _answer(
        self, scope: Scope, headers: Mapping[bytes, bytes], receive: Receive, answered: "_Answered"
    ) -> None:
        try:
            if self._is_preflight(scope, headers):
                await _send_preflight(answered.send, headers)
                return
            self._check(scope, headers)
            await self._admit(scope, headers, receive, answered.send)
        except Rejected as rejected:
            await self._refuse(scope, receive, answered, rejected.fault)
        except Refused as refused:
            await self._refuse(scope, receive, answered, fault_of(refused))
        except Exception as error:
            if _is_local_fault(error):
                raise
            # A fault in one request: it gets its 500, the others go on. The log shows where, but not the
            # exception's own words, which may quote a prompt.
            where = "".join(_frames(error))
            path = _shown(scope["path"].encode())
            log.error("request_failed path=%s error=%s\n%s", path, type(error).__name__, where)
            message = "an unexpected error on this node; its log says where"
            fault = Fault(status=500, code="internal_error", message=message)
            await self._refuse(scope, receive, answered, fault)

    def _check(self, scope: Scope, headers: Mapping[bytes, bytes]) -> None:
        settings = self._settings
        self._check_host(headers)
        origin = headers.get(b"origin")
        if origin is not None and not self._is_allowed_origin(origin, headers):
            raise Rejected(
                403,
                "origin_refused",
                f"pages of {_shown(origin)} may not call this node; add it to the setting allowed_origins",
            )
        path = scope["path"]
        if not settings.is_loopback and path != "/health" and not self._has_key(headers):
            raise Rejected(
                401, "unauthorized", "this node needs its key: send it as Authorization: Bearer KEY"
            )
        is_change = scope["method"] not in _SAFE_METHODS and path.startswith("/api/")
        if is_change and origin is not None:
            token = headers.get(b"x-unhosted-page-token", b"")
            if not hmac.compare_digest(token, self._page_token.encode()):
                raise Rejected(
                    403, "page_token_missing", "a page must send its x-unhosted-page-token; reload the page"
                )

    def _check_host(self, headers: Mapping[bytes, bytes]) -> None:
        host = _host_name(headers.get(b"host", b""))
        settings = self._settings
        allowed = (settings.host.lower(), *(name.lower() for name in settings.hosts))
        if host in allowed or is_loopback_host(host):
            return
        # Elsewhere the node is reached by whatever address its machine has. A page that was rebound by DNS
        # comes with its own name, never with an address.
        if not settings.is_loopback and is_address(host):
            return
        raise Rejected(
            403,
            "host_refused",
            f"{_shown(host.encode())!r} is no name of this node; add it to the setting allowed_hosts",
        )

    def _is_allowed_origin(self, origin: bytes, headers: Mapping[bytes, bytes]) -> bool:
        text = origin.decode("latin-1")
        if text in self._settings.origins:
            return True
        parts = urlsplit(text)
        own = headers.get(b"host", b"").decode("latin-1")
        return parts.scheme in ("http", "https") and parts.netloc.lower() == own.lower()

    def _has_key(self, headers: Mapping[bytes, bytes]) -> bool:
        """As Bearer, as Anthropic's x-api-key, or as Basic's password, which is what a browser can send."""
        token = self._settings.token
        if token is None:
            return False
        given = [headers.get(b"x-api-key", b"")]
        scheme, _, credentials = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() == b"bearer":
            given.append(credentials.strip())
        elif scheme.lower() == b"basic":
            given.append(_basic_password(credentials))
        matches = [hmac.compare_digest(one, token.encode()) for one in given]
        return any(matches)

    def _cors(self, headers: Mapping[bytes, bytes]) -> tuple[Header, ...]:
        origin = headers.get(b"origin")
        if origin is None or origin.decode("latin-1") not in self._settings.origins:
            return ()
        return (
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", _EXPOSED),
            (b"vary", b"origin"),
        )

    def _is_preflight(self, scope: Scope, headers: Mapping[bytes, bytes]) -> bool:
        # Answered before the key is checked, because browsers send none with it.
        if scope["method"] != "OPTIONS" or b"access-control-request-method" not in headers:
            return False
        self._check_host(headers)
        return bool(self._cors(headers))

    async def _admit(
        self, scope: Scope, headers: Mapping[bytes, bytes], receive: Receive, send: Send
    ) -> None:
        # A busy node is alive: who restarts nodes that are not must hear so.
        if self._requests >= self._settings.requests_max and scope["path"] != "/health":
            raise _overloaded(f"{self._requests} requests are under way, which is this node's limit")
        self._requests += 1
        read = 0
        body = bytearray()
        try:
            with trio.move_on_after(BODY_TIMEOUT_S) as timeout:
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return
                    part = message.get("body", b"")
                    read += len(part)
                    self._bodies_bytes += len(part)
                    self._check_size(headers, read)
                    body += part
                    if not message.get("more_body", False):
                        break
            if timeout.cancelled_caught:
                raise Rejected(
                    408, "body_timeout", f"the body was not whole after {BODY_TIMEOUT_S:.0f} seconds"
                )
            scope["unhosted.exchange"] = Exchange(
                node=self._node,
                settings=self._settings,
                page_token=self._page_token,
                scope=scope,
                headers=headers,
                body=bytes(body),
                receive=receive,
                send=send,
            )
            del body
            await self._inner(scope, receive, send)
        finally:
            self._requests -= 1
            self._bodies_bytes -= read

    def _check_size(self, headers: Mapping[bytes, bytes], read: int) -> None:
        declared = headers.get(b"content-length", b"0")
        size = max(read, int(declared) if declared.isdigit() else 0)
        limit = self._settings.body_bytes_max
        if size > limit:
            raise Rejected(413, "body_too_large", f"the body has {size} bytes, this node takes {limit}")
        if self._bodies_bytes > BODIES_BYTES_MAX:
            raise _overloaded(f"{self._bodies_bytes} bytes of bodies are held, which is this node's limit")

    async def _refuse(self, scope: Scope, receive: Receive, answered: "_Answered", fault: Fault) -> None:
        if answered.has_started:
            # The status is sent: all that is left is to end the response where it is.
            return
        async with trio.open_nursery() as nursery:
            if "unhosted.exchange" not in scope:
                # The body is not read yet. The rest of it is thrown away, for a while: a client that is
                # still sending would not see the answer, and a full queue would block it altogether.
                await nursery.start(_drain, receive)
            await send_fault(answered.send, fault, dialect_of(scope["path"]))
            nursery.cancel_scope.cancel()


class _Answered:
    """ASGI's send with the CORS headers added, remembering whether the response has begun."""

    def __init__(self, send: Send, cors: tuple[Header, ...]) -> None:
        self.has_started = False
        self.status: int | None = None
        self.send: Callable[[Message], Awaitable[None]] = self._start
        self._send = send
        self._cors = cors

    async def _start(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.has_started = True
            self.status = message["status"]
            message = {**message, "headers": [*message["headers"], *self._cors]}
        await self._send(message)


async def _drain(receive: Receive, task_status: trio.TaskStatus[None]) -> None:
    """Throw the body away, reporting ready at its end or after `DRAIN_S`, and go on until cancelled."""
    with trio.move_on_after(DRAIN_S):
        while await _has_more(receive):
            pass
    task_status.started()
    while await _has_more(receive):
        pass


async def _has_more(receive: Receive) -> bool:
    message = await receive()
    return message["type"] != "http.disconnect" and bool(message.get("more_body", False))


async def _send_preflight(send: Send, headers: Mapping[bytes, bytes]) -> None:
    asked = headers.get(b"access-control-request-headers", b"")
    allowed = (*_CORS_PREFLIGHT, (b"access-control-allow-headers", asked), (b"content-length", b"0"))
    await send({"type": "http.response.start", "status": 204, "headers": list(allowed)})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _is_local_fault(error: Exception) -> bool:
    if isinstance(error, ExceptionGroup):
        return error.subgroup(LocalFault) is not None
    return isinstance(error, LocalFault)


def _frames(error: BaseException) -> list[str]:
    """Where it was raised, a group's members included: frames only."""
    frames = traceback.format_tb(error.__traceback__)
    for member in error.exceptions if isinstance(error, BaseExceptionGroup) else ():
        frames += [f"  {type(member).__name__}\n", *_frames(member)]
    return frames


def _overloaded(message: str) -> Rejected:
    return Rejected(503, "overloaded", f"{message}; come back in a moment", retry_after_s=RETRY_AFTER_S)


def _host_name(host: bytes) -> str:
    """The name or address of a Host header: without port, brackets and case."""
    text = host.decode("latin-1").lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0]


def _basic_password(credentials: bytes) -> bytes:
    try:
        return base64.b64decode(credentials, validate=True).partition(b":")[2]
    except binascii.Error:
        return b""


def _shown(value: bytes) -> str:
    """A header's value in a message: short, and nothing but printable ASCII."""
    text = value[:80].decode("latin-1")
    return "".join(char if " " <= char <= "~" else "?" for char in text)
