"""/openapi.json, made of the same models that check the requests."""

from pydantic.json_schema import models_json_schema

from unhosted.node.http.chat import ChatBody
from unhosted.node.http.checks import AskBody, CheckBody
from unhosted.node.http.completions import CompletionBody
from unhosted.node.http.control import ModelName
from unhosted.node.http.deposits import SignatureBody
from unhosted.node.http.embeddings import EmbeddingBody
from unhosted.node.http.messages import CountBody, MessageBody
from unhosted.node.http.parsing import Body
from unhosted.node.http.peers import AllowBody, ConfirmBody, DrainBody, PairBody
from unhosted.node.http.pulling import PullBody
from unhosted.node.http.responses import ResponseBody
from unhosted.node.version import installed_version

_POSTS: dict[str, tuple[type[Body], str]] = {
    "/v1/chat/completions": (ChatBody, "Answer a conversation (OpenAI)"),
    "/v1/completions": (CompletionBody, "Continue prompts (OpenAI)"),
    "/v1/embeddings": (EmbeddingBody, "Turn texts into vectors (OpenAI)"),
    "/v1/messages": (MessageBody, "Answer a conversation (Anthropic)"),
    "/v1/messages/count_tokens": (CountBody, "Count a conversation's tokens (Anthropic)"),
    "/v1/responses": (ResponseBody, "Answer an input (OpenAI Responses, without stored state)"),
    "/api/models/load": (ModelName, "Load a model into memory"),
    "/api/models/unload": (ModelName, "Free a model's memory"),
    "/api/pull": (PullBody, "Fetch a model; progress as lines of JSON"),
    "/api/peers/{peer}/allow": (AllowBody, "Change what a paired machine may do here"),
    "/api/pair": (PairBody, "Make a pairing code, or use one"),
    "/api/pair/{pairing}/confirm": (ConfirmBody, "Say yes or no to the other machine"),
    "/api/wallet/funding/{deposit}": (SignatureBody, "Take the owner's signature of a deposit"),
    "/api/checks": (CheckBody, "Read paid answers again, and say what that found"),
    "/api/checks/words": (AskBody, "Have a paired machine read evidence again; prompts and answers go to it"),
    "/api/drain": (DrainBody, "Take no more requests of paired machines, or take them again"),
}

_GETS = {
    "/v1/models": "Models of this node",
    "/v1/models/{model}": "One model",
    "/health": "Alive",
    "/health/ready": "Whether a request could be answered now",
    "/metrics": "Prometheus metrics",
    "/api/status": "State of the node",
    "/api/models": "Models stored and loaded",
    "/api/peers": "Paired machines, and those seen on this network",
    "/api/pair/{pairing}": "How far a pairing is",
    "/api/receipts": "What was paid for, the newest first; query: limit, before, seller",
    "/api/receipts/{receipt}": "One receipt, and whether its answer was checked",
    "/api/checks": "What checking found of each seller and model; query: seller",
    "/api/wallet/funding": "Deposits that wait for the owner's signature",
    "/api/events": "Changes of paired machines and pairings, as server-sent events",
}

_DELETES = {
    "/api/peers/{peer}": "End the pairing with a machine, at once and there too",
    "/api/pair/{pairing}": "Cancel a pairing",
    "/api/checks/{seller}": "Start again with a seller, as if nothing was known of it",
}

_STREAMING = (ChatBody, CompletionBody, MessageBody, ResponseBody)


def document() -> dict[str, object]:
    """An OpenAPI 3.1 document of every path that serves programs."""
    models = dict.fromkeys(model for model, _ in _POSTS.values())
    references, definitions = models_json_schema(
        [(model, "validation") for model in models], ref_template="#/components/schemas/{model}"
    )
    paths: dict[str, dict[str, object]] = {}
    for path, summary in _GETS.items():
        paths.setdefault(path, _parameters(path))["get"] = _get(path, summary)
    for path, (model, summary) in _POSTS.items():
        operation = _post(summary, references[model, "validation"], is_streaming=model in _STREAMING)
        paths.setdefault(path, _parameters(path))["post"] = operation
    for path, summary in _DELETES.items():
        paths.setdefault(path, _parameters(path))["delete"] = _get(path, summary)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Unhosted", "version": installed_version()},
        "paths": paths,
        "components": {
            "schemas": {**definitions["$defs"], "Error": _ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        # A key is needed unless the node listens on loopback alone.
        "security": [{}, {"key": []}],
    }


_ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
                "details": {"type": "object"},
            },
        }
    },
}

_ERRORS = {
    "4XX": {
        "description": "Refused; code says why, param names the field",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    },
    "503": {
        "description": "Overloaded or not able to serve it; retry-after says when to come back",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    },
}


_KINDS = {"/metrics": "text/plain", "/api/events": "text/event-stream"}


def _parameters(path: str) -> dict[str, object]:
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    parameters = [
        {"name": one, "in": "path", "required": True, "schema": {"type": "string"}} for one in names
    ]
    return {"parameters": parameters} if parameters else {}


def _get(path: str, summary: str) -> dict[str, object]:
    kind = _KINDS.get(path, "application/json")
    return {
        "summary": summary,
        "responses": {"200": {"description": "OK", "content": {kind: {}}}, **_ERRORS},
    }


def _post(summary: str, reference: object, *, is_streaming: bool) -> dict[str, object]:
    content: dict[str, object] = {"application/json": {}}
    if is_streaming:
        content["text/event-stream"] = {}
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": {"application/json": {"schema": reference}}},
        "responses": {"200": {"description": "OK", "content": content}, **_ERRORS},
    }
