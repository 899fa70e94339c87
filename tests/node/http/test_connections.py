"""Clients that leave, streams that fall silent, servers that stop."""

import json
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import NoReturn

import pytest
import trio

from tests.fakes import ENDLESS, MODEL, SPEECHLESS, WORDS, FakeNode, served
from unhosted.node.core.errors import LocalFault, Refused
from unhosted.node.core.service import AnswerDelta, ChatRequest, CompletionRequest
from unhosted.node.http.server import BoundAddress, serve_http
from unhosted.node.http.settings import HttpSettings

LIMIT_S = 20.0
"""No test takes this long; one that hangs fails here instead of stopping the suite."""


def post(path: str, body: object) -> bytes:
    content = json.dumps(body).encode()
    return (
        f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(content)}\r\n\r\n".encode()
        + content
    )


def chat(model: str, *, stream: bool) -> bytes:
    ask = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "stream": stream}
    return post("/v1/chat/completions", ask)


async def connect(address: BoundAddress) -> trio.SocketStream:
    return await trio.open_tcp_stream(address.host, address.port)


async def read_until(stream: trio.SocketStream, mark: bytes) -> bytes:
    read = b""
    while mark not in read:
        part = await stream.receive_some()
        assert part, read
        read += part
    return read


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        with trio.fail_after(LIMIT_S):
            await main()

    trio.run(limited)


@pytest.mark.parametrize(("model", "stream"), [(ENDLESS, True), (ENDLESS, False), (SPEECHLESS, True)])
def test_a_client_that_leaves_frees_its_slot(model: str, stream: bool) -> None:
    async def main() -> None:
        node = FakeNode()
        async with served(node) as address:
            client = await connect(address)
            await client.send_all(chat(model, stream=stream))
            await node.entered.wait()
            assert node.open_now == 1
            await client.aclose()
            await node.left.wait()
            assert node.open_now == 0

    run(main)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"model": MODEL, "input": "Hi"}),
        ("/v1/messages/count_tokens", {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}),
    ],
)
def test_a_client_that_leaves_ends_what_has_no_stream(path: str, body: object) -> None:
    class Slow(FakeNode):
        async def embed(self, model: str, inputs: object, **within: object) -> NoReturn:
            self.entered.set()
            try:
                await trio.sleep_forever()
            finally:
                self.left.set()

        async def count_tokens(self, request: ChatRequest) -> NoReturn:
            await self.embed(request.model, ())

    async def main() -> None:
        node = Slow()
        async with served(node) as address:
            client = await connect(address)
            await client.send_all(post(path, body))
            await node.entered.wait()
            await client.aclose()
            await node.left.wait()

    run(main)


def test_a_client_that_resets_frees_its_slot() -> None:
    async def main() -> None:
        node = FakeNode()
        async with served(node) as address:
            client = await connect(address)
            await client.send_all(chat(ENDLESS, stream=True))
            await read_until(client, b"content")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            await trio.aclose_forcefully(client)
            await node.left.wait()

    run(main)


def test_one_connection_serves_one_request_after_another() -> None:
    async def main() -> None:
        node = FakeNode()
        async with served(node) as address:
            client = await connect(address)
            for stream, end in ((True, b"0\r\n\r\n"), (False, b"}}"), (True, b"0\r\n\r\n")):
                await client.send_all(chat(MODEL, stream=stream))
                await read_until(client, end)
            assert len(node.asked) == 3
            await client.aclose()

    run(main)


def test_a_connection_asked_to_close_is_closed() -> None:
    async def main() -> None:
        async with served(FakeNode()) as address:
            client = await connect(address)
            request = chat(MODEL, stream=True).replace(b"host:", b"connection: close\r\nhost:", 1)
            await client.send_all(request)
            await read_until(client, b"[DONE]")
            while await client.receive_some():
                pass
            await client.aclose()

    run(main)


def test_a_silent_stream_sends_comments() -> None:
    async def main() -> None:
        async with served(FakeNode(), HttpSettings(port=0, quiet_s=0.01)) as address:
            client = await connect(address)
            await client.send_all(chat(SPEECHLESS, stream=True))
            read = await read_until(client, b": waiting")
            assert b'"role":"assistant"' in read
            await client.aclose()

    run(main)


