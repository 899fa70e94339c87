"""From a request to whoever answers it: this machine's engines or a paired peer, and the next if that fails.

The rules are `core.routing` (who), `core.failover` (what if not), `core.health` and `core.speed` (what was
learned); `Dispatched` drives one request.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from unhosted.node.core import failover, routing
from unhosted.node.core.asks import Answering, Ask
from unhosted.node.core.errors import Refused
from unhosted.node.core.failover_words import Failure, Session
from unhosted.node.core.inference import Embeddings
from unhosted.node.core.peering import ChannelBroken, ModelFacts, PeerId, PeerUnreachable
from unhosted.node.core.prefix_memory import block_keys, estimated_tokens
from unhosted.node.core.routing import LOCAL, Choice, RouteRequest
from unhosted.node.core.service import ANY_PROVIDER, ProviderChoice, Radius
from unhosted.node.core.speed import SpeedBook
from unhosted.node.shell.nurseries import plain_nursery
from unhosted.node.shell.trusted.dispatched import Dispatched
from unhosted.node.shell.trusted.server_records import PeerCandidate, ServerRecords, now_ns

SETTLE_S = 1.0
"""After a server has accepted, this long is waited for its first token before the answer's headers name it:
one that fails in that time is none that the client has to hear of as the answer's server."""

T = TypeVar("T")


class Dispatcher:
    """Answers asks over `local` and the peers that `peers` lists at each request."""

    def __init__(
        self,
        *,
        name: str,
        local: Answering,
        local_facts: Callable[[str], ModelFacts | None],
        peers: Callable[[], Sequence[PeerCandidate]],
        link: Callable[[PeerId], Answering],
        speeds: SpeedBook | None = None,
    ) -> None:
        """name: this machine's. local_facts: of a model by BLAKE3, None if it is not here; asked at each
        request, so it must be cheap. link: may raise PeerUnreachable or Refused.
        """
        self.speeds = SpeedBook() if speeds is None else speeds
        self._local = local
        self._peers = peers
        self._link = link
        self._records = ServerRecords(name, local_facts, self.speeds)

    @asynccontextmanager
    async def open(
        self,
        ask: Ask,
        *,
        model_name: str,
        radius: Radius,
        provider: ProviderChoice = ANY_PROVIDER,
        settle_s: float = SETTLE_S,
    ) -> AsyncIterator[Dispatched]:
        """Entered once a server has accepted, and has begun to answer or let settle_s pass. Leaving cancels.

        Raises: Refused, on entering (see `routing.plan`; the server's own, if there is but one) or in
        mid-stream, when nobody can go on.
        """
        request = RouteRequest(
            model=ask.model,
            model_name=model_name,
            radius=radius,
            provider=provider,
            prompt_tokens=estimated_tokens(ask.prompt),
            max_tokens=ask.max_tokens,
            salt=ask.ask_id,
        )
        peers = self._peers_for(request)
        # With nobody to choose from, what is cached where decides nothing.
        keys = block_keys(ask.prompt) if peers and ask.use_prefix_cache else ()
        plan = self._plan(request, keys, peers)

        def replan() -> tuple[Choice, ...]:
            try:
                return self._plan(request, keys, self._peers_for(request)).ranked
            except Refused:
                return ()

        def note_read(choice: Choice) -> None:
            self._records.prefixes.note(choice.server, ask.model, keys, now_ns())

        async with plain_nursery() as nursery:
            dispatched = Dispatched(
                ask,
                plan,
                model_name=model_name,
                records=self._records,
                answering=self._answering,
                replan=replan,
                on_read=note_read,
                nursery=nursery,
            )
            try:
                await dispatched.begin(settle_s)
                yield dispatched
            finally:
                dispatched.leave()

    async def count_tokens(
        self, ask: Ask, *, model_name: str, radius: Radius, provider: ProviderChoice = ANY_PROVIDER
    ) -> int:
        """Of the prompt, by whoever has the model. Raises: Refused."""
        request = RouteRequest(
            model=ask.model, model_name=model_name, radius=radius, provider=provider, max_tokens=1
        )
        return await self._call(request, lambda answering: answering.count_tokens(ask))

    async def embed(
        self,
        model: str,
        inputs: Sequence[str | tuple[int, ...]],
        *,
        model_name: str,
        radius: Radius,
        provider: ProviderChoice = ANY_PROVIDER,
    ) -> Embeddings:
        """model: BLAKE3, hex. Raises: Refused."""
        request = RouteRequest(
            model=model,
            model_name=model_name,
            radius=radius,
            provider=provider,
            prompt_tokens=sum(estimated_tokens(one) for one in inputs),
            max_tokens=1,
        )
        return await self._call(request, lambda answering: answering.embed(model, inputs))

    def observed(self, peer: PeerId, heard: bool, why: str) -> None:
        """A link or a probe heard of the peer, which then need not wait for its back-off; or lost it."""
        self._records.observed(peer, heard, why)
        for candidate in self._peers() if heard else ():
            if candidate.peer == peer:
                self._records.note_facts(candidate)

    def forget(self, peer: PeerId) -> None:
        """The peer was unpaired."""
        self._records.forget(peer)

    async def _call(self, request: RouteRequest, work: Callable[[Answering], Awaitable[T]]) -> T:
        """One question, by rank; a question has no middle, so it is simply asked again elsewhere."""
        failures: list[Failure] = []
        for choice in self._plan(request, (), self._peers_for(request)).ranked[: failover.ATTEMPTS_MAX]:
            started_ns, refused, answered = now_ns(), None, False
            self._records.started(choice, request.model)
            try:
                result = await work(self._answering(choice.server))
                answered = True
                return result
            except Refused as error:
                refused, reason = error, error.message
            except (PeerUnreachable, ChannelBroken) as error:
                reason = str(error) or type(error).__name__
            finally:
                if answered:
                    self._records.accepted(choice, request.model)
                self._records.ended(choice, request.model, was_accepted=answered)
            self._records.failed(choice, reason, refused, started_ns)
            failure = Failure(choice=choice, reason=reason, refused=refused, accepted=False, delivered=0)
            failures.append(failure)
            if refused is not None and refused.code in failover.CLIENTS_FAULT:
                break
        session = Session(choices=(), failures=tuple(failures))
        raise failover.final_refusal(session, request.model_name)

    def _peers_for(self, request: RouteRequest) -> Sequence[PeerCandidate]:
        return self._peers() if request.radius != "local" else ()

    def _plan(
        self, request: RouteRequest, keys: Sequence[bytes], peers: Sequence[PeerCandidate]
    ) -> routing.Plan:
        candidates = self._records.candidates(request.model, request.model_name, peers, keys)
        return routing.plan(request, candidates)

    def _answering(self, server: str) -> Answering:
        return self._local if server == LOCAL else self._link(server)
