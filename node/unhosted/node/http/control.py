"""Models, health, metrics and the node's own JSON: everything that generates nothing."""

import dataclasses
from datetime import UTC, datetime

from unhosted.node.core.errors import Refused
from unhosted.node.core.inference import LoadedModel
from unhosted.node.core.peering import ModelFacts
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
    """OpenAI's list, or Anthropic's when its SDK asks: models of this machine, then those of paired ones."""
    models = [shown for _, shown in _all_models(exchange)]
    if b"anthropic-version" not in exchange.headers:
        await send_json(exchange.send, {"object": "list", "data": models})
        return
    first, last = (models[0]["id"], models[-1]["id"]) if models else (None, None)
    page = {"data": models, "has_more": False, "first_id": first, "last_id": last}
    await send_json(exchange.send, page)


async def get_model(exchange: Exchange) -> None:
    """One model by its name or an alias of it, with or without a radius suffix."""
    asked, _ = model_and_radius(exchange.scope["path_params"]["model"], None)
    for names, shown in _all_models(exchange):
        if asked in names:
            await send_json(exchange.send, shown)
            return
    raise Refused(
        "model_not_found",
        f"model {asked!r} is not on this node; GET /v1/models lists those that are, `unhosted pull` adds one",
        field="model",
    )


def _all_models(exchange: Exchange) -> list[tuple[tuple[str, ...], dict[str, object]]]:
    """Each model by its names, in the words of the SDK that asks."""
    is_anthropic = b"anthropic-version" in exchange.headers
    listed: list[tuple[tuple[str, ...], dict[str, object]]] = []
    for entry in exchange.node.models():
        shown = _anthropic_model(entry.name, entry.created_unix_s) if is_anthropic else _openai_model(entry)
        listed.append(((entry.name, *entry.aliases), shown))
    for facts, owners in exchange.node.peer_models():
        shown = _anthropic_model(facts.name, 0) if is_anthropic else _peer_model(facts, owners)
        listed.append(((facts.name, *facts.aliases), shown))
    return listed


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


def _peer_model(facts: ModelFacts, owners: tuple[str, ...]) -> dict[str, object]:
    """A model that is not here but can be asked. created: nobody says when the file was made."""
    return {
        "id": facts.name,
        "object": "model",
        "created": 0,
        "owned_by": ", ".join(owners),
        "unhosted": dataclasses.asdict(facts) | {"ring": "trusted", "peers": list(owners)},
    }


def _anthropic_model(name: str, created_unix_s: int) -> dict[str, object]:
    created = datetime.fromtimestamp(created_unix_s, UTC)
    return {
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": created.isoformat().replace("+00:00", "Z"),
    }
