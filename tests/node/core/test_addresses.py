"""Addresses of peers as text, both ways."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unhosted.node.core.addresses import ADDRESS_CHARS_MAX, format_address, parse_address, show_endpoint


@pytest.mark.parametrize(
    ("host", "zone", "text", "shown"),
    [
        ("10.0.0.5", "", "/ip4/10.0.0.5/tcp/8643", "10.0.0.5:8643"),
        ("2001:DB8:0::5", "", "/ip6/2001:db8::5/tcp/8643", "[2001:db8::5]:8643"),
        ("fe80::5", "wlan0", "/ip6zone/wlan0/ip6/fe80::5/tcp/8643", "[fe80::5%wlan0]:8643"),
        ("desk.example.org", "", "/dns/desk.example.org/tcp/8643", "desk.example.org:8643"),
    ],
)
def test_an_address_is_written_and_read_and_shown(host: str, zone: str, text: str, shown: str) -> None:
    assert format_address(host, 8643, zone=zone) == text
    endpoint = parse_address(text)
    assert endpoint is not None and (endpoint.port, endpoint.zone) == (8643, zone)
    assert show_endpoint(text) == shown


@pytest.mark.parametrize(
    ("host", "port", "zone"),
    [
        *[
            ("10.0.0.5", 0, ""),
            ("10.0.0.5", 65536, ""),
            ("10.0.0.5", 1, "eth0"),
            ("-bad", 1, ""),
            ("a b", 1, ""),
        ],
        *[("", 1, ""), ("fe80::1", 1, "a/b"), ("x" * 300, 1, ""), ("a..b", 1, "")],
    ],
)
def test_what_cannot_be_dialled_is_no_address(host: str, port: int, zone: str) -> None:
    with pytest.raises(ValueError, match="no address to dial"):
        format_address(host, port, zone=zone)


@settings(max_examples=300, derandomize=True)
@given(text=st.text(alphabet="/ip46dnstcpzone.:%0159fe\0é", max_size=60))
def test_any_text_is_read_or_is_none_and_is_shown_as_it_is(text: str) -> None:
    for candidate in (text, "/ip4/" + text, "/dns/" + text + "/tcp/1", "/ip6zone/" + text):
        if parse_address(candidate) is None:
            assert show_endpoint(candidate) == candidate
    assert parse_address("/dns/" + "a" * ADDRESS_CHARS_MAX + "/tcp/1") is None
