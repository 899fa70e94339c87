"""Packets: what we say is understood by another implementation and by us, and any bytes are harmless."""

import ipaddress
import struct
from typing import Any

import pytest
import zeroconf as zeroconf_library
from hypothesis import given, settings
from hypothesis import strategies as st

from unhosted.node.shell.discovery import dns
from unhosted.node.shell.discovery.announcement import (
    CLAIMS_PER_PACKET_MAX,
    LIFETIME_S,
    NAME_CHARS_MAX,
    SERVICE,
    Announcement,
    Packet,
    decode_packet,
    encode_announcement,
    encode_query,
)

zeroconf: Any = zeroconf_library  # its message classes are not in __all__

PEER = "12D3KooW" + "A" * 44
OWN = Announcement(label="unhosted-0123456789ab", peer="12D3KooW" + "B" * 44, name="me", version="1", port=1)
DESK = Announcement(label="unhosted-ba9876543210", peer=PEER, name="Büro 🖥", version="0.2", port=8643)
ADDRESSES = [ipaddress.ip_address("10.0.0.5"), ipaddress.ip_address("fe80::5")]


VECTOR = bytes.fromhex(
    "000084000000000500000000095f7365727669636573075f646e732d7364045f756470056c6f63616c00000c0001"
    "000000190016095f756e686f73746564045f746370056c6f63616c00095f756e686f73746564045f746370056c6f"
    "63616c00000c000100000019002c15756e686f737465642d303132333435363738396162095f756e686f73746564"
    "045f746370056c6f63616c0015756e686f737465642d303132333435363738396162095f756e686f73746564045f"
    "746370056c6f63616c00002180010000001900230000000021c315756e686f737465642d30313233343536373839"
    "6162056c6f63616c0015756e686f737465642d303132333435363738396162095f756e686f73746564045f746370"
    "056c6f63616c00001080010000001900483769643d313244334b6f6f57" + "41" * 44 + "05763d302e32096e61"
    "6d653d6465736b15756e686f737465642d303132333435363738396162056c6f63616c0000018001000000190004"
    "c0a80105"
)
"""The one of docs/protocol.md."""


def response(*records: dns.Record) -> bytes:
    return dns.encode(dns.Message(False, records=records))


def test_another_implementation_understands_what_we_say() -> None:
    packet = zeroconf.DNSIncoming(encode_announcement(DESK, ADDRESSES))
    assert packet.valid and packet.is_response()
    by_type = {
        record.type: record for record in packet.answers() if record.name != "_services._dns-sd._udp.local."
    }
    assert by_type[dns.PTR].name == SERVICE and by_type[dns.PTR].alias == DESK.instance
    assert (by_type[dns.SRV].port, by_type[dns.SRV].server) == (8643, DESK.host)
    assert ipaddress.ip_address(by_type[dns.A].address) in ADDRESSES
    info = zeroconf.ServiceInfo(SERVICE, DESK.instance, properties=by_type[dns.TXT].text)
    assert info.properties == {b"id": PEER.encode(), b"v": b"0.2", b"name": "Büro 🖥".encode()}
    assert all(record.ttl == LIFETIME_S for record in packet.answers())
    question = zeroconf.DNSIncoming(encode_query())
    assert question.is_query() and question.questions[0].name == SERVICE


def test_we_understand_what_another_implementation_says_with_its_compression() -> None:
    info = zeroconf.ServiceInfo(
        SERVICE,
        f"Desk.{SERVICE}",
        port=7,
        properties={"id": PEER, "v": "3", "name": "desk"},
        server="desk.local.",
        addresses=[address.packed for address in ADDRESSES],
    )
    packet = zeroconf.DNSOutgoing(0x8400)
    for record in (info.dns_pointer(), info.dns_service(), info.dns_text(), *info.dns_addresses()):
        packet.add_answer_at_time(record, 0)
    (claim,) = decode_packet(packet.packets()[0], OWN).claims
    assert (claim.peer, claim.name, claim.version, claim.port) == (PEER, "desk", "3", 7)
    assert list(claim.addresses) == ADDRESSES


