"""Which server answers a request: candidates ranked, and a reason for people on every one of them.

Rings go in order: this machine, then trusted peers, then (once there are any) public ones. This machine comes
first when it can start now. When the request would have to queue here, this machine and its trusted peers
compete by the expected time to the last token: loading, waiting, reading what is not cached, generating.
Whoever is suspect or on trial (`core.health`) stands behind the others, and whoever would have to fetch the
model first is taken only if nobody has it. What the client says about providers goes before all of that.

A peer's facts are claims, and stale ones: our own requests under way there count on top of them, so that a
burst of requests does not go to one peer, and our own measurements go before its word.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from unhosted.node.core.errors import Refused
from unhosted.node.core.health import GOOD, Standing
from unhosted.node.core.peering import ModelFacts
from unhosted.node.core.service import ANY_PROVIDER, ProviderChoice, Radius, Ring
from unhosted.node.core.speed import UNKNOWN, Speed, at_load, late_after_ns, ns_per_ktoken

LOCAL = "local"
"""The name of this machine as a server: no peer id looks like it."""

OUTPUT_TOKENS = 256
"""Assumed of a request that names no limit, or a higher one: few answers are as long as they may be."""

LOAD_BYTES_PER_S = 500_000_000
"""A model that is not loaded is read at about this rate from a usual SSD."""

READ_BYTES_PER_S = 20_000_000_000
"""A token reads every weight once; memory of a usual machine. Assumed only where no speed is known at all."""

PREFILL_GAIN = 8
"""Reading a prompt was measured to be 4 to 30 times as fast as generating; assumed like the rate above."""

START_NS = 20_000_000
"""To the first token of a cached prompt, where it was not measured."""

WAIT_SHARE_MIN = 4
"""A wait is taken to cost at least this part of an answer: requests of one burst end together, so that the
next one waits for a whole answer, and not for a slot's share of one."""

RING_ORDER: dict[Ring, int] = {"local": 0, "trusted": 1, "public": 2}

ALTERNATIVES_SHOWN = 8
"""Servers that an error names; more do not help whoever reads it."""

