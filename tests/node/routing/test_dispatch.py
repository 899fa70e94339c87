"""Who answers a request, how requests are shared, and what is learned from them."""

import pytest
import trio
import trio.testing

from tests.node.routing.house import FULL, GONE, Answer, House, get, is_whole, run
from tests.node.routing.servers import (
    MODEL,
    NAME,
    PROMPT_TOKENS,
    TOKENS,
    FakeServer,
    Script,
    ask,
    model_facts,
    peer_facts,
)
from unhosted.node.core.errors import Refused
from unhosted.node.core.inference import Usage
from unhosted.node.core.service import Provenance
from unhosted.node.core.speed import SpeedBook, tokens_per_s
from unhosted.node.shell.trusted.server_records import ServerRecords, now_ns


def test_this_machine_answers_what_it_can() -> None:
    async def main() -> None:
        house = House(FakeServer("desktop"), has_model_here=True)
        answer = await get(house)
        assert is_whole(answer)
        assert answer.provenance == Provenance(
            ring="local",
            served_by="laptop",
            reason="this machine has the model",
            passed_over=("desktop: this machine comes first and can start now",),
        )
        assert answer.usage == Usage(prompt_tokens=PROMPT_TOKENS, cached_tokens=40, completion_tokens=TOKENS)
        assert not house.servers["desktop"].asked

    run(main)


def test_a_peer_answers_what_is_not_here_and_says_why() -> None:
    async def main() -> None:
        answer = await get(House(FakeServer("desktop")))
        assert is_whole(answer)
        assert answer.provenance.ring == "trusted"
        assert answer.provenance.served_by == "desktop"
        assert answer.provenance.reason == "this machine cannot serve it; it is the peer that can"
        assert answer.provenance.passed_over == (f"laptop: does not have {NAME}",)

    run(main)


def test_requests_that_are_not_accepted_yet_count_beside_what_peers_do_here() -> None:
    async def main() -> None:
        house = House(FakeServer("desktop"), has_model_here=True)
        house.local_facts = model_facts(slots=4, slots_free=1)  # the other three serve peers
        house.local.always = Script(accepts_after_s=1)
        names: list[str] = []

        async def one(number: int) -> None:
            names.append((await get(house, ask_id=f"ask-{number}")).provenance.served_by)

        async with trio.open_nursery() as nursery:
            for number in range(2):
                nursery.start_soon(one, number)
        assert sorted(names) == ["desktop", "laptop"]

    run(main)


def test_a_client_that_leaves_early_still_teaches_how_fast_it_was() -> None:
    async def main() -> None:
        house = House(FakeServer("desktop", always=Script(step_s=0.1)))
        async with house.dispatcher.open(ask(), model_name=NAME, radius="trusted") as dispatched:
            for _ in range(12):
                await anext(dispatched)
        speed = house.dispatcher.speeds.speed("desktop", MODEL, now_ns())
        assert tokens_per_s(speed.decode_ns_per_ktoken) == pytest.approx(10, rel=0.01)

    run(main)


def test_leaving_cancels_at_the_peer_at_once() -> None:
    async def main() -> None:
        desktop = FakeServer("desktop", always=Script(silent_after=3))
        house = House(desktop)
        async with house.dispatcher.open(ask(), model_name=NAME, radius="trusted") as dispatched:
            for _ in range(3):
                await anext(dispatched)
            assert desktop.open_now == 1
        assert desktop.open_now == 0
        assert desktop.cancelled == 1

    run(main)


def test_cancelling_while_nobody_has_accepted_cancels_at_the_peer() -> None:
    async def main() -> None:
        desktop = FakeServer("desktop", always=Script(first_after_s=1000))
        house = House(desktop)
        with trio.move_on_after(0.5):
            async with house.dispatcher.open(ask(), model_name=NAME, radius="trusted"):
                raise AssertionError("it is entered once the first token came or a second has passed")
        assert desktop.open_now == 0

    run(main)


def test_a_name_that_means_another_file_there_is_passed_over_with_that_reason() -> None:
    async def main() -> None:
        house = House(FakeServer("desktop"), FakeServer("server"))
        house.facts["server"] = peer_facts("server", model_facts(blake3="cd" * 32))
        answer = await get(house)
        assert answer.provenance.served_by == "desktop"
        other = f"server: has another file under the name {NAME} (b3:cdcdcdcd, asked for b3:abababab)"
        assert other in answer.provenance.passed_over

    run(main)


def test_the_next_turn_goes_where_the_past_is_cached() -> None:
    async def main() -> None:
        as_claimed = Script(first_after_s=0.02, step_s=0.01)
        house = House(FakeServer("a", always=as_claimed), FakeServer("b", always=as_claimed))
        for name in "ab":
            house.facts[name] = peer_facts(name, model_facts(prefill_tokens_per_s=100.0))
        past = "Once upon a time there was a machine under a desk. " * 100
        first = await get(house, prompt=past, ask_id="turn-1")
        for turn in range(2, 12):
            past += "And then? " * 20
            answer = await get(house, prompt=past, ask_id=f"turn-{turn}")
            assert answer.provenance.served_by == first.provenance.served_by

    run(main)


