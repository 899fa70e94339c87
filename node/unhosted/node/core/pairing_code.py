"""One-time codes that people type: K7P-4QX-9TMC, or K7P-4QX-9TMC@192.168.1.5:8643/12D3KooW… for elsewhere.

Ten characters of Crockford's base 32, which has no I, L, O and U: three hint at who offers the code, so that
the other machine asks only those that could be it; six are the secret, 30 bits; the last one is a check. Any
one wrong character and any two that are swapped show in the check, so that a typing error is told apart from
a wrong code before anything is sent.

The hint is no secret and proves nothing. The secret is never sent: see `core.pairing`.
"""

import hashlib
import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from unhosted.node.core.addresses import Endpoint, format_address, parse_address
from unhosted.node.core.errors import Refused
from unhosted.node.core.peering import PeerId

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
HINT_CHARS = 3
SECRET_CHARS = 6
SECRET_BYTES = 4
"""Entropy that makes a secret; 30 of its 32 bits are used."""

ADDRESSES_MAX = 4
"""Addresses in one code: more make a QR that small cameras and terminals cannot show."""

CODE_TEXT_CHARS_MAX = 1024
"""Longer than any code that this program makes; a paste of something else is refused unread."""

_CODE_CHARS = HINT_CHARS + SECRET_CHARS + 1
_LOOK_ALIKES = str.maketrans({"O": "0", "I": "1", "L": "1"})
_VALUES = {character: value for value, character in enumerate(ALPHABET)}
_BASE58 = re.compile(r"[1-9A-HJ-NP-Za-km-z]{40,64}")
_FIELD_POLYNOMIAL = 0b100101
"""x^5 + x^2 + 1 makes the field of 32 elements, in which x has 31 different powers: one for each place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairingCode:
    """text: the ten characters, without dashes. peer and addresses: where an address code says so."""

    text: str
    peer: PeerId | None = None
    addresses: tuple[str, ...] = ()

    @property
    def hint(self) -> str:
        return self.text[:HINT_CHARS]

    def __repr__(self) -> str:
        return "PairingCode(hidden)"  # a code in a log or a trace would be a code lost


def make_code(peer: PeerId, entropy: bytes) -> PairingCode:
    """The code of an offer by `peer`. entropy: SECRET_BYTES unpredictable bytes, for this offer alone."""
    if len(entropy) != SECRET_BYTES:
        raise ValueError(f"{len(entropy)} bytes of entropy, {SECRET_BYTES} make a code")
    body = hint_of(peer) + _characters(int.from_bytes(entropy) >> 2, SECRET_CHARS)
    return PairingCode(text=body + _check_character(body))


def hint_of(peer: PeerId) -> str:
    """Three characters that any machine can compute for each peer it sees."""
    digest = hashlib.blake2b(peer.encode(), digest_size=2, person=b"unhosted/hint/1").digest()
    return _characters(int.from_bytes(digest) >> 1, HINT_CHARS)


def show_code(code: PairingCode) -> str:
    """The code as people read it, such as K7P-4QX-9TMC."""
    return f"{code.text[:3]}-{code.text[3:6]}-{code.text[6:]}"


def show_address_code(code: PairingCode, peer: PeerId, addresses: Sequence[str]) -> str | None:
    """The code with the peer's addresses (multiaddrs) and id, for elsewhere and for a QR; None without one.

    Addresses of one link mean nothing on another machine, and loopback only on this one: it is named if
    there is nothing else.
    """
    endpoints = [endpoint for text in addresses if (endpoint := parse_address(text)) and not endpoint.zone]
    away = [endpoint for endpoint in endpoints if not _is_of_one_host(endpoint)] or endpoints
    shown = list(dict.fromkeys(map(_show_endpoint, sorted(away, key=_rank))))[:ADDRESSES_MAX]
    return f"{show_code(code)}@{','.join(shown)}/{peer}" if shown else None


def parse_code(text: str) -> PairingCode:
    """The code that `text` is, in any case, with or without dashes and spaces.

    Raises: Refused (pairing_failed) that says which part is wrong and how it should look.
    """
    if len(text) > CODE_TEXT_CHARS_MAX:
        raise _refused(f"a text of {len(text)} characters is no pairing code")
    short, at, where = text.strip().partition("@")
    code = _parse_short(short)
    if not at:
        return code
    hosts, slash, peer = where.strip().rpartition("/")
    if not slash or not _BASE58.fullmatch(peer):
        raise _refused("an address code ends with / and the other machine's id, and this one does not")
    if hint_of(peer) != code.hint:
        raise _refused(f"the code does not belong to the machine …{peer[-6:]} that it names")
    return PairingCode(text=code.text, peer=peer, addresses=_parse_hosts(hosts.split(",")))


def _parse_short(text: str) -> PairingCode:
    plain = re.sub(r"[\s\-‐‑‒–—−_.]", "", text).upper().translate(_LOOK_ALIKES)
    if wrong := sorted({character for character in plain if character not in _VALUES}):
        raise _refused(f"{wrong[0]!r} is in no pairing code")
    if len(plain) != _CODE_CHARS:
        raise _refused(f"a pairing code has {_CODE_CHARS} characters, this one has {len(plain)}")
    if _check_character(plain[:-1]) != plain[-1]:
        raise _refused("the code has a typing error: its characters do not fit its last one")
    return PairingCode(text=plain)


def _parse_hosts(texts: Sequence[str]) -> tuple[str, ...]:
    if len(texts) > ADDRESSES_MAX:
        raise _refused(f"the code has {len(texts)} addresses, at most {ADDRESSES_MAX}")
    return tuple(_parse_host(text.strip()) for text in texts)


def _parse_host(text: str) -> str:
    host, _, port = text.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    try:
        if is_bracketed != (":" in host) or not re.fullmatch(r"[0-9]{1,5}", port):
            raise ValueError(text)
        return format_address(host[1:-1] if is_bracketed else host, int(port))
    except ValueError:
        message = f"{text[:80]!r} in the code is no address like 192.168.1.5:8643 or [::1]:8643"
        raise _refused(message) from None


def _refused(message: str) -> Refused:
    advice = "type it again as the other machine shows it, such as K7P-4QX-9TMC"
    return Refused("pairing_failed", f"{message}; {advice}", field="code")


def _show_endpoint(endpoint: Endpoint) -> str:
    host = f"[{endpoint.host}]" if endpoint.kind == "ip6" else endpoint.host
    return f"{host}:{endpoint.port}"


def _is_of_one_host(endpoint: Endpoint) -> bool:
    return endpoint.kind != "dns" and ipaddress.ip_address(endpoint.host).is_loopback


def _rank(endpoint: Endpoint) -> int:
    """Names and public addresses first: they are why someone takes the long code."""
    if endpoint.kind == "dns":
        return 0
    return 1 if ipaddress.ip_address(endpoint.host).is_global else 2


def _characters(number: int, count: int) -> str:
    return "".join(ALPHABET[number >> 5 * place & 31] for place in reversed(range(count)))


def _check_character(body: Iterable[str]) -> str:
    """Each character times its own power of x, summed in the field of 32 elements."""
    total = 0
    for character in body:
        total = (total ^ _VALUES[character]) << 1
        if total > 31:
            total ^= _FIELD_POLYNOMIAL
    return ALPHABET[total]
