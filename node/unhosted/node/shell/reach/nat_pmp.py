"""NAT-PMP (RFC 6886): ask the router to send a TCP port of its public address here.

Not handled: the router's announcements of a new address (we renew often enough), UDP mappings, IPv6 (PCP).
"""

import socket
import struct
from dataclasses import dataclass

import trio

PORT = 5351
TRIES = 5
FIRST_WAIT_S = 0.25
"""Doubled with each try, 7.75 s in all. The RFC goes to nine tries and a minute; a router in the same
building that is silent for eight seconds has no NAT-PMP.
"""

ANSWER_BYTES_MAX = 1100
"""The RFC's limit of a packet."""

EXTERNAL_ADDRESS, MAP_TCP = 0, 2
WORDS_OF_RESULT = {
    1: "it speaks another version of NAT-PMP",
    2: "it refuses: port mapping is switched off in its settings",
    3: "it has no address of its own yet",
    4: "it has no room for another mapping",
    5: "it does not know how to map TCP ports",
}


class NoMapping(Exception):
    """The router does not do it; the message says why, for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapped:
    """port_outside may differ from the one that was asked for."""

    port_inside: int
    port_outside: int
    lifetime_s: int


async def external_address(gateway: str) -> str:
    """The router's address outside. Raises: NoMapping."""
    answer = await _ask(gateway, struct.pack("!BB", 0, EXTERNAL_ADDRESS), size_bytes=12)
    return socket.inet_ntoa(answer[8:12])


async def map_port(gateway: str, port: int, *, port_outside: int, lifetime_s: int) -> Mapped:
    """Make, renew or, with lifetime_s and port_outside of 0, remove a mapping. Raises: NoMapping."""
    request = struct.pack("!BBHHHI", 0, MAP_TCP, 0, port, port_outside, lifetime_s)
    answer = await _ask(gateway, request, size_bytes=16)
    inside, outside, lifetime = struct.unpack_from("!HHI", answer, 8)
    if inside != port or (lifetime_s and (not outside or not lifetime)):
        raise NoMapping(f"router {gateway}: its answer is about port {inside} for {lifetime} s")
    return Mapped(port_inside=port, port_outside=outside, lifetime_s=lifetime)


async def _ask(gateway: str, request: bytes, *, size_bytes: int) -> bytes:
    """The router's answer, checked. It is sent from the router's own address and port, or it is none."""
    with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as sock:
        try:
            await sock.connect((gateway, PORT))
            for attempt in range(TRIES):
                await sock.send(request)
                with trio.move_on_after(FIRST_WAIT_S * 2**attempt):
                    while True:
                        answer = await sock.recv(ANSWER_BYTES_MAX)
                        if len(answer) >= 4 and answer[1] == request[1] + 128:
                            return _checked(gateway, answer, size_bytes)
        except OSError as error:
            raise NoMapping(f"router {gateway}: it refuses NAT-PMP ({error.strerror})") from None
    raise NoMapping(f"router {gateway}: it does not answer NAT-PMP")


def _checked(gateway: str, answer: bytes, size_bytes: int) -> bytes:
    (result,) = struct.unpack_from("!H", answer, 2)
    if result != 0 or answer[0] != 0:
        raise NoMapping(f"router {gateway}: {WORDS_OF_RESULT.get(result, f'it answers with error {result}')}")
    if len(answer) < size_bytes:
        raise NoMapping(f"router {gateway}: it answers with {len(answer)} bytes instead of {size_bytes}")
    return answer
