"""What this node learned of its servers by asking them: their health, their speed, what they have cached, and
how much of its own work is there now. It makes the router's candidates of that and of what peers say."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import trio

from unhosted.node.core import health
from unhosted.node.core.errors import Refused
from unhosted.node.core.health import Health
from unhosted.node.core.inference import Usage
from unhosted.node.core.model_names import is_called
from unhosted.node.core.peering import ModelFacts, PeerFacts, PeerId
from unhosted.node.core.prefix_memory import PrefixMemory
from unhosted.node.core.routing import LOCAL, Candidate, Choice
from unhosted.node.core.speed import SpeedBook

STAYS_GOOD = frozenset({"not_allowed", "model_not_found", "not_paired", "context_length_exceeded"})
"""Refusals that say nothing of the server's health: the next request may well be answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerCandidate:
    """A paired peer as it looks now. facts: None if it never said anything since this node started.

    reachable: a live connection stands. why_not: for people, if not. fetch_s: how long getting a model that
    nobody has would take there; None if it cannot.
    """

    peer: PeerId
    name: str
    facts: PeerFacts | None
    reachable: bool
    why_not: str = ""
    round_trip_s: float | None = None
    fetch_s: float | None = None


def now_ns() -> int:
    """Of trio's clock, as an integer."""
    return int(trio.current_time() * 1e9)