def test_the_vector_of_the_protocol_is_what_we_say_and_understand() -> None:
    address = ipaddress.ip_address("192.168.1.5")
    desk = Announcement(label=OWN.label, peer=PEER, name="desk", version="0.2", port=8643)
    assert encode_announcement(desk, [address]) == VECTOR
    (claim,) = decode_packet(VECTOR, DESK).claims
    assert (claim.peer, claim.name, claim.port, claim.addresses) == (PEER, "desk", 8643, (address,))


def test_a_claim_comes_back_as_it_was_said_and_a_goodbye_too() -> None:
    for lifetime_s in (LIFETIME_S, 0):
        (claim,) = decode_packet(encode_announcement(DESK, ADDRESSES, lifetime_s=lifetime_s), OWN).claims
        assert (claim.peer, claim.name, claim.port, claim.lifetime_s) == (PEER, DESK.name, 8643, lifetime_s)
        assert list(claim.addresses) == ADDRESSES


@pytest.mark.parametrize(
    ("name", "kind", "answers"),
    [
        (SERVICE, dns.PTR, True),
        (SERVICE.upper(), dns.ANY, True),
        ("_services._dns-sd._udp.local.", dns.PTR, True),
        (OWN.instance, dns.SRV, True),
        (OWN.host, dns.AAAA, True),
        (SERVICE, dns.A, False),
        (DESK.instance, dns.SRV, False),
        ("_printer._tcp.local.", dns.PTR, False),
    ],
)
def test_questions_for_us_are_answered_and_no_others(name: str, kind: int, answers: bool) -> None:
    assert decode_packet(dns.encode(dns.Message(True, questions=((name, kind),))), OWN).asks is answers


