"""Servers that refuse, die, fall silent or are late, and the answers that come whole all the same."""

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.node.routing.house import FULL, GONE, House, get, is_whole, run
from tests.node.routing.servers import (
    HONEST,
    MODEL,
    NAME,
    PROMPT_TOKENS,
    REFERENCE,
    TOKENS,
    FakeServer,
    Script,
    ask,
    model_facts,
    peer_facts,
)
from unhosted.node.core.errors import Refused
from unhosted.node.core.service import ProviderChoice
from unhosted.node.shell.trusted.dispatched import LINE_CHARACTERS_MAX


@pytest.mark.parametrize("after", [0, 1, 7, TOKENS - 1])
def test_a_server_that_dies_is_gone_on_from_elsewhere(after: int) -> None:
    async def main() -> None:
        first, second = FakeServer("first"), FakeServer("second")
        house = House(first, second)
        house.facts["second"] = peer_facts("second", model_facts(decode_tokens_per_s=50.0))
        first.scripts = [Script(dies_after=after)]
        answer = await get(house)
        assert is_whole(answer)
        assert len(first.asked) == len(second.asked) == 1
        assert second.asked[0].resume_ids == REFERENCE[:after]
        if after:
            assert answer.provenance.served_by == "first"
            assert answer.provenance.resumed_on == ("second",)
        else:
            assert answer.provenance.served_by == "second"
            assert answer.provenance.passed_over[0] == "first: the connection to first was lost"
        assert answer.usage is not None
        assert answer.usage.prompt_tokens == PROMPT_TOKENS
        assert answer.usage.completion_tokens == TOKENS
        assert answer.usage.cached_tokens <= PROMPT_TOKENS

    run(main)


def test_a_peer_goes_on_for_this_machines_engine_and_the_other_way_round() -> None:
    async def main() -> None:
        house = House(FakeServer("desktop"), has_model_here=True)
        house.local.scripts = [
            Script(refuses=Refused("engine_failed", "the engine died twice"), refuses_after=5)
        ]
        answer = await get(house)
        assert is_whole(answer)
        assert answer.provenance.served_by == "laptop"
        assert answer.provenance.resumed_on == ("desktop",)
        house.servers["desktop"].scripts = [Script(dies_after=5)]
        answer = await get(house, provider=ProviderChoice(order=("desktop",)))
        assert is_whole(answer)
        assert answer.provenance.resumed_on == ("laptop",)

    run(main)


def test_a_server_that_was_lost_in_mid_stream_is_left_and_not_asked_next() -> None:
    async def main() -> None:
        first, second = FakeServer("first", scripts=[Script(dies_after=5)]), FakeServer("second")
        house = House(first, second)
        house.facts["second"] = peer_facts("second", model_facts(decode_tokens_per_s=50.0))
        async with house.dispatcher.open(ask(), model_name=NAME, radius="trusted") as dispatched:
            for _ in range(6):
                await anext(dispatched)
            await trio.testing.wait_all_tasks_blocked()
            assert (first.open_now, second.open_now) == (0, 1)
        assert (await get(house)).took_s == 0
        assert len(first.asked) == 1

    run(main)


def test_a_question_at_fault_is_not_passed_around() -> None:
    async def main() -> None:
        wrong = Refused("invalid_request", "input has 9000 entries, at most 2048", field="input")
        first, second = FakeServer("first", always=Script(refuses=wrong)), FakeServer("second")
        house = House(first, second)
        house.facts["second"] = peer_facts("second", model_facts(decode_tokens_per_s=50.0))
        with pytest.raises(Refused) as caught:
            await house.dispatcher.embed(MODEL, ["a"], model_name=NAME, radius="trusted")
        assert caught.value is wrong
        assert not second.called

    run(main)


def test_a_dead_peer_costs_one_request_and_the_next_ones_nothing() -> None:
    async def main() -> None:
        first, second = FakeServer("first", always=GONE), FakeServer("second")
        house = House(first, second)
        house.facts["second"] = peer_facts("second", model_facts(decode_tokens_per_s=50.0))
        answer = await get(house)
        assert is_whole(answer)
        assert answer.took_s <= 2
        for _ in range(10):
            answer = await get(house)
            assert answer.took_s == 0
            assert any("first: first: nothing answers" in line for line in answer.provenance.passed_over)
        assert len(first.asked) == 1

    run(main)


def test_a_peer_that_never_accepts_costs_less_than_two_seconds() -> None:
    async def main() -> None:
        first, second = FakeServer("first", always=Script(accepts_after_s=1000)), FakeServer("second")
        house = House(first, second)
        house.facts["second"] = peer_facts("second", model_facts(decode_tokens_per_s=50.0))
        answer = await get(house)
        assert is_whole(answer)
        assert 1 < answer.took_s < 2
        assert first.open_now == 0
        assert (await get(house)).took_s == 0

    run(main)


def test_the_only_peer_may_take_its_time_to_accept() -> None:
    async def main() -> None:
        house = House(FakeServer("desktop", always=Script(accepts_after_s=20)))
        assert is_whole(await get(house))

    run(main)


