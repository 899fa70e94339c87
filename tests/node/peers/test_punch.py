"""What a peer may make us dial when it asks for a direct connection; whether it works: tests/netns."""

import pytest

from unhosted.market import cbor
from unhosted.node.shell.peers.punch import NotPunched, candidate, candidate_message

VECTOR = "a16761646472657373772f6970342f34352e302e302e332f7463702f3430313233"


def test_the_message_of_the_protocol() -> None:
    assert candidate_message("/ip4/45.0.0.3/tcp/40123").hex() == VECTOR
    endpoint = candidate(bytes.fromhex(VECTOR))
    assert (endpoint.host, endpoint.port) == ("45.0.0.3", 40123)


@pytest.mark.parametrize(
    "address",
    [
        "/ip4/127.0.0.1/tcp/8642",  # our own API
        "/ip4/192.168.1.1/tcp/8080",  # the router's page
        "/ip4/169.254.169.254/tcp/8080",  # a cloud's secrets
        "/ip6/::1/tcp/8642",
        "/ip6/::ffff:127.0.0.1/tcp/8642",
        "/ip6/fe80::1/tcp/8642",
        "/ip4/45.0.0.3/tcp/25",
    ],
)
def test_what_is_not_out_there_is_not_dialled(address: str) -> None:
    with pytest.raises(NotPunched, match="is not dialled"):
        candidate(candidate_message(address))


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\xff" * 300,
        cbor.encode([]),
        cbor.encode({}),
        cbor.encode({"address": 1}),
        candidate_message("/dns/localhost/tcp/8642"),
        candidate_message("/ip4/45.0.0.3/udp/40123"),
        candidate_message("/ip4/45.0.0.3/tcp/40123" + "x" * 300),
    ],
)
def test_what_is_no_address_is_refused(message: bytes) -> None:
    with pytest.raises(NotPunched, match="says no address"):
        candidate(message)


def test_a_side_that_ends_without_an_address_cannot() -> None:
    with pytest.raises(NotPunched, match="cannot"):
        candidate(None)
