"""One request on its way through: what the gate has read, and the ways to answer it."""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from starlette.types import Receive, Scope, Send

from unhosted.node.core.service import Node, Provenance
from unhosted.node.http.errors import Dialect, Fault, error_body
from unhosted.node.http.settings import HttpSettings

Header = tuple[bytes, bytes]
Handler = Callable[["Exchange"], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """headers: by lower-case name, the last one of a name wins. body: whole, within the limit.

    send: ASGI's, with the gate's CORS headers added. After the body, `receive` gives nothing but the
    disconnect.
    """

    node: Node
    settings: HttpSettings
    page_token: str
    scope: Scope
    headers: Mapping[bytes, bytes]
    body: bytes
    receive: Receive
    send: Send

    @property
    def dialect(self) -> Dialect:
        return dialect_of(self.scope["path"])


def dialect_of(path: str) -> Dialect:
    return "anthropic" if path.startswith("/v1/messages") else "openai"


async def send_bytes(
    send: Send, body: bytes, *, status: int = 200, content_type: bytes, headers: Sequence[Header] = ()
) -> None:
    """A whole response."""
    own = [(b"content-type", content_type), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*own, *headers]})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def send_json(send: Send, value: object, *, status: int = 200, headers: Sequence[Header] = ()) -> None:
    await send_bytes(
        send,
        json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace"),
        status=status,
        content_type=b"application/json",
        headers=headers,
    )


async def send_fault(send: Send, fault: Fault, dialect: Dialect, headers: Sequence[Header] = ()) -> None:
    extra = list(headers)
    if fault.retry_after_s is not None:
        extra.append((b"retry-after", str(fault.retry_after_s).encode()))
    if fault.status == 401:
        # Basic as well, so that a browser asks for the key and can open the page.
        extra.append((b"www-authenticate", b'Bearer realm="unhosted"'))
        extra.append((b"www-authenticate", b'Basic realm="unhosted: any name, the key as password"'))
    await send_json(send, error_body(fault, dialect), status=fault.status, headers=extra)


def provenance_headers(provenance: Provenance) -> list[Header]:
    headers = [
        (b"x-unhosted-ring", provenance.ring.encode()),
        (b"x-unhosted-served-by", _header_value(provenance.served_by)),
        (b"x-unhosted-cost-micros", str(provenance.cost_micros).encode()),
        (b"x-unhosted-check", _header_value(provenance.check)),
    ]
    if provenance.receipt is not None:
        headers.append((b"x-unhosted-receipt", _header_value(provenance.receipt)))
    return headers


def provenance_body(provenance: Provenance) -> dict[str, object]:
    """The `unhosted` object: the headers again, with the reason, for clients that see only the body."""
    return {
        "ring": provenance.ring,
        "served_by": provenance.served_by,
        "reason": provenance.reason,
        "cost_micros": provenance.cost_micros,
        "receipt": provenance.receipt,
        "check": provenance.check,
    }


def _header_value(text: str) -> bytes:
    # A peer may choose its name: nothing but printable ASCII gets into a header.
    return "".join(char if " " <= char <= "~" else "?" for char in text).encode("ascii")
