"""What the owner decides about the HTTP surface, and the limits that nobody decides per request."""

import ipaddress
from dataclasses import dataclass

BODIES_BYTES_MAX = 64 << 20
"""Bodies held at once, over all requests: what a crowd of the largest allowed bodies may cost in memory."""

BODY_TIMEOUT_S = 60.0
"""A body that takes longer is not a client on a slow line, it is a socket held open."""

SEND_TIMEOUT_S = 30.0
"""A client that takes nothing for this long is gone: its slot is worth more than its socket."""

HEADERS_BYTES_MAX = 32 << 10
"""h11 keeps the request line and headers in memory until they are whole."""

DRAIN_S = 2.0
"""How long a refused body is still read, so that the client gets to see the answer before the close."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings:
    """Where the node listens and whom it answers.

    port: 0 lets the kernel choose. token: the key every request must carry unless the bind is loopback;
    a bind that is not loopback without a token is refused at start. hosts: further names allowed in the
    Host header, without port. origins: further origins (scheme://host:port) whose pages may call.
    requests_max: beyond it a request gets 503 with retry-after; the engine's own queue is shorter.
    quiet_s: a stream that has been silent this long sends a comment, so that proxies keep it open.
    """

    host: str = "127.0.0.1"
    port: int = 8642
    token: str | None = None
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    body_bytes_max: int = 16 << 20
    connections_max: int = 512
    requests_max: int = 256
    keep_alive_s: float = 75.0
    graceful_s: float = 5.0
    quiet_s: float = 15.0

    @property
    def is_loopback(self) -> bool:
        return is_loopback_host(self.host)


def is_loopback_host(host: str) -> bool:
    """Whether a name or literal (without brackets) can only mean this machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_address(host: str) -> bool:
    """Whether it is an address rather than a name: an address cannot be rebound by somebody's DNS."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
