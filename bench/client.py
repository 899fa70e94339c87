"""A streaming client that costs next to nothing: the machine under test has few cores to give away.

One thread, non-blocking sockets, no HTTP library: it writes a request, and of what comes back it notes
when the first piece of text arrived, when the stream ended and how many tokens the server counted. Both
servers are measured with the same bytes in and the same code.
"""

import json
import re
import selectors
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

ANSWER_TIMEOUT_S = 300.0
"""The slowest measured request takes 20 s; one that takes longer than this hangs."""

ANSWER_BYTES_MAX = 16 << 20
_TEXT = re.compile(rb'"text":\s?"(?!")')
_COUNT = re.compile(rb'"completion_tokens":\s?(\d+)')
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3})")
_END = b"\r\n0\r\n\r\n"

Address = tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One streamed answer; times are seconds since its request was sent. tokens: as the server counts."""

    status: int
    first_text_s: float
    total_s: float
    tokens: int


@dataclass(slots=True)
class _Stream:
    sock: socket.socket
    started_s: float
    received: bytearray
    first_text_s: float | None = None


def completion(prompt: Sequence[int], tokens: int, *, model: str, cache: bool = False) -> dict[str, object]:
    """A streamed, greedy completion of token ids that does not end before `tokens`."""
    return {
        "model": model,
        "prompt": list(prompt),
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "cache_prompt": cache,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def ask(address: Address, bodies: Sequence[Mapping[str, object]]) -> list[Answer]:
    """Send all requests at once and read all answers to their end, in the order of `bodies`."""
    payloads = [encode(address, body) for body in bodies]
    answers: dict[int, Answer] = {}
    with selectors.DefaultSelector() as selector:
        for index, payload in enumerate(payloads):
            sock = socket.create_connection(address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            started_s = time.perf_counter()
            sock.sendall(payload)
            sock.setblocking(False)
            selector.register(sock, selectors.EVENT_READ, (index, _Stream(sock, started_s, bytearray())))
        deadline_s = time.perf_counter() + ANSWER_TIMEOUT_S
        while selector.get_map():
            if time.perf_counter() > deadline_s:
                raise TimeoutError(f"{len(selector.get_map())} answers did not end in {ANSWER_TIMEOUT_S:g} s")
            for key, _ in selector.select(timeout=1.0):
                index, stream = key.data
                answer = _read(stream)
                if answer is not None:
                    selector.unregister(stream.sock)
                    stream.sock.close()
                    answers[index] = answer
    return [answers[index] for index in range(len(payloads))]


@contextmanager
def others(address: Address, bodies: Sequence[Mapping[str, object]]) -> Iterator[None]:
    """Streams of other users: all have begun to answer when the context is entered; leaving it hangs up."""
    socks: list[socket.socket] = []
    try:
        for body in bodies:
            sock = socket.create_connection(address, timeout=ANSWER_TIMEOUT_S)
            socks.append(sock)
            sock.sendall(encode(address, body))
        for sock in socks:
            received = bytearray()
            while not _TEXT.search(received):
                data = sock.recv(65536)
                if not data:
                    raise OSError(f"a stream ended before its first text: {bytes(received[:200])!r}")
                received += data
        # What comes from here on, at most some 300 bytes a token, waits unread in the kernel's buffers.
        yield
    finally:
        for sock in socks:
            sock.close()


def encode(address: Address, body: Mapping[str, object], path: str = "/v1/completions") -> bytes:
    """The whole request as bytes; the server closes the connection after its answer."""
    data = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + data


def get(address: Address, path: str) -> tuple[int, bytes]:
    """Status and body of a small GET. Raises: OSError."""
    with socket.create_connection(address, timeout=10) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: {address[0]}\r\nConnection: close\r\n\r\n".encode())
        received = bytearray()
        while len(received) < ANSWER_BYTES_MAX and (data := sock.recv(65536)):
            received += data
    status = _STATUS.match(received)
    return int(status[1]) if status else 0, bytes(received.partition(b"\r\n\r\n")[2])


def _read(stream: _Stream) -> Answer | None:
    try:
        data = stream.sock.recv(65536)
    except ConnectionResetError:
        data = b""
    now_s = time.perf_counter() - stream.started_s
    stream.received += data
    if stream.first_text_s is None and _TEXT.search(stream.received):
        stream.first_text_s = now_s
    ended = not data or stream.received.endswith(_END) or len(stream.received) > ANSWER_BYTES_MAX
    if not ended:
        return None
    status = _STATUS.match(stream.received)
    counts = _COUNT.findall(stream.received)
    return Answer(
        status=int(status[1]) if status else 0,
        first_text_s=stream.first_text_s or now_s,
        total_s=now_s,
        tokens=int(counts[-1]) if counts else 0,
    )
