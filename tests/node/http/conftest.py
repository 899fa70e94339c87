"""One server around one `FakeNode` for each file of tests, and a client that talks to it."""

from collections.abc import Iterator

import httpx
import pytest

from tests.fakes import FakeNode, served_in_thread


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[FakeNode, str]]:
    node = FakeNode()
    with served_in_thread(node) as address:
        yield node, address.url


@pytest.fixture
def node(server: tuple[FakeNode, str]) -> FakeNode:
    server[0].asked.clear()
    return server[0]


@pytest.fixture(scope="module")
def client(server: tuple[FakeNode, str]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server[1], trust_env=False, timeout=20) as client:
        yield client
