"""The node that already runs on this machine, asked through its own API.

The standard library's client: it starts in a tenth of the time of others, and one request at a time over
loopback needs no more.
"""

import http.client
import ipaddress
import json
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from unhosted.node.cli.backend import Ended, Piece, Question, Started
from unhosted.node.config import Config
from unhosted.node.core.errors import Code, Refused
from unhosted.node.core.inference import Usage
from unhosted.node.core.service import AnswerDelta, Provenance

FIND_TIMEOUT_S = 2.0
"""A node tells its status in a millisecond; one on a machine that swaps in seconds. Longer is not running."""

ANSWER_TIMEOUT_S = 600.0
"""Silence before the first byte: loading a large model from a slow disk takes minutes, not ten."""

BODY_BYTES_MAX = 16 << 20
LINE_BYTES_MAX = 4 << 20
"""Both bound what a wrong server on our port can make this process hold."""

_JSON_BODY = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A node that answered. token: None where the bind needs none."""

    host: str
    port: int
    token: str | None = None

    @property
    def url(self) -> str:
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


def find_server(config: Config) -> Server | None:
    """The node that listens where these settings say, or None: nothing there, or not one of ours."""
    if config.port == 0:
        return None
    server = Server(host=reachable(config.host), port=config.port, token=_token(config))
    try:
        status = fetch(server, "/api/status", timeout_s=FIND_TIMEOUT_S)
    except (OSError, http.client.HTTPException, Refused, ValueError):
        return None
    is_ours = isinstance(status, dict) and {"version", "rings", "refused_connections"} <= status.keys()
    return server if is_ours else None


def running_server(config: Config) -> Server:
    """The running node. Raises: Refused that says how to start one."""
    server = find_server(config)
    if server is None:
        where = f"{config.host}:{config.port}"
        raise Refused("engine_failed", f"no node is running at {where}; start one with `unhosted serve`")
    return server


def fetch(
    server: Server, path: str, *, method: str = "GET", value: object = None, timeout_s: float = 30.0
) -> Any:
    """The JSON of a path; value: the JSON to send. Raises: Refused with the server's own message."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=timeout_s)
    try:
        body, headers = (None, {}) if value is None else (json.dumps(value).encode(), _JSON_BODY)
        connection.request(method, path, body, _headers(server) | headers)
        response = connection.getresponse()
        content = response.read(BODY_BYTES_MAX)
        if response.status >= 400:
            raise _refusal(content, response.status)
        return json.loads(content)
    finally:
        connection.close()


def fetch_lines(server: Server, path: str, value: object) -> Generator[Mapping[str, Any], None, None]:
    """POST, and the lines of JSON as they come. Closing the iterator ends the work there.

    Raises: Refused, also for a line that is an error, and when the server breaks off.
    """
    connection = http.client.HTTPConnection(server.host, server.port, timeout=ANSWER_TIMEOUT_S)
    try:
        connection.request("POST", path, json.dumps(value).encode(), _headers(server) | _JSON_BODY)
        response = connection.getresponse()
        if response.status >= 400:
            raise _refusal(response.read(BODY_BYTES_MAX), response.status)
        while line := response.readline(LINE_BYTES_MAX):
            shown = json.loads(line)
            if "error" in shown:
                raise _refusal(line, response.status)
            yield shown
    except (OSError, http.client.HTTPException) as error:
        raise Refused("engine_failed", f"the node at {server.url} broke off: {error}; see its log") from None
    finally:
        connection.close()


