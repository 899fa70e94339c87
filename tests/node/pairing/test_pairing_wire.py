"""Messages of /unhosted/pair/1 as bytes."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unhosted.market import cbor
from unhosted.node.core import pairing_words as words
from unhosted.node.shell.trusted import pairing_wire
from unhosted.node.shell.trusted.wire_fields import WireError

PAKE, MAC = b"A" + bytes(range(32)), bytes(range(32))
MESSAGES: list[tuple[words.PairingMessage, str]] = [
    (words.Start(pake=PAKE), "a3616b65737461727461760164"),
    (words.Answer(pake=PAKE), "a2616b66616e73776572"),
    (words.Proof(mac=MAC), "a2616b6570726f6f66636d6163"),
    (words.Introduction(mac=MAC, name="desktop", addresses=("/ip4/10.0.0.9/tcp/8643",)), "a4616b6c"),
    (words.Accept(), "a1616b66616363657074"),
    (words.Commit(), "a1616b66636f6d6d6974"),
    (words.Decline(why="wrong-code", tries_left=2), "a3616b676465636c696e65"),
    (words.Resolve(standing="pending"), "a3616b677265736f6c7665617601"),
    (words.Resolved(standing="paired"), "a2616b687265736f6c766564"),
    (words.Unpaired(), "a2616b68756e706169726564617601"),
]


@pytest.mark.parametrize(("message", "start"), MESSAGES, ids=lambda value: type(value).__name__)
def test_a_message_crosses_as_it_is(message: words.PairingMessage, start: str) -> None:
    data = pairing_wire.encode(message)
    assert data.hex().startswith(start)
    assert pairing_wire.decode(data) == message


def test_unknown_fields_are_ignored_and_unknown_versions_are_not() -> None:
    assert pairing_wire.decode(cbor.encode({"k": "accept", "mood": "good"})) == words.Accept()
    with pytest.raises(pairing_wire.VersionUnknown, match="version 2"):
        pairing_wire.decode(cbor.encode({"k": "unpaired", "v": 2}))


def test_a_reason_of_a_later_version_is_a_failure() -> None:
    told = pairing_wire.decode(cbor.encode({"k": "decline", "why": "full-moon", "tries": 0}))
    assert told == words.Decline(why="failed")


@pytest.mark.parametrize(
    "value",
    [
        7,
        {},
        {"k": "dance"},
        {"k": "start", "pake": PAKE},
        {"k": "start", "v": 1, "pake": PAKE[:-1]},
        {"k": "start", "v": 1, "pake": PAKE + b"x"},
        {"k": "proof", "mac": b""},
        {"k": "introduction", "mac": MAC, "name": "x" * 65, "addresses": []},
        {"k": "introduction", "mac": MAC, "name": "x", "addresses": ["/"] * 9},
        {"k": "introduction", "mac": MAC, "name": "x", "addresses": [7]},
        {"k": "resolve", "v": 1, "standing": "owner"},
        {"k": "decline", "why": "dead", "tries": -1},
    ],
)
def test_what_breaks_a_rule_is_refused(value: object) -> None:
    with pytest.raises(WireError):
        pairing_wire.decode(cbor.encode(value))


@given(data=st.binary(max_size=200))
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    with suppress(WireError):
        pairing_wire.decode(data)


def test_the_longest_introduction_fits() -> None:
    longest = words.Introduction(
        mac=MAC, name="\U0001f600" * pairing_wire.NAME_CHARS_MAX, addresses=("/" * 300,) * 8
    )
    assert len(pairing_wire.encode(longest)) <= pairing_wire.MESSAGE_BYTES_MAX