class ServerRecords:
    """Bounds: one entry per paired peer, and those of the parts in `core`."""

    def __init__(self, name: str, local_facts: Callable[[str], ModelFacts | None], speeds: SpeedBook) -> None:
        self._name = name
        self._local_facts = local_facts
        self._health = Health()
        self.speeds = speeds
        self.prefixes = PrefixMemory()
        self._in_flight: Counter[tuple[str, str]] = Counter()
        self._accepted: Counter[tuple[str, str]] = Counter()
        self._seen: dict[PeerId, _SeenFacts] = {}

    # ---- what happened

    def note(self, event: health.Event) -> None:
        self._health = health.step(self._health, event, now_ns())

    def observed(self, peer: PeerId, heard: bool, why: str) -> None:
        """Told by a link: of each message, or nearly, so what changes nothing must cost nothing."""
        if not heard:
            self.prefixes.forget(peer)
            self.note(health.Lost(peer, why, now_ns()))
        elif peer in self._health.servers:
            self.note(health.Answered(peer))

    def started(self, choice: Choice, model: str) -> None:
        self._in_flight[choice.server, model] += 1
        if choice.on_trial:
            self.note(health.TrialStarted(choice.server))

    def accepted(self, choice: Choice, model: str) -> None:
        self._accepted[choice.server, model] += 1
        if choice.server in self._health.servers:
            self.note(health.Answered(choice.server))

    def ended(self, choice: Choice, model: str, *, was_accepted: bool) -> None:
        """However it ended. A trial that said nothing makes room for the next one."""
        for counter, counts in ((self._in_flight, True), (self._accepted, was_accepted)):
            if counts:
                counter[choice.server, model] -= 1
                if not counter[choice.server, model]:
                    del counter[choice.server, model]
        if choice.on_trial:
            self.note(health.TrialDropped(choice.server))

    def failed(self, choice: Choice, reason: str, refused: Refused | None, started_ns: int) -> None:
        if choice.server == LOCAL and refused is None:
            return
        if refused is None:
            self.prefixes.forget(choice.server)  # it may be a new process when it is back
            self.note(health.Lost(choice.server, reason, started_ns))
        elif refused.code not in STAYS_GOOD:
            rest_ns = (refused.retry_after_s or 1) * 1_000_000_000
            self.note(health.Balked(choice.server, reason, rest_ns))

    def measured(
        self,
        choice: Choice,
        model: str,
        *,
        latency_ns: int,
        writing_ns: int,
        tokens: int,
        usage: Usage | None,
    ) -> None:
        """latency_ns: to the first token. writing_ns: from there to the last of `tokens` more."""
        now = now_ns()
        if usage is not None:
            self.speeds.observe_first_token(
                choice.server,
                model,
                new_prompt_tokens=max(usage.prompt_tokens - usage.cached_tokens, 0),
                latency_ns=latency_ns,
                now_ns=now,
                expected_ns=choice.first_token_ns,
                waited=not (choice.can_start_now and choice.is_loaded),
            )
        self.speeds.observe_decode(
            choice.server, model, tokens=tokens, duration_ns=writing_ns, now_ns=now, streams=choice.streams
        )

    def forget(self, peer: PeerId) -> None:
        """It is no peer any more."""
        self.note(health.Forgotten(peer))
        self.speeds.forget(peer)
        self.prefixes.forget(peer)
        self._seen.pop(peer, None)

    # ---- what the router is told

    def candidates(
        self, model: str, model_name: str, peers: Iterable[PeerCandidate], block_keys: Sequence[bytes]
    ) -> tuple[Candidate, ...]:
        """This machine and its peers, as candidates for a model."""
        now = now_ns()
        facts = self._local_facts(model)
        here = Candidate(
            server=LOCAL,
            name=self._name,
            ring="local",
            facts=facts,
            in_flight=self._in_flight[LOCAL, model],
            in_flight_at_facts=self._accepted[LOCAL, model],
            standing=health.standing(self._health, LOCAL, now),
            speed=self.speeds.speed(LOCAL, model, now),
            cached_tokens=self.prefixes.cached_tokens(LOCAL, model, block_keys, now),
        )
        return (here, *(self._of_peer(model, model_name, peer, block_keys, now) for peer in peers))

    def _of_peer(
        self, model: str, model_name: str, peer: PeerCandidate, block_keys: Sequence[bytes], now: int
    ) -> Candidate:
        seen = self._see(peer)
        facts = seen.by_hash.get(model) if seen else None
        other, in_flight = "", self._in_flight[peer.peer, model]
        if seen and facts is None:
            same_name = (one for one in seen.facts.models if is_called(one, model_name))
            other = next((one.blake3 for one in same_name), "")
        return Candidate(
            server=peer.peer,
            name=peer.name,
            ring="trusted",
            facts=facts,
            other_blake3=other,
            accepting=peer.facts is None or peer.facts.accepting,
            reachable=peer.reachable,
            why_not=(peer.facts.why_not if peer.facts and not peer.facts.accepting else "") or peer.why_not,
            standing=health.standing(self._health, peer.peer, now),
            in_flight=in_flight,
            in_flight_at_facts=seen.in_flight.get(model, 0) if seen else 0,
            speed=self.speeds.speed(peer.peer, model, now),
            cached_tokens=self.prefixes.cached_tokens(peer.peer, model, block_keys, now),
            round_trip_ns=int((peer.round_trip_s or 0.0) * 1e9),
            fetch_ns=None if peer.fetch_s is None else int(peer.fetch_s * 1e9),
        )

    def note_facts(self, peer: PeerCandidate) -> None:
        """The peer has just sent facts: our requests under way now are in them, later ones are not.

        Noted at the next request instead, a burst's own load would look like that of others once it is over.
        """
        self._see(peer)

    def _see(self, peer: PeerCandidate) -> "_SeenFacts | None":
        if peer.facts is None:
            return None
        seen = self._seen.get(peer.peer)
        if seen is None or seen.facts is not peer.facts:
            by_hash = {one.blake3: one for one in peer.facts.models}
            in_flight = {model: self._in_flight[peer.peer, model] for model in by_hash}
            seen = self._seen[peer.peer] = _SeenFacts(peer.facts, by_hash, in_flight)
        return seen


@dataclass(slots=True)
class _SeenFacts:
    """A peer's newest facts. in_flight: our requests that they can know of, by model: those that were under
    way when they came."""

    facts: PeerFacts
    by_hash: Mapping[str, ModelFacts]
    in_flight: dict[str, int]
