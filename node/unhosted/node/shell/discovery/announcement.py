"""What a node says on its networks, as mDNS packets (RFC 6762, 6763), and what is understood of others'.

One packet says all of a node: its PTR, SRV, TXT and address records together. So a packet is understood by
itself: nothing of one sender is ever joined with, or displaced by, what another one sent, and there is no
cache to fill. Whatever is not for us, or not as it should be, is dropped without a word.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from unhosted.node.core.peering import PeerId
from unhosted.node.shell.discovery import dns
from unhosted.node.shell.discovery.dns import Address

SERVICE = "_unhosted._tcp.local."
BROWSED = "_services._dns-sd._udp.local."

LIFETIME_S = 25
"""How long an announcement holds; `core.directory_state.SIGHT_NS` is the same for those that say more."""

CLAIMS_PER_PACKET_MAX = 4
ADDRESSES_PER_CLAIM_MAX = 8
NAME_CHARS_MAX = 64
VERSION_CHARS_MAX = 32

PEER_ID = re.compile(r"[1-9A-HJ-NP-Za-km-z]{40,64}")
"""Base58 of a key's hash or of an Ed25519 key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """What this node says. label: of its DNS names, which no other node has. port: where it is called."""

    label: str
    peer: PeerId
    name: str
    version: str
    port: int

    @property
    def instance(self) -> str:
        return f"{self.label}.{SERVICE}"

    @property
    def host(self) -> str:
        return f"{self.label}.local."


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a packet says of one node. lifetime_s: 0 when it stops. addresses: not judged yet."""

    instance: str
    peer: PeerId
    name: str
    version: str
    port: int
    addresses: tuple[Address, ...]
    lifetime_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """asks: somebody wants to know who is there, and does not list us among those it knows."""

    claims: tuple[Claim, ...] = ()
    asks: bool = False


def encode_query() -> bytes:
    """Who is there?"""
    return dns.encode(dns.Message(True, questions=((SERVICE, dns.PTR),)))


def encode_announcement(
    announcement: Announcement, addresses: Iterable[Address], *, lifetime_s: int = LIFETIME_S
) -> bytes:
    """I am here. lifetime_s 0: I stop."""
    instance, host = announcement.instance, announcement.host
    pairs = (("id", announcement.peer), ("v", announcement.version), ("name", announcement.name))
    records = [
        dns.Record(BROWSED, dns.PTR, lifetime_s, SERVICE),
        dns.Record(SERVICE, dns.PTR, lifetime_s, instance),
        dns.Record(instance, dns.SRV, lifetime_s, dns.Service(announcement.port, host)),
        dns.Record(instance, dns.TXT, lifetime_s, dns.encode_pairs(pairs)),
    ]
    records += [
        dns.Record(host, dns.A if address.version == 4 else dns.AAAA, lifetime_s, address)
        for address in list(addresses)[:ADDRESSES_PER_CLAIM_MAX]
    ]
    return dns.encode(dns.Message(False, records=tuple(records)))


def decode_packet(data: bytes, own: Announcement) -> Packet:
    """What a packet means for us; an empty one if nothing. Any bytes may come."""
    lowered = data.lower()
    if not any(part in lowered for part in (b"_unhosted", b"_dns-sd", own.label.encode())):
        return Packet()  # the printers and televisions of the house, without the cost of reading them
    message = dns.decode(data)
    if message is None:
        return Packet()
    if message.is_query:
        return Packet(asks=_asks(message, own))
    return Packet(claims=_claims(message.records))


def printable(text: str, chars_max: int) -> str:
    """A claim that may be shown on a screen: no control characters, no endless line."""
    return "".join(character for character in text[: 4 * chars_max] if character.isprintable())[:chars_max]


def _asks(message: dns.Message, own: Announcement) -> bool:
    ours = {
        SERVICE: {dns.PTR, dns.ANY},
        BROWSED: {dns.PTR, dns.ANY},
        own.instance: {dns.SRV, dns.TXT, dns.ANY},
        own.host: {dns.A, dns.AAAA, dns.ANY},
    }
    if not any(kind in ours.get(name, ()) for name, kind in message.questions):
        return False
    return not any(
        record.name == SERVICE and record.value == own.instance and record.ttl_s >= LIFETIME_S // 2
        for record in message.records
    )


def _claims(records: Sequence[dns.Record]) -> tuple[Claim, ...]:
    texts: dict[str, dict[str, str]] = {}
    addresses: dict[str, list[Address]] = {}
    services: list[tuple[dns.Record, dns.Service]] = []
    for record in records:
        match record.value:
            case bytes():
                texts.setdefault(record.name, dns.decode_pairs(record.value))
            case dns.Service():
                if record.name.endswith("." + SERVICE):
                    services.append((record, record.value))
            case str():
                continue
            case _:
                addresses.setdefault(record.name, []).append(record.value)
    claims = []
    for record, service in services[:CLAIMS_PER_PACKET_MAX]:
        pairs = texts.get(record.name, {})
        peer = pairs.get("id", "")
        if PEER_ID.fullmatch(peer) and service.port > 0:
            claims.append(
                Claim(
                    instance=record.name,
                    peer=peer,
                    name=printable(pairs.get("name", ""), NAME_CHARS_MAX),
                    version=printable(pairs.get("v", ""), VERSION_CHARS_MAX),
                    port=service.port,
                    addresses=tuple(addresses.get(service.host, ())[:ADDRESSES_PER_CLAIM_MAX]),
                    lifetime_s=min(record.ttl_s, LIFETIME_S),
                )
            )
    return tuple(claims)
