"""Stand-ins for what the commands ask: a node in this process, and a running one behind HTTP.

The real ones are asked in tests/node/cli/test_commands.py; these show what those cannot be made to do on cue.
"""

import contextlib
import http.server
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from unhosted.node.config import Config
from unhosted.node.core.errors import Refused
from unhosted.node.core.inference import Usage
from unhosted.node.core.service import AnswerDelta, ChatRequest, Provenance

PROVENANCE = Provenance(ring="local", served_by="fake", reason="it is here")


@dataclass
class FakeStream:
    words: list[str]
    is_endless: bool
    model: str
    provenance: Provenance = PROVENANCE

    async def __aiter__(self) -> AsyncIterator[AnswerDelta]:
        for word in self.words:
            await trio.lowlevel.checkpoint()
            yield AnswerDelta(text=word)
        if self.is_endless:
            await trio.sleep_forever()
        usage = Usage(prompt_tokens=3, cached_tokens=0, completion_tokens=len(self.words))
        yield AnswerDelta(finish="stop", usage=usage)


@dataclass
class FakeNode:
    """Answers every chat with `words`, or refuses. cancelled: requests that were left before their end."""

    words: list[str] = field(default_factory=lambda: ["Hello", " there"])
    refusals: list[Refused] = field(default_factory=list)
    is_endless: bool = False
    requests: list[ChatRequest] = field(default_factory=list)
    cancelled: int = 0
    opened: int = 0
    closed: int = 0
    with_peers: bool = False

    @asynccontextmanager
    async def open_chat(self, request: ChatRequest) -> AsyncIterator[FakeStream]:
        self.requests.append(request)
        if self.refusals:
            raise self.refusals.pop(0)
        try:
            yield FakeStream(words=self.words, is_endless=self.is_endless, model=request.model)
        except trio.Cancelled:
            self.cancelled += 1
            raise

    @asynccontextmanager
    async def open_node(
        self, config: Config, *, offline: bool, with_peers: bool
    ) -> AsyncIterator["FakeNode"]:
        self.opened += 1
        self.with_peers = with_peers
        try:
            yield self
        finally:
            self.closed += 1


class FakeServer:
    """A running node as the command line sees it: /api/status, /api/models and a streamed chat."""

    def __init__(self) -> None:
        self.status: dict[str, Any] = {"version": "1", "rings": {}, "refused_connections": 0}
        self.loaded: list[dict[str, Any]] = []
        self.bodies: list[dict[str, Any]] = []
        self.events: list[Any] = [
            {"choices": [{"delta": {"content": "Hello"}}]},
            {"choices": [{"delta": {"content": " there"}, "finish_reason": "stop"}]},
            {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}},
            "[DONE]",
        ]
        self.error: tuple[int, dict[str, Any]] | None = None
        self.port = 0

    @contextlib.contextmanager
    def run(self) -> Iterator["FakeServer"]:
        fake = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *args: object) -> None:
                pass

            def reply(self, status: int, body: bytes, kind: str) -> None:
                self.send_response(status)
                self.send_header("content-type", kind)
                self.send_header("x-unhosted-ring", "local")
                self.send_header("x-unhosted-served-by", "fake")
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self) -> None:
                pages = {"/api/status": fake.status, "/api/models": {"models": [], "loaded": fake.loaded}}
                body = json.dumps(pages.get(self.path, {})).encode()
                self.reply(200 if self.path in pages else 404, body, "application/json")

            def do_POST(self) -> None:
                fake.bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                if fake.error is not None:
                    status, body = fake.error
                    self.reply(status, json.dumps(body).encode(), "application/json")
                    return
                lines = [event if isinstance(event, str) else json.dumps(event) for event in fake.events]
                stream = ": quiet\n\n" + "".join(f"data: {line}\n\n" for line in lines)
                self.reply(200, stream.encode(), "text/event-stream")

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            self.port = server.server_address[1]
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            try:
                yield self
            finally:
                server.shutdown()
                thread.join()
