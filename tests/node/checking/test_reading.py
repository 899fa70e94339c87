"""What is asked of the engine, and how its words become findings."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import trio

from tests.node.checking.checks_world import TABLE, seen
from tests.node.checking.kept_world import FACTS, answer_of
from unhosted.market.offers import CheckClass
from unhosted.node.core.checks_words import Findings, ToRead
from unhosted.node.core.engine_facts import EngineFacts, Replay
from unhosted.node.core.errors import Refused
from unhosted.node.core.inference import CheckedAnswer, CheckRequest
from unhosted.node.shell.checking.reading import NotRead, Reader, second_replay
from unhosted.node.shell.money.kept_words import KeptAnswer
from unhosted.verify.noise import NoiseTable

MODEL = bytes(range(32))


@dataclass
class FakeEngines:
    """Reads as it is told. `refuses`: by the first id of an output. `asked`: requests, as they came."""

    refuses: dict[int, Refused] = field(default_factory=dict)
    context_tokens: int | None = None
    out_of_range: int | None = None
    end_positions: tuple[int, ...] = ()
    asked: list[tuple[str, tuple[CheckRequest, ...]]] = field(default_factory=list)

    async def facts(self, model: str) -> EngineFacts:
        return FACTS

    async def check(self, model: str, requests: Sequence[CheckRequest]) -> tuple[CheckedAnswer, ...]:
        self.asked.append((model, tuple(requests)))
        for request in requests:
            tokens = len(request.prompt_ids) + len(request.output_ids)
            if self.context_tokens is not None and tokens > self.context_tokens:
                raise Refused(
                    "context_length_exceeded", "too long", details={"context_tokens": self.context_tokens}
                )
            if request.output_ids[0] in self.refuses:
                raise self.refuses[request.output_ids[0]]
        return tuple(
            CheckedAnswer(
                seen=seen(0 if self.out_of_range is not None else len(request.output_ids)),
                text="a",
                end_positions=self.end_positions,
                out_of_range=self.out_of_range,
            )
            for request in requests
        )


def read(
    engines: FakeEngines, *answers: KeptAnswer, tokens: int = 4, is_second: bool = False
) -> list[Findings | NotRead]:
    def find_table(
        model: bytes, check: CheckClass, seller: EngineFacts | None, own: EngineFacts
    ) -> NoiseTable:
        assert (model, own) == (MODEL, FACTS)
        return TABLE

    reader = Reader(engines, find_table)  # type: ignore[arg-type]
    wanted = [
        (one, ToRead(request_id=one.request_id, output_tokens=tokens, is_second=is_second)) for one in answers
    ]
    return trio.run(lambda: reader.read(MODEL, wanted))


def test_answers_are_read_together_as_they_were_asked_for() -> None:
    engines = FakeEngines()
    answers = [answer_of(0), answer_of(1)]
    results = read(engines, *answers)
    assert [isinstance(one, Findings) and one.table is TABLE for one in results] == [True, True]
    ((model, requests),) = engines.asked
    assert model == f"b3:{MODEL.hex()}"
    assert requests[1].prompt_ids == answers[1].prompt_ids
    assert requests[1].sampling == answers[1].sampling.params
    assert requests[0].sampling.seed != requests[1].sampling.seed


def test_only_a_prefix_is_read_where_no_more_is_wanted_and_its_end_is_not_judged() -> None:
    engines = FakeEngines()
    (found,) = read(engines, answer_of(0, finish="stop"), tokens=2)
    assert engines.asked[0][1][0].output_ids == (1, 2)
    assert isinstance(found, Findings)
    assert found.faults == ()


def test_a_stop_without_an_end_is_a_proof_and_what_nobody_signed_is_read_all_the_same() -> None:
    engines = FakeEngines()
    (found,) = read(engines, answer_of(0, finish="stop"))
    assert isinstance(found, Findings)
    assert [fault.name for fault in found.faults] == ["stop_without_reason"]
    cut = replace(answer_of(1), receipt=None)
    wrong = replace(answer_of(2), fault="it counts 5 tokens")
    for unsigned in (cut, wrong):
        assert unsigned.proven_tokens == 0
        (found,) = read(engines, unsigned)
        assert isinstance(found, Findings)
        assert engines.asked[-1][1][0].output_ids == unsigned.output_ids


def test_an_id_that_the_model_does_not_have_is_a_proof_without_a_table() -> None:
    (found,) = read(FakeEngines(out_of_range=2), answer_of(0))
    assert isinstance(found, Findings)
    assert found.table is None
    assert found.faults[0].name == "id_outside_vocabulary"


def test_one_answer_that_cannot_be_read_does_not_keep_the_others_from_it() -> None:
    engines = FakeEngines(refuses={9: Refused("context_length_exceeded", "too long for this machine")})
    results = read(engines, answer_of(0), answer_of(1, output_ids=(9, 9, 9, 9)), answer_of(2))
    assert [isinstance(one, Findings) for one in results] == [True, False, True]
    assert results[1] == NotRead(why="too long for this machine", may_retry=False)


def test_an_answer_that_the_model_cannot_hold_is_read_as_far_as_it_can() -> None:
    """A seller would be free of checks by sending more than the context holds."""
    engines = FakeEngines(context_tokens=6)
    results = read(engines, answer_of(0, output_ids=(1, 2)), answer_of(1, finish="stop"))
    assert [one.seen.tokens if isinstance(one, Findings) else one for one in results] == [2, 3]
    assert isinstance(results[1], Findings) and results[1].faults == ()
    (found,) = read(FakeEngines(context_tokens=3), answer_of(0))
    assert found == NotRead(why="too long", may_retry=False)


def test_ids_after_an_end_are_no_proof_against_a_seller_with_another_library() -> None:
    for build, is_proof in ((FACTS.build, True), ("cd" * 32, False)):
        (found,) = read(FakeEngines(end_positions=(1,)), answer_of(0, facts=replace(FACTS, build=build)))
        assert isinstance(found, Findings)
        assert [(one.name, one.is_proof) for one in found.faults] == [("ids_after_end", is_proof)]


def test_a_busy_engine_is_asked_again_later_and_a_missing_model_is_not() -> None:
    busy = FakeEngines(refuses={1: Refused("overloaded", "a user's model needs the memory")})
    assert (
        read(busy, answer_of(0), answer_of(1))
        == [NotRead(why="a user's model needs the memory", may_retry=True)] * 2
    )
    assert len(busy.asked) == 1
    missing = FakeEngines(refuses={1: Refused("model_not_found", "pull it")})
    assert read(missing, answer_of(0)) == [NotRead(why="pull it", may_retry=False)]


def test_a_second_reading_has_other_shapes_in_the_same_class() -> None:
    first = Replay()
    assert second_replay(first) == replace(first, ubatch_tokens=256, output_piece_tokens=256)
    pieces = Replay(ubatch_tokens=512, output_piece_tokens=63, kv_type="q8_0")
    assert second_replay(pieces) == replace(pieces, output_piece_tokens=31)
    assert second_replay(Replay(ubatch_tokens=2, output_piece_tokens=2)).output_piece_tokens == 2
    engines = FakeEngines()
    read(engines, answer_of(0), is_second=True)
    read(engines, answer_of(0))
    assert engines.asked[0][1][0].replay == second_replay(engines.asked[1][1][0].replay)


def test_facts_that_nobody_understands_are_as_none() -> None:
    engines = FakeEngines()
    (found,) = read(engines, replace(answer_of(0), facts=b"\xff"))
    assert isinstance(found, Findings)
    assert found.check == "statistical"
