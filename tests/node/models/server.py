"""A file server on loopback that can misbehave in every way a download has to survive."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PIECE_BYTES = 16 << 10


@dataclass
class Behaviour:
    """files: path to content. statuses: answers to give first, one a request. cuts: after how many body
    bytes to drop the connection, one a request for a file of more than one byte. budget: body bytes that may
    be sent in all; sending waits there until it is raised. tokens: path prefix to the Authorization it needs.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    content_types: dict[str, str] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    statuses: list[int] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    gone: set[str] = field(default_factory=set)
    tokens: dict[str, str] = field(default_factory=dict)
    etag: str | None = '"one"'
    ranges: bool = True
    length: bool = True
    budget: int | None = None
    sent: int = 0
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def put_json(self, path: str, value: object) -> None:
        self.files[path] = json.dumps(value).encode()
        self.content_types[path] = "application/vnd.pypi.simple.v1+json"

    def file_requests(self, path: str) -> int:
        return sum(1 for asked, _ in self.requests if asked == path)

    def raise_budget(self, budget: int | None) -> None:
        with self.changed:
            self.budget = budget
            self.changed.notify_all()

    def wait_until_spent(self, timeout_s: float = 30) -> None:
        """Until the budget is used up: the client is then in the middle of something."""
        with self.changed:
            assert self.changed.wait_for(
                lambda: self.budget is not None and self.sent >= self.budget, timeout_s
            ), f"{self.sent} of {self.budget} bytes sent"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    behaviour: Behaviour

    def do_GET(self) -> None:
        behaviour, path = self.behaviour, self.path.split("?")[0]
        with behaviour.changed:
            behaviour.requests.append(
                (self.path, {key.lower(): value for key, value in self.headers.items()})
            )
            status = behaviour.statuses.pop(0) if behaviour.statuses else None
        if status is not None:
            return self._answer(status)
        for prefix, token in behaviour.tokens.items():
            if path.startswith(prefix) and self.headers.get("authorization") != token:
                return self._answer(401)
        if path in behaviour.gone:
            return self._answer(403)
        if path in behaviour.redirects:
            return self._answer(302, {"location": behaviour.redirects[path]})
        body = behaviour.files.get(path)
        if body is None:
            return self._answer(404)
        self._send_file(path, body)

    def _send_file(self, path: str, body: bytes) -> None:
        behaviour = self.behaviour
        headers = {"content-type": behaviour.content_types.get(path, "application/octet-stream")}
        if behaviour.etag is not None:
            headers["etag"] = behaviour.etag
        if path in behaviour.links:
            headers["link"] = behaviour.links[path]
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("range", ""))
        stale = self.headers.get("if-range") not in (None, behaviour.etag)
        status, part = 200, body
        if asked and behaviour.ranges and not stale:
            start, end = int(asked[1]), min(int(asked[2]), len(body) - 1)
            status, part = 206, body[start : end + 1]
            headers["content-range"] = f"bytes {start}-{end}/{len(body)}"
        if behaviour.length:
            headers["content-length"] = str(len(part))
        else:
            headers["connection"] = "close"
            self.close_connection = True
        cut = None
        if len(part) > 1:
            with behaviour.changed:
                cut = behaviour.cuts.pop(0) if behaviour.cuts else None
        self._start(status, headers)
        self._send(part if cut is None else part[:cut], counted=len(part) > 1)
        if cut is not None:
            self.close_connection = True

    def _send(self, part: bytes, *, counted: bool) -> None:
        behaviour = self.behaviour
        view = memoryview(part)
        try:
            while view:
                room = PIECE_BYTES
                with behaviour.changed:
                    if counted and behaviour.budget is not None:
                        behaviour.changed.wait_for(
                            lambda: behaviour.budget is None or behaviour.sent < behaviour.budget
                        )
                        if behaviour.budget is not None:
                            room = min(room, behaviour.budget - behaviour.sent)
                    if counted:
                        behaviour.sent += min(room, len(view))
                        behaviour.changed.notify_all()
                self.wfile.write(view[:room])
                view = view[room:]
        except OSError:
            self.close_connection = True  # the client went away, as many tests make it do

    def _answer(self, status: int, headers: dict[str, str] | None = None) -> None:
        self._start(status, {"content-length": "0", **(headers or {})})

    def _start(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # connections that a killed client left behind


@contextmanager
def serve() -> Iterator[tuple[str, Behaviour]]:
    """A server for one test: its address and its behaviour, which may be changed while it runs."""
    behaviour = Behaviour()
    handler = type("Handler", (_Handler,), {"behaviour": behaviour})
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", behaviour
    finally:
        behaviour.raise_budget(None)
        server.shutdown()
        thread.join()
        server.server_close()
