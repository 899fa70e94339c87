"""Several endpoints of one chain: whom to ask, whom to believe.

One answer is enough for what costs nothing (`ask`). What decides about money (`agreed`) is asked of every
endpoint that is well, at one block which all of them have, and must be the same everywhere. An endpoint that
cannot be reached is left out: a second one is there so that the first may die, and an attacker who could only
silence one gains no more than if it had never been configured. One that answers and contradicts is not left
out: then nobody is believed, unless a strict majority agrees.

What fails is always `ChainUnavailable`, with a sentence per endpoint, and says nothing about funds.
"""

import contextlib
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import trio

from unhosted.node.core.chain import ChainUnavailable
from unhosted.node.shell.chain.answers import WEI_MAX, Block, EndpointFault, RpcError, block, quantity
from unhosted.node.shell.chain.chains import ChainEntry
from unhosted.node.shell.chain.health import Health, after_fault
from unhosted.node.shell.chain.transport import Transport

ENDPOINTS_MAX = 8
"""Every money read asks all of them."""
CLOCK_SKEW_S = 120
"""How far a block may be ahead of our own clock."""
SURVEY_AGE_S_MAX = 1.0
"""Heads are read again after this, where blocks are regular; at every read where they come on demand."""

_BLOCK = "eth_getBlockByNumber"
logger = logging.getLogger(__name__)
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolPolicy:
    """timeout_s: of one request. rounds: through all endpoints, with pauses of pause_s, doubling."""

    timeout_s: float = 6.0
    rounds: int = 3
    pause_s: float = 0.4


