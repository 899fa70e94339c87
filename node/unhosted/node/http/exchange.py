"""One request on its way through: what the gate has read, and the ways to answer it."""

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import get_args

from starlette.types import Receive, Scope, Send

from unhosted.node.core.service import Node, Provenance, Ring
from unhosted.node.http.errors import Dialect, Fault, error_body
from unhosted.node.http.settings import HttpSettings

Header = tuple[bytes, bytes]
Handler = Callable[["Exchange"], Awaitable[None]]

_RINGS: tuple[str, ...] = get_args(Ring)  # from near to far


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


def joint_provenance(parts: Sequence[Provenance]) -> Provenance:
    """Of a request with several prompts, which may have gone to several machines: the farthest ring, and all
    who served, with all reasons.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    return replace(
        first,
        ring=max((part.ring for part in parts), key=_RINGS.index),
        served_by=_each(part.served_by for part in parts),
        reason=_each(part.reason for part in parts),
        cost_micros=sum(part.cost_micros for part in parts),
        passed_over=tuple(dict.fromkeys(line for part in parts for line in part.passed_over)),
        resumed_on=tuple(dict.fromkeys(name for part in parts for name in part.resumed_on)),
    )


def _each(texts: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(texts))


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
        "passed_over": list(provenance.passed_over),
        "resumed_on": list(provenance.resumed_on),
    }


def _header_value(text: str) -> bytes:
    # A peer may choose its name: nothing but printable ASCII gets into a header.
    return "".join(char if " " <= char <= "~" else "?" for char in text).encode("ascii")