def test_sixteen_streams_at_once_stay_apart() -> None:
    async def main() -> None:
        node = FakeNode()
        texts: list[str] = []

        async def one(address: BoundAddress) -> None:
            client = await connect(address)
            await client.send_all(chat(MODEL, stream=True))
            read = await read_until(client, b"[DONE]")
            chunks = [json.loads(line[6:]) for line in read.split(b"\n") if line.startswith(b'data: {"id"')]
            texts.append("".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks))
            await client.aclose()

        async with served(node) as address, trio.open_nursery() as nursery:
            for _ in range(16):
                nursery.start_soon(one, address)
        assert texts == ["".join(WORDS)] * 16

    run(main)


def test_shutdown_lets_answers_end_and_closes_the_idle() -> None:
    async def main() -> None:
        node = FakeNode()
        shutdown = trio.Event()
        async with trio.open_nursery() as nursery:

            async def serve(task_status: trio.TaskStatus[BoundAddress]) -> None:
                settings = HttpSettings(port=0, graceful_s=0.05)
                await serve_http(node, settings, shutdown=shutdown, task_status=task_status)

            address = await nursery.start(serve)
            idle, busy = await connect(address), await connect(address)
            await idle.send_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
            await read_until(idle, b"ok")
            await busy.send_all(chat(ENDLESS, stream=True))
            await read_until(busy, b"content")
            shutdown.set()
            assert await idle.receive_some() == b""
            await node.left.wait()
            await idle.aclose()
            await busy.aclose()

    run(main)


class FaultyNode(FakeNode):
    """Finds a broken invariant of its own when asked."""

    def _check(self, model: str) -> None:
        raise LocalFault("an invariant is broken")


def test_a_broken_invariant_stops_the_server() -> None:
    async def main() -> None:
        async with served(FaultyNode()) as address, await connect(address) as client:
            await client.send_all(chat(MODEL, stream=False))
            await trio.sleep_forever()

    with pytest.raises(ExceptionGroup) as caught:
        run(main)
    assert caught.group_contains(LocalFault)


class CancelledNode(FakeNode):
    """Its engine gives a request up in the middle."""

    async def _deltas(self, request: ChatRequest | CompletionRequest) -> AsyncGenerator[AnswerDelta, None]:
        yield AnswerDelta(text="half")
        yield AnswerDelta(finish="cancelled")


def test_an_answer_cut_by_the_node_is_an_error_not_an_end() -> None:
    async def main() -> None:
        async with served(CancelledNode()) as address:
            client = await connect(address)
            await client.send_all(chat(MODEL, stream=True))
            read = await read_until(client, b"0\r\n\r\n")
            assert b"engine_failed" in read
            assert b"[DONE]" not in read
            await client.aclose()

    run(main)


def test_a_taken_port_is_refused_by_name() -> None:
    async def main() -> None:
        async with served(FakeNode()) as address:
            with pytest.raises(Refused, match=f"port {address.port}"):
                await serve_http(FakeNode(), HttpSettings(port=address.port), shutdown=trio.Event())

    run(main)


def test_a_bind_that_others_reach_needs_a_token() -> None:
    async def main() -> None:
        with pytest.raises(Refused, match=r"0\.0\.0\.0"):
            await serve_http(FakeNode(), HttpSettings(host="0.0.0.0", port=0), shutdown=trio.Event())

    run(main)


def test_connections_over_the_limit_are_closed() -> None:
    async def main() -> None:
        async with served(FakeNode(), HttpSettings(port=0, connections_max=1)) as address:
            first = await connect(address)
            await first.send_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
            await read_until(first, b"ok")
            second = await connect(address)
            assert await second.receive_some() == b""
            await first.aclose()
            await second.aclose()

    run(main)


def test_a_client_that_takes_nothing_loses_its_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unhosted.node.http.server.SEND_TIMEOUT_S", 0.02)

    async def main() -> None:
        node = FakeNode()
        async with served(node) as address:
            client = trio.socket.socket()
            # A small window, so that a stream that nobody reads is full soon.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await client.connect((address.host, address.port))
            await client.send(chat(ENDLESS, stream=True))
            await node.left.wait()
            assert node.open_now == 0
            client.close()

    run(main)


def test_a_name_is_served_on_each_of_its_addresses() -> None:
    async def main() -> None:
        async with (
            served(FakeNode(), HttpSettings(host="localhost", port=0)) as address,
            await trio.open_tcp_stream("127.0.0.1", address.port) as client,
        ):
            await client.send_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
            await read_until(client, b"ok")

    run(main)
