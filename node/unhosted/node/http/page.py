"""The pages at / and /wallet: static files, shipped with the package, that load nothing from elsewhere."""

from collections.abc import Mapping
from importlib.resources import files

from unhosted.node.http.deposits import check_loopback
from unhosted.node.http.exchange import Exchange, Header, send_bytes

ASSETS: Mapping[str, bytes] = {
    "page.css": b"text/css; charset=utf-8",
    "page.js": b"text/javascript; charset=utf-8",
    "peers.js": b"text/javascript; charset=utf-8",
    "wallet.css": b"text/css; charset=utf-8",
    "wallet.js": b"text/javascript; charset=utf-8",
    "icon.svg": b"image/svg+xml",
}

_HEADERS: tuple[Header, ...] = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        b"require-trusted-types-for 'script'; trusted-types 'none'",
    ),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)

_TOKEN_MARK = "{{page-token}}"


async def index(exchange: Exchange) -> None:
    """The page with its token, which only pages of this origin can read and state-changing calls need."""
    await _send_page(exchange, "page.html")


async def wallet(exchange: Exchange) -> None:
    """The page on which the owner's browser wallet signs a deposit; on this machine alone."""
    check_loopback(exchange)
    await _send_page(exchange, "wallet.html")


async def _send_page(exchange: Exchange, name: str) -> None:
    html = _read(name).replace(_TOKEN_MARK, exchange.page_token)
    await send_bytes(exchange.send, html.encode(), content_type=b"text/html; charset=utf-8", headers=_HEADERS)


async def asset(exchange: Exchange) -> None:
    name = exchange.scope["path"].removeprefix("/")
    await send_bytes(exchange.send, _read(name).encode(), content_type=ASSETS[name], headers=_HEADERS)


def _read(name: str) -> str:
    return files(__package__).joinpath("static", name).read_text(encoding="utf-8")
