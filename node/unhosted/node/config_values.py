"""What a setting may be: one parser per kind, from text or a TOML value to what the node runs with."""

import re
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from unhosted.market.ids import ZERO_ADDRESS, address_text, parse_address
from unhosted.node.core.peer_names import NAME_CHARS_MAX, RESERVED_NAMES

LIST_ENTRIES_MAX = 64
"""Origins and hosts are compared one by one on every request."""

USD_PER_MONTH_MAX = 1_000_000
"""A cap above this is a typing error, and a cap exists to catch those."""

MICROS_PER_USD = 1_000_000
_SIZE = re.compile(r"(\d+(?:\.\d{1,3})?)\s*([KMGT]?)(i?)B?", re.IGNORECASE)
_USD = re.compile(r"(\d{1,9})(?:\.(\d{1,6}))?")
_ENDPOINT = re.compile(r"(?:\[[0-9A-Fa-f:.]{2,45}\]|[\w.-]{1,253}):(\d{1,5})")
_HOURS = re.compile(r"([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d")
_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off", ""}


class Bad(ValueError):
    """A value that its key does not allow; the message says what would be."""


def integer(low: int, high: int) -> Callable[[object], object]:
    def parse(value: object) -> int:
        text = str(value).strip()
        if isinstance(value, bool) or not re.fullmatch(r"\d{1,18}", text) or not low <= int(text) <= high:
            raise Bad(f"a whole number from {low} to {high}")
        return int(text)

    return parse


def choice(*choices: str) -> Callable[[object], object]:
    def parse(value: object) -> str:
        if value not in choices:
            raise Bad(f"one of {', '.join(choices)}")
        return str(value)

    return parse


def text(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value.strip()) <= 1024 or not value.isprintable():
        raise Bad("a text of 1 to 1024 printable characters")
    return value.strip()


def flag(value: object) -> bool:
    text = str(value).strip().lower()
    if text not in _TRUE | _FALSE:
        raise Bad("true or false")
    return text in _TRUE


def size(value: object) -> int:
    """Bytes from 8000000000, "8GB" (decimal) or "7.5GiB" (binary)."""
    match = _SIZE.fullmatch(str(value).strip())
    if match is None or isinstance(value, bool):
        raise Bad('a number of bytes, or a size such as "8GB" or "7.5GiB"')
    number, unit, binary = match.groups()
    scale: int = (1024 if binary else 1000) ** " KMGT".index(unit.upper() or " ")
    whole, _, part = number.partition(".")
    size_bytes = int(whole) * scale + int(part.ljust(3, "0") or 0) * scale // 1000
    if size_bytes >= 1 << 60:
        raise Bad("less than an exabyte")
    return size_bytes


def usd(value: object) -> int:
    """Micro-USDC from dollars as text or number; exact, floats never see the amount."""
    match = _USD.fullmatch(str(value).strip().removeprefix("$"))
    if match is None or isinstance(value, bool) or int(match[1]) > USD_PER_MONTH_MAX:
        raise Bad(f"an amount in USD from 0 to {USD_PER_MONTH_MAX}, at most 6 decimals, such as 5 or 5.00")
    return int(match[1]) * MICROS_PER_USD + int((match[2] or "").ljust(6, "0"))


def names(value: object) -> tuple[str, ...]:
    entries = value.split(",") if isinstance(value, str) else value
    if not isinstance(entries, list) or len(entries) > LIST_ENTRIES_MAX:
        raise Bad(f"a list of at most {LIST_ENTRIES_MAX} names, or names with commas between")
    return tuple(text(entry) for entry in entries if entry != "")


def short_name(value: object) -> str:
    """A name for people, or empty."""
    if not isinstance(value, str) or len(value.strip()) > NAME_CHARS_MAX or not value.isprintable():
        raise Bad(f"a name of at most {NAME_CHARS_MAX} printable characters, or empty")
    if value.strip().casefold() in RESERVED_NAMES:
        raise Bad(f"another name than {value.strip()}, which means this machine")
    return value.strip()


def optional_text(value: object) -> str:
    return "" if value == "" else text(value)


def endpoints(value: object) -> tuple[str, ...]:
    """Names or addresses with a port: pc.example.org:8643, 203.0.113.5:8643, [2001:db8::5]:8643."""
    entries = names(value)
    for entry in entries:
        match = _ENDPOINT.fullmatch(entry)
        if match is None or not 0 < int(match[1]) < 65536:
            raise Bad("host:port, such as pc.example.org:8643 or [2001:db8::5]:8643, with commas between")
    return entries


def urls(value: object) -> tuple[str, ...]:
    """Addresses of endpoints, http or https. A key in them is theirs to know."""
    entries = names(value)
    for entry in entries:
        try:
            parts = urlsplit(entry)
            is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            is_url = False
        if not is_url:
            raise Bad("http:// or https:// addresses, with commas between")
    return entries


def hidden_urls(entries: Sequence[str]) -> list[str]:
    """Scheme, host and port: in user, path or query of an endpoint there is often a key."""
    shown = []
    for entry in entries:
        parts = urlsplit(entry)
        host = parts.netloc.rpartition("@")[2]
        has_more = "@" in parts.netloc or parts.path.strip("/") or parts.query or parts.fragment
        shown.append(f"{parts.scheme}://{host}" + ("/…" if has_more else ""))
    return shown


def is_like_key(value: object) -> bool:
    """Whether somebody may have put a private key where something else belongs: it must not be repeated."""
    return re.search(r"[0-9a-fA-F]{64}", str(value)) is not None


def address(value: object) -> str:
    """An account on the chain, as text with the capitals of EIP-55, or empty."""
    if value == "":
        return ""
    if is_like_key(value):
        raise Bad("an address; what was given looks like a private key: use that one no more, it was shown")
    try:
        parsed = parse_address(str(value).strip())
    except ValueError as error:
        raise Bad(f"an address of 0x and 40 hex digits, or empty; {error}") from None
    if parsed == ZERO_ADDRESS:
        raise Bad("another address than zero, which nobody has the key of")
    return address_text(parsed)


def hours(value: object) -> str:
    """A span of local time, such as 22:00-07:00, or empty."""
    if value != "" and (not isinstance(value, str) or not _HOURS.fullmatch(value) or value[:5] == value[6:]):
        raise Bad("two different times of day, such as 22:00-07:00, or empty for none")
    return str(value)


def show_usd(micros: int) -> str:
    whole, part = divmod(micros, MICROS_PER_USD)
    text = f"{part:06d}".rstrip("0").ljust(2, "0")
    return f"{whole}.{text}"
