"""Addresses: what is understood, what is said of oneself, what is near."""

import pytest

from unhosted.node.shell.peers import addresses
from unhosted.node.shell.peers.addresses import Endpoint, group_of, is_near, listening, parse, text_of

RELAY = "12D3KooWRGtd9BYaDRPkz2uXAPNLGBa637wU9UVNH19PpaKAjbLt"


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("/ip4/192.168.1.5/tcp/8643", Endpoint(family="ip4", host="192.168.1.5", port=8643)),
        ("/ip6/fd00::1/tcp/1", Endpoint(family="ip6", host="fd00::1", port=1)),
        ("/ip6zone/eth0/ip6/fe80::1/tcp/2", Endpoint(family="ip6", host="fe80::1%eth0", port=2)),
        ("/dns4/desk.example/tcp/65535", Endpoint(family="dns4", host="desk.example", port=65535)),
        (f"/ip4/1.2.3.4/tcp/5/p2p/{RELAY}", Endpoint(family="ip4", host="1.2.3.4", port=5)),
        (
            f"/ip4/1.2.3.4/tcp/5/p2p/{RELAY}/p2p-circuit",
            Endpoint(family="ip4", host="1.2.3.4", port=5, relay=RELAY),
        ),
        (
            f"/ip4/1.2.3.4/tcp/5/p2p/{RELAY}/p2p-circuit/p2p/{RELAY}",
            Endpoint(family="ip4", host="1.2.3.4", port=5, relay=RELAY),
        ),
    ],
)
def test_known_forms_are_understood(text: str, endpoint: Endpoint) -> None:
    assert parse(text) == endpoint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "192.168.1.5:8643",
        "/ip4/300.1.1.1/tcp/1",
        "/ip4/::1/tcp/1",
        "/ip4/1.2.3.4/udp/1",
        "/ip4/1.2.3.4/tcp/0",
        "/ip4/1.2.3.4/tcp/65536",
        "/ip4/1.2.3.4/tcp/٣",
        "/ip4/1.2.3.4/tcp/1/ws",
        "/ip4/1.2.3.4/tcp/1/quic-v1/p2p/x",
        "/ip6zone/eth0/ip6/fe80::1",
        "/dns4/" + "a" * 600 + "/tcp/1",
    ],
)
def test_other_forms_are_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match=r"address|known|port|tcp"):
        parse(text)


def test_what_is_said_of_an_address_is_understood_again() -> None:
    for host in ("10.0.0.1", "2001:db8::7", "fe80::1%eth0", "::ffff:10.0.0.1"):
        endpoint = parse(text_of(host, 8643))
        assert endpoint.port == 8643 and text_of(endpoint.host, 8643) == text_of(host, 8643)
    assert text_of("::ffff:10.0.0.1", 1) == "/ip4/10.0.0.1/tcp/1"


def test_near_is_what_no_router_of_the_internet_passes_on() -> None:
    near = (
        "127.0.0.1",
        "192.168.7.7",
        "10.9.9.9",
        "172.16.0.1",
        "169.254.3.3",
        "fe80::1%eth0",
        "fd12::1",
        "::1",
    )
    assert all(map(is_near, near))
    assert not any(map(is_near, ("8.8.8.8", "2606:4700::1111", "::ffff:9.9.9.9")))


def test_a_customer_of_ipv6_counts_as_one_address() -> None:
    assert group_of("2001:db8:1:2:aaaa::1") == group_of("2001:db8:1:2:bbbb::9") != group_of("2001:db8:1:3::1")
    assert group_of("10.0.0.1") != group_of("10.0.0.2")


def test_listening_everywhere_is_said_as_the_interfaces_own_addresses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    present = [
        ("lo", "127.0.0.1"),
        ("eth0", "192.168.1.5"),
        ("eth0", "fe80::5"),
        ("eth0", "2001:db8::5"),
        ("vpn0", "10.8.0.2"),
    ]
    monkeypatch.setattr(addresses, "interface_addresses", lambda: iter(present))
    everywhere = [("0.0.0.0", 8643), ("::", 8643)]
    assert listening(everywhere) == (
        "/ip4/192.168.1.5/tcp/8643",
        "/ip4/10.8.0.2/tcp/8643",
        "/ip6/2001:db8::5/tcp/8643",
    )
    assert listening(everywhere, lambda name, ip: name == "vpn0") == ("/ip4/10.8.0.2/tcp/8643",)
    assert listening([("127.0.0.1", 5)]) == ("/ip4/127.0.0.1/tcp/5",)
