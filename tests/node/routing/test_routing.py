"""Who is asked, in which order, and what people are told about it."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.node.routing.servers import MODEL, NAME, candidate, model_facts
from unhosted.node.core.errors import Refused
from unhosted.node.core.health import Standing
from unhosted.node.core.routing import LOCAL, Candidate, Plan, RouteRequest, plan
from unhosted.node.core.service import ANY_PROVIDER, ProviderChoice, Radius
from unhosted.node.core.speed import UNKNOWN, Speed

FULL = model_facts(slots_free=0)


def request(
    radius: Radius = "trusted", provider: ProviderChoice = ANY_PROVIDER, **changes: object
) -> RouteRequest:
    one = RouteRequest(
        model=MODEL, model_name=NAME, radius=radius, provider=provider, prompt_tokens=100, salt="s"
    )
    return replace(one, **changes)  # type: ignore[arg-type]


def order(found: Plan) -> list[str]:
    return [choice.server for choice in found.ranked]


def why(found: Plan, server: str) -> str:
    (line,) = [one.reason for one in found.passed_over if one.server == server]
    return line


def refusal(asked: RouteRequest, *candidates: Candidate) -> Refused:
    with pytest.raises(Refused) as caught:
        plan(asked, candidates)
    return caught.value


def test_this_machine_comes_first_while_it_can_start_now() -> None:
    fast = candidate("desktop", facts=model_facts(decode_tokens_per_s=10_000.0))
    found = plan(request(), (fast, candidate(LOCAL)))
    assert order(found) == [LOCAL, "desktop"]
    assert found.ranked[0].reason == "this machine has the model"
    assert why(found, "desktop") == "this machine comes first and can start now"


def test_when_it_would_queue_here_a_free_peer_takes_it() -> None:
    found = plan(request(), (candidate(LOCAL, facts=FULL), candidate("desktop")))
    assert order(found) == ["desktop", LOCAL]
    assert found.ranked[0].reason.startswith("no slot is free on this machine; it is expected to finish")
    assert "would take about" in why(found, LOCAL)


def test_queueing_here_may_still_be_faster_than_a_slow_peer() -> None:
    slow = candidate("pi", facts=model_facts(decode_tokens_per_s=0.5, prefill_tokens_per_s=4.0))
    found = plan(request(), (candidate(LOCAL, facts=FULL), slow))
    assert order(found)[0] == LOCAL
    assert "no slot is free" in found.ranked[0].reason
    assert "no peer is faster" in found.ranked[0].reason


def test_the_faster_peer_is_asked() -> None:
    slow = candidate("slow", facts=model_facts(decode_tokens_per_s=10.0))
    assert order(plan(request(), (slow, candidate("fast")))) == ["fast", "slow"]


def test_what_was_measured_goes_before_what_is_claimed() -> None:
    boaster = candidate(
        "boaster",
        facts=model_facts(decode_tokens_per_s=9999.0),
        speed=Speed(decode_ns_per_ktoken=10**12),  # one token per second
    )
    assert order(plan(request(), (boaster, candidate("honest")))) == ["honest", "boaster"]


def test_an_absurd_claim_breaks_nothing() -> None:
    for claim in (float("nan"), float("inf"), -1.0, 1e308):
        strange = candidate("strange", facts=model_facts(decode_tokens_per_s=claim))
        assert set(order(plan(request(), (strange, candidate("honest"))))) == {"strange", "honest"}


def test_a_cached_past_outweighs_a_little_speed() -> None:
    has_read_it = candidate("a", facts=model_facts(decode_tokens_per_s=90.0), cached_tokens=1900)
    found = plan(request(prompt_tokens=2000), (candidate("b"), has_read_it))
    assert order(found) == ["a", "b"]


def test_a_loaded_model_goes_before_one_that_is_still_on_the_disk() -> None:
    cold = candidate("cold", facts=model_facts(is_loaded=False, size_bytes=4_000_000_000))
    warm = candidate("warm", facts=model_facts(decode_tokens_per_s=60.0))
    assert order(plan(request(), (cold, warm))) == ["warm", "cold"]


def test_whoever_would_fetch_the_model_is_asked_only_if_nobody_has_it() -> None:
    could = candidate("could", facts=None, fetch_ns=1_000_000_000)
    found = plan(request(), (could, candidate("slow", facts=model_facts(decode_tokens_per_s=0.1))))
    assert order(found) == ["slow"]
    assert "fetch the model first" in why(found, "could")
    found = plan(request(), (could, candidate(LOCAL, facts=None)))
    assert order(found) == ["could"]
    assert "it can fetch it, in about 1 s" in found.ranked[0].reason


def test_order_allow_and_ignore_go_before_everything() -> None:
    here, a, b = candidate(LOCAL), candidate("a"), candidate("12D3KooWb", name="Bureau")
    found = plan(request(provider=ProviderChoice(order=("bureau", "local"))), (here, a, b))
    assert order(found)[:2] == ["12D3KooWb", LOCAL]
    assert found.ranked[0].reason == "the request's provider order names it"
    assert why(found, LOCAL) == "the request's provider order names Bureau before it"
    found = plan(request(provider=ProviderChoice(allow=("a",))), (here, a, b))
    assert order(found) == ["a"]
    assert why(found, LOCAL) == "the request allows others only"
    found = plan(request(provider=ProviderChoice(ignore=("local", "12D3KooWb"))), (here, a, b))
    assert order(found) == ["a"]
    assert why(found, LOCAL) == "the request ignores it"


def test_allowing_somebody_unknown_is_said_with_who_is_known() -> None:
    refused = refusal(request(provider=ProviderChoice(allow=("dekstop",))), candidate("desktop"))
    assert refused.code == "no_provider"
    assert refused.field == "unhosted.provider.allow"
    assert "dekstop" in refused.message
    assert "known: desktop" in refused.message


def test_allowing_nobody_leaves_nobody() -> None:
    assert refusal(request(provider=ProviderChoice(allow=())), candidate(LOCAL)).code == "no_provider"


def test_radius_local_keeps_it_here_and_says_who_else_could() -> None:
    refused = refusal(request("local"), candidate(LOCAL, facts=None), candidate("desktop"))
    assert refused.code == "no_provider"
    assert "desktop: it is trusted, and the request's radius is local" in refused.message
    assert "a wider radius" in refused.message


def test_a_model_that_nobody_has_is_not_found_and_can_be_pulled() -> None:
    other = candidate("desktop", facts=None, other_blake3="cd" * 32)
    refused = refusal(request(), candidate(LOCAL, facts=None), other)
    assert refused.code == "model_not_found"
    assert refused.field == "model"
    assert f"has another file under the name {NAME} (b3:cdcdcdcd, asked for b3:abababab)" in refused.message
    assert f"unhosted pull {NAME}" in refused.message


def test_one_that_takes_no_requests_says_why() -> None:
    asleep = candidate("desktop", accepting=False, why_not="quiet hours until 07:00")
    refused = refusal(request(), candidate(LOCAL, facts=None), asleep)
    assert refused.code == "no_provider"
    assert "quiet hours until 07:00" in refused.message
    assert plan(request(), (asleep, candidate("b"))).passed_over[0].reason.endswith("until 07:00")


def test_health_goes_before_speed() -> None:
    slow = candidate("slow", facts=model_facts(decode_tokens_per_s=1.0))
    suspect = candidate("suspect", standing=Standing("suspect", "its engine died (3 s ago)"))
    trial = candidate("trial", standing=Standing("trial", "fell silent (9 s ago)"))
    gone = candidate("gone", reachable=False, why_not="192.168.1.5:8643 did not answer")
    down = candidate("down", standing=Standing("down", "fell silent (1 s ago); tried again in 1 s"))
    found = plan(request(), (gone, down, trial, suspect, slow))
    assert order(found)[:2] == ["slow", "suspect"]
    assert set(order(found)[2:]) == {"trial", "gone"}
    assert why(found, "suspect") == "its engine died (3 s ago)"
    assert why(found, "down") == "fell silent (1 s ago); tried again in 1 s"
    assert why(found, "gone") == "192.168.1.5:8643 did not answer"
    on_trial = {choice.server for choice in found.ranked if choice.on_trial}
    assert on_trial == {"trial"}
    assert not any(choice.can_start_now for choice in found.ranked if choice.server in {"trial", "gone"})


def test_a_suspect_engine_here_lets_the_peers_go_first() -> None:
    here = candidate(LOCAL, standing=Standing("suspect", "the engine died twice (1 s ago)"))
    assert order(plan(request(), (here, candidate("desktop")))) == ["desktop", LOCAL]


def test_the_public_ring_comes_after_the_trusted_one() -> None:
    public = candidate("seller", ring="public", facts=model_facts(decode_tokens_per_s=9999.0))
    slow = candidate("desktop", facts=model_facts(decode_tokens_per_s=1.0))
    found = plan(request("public"), (public, slow))
    assert order(found) == ["desktop", "seller"]
    assert why(found, "seller") == "the trusted ring comes first"
    assert order(plan(request(), (public, slow))) == ["desktop"]


def test_our_own_requests_count_on_top_of_stale_facts() -> None:
    busy = candidate("a", in_flight=5, in_flight_at_facts=0)
    told = candidate("b", facts=model_facts(slots_free=12), in_flight=5, in_flight_at_facts=4)
    free = candidate("c")
    assert order(plan(request(), (busy, told, free)))[0] == "c"
    streams = {choice.server: choice.streams for choice in plan(request(), (busy, told, free)).ranked}
    assert streams == {"a": 6, "b": 6, "c": 1}


def test_a_burst_of_32_is_shared_by_two_equal_peers_whose_facts_are_stale() -> None:
    counts = {"a": 0, "b": 0}
    for number in range(32):
        found = plan(
            request(salt=f"{number}"), [candidate(one, in_flight=counts[one]) for one in sorted(counts)]
        )
        counts[found.ranked[0].server] += 1
    assert counts == {"a": 16, "b": 16}


def test_a_burst_that_is_longer_than_all_slots_is_shared_too() -> None:
    counts = {"a": 0, "b": 0}
    for number in range(100):
        found = plan(
            request(salt=f"{number}"), [candidate(one, in_flight=counts[one]) for one in sorted(counts)]
        )
        counts[found.ranked[0].server] += 1
    assert counts == {"a": 50, "b": 50}


@pytest.mark.parametrize("is_measured", [True, False])
def test_a_slightly_better_server_does_not_draw_the_herd(is_measured: bool) -> None:
    counts = {"a": 0, "b": 0}
    for number in range(16):
        found = plan(
            request(salt=f"{number}"),
            [
                candidate(
                    one,
                    in_flight=counts[one],
                    speed=Speed(decode_ns_per_ktoken=1000 * duration_ns) if is_measured else UNKNOWN,
                    facts=model_facts(decode_tokens_per_s=1e9 / duration_ns),
                )
                for one, duration_ns in (("a", 10_000_000), ("b", 11_000_000))
            ],
        )
        counts[found.ranked[0].server] += 1
    assert 5 <= counts["b"] <= counts["a"] <= 11


def test_facts_that_were_on_their_way_when_we_asked_do_not_hide_our_requests() -> None:
    idle_it_says = candidate("a", in_flight=5, in_flight_at_facts=5)
    assert plan(request(), (idle_it_says,)).ranked[0].streams == 6


def test_many_clients_do_not_all_begin_with_the_same_peer() -> None:
    peers = [candidate("a"), candidate("b")]
    firsts = [plan(request(salt=f"{number}"), peers).ranked[0].server for number in range(200)]
    assert 70 <= firsts.count("a") <= 130


SPEEDS = st.sampled_from([0.0, 1.0, 50.0, 51.0, 5000.0])
FACTS = st.builds(
    model_facts,
    is_loaded=st.booleans(),
    slots_free=st.integers(0, 16),
    queued=st.integers(0, 20),
    decode_tokens_per_s=SPEEDS,
    prefill_tokens_per_s=SPEEDS,
)
STANDINGS = st.sampled_from(
    [Standing(), Standing("suspect", "s"), Standing("trial", "t"), Standing("down", "d")]
)
CANDIDATES = st.lists(
    st.builds(
        candidate,
        st.sampled_from([LOCAL, *"abcdef"]),
        facts=st.one_of(st.none(), FACTS),
        fetch_ns=st.one_of(st.none(), st.integers(0, 10**12)),
        accepting=st.booleans(),
        reachable=st.booleans(),
        standing=STANDINGS,
        in_flight=st.integers(0, 40),
        in_flight_at_facts=st.integers(0, 40),
        cached_tokens=st.integers(0, 3000),
    ),
    max_size=7,
    unique_by=lambda one: one.server,
)
PROVIDERS = st.builds(
    ProviderChoice,
    order=st.lists(st.sampled_from("abcx"), max_size=2).map(tuple),
    ignore=st.lists(st.sampled_from("abcx"), max_size=2).map(tuple),
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(CANDIDATES, PROVIDERS, st.randoms(use_true_random=False))
def test_everybody_has_a_reason_and_the_order_of_asking_does_not_matter(
    candidates: list[Candidate], provider: ProviderChoice, random: object
) -> None:
    asked = request(provider=provider)
    try:
        found = plan(asked, candidates)
    except Refused as refused:
        assert refused.code in {"model_not_found", "no_provider"}
        assert all(one.name in refused.message for one in candidates)
        return
    shuffled = list(candidates)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert order(plan(asked, shuffled)) == order(found)
    first = found.ranked[0]
    others = sorted(one.server for one in candidates if one.server != first.server)
    assert sorted(one.server for one in found.passed_over) == others
    assert first.reason
    assert all(one.reason for one in found.passed_over)
    by_server = {one.server: one for one in candidates}
    for choice in found.ranked:
        assert by_server[choice.server].standing.kind != "down"
        assert by_server[choice.server].accepting
        assert choice.server not in provider.ignore
        assert 0 <= choice.first_token_ns <= choice.complete_ns
