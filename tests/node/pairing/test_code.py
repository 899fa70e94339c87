"""Codes that people type, and names that machines claim."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.node.pairing.machines import peer_id
from unhosted.node.core.errors import Refused
from unhosted.node.core.pairing_code import (
    ALPHABET,
    hint_of,
    make_code,
    parse_code,
    show_address_code,
    show_code,
)
from unhosted.node.core.peer_names import NAME_CHARS_MAX, NAMELESS, clean_name, distinct_name

DESKTOP = peer_id("desktop")
ENTROPY = st.binary(min_size=4, max_size=4)
TYPED = st.sampled_from(
    [str.lower, str.upper, lambda text: text.replace("-", " "), lambda text: f" {text}\n"]
)


@given(entropy=ENTROPY, typed=TYPED)
def test_a_code_is_read_however_it_is_typed(entropy: bytes, typed: object) -> None:
    code = make_code(DESKTOP, entropy)
    assert callable(typed)
    assert parse_code(typed(show_code(code))) == code
    assert parse_code(code.text.replace("0", "o").replace("1", "l")) == code
    assert code.hint == hint_of(DESKTOP)


@given(entropy=ENTROPY, place=st.integers(0, 9), character=st.sampled_from(ALPHABET))
def test_one_wrong_character_is_a_typing_error(entropy: bytes, place: int, character: str) -> None:
    text = make_code(DESKTOP, entropy).text
    wrong = text[:place] + character + text[place + 1 :]
    if wrong != text:
        with pytest.raises(Refused, match="typing error"):
            parse_code(wrong)


@given(entropy=ENTROPY, one=st.integers(0, 9), other=st.integers(0, 9))
def test_two_swapped_characters_are_a_typing_error(entropy: bytes, one: int, other: int) -> None:
    text = list(make_code(DESKTOP, entropy).text)
    if text[one] != text[other]:
        text[one], text[other] = text[other], text[one]
        with pytest.raises(Refused, match="typing error"):
            parse_code("".join(text))


def test_every_secret_is_as_likely_as_another() -> None:
    """30 bits of entropy make 2^30 codes: no two inputs that differ in them give the same."""
    codes = {make_code(DESKTOP, (number << 2).to_bytes(4)).text for number in range(0, 1 << 30, 524287)}
    assert len(codes) == len(range(0, 1 << 30, 524287))


def test_a_code_does_not_show_itself_in_logs() -> None:
    code = make_code(DESKTOP, b"abcd")
    assert code.text not in f"{code!r} {code}" and show_code(code) not in f"{code!r} {code}"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "10 characters, this one has 0"),
        ("K7P-4QX", "10 characters, this one has 6"),
        ("K7P-4QX-9TM!", "'!' is in no pairing code"),
        ("K7P-4QU-9TMC", "'U' is in no pairing code"),
        ("x" * 2000, "2000 characters is no pairing code"),
    ],
)
def test_what_is_no_code_is_refused_with_the_rule(text: str, complaint: str) -> None:
    with pytest.raises(Refused, match="(?s)" + complaint) as refused:
        parse_code(text)
    assert refused.value.code == "pairing_failed" and refused.value.field == "code"


def address_code(*addresses: str) -> str:
    text = show_address_code(make_code(DESKTOP, b"abcd"), DESKTOP, addresses)
    assert text is not None
    return text


def test_an_address_code_carries_addresses_and_id() -> None:
    addresses = ("/ip4/192.168.1.5/tcp/8643", "/ip6/2001:db8::5/tcp/8643", "/dns/home.example.org/tcp/9000")
    text = address_code(*addresses)
    assert text.endswith(f"@home.example.org:9000,192.168.1.5:8643,[2001:db8::5]:8643/{DESKTOP}")
    parsed = parse_code(text)
    assert parsed.peer == DESKTOP and set(parsed.addresses) == set(addresses)


def test_an_address_code_names_what_others_can_reach() -> None:
    link_local, loopback = "/ip6zone/eth0/ip6/fe80::1/tcp/8643", "/ip4/127.0.0.1/tcp/8643"
    public, private = "/ip4/45.0.0.9/tcp/8643", "/ip4/10.0.0.9/tcp/8643"
    assert "@45.0.0.9:8643,10.0.0.9:8643/" in address_code(private, loopback, link_local, public)
    assert "@127.0.0.1:8643/" in address_code(loopback, link_local)
    assert show_address_code(make_code(DESKTOP, b"abcd"), DESKTOP, [link_local]) is None


@pytest.mark.parametrize(
    "place", ["", "1.2.3.4", "1.2.3.4:0", "1.2.3.4:99999", "::1:8643", "[1.2.3.4:1", "a b:1"]
)
def test_a_wrong_address_in_a_code_is_named(place: str) -> None:
    code = show_code(make_code(DESKTOP, b"abcd"))
    with pytest.raises(Refused, match="no address like"):
        parse_code(f"{code}@{place}/{DESKTOP}")


def test_an_address_code_of_two_machines_mixed_up_is_refused() -> None:
    code = show_code(make_code(DESKTOP, b"abcd"))
    with pytest.raises(Refused, match="does not belong to the machine"):
        parse_code(f"{code}@192.168.1.5:8643/{peer_id('laptop')}")
    with pytest.raises(Refused, match="ends with / and the other machine's id"):
        parse_code(f"{code}@192.168.1.5:8643")


@given(text=st.text(max_size=300))
def test_any_text_is_a_code_or_refused(text: str) -> None:
    for attempt in (text, f"{show_code(make_code(DESKTOP, b'abcd'))}@{text}"):
        try:
            parse_code(attempt)
        except Refused as refused:
            assert refused.message.isprintable() or not attempt.isprintable()


@given(text=st.text(max_size=300))
def test_a_name_has_nothing_that_cannot_be_seen(text: str) -> None:
    name = clean_name(text)
    assert 0 < len(name) <= NAME_CHARS_MAX and name.isprintable() and name == clean_name(name)


@pytest.mark.parametrize(
    ("claimed", "shown"),
    [
        ("desktop", "desktop"),
        ("  my \t desk\ntop ", "my desk top"),
        ("\u202epotksed\u200b", "potksed"),
        ("\x1b[31mred", "[31mred"),
        ("z" + "\u0335" * 40, "z\u0335\u0335"),
        ("Ｄｅｓｋ", "Desk"),
        ("A\x1b\u0300", "À"),
        ("\u0000\u200d", NAMELESS),
        ("สวัสดี", "สวัสดี"),
    ],
)
def test_names_are_cleaned(claimed: str, shown: str) -> None:
    assert clean_name(claimed) == shown


def test_a_name_that_is_taken_gets_a_number() -> None:
    assert distinct_name("desktop", ["laptop"]) == "desktop"
    assert distinct_name("Desktop", ["desktop", "DESKTOP-2"]) == "Desktop-3"
    assert distinct_name("local", []) == "local-2", "the word means this machine"
