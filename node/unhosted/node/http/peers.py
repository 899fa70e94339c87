"""Paired machines: who they are, what each may do here, and pairing with another one."""

import dataclasses
import io

from unhosted.node.core.errors import Refused
from unhosted.node.core.pairing_code import CODE_TEXT_CHARS_MAX
from unhosted.node.core.peering import MODELS_MAX, Capabilities
from unhosted.node.core.service import PairingView
from unhosted.node.http.exchange import Exchange, Header, send_bytes, send_json
from unhosted.node.http.parsing import Body, invalid, parse

_QR_HEADERS: tuple[Header, ...] = (
    # The picture holds the code: it is for this node's own page, and for as long as that is open.
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
)


class AllowBody(Body):
    """Fields of `Capabilities`; those that are absent stay as they are. models null: all models."""

    may_ask: bool | None = None
    may_fetch: bool | None = None
    may_pool: bool | None = None
    models: list[str] | None = None
    tokens_per_day: int | None = None
    concurrency: int | None = None


class PairBody(Body):
    """code: as the other machine shows it; without one, this machine makes a code."""

    code: str | None = None


class ConfirmBody(Body):
    accept: bool


class DrainBody(Body):
    draining: bool


async def list_peers(exchange: Exchange) -> None:
    peers = [dataclasses.asdict(peer) for peer in exchange.node.peers()]
    await send_json(exchange.send, {"peers": peers})


async def remove_peer(exchange: Exchange) -> None:
    removed = await exchange.node.unpair(exchange.scope["path_params"]["peer"])
    await send_json(exchange.send, {"removed": dataclasses.asdict(removed)})


async def allow_peer(exchange: Exchange) -> None:
    """Change what a paired machine may do here; takes effect at its next request."""
    changes = capability_changes(parse(AllowBody, exchange.body))
    changed = await exchange.node.allow_peer(exchange.scope["path_params"]["peer"], changes)
    await send_json(exchange.send, {"peer": dataclasses.asdict(changed)})


def capability_changes(body: AllowBody) -> dict[str, object]:
    """The fields that were given. Raises: Refused (invalid_request) naming the field."""
    known = ", ".join(field.name for field in dataclasses.fields(Capabilities))
    for name in body.model_extra or {}:
        # A typing error in a permission must not look like success.
        raise invalid(name, f"is no capability; these are: {known}")
    changes: dict[str, object] = {}
    for name in sorted(body.model_fields_set):
        value = getattr(body, name)
        if value is None and name not in ("models", "tokens_per_day"):
            raise invalid(name, "must not be null; leave it out to keep it as it is")
        changes[name] = tuple(value) if isinstance(value, list) else value
    if not changes:
        raise invalid("body", f"names nothing to change; fields: {known}")
    if body.models is not None and len(body.models) > MODELS_MAX:
        raise invalid("models", f"{len(body.models)} names, at most {MODELS_MAX}; null allows all models")
    for name, least in (("tokens_per_day", 0), ("concurrency", 1)):
        number = changes.get(name)
        if isinstance(number, int) and number < least:
            raise invalid(name, f"{number} is below {least}")
    return changes


async def pair(exchange: Exchange) -> None:
    """Offer a code, or use one that another machine shows."""
    body = parse(PairBody, exchange.body or b"{}")
    if body.code is None:
        view = await exchange.node.offer_pairing()
    elif len(body.code) > CODE_TEXT_CHARS_MAX:
        raise invalid(
            "code", f"{len(body.code)} characters, at most {CODE_TEXT_CHARS_MAX}; a code is shorter"
        )
    else:
        view = await exchange.node.join_pairing(body.code)
    await _send_view(exchange, view)


async def get_pairing(exchange: Exchange) -> None:
    await _send_view(exchange, _pairing(exchange))


async def confirm_pairing(exchange: Exchange) -> None:
    body = parse(ConfirmBody, exchange.body)
    view = await exchange.node.confirm_pairing(_pairing_id(exchange), accept=body.accept)
    await _send_view(exchange, view)


async def cancel_pairing(exchange: Exchange) -> None:
    await exchange.node.cancel_pairing(_pairing_id(exchange))
    await send_json(exchange.send, {"cancelled": True})


async def pairing_qr(exchange: Exchange) -> None:
    """The address code as a picture, for the page; black on white, as cameras want it."""
    import segno

    code = _pairing(exchange).address_code
    if code is None:
        raise Refused("pairing_failed", "there is no address code here to show; type the short code")
    picture = io.BytesIO()
    segno.make(code, error="l", micro=False).save(
        picture, kind="svg", scale=4, border=3, dark="#000", light="#fff", xmldecl=False
    )
    await send_bytes(exchange.send, picture.getvalue(), content_type=b"image/svg+xml", headers=_QR_HEADERS)


async def drain(exchange: Exchange) -> None:
    """draining: requests of paired machines that run are finished, new ones are turned away."""
    body = parse(DrainBody, exchange.body)
    await exchange.node.set_draining(body.draining)
    await send_json(exchange.send, {"draining": body.draining})


def _pairing_id(exchange: Exchange) -> str:
    return str(exchange.scope["path_params"]["pairing"])


def _pairing(exchange: Exchange) -> PairingView:
    return exchange.node.pairing(_pairing_id(exchange))


async def _send_view(exchange: Exchange, view: PairingView) -> None:
    # The code is a secret for its ten minutes: no cache keeps it.
    headers = ((b"cache-control", b"no-store"),)
    await send_json(exchange.send, dataclasses.asdict(view), headers=headers)
