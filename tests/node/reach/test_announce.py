import pytest

from unhosted.node.shell.reach.announce import announced, is_public


def test_entries_become_addresses_each_once() -> None:
    entries = ["45.0.0.9:8643", "pc.example.org:443", "[2001:db8::5]:8643", "45.0.0.9:8643"]
    assert announced(entries) == (
        "/ip4/45.0.0.9/tcp/8643",
        "/dns/pc.example.org/tcp/443",
        "/ip6/2001:db8::5/tcp/8643",
    )


@pytest.mark.parametrize("entry", ["45.0.0.9", ":8643", "host:0", "host:65536", "host:port", "host:"])
def test_an_entry_that_is_none_is_named(entry: str) -> None:
    with pytest.raises(ValueError, match="is no host:port"):
        announced([entry])


def test_addresses_that_the_internet_cannot_reach_are_not_public() -> None:
    assert is_public("45.0.0.9")
    for address in (
        "192.168.1.1",
        "10.0.0.1",
        "100.64.0.1",
        "169.254.1.1",
        "127.0.0.1",
        "0.0.0.0",
        "no address",
    ):
        assert not is_public(address)
