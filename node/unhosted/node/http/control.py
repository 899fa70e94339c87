"""Models, health, metrics and the node's own JSON: everything that generates nothing."""

import dataclasses
from datetime import UTC, datetime

from unhosted.node.core.errors import Refused
from unhosted.node.core.inference import LoadedModel
from unhosted.node.core.service import ModelEntry
from unhosted.node.http.exchange import Exchange, send_bytes, send_json
from unhosted.node.http.fields import model_and_radius
from unhosted.node.http.parsing import Body, parse

_PROMETHEUS = b"text/plain; version=0.0.4; charset=utf-8"


class ModelName(Body):
    model: str


async def health(exchange: Exchange) -> None:
    """Alive: the one answer that needs no key and asks nothing of the engine."""
    await send_json(exchange.send, {"status": "ok"})


async def health_ready(exchange: Exchange) -> None:
    is_ready, reason = await exchange.node.ready()
    body = {"status": "ready" if is_ready else "not ready", "reason": reason}
    await send_json(exchange.send, body, status=200 if is_ready else 503)


async def metrics(exchange: Exchange) -> None:
    await send_bytes(exchange.send, exchange.node.metrics().encode(), content_type=_PROMETHEUS)


async def status(exchange: Exchange) -> None:
    await send_json(exchange.send, exchange.node.status())


async def list_models(exchange: Exchange) -> None:
    """OpenAI's list, or Anthropic's when its SDK asks."""
    entries = exchange.node.models()
    if b"anthropic-version" not in exchange.headers:
        data = [_openai_model(entry) for entry in entries]
        await send_json(exchange.send, {"object": "list", "data": data})
        return
    models = [_anthropic_model(entry) for entry in entries]
    first, last = (entries[0].name, entries[-1].name) if entries else (None, None)
    page = {"data": models, "has_more": False, "first_id": first, "last_id": last}
    await send_json(exchange.send, page)


async def get_model(exchange: Exchange) -> None:
    """One model by its name or an alias of it, with or without a radius suffix."""
    asked, _ = model_and_radius(exchange.scope["path_params"]["model"], None)
    for entry in exchange.node.models():
        if asked == entry.name or asked in entry.aliases:
            is_anthropic = b"anthropic-version" in exchange.headers
            shown = _anthropic_model(entry) if is_anthropic else _openai_model(entry)
            await send_json(exchange.send, shown)
            return
    raise Refused(
        "model_not_found",
        f"model {asked!r} is not on this node; GET /v1/models lists those that are, `unhosted pull` adds one",
        field="model",
    )


async def api_models(exchange: Exchange) -> None:
    stored = [dataclasses.asdict(entry) for entry in exchange.node.models()]
    loaded = [_loaded(model) for model in exchange.node.loaded()]
    await send_json(exchange.send, {"models": stored, "loaded": loaded})


async def load_model(exchange: Exchange) -> None:
    body = parse(ModelName, exchange.body)
    model, _ = model_and_radius(body.model, None)
    await send_json(exchange.send, {"loaded": _loaded(await exchange.node.load(model))})


async def unload_model(exchange: Exchange) -> None:
    """unloaded: false when it was not in memory."""
    body = parse(ModelName, exchange.body)
    model, _ = model_and_radius(body.model, None)
    await send_json(exchange.send, {"unloaded": await exchange.node.unload(model)})


def _loaded(model: LoadedModel) -> dict[str, object]:
    return dataclasses.asdict(model)


def _openai_model(entry: ModelEntry) -> dict[str, object]:
    return {
        "id": entry.name,
        "object": "model",
        "created": entry.created_unix_s,
        "owned_by": "local",
        "unhosted": dataclasses.asdict(entry),
    }


def _anthropic_model(entry: ModelEntry) -> dict[str, object]:
    created = datetime.fromtimestamp(entry.created_unix_s, UTC)
    return {
        "type": "model",
        "id": entry.name,
        "display_name": entry.name,
        "created_at": created.isoformat().replace("+00:00", "Z"),
    }
