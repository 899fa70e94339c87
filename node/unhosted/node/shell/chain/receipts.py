"""Where a transaction stands, as far as the endpoints agree about it."""

from dataclasses import dataclass, field

from unhosted.node.shell.chain.answers import (
    WEI_MAX,
    Block,
    EndpointFault,
    Mined,
    RpcError,
    block,
    mined,
    quantity,
)
from unhosted.node.shell.chain.pool import Endpoint, NotYet, Pool, View
from unhosted.node.shell.chain.transactions import Transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A receipt that every endpoint confirms which has its block. Equal for the same receipt."""

    mined: Mined
    block_unix_s: int
    is_safe: bool = field(compare=False)


async def standing(pool: Pool, transaction: Transaction) -> Standing | None:
    """Where one of the intent's forms stands; None while it is in no block.

    Raises: ChainUnavailable, also when endpoints contradict one another about it.
    """

    async def round_() -> Standing | None:
        views = await pool.survey()
        safe_number = min(view.safe_number for view in views)

        async def look(endpoint: Endpoint) -> Standing | None:
            return await _look(pool, endpoint, transaction, safe_number)

        answers = await pool.gather([view.endpoint for view in views], look)
        sure = [(endpoint, answer) for endpoint, answer in answers if not isinstance(answer, RpcError)]
        found = {answer for _, answer in sure if answer is not None}
        if not sure or len(found) > 1:
            raise NotYet
        if not found:
            return None
        [answer] = found
        silent = [endpoint for endpoint, other in sure if other is None]
        await _confirm(pool, answer, silent, views)
        return answer

    return await pool.insist(round_)


async def _look(
    pool: Pool, endpoint: Endpoint, transaction: Transaction, safe_number: int
) -> Standing | None:
    for attempt in transaction.attempts:

        def parse(value: object, sought: bytes = attempt.transaction) -> Mined | None:
            if value is None or (isinstance(value, dict) and value.get("blockNumber") is None):
                return None  # some give a receipt of what is still waiting
            return mined(value, sought)

        sought = "0x" + attempt.transaction.hex()
        found = await pool.ask_at(endpoint, "eth_getTransactionReceipt", sought, parse=parse)
        if found is None:
            continue
        at = await _block_or_none(pool, endpoint, found.block_number)
        if at is not None and at.hash == found.block_hash:  # else it tells of a block that is gone
            is_safe = found.block_number <= safe_number
            return Standing(mined=found, block_unix_s=at.timestamp_unix_s, is_safe=is_safe)
    return None


async def _confirm(pool: Pool, answer: Standing, silent: list[Endpoint], views: list[View]) -> None:
    """Raises NotYet if one of those that know of no receipt has its block, or another one in its place."""
    for endpoint in silent:
        try:
            at = await _block_or_none(pool, endpoint, answer.mined.block_number)
        except EndpointFault:
            continue
        if at is not None and at.hash == answer.mined.block_hash:
            what = f"transaction 0x{answer.mined.transaction.hex()[:16]}…"
            pool.contradiction(what, [view.endpoint for view in views])
        if at is not None:
            raise NotYet


async def _block_or_none(pool: Pool, endpoint: Endpoint, number: int) -> Block | None:
    def parse(value: object) -> Block | None:
        return None if value is None else block(value)

    try:
        return await pool.ask_at(endpoint, "eth_getBlockByNumber", hex(number), False, parse=parse)
    except RpcError:  # some call a block that they do not have an error
        return None


async def nonce_of(pool: Pool, sender: bytes, *, at: str) -> int:
    """How many transactions of `sender` stand in blocks. Raises: ChainUnavailable."""

    async def ask(endpoint: Endpoint, number: int) -> int:
        return await pool.ask_at(
            endpoint, "eth_getTransactionCount", "0x" + sender.hex(), hex(number), parse=_count
        )

    return await pool.agreed(ask, at=at)


async def balance_of(pool: Pool, holder: bytes) -> int:
    """Wei, at a block that all endpoints have. Raises: ChainUnavailable."""

    async def ask(endpoint: Endpoint, number: int) -> int:
        return await pool.ask_at(endpoint, "eth_getBalance", "0x" + holder.hex(), hex(number), parse=_wei)

    return await pool.agreed(ask, at="latest")


def _count(value: object) -> int:
    return quantity(value, "a number of transactions")


def _wei(value: object) -> int:
    return quantity(value, "a balance", maximum=WEI_MAX)
