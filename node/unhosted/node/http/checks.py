"""What was paid for, whether it was checked, and what that found of each seller."""

from urllib.parse import parse_qs

from unhosted.node.http.exchange import Exchange, Header, send_json
from unhosted.node.http.parsing import Body, invalid, parse

RECEIPTS_USUAL = 100
RECEIPTS_MAX = 1_000
"""Some 600 kB of JSON; `before` goes on from the last one's number."""

SELLER_CHARS_MAX = 64
"""A peer id has 52."""

PATH_CHARS_MAX = 4_096
NUMBER_MAX = (1 << 63) - 1

_HEADERS: tuple[Header, ...] = ((b"cache-control", b"no-store"),)


class CheckBody(Body):
    """seller: a peer id, or enough of its start or end; without one, all. wait: answer when it is done."""

    seller: str | None = None
    wait: bool = False


class AskBody(Body):
    """peer: a paired machine. file: path of the evidence on this machine. evidence: the file's hash in hex:
    what the user agreed that the peer reads, prompts and answers in it."""

    peer: str
    file: str
    evidence: str


async def list_receipts(exchange: Exchange) -> None:
    query = _query(exchange, "limit", "before", "seller")
    receipts = await exchange.node.checks.receipts(
        limit=_number(query, "limit", RECEIPTS_MAX) or RECEIPTS_USUAL,
        before=_number(query, "before", NUMBER_MAX),
        seller=query.get("seller"),
    )
    await send_json(exchange.send, {"receipts": list(receipts)}, headers=_HEADERS)


async def get_receipt(exchange: Exchange) -> None:
    wanted = str(exchange.scope["path_params"]["receipt"])
    await send_json(exchange.send, {"receipt": await exchange.node.checks.receipt(wanted)}, headers=_HEADERS)


async def list_checks(exchange: Exchange) -> None:
    sellers = await exchange.node.checks.sellers(_query(exchange, "seller").get("seller"))
    await send_json(exchange.send, {"sellers": list(sellers)}, headers=_HEADERS)


async def start_checks(exchange: Exchange) -> None:
    body = parse(CheckBody, exchange.body)
    if body.seller is not None and len(body.seller) > SELLER_CHARS_MAX:
        raise invalid("seller", f"{len(body.seller)} characters, at most {SELLER_CHARS_MAX}")
    asked = await exchange.node.checks.check(body.seller, wait=body.wait)
    await send_json(exchange.send, asked, headers=_HEADERS)


async def ask_peer(exchange: Exchange) -> None:
    body = parse(AskBody, exchange.body)
    for name, value, most in (
        ("peer", body.peer, SELLER_CHARS_MAX),
        ("file", body.file, PATH_CHARS_MAX),
        ("evidence", body.evidence, SELLER_CHARS_MAX),
    ):
        if len(value) > most:
            raise invalid(name, f"{len(value)} characters, at most {most}")
    word = await exchange.node.checks.ask_peer(body.peer, body.file, evidence=body.evidence)
    await send_json(exchange.send, {"word": word}, headers=_HEADERS)


async def forgive(exchange: Exchange) -> None:
    seller = str(exchange.scope["path_params"]["seller"])
    forgiven = await exchange.node.checks.forgive(seller[: SELLER_CHARS_MAX + 1])
    await send_json(exchange.send, {"forgiven": forgiven}, headers=_HEADERS)


def _query(exchange: Exchange, *known: str) -> dict[str, str]:
    """Raises: Refused for a word that is not known, or is there twice."""
    values = parse_qs(exchange.scope["query_string"].decode("ascii", "replace"), keep_blank_values=True)
    for name, found in values.items():
        if name not in known:
            raise invalid(name[:SELLER_CHARS_MAX], f"is not known here; these are: {', '.join(known)}")
        if len(found) != 1 or len(found[0]) > SELLER_CHARS_MAX:
            raise invalid(name, f"once, with at most {SELLER_CHARS_MAX} characters")
    return {name: found[0] for name, found in values.items()}


def _number(query: dict[str, str], name: str, most: int) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text) <= most:
        raise invalid(name, f"a whole number from 1 to {most} is needed")
    return int(text)