HASH_SHOWN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteRequest:
    """model: BLAKE3, hex. model_name: what the client called it. prompt_tokens: an estimate will do.

    salt: anything that differs between requests; it decides ties, so that clients do not all go one way.
    """

    model: str
    model_name: str
    radius: Radius
    provider: ProviderChoice = ANY_PROVIDER
    prompt_tokens: int = 0
    max_tokens: int | None = None
    salt: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A server as it looks now. server: `LOCAL` or a peer id. facts: of the model, None if it is not there.

    other_blake3: another file that the server has under the same name. in_flight: our own requests there, of
    which in_flight_at_facts were under way when the facts came. speed: with one stream at a time. fetch_ns:
    how long getting the model would take there, None if it cannot.
    """

    server: str
    name: str
    ring: Ring
    facts: ModelFacts | None
    other_blake3: str = ""
    accepting: bool = True
    reachable: bool = True
    why_not: str = ""
    standing: Standing = GOOD
    in_flight: int = 0
    in_flight_at_facts: int = 0
    speed: Speed = UNKNOWN
    cached_tokens: int = 0
    round_trip_ns: int = 0
    fetch_ns: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A server that may be asked. reason: why it stands where it does. first_token_ns: expected, from now.

    late_after_ns: when a first token is late by the server's record. streams: served there with this one.
    on_trial: one request at a time may try it. context_tokens: 0 if not known.
    """

    server: str
    name: str
    ring: Ring
    reason: str
    first_token_ns: int
    complete_ns: int
    late_after_ns: int
    can_start_now: bool
    is_loaded: bool
    streams: int
    on_trial: bool
    context_tokens: int
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class PassedOver:
    """A server that is not asked, or not first, and why."""

    server: str
    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """ranked: whom to ask, best first, never empty. passed_over: everybody but the first."""

    ranked: tuple[Choice, ...]
    passed_over: tuple[PassedOver, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Estimate:
    first_token_ns: int
    complete_ns: int
    can_start_now: bool
    streams: int


def plan(request: RouteRequest, candidates: Sequence[Candidate]) -> Plan:
    """Rank the candidates.

    Raises: Refused: model_not_found if nobody within reach has it; no_provider if those that have it cannot
    serve it now. Both name everybody that was looked at, why not, and what to do next.
    """
    usable: list[Candidate] = []
    out: list[PassedOver] = []
    someone_has_it = any(_exclusion(request, one) is None and one.facts is not None for one in candidates)
    for candidate in candidates:
        why_not = _exclusion(request, candidate)
        if why_not is None and candidate.facts is None and someone_has_it:
            why_not = "would have to fetch the model first, and another one has it"
        if why_not is None:
            usable.append(candidate)
        else:
            out.append(PassedOver(candidate.server, candidate.name, why_not))
    if not usable:
        _refuse(request, candidates, out)
    estimated = [(candidate, _estimate(request, candidate)) for candidate in usable]
    estimated.sort(key=lambda pair: _rank(request, *pair))
    first, first_estimate = estimated[0]
    ranked = tuple(
        _choice(request, candidate, estimate, is_first=candidate is first, usable=usable)
        for candidate, estimate in estimated
    )
    behind = [
        PassedOver(
            candidate.server,
            candidate.name,
            _why_behind(request, candidate, estimate, first, first_estimate),
        )
        for candidate, estimate in estimated[1:]
    ]
    return Plan(ranked=ranked, passed_over=(*behind, *out))


def means(text: str, candidate: Candidate) -> bool:
    """Whether a provider's name in a request is this candidate: its name, its id, or `local`."""
    return text == candidate.server or text.casefold() == candidate.name.casefold()


def _exclusion(request: RouteRequest, candidate: Candidate) -> str | None:
    """Why the candidate cannot be asked at all, in the order in which people should hear it."""
    allow = request.provider.allow
    if RING_ORDER[candidate.ring] > RING_ORDER[request.radius]:
        return f"it is {candidate.ring}, and the request's radius is {request.radius}"
    if any(means(text, candidate) for text in request.provider.ignore):
        return "the request ignores it"
    if allow is not None and not any(means(text, candidate) for text in allow):
        return "the request allows others only"
    if candidate.facts is None and candidate.fetch_ns is None:
        if candidate.other_blake3:
            return (
                f"has another file under the name {request.model_name} "
                f"(b3:{candidate.other_blake3[:HASH_SHOWN]}, asked for b3:{request.model[:HASH_SHOWN]})"
            )
        if not candidate.reachable:
            return candidate.why_not or "is not connected"
        return f"does not have {request.model_name}"
    if not candidate.accepting:
        return f"takes no requests now: {candidate.why_not or 'it did not say why'}"
    if candidate.standing.kind == "down":
        return candidate.standing.why
    return None


def _estimate(request: RouteRequest, candidate: Candidate) -> _Estimate:
    facts, speed = candidate.facts, candidate.speed
    if facts is None:
        fetch_ns = candidate.fetch_ns or 0
        return _Estimate(first_token_ns=fetch_ns, complete_ns=fetch_ns, can_start_now=False, streams=1)
    slots = max(facts.slots, 1)
    before = _requests_before(candidate, facts)
    streams = min(before + 1, slots)
    claimed = ns_per_ktoken(facts.decode_tokens_per_s)
    busy = max(slots - facts.slots_free, 1)
    if speed.decode_ns_per_ktoken is not None:
        decode = at_load(speed.decode_ns_per_ktoken, measured_streams=1, streams=streams)
    elif claimed is not None:
        decode = at_load(claimed, measured_streams=busy, streams=streams)
    else:
        assumed = facts.size_bytes * 1000 * 1_000_000_000 // READ_BYTES_PER_S
        decode = at_load(assumed, measured_streams=1, streams=streams)
    prefill = (
        speed.prefill_ns_per_ktoken or ns_per_ktoken(facts.prefill_tokens_per_s) or decode // PREFILL_GAIN
    )
    new_tokens = max(request.prompt_tokens - candidate.cached_tokens, 1)
    output_tokens = min(OUTPUT_TOKENS if request.max_tokens is None else request.max_tokens, OUTPUT_TOKENS)
    reading_ns = new_tokens * prefill // 1000
    writing_ns = output_tokens * decode // 1000
    # A slot gets free each time one of those before ends; they are taken to be like this one.
    waiting_ns = max(before + 1 - slots, 0) * (reading_ns + writing_ns) // slots
    if waiting_ns:
        waiting_ns = max(waiting_ns, (reading_ns + writing_ns) // WAIT_SHARE_MIN)
    loading_ns = 0 if facts.is_loaded else facts.size_bytes * 1_000_000_000 // LOAD_BYTES_PER_S
    start_ns = START_NS if speed.start_ns is None else speed.start_ns
    first_token_ns = candidate.round_trip_ns + loading_ns + waiting_ns + start_ns + reading_ns
    return _Estimate(
        first_token_ns=first_token_ns,
        complete_ns=first_token_ns + writing_ns,
        can_start_now=before < slots,
        streams=streams,
    )


def _requests_before(candidate: Candidate, facts: ModelFacts) -> int:
    """Running and queued there: as its facts say, and those of ours that they cannot know of yet."""
    told = facts.slots - facts.slots_free + facts.queued
    since = candidate.in_flight - candidate.in_flight_at_facts
    return max(told + since, candidate.in_flight, 0)


def _rank(request: RouteRequest, candidate: Candidate, estimate: _Estimate) -> tuple[object, ...]:
    order = request.provider.order
    wanted = next((at for at, text in enumerate(order) if means(text, candidate)), len(order))
    starts_here = candidate.ring == "local" and estimate.can_start_now
    return (
        wanted,
        candidate.facts is None,
        _standing_rank(candidate),
        RING_ORDER["public"] if candidate.ring == "public" else 0 if starts_here else 1,
        estimate.complete_ns,
        candidate.in_flight,
        _tie(request.salt, candidate.server),
    )


def _standing_rank(candidate: Candidate) -> int:
    if candidate.standing.kind == "trial" or not candidate.reachable:
        return 2
    return 1 if candidate.standing.kind == "suspect" else 0


def _tie(salt: str, server: str) -> tuple[int, str]:
    """An order of servers that differs from request to request; the same for the same request."""
    mixed = 0
    for character in f"{salt}/{server}":
        mixed = (mixed ^ ord(character)) * 0x01000193 & 0xFFFFFFFF  # FNV-1a: no secret, only a spread
    return mixed, server


def _choice(
    request: RouteRequest,
    candidate: Candidate,
    estimate: _Estimate,
    *,
    is_first: bool,
    usable: Sequence[Candidate],
) -> Choice:
    facts = candidate.facts
    return Choice(
        server=candidate.server,
        name=candidate.name,
        ring=candidate.ring,
        reason=_why_first(request, candidate, estimate, usable) if is_first else "next in line",
        first_token_ns=estimate.first_token_ns,
        complete_ns=estimate.complete_ns,
        late_after_ns=late_after_ns(estimate.first_token_ns, candidate.speed.usual_ratio),
        can_start_now=estimate.can_start_now and _standing_rank(candidate) == 0,
        is_loaded=facts is not None and facts.is_loaded,
        streams=estimate.streams,
        on_trial=candidate.standing.kind == "trial",
        context_tokens=0 if facts is None else facts.context_tokens,
        cached_tokens=candidate.cached_tokens,
    )


def _why_first(
    request: RouteRequest, candidate: Candidate, estimate: _Estimate, usable: Sequence[Candidate]
) -> str:
    if any(means(text, candidate) for text in request.provider.order):
        return "the request's provider order names it"
    if candidate.facts is None:
        return (
            f"nobody has {request.model_name}; it can fetch it, in about {_seconds(estimate.first_token_ns)}"
        )
    if _standing_rank(candidate) == 2:
        return (
            f"nobody else can serve it; {candidate.standing.why or candidate.why_not or 'not connected yet'}"
        )
    if candidate.ring == "local":
        if estimate.can_start_now:
            return "this machine has the model"
        waits = f"this machine has the model; no slot is free, about {_seconds(estimate.first_token_ns)}"
        return f"{waits} to the first token" + (", and no peer is faster" if len(usable) > 1 else "")
    has_local = any(one.ring == "local" and one.facts is not None for one in usable)
    others = sum(one.ring == candidate.ring and one is not candidate for one in usable)
    here = "no slot is free on this machine" if has_local else "this machine cannot serve it"
    if others or has_local:
        return f"{here}; it is expected to finish first, in about {_seconds(estimate.complete_ns)}"
    return f"{here}; it is the peer that can"


def _why_behind(
    request: RouteRequest, candidate: Candidate, estimate: _Estimate, first: Candidate, best: _Estimate
) -> str:
    if any(means(text, first) for text in request.provider.order):
        return f"the request's provider order names {first.name} before it"
    if _standing_rank(candidate) > _standing_rank(first):
        if candidate.standing.why:
            return candidate.standing.why
        return candidate.why_not or "is not connected at the moment"
    if first.ring == "local" and best.can_start_now:
        return "this machine comes first and can start now"
    if RING_ORDER[candidate.ring] > RING_ORDER[first.ring] and candidate.ring == "public":
        return f"the {first.ring} ring comes first"
    return (
        f"would take about {_seconds(estimate.complete_ns)}, {first.name} about {_seconds(best.complete_ns)}"
    )


def _refuse(request: RouteRequest, candidates: Sequence[Candidate], out: Sequence[PassedOver]) -> NoReturn:
    lines = "; ".join(str(one) for one in out[:ALTERNATIVES_SHOWN])
    more = f"; and {len(out) - ALTERNATIVES_SHOWN} more" if len(out) > ALTERNATIVES_SHOWN else ""
    tried = f"{lines}{more}" if out else "there is no candidate"
    details = {"tried": [str(one) for one in out[:ALTERNATIVES_SHOWN]]}
    if unknown := _unknown_names(request, candidates):
        known = ", ".join(one.name for one in candidates[:ALTERNATIVES_SHOWN]) or "nobody"
        raise Refused(
            "no_provider",
            f"the request allows {', '.join(unknown)} only, and nobody is called that; known: {known}; "
            f"see: unhosted peers",
            field="unhosted.provider.allow",
            details=details,
        )
    if not any(candidate.facts is not None for candidate in candidates):
        raise Refused(
            "model_not_found",
            f"nobody within reach has {request.model_name}: {tried}; next: unhosted pull "
            f"{request.model_name}, or unhosted peers to see who is there",
            field="model",
            details=details,
        )
    radius = " or a wider radius" if request.radius == "local" else ""
    raise Refused(
        "no_provider",
        f"nobody can serve {request.model_name} now: {tried}; next: try again later, or with other providers"
        f"{radius}, or unhosted pull {request.model_name} to have it here",
        retry_after_s=1,
        details=details,
    )


def _unknown_names(request: RouteRequest, candidates: Sequence[Candidate]) -> tuple[str, ...]:
    """The allowed names, if not one of them is anybody."""
    allow = request.provider.allow
    if not allow or any(means(text, candidate) for text in allow for candidate in candidates):
        return ()
    return allow


def _seconds(duration_ns: int) -> str:
    return f"{duration_ns / 1e9:.2g} s" if duration_ns < 10_000_000_000 else f"{duration_ns // 10**9} s"