def test_two_equal_peers_share_a_burst_though_their_facts_are_stale() -> None:
    async def main() -> None:
        a = FakeServer("a", always=Script(step_s=0.05))
        b = FakeServer("b", always=Script(step_s=0.05))
        house = House(a, b)
        answers: list[Answer] = []

        async def one(number: int) -> None:
            answers.append(await get(house, ask_id=f"ask-{number}"))

        async with trio.open_nursery() as nursery:
            for number in range(32):
                nursery.start_soon(one, number)
        assert all(is_whole(answer) for answer in answers)
        assert (a.open_max, b.open_max) == (16, 16)

    run(main)


def test_a_peers_load_that_was_our_own_burst_is_not_counted_once_it_is_over() -> None:
    async def main() -> None:
        desktop = FakeServer("desktop", always=Script(step_s=0.05))
        house = House(desktop, has_model_here=True)
        house.local.always = Script(step_s=0.05)

        async def burst() -> None:
            async with trio.open_nursery() as nursery:
                for number in range(32):
                    nursery.start_soon(lambda number: get(house, ask_id=f"ask-{number}"), number)
                await trio.sleep(0.05)
                # Facts come in the middle: they tell of our own sixteen; none follow before the next burst.
                house.facts["desktop"] = peer_facts("desktop", model_facts(slots_free=0))
                house.dispatcher.observed("desktop", True, "")

        await burst()
        house.local.open_max = desktop.open_max = 0
        await burst()
        assert (house.local.open_max, desktop.open_max) == (16, 16)

    run(main)


def test_this_machine_and_its_peer_share_what_is_too_much_for_one() -> None:
    async def main() -> None:
        desktop = FakeServer("desktop", always=Script(step_s=0.05))
        house = House(desktop, has_model_here=True)
        house.local.always = Script(step_s=0.05)
        async with trio.open_nursery() as nursery:
            for number in range(32):
                nursery.start_soon(lambda number: get(house, ask_id=f"ask-{number}"), number)
        assert (house.local.open_max, desktop.open_max) == (16, 16)

    run(main)


def test_a_peer_that_is_back_is_asked_again_at_once_when_a_probe_says_so() -> None:
    async def main() -> None:
        desktop = FakeServer("desktop", scripts=[GONE])
        house = House(desktop)
        with pytest.raises(Refused):
            await get(house)
        with pytest.raises(Refused) as caught:
            await get(house)
        assert "tried again in" in caught.value.message
        assert len(desktop.asked) == 1
        house.dispatcher.observed("desktop", True, "")
        assert is_whole(await get(house))

    run(main)


def test_what_the_links_observe_counts_without_any_request() -> None:
    async def main() -> None:
        desktop = FakeServer("desktop")
        house = House(desktop)
        house.dispatcher.observed("desktop", False, "the cable was pulled")
        with pytest.raises(Refused) as caught:
            await get(house)
        assert "the cable was pulled" in caught.value.message
        assert not desktop.asked
        house.dispatcher.observed("desktop", True, "")
        assert is_whole(await get(house))

    run(main)


def test_a_back_off_that_has_run_out_lets_one_request_try_at_a_time() -> None:
    async def main() -> None:
        desktop = FakeServer("desktop", scripts=[GONE, Script(accepts_after_s=1.0)])
        house = House(desktop)
        with pytest.raises(Refused):
            await get(house)
        await trio.sleep(1.1)
        outcomes: list[str] = []

        async def one() -> None:
            try:
                outcomes.append((await get(house)).provenance.served_by)
            except Refused as refused:
                outcomes.append(refused.code)
                assert "another request is trying it now" in refused.message

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(one)
        assert sorted(outcomes) == ["desktop", "no_provider", "no_provider"]
        assert is_whole(await get(house))

    run(main)


def test_counting_and_embedding_go_the_same_way() -> None:
    async def main() -> None:
        first, second = FakeServer("first", always=Script(is_gone=True)), FakeServer("second")
        house = House(first, second)
        house.facts["second"] = peer_facts("second", model_facts(decode_tokens_per_s=50.0))
        dispatcher = house.dispatcher
        assert await dispatcher.count_tokens(ask(), model_name=NAME, radius="trusted") == PROMPT_TOKENS
        found = await dispatcher.embed("ab" * 32, ["a", "b"], model_name=NAME, radius="trusted")
        assert len(found.vectors) == 2
        assert (first.called, second.called) == (1, 2)
        with pytest.raises(Refused) as caught:
            await dispatcher.count_tokens(ask(), model_name=NAME, radius="local")
        assert caught.value.code == "model_not_found"

    run(main)


def test_radius_local_never_looks_at_a_peer() -> None:
    async def main() -> None:
        house = House(FakeServer("desktop"), has_model_here=True)
        house.local.always = Script(refuses=FULL)
        with pytest.raises(Refused) as caught:
            await get(house, radius="local")
        assert caught.value is FULL
        assert not house.servers["desktop"].asked

    run(main)


def test_an_unpaired_peer_leaves_no_record() -> None:
    async def main() -> None:
        speeds = SpeedBook()
        records = ServerRecords("laptop", lambda model: None, speeds)
        speeds.observe_decode("desktop", MODEL, tokens=100, duration_ns=1, now_ns=0)
        records.prefixes.note("desktop", MODEL, [b"key"], now_ns())
        records.observed("other", False, "lost")
        assert records.prefixes.cached_tokens("desktop", MODEL, [b"key"], now_ns())
        records.forget("desktop")
        assert len(speeds) == 0
        assert not records.prefixes.cached_tokens("desktop", MODEL, [b"key"], now_ns())

    run(main)
