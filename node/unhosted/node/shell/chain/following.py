"""Events of `Channels` in the order of the chain, each once, as far as they are safe.

Each range is read from every endpoint that is well and must be the same everywhere: one that leaves a
CloseRequested out could cost a seller its money. Ranges shrink where an endpoint gives no more at once.

A reorganisation below the safe block is news, but it happens (and at once on a local chain, where everything
is safe): the blocks before the last one are read again then, and what was not given before is given.
"""

import logging
from collections import Counter, OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

import trio

from unhosted.node.core.chain import ChainEvent, ChainFacts, EventBatch
from unhosted.node.shell.chain.answers import EndpointFault, RpcError, block, event
from unhosted.node.shell.chain.chains import ChainEntry
from unhosted.node.shell.chain.pool import Endpoint, Pool

SPAN_BLOCKS_START = 2_000
SPAN_BLOCKS_MAX = 10_000
"""What most public endpoints allow at once. Ranges halve where they allow less, and grow by a quarter."""
LOGS_MAX = 10_000
"""In one answer: more, and the range is halved."""
REREAD_BLOCKS = 256
"""How far back a reorganisation is looked for: far deeper than any that was ever seen after `safe`."""
REMEMBERED_MAX = 20_000
"""Events given lately, so that none is given twice after a reorganisation."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _TooMuch:
    """An endpoint gives less than this range at once."""


class Follower:
    """One run over the chain's events; see `core.chain.Chain.events`.

    An iterator and no generator: it holds nothing that would have to be closed, so it may be left anywhere.
    """

    def __init__(self, pool: Pool, entry: ChainEntry, facts: ChainFacts, *, from_block: int) -> None:
        self._pool, self._entry, self._facts = pool, entry, facts
        self._from_block = self._next_block = from_block
        self._span = SPAN_BLOCKS_START
        self._given: OrderedDict[Hashable, None] = OrderedDict()
        self._last: tuple[int, bytes] | None = None

    def __aiter__(self) -> "Follower":
        return self

    async def __anext__(self) -> EventBatch:
        """Raises: ChainUnavailable; asked again, it goes on where it was."""
        pause_s = max(0.3, min(5.0, self._entry.block_time_ms / 1000))
        while True:
            safe_number = min(view.safe_number for view in await self._pool.survey())
            if await self._is_undone(safe_number):
                logger.warning("chain_reorganised below_block=%d", self._next_block)
                back_to = min(self._next_block, safe_number) - REREAD_BLOCKS
                self._next_block, self._last = max(self._from_block, back_to), None
            if self._next_block > safe_number:
                await trio.sleep(pause_s)
                continue
            last = min(safe_number, self._next_block + self._span - 1)
            events = await self._read(self._next_block, last)
            if events is None:
                continue
            self._last = (last, await self._hash(last))
            self._next_block = last + 1
            self._span = min(SPAN_BLOCKS_MAX, self._span + self._span // 4 + 1)
            return EventBatch(events=tuple(self._fresh(events)), to_block=last)

    async def _is_undone(self, safe_number: int) -> bool:
        """Whether the last block that was read is no longer there."""
        if self._last is None:
            return False
        number, hash_ = self._last
        if safe_number < number:
            # Endpoints behind one address differ by some blocks; a chain that grows tells soon which it was.
            return not self._entry.block_time_ms
        return await self._hash(number) != hash_

    async def _hash(self, number: int) -> bytes:
        async def ask(endpoint: Endpoint, _: int) -> bytes:
            found = await self._pool.ask_at(endpoint, "eth_getBlockByNumber", hex(number), False, parse=block)
            return found.hash

        return await self._pool.agreed(ask, at="safe")

    async def _read(self, first: int, last: int) -> tuple[ChainEvent, ...] | None:
        """None when the range was too much for somebody: it is smaller the next time."""

        async def ask(endpoint: Endpoint, _: int) -> tuple[ChainEvent, ...] | _TooMuch:
            try:
                return await self._logs(endpoint, first, last)
            except RpcError as failure:
                if failure.is_range or last > first:  # what a limit is called is everybody's own choice
                    return _TooMuch()
                raise

        async def round_() -> tuple[ChainEvent, ...] | None:
            views = await self._pool.survey()
            answers = await self._pool.gather([view.endpoint for view in views], lambda one: ask(one, 0))
            if any(isinstance(answer, _TooMuch) for _, answer in answers) and last > first:
                self._span = max(1, (last - first + 1) // 2)
                return None
            whole = [(endpoint, answer) for endpoint, answer in answers if not isinstance(answer, _TooMuch)]
            return self._pool.same(whole, f"the events of blocks {first} to {last}", key=_identities)

        return await self._pool.insist(round_)

    async def _logs(self, endpoint: Endpoint, first: int, last: int) -> tuple[ChainEvent, ...]:
        contract = self._facts.channels.contract

        def parse(value: object) -> tuple[ChainEvent, ...]:
            if not isinstance(value, list):
                raise EndpointFault("broken", "its logs are not a list")
            if len(value) > LOGS_MAX and last > first:
                raise RpcError(0, f"more than {LOGS_MAX} logs", b"")
            events = [event(one, contract=contract, first=first, last=last) for one in value]
            known = [one for one in events if one is not None]
            known.sort(key=lambda one: (one.block_number, one.log_index))
            return tuple(known)

        wanted = {"address": "0x" + contract.hex(), "fromBlock": hex(first), "toBlock": hex(last)}
        return await self._pool.ask_at(endpoint, "eth_getLogs", wanted, parse=parse)

    def _fresh(self, events: tuple[ChainEvent, ...]) -> list[ChainEvent]:
        """Without what was given before, in whatever block it was then."""
        fresh = []
        seen: Counter[Hashable] = Counter()
        for one in events:
            # One transaction may say the same twice: then they are told apart by their order.
            name = (one.transaction, one.name, *sorted(one.values.items()))
            seen[name] += 1
            identity = (*name, seen[name])
            if identity not in self._given:
                fresh.append(one)
            self._given[identity] = None
            self._given.move_to_end(identity)
        while len(self._given) > REMEMBERED_MAX:
            self._given.popitem(last=False)
        return fresh


def _identities(events: tuple[ChainEvent, ...]) -> Hashable:
    return tuple(
        (one.block_hash, one.log_index, one.transaction, one.name, *sorted(one.values.items()))
        for one in events
    )