def test_a_lost_link_to_the_only_peer_is_tried_again() -> None:
    async def main() -> None:
        desktop = FakeServer("desktop", scripts=[Script(dies_after=5), Script(is_gone=True)])
        answer = await get(House(desktop))
        assert is_whole(answer)
        assert len(desktop.asked) == 3
        assert answer.provenance.resumed_on == ()  # the same one went on
        assert answer.took_s == 2

    run(main)


def test_a_peer_that_stays_away_ends_the_answer_with_all_that_was_tried() -> None:
    async def main() -> None:
        house = House(FakeServer("desktop", scripts=[Script(dies_after=5)], always=Script(is_gone=True)))
        with pytest.raises(Refused) as caught:
            await get(house)
        assert caught.value.code == "no_provider"
        assert "broke off after 5 tokens" in caught.value.message
        assert "the connection to desktop was lost" in caught.value.message
        assert caught.value.details["delivered_tokens"] == 5

    run(main)


def test_a_request_at_fault_is_not_passed_around() -> None:
    async def main() -> None:
        wrong = Refused("invalid_request", "stop has 99 entries, at most 4", field="stop")
        first, second = FakeServer("first", always=Script(refuses=wrong)), FakeServer("second")
        house = House(first, second)
        house.facts["second"] = peer_facts("second", model_facts(decode_tokens_per_s=50.0))
        with pytest.raises(Refused) as caught:
            await get(house)
        assert caught.value is wrong
        assert not second.asked

    run(main)


@pytest.mark.parametrize(("context_tokens", "is_asked"), [(2048, False), (8192, True)])
def test_a_prompt_too_long_for_one_goes_to_one_with_a_longer_context(
    context_tokens: int, is_asked: bool
) -> None:
    async def main() -> None:
        small = Refused("context_length_exceeded", "the prompt has 3000 tokens, the context 2048")
        house = House(FakeServer("desktop"), has_model_here=True)
        house.local.always = Script(refuses=small)
        house.facts["desktop"] = peer_facts("desktop", model_facts(context_tokens=context_tokens))
        if is_asked:
            assert is_whole(await get(house))
        else:
            with pytest.raises(Refused) as caught:
                await get(house)
            assert caught.value is small

    run(main)


@pytest.mark.parametrize(
    "code", ["overloaded", "engine_failed", "not_allowed", "model_not_found", "not_paired", "model_too_large"]
)
def test_a_refusal_of_one_server_is_an_errand_for_the_next(code: str) -> None:
    async def main() -> None:
        refused = Refused(code, f"no: {code}")  # type: ignore[arg-type]
        house = House(FakeServer("desktop"), has_model_here=True)
        house.local.always = Script(refuses=refused)
        answer = await get(house)
        assert is_whole(answer)
        assert answer.provenance.served_by == "desktop"
        assert answer.provenance.passed_over[0] == f"laptop: no: {code}"

    run(main)


def test_the_only_refusal_comes_through_as_it_is() -> None:
    async def main() -> None:
        house = House(has_model_here=True)
        house.local.always = Script(refuses=FULL)
        with pytest.raises(Refused) as caught:
            await get(house)
        assert caught.value is FULL

    run(main)


def test_when_all_are_full_the_client_is_told_so_with_the_shortest_wait() -> None:
    async def main() -> None:
        later = Refused("overloaded", "8 requests are queued, at most 8", retry_after_s=9)
        house = House(FakeServer("desktop", always=Script(refuses=later)), has_model_here=True)
        house.local.always = Script(refuses=FULL)
        with pytest.raises(Refused) as caught:
            await get(house)
        assert caught.value.code == "overloaded"
        assert caught.value.retry_after_s == 2
        assert "laptop" in caught.value.message
        assert "desktop" in caught.value.message

    run(main)


def test_a_late_first_token_is_hedged_once_and_the_loser_cancelled() -> None:
    async def main() -> None:
        first, second = FakeServer("first"), FakeServer("second")
        house = House(first, second)
        house.facts["second"] = peer_facts("second", model_facts(decode_tokens_per_s=50.0))
        for _ in range(6):  # the record: the first token comes in a tenth of a second
            first.scripts.append(Script(first_after_s=0.1))
            assert (await get(house)).provenance.served_by == "first"
        first.scripts = [Script(first_after_s=100)]
        answer = await get(house)
        assert is_whole(answer)
        assert answer.took_s < 2
        assert len(second.asked) == 1
        assert first.cancelled == 1
        assert first.open_now == second.open_now == 0
        assert answer.provenance.served_by == "second"
        assert answer.provenance.reason == "first was late with its first token by its own record"
        assert answer.provenance.passed_over[0] == (
            "first: was overtaken by another one before its first token"
        )

    run(main)


def test_the_late_one_may_still_win() -> None:
    async def main() -> None:
        first = FakeServer("first", always=Script(first_after_s=4.0))
        second = FakeServer("second", always=Script(first_after_s=4.0))
        house = House(first, second)
        house.facts["second"] = peer_facts("second", model_facts(decode_tokens_per_s=50.0))
        answer = await get(house)
        assert is_whole(answer)
        assert answer.took_s == 4
        assert second.cancelled == 1
        assert answer.provenance.served_by == "first"
        assert answer.provenance.resumed_on == ()

    run(main)


