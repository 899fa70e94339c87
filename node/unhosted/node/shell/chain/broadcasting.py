"""Shows a signed transaction to every endpoint, and says what came of it.

To all of them: one that drops it, or keeps it back, then delays nothing.
"""

import re
from dataclasses import dataclass
from typing import Literal

from unhosted.node.shell.chain.answers import EndpointFault, RpcError, data
from unhosted.node.shell.chain.pool import Endpoint, Pool
from unhosted.node.shell.chain.transactions import Attempt

_KNOWN = re.compile(
    r"already known|known transaction|already imported|already exists|already in", re.IGNORECASE
)
_SPENT = re.compile(r"nonce (is )?too low|nonce has already|invalid nonce|oldnonce", re.IGNORECASE)
_CHEAP = re.compile(
    r"underpriced|fee too low|less than block base fee|gas price too low|below.{0,20}base", re.IGNORECASE
)
_FUNDS = re.compile(r"insufficient (funds|balance)|not enough (funds|balance)|enough funds", re.IGNORECASE)

VerdictKind = Literal["taken", "unclear", "no_funds", "refused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """taken: in a mempool, or its nonce is used. unclear: an endpoint failed, it may have it all the same.
    no_funds, refused: every endpoint said no, for the first reason, or the one in `words`."""

    kind: VerdictKind
    words: str = ""


async def broadcast(pool: Pool, attempt: Attempt) -> Verdict:
    """Never raises for an endpoint: whoever follows the transaction finds out."""
    raw = "0x" + attempt.raw.hex()

    async def show(endpoint: Endpoint) -> Verdict:
        try:
            await pool.ask_at(endpoint, "eth_sendRawTransaction", raw, parse=_hash)
        except EndpointFault:
            return Verdict(kind="unclear")
        except RpcError as failure:
            return _verdict(endpoint, failure)
        return Verdict(kind="taken")

    answers = await pool.gather(pool.rested(), show)
    verdicts = [answer for _, answer in answers if isinstance(answer, Verdict)]
    for kind in ("taken", "unclear"):
        for verdict in verdicts:
            if verdict.kind == kind:
                return verdict
    return verdicts[0] if verdicts else Verdict(kind="unclear")


def _verdict(endpoint: Endpoint, failure: RpcError) -> Verdict:
    message = failure.message
    # Too cheap is no refusal for good: the follower offers more for the same nonce.
    if _KNOWN.search(message) or _SPENT.search(message) or _CHEAP.search(message):
        return Verdict(kind="taken")
    kind: VerdictKind = "no_funds" if _FUNDS.search(message) else "refused"
    return Verdict(kind=kind, words=f"{endpoint.transport.host}: {message}")


def _hash(value: object) -> bytes:
    return data(value, "a transaction's hash", size_bytes=32)