class RemoteBackend:
    def __init__(self, server: Server) -> None:
        self._server = server

    @property
    def where(self) -> str:
        return self._server.url

    def ask(self, question: Question) -> Generator[Piece, None, None]:
        """As `Backend.ask`; the server frees the slot when the connection closes."""
        server = self._server
        connection = http.client.HTTPConnection(server.host, server.port, timeout=ANSWER_TIMEOUT_S)
        try:
            body = json.dumps(_body(question)).encode()
            connection.request("POST", "/v1/chat/completions", body, _headers(server) | _JSON_BODY)
            response = connection.getresponse()
            if response.status >= 400:
                raise _refusal(response.read(BODY_BYTES_MAX), response.status)
            yield Started(model=question.model, provenance=_provenance(response.headers))
            for chunk in _events(response):
                yield from _deltas(chunk)
                if "unhosted" in chunk:
                    yield Ended(provenance=_last_provenance(chunk["unhosted"]))
        except (OSError, http.client.HTTPException) as error:
            message = f"the node at {server.url} broke off: {error}; see its log, then ask again"
            raise Refused("engine_failed", message) from None
        finally:
            connection.close()


def _body(question: Question) -> dict[str, object]:
    messages = [{"role": message.role, "content": message.content} for message in question.messages]
    body: dict[str, object] = {
        "model": question.model,
        "messages": messages,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    for name in ("max_tokens", "temperature", "seed"):
        value = getattr(question, name)
        if value is not None:
            body[name] = value
    if question.schema is not None:
        shape = {"name": "answer", "strict": True, "schema": json.loads(question.schema)}
        body["response_format"] = {"type": "json_schema", "json_schema": shape}
    if question.radius is not None:
        body["unhosted"] = {"radius": question.radius}
    return body


def _events(response: http.client.HTTPResponse) -> Iterator[Mapping[str, Any]]:
    while line := response.readline(LINE_BYTES_MAX):
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            return
        chunk = json.loads(data)
        if "error" in chunk:
            raise _refusal(data, 500)
        yield chunk
    raise http.client.IncompleteRead(b"")


def _deltas(chunk: Mapping[str, Any]) -> Iterator[AnswerDelta]:
    counts = chunk.get("usage")
    usage = None
    if counts:
        details = counts.get("prompt_tokens_details") or {}
        usage = Usage(
            prompt_tokens=counts["prompt_tokens"],
            cached_tokens=details.get("cached_tokens", 0),
            completion_tokens=counts["completion_tokens"],
        )
    for choice in chunk.get("choices") or ():
        text = (choice.get("delta") or {}).get("content") or ""
        yield AnswerDelta(text=text, finish=choice.get("finish_reason"))
    if usage is not None:
        yield AnswerDelta(usage=usage)


def _provenance(headers: http.client.HTTPMessage) -> Provenance:
    ring = headers.get("x-unhosted-ring", "local")
    cost = headers.get("x-unhosted-cost-micros", "0")
    return Provenance(
        ring=cast("Any", ring),
        served_by=headers.get("x-unhosted-served-by", ""),
        reason="",
        cost_micros=int(cost) if cost.isdecimal() else 0,
        receipt=headers.get("x-unhosted-receipt"),
        check=headers.get("x-unhosted-check", ""),
    )


def _last_provenance(told: Mapping[str, Any]) -> Provenance:
    return Provenance(
        ring=told["ring"],
        served_by=str(told["served_by"]),
        reason=str(told["reason"]),
        cost_micros=int(told["cost_micros"]),
        receipt=told["receipt"],
        check=str(told["check"]),
        passed_over=tuple(told.get("passed_over", ())),
        resumed_on=tuple(told.get("resumed_on", ())),
    )


def _refusal(body: bytes, status: int) -> Refused:
    try:
        error = json.loads(body)["error"]
        return Refused(cast("Code", error.get("code") or "engine_failed"), str(error["message"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        return Refused("engine_failed", f"the node answered with status {status} and no reason")


def _headers(server: Server) -> dict[str, str]:
    return {} if server.token is None else {"Authorization": f"Bearer {server.token}"}


def reachable(host: str) -> str:
    """The wildcard addresses are for listening; whoever listens on them is on loopback too."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "*": "127.0.0.1"}.get(host, host)


def is_loopback(host: str) -> bool:
    """Whether a bind to `host` is reachable from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def key_path(config: Config) -> Path:
    """Where the node keeps the bearer key that a bind beyond loopback needs."""
    return config.paths.api_token_file


def _token(config: Config) -> str | None:
    if is_loopback(config.host):
        return None
    try:
        return key_path(config).read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