@dataclass(slots=True, kw_only=True)
class Endpoint:
    transport: Transport
    health: Health = field(default_factory=Health)
    is_right_chain: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What an endpoint says the chain is now."""

    endpoint: Endpoint
    head: Block
    safe_number: int


class WrongChain(Exception):
    """Every endpoint that answers is of another chain; `found` is the id of one of them."""

    def __init__(self, host: str, found: int) -> None:
        super().__init__(f"{host} is chain {found}")
        self.host = host
        self.found = found


def _itself(answer: Hashable) -> Hashable:
    return answer


class NotYet(Exception):
    """Nothing that can be believed in this round."""


class Pool:
    """clock: seconds that only go forward. unix_now: the time of day. chance: in 0 to 1, new at each call."""

    def __init__(
        self,
        entry: ChainEntry,
        urls: Sequence[str],
        *,
        clock: Callable[[], float],
        unix_now: Callable[[], float],
        chance: Callable[[], float],
        policy: PoolPolicy | None = None,
    ) -> None:
        self.policy = policy or PoolPolicy()
        self._entry, self._clock, self._unix_now, self._chance = entry, clock, unix_now, chance
        unique = list(dict.fromkeys(urls))[:ENDPOINTS_MAX]
        self.endpoints = [
            Endpoint(transport=Transport(url, timeout_s=self.policy.timeout_s)) for url in unique
        ]
        self._surveyed: tuple[float, list[View]] | None = None

    def close(self) -> None:
        for endpoint in self.endpoints:
            endpoint.transport.close()

    async def ask(self, method: str, *params: object, parse: Callable[[Any], Answer]) -> Answer:
        """The first answer that fits, of an endpoint that is well.

        parse: makes a value of what JSON gave, or raises EndpointFault.
        Raises: RpcError, as that endpoint said; ChainUnavailable.
        """

        async def one() -> Answer:
            for endpoint in self._by_health():
                try:
                    return await self.ask_at(endpoint, method, *params, parse=parse)
                except EndpointFault:
                    continue
            raise NotYet

        return await self.insist(one)

    async def ask_at(
        self, endpoint: Endpoint, method: str, *params: object, parse: Callable[[Any], Answer]
    ) -> Answer:
        """Raises: RpcError; EndpointFault, which is noted then."""
        try:
            if not endpoint.is_right_chain:
                await self._check_chain(endpoint)
            answer = parse(await endpoint.transport.request(method, params))
        except EndpointFault as fault:
            self.note(endpoint, fault)
            raise
        if endpoint.health.kind not in {None, "lying", "lagging"}:
            endpoint.health = Health()
        return answer

    async def survey(self) -> list[View]:
        """How every endpoint that is well sees the chain; they agree on the block at the lowest safe height.

        Raises: ChainUnavailable.
        """
        if self._surveyed is not None and self._clock() - self._surveyed[0] < self._survey_age_s():
            return self._surveyed[1]
        views = await self.insist(self._survey)
        self._surveyed = (self._clock(), views)
        return views

    async def agreed(self, question: Callable[[Endpoint, int], Awaitable[Answer]], *, at: str) -> Answer:
        """What all endpoints that are well answer at one height: the lowest `safe`, or the lowest `latest`.

        question: of an endpoint and a block number; its answer must be hashable.
        Raises: ChainUnavailable.
        """

        async def round_() -> Answer:
            views = await self.survey()
            number = min(view.safe_number if at == "safe" else view.head.number for view in views)
            try:
                answers = await self.gather(
                    [view.endpoint for view in views], lambda one: question(one, number)
                )
                return self.same(answers, f"the state at block {number}")
            except NotYet:
                self._surveyed = None
                raise

        return await self.insist(round_)

    async def insist(self, attempt: Callable[[], Awaitable[Answer]]) -> Answer:
        """Several rounds of `attempt`, with growing pauses, until it does not raise NotYet any more."""
        for number in range(self.policy.rounds):
            if number:
                await trio.sleep(self.policy.pause_s * 2 ** (number - 1) * (0.5 + self._chance()))
            try:
                return await attempt()
            except NotYet:
                pass
        raise self.unavailable()

    def forget_heads(self) -> None:
        """After a change that the next read must see."""
        self._surveyed = None

    def note(self, endpoint: Endpoint, fault: EndpointFault) -> None:
        endpoint.health = after_fault(endpoint.health, fault, now_s=self._clock(), chance=self._chance())
        endpoint.is_right_chain = endpoint.is_right_chain and fault.kind not in {"dead", "wrong_chain"}
        self._surveyed = None
        level = logging.WARNING if fault.kind in {"lying", "wrong_chain"} else logging.INFO
        logger.log(
            level, "rpc_fault host=%s kind=%s said=%s", endpoint.transport.host, fault.kind, fault.sentence
        )

    def unavailable(self) -> ChainUnavailable:
        lines = "; ".join(
            f"{endpoint.transport.host}: {endpoint.health.sentence or 'it gave no answer that fits'}"
            for endpoint in self.endpoints
        )
        return ChainUnavailable(
            f"no answer about {self._entry.title} can be believed ({lines}). This says nothing about funds. "
            "Check the network, or name other endpoints: unhosted config set chain.rpc-urls URL,URL"
        )

    def contradiction(self, what: str, hosts: Sequence[Endpoint]) -> None:
        """Note that these endpoints contradict one another: each of them could be the liar."""
        for endpoint in hosts:
            sentence = f"it and another endpoint contradict one another about {what}"
            endpoint.health = Health(faults=0, kind="lying", sentence=sentence)
        self._surveyed = None
        logger.warning("rpc_contradiction hosts=%s what=%s", [one.transport.host for one in hosts], what)

    def rested(self) -> list[Endpoint]:
        """Those that had no fault lately; all of them if there is none."""
        now_s = self._clock()
        return [one for one in self.endpoints if not one.health.is_resting(now_s)] or self.endpoints

    async def gather(
        self, endpoints: Sequence[Endpoint], question: Callable[[Endpoint], Awaitable[Answer]]
    ) -> list[tuple[Endpoint, Answer | RpcError]]:
        """Ask all at once; who fails is left out."""
        answers: dict[int, Answer | RpcError] = {}

        async def one(number: int, endpoint: Endpoint) -> None:
            try:
                answers[number] = await question(endpoint)
            except RpcError as error:
                answers[number] = error
            except EndpointFault:
                pass  # noted where it was found

        async with trio.open_nursery() as nursery:
            for number, endpoint in enumerate(endpoints):
                nursery.start_soon(one, number, endpoint)
        return [(endpoints[number], answers[number]) for number in sorted(answers)]

    def same(
        self,
        answers: Sequence[tuple[Endpoint, Answer | RpcError]],
        what: str,
        *,
        key: Callable[[Any], Hashable] = _itself,
    ) -> Answer:
        """What these endpoints agree on, or a strict majority of them. Raises: NotYet."""
        groups: dict[Hashable, list[tuple[Endpoint, Answer]]] = defaultdict(list)
        for endpoint, answer in answers:
            if isinstance(answer, RpcError):
                self.note(endpoint, EndpointFault("broken", f"it does not tell {what} ({answer.message})"))
            else:
                groups[key(answer)].append((endpoint, answer))
        if not groups:
            raise NotYet
        largest = max(groups.values(), key=len)
        agreeing = [endpoint for endpoint, _ in largest]
        others = [one for members in groups.values() if members is not largest for one, _ in members]
        if len(others) >= len(largest):
            self.contradiction(what, [*agreeing, *others])
            raise NotYet
        for endpoint in others:
            self.note(endpoint, EndpointFault("lying", f"most others contradict it about {what}"))
        for endpoint in agreeing:
            if endpoint.health.kind == "lying":
                endpoint.health = Health()
        return largest[0][1]

    def _by_health(self) -> list[Endpoint]:
        """Those that rest come last: a resting one is better than none."""
        now_s = self._clock()
        return sorted(
            self.endpoints, key=lambda one: (one.health.is_resting(now_s), one.health.rests_until_s)
        )

    def _survey_age_s(self) -> float:
        return min(SURVEY_AGE_S_MAX, self._entry.block_time_ms / 1000)

    async def _check_chain(self, endpoint: Endpoint) -> None:
        found = quantity(await endpoint.transport.request("eth_chainId", ()), "a chain id", maximum=WEI_MAX)
        if found != self._entry.chain_id:
            raise EndpointFault(
                "wrong_chain", f"it is chain {found}, {self._entry.title} is chain {self._entry.chain_id}"
            )
        endpoint.is_right_chain = True

    async def _survey(self) -> list[View]:
        now_s = self._clock()
        rested = [one for one in self.endpoints if not one.health.is_resting(now_s)]
        views = self._fresh(self._good(await self.gather(rested, self._look)))
        if not views and len(rested) < len(self.endpoints):
            resting = [one for one in self.endpoints if one not in rested]
            views = self._fresh(self._good(await self.gather(resting, self._look)))
        if not views:
            raise NotYet
        if len(views) == 1:
            return views
        number = min(view.safe_number for view in views)

        async def hash_at(endpoint: Endpoint) -> bytes:
            return (await self._block(endpoint, hex(number))).hash

        hashes = await self.gather([view.endpoint for view in views], hash_at)
        self.same(hashes, f"the hash of block {number}")
        return [view for view in views if view.endpoint.health.kind is None]

    async def _look(self, endpoint: Endpoint) -> View:
        head = await self._block(endpoint, "latest")
        safe_number = head.number - self._entry.confirmations
        if self._entry.has_safe_tag:
            with contextlib.suppress(RpcError):  # a node that does not know the tag: depth it is
                safe = await self.ask_at(endpoint, _BLOCK, "safe", False, parse=_block_or_none)
                safe_number = safe_number if safe is None else safe.number
        return View(endpoint=endpoint, head=head, safe_number=max(0, min(safe_number, head.number)))

    async def _block(self, endpoint: Endpoint, which: str) -> Block:
        return await self.ask_at(endpoint, _BLOCK, which, False, parse=block)

    def _good(self, answers: Sequence[tuple[Endpoint, View | RpcError]]) -> list[View]:
        for endpoint, answer in answers:
            if isinstance(answer, RpcError):
                self.note(endpoint, EndpointFault("broken", f"it does not tell its head ({answer.message})"))
        return [answer for _, answer in answers if not isinstance(answer, RpcError)]

    def _fresh(self, views: Sequence[View]) -> list[View]:
        """Without those that tell of the past or of the future."""
        best = max((view.head.number for view in views), default=0)
        fresh = []
        for view in views:
            fault = self._staleness(view, best)
            if fault is None:
                fresh.append(view)
                if view.endpoint.health.kind == "lagging":
                    view.endpoint.health = Health()
            else:
                self.note(view.endpoint, fault)
        return fresh

    def _staleness(self, view: View, best: int) -> EndpointFault | None:
        behind = best - view.head.number
        if behind > self._entry.lag_blocks:
            return EndpointFault("lagging", f"it is {behind} blocks behind another endpoint")
        age_s = self._unix_now() - view.head.timestamp_unix_s
        if (
            self._entry.block_time_ms
            and age_s > self._entry.lag_blocks * self._entry.block_time_ms / 1000 * 2
        ):
            return EndpointFault("lagging", f"its newest block is {age_s:.0f} s old")
        if self._entry.block_time_ms and age_s < -CLOCK_SKEW_S:
            return EndpointFault(
                "lying",
                f"its newest block is {-age_s:.0f} s in the future (or this machine's clock is wrong)",
            )
        return None


def _block_or_none(value: object) -> Block | None:
    return None if value is None else block(value)
