"""A JSON-RPC endpoint that passes requests on to a real one, and does wrong what it is told to.

    with faulty_rpc(dev.url) as rpc:
        rpc.on("eth_getBalance", lie("0x0"))
        rpc.status = 429

Also a place to count what was asked.
"""

import json
import socket
import threading
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = dict[str, Any]
Twist = Callable[[list[Any], Callable[[list[Any]], Answer]], Answer]
"""From a method's parameters, and a way to ask the real endpoint, to the answer that is given."""


def lie(result: object) -> Twist:
    return lambda params, ask: {"jsonrpc": "2.0", "id": 1, "result": result}


def error(code: int, message: str, data: object = None) -> Twist:
    fault = {"code": code, "message": message} | ({} if data is None else {"data": data})
    return lambda params, ask: {"jsonrpc": "2.0", "id": 1, "error": fault}


def change(result_of: Callable[[Any], Any]) -> Twist:
    """Passes on, and changes the result."""

    def twist(params: list[Any], ask: Callable[[list[Any]], Answer]) -> Answer:
        answer = ask(params)
        return answer | {"result": result_of(answer.get("result"))} if "result" in answer else answer

    return twist


class FaultyRpc:
    """`body` is given instead of any answer, `status` with whatever is given. `length`: what it claims.
    `is_silent`: reads and never answers. `drip`: answers byte by byte, slower than anybody waits."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.url = ""
        self.status = 200
        self.headers: dict[str, str] = {}
        self.body: bytes | None = None
        self.length: int | None = None
        self.is_silent = False
        self.drip = False
        self.asked: Counter[str] = Counter()
        self._twists: dict[str, Twist] = {}
        self.released = threading.Event()

    def on(self, method: str, twist: Twist) -> None:
        self._twists[method] = twist

    def heal(self) -> None:
        self._twists.clear()
        self.status, self.body, self.length, self.headers = 200, None, None, {}
        self.is_silent = self.drip = False

    def answer(self, request: Answer) -> bytes:
        method, params = request["method"], request.get("params", [])
        self.asked[method] += 1

        def ask(params: list[Any]) -> Answer:
            body = json.dumps(request | {"params": params}).encode()
            http = urllib.request.Request(
                self.target, data=body, headers={"content-type": "application/json"}
            )
            with urllib.request.urlopen(http, timeout=10) as response:
                found: Answer = json.loads(response.read())
                return found

        twist = self._twists.get(method)
        return json.dumps(ask(params) if twist is None else twist(params, ask)).encode()


@contextmanager
def faulty_rpc(target: str) -> Iterator[FaultyRpc]:
    rpc = FaultyRpc(target)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body in one packet: two would wait for an acknowledgement, 40 ms each time

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if rpc.is_silent:
                rpc.released.wait(30)
                self.close_connection = True
                return
            body = rpc.body if rpc.body is not None else rpc.answer(request)
            self.send_response(rpc.status)
            for name, value in rpc.headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body) if rpc.length is None else rpc.length))
            self.end_headers()
            if rpc.drip:
                for at in range(len(body)):
                    self.wfile.write(body[at : at + 1])
                    self.wfile.flush()
                    if rpc.released.wait(0.2):
                        break
                self.close_connection = True
                return
            self.wfile.write(body)
            self.close_connection = rpc.length is not None

        def log_message(self, format: str, *values: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            pass  # somebody hung up: that is what the tests are about

    server = Server(("127.0.0.1", 0), Handler)
    rpc.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield rpc
    finally:
        rpc.released.set()
        server.shutdown()
        server.server_close()
        thread.join(5)


def unused_url() -> str:
    """Where nobody listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{one.getsockname()[1]}"
