"""The chain in Python behind HTTP on 127.0.0.1, in threads of this process.

One lock: the machine is for one thread at a time, and its calls take milliseconds. Browsers may call it, as
they may call anvil: a wallet in a page asks the chain directly, and everything on it is worthless.
"""

import contextlib
import json
import logging
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from unhosted.node.shell.devnet.machine import Machine
from unhosted.node.shell.devnet.machine_methods import Methods
from unhosted.node.shell.devnet.machine_pool import RpcError
from unhosted.node.shell.devnet.machine_store import MachineStore

log = logging.getLogger(__name__)

BODY_BYTES_MAX = 4 << 20
"""A batch of the largest transactions that fit a block."""

BATCH_MAX = 256
"""Calls in one request; web3 and wallets send a handful."""

BRACKETS_MAX = 16 * BATCH_MAX
"""A batch of the largest filters. It bounds the depth: py-evm raises Python's limit to where a thread's stack
ends before it, and then the process with it."""

CONNECTIONS_MAX = 128
"""Each has a thread. A node, a wallet and a test keep one or two open."""

IDLE_S = 120.0
"""A connection that says nothing for so long is closed."""

INVALID_REQUEST = {"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": "Invalid request"}}

HOSTS = frozenset({"127.0.0.1", "localhost", "[::1]"})

Answer = dict[str, Any]


class EmbeddedChain:
    """A running chain. `url` for everybody."""

    def __init__(self, server: "_Server", store: MachineStore, lock: threading.Lock, miner: "_Miner") -> None:
        self._server = server
        self._store = store
        self._lock = lock
        self._miner = miner
        self.port = int(server.server_address[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=server.serve_forever, name="devnet", daemon=True)
        self._thread.start()

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    def last_words(self) -> str:
        return "its server ended"

    def stop(self) -> None:
        """End; every block was durable before anybody heard of it."""
        self._miner.stop()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        with self._lock:
            self._store.close()


def start_embedded(
    *, port: int = 0, state_file: Path | None = None, block_time_s: int = 0, epoch_slots: int = 0
) -> EmbeddedChain:
    """Start it; it answers when this returns. Arguments as `engines.start_engine` has them."""
    store = MachineStore(state_file)
    methods = Methods(Machine(store), mines_at_once=block_time_s == 0, epoch_slots=epoch_slots)
    lock = threading.Lock()
    server = _Server(port, lambda request: _answer(methods, lock, request))
    miner = _Miner(methods, lock, block_time_s)
    return EmbeddedChain(server, store, lock, miner)


class _Miner:
    """A block every so many seconds; nothing with 0."""

    def __init__(self, methods: Methods, lock: threading.Lock, block_time_s: int) -> None:
        self._methods = methods
        self._lock = lock
        self._interval_s = block_time_s
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="devnet-miner", daemon=True)
        if block_time_s:
            self._thread.start()

    def _run(self) -> None:
        while not self._is_over.wait(self._interval_s):
            with self._lock:
                self._methods.mine()

    def stop(self) -> None:
        self._is_over.set()
        if self._interval_s:
            self._thread.join()


def _read(body: bytes) -> object:
    """The request; None for what is none."""
    if body.count(b"[") + body.count(b"{") > BRACKETS_MAX:
        return None
    try:
        return json.loads(body)
    except ValueError:
        return None


def _answer(methods: Methods, lock: threading.Lock, request: object) -> object:
    """The answer to one call or a batch; None where none is expected (notifications)."""
    if isinstance(request, list):
        if not 0 < len(request) <= BATCH_MAX:
            return INVALID_REQUEST
        answers = [_answer_one(methods, lock, one) for one in request]
        return [one for one in answers if one is not None] or None
    return _answer_one(methods, lock, request)


def _answer_one(methods: Methods, lock: threading.Lock, request: object) -> Answer | None:
    if not isinstance(request, dict) or not isinstance(request.get("method"), str):
        return INVALID_REQUEST
    params = request.get("params", [])
    answer: Answer = {"jsonrpc": "2.0", "id": request.get("id")}
    try:
        if not isinstance(params, list):
            raise RpcError(-32602, "params are a list")
        with lock:
            answer["result"] = methods.handle(request["method"], params)
    except RpcError as error:
        answer["error"] = {"code": error.code, "message": error.message}
        if error.data is not None:
            answer["error"]["data"] = error.data
    except Exception as error:  # a call that py-evm cannot digest must not take the chain from the others
        log.error("devnet_call_failed method=%s error=%s", request["method"], type(error).__name__)
        answer["error"] = {"code": -32603, "message": f"internal error ({type(error).__name__})"}
    return answer if "id" in request else None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # open connections are idle ones of clients; they end with us
    request_queue_size = CONNECTIONS_MAX

    def __init__(self, port: int, answer: Callable[[object], object]) -> None:
        self.answer = answer
        self._room = threading.BoundedSemaphore(CONNECTIONS_MAX)
        super().__init__(("127.0.0.1", port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is gone is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE_S
    disable_nagle_algorithm = True
    server: _Server

    def do_POST(self) -> None:
        length = self.headers.get("content-length", "")
        if not length.isdigit() or int(length) > BODY_BYTES_MAX:
            self.close_connection = True
            self._send(413, b"")
            return
        body = self.rfile.read(int(length))
        if self.headers.get("host", "").rpartition(":")[0] not in HOSTS:
            # A page of another site that had its name point here would otherwise speak as a local program.
            self._send(403, b"")
            return
        answer = self.server.answer(_read(body))
        self._send(204 if answer is None else 200, b"" if answer is None else json.dumps(answer).encode())

    def do_OPTIONS(self) -> None:
        self._send(204, b"")

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("access-control-allow-origin", "*")
        self.send_header("access-control-allow-headers", "content-type")
        self.send_header("access-control-allow-methods", "POST, OPTIONS")
        if status != 204:
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(BrokenPipeError):
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged: there are thousands, and nobody reads them."""