def test_who_knows_us_already_gets_no_answer() -> None:
    known = dns.Record(SERVICE, dns.PTR, LIFETIME_S, OWN.instance)
    old = dns.Record(SERVICE, dns.PTR, LIFETIME_S // 3, OWN.instance)
    for record, asks in ((known, False), (old, True)):
        question = dns.Message(True, questions=((SERVICE, dns.PTR),), records=(record,))
        assert decode_packet(dns.encode(question), OWN).asks is asks


def test_a_packet_with_many_claims_counts_for_few() -> None:
    records = []
    for number in range(20):
        instance = f"n{number}.{SERVICE}"
        records.append(dns.Record(instance, dns.SRV, 9, dns.Service(1, "h.local.")))
        records.append(dns.Record(instance, dns.TXT, 9, dns.encode_pairs([("id", PEER)])))
    assert len(decode_packet(response(*records), OWN).claims) == CLAIMS_PER_PACKET_MAX


def test_a_name_cannot_spoil_a_screen() -> None:
    hostile = Announcement(
        label="x", peer=PEER, name="\x1b[2Jdesk\n\u202egnp\0" + "x" * 900, version="\a1", port=1
    )
    (claim,) = decode_packet(encode_announcement(hostile, ADDRESSES), OWN).claims
    assert claim.name.isprintable() and claim.name.startswith("[2Jdeskgnpxxx") and claim.version == "1"
    assert len(claim.name) <= NAME_CHARS_MAX


@pytest.mark.parametrize("peer", ["", "short", PEER + "0", "../../../etc", "12D3KooW" + "I" * 44, PEER * 2])
def test_what_is_no_peer_id_is_no_claim(peer: str) -> None:
    record = dns.Record(DESK.instance, dns.SRV, 9, dns.Service(1, DESK.host))
    text = dns.Record(DESK.instance, dns.TXT, 9, dns.encode_pairs([("id", peer)]))
    assert decode_packet(response(record, text), OWN).claims == ()


HEAD = struct.pack("!6H", 0, 0x8400, 0, 1, 0, 0)
QUESTION = struct.pack("!6H", 0, 0, 1, 0, 0, 0)
NEEDLE = b"\x09_unhosted\x04_tcp\x05local\x00"


@pytest.mark.parametrize(
    "packet",
    [
        NEEDLE,
        HEAD + NEEDLE,
        HEAD + NEEDLE + struct.pack("!HHIH", dns.TXT, 1, 9, 60000),
        HEAD + b"\xc0\x0c" + NEEDLE,  # a name that is itself
        HEAD + b"\xc0\x0e\xc0\x0c" + NEEDLE,  # two names that are each other
        HEAD + b"\x40" + NEEDLE,
        HEAD + NEEDLE[:-1] + b"\x3fshort",
        HEAD + NEEDLE + struct.pack("!HHIH", dns.A, 1, 9, 3) + b"abc",
        HEAD + NEEDLE + struct.pack("!HHIH", dns.SRV, 1, 9, 2) + b"ab",
        HEAD + NEEDLE + struct.pack("!HHIH", dns.PTR, 1, 9, 1) + b"\xff",
        QUESTION + (b"\x3f" + b"a" * 63) * 5 + NEEDLE,  # longer than a name may be
        struct.pack("!6H", 0, 0x8400, 65535, 65535, 65535, 65535) + NEEDLE,
        HEAD + NEEDLE * 600,
        HEAD + NEEDLE + struct.pack("!HHIH", dns.PTR, 1, 9, 5) + b"\x01a\x00" + b"??",
    ],
)
def test_a_malformed_packet_says_nothing(packet: bytes) -> None:
    assert dns.decode(packet) is None
    assert decode_packet(packet, OWN) == Packet()


@settings(max_examples=300, derandomize=True, deadline=None)
@given(data=st.binary(max_size=400))
def test_any_bytes_are_read_without_an_error(data: bytes) -> None:
    decode_packet(data + NEEDLE, OWN)
    decode_packet(HEAD + data, OWN)
    decode_packet(QUESTION + NEEDLE + data, OWN)


@settings(max_examples=300, derandomize=True, deadline=None)
@given(at=st.integers(0, 400), byte=st.integers(0, 255), cut=st.integers(0, 400))
def test_a_damaged_announcement_is_dropped_or_a_claim_within_bounds(at: int, byte: int, cut: int) -> None:
    packet = bytearray(encode_announcement(DESK, ADDRESSES))
    packet[at % len(packet)] = byte
    for claim in decode_packet(bytes(packet[: max(1, len(packet) - cut)]), OWN).claims:
        assert claim.name.isprintable() and 0 < claim.port <= 65535 and 0 <= claim.lifetime_s <= LIFETIME_S


@pytest.mark.parametrize(
    ("label", "hops", "readable"), [(b"", 8, True), (b"", 9, False), (b"\x01b", 9, False)]
)
def test_a_name_that_points_back_again_and_again_is_not_followed(
    label: bytes, hops: int, readable: bool
) -> None:
    packet = bytearray(struct.pack("!6H", 0, 0x8400, 0, 2, 0, 0) + b"\x01a\x00")
    end = packet.rindex(b"\x01a")
    chain = bytearray()
    start = len(packet) + 10
    for _ in range(hops - 1):  # in the value of a text record, where nobody looks for names
        here = start + len(chain)
        chain += label + struct.pack("!H", 0xC000 | end)
        end = here
    packet += struct.pack("!HHIH", dns.TXT, 1, 9, len(chain)) + chain
    packet += struct.pack("!H", 0xC000 | end) + struct.pack("!HHIH", dns.TXT, 1, 9, 0)
    message = dns.decode(bytes(packet))
    assert (message is not None) is readable
    assert message is None or [record.name for record in message.records] == ["a.", "a."]


def test_a_text_that_is_too_long_loses_its_end_between_two_characters() -> None:
    pairs = dns.decode_pairs(dns.encode_pairs([("name", "ü" * 300), ("v", "1")]))
    assert pairs == {"name": "ü" * 125, "v": "1"}