def test_no_hedge_where_it_would_have_to_queue() -> None:
    async def main() -> None:
        first, second = FakeServer("first", always=Script(first_after_s=30)), FakeServer("second")
        house = House(first, second)
        full = model_facts(decode_tokens_per_s=50.0, slots_free=0)
        house.facts["second"] = peer_facts("second", full)
        answer = await get(house)
        assert is_whole(answer)
        assert not second.asked

    run(main)


def test_both_of_a_hedge_may_fail() -> None:
    async def main() -> None:
        dying = Script(first_after_s=5, dies_after=0)
        first, second = FakeServer("first", scripts=[dying]), FakeServer("second", scripts=[dying])
        third = FakeServer("third")
        house = House(first, second, third)
        house.facts["second"] = peer_facts("second", model_facts(decode_tokens_per_s=50.0))
        house.facts["third"] = peer_facts("third", model_facts(decode_tokens_per_s=10.0))
        answer = await get(house)
        assert is_whole(answer)
        assert len(third.asked) == 1

    run(main)


def test_a_server_that_fails_before_its_first_token_is_not_named_as_the_answers() -> None:
    async def main() -> None:
        first, second = (
            FakeServer("first", scripts=[Script(first_after_s=0.5, dies_after=0)]),
            FakeServer("second"),
        )
        house = House(first, second)
        house.facts["second"] = peer_facts("second", model_facts(decode_tokens_per_s=50.0))
        async with house.dispatcher.open(ask(), model_name=NAME, radius="trusted") as dispatched:
            assert dispatched.provenance.served_by == "second"

    run(main)


def test_one_that_fails_after_it_was_named_is_said_to_have_been_gone_on_from() -> None:
    async def main() -> None:
        first, second = (
            FakeServer("first", scripts=[Script(first_after_s=0.5, dies_after=0)]),
            FakeServer("second"),
        )
        house = House(first, second)
        house.facts["second"] = peer_facts("second", model_facts(decode_tokens_per_s=50.0))
        answer = await get(house, settle_s=0)
        assert is_whole(answer)
        assert answer.provenance.served_by == "first"
        assert answer.provenance.resumed_on == ("second",)

    run(main)


def test_a_stream_that_ends_without_its_end_is_gone_on_from() -> None:
    class Forgetful(FakeServer):
        async def _deltas(self, ask, script, progress):  # type: ignore[no-untyped-def]
            async for delta in super()._deltas(ask, HONEST, progress):
                if delta.finish is None:
                    yield delta

    async def main() -> None:
        house = House(Forgetful("first"), FakeServer("second"))
        house.facts["second"] = peer_facts("second", model_facts(decode_tokens_per_s=50.0))
        answer = await get(house)
        assert is_whole(answer)
        assert answer.provenance.resumed_on == ("second",)

    run(main)


SCRIPTS = st.builds(
    Script,
    accepts_after_s=st.sampled_from([0.0, 0.01, 1.0, 3.0]),
    first_after_s=st.sampled_from([0.0, 0.1, 0.9, 1.1, 5.0]),
    step_s=st.sampled_from([0.0, 0.02]),
    refuses=st.sampled_from([None, None, FULL]),
    refuses_after=st.sampled_from([None, 0, 3]),
    is_gone=st.sampled_from([False, False, False, True]),
    dies_after=st.sampled_from([None, None, 0, 1, 9, TOKENS - 1]),
    bundle=st.integers(1, 4),
)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(st.lists(SCRIPTS, max_size=3), min_size=3, max_size=3), st.sampled_from([0.0, 1.0]))
def test_whatever_servers_do_an_answer_is_whole_or_refused(
    scripts: list[list[Script]], settle_s: float
) -> None:
    async def main() -> None:
        house = House(FakeServer("a", scripts[0]), FakeServer("b", scripts[1]), has_model_here=True)
        house.local.scripts = scripts[2]
        for number in range(3):
            try:
                assert is_whole(await get(house, settle_s=settle_s, ask_id=f"ask-{number}"))
            except Refused as refused:
                assert refused.code in {"overloaded", "no_provider"}
        for server in (house.local, *house.servers.values()):
            assert server.open_now == 0

    run(main)


def test_what_a_peer_says_stays_one_short_line() -> None:
    async def main() -> None:
        house = House(FakeServer("desktop"), has_model_here=True)
        odd = "no\r\nx-unhosted-ring: local\x00\x1b[2J " + "n" * 5000
        house.servers["desktop"].always = Script(refuses=Refused("overloaded", odd))
        answer = await get(house, provider=ProviderChoice(order=("desktop",)))
        (line,) = answer.provenance.passed_over
        assert line.startswith("desktop: no x-unhosted-ring: local [2J nnn")
        assert line.isprintable()
        assert len(line) == LINE_CHARACTERS_MAX

    run(main)
